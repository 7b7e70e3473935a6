//! What becomes of tasks when others crash the worker, when it is told to end,
//! and when the file system hangs.

use crate::support::{On, PATIENCE, Process, Stage, Task, over_both_brokers};
use proplet::policy::resolve_dir;
use serde_json::json;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

over_both_brokers!(
    the_managers_state_decides_what_a_start_of_an_ended_task_gets,
    a_stop_of_an_ended_task_takes_its_result_away_from_later_starts,
);

/// ARCHITECTURE.md, cases 44, 82 and 83; the table of the README.
fn the_managers_state_decides_what_a_start_of_an_ended_task_gets(on: On) {
    let stage = Stage::new(on);
    let _worker = stage.worker(&[("executors", "1"), ("result-hold", "0"), ("result-repeat", "0")]);
    let task = |state: u8| Task::wat("hello").id("same").set("state", state);
    let mut results = 0;
    let mut start = |task: Task| {
        stage.start(task);
        results += 1;
        let result = stage.nth_result("same", results);
        // What is still on its way to the broker is not sent once more.
        stage.settle();
        result
    };
    let replayed = |result: &crate::support::Answered| result.0["replayed"] == true;
    let first = start(task(0));
    first.succeeded("hello\n");
    // A start that says nothing of an end is the same once more.
    for state in [0, 1] {
        let mut again = start(task(state));
        assert!(replayed(&again), "{state}: {again:?}");
        again.0.as_object_mut().expect("an object").remove("replayed");
        assert_eq!(again.0, first.0, "{state}");
    }
    // It shows Running: it has missed the result, but not twice.
    assert!(replayed(&start(task(2))));
    assert!(!replayed(&start(task(2))), "a new run");
    for ended in 3..=6 {
        assert!(!replayed(&start(task(ended))), "{ended} is an end, so it is started again");
    }
    // A failure is not repeated: whoever starts it again has mended something.
    let fails = || Task::wat("exit").id("same").inputs(&["3"]).set("state", 0);
    for _ in 0..2 {
        let failed = start(fails());
        failed.failed(&["exited with code 3"]);
        assert!(!replayed(&failed));
    }
    assert_eq!(stage.results_in_the_end("same"), results);
}

fn a_stop_of_an_ended_task_takes_its_result_away_from_later_starts(on: On) {
    let stage = Stage::new(on);
    let _worker = stage.worker(&[("executors", "1"), ("result-hold", "0"), ("result-repeat", "0")]);
    let start = || stage.start(Task::wat("hello").id("same").set("state", 2));
    start();
    stage.result("same").succeeded("hello\n");
    stage.stop("same");
    start();
    assert_eq!(stage.nth_result("same", 2).0["replayed"], json!(null));
    stage.settle();
    start();
    assert_eq!(stage.nth_result("same", 3).0["replayed"], json!(true));
}

/// A worker with a journal, as a process, and a directory that its tasks write to.
struct Scene {
    stage: Stage,
    dir: tempfile::TempDir,
}

impl Scene {
    fn new() -> Scene {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(dir.path().join("work")).expect("a folder");
        Scene { stage: Stage::new(On::Embedded), dir }
    }

    /// Starts the program, on what the last one left.
    fn worker(&self, executors: &str) -> Process {
        let state = self.dir.path().join("state");
        let work = format!("{}:rw", self.work("").display());
        self.stage.process(&[
            ("stateless", "false"),
            ("state-dir", state.to_str().expect("a path")),
            ("executors", executors),
            ("dirs", &work),
            ("drain-timeout", "60s"),
        ])
    }

    /// A file that a task makes or waits for.
    fn work(&self, file: &str) -> PathBuf {
        self.dir.path().join("work").join(file)
    }

    /// Starts a task that makes the file of its name, then waits for another
    /// one, and then takes its time.
    fn start(&self, id: &str, waits_for: &str, millis: &str) {
        self.stage.start(Task::wat("write-then-wait").id(id).inputs(&[id, waits_for, millis]));
    }

    /// Waits until the task runs, on a worker with this log.
    fn runs(&self, id: &str, worker: &Process) {
        let end = std::time::Instant::now() + PATIENCE;
        while !self.work(id).exists() {
            assert!(std::time::Instant::now() < end, "{id} does not run: {:#?}", worker.log());
            std::thread::sleep(Duration::from_millis(5));
        }
        std::fs::remove_file(self.work(id)).expect("it is there");
    }
}

/// ARCHITECTURE.md, case 58. The process dies whenever the task `crashes` runs: a
/// guest can't do that to it in a test that must not depend on a fault of ours,
/// so the test kills it as soon as the guest says that it runs.
#[test]
fn an_honest_task_beside_one_that_crashes_the_worker_three_times_completes() {
    let scene = Scene::new();
    let mut worker = scene.worker("2");
    scene.start("honest", "go", "1500");
    scene.start("crashes", "never", "0");
    scene.runs("honest", &worker);
    scene.runs("crashes", &worker);
    // They run while their records are on the way to the disk.
    for id in ["honest", "crashes"] {
        worker.logs(&format!("task accepted task={id}"));
    }
    drop(worker);
    std::fs::write(scene.work("go"), "").expect("written");
    // The death with both is nobody's; three alone are the one's that is.
    for _ in 0..3 {
        worker = scene.worker("2");
        scene.runs("crashes", &worker);
        drop(worker);
    }
    worker = scene.worker("2");
    scene.stage.result("honest").succeeded("done\n");
    scene.stage.result("crashes").failed(&["the worker died 3 times"]);
    scene.stage.run(Task::wat("hello")).succeeded("hello\n");
    let results = |id: &str| {
        let seen = scene.stage.seen().into_iter();
        let results = seen.filter(|seen| seen.topic == "results" && seen.json["task_id"] == id);
        // The broker's acknowledgement of one may be lost with the process.
        results.map(|seen| seen.json.to_string()).collect::<std::collections::BTreeSet<_>>().len()
    };
    assert_eq!((results("honest"), results("crashes")), (1, 1), "{:#?}", worker.log());
}

