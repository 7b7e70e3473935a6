//! Results arrive at a manager that misses them: because they were too quick,
//! because it was away, or because it has become deaf.

use crate::manager::{Habits, Manager};
use crate::support::{On, Process, Proxy, Seen, Stage, Task, wat};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::net::TcpListener;
use std::time::{Duration, Instant};

const RUNNING: u64 = 2;
const COMPLETED: u64 = 3;
const FAILED: u64 = 4;

fn task(module: &str) -> Value {
    json!({ "name": "task", "file": STANDARD.encode(wat(module)), "cli_args": [] })
}

/// Starts a task and waits for the manager's answer.
fn started(manager: &Manager, body: &Value) -> String {
    let id = manager.create(body);
    manager.start_task(&id);
    id
}

fn becomes(manager: &Manager, id: &str, state: u64) -> Value {
    manager.task_until(id, |task| task["state"] == state)
}

/// A worker that asks the manager, and keeps its journal in `state`.
fn asking(stage: &Stage, manager: &Manager, state: &tempfile::TempDir) -> Process {
    let process = stage.process(&[
        ("manager-url", &manager.url()),
        ("stateless", "false"),
        ("state-dir", state.path().to_str().expect("text")),
    ]);
    manager.worker_alive(&stage.worker_id);
    process
}

fn overtaken_by(results: usize) {
    let stage = Stage::new(On::Embedded);
    let manager = stage.manager(Habits { running_after_results: results, ..Habits::default() });
    let _worker = stage.worker(&[("result-repeat", "2s,4s")]);
    manager.worker_alive(&stage.worker_id);
    // The answer to the start comes after the write that undoes those results.
    let id = started(&manager, &task("hello"));
    assert_eq!(becomes(&manager, &id, COMPLETED)["results"], "hello\n");
    let seen = stage.seen().into_iter().filter(|seen| seen.topic == "results");
    let seen: Vec<_> = seen.map(|seen| seen.json).collect();
    assert!(seen.len() > results && seen.iter().all(|result| *result == seen[0]), "{seen:?}");
}

#[test]
fn a_result_that_overtakes_the_mark_running_arrives_with_its_repeat() {
    overtaken_by(1);
}

#[test]
fn a_result_whose_repeat_overtakes_the_mark_running_too_arrives_with_its_second_repeat() {
    overtaken_by(2);
}

#[test]
fn a_result_is_held_after_its_start() {
    let hold = Duration::from_secs(1);
    let stage = Stage::new(On::Embedded);
    let _worker = stage.worker(&[("result-hold", "1s")]);
    let before = Instant::now();
    let id = stage.start(Task::wat("hello"));
    stage.result(&id).succeeded("hello\n");
    assert!(before.elapsed() >= hold);
}

#[test]
fn a_worker_that_ends_sends_what_it_holds_and_other_answers_are_not_held() {
    let stage = Stage::new(On::Embedded);
    let mut worker = stage.process(&[("result-hold", "10s")]);
    let id = stage.start(Task::wat("hello"));
    worker.logs("task completed");
    let call = json!({ "id": "none", "invocation_id": "i", "proplet_id": stage.worker_id });
    stage.publish("invoke", call.to_string());
    stage.wait("the answer to the call", |seen| {
        seen.iter().any(|seen| seen.topic == "invoke_results").then_some(())
    });
    assert_eq!(stage.count("results"), 0);
    worker.signal("TERM");
    assert_eq!(worker.ended().code(), Some(0));
    stage.result(&id).succeeded("hello\n");
}

/// It may tell more than that, on a machine with much to do.
#[track_caller]
fn assert_stopped(task: &Value) {
    let error = task["error"].as_str().unwrap_or_default();
    assert!(error.starts_with("stopped"), "{task}");
}

/// Starts a task and stops it while the manager is down: the worker, the task's
/// id and its result.
fn stopped_unheard(
    stage: &Stage,
    manager: &mut Manager,
    state: &tempfile::TempDir,
) -> (Process, String, Value) {
    let worker = asking(stage, manager, state);
    let id = started(manager, &task("loop-forever"));
    manager.kill();
    stage.stop(&id);
    let result = stage.result(&id);
    result.failed(&["stopped"]);
    (worker, id, result.0)
}

