//! `--isolation=process`: guests and models run in a process of their own, and
//! what happens to that happens to no task but the one that did it.

use crate::support::{On, PATIENCE, Process, Stage, Task};
use std::fs;
use std::time::{Duration, Instant};

const ONE: &[(&str, &str)] = &[("isolation", "process"), ("executors", "1"), ("queue", "8")];
const TWO: &[(&str, &str)] = &[("isolation", "process"), ("executors", "2"), ("queue", "8")];

/// The runtimes that a worker has, oldest first.
pub(crate) fn runtimes(worker: &Process) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{}/task", worker.id())).expect("a worker");
    let children = threads.flatten().filter_map(|thread| {
        // A thread may end meanwhile.
        fs::read_to_string(thread.path().join("children")).ok()
    });
    let children: Vec<String> = children.collect();
    let children = children.iter().flat_map(|line| line.split_whitespace());
    let is_runtime = |id: &u32| {
        let line = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).nth(1) == Some(b"runtime")
    };
    let mut found: Vec<u32> =
        children.filter_map(|id| id.parse().ok()).filter(is_runtime).collect();
    found.sort_unstable();
    found
}

#[track_caller]
fn until<T>(what: &str, find: impl Fn() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = find() {
            return found;
        }
        assert!(Instant::now() < end, "{what}: it did not come to that");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Ends a process by SIGSEGV. The first one that nobody's memory access caused
/// only takes its handler away.
pub(crate) fn crash(process: u32) {
    until("the process crashes", || {
        let mut kill = std::process::Command::new("kill");
        let killed = kill.arg("-SEGV").arg(process.to_string()).output().expect("kill runs");
        (!killed.status.success()).then_some(())
    });
}

/// Processor time that the lanes of a runtime have used, in ticks: guests run
/// there, and nothing else does.
fn used(runtime: u32) -> u64 {
    let threads = fs::read_dir(format!("/proc/{runtime}/task")).into_iter().flatten().flatten();
    let stats = threads.filter_map(|thread| fs::read_to_string(thread.path().join("stat")).ok());
    let used = stats.filter_map(|stat| {
        let (name, rest) = stat.rsplit_once(')')?;
        let lane = name.split_once('(')?.1.starts_with("lane-");
        rest.split_whitespace().nth(11).filter(|_| lane)?.parse::<u64>().ok()
    });
    used.sum()
}

/// More than a guest takes that only begins and ends.
const COMPUTED: u64 = 10;

/// Waits until a guest computes in this runtime.
fn guest_runs(runtime: u32) {
    let before = used(runtime);
    until("the guest runs", || (used(runtime) >= before + COMPUTED).then_some(()));
}

#[test]
fn tasks_run_in_a_process_of_their_own_and_the_same_comes_of_them() {
    let stage = Stage::new(On::Embedded);
    let worker = stage.process(ONE);
    for _ in 0..3 {
        stage.run(Task::wat("hello")).succeeded("hello\n");
    }
    let long = stage.start(Task::wat("loop-forever"));
    let runtime = runtimes(&worker)[0];
    guest_runs(runtime);
    stage.stop(&long);
    stage.result(&long).failed(&["stopped"]);
    stage.settle();
    assert_eq!(runtimes(&worker), [runtime], "a stop costs no process");
}

#[test]
fn the_runtime_has_no_secret_and_ends_with_the_worker() {
    let stage = Stage::new(On::Embedded);
    let mut worker = stage.process(ONE);
    let runtime = runtimes(&worker)[0];
    let environment = fs::read(format!("/proc/{runtime}/environ")).expect("its environment");
    let environment = String::from_utf8_lossy(&environment);
    assert!(!environment.contains("PROPLET_"), "{environment}");
    let score = fs::read_to_string(format!("/proc/{runtime}/oom_score_adj")).expect("its score");
    assert_eq!(score.trim(), "1000");
    worker.signal("KILL");
    worker.ended();
    let gone = || {
        let stat = fs::read_to_string(format!("/proc/{runtime}/stat")).unwrap_or_default();
        (stat.is_empty() || stat.contains(") Z ")).then_some(())
    };
    until("the runtime ends", gone);
}

/// ARCHITECTURE.md, case 58.
#[test]
fn an_honest_task_survives_the_runtimes_crash_and_the_worker_goes_on() {
    let stage = Stage::new(On::Embedded);
    let worker = stage.process(TWO);
    let runtime = runtimes(&worker)[0];
    let honest = stage.start(Task::wat("sleep").inputs(&["1500"]));
    let guilty = stage.start(Task::wat("loop-forever"));
    guest_runs(runtime);
    crash(runtime);
    // What is new goes on beside those that are suspected.
    stage.run(Task::wat("hello")).succeeded("hello\n");
    // Suspects run one at a time, and this one never ends.
    stage.stop(&guilty);
    stage.result(&guilty).failed(&["stopped"]);
    stage.result(&honest).succeeded("slept\n");
    assert!(!runtimes(&worker).contains(&runtime), "it crashed");
    assert_eq!(stage.count("create"), 1, "the connection was not lost");
}

/// ARCHITECTURE.md, case 59.
#[test]
fn what_crashes_the_runtime_alone_twice_fails_with_the_signal_and_what_it_did() {
    let stage = Stage::new(On::Embedded);
    let worker = stage.process(ONE);
    let guilty = stage.start(Task::wat("loop-forever"));
    let first = runtimes(&worker)[0];
    guest_runs(first);
    crash(first);
    let second = until("it runs again", || {
        runtimes(&worker).into_iter().find(|id| *id != first && used(*id) >= COMPUTED)
    });
    crash(second);
    stage.result(&guilty).failed(&["SIGSEGV while its guest ran"]);
    stage.settle();
}

#[test]
fn a_runtime_that_dies_while_nothing_runs_is_replaced() {
    let stage = Stage::new(On::Embedded);
    let worker = stage.process(ONE);
    let first = runtimes(&worker)[0];
    crash(first);
    until("another one is there", || runtimes(&worker).into_iter().find(|id| *id != first));
    stage.run(Task::wat("hello")).succeeded("hello\n");
}
