//! Many tasks at once: what waits is on the disk and is taken in order, and
//! memory stays bounded. ARCHITECTURE.md, case 87.

use crate::support::{On, Process, Stage, Task, over_both_brokers, wat};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

over_both_brokers!(
    a_burst_that_memory_has_no_room_for_runs_in_order,
    a_burst_runs_after_a_kill,
    a_waiting_task_whose_module_was_damaged_fails_and_the_next_one_runs,
    without_a_journal_memory_is_the_bound,
    a_burst_of_small_tasks_stays_within_its_memory,
    a_burst_of_large_modules_stays_within_its_memory,
    a_burst_stays_within_its_memory_over_a_kill,
);

/// A guest that prints its arguments, with so many bytes that no other has.
fn module(number: usize, size: usize) -> Vec<u8> {
    let mut module = wat("echo-args");
    let mut content = b"\x07padding".to_vec();
    content.extend_from_slice(&number.to_le_bytes());
    content.resize(size, number as u8);
    // A custom section: its kind, its length as LEB128, its name.
    module.push(0);
    let mut left = content.len();
    while left >= 0x80 {
        module.push(left as u8 | 0x80);
        left >>= 7;
    }
    module.push(left as u8);
    module.extend(content);
    module
}

/// A stage, and the folder of its worker's journal.
struct Scene {
    stage: Stage,
    dir: tempfile::TempDir,
}

impl Scene {
    fn new(on: On) -> Scene {
        Scene { stage: Stage::new(on), dir: tempfile::tempdir().expect("a folder") }
    }

    /// One executor, a journal and these settings.
    fn process(&self, settings: &[(&str, &str)]) -> Process {
        let dir = self.dir.path().to_str().expect("text");
        let ours = [("executors", "1"), ("stateless", "false"), ("state-dir", dir)];
        self.stage.process(&[&ours, settings].concat())
    }

    /// Where the modules of waiting tasks are.
    fn modules(&self) -> PathBuf {
        self.dir.path().join(&self.stage.worker_id).join("tasks")
    }

    /// Starts a task that lets no other run until it is stopped.
    fn block(&self, process: &Process) -> String {
        let id = self.stage.start(Task::wat("loop-forever").id("blocker"));
        accepted(process, &id);
        id
    }
}

