//! Guests and models run in a process of their own, and what happens to that
//! happens to no task but the one that did it.

use crate::support::{On, Process, Stage, Task, until};
use std::fs;
use std::path::{Path, PathBuf};

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
pub fn guest_runs(runtime: u32) {
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

/// Each of them ends like any other task, and none takes the process along.
#[test]
fn no_guest_costs_the_process_that_it_runs_in() {
    let stage = Stage::new(On::Embedded);
    let worker = stage.process(ONE);
    let runtime = runtimes(&worker)[0];
    for guest in crate::hostile::guests() {
        let task = Task::wat(&guest).args(&["-W", "timeout=300ms"]);
        println!("{guest}: {:?}", stage.run(task).0["error"]);
    }
    stage.settle();
    assert_eq!(runtimes(&worker), [runtime]);
}

/// As an upgrade does while the worker runs.
#[test]
fn a_program_that_was_replaced_starts_processes_of_its_own_version() {
    let stage = Stage::new(On::Embedded);
    let folder = tempfile::tempdir().expect("a directory");
    let [program, newer] = ["proplet", "newer"].map(|name| folder.path().join(name));
    fs::copy(env!("CARGO_BIN_EXE_proplet"), &program).expect("copied");
    let environment = stage.environment(stage.address, ONE);
    let mut command = std::process::Command::new(&program);
    command.arg("worker").env_clear().envs(environment.variables());
    let worker = Process::spawn(command.current_dir(environment.working_dir()));
    stage.wait("the worker's introduction", |seen| {
        seen.iter().any(|seen| seen.topic == "create").then_some(())
    });
    stage.run(Task::wat("hello")).succeeded("hello\n");
    // It would not even start.
    fs::write(&newer, "of another version").expect("written");
    fs::rename(&newer, &program).expect("renamed");
    let first = runtimes(&worker)[0];
    crash(first);
    until("another one is there", || runtimes(&worker).into_iter().find(|id| *id != first));
    stage.run(Task::wat("hello")).succeeded("hello\n");
}

/// Landlock grants a directory and not its path.
#[test]
fn a_directory_that_comes_or_is_replaced_later_is_opened_all_the_same() {
    let stage = Stage::new(On::Embedded);
    let folder = tempfile::tempdir().expect("a directory");
    let [models, later, old] = ["models", "later", "old"].map(|name| folder.path().join(name));
    let make = |directory: &Path, text: &str| {
        fs::create_dir(directory).expect("made");
        fs::write(directory.join("file"), text).expect("written");
    };
    make(&models, "first");
    let dirs = format!("{}:{}", models.display(), later.display());
    let worker = stage.process(&[ONE, &[("dirs", &dirs)]].concat());
    let read = |directory: &Path| {
        let dir = format!("--dir={}", directory.display());
        stage.run(Task::wat("cat").args(&[&dir]).inputs(&["file"]))
    };
    read(&models).succeeded("first");
    let first = runtimes(&worker);
    make(&later, "later");
    read(&later).succeeded("later");
    fs::rename(&models, &old).expect("renamed");
    make(&models, "second");
    read(&models).succeeded("second");
    let last = until("the others end", || {
        let there = runtimes(&worker);
        (there.len() == 1 && there != first).then_some(there)
    });
    read(&models).succeeded("second");
    read(&later).succeeded("later");
    assert_eq!(runtimes(&worker), last, "nothing has changed");
}

/// ARCHITECTURE.md, "What lives how long".
#[test]
fn what_a_crashed_process_compiled_is_compiled_again_and_that_of_others_is_not() {
    let stage = Stage::new(On::Embedded);
    let state = tempfile::tempdir().expect("a directory");
    let folder = state.path().to_str().expect("text");
    let settings = [ONE, &[("stateless", "false"), ("state-dir", folder)]].concat();
    let kept = |name: &str| entries(state.path(), name);
    let mut worker = stage.process(&settings);
    stage.run(Task::wat("hello")).succeeded("hello\n");
    until("it is written", || (kept("process-").len() == 1).then_some(()));
    let first = runtimes(&worker)[0];
    crash(first);
    until("another one is there", || runtimes(&worker).into_iter().find(|id| *id != first));
    until("it is gone", || kept("process-").is_empty().then_some(()));
    stage.run(Task::wat("hello")).succeeded("hello\n");
    until("it is written again", || (kept("process-").len() == 1).then_some(()));
    worker.signal("TERM");
    worker.ended();
    // In order: the next one has it.
    assert_eq!((kept("process-").len(), kept("modules").len()), (0, 1));
    let _worker = stage.process(&settings);
    stage.run(Task::wat("hello")).succeeded("hello\n");
    stage.settle();
    assert_eq!(kept("process-"), [] as [PathBuf; 0]);
}

/// What is kept of modules, in folders whose name or that of the one around it
/// begins so.
fn entries(folder: &Path, name: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(entries(&path, name));
            continue;
        }
        let folders = path.ancestors().skip(1).take(2);
        let is = |folder: &Path| {
            folder.file_name().is_some_and(|own| own.to_string_lossy().starts_with(name))
        };
        // 64 digits, so none that is being written.
        let whole = path.file_name().is_some_and(|own| own.len() == 64);
        if whole && folders.into_iter().any(is) {
            found.push(path);
        }
    }
    found
}
