//! The worker's process killed or ended at chosen points.

use crate::processes::{Broker, Worker};
use crate::proxy::{Proxy, Seen};
use crate::{Manager, guest};
use proplet::task::{Binary, ModuleSource, TaskId, TaskRequest};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// One broker, one worker with one executor, one manager.
struct Scene {
    worker: Worker,
    broker: Broker,
    proxy: Proxy,
    manager: Manager,
    _tokio: tokio::runtime::Runtime,
    dir: tempfile::TempDir,
}

impl Scene {
    fn new(flags: &[&str]) -> Scene {
        let dir = tempfile::tempdir().expect("a folder");
        let broker = Broker::start(dir.path());
        let proxy = Proxy::start(broker.port);
        // How often a result is sent tells how often it was answered.
        let flags = [&["--executors=1", "--result-repeat=0"], flags].concat();
        let worker = Worker::start(dir.path(), proxy.port, &flags);
        let tokio = tokio::runtime::Runtime::new().expect("a runtime");
        let manager = {
            let _entered = tokio.enter();
            Manager::connect(broker.port)
        };
        let scene = Scene { worker, broker, proxy, manager, _tokio: tokio, dir };
        scene.wait("the subscription", || scene.log().contains("connected to the broker"));
        scene
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("worker.log")).unwrap_or_default()
    }

    fn wait(&self, what: &str, done: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !done() {
            assert!(Instant::now() < deadline, "waiting for {what}; the log:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn start(&self, id: &str, module: Vec<u8>, input: &str) {
        self.manager.start(&TaskRequest {
            name: "task".into(),
            module: Some(ModuleSource::Bytes(Binary::new(module))),
            inputs: vec![input.into()],
            ..TaskRequest::new(TaskId::new(id).expect("an id"))
        });
    }

    /// Starts a task that computes for so long.
    fn start_busy(&self, id: &str, millis: u32) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/guests/wat/busy.wat");
        self.start(id, wat::parse_file(path).expect("a module"), &millis.to_string());
    }

    fn seen(&self, id: &str) -> Seen {
        let record = self.proxy.record.lock().expect("the record");
        record.tasks.get(id).cloned().unwrap_or_default()
    }

    fn wait_accepted(&self, id: &str) {
        self.wait(&format!("{id} to be accepted"), || self.seen(id).accepted);
    }

    /// The one result of a task, as text.
    fn result(&self, id: &str) -> String {
        self.wait(&format!("the result of {id}"), || self.seen(id).answered);
        let results = self.seen(id).results;
        assert_eq!(results.len(), 1, "{id} has different results");
        String::from_utf8_lossy(&results[0]).into_owned()
    }

    fn wait_running(&self) {
        let marks: PathBuf = self.dir.path().join("state/worker/running");
        let running =
            || std::fs::read(&marks).is_ok_and(|marks| marks.iter().any(|&byte| byte != 0));
        self.wait("a task to run", running);
    }
}