/// Waits until the worker has acknowledged a task.
fn accepted(process: &Process, id: &str) {
    let end = Instant::now() + Duration::from_secs(600);
    let told = |line: &String| line.contains("accepted") && line.contains(id);
    while !process.log().iter().rev().any(told) {
        assert!(Instant::now() < end, "{id} is not accepted: {:#?}", process.log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The tasks that succeeded, in the order of their results.
fn completed(stage: &Stage) -> Vec<String> {
    let results = stage.seen().into_iter().filter(|seen| seen.topic == "results");
    let completed = results.filter(|seen| seen.json["error"].is_null());
    completed.map(|seen| seen.json["task_id"].as_str().expect("an id").to_owned()).collect()
}

/// Waits until so many tasks have a result. One may come twice, after a crash.
fn until_completed(stage: &Stage, tasks: usize) {
    let ended = || {
        let results = stage.seen().into_iter().filter(|seen| seen.topic == "results");
        let ids = results.map(|seen| seen.json["task_id"].to_string());
        ids.collect::<std::collections::HashSet<_>>().len()
    };
    let end = Instant::now() + Duration::from_secs(1800);
    while ended() < tasks {
        assert!(Instant::now() < end, "{} of {tasks} results", ended());
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn a_burst_that_memory_has_no_room_for_runs_in_order(on: On) {
    const TASKS: usize = 120;
    let scene = Scene::new(on);
    let worker = scene.process(&[("queue-memory", "1KiB")]);
    let blocker = scene.block(&worker);
    let shared = module(0, 1000);
    let ids: Vec<_> = (0..TASKS)
        .map(|n| {
            // Every third has a module of its own.
            let own = (n % 3 == 0).then(|| module(n + 1, 20_000));
            let task = Task::module(own.as_ref().unwrap_or(&shared)).inputs(&[&n.to_string()]);
            scene.stage.start(task)
        })
        .collect();
    accepted(&worker, &ids[TASKS - 1]);
    let kept = std::fs::read_dir(scene.modules()).expect("a folder").count();
    assert_eq!(kept, TASKS / 3 + 2, "each module once");
    scene.stage.stop(&blocker);
    for (n, id) in ids.iter().enumerate() {
        assert!(scene.stage.result(id).stdout().contains(&n.to_string()));
    }
    assert_eq!(completed(&scene.stage), ids, "in the order of arrival");
}

fn a_burst_runs_after_a_kill(on: On) {
    const TASKS: usize = 60;
    let scene = Scene::new(on);
    let worker = scene.process(&[]);
    let blocker = scene.block(&worker);
    let shared = module(0, 1000);
    let start = |n: usize| scene.stage.start(Task::module(&shared).inputs(&[&n.to_string()]));
    let ids: Vec<_> = (0..TASKS).map(start).collect();
    accepted(&worker, &ids[TASKS - 1]);
    drop(worker);
    let _worker = scene.process(&[]);
    scene.stage.stop(&blocker);
    for (n, id) in ids.iter().enumerate() {
        assert!(scene.stage.result(id).stdout().contains(&n.to_string()));
    }
    assert_eq!(completed(&scene.stage), ids, "each once, in the order of arrival");
}

fn a_waiting_task_whose_module_was_damaged_fails_and_the_next_one_runs(on: On) {
    let scene = Scene::new(on);
    let worker = scene.process(&[("queue-memory", "1KiB")]);
    let blocker = scene.block(&worker);
    let before = files(&scene.modules());
    let damaged = scene.stage.start(Task::module(&module(1, 5000)));
    accepted(&worker, &damaged);
    let file = files(&scene.modules()).into_iter().find(|file| !before.contains(file));
    std::fs::write(file.expect("its module"), b"\0asm").expect("written");
    let next = scene.stage.start(Task::module(&module(2, 5000)).inputs(&["next"]));
    accepted(&worker, &next);
    scene.stage.stop(&blocker);
    scene.stage.result(&damaged).failed(&["module in the journal is damaged", "start the task"]);
    assert!(scene.stage.result(&next).stdout().contains("next"));
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(folder).expect("a folder");
    files.map(|file| file.expect("an entry").path()).collect()
}

fn without_a_journal_memory_is_the_bound(on: On) {
    let stage = Stage::new(on);
    let worker = stage.process(&[("executors", "1"), ("queue-memory", "100KiB")]);
    let blocker = stage.start(Task::wat("loop-forever").id("blocker"));
    accepted(&worker, &blocker);
    let fits = stage.start(Task::module(&module(1, 50_000)));
    let too_much = stage.start(Task::module(&module(2, 80_000)));
    stage.result(&too_much).failed(&["busy", "--queue-memory", "--state-dir"]);
    stage.stop(&blocker);
    assert!(stage.result(&fits).0["error"].is_null());
}

/// Takes a burst behind a task that does not end, then runs it to its end, and
/// holds what is resident at most against the bound: 64 MiB over the idle
/// worker, and 1 KiB a task. With `restart` the worker is killed in between.
fn measure(on: On, tasks: usize, restart: bool, module_of: impl Fn(usize) -> Vec<u8>) {
    let scene = Scene::new(on);
    let mut worker = scene.process(&[]);
    scene.stage.run(Task::module(&module_of(0)));
    forget_peak(&worker);
    let idle = worker.memory("VmRSS");
    let bound = idle + (64 << 20) + tasks as u64 * 1024;
    let blocker = scene.block(&worker);
    let began = Instant::now();
    let ids: Vec<_> = (0..tasks).map(|n| scene.stage.start(Task::module(&module_of(n)))).collect();
    accepted(&worker, &ids[tasks - 1]);
    let taken = began.elapsed();
    let (waiting, while_taken) = (worker.memory("VmRSS"), worker.memory("VmHWM"));
    if restart {
        drop(worker);
        worker = scene.process(&[]);
    } else {
        forget_peak(&worker);
    }
    let began = Instant::now();
    scene.stage.stop(&blocker);
    until_completed(&scene.stage, tasks + 2);
    let to_the_end = worker.memory("VmHWM");
    println!(
        "{tasks} tasks{}: taken in {taken:.1?}, done in {:.1?}; resident {} MiB idle, {} waiting, \
         {} at most while they are taken, {} to the end; bound {}",
        if restart { " and a kill" } else { "" },
        began.elapsed(),
        idle >> 20,
        waiting >> 20,
        while_taken >> 20,
        to_the_end >> 20,
        bound >> 20,
    );
    let done: std::collections::HashSet<_> = completed(&scene.stage).into_iter().collect();
    assert!(ids.iter().all(|id| done.contains(id)), "{} of {tasks} completed", done.len());
    let peak = while_taken.max(to_the_end);
    assert!(peak <= bound, "{peak} bytes were resident, bound {bound}");
}

/// Has the kernel take what is resident now for the most that was. Root alone
/// may do that to a worker; for others the worker's start counts, too.
fn forget_peak(process: &Process) {
    std::fs::write(format!("/proc/{}/clear_refs", process.id()), "5").ok();
}

/// Tasks of one module, of 90 KB.
fn small(on: On, tasks: usize, restart: bool) {
    let shared = module(0, 90_000);
    measure(on, tasks, restart, |_| shared.clone());
}

/// Tasks with 1 MiB of module each.
fn large(on: On, tasks: usize, restart: bool) {
    measure(on, tasks, restart, |n| module(n, 1 << 20));
}

fn a_burst_of_small_tasks_stays_within_its_memory(on: On) {
    small(on, 1000, false);
}

fn a_burst_of_large_modules_stays_within_its_memory(on: On) {
    large(on, 150, false);
}

fn a_burst_stays_within_its_memory_over_a_kill(on: On) {
    large(on, 100, true);
}

#[test]
#[ignore = "takes minutes, needs mosquitto with max_queued_messages 0 in PROPLET_TEST_BROKER"]
fn figures_of_a_burst_of_20_000_tasks() {
    small(On::Mosquitto, 20_000, false);
}

#[test]
#[ignore = "takes minutes, needs mosquitto with max_queued_messages 0 in PROPLET_TEST_BROKER"]
fn figures_of_a_burst_of_20_000_tasks_over_a_kill() {
    small(On::Mosquitto, 20_000, true);
}

#[test]
#[ignore = "takes minutes, needs mosquitto with max_queued_messages 0 in PROPLET_TEST_BROKER"]
fn figures_of_a_burst_of_2000_large_modules() {
    large(On::Mosquitto, 2000, false);
}

#[test]
#[ignore = "takes minutes, needs mosquitto with max_queued_messages 0 in PROPLET_TEST_BROKER"]
fn figures_of_a_burst_of_2000_large_modules_over_a_kill() {
    large(On::Mosquitto, 2000, true);
}
