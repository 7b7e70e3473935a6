//! What comes of native code that no code of ours stops.

#[path = "../broken/mod.rs"]
mod library;

use crate::isolation::{crash, runtimes};
use crate::support::{Call, On, Process, Stage, Task, assets, fixtures, until};
use library::Broken;
use std::fs;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// Starts a worker with it.
fn start(broken: &Broken, stage: &Stage, settings: &[(&str, &str)]) -> Process {
    let models = fixtures().join("models");
    let dirs = format!("{}:{}:rw", models.display(), broken.path().join("out").display());
    let library = broken.path().to_str().expect("text");
    let own = [("openvino-lib", library), ("dirs", &dirs)];
    stage.process(&[&own, settings].concat())
}

/// A task that infers.
fn inference() -> Task {
    Task::wat("nn-tiny").args(&["-S", "nn,nn-graph=openvino::models/tiny"])
}

const INFERRED: &str = "2\n0\n6\n4\n";

/// A task that does not come back from the library, for which alone that is so.
fn hangs(stage: &Stage, broken: &Broken, place: &str) -> String {
    broken.order(&[place, "hang"]);
    let stuck = stage.start(inference());
    until("it hangs", || broken.path().join("out/hangs").exists().then_some(()));
    broken.obey_no_more();
    stuck
}

/// ARCHITECTURE.md, cases 58 and 59.
#[test]
fn a_crash_in_an_inference_is_its_tasks_error_with_signal_and_graph() {
    let (stage, broken) = (Stage::new(On::Embedded), Broken::new(assets()));
    let worker = start(&broken, &stage, &[("executors", "2")]);
    stage.run(inference()).succeeded(INFERRED);
    let runtime = runtimes(&worker)[0];
    let honest = stage.start(Task::wat("sleep").inputs(&["1000"]));
    broken.order(&["at an inference", "crash"]);
    stage.run(inference()).failed(&["SIGSEGV while the graph tiny was computed"]);
    stage.result(&honest).succeeded("slept\n");
    broken.obey_no_more();
    stage.run(inference()).succeeded(INFERRED);
    assert!(!runtimes(&worker).contains(&runtime), "it crashed");
}

/// ARCHITECTURE.md, cases 60 and 61.
#[test]
fn an_inference_that_never_ends_is_answered_for_and_its_process_retired() {
    let (stage, broken) = (Stage::new(On::Embedded), Broken::new(assets()));
    let state = tempfile::tempdir().expect("a directory");
    let state = state.path().to_str().expect("text");
    let settings = [("executors", "2"), ("stateless", "false"), ("state-dir", state)];
    let mut worker = start(&broken, &stage, &settings);
    let retired = runtimes(&worker)[0];
    let healthy = stage.start(Task::wat("loop-forever"));
    let stuck = hangs(&stage, &broken, "at an inference");
    stage.stop(&stuck);
    let result = stage.result(&stuck);
    result.failed(&["stopped"]);
    let said = result.diagnostics().join("\n");
    assert!(said.contains("did not end by itself, while the graph tiny was computed"), "{said}");
    // What is new runs in another process, beside what still runs in the old one.
    let fresh = until("another process", || {
        runtimes(&worker).into_iter().find(|process| *process != retired)
    });
    stage.run(inference()).succeeded(INFERRED);
    assert_eq!(runtimes(&worker), [retired, fresh]);
    stage.stop(&healthy);
    stage.result(&healthy).failed(&["stopped"]);
    until("the old one ends", || (runtimes(&worker) == [fresh]).then_some(()));
    worker.signal("KILL");
    worker.ended();
    let _worker = start(&broken, &stage, &settings);
    stage.settle();
    let results = stage.seen().into_iter().filter(|seen| seen.topic == "results");
    assert_eq!(results.filter(|seen| seen.json["task_id"] == stuck.as_str()).count(), 1);
}

/// What goes on until it is stopped has somewhere to go before its process ends.
#[test]
fn daemons_go_on_in_another_process_when_theirs_is_retired() {
    let (stage, broken) = (Stage::new(On::Embedded), Broken::new(assets()));
    let worker = start(&broken, &stage, &[("executors", "1")]);
    let retired = runtimes(&worker)[0];
    let out = broken.path().join("out");
    let dir = format!("--dir={}", out.display());
    let daemon = Task::wat("write-then-wait").set("daemon", true).args(&[&dir]);
    let daemon = stage.start(daemon.inputs(&["made", "never", "0"]));
    stage.result(&daemon).succeeded("");
    let runs = || until("the daemon runs", || fs::remove_file(out.join("made")).ok());
    runs();
    let stuck = hangs(&stage, &broken, "at an inference");
    stage.stop(&stuck);
    stage.result(&stuck).failed(&["stopped"]);
    runs();
    worker.logs("was retired: the daemon is started again in another one");
    until("the old one ends", || (!runtimes(&worker).contains(&retired)).then_some(()));
    let crashed = |line: &String| line.contains("SIGKILL");
    assert!(!worker.log().iter().any(crashed), "it is no crash: {:#?}", worker.log());
    stage.run(inference()).succeeded(INFERRED);
    stage.stop(&daemon);
    worker.logs("the daemon has stopped");
    assert_eq!(stage.results_in_the_end(&daemon), 1);
}

