//! The stand-in for the manager answers and publishes what the real one did:
//! the recorded requests are made again, and each answer is compared.

use crate::manager::{Answer, Habits, Manager, Store};
use crate::support::fixtures;
use proplet::broker::Broker;
use proplet::mqtt::{self, Address, Event, Events, Link};
use proplet::protocol::Topics;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

#[test]
fn the_stand_in_answers_as_the_manager_with_its_store_in_memory() {
    replay(Store::Memory, "memory");
}

#[test]
fn the_stand_in_answers_as_the_manager_with_sqlite() {
    replay(Store::Sqlite, "sqlite");
}

#[test]
fn the_stand_in_answers_and_publishes_as_the_manager_with_badger() {
    let (published, ids) = replay(Store::Badger, "badger");
    let recorded = recording("mqtt").into_iter();
    let recorded = recorded.filter_map(|line| {
        let topic = line["topic"].as_str()?.strip_prefix("control/manager/")?.to_owned();
        Some((topic, ids.ours(&line["payload"])))
    });
    let without_call = |(topic, mut message): (String, Value)| {
        // Each call has an id of its own.
        message.as_object_mut().expect("an object").remove("invocation_id");
        (topic, message)
    };
    let recorded: Vec<_> = recorded.map(without_call).collect();
    let published: Vec<_> = published.into_iter().map(without_call).collect();
    assert_eq!(published.len(), recorded.len());
    for (published, recorded) in published.iter().zip(&recorded) {
        assert_eq!(published, recorded);
    }
}

/// How long an answer may differ until what it depends on has happened.
const SOON: Duration = Duration::from_secs(20);

const WORKER: &str = "wrk";

type Published = Vec<(String, Value)>;