#[test]
fn a_worker_that_is_killed_after_it_was_told_to_end_charges_nobody() {
    let scene = Scene::new();
    let started = |worker: &Process| {
        scene.runs("long", worker);
    };
    // A suspect is told before it runs.
    let suspects_nobody = |worker: &Process| {
        let log = worker.log();
        assert!(!log.iter().any(|line| line.contains("running the task again")), "{log:#?}");
    };
    let mut worker = scene.worker("1");
    scene.start("long", "go", "0");
    started(&worker);
    for signal in ["TERM", "INT", "TERM"] {
        worker.signal(signal);
        worker.logs("shutting down");
        // As `docker stop` does after ten seconds.
        drop(worker);
        worker = scene.worker("1");
        worker.logs("taking over what the last process left tasks=1");
        started(&worker);
        suspects_nobody(&worker);
    }
    worker.signal("TERM");
    worker.logs("shutting down");
    // The second one ends it at once.
    worker.signal("TERM");
    assert_eq!(worker.ended().code(), Some(130), "{:#?}", worker.log());
    worker = scene.worker("1");
    std::fs::write(scene.work("go"), "").expect("written");
    scene.stage.result("long").succeeded("done\n");
    suspects_nobody(&worker);
}

/// Something that a resolver waits for.
struct Gate {
    /// How many wait, and whether they may go on.
    state: Mutex<(usize, bool)>,
    changed: Condvar,
}

impl Gate {
    const fn new() -> Gate {
        Gate { state: Mutex::new((0, false)), changed: Condvar::new() }
    }

    // A test that failed while it held the lock has changed nothing.
    fn state(&self) -> MutexGuard<'_, (usize, bool)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pass(&self) {
        let mut state = self.state();
        state.0 += 1;
        self.changed.notify_all();
        drop(self.changed.wait_while(state, |(_, open)| !*open).expect("the lock"));
    }

    fn wait_for_one(&self) {
        let waiting =
            self.changed.wait_timeout_while(self.state(), PATIENCE, |(waiting, _)| *waiting == 0);
        assert!(!waiting.expect("the lock").1.timed_out(), "nobody looks for the directory");
    }

    fn open(&self) {
        self.state().1 = true;
        self.changed.notify_all();
    }
}

static GATES: [Gate; 2] = [Gate::new(), Gate::new()];

/// Finds directories, but for `hangs`, which hangs as a network mount does
/// whose server is gone.
fn resolve<const GATE: usize>(path: &Path) -> io::Result<PathBuf> {
    if path.ends_with("hangs") {
        GATES[GATE].pass();
    }
    resolve_dir(path)
}

fn hanging_directory() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(dir.path().join("hangs")).expect("a folder");
    dir
}

#[test]
fn a_directory_that_hangs_holds_up_neither_heartbeats_nor_stops() {
    let (stage, gate, dir) = (Stage::new(On::Embedded), &GATES[0], hanging_directory());
    let dirs = dir.path().to_str().expect("a path");
    let hangs = format!("--dir={dirs}/hangs");
    let settings = [("executors", "1"), ("dirs", dirs), ("liveliness-interval", "100ms")];
    let _worker = stage.worker_resolving(resolve::<0>, &settings);
    stage.start(Task::wat("hello").id("hung").args(&[&hangs]));
    gate.wait_for_one();
    stage.start(Task::wat("hello").id("behind"));
    let beats = stage.count("alive");
    stage.wait("heartbeats meanwhile", |seen| {
        (seen.iter().filter(|seen| seen.topic == "alive").count() >= beats + 3).then_some(())
    });
    stage.stop("hung");
    let stopped = stage.result("hung");
    stopped.failed(&["stopped"]);
    assert_eq!(stopped.0["exit_code"], json!(null));
    gate.open();
    // In the order of arrival.
    stage.result("behind").succeeded("hello\n");
    assert_eq!(stage.results_in_the_end("hung"), 1);
}

#[test]
fn a_worker_ends_while_a_directory_hangs() {
    let (stage, gate, dir) = (Stage::new(On::Embedded), &GATES[1], hanging_directory());
    let dirs = dir.path().to_str().expect("a path");
    let hangs = format!("--dir={dirs}/hangs");
    let mut worker = stage.worker_resolving(resolve::<1>, &[("executors", "1"), ("dirs", dirs)]);
    stage.start(Task::wat("hello").id("hung").args(&[&hangs]));
    gate.wait_for_one();
    worker.shut_down();
    stage.result("hung").failed(&["shutting down"]);
    worker.ended();
    gate.open();
}