#[test]
fn a_result_that_came_while_the_manager_was_down_arrives_when_it_is_asked() {
    let stage = Stage::new(On::Embedded);
    let mut manager = stage.manager(Habits::default());
    let state = tempfile::tempdir().expect("a folder");
    let (worker, id, _) = stopped_unheard(&stage, &mut manager, &state);
    manager.run();
    manager.listens();
    assert_eq!(manager.task(&id)["state"], RUNNING);
    assert_stopped(&becomes(&manager, &id, FAILED));
    worker.logs("the manager has missed the task's result");
}

#[test]
fn a_result_that_is_to_be_confirmed_survives_the_worker() {
    let stage = Stage::new(On::Embedded);
    let mut manager = stage.manager(Habits::default());
    let state = tempfile::tempdir().expect("a folder");
    let (worker, id, first) = stopped_unheard(&stage, &mut manager, &state);
    // The record of the delivery is on the disk before that of the next start.
    stage.settle();
    stage.settle();
    drop(worker);
    manager.run();
    manager.listens();
    let _worker = asking(&stage, &manager, &state);
    assert_stopped(&becomes(&manager, &id, FAILED));
    let again = stage.seen().into_iter().rev().find(|seen| seen.json["task_id"] == id);
    assert_eq!(again.map(|seen| seen.json), Some(first));
}

#[test]
fn results_that_a_deaf_manager_misses_arrive_after_it_was_started_again() {
    let stage = Stage::new(On::Embedded);
    let mut manager = stage.manager(Habits::default());
    let state = tempfile::tempdir().expect("a folder");
    let _worker = asking(&stage, &manager, &state);
    let introduced = stage.count("create");
    stage.restart_broker();
    manager.listens();
    stage.wait("the worker's return", |seen| {
        (seen.iter().filter(|seen| seen.topic == "create").count() > introduced).then_some(())
    });
    let ids: Vec<_> = (0..5).map(|_| started(&manager, &task("hello"))).collect();
    for id in &ids {
        stage.result(id).succeeded("hello\n");
        assert_eq!(manager.task(id)["state"], RUNNING);
    }
    manager.kill();
    manager.run();
    manager.listens();
    for id in &ids {
        assert_eq!(becomes(&manager, id, COMPLETED)["results"], "hello\n");
    }
}

#[test]
fn a_worker_says_that_the_manager_does_not_hear_it_and_that_it_does_again() {
    let stage = Stage::new(On::Embedded);
    let proxy = Proxy::to(stage.address);
    let mut manager = Manager::start(proxy.address, &stage.topics, Habits::default());
    let worker = stage.process(&[
        ("manager-url", &manager.url()),
        ("metrics-enabled", "true"),
        ("metrics-port", "0"),
    ]);
    let serving = worker.logs("serving /health");
    let address = serving.split("address=").nth(1).expect("an address").trim();
    let read = |path: &str| {
        let mut answer = ureq::get(format!("http://{address}{path}")).call().expect("an answer");
        answer.body_mut().read_to_string().expect("text")
    };
    manager.worker_alive(&stage.worker_id);
    // From now on it is deaf, and else well.
    proxy.cut();
    proxy.open();
    let said = worker.logs("not heard this worker for");
    for words in [&manager.url(), "docker kill", "MANAGER_MQTT_QOS=0"] {
        assert!(said.contains(words), "{said}");
    }
    assert!(read("/ready").contains("not heard this worker for"), "{}", read("/ready"));
    assert!(read("/metrics").contains("proplet_manager_deaf 1\n"), "{}", read("/metrics"));
    manager.kill();
    manager.run();
    manager.listens();
    worker.logs("hears this worker again");
    assert!(read("/ready").contains("\"ready\"") && !read("/ready").contains("not heard"));
    assert!(read("/metrics").contains("proplet_manager_deaf 0\n"), "{}", read("/metrics"));
    let warnings = worker.log().iter().filter(|line| line.contains("not heard this")).count();
    assert_eq!(warnings, 1);
}