/// Makes the recorded requests and compares the answers; gives what the
/// manager published meanwhile.
fn replay(store: Store, name: &str) -> (Published, Ids) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let broker = Broker::start().expect("a broker");
    let topics = Topics::new("domain", "channel");
    let habits = Habits { store, ..Habits::default() };
    let manager = Arc::new(Manager::start(broker.address(), &topics, habits));
    let published = Arc::<Mutex<Published>>::default();
    {
        let _entered = runtime.enter();
        let address = Address { host: "127.0.0.1".into(), port: broker.address().port() };
        let mut options = mqtt::Options::new(address, WORKER);
        options.subscriptions = vec![topics.from_managers()];
        let (link, events) = mqtt::connect(options).expect("a connection");
        let worker =
            Worker { link, topics, manager: manager.clone(), published: published.clone() };
        let handle = runtime.handle().clone();
        std::thread::spawn(move || worker.work(events, &handle));
    }
    manager.worker_alive(WORKER);
    let mut ids = Ids::default();
    for exchange in recording(name) {
        let what = exchange["what"].as_str().expect("a text");
        let request = ids.ours(&exchange["request"]);
        let (method, path) =
            request.as_str().expect("a text").split_once(' ').expect("a method and a path");
        let body = exchange.get("body").map(|body| ids.ours(body));
        let end = Instant::now() + SOON;
        loop {
            let answer = manager.json(method, path, body.as_ref());
            ids.learn(&exchange["answer"], &answer.body);
            let recorded = Answer {
                status: exchange["status"].as_u64().expect("a status") as u16,
                body: comparable(ids.ours(&exchange["answer"])),
            };
            let answer = Answer { body: comparable(answer.body), ..answer };
            if answer == recorded {
                break;
            }
            // What is asked for may come of what happens elsewhere.
            assert!(method == "GET" && Instant::now() < end, "{what}: {answer:#?}, {recorded:#?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    let published = published.lock().unwrap_or_else(PoisonError::into_inner).clone();
    (published, ids)
}

fn recording(name: &str) -> Vec<Value> {
    let path = fixtures().join(format!("manager/{name}.jsonl"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// Recorded ids and those that stand for them here.
#[derive(Default)]
struct Ids(HashMap<String, String>);

impl Ids {
    fn ours(&self, recorded: &Value) -> Value {
        let mut text = recorded.to_string();
        for (recorded, ours) in &self.0 {
            text = text.replace(recorded, ours);
        }
        serde_json::from_str(&text).expect("JSON")
    }

    fn learn(&mut self, recorded: &Value, ours: &Value) {
        for key in ["id", "job_id"] {
            if let (Some(recorded), Some(ours)) = (recorded[key].as_str(), ours[key].as_str()) {
                self.0.insert(recorded.to_owned(), ours.to_owned());
            }
        }
    }
}

/// Without what differs from run to run: moments, and the names of workers.
fn comparable(mut answer: Value) -> Value {
    match &mut answer {
        Value::Object(fields) => {
            if fields.contains_key("last_alive_at") {
                fields.insert("name".into(), "a name".into());
            }
            for value in fields.values_mut() {
                *value = comparable(value.take());
            }
        }
        Value::Array(values) => {
            for value in values {
                *value = comparable(value.take());
            }
        }
        Value::String(text) => {
            if !text.starts_with("0001") && humantime::parse_rfc3339(text).is_ok() {
                *text = "a moment".into();
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
    answer
}

/// Says what the recorded worker said.
struct Worker {
    link: Link,
    topics: Topics,
    manager: Arc<Manager>,
    published: Arc<Mutex<Published>>,
}

impl Worker {
    fn work(self, mut events: Events, handle: &tokio::runtime::Handle) {
        let recording = recording("mqtt");
        let of = |topic: &'static str| {
            let lines = recording.iter().filter(move |line| line["topic"] == topic);
            lines.map(|line| &line["payload"])
        };
        // A start without what differs from run to run.
        let key = |start: &Value| {
            let mut start = start.clone();
            for field in ["id", "state", "proplet_id", "parent_results"] {
                start.as_object_mut().expect("an object").remove(field);
            }
            start.to_string()
        };
        let result_of = |start: &Value| {
            let start = of("control/manager/start").find(|line| key(line) == key(start))?;
            of("control/proplet/results").find(|result| result["task_id"] == start["id"])
        };
        // The recorded message with this task's id.
        let said = |message: &Value, id: &Value| {
            let recorded = message["task_id"].as_str().expect("an id");
            message.to_string().replace(recorded, id.as_str().expect("an id"))
        };
        while let Some(event) = handle.block_on(events.next()) {
            let message = match event {
                Event::Message(message) => message,
                Event::Connected { .. } => {
                    for create in of("control/proplet/create") {
                        drop(self.link.publish(&self.topics.create(), create.to_string()));
                    }
                    for alive in of("control/proplet/alive") {
                        drop(self.link.publish(&self.topics.alive(), alive.to_string()));
                    }
                    continue;
                }
                _ => continue,
            };
            let json: Value = serde_json::from_slice(&message.payload).expect("JSON");
            let topic = message.topic.rsplit('/').next().expect("a level").to_owned();
            self.link.ack(message.ack);
            let mut published = self.published.lock().unwrap_or_else(PoisonError::into_inner);
            published.push((topic.clone(), json.clone()));
            let first = published.iter().find(|(_, start)| start["id"] == json["id"]);
            let start = first.map(|(_, start)| start.clone()).expect("pushed");
            drop(published);
            let stopped = |result: &&Value| result["error"] == "stopped";
            if topic == "invoke" {
                let answer = of("control/proplet/invoke_results").next().expect("one");
                let mut answer: Value =
                    serde_json::from_str(&said(answer, &json["id"])).expect("JSON");
                answer["invocation_id"] = json["invocation_id"].clone();
                drop(self.link.publish(&self.topics.invoke_results(), answer.to_string()));
            } else if let Some(result) =
                result_of(&start).filter(|result| stopped(result) == (topic == "stop"))
            {
                // A result that came earlier would be lost.
                let id = json["id"].as_str().expect("an id");
                self.manager.task_until(id, |task| task["state"] == json!(2));
                drop(self.link.publish(&self.topics.results(), said(result, &json["id"])));
            }
        }
    }
}
