//! Deployed tasks and their invocations, while the worker is killed and ended,
//! the broker restarted, and the line cut and stalled.

use super::{Stage, connect, guest, stop};
use proplet::mqtt::{Event, Events, Link};
use proplet::protocol::{Topics, encode_start};
use proplet::task::{Binary, ModuleSource, TaskId, TaskRequest};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Tasks that are deployed and stopped in turn.
const TASKS: usize = 12;

/// What came to each invocation: the different answers.
type Answers = Arc<Mutex<HashMap<String, HashSet<String>>>>;

struct Manager {
    link: Link,
    topics: Topics,
    module: ModuleSource,
    answers: Answers,
    /// Whether each task is to be deployed.
    deployed: BTreeMap<usize, bool>,
    invocations: u64,
}

impl Manager {
    fn connect(port: u16) -> Manager {
        let topics = Topics::new("domain", "channel");
        let (link, events) = connect(port, topics.invoke_results());
        let answers = Answers::default();
        tokio::spawn(consume(events, link.clone(), answers.clone()));
        let module = ModuleSource::Bytes(Binary::new(guest(1000, 0)));
        Manager { link, topics, module, answers, deployed: BTreeMap::new(), invocations: 0 }
    }

    fn deploy(&mut self, task: usize, version: u64) {
        let request = TaskRequest {
            module: Some(self.module.clone()),
            inputs: vec![version.to_string()],
            latent: true,
            ..TaskRequest::new(id(task))
        };
        let message = encode_start(&request, Some("worker"));
        drop(self.link.publish(&self.topics.start(), message));
        self.deployed.insert(task, true);
    }

    fn stop(&mut self, task: usize) {
        stop(&self.link, &self.topics, id(task).as_str());
        self.deployed.insert(task, false);
    }

    /// Invokes a task; gives the invocation's id.
    fn invoke(&mut self, task: usize, twice: bool) -> String {
        self.invocations += 1;
        let invocation = format!("call-{}", self.invocations);
        let message = serde_json::json!({
            "id": id(task).as_str(), "proplet_id": "worker", "invocation_id": invocation,
            "broadcast": false, "inputs": null,
        });
        for _ in 0..=u8::from(twice) {
            drop(self.link.publish(&self.topics.invoke(), message.to_string()));
        }
        invocation
    }

    /// Invokes a task until that is answered otherwise than with a refusal that
    /// passes, and gives the answer.
    fn call(&mut self, task: usize) -> serde_json::Value {
        let end = Instant::now() + Duration::from_secs(90);
        loop {
            let invocation = self.invoke(task, false);
            let wait = Instant::now() + Duration::from_secs(5);
            while Instant::now() < wait {
                let answers = self.answers.lock().expect("the answers");
                if let Some(answer) = answers.get(&invocation).and_then(|found| found.iter().next())
                {
                    return serde_json::from_str(answer).expect("JSON");
                }
                drop(answers);
                std::thread::sleep(Duration::from_millis(20));
            }
            assert!(Instant::now() < end, "no answer to invocations of task {task}");
        }
    }
}

fn id(task: usize) -> TaskId {
    TaskId::new(&format!("deployed-{task}")).expect("an id")
}

async fn consume(mut events: Events, link: Link, answers: Answers) {
    while let Some(event) = events.next().await {
        let Event::Message(message) = event else { continue };
        let json: serde_json::Value =
            serde_json::from_slice(&message.payload).expect("an answer is JSON");
        let invocation = json["invocation_id"].as_str().expect("an id").to_owned();
        let mut answers = answers.lock().expect("the answers");
        answers.entry(invocation).or_default().insert(json.to_string());
        drop(answers);
        link.ack(message.ack);
    }
}

/// Whether the invocation was not taken, so that it may come again.
fn may_come_again(answer: &str) -> bool {
    answer.contains("has not been precompiled") || answer.contains("busy: ")
}

#[test]
#[ignore = "needs mosquitto; .ci/run asks for it"]
fn no_deployment_is_lost_and_no_invocation_has_two_answers() {
    let Stage { seconds, dir, mut broker, proxy, mut worker } = Stage::set();
    let tokio = tokio::runtime::Runtime::new().expect("a runtime");
    let _entered = tokio.enter();
    let mut manager = Manager::connect(broker.port);
    for task in 0..TASKS {
        manager.deploy(task, 0);
    }
    let (mut kills, mut ends, mut cuts, mut restarts) = (0, 0, 0, 0);
    let begun = Instant::now();
    let mut next_deed = begun + Duration::from_secs(2);
    while begun.elapsed() < Duration::from_secs(seconds) {
        let task = fastrand::usize(..TASKS);
        match fastrand::u32(..100) {
            0..3 => manager.deploy(task, fastrand::u64(..2)),
            3..5 => manager.stop(task),
            _ => drop(manager.invoke(task, fastrand::u8(..20) == 0)),
        }
        if Instant::now() >= next_deed {
            match fastrand::u32(..100) {
                0..45 => {
                    kills += 1;
                    worker.kill();
                }
                45..55 => {
                    ends += 1;
                    worker.restart();
                }
                55..80 => {
                    cuts += 1;
                    proxy.cut();
                }
                80..90 => proxy.stall(Duration::from_millis(fastrand::u64(100..3000))),
                _ => {
                    restarts += 1;
                    broker.restart(true);
                }
            }
            next_deed = Instant::now() + Duration::from_millis(fastrand::u64(50..4000));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    // Now in peace.
    let mut lost = Vec::new();
    for (task, deployed) in manager.deployed.clone() {
        let answer = manager.call(task);
        let right = if deployed {
            answer["error"].is_null()
        } else {
            may_come_again(answer["error"].as_str().unwrap_or_default())
        };
        if !right {
            lost.push((task, deployed, answer));
        }
    }
    worker.kill();
    for (task, deployed) in manager.deployed.clone() {
        if deployed {
            let answer = manager.call(task);
            assert!(answer["error"].is_null(), "lost at the last restart: {answer}");
        }
    }
    worker.end();
    let answers = manager.answers.lock().expect("the answers");
    let different: Vec<_> = answers
        .iter()
        .filter(|(_, found)| found.iter().filter(|answer| !may_come_again(answer)).count() > 1)
        .collect();
    let completed = answers.values().flatten().filter(|answer| answer.contains("\"error\":null"));
    let completed = completed.count();
    println!(
        "{} s: {} invocations, {completed} completed; {kills} kills, {ends} ends, {cuts} cuts, \
         {restarts} restarts of the broker; deployments lost or left {}, invocations with \
         different answers {}",
        begun.elapsed().as_secs(),
        manager.invocations,
        lost.len(),
        different.len(),
    );
    let log = std::fs::read_to_string(dir.path().join("worker.log")).unwrap_or_default();
    assert!(!log.contains("panicked"), "the worker panicked");
    assert_eq!(lost, [], "deployments were lost, or outlived their stop");
    assert!(different.is_empty(), "{different:?}");
    assert!(completed as u64 >= seconds, "too few invocations to mean anything: {completed}");
}