#[test]
#[ignore = "needs mosquitto; .ci/run asks for it"]
fn a_task_that_takes_the_worker_down_is_given_up_after_three_times() {
    let mut scene = Scene::new(&[]);
    scene.start_busy("fatal", 100_000);
    scene.wait_accepted("fatal");
    for deaths in 0..3 {
        // What the process before has marked is not this one's.
        let again = format!("running the task again task=fatal deaths={deaths}");
        scene.wait("the next process", || deaths == 0 || scene.log().contains(&again));
        scene.wait_running();
        assert!(scene.seen("fatal").results.is_empty());
        scene.worker.kill();
    }
    assert!(scene.result("fatal").contains("the worker died 3 times"));
    scene.start("next", guest(1, 0), "");
    assert!(scene.result("next").contains(r#""error":null"#));
}

#[test]
#[ignore = "needs mosquitto; .ci/run asks for it"]
fn running_and_queued_tasks_run_after_a_kill_the_running_one_first() {
    let mut scene = Scene::new(&[]);
    scene.start_busy("first", 1500);
    ["second", "third"].into_iter().for_each(|id| scene.start(id, guest(1, 0), ""));
    scene.wait_accepted("third");
    scene.wait_running();
    scene.worker.kill();
    scene.result("third");
    for id in ["first", "second", "third"] {
        assert!(scene.result(id).contains(r#""error":null"#));
        assert_eq!(scene.seen(id).sent, 1);
    }
    let log = scene.log();
    // It runs alone in a process of its own, and the others beside it.
    let again = log.find("running the task again task=first");
    let done = |id: &str| log.find(&format!("task completed task={id}"));
    assert!(again.is_some() && again < done("second") && done("second") < done("third"), "{log}");
}

#[test]
#[ignore = "needs mosquitto; .ci/run asks for it"]
fn what_was_stopped_stays_stopped() {
    let mut scene = Scene::new(&[]);
    scene.start_busy("running", 100_000);
    scene.start("queued", guest(1, 0), "");
    scene.wait_accepted("queued");
    scene.wait_running();
    ["queued", "running"].into_iter().for_each(|id| scene.manager.stop(id));
    // At some point on the way of the two messages.
    std::thread::sleep(Duration::from_millis(fastrand::u64(0..10)));
    scene.worker.kill();
    for id in ["queued", "running"] {
        assert!(scene.result(id).contains(r#""error":"stopped"#), "{}", scene.result(id));
    }
}

#[test]
#[ignore = "needs mosquitto; .ci/run asks for it"]
fn a_result_that_was_not_sent_is_sent_by_the_next_process() {
    let mut scene = Scene::new(&[]);
    scene.start_busy("task", 1000);
    scene.wait_accepted("task");
    scene.broker.stop();
    scene.wait("the end of the task", || scene.log().contains("task completed"));
    // Until it is on the disk.
    std::thread::sleep(Duration::from_millis(300));
    scene.worker.kill();
    scene.broker.run();
    assert!(scene.result("task").contains("done"));
    assert_eq!(scene.log().matches("task completed").count(), 1, "it was run again");
}

#[test]
#[ignore = "needs mosquitto; .ci/run asks for it"]
fn what_does_not_end_in_time_is_for_the_next_process() {
    let mut scene = Scene::new(&["--drain-timeout=1s"]);
    scene.start_busy("running", 4000);
    scene.start("queued", guest(1, 0), "");
    scene.wait_accepted("queued");
    scene.wait_running();
    scene.worker.end();
    assert!(scene.seen("running").results.is_empty() && scene.seen("queued").results.is_empty());
    scene.worker.run();
    assert!(scene.result("running").contains("done"));
    assert!(scene.result("queued").contains(r#""error":null"#));
}

#[test]
#[ignore = "needs mosquitto; .ci/run asks for it"]
fn a_repeated_start_gets_the_same_result_after_a_restart_and_another_one_runs() {
    let mut scene = Scene::new(&[]);
    scene.start("task", guest(1, 0), "1");
    let first = scene.result("task");
    // Until the delivery is noted; without that it would be sent once more.
    std::thread::sleep(Duration::from_secs(1));
    scene.worker.kill();
    scene.start("task", guest(1, 0), "1");
    scene.wait("the result again", || scene.seen("task").sent == 2);
    assert_eq!(scene.result("task"), first);
    scene.start("task", guest(1, 0), "2");
    scene.wait("another result", || scene.seen("task").results.len() == 2);
}

#[test]
#[ignore = "needs mosquitto; .ci/run asks for it"]
fn a_second_worker_with_the_same_state_is_refused() {
    let scene = Scene::new(&[]);
    let second = Worker::start(scene.dir.path(), scene.proxy.port, &[]);
    scene.wait("the refusal", || scene.log().contains("another proplet with this client id"));
    drop(second);
}