/// The next one finds what the one before it had.
#[test]
fn deployments_are_prepared_in_another_process_when_theirs_is_retired() {
    let (stage, broken) = (Stage::new(On::Embedded), Broken::new(assets()));
    let worker = start(&broken, &stage, &[("executors", "1")]);
    let deployed = stage.start(inference().set("latent", true));
    stage.call(Call::of(&deployed)).succeeded(INFERRED);
    let prepared = "is prepared in the runtime's new process";
    assert!(!worker.log().iter().any(|line| line.contains(prepared)));
    let stuck = hangs(&stage, &broken, "at an inference");
    stage.stop(&stuck);
    stage.result(&stuck).failed(&["stopped"]);
    let line = worker.logs(prepared);
    assert!(line.contains(&deployed), "{line}");
    let answer = stage.call(Call::of(&deployed));
    answer.succeeded(INFERRED);
    let reused = &answer.0["reused"];
    assert_eq!(reused["module"], true, "{answer:?}");
    assert_eq!(reused["graphs_loaded"], 0, "{answer:?}");
    stage.settle();
    let results = stage.seen().into_iter().filter(|seen| seen.topic == "results");
    assert_eq!(results.filter(|seen| seen.json["task_id"] == deployed.as_str()).count(), 0);
}

#[test]
fn an_invocation_whose_process_crashes_runs_again_while_its_time_allows() {
    let (stage, broken) = (Stage::new(On::Embedded), Broken::new(assets()));
    let _worker = start(&broken, &stage, &[("executors", "1")]);
    let deployed = stage.start(inference().set("latent", true));
    stage.call(Call::of(&deployed)).succeeded(INFERRED);
    broken.order(&["at an inference", "crash once"]);
    stage.call(Call::of(&deployed)).succeeded(INFERRED);
    assert!(broken.path().join("out/crashed").exists(), "it crashed");
}

#[test]
fn an_invocation_whose_time_is_over_after_a_crash_is_an_error() {
    let (stage, broken) = (Stage::new(On::Embedded), Broken::new(assets()));
    let settings = [("executors", "1"), ("invoke-timeout", "5s")];
    let _worker = start(&broken, &stage, &settings);
    let deployed = stage.start(inference().set("latent", true));
    // Over when its task has been prepared, however long that takes.
    stage.until("it is deployed", || stage.call(Call::of(&deployed)).0["error"].is_null());
    broken.order(&["at an inference", "crash, then hang"]);
    let call = stage.invoke(Call::of(&deployed));
    stage.answer(&call).failed(&["timeout: the invocation", "5s"]);
    assert!(broken.path().join("out/crashed").exists(), "it crashed");
    broken.obey_no_more();
    stage.run(Task::wat("hello")).succeeded("hello\n");
    stage.settle();
    assert_eq!(stage.answers(&call), 1);
}

/// ARCHITECTURE.md, case 64: nothing but the end of its process ends it.
#[test]
fn a_model_that_loads_without_end_is_ended_with_its_process_and_not_begun_again_for_a_while() {
    let (stage, broken) = (Stage::new(On::Embedded), Broken::new(assets()));
    let worker = start(&broken, &stage, &[("executors", "1"), ("task-timeout", "5s")]);
    let retired = runtimes(&worker)[0];
    let stuck = hangs(&stage, &broken, "at a load");
    let result = stage.result(&stuck);
    result.failed(&["5s"]);
    let said = result.diagnostics().join("\n");
    assert!(said.contains("while the graph tiny was loaded"), "{said}");
    until("it is ended", || (!runtimes(&worker).contains(&retired)).then_some(()));
    // Nothing hangs any more, and it is another process.
    stage.run(inference()).failed(&["graph `tiny`", "it is not begun again for "]);
    stage.run(Task::wat("hello")).succeeded("hello\n");
}

/// What `/ready` says, with its status.
fn ready(worker: &Process) -> (u16, String) {
    let line = worker.logs("serving /health");
    let address = line.split("address=").nth(1).expect("an address").split(' ').next();
    let config = ureq::Agent::config_builder().http_status_as_error(false).build();
    let agent: ureq::Agent = config.into();
    let url = format!("http://{}/ready", address.expect("an address"));
    let mut response = agent.get(url).call().expect("an answer");
    (response.status().as_u16(), response.body_mut().read_to_string().expect("text"))
}