#[test]
fn two_ends_of_a_broadcast_task_do_not_fight() {
    let stage = Stage::new(On::Embedded);
    let manager = stage.manager(Habits::default());
    let url = manager.url();
    let other = format!("{}-b", stage.worker_id);
    // Neither is quicker than the mark Running; the second one takes no module
    // of that size.
    let asking = [("manager-url", url.as_str()), ("result-hold", "1s")];
    let small = [("client-id", other.as_str()), ("module-size", "1KiB")];
    let _workers = [stage.worker(&asking), stage.worker(&[asking, small].concat())];
    manager.worker_alive(&stage.worker_id);
    manager.worker_alive(&other);
    let mut body = task("hello");
    let mut module = wat("hello");
    // A custom section of a little more than a kibibyte, which says nothing.
    module.extend_from_slice(&[0, 0x81, 0x09, 1, b'x']);
    module.extend_from_slice(&[0; 1151]);
    body["file"] = STANDARD.encode(module).into();
    body["broadcast"] = true.into();
    let id = started(&manager, &body);
    let ends = |seen: &[Seen]| {
        let results =
            seen.iter().filter(|seen| seen.topic == "results" && seen.json["task_id"] == id);
        results.map(|seen| seen.json["error"].is_null()).collect::<Vec<_>>()
    };
    let mut both =
        stage.wait("both results", |seen| Some(ends(seen)).filter(|ends| ends.len() == 2));
    both.sort_unstable();
    assert_eq!(both, [false, true]);
    // Each of them asks, and finds an end.
    let question = format!("GET /tasks/{id}");
    let end = Instant::now() + Duration::from_secs(90);
    while manager.requests().iter().filter(|request| **request == question).count() < 2 {
        assert!(Instant::now() < end, "{:?}", manager.requests());
        std::thread::sleep(Duration::from_millis(10));
    }
    // Whatever they do with the answer is done before their next task.
    for worker in [&stage.worker_id, &other] {
        let probe = stage.start(Task::bare().set("proplet_id", worker));
        stage.result(&probe).failed(&["neither"]);
    }
    assert_eq!(ends(&stage.seen()).len(), 2);
}

#[test]
fn a_manager_that_never_answers_holds_up_nothing_and_is_complained_about_once() {
    let stage = Stage::new(On::Embedded);
    // It takes connections, and that is all.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", silent.local_addr().expect("an address"));
    let mut worker = stage.process(&[("manager-url", &url), ("manager-token", "not-to-be-shown")]);
    let said = worker.logs("until the manager answers");
    assert!(said.contains(&url), "{said}");
    for _ in 0..50 {
        stage.run(Task::wat("hello")).succeeded("hello\n");
    }
    worker.signal("TERM");
    assert_eq!(worker.ended().code(), Some(0));
    let log = worker.log();
    assert_eq!(log.iter().filter(|line| line.contains("until the manager answers")).count(), 1);
    assert!(!log.iter().any(|line| line.contains("not-to-be-shown")), "{log:#?}");
}

#[test]
fn a_manager_behind_a_token_is_asked_with_it_and_else_complained_about() {
    let stage = Stage::new(On::Embedded);
    let habits = Habits { token: Some("not-to-be-shown".into()), ..Habits::default() };
    let manager = stage.manager(habits);
    let url = manager.url();
    let worker = stage.process(&[("manager-url", &url), ("manager-token", "another-one")]);
    worker.logs("refuses the question (401): check PROPLET_MANAGER_TOKEN");
    drop(worker);
    let worker = stage.process(&[("manager-url", &url), ("manager-token", "not-to-be-shown")]);
    worker.logs("unencrypted");
    manager.worker_alive(&stage.worker_id);
    let id = started(&manager, &task("hello"));
    let question = format!("GET /tasks/{id}");
    becomes(&manager, &id, COMPLETED);
    let asked = manager.requests().iter().filter(|request| **request == question).count();
    let end = Instant::now() + Duration::from_secs(90);
    // One more than those of the test itself.
    while manager.requests().iter().filter(|request| **request == question).count() <= asked {
        assert!(Instant::now() < end, "{:?}", manager.requests());
        std::thread::sleep(Duration::from_millis(10));
    }
    let log = worker.log();
    assert!(!log.iter().any(|line| line.contains("not-to-be-shown")), "{log:#?}");
    assert!(!log.iter().any(|line| line.contains("until the manager answers")), "{log:#?}");
}