const SERVED: [(&str, &str); 3] =
    [("executors", "1"), ("metrics-enabled", "true"), ("metrics-port", "0")];

#[track_caller]
fn until_ready(worker: &Process) {
    until("it is ready", || (ready(worker).0 == 200).then_some(()));
}

/// ARCHITECTURE.md, case 62.
#[test]
fn a_worker_whose_runtime_crashes_at_each_start_is_not_ready_until_one_does_not() {
    let (stage, broken) = (Stage::new(On::Embedded), Broken::new(assets()));
    let worker = start(&broken, &stage, &SERVED);
    until_ready(&worker);
    broken.order(&["at the start", "crash"]);
    crash(runtimes(&worker)[0]);
    let said = until("it is not ready", || {
        let (status, said) = ready(&worker);
        (status == 503 && said.contains("times in a row")).then_some(said)
    });
    assert!(said.contains("the runtime's process crashed"), "{said}");
    broken.obey_no_more();
    until_ready(&worker);
    stage.run(inference()).succeeded(INFERRED);
    assert_eq!(stage.count("create"), 1, "the connection was not lost");
}

/// ARCHITECTURE.md, case 62, where nothing can be done about it.
#[test]
fn a_worker_of_one_process_is_not_ready_once_all_its_executors_are_stuck() {
    let (stage, broken) = (Stage::new(On::OneProcess), Broken::new(assets()));
    let worker = start(&broken, &stage, &SERVED);
    until_ready(&worker);
    broken.order(&["at an inference", "hang"]);
    let hangs = broken.path().join("out/hangs");
    // The first one's executor is replaced, the second one's is not.
    for _ in 0..2 {
        assert_eq!(ready(&worker).0, 200);
        let stuck = stage.start(inference());
        until("it hangs", || hangs.exists().then_some(()));
        fs::remove_file(&hangs).expect("it hangs");
        stage.stop(&stuck);
        stage.result(&stuck).failed(&["stopped"]);
    }
    let said = until("it is not ready", || Some(ready(&worker)).filter(|said| said.0 == 503));
    assert!(said.1.contains("all 1 executors are stuck in native code"), "{said:?}");
}

#[test]
fn a_library_that_was_taken_over_reaches_nothing_of_the_worker() {
    let (stage, broken) = (Stage::new(On::Embedded), Broken::new(assets()));
    let state = tempfile::tempdir().expect("a directory");
    let folder = state.path().to_str().expect("text");
    let worker = start(&broken, &stage, &[("stateless", "false"), ("state-dir", folder)]);
    stage.run(inference()).succeeded(INFERRED);
    let socket = state.path().join("socket");
    let _listener = UnixListener::bind(&socket).expect("a socket");
    let maps = fs::read_to_string(format!("/proc/{}/maps", worker.id())).unwrap_or_default();
    // Where only root sees them, nobody else reads what is there.
    let address = maps.split('-').next().and_then(|start| usize::from_str_radix(start, 16).ok());
    broken.order(&[
        "at an inference",
        "attack",
        &worker.id().to_string(),
        journal(state.path()).expect("a journal").to_str().expect("text"),
        folder,
        &stage.address.port().to_string(),
        socket.to_str().expect("text"),
        &address.unwrap_or(1 << 16).to_string(),
    ]);
    stage.run(inference()).succeeded(INFERRED);
    let done = fs::read_to_string(broken.path().join("out/done")).expect("it tried");
    assert_eq!(done, "");
    // Without a process of its own it reaches all of that.
    let (stage, trusted) = (Stage::new(On::OneProcess), Broken::new(assets()));
    let _worker = start(&trusted, &stage, &[]);
    fs::copy(broken.path().join("order"), trusted.path().join("order")).expect("copied");
    stage.run(inference()).succeeded(INFERRED);
    let done = fs::read_to_string(trusted.path().join("out/done")).expect("it tried");
    for attempt in ["read the state", "read its command line", "connect", "start a program"] {
        assert!(done.contains(&format!("{attempt}: ")), "{attempt}: {done}");
    }
}

/// A file of the worker's journal, in a folder of its own below this one.
fn journal(folder: &Path) -> Option<PathBuf> {
    let mut paths = fs::read_dir(folder).expect("a folder").flatten().map(|entry| entry.path());
    paths.find_map(|path| match path.is_dir() {
        true if path.ends_with("cache") => None,
        true => journal(&path),
        false => Some(path).filter(|path| path.is_file()),
    })
}
