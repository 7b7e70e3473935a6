//! The stand-in for the manager has the habits that its switches name.

use crate::manager::{Habits, Manager, Store};
use crate::support::{On, Proxy, Stage, wat};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proplet::mqtt::{self, Address, Event, Events, Link};
use serde_json::{Value, json};
use std::time::Duration;

/// Somebody who plays the worker `wrk`.
struct Peer {
    runtime: tokio::runtime::Runtime,
    link: Link,
    events: Events,
}

impl Peer {
    /// Connects, and is alive.
    fn at(stage: &Stage) -> Peer {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let address = Address { host: stage.address.ip().to_string(), port: stage.address.port() };
        let mut options = mqtt::Options::new(address, "wrk");
        options.subscriptions = vec![stage.topics.from_managers()];
        let (link, events) = {
            let _entered = runtime.enter();
            mqtt::connect(options).expect("a connection")
        };
        let mut peer = Peer { runtime, link, events };
        assert!(matches!(peer.next(), Event::Connected { .. }));
        for topic in [stage.topics.create(), stage.topics.alive()] {
            peer.say(&topic, &json!({ "proplet_id": "wrk" }));
        }
        peer
    }

    fn next(&mut self) -> Event {
        self.runtime.block_on(self.events.next()).expect("connected")
    }

    /// Waits until the broker has it.
    fn say(&self, topic: &str, message: &Value) {
        let delivery = self.link.publish(topic, message.to_string());
        self.runtime.block_on(delivery).expect("delivered");
    }

    /// The next message of the manager.
    fn hears(&mut self) -> Value {
        loop {
            if let Event::Message(message) = self.next() {
                self.link.ack(message.ack);
                return serde_json::from_slice(&message.payload).expect("JSON");
            }
        }
    }

    fn answers(&self, stage: &Stage, id: &str) {
        let result = json!({ "task_id": id, "results": "done", "error": null });
        self.say(&stage.topics.results(), &result);
    }
}

/// A manager that knows the worker, and a task of its.
fn scene(habits: Habits) -> (Stage, Manager, Peer, String) {
    let stage = Stage::new(On::Embedded);
    let manager = stage.manager(habits);
    let peer = Peer::at(&stage);
    manager.worker_alive("wrk");
    let id = manager.create(&json!({ "name": "task" }));
    (stage, manager, peer, id)
}

#[test]
fn a_result_that_overtakes_the_mark_running_is_lost() {
    let (stage, manager, mut peer, id) =
        scene(Habits { running_after_results: 1, ..Habits::default() });
    std::thread::scope(|scope| {
        let started = scope.spawn(|| manager.start_task(&id));
        assert_eq!(peer.hears()["id"], *id);
        peer.answers(&stage, &id);
        started.join().expect("it is started");
    });
    let task = manager.task(&id);
    assert_eq!((&task["state"], task.get("results")), (&json!(2), None), "{task:#}");
    // The same result once more arrives.
    peer.answers(&stage, &id);
    let task = manager.task_until(&id, |task| task["state"] == 3);
    assert_eq!(task["results"], "done");
}

#[test]
fn it_hears_nothing_after_a_reconnect_until_it_is_started_again() {
    let stage = Stage::new(On::Embedded);
    let proxy = Proxy::to(stage.address);
    let topics = &stage.topics;
    let mut manager = Manager::start(proxy.address, topics, Habits::default());
    let mut peer = Peer::at(&stage);
    manager.worker_alive("wrk");
    let id = manager.create(&json!({ "name": "task" }));
    proxy.cut();
    proxy.open();
    // It speaks again as soon as it is connected.
    while manager.json("POST", &format!("/tasks/{id}/start"), None).status != 200 {}
    assert_eq!(peer.hears()["id"], *id);
    peer.answers(&stage, &id);
    // Whatever follows goes the way of the result: it is there before that.
    assert_eq!(manager.json("POST", &format!("/tasks/{id}/stop"), None).status, 200);
    peer.hears();
    assert_eq!(manager.task(&id)["state"], 2);
    manager.kill();
    manager.run();
    manager.listens();
    assert_eq!(manager.task(&id)["state"], 2, "it has kept the task");
    peer.answers(&stage, &id);
    manager.task_until(&id, |task| task["state"] == 3);
}

#[test]
fn tasks_in_memory_end_with_the_manager_and_others_do_not() {
    for (store, status) in [(Store::Memory, 404), (Store::Badger, 200), (Store::Sqlite, 200)] {
        let (_stage, mut manager, _peer, id) = scene(Habits { store, ..Habits::default() });
        manager.kill();
        manager.run();
        let answer = manager.json("GET", &format!("/tasks/{id}"), None);
        assert_eq!(answer.status, status, "{store:?}");
        let workers = manager.json("GET", "/proplets", None).ok(200);
        assert_eq!(workers["total"], if store == Store::Memory { 0 } else { 1 }, "{store:?}");
    }
}

#[test]
fn a_schedule_starts_the_same_task_again_and_again() {
    let (stage, manager, mut peer, id) = scene(Habits::default());
    manager.schedule(&id, Duration::from_millis(50));
    let mut started = manager.task(&id)["start_time"].clone();
    let mut of_ended = 0;
    while of_ended < 2 {
        let start = peer.hears();
        assert_eq!(start["id"], *id);
        of_ended += u32::from(start["state"] == 3);
        // An answer before that would be lost.
        let task = manager.task_until(&id, |task| task["start_time"] != started);
        started = task["start_time"].clone();
        peer.answers(&stage, &id);
    }
}

#[test]
fn while_it_stands_still_it_hears_nothing_and_afterwards_all() {
    let (stage, manager, mut peer, id) = scene(Habits::default());
    manager.start_task(&id);
    peer.hears();
    let still = manager.stand_still();
    peer.answers(&stage, &id);
    // What the broker passes on to others is here by then, and more than that.
    stage.wait("the result", |seen| seen.iter().any(|seen| seen.topic == "results").then_some(()));
    assert_eq!(manager.task(&id)["state"], 2);
    drop(still);
    manager.task_until(&id, |task| task["state"] == 3);
}

#[test]
fn an_upload_is_a_form_and_an_update_drops_what_the_task_needs() {
    for drops in [true, false] {
        let (_stage, manager, _peer, id) =
            scene(Habits { update_drops: drops, ..Habits::default() });
        let module = wat("hello");
        assert_eq!(manager.upload(&id, "hello.txt", &module).status, 400);
        manager.upload(&id, "hello.wasm", &module).ok(200);
        let update = json!({ "name": "new", "cli_args": ["-S", "nn"], "env": { "A": "b" } });
        let updated = manager.json("PUT", &format!("/tasks/{id}"), Some(&update)).ok(200);
        assert_eq!(updated["name"], "new");
        let file = updated["file"].as_str().expect("a module");
        assert!(STANDARD.encode(&module).starts_with(&file[..10]), "{file}");
        assert_eq!(updated["cli_args"].is_null(), drops);
        assert_eq!(updated.get("env").is_none(), drops);
    }
}

#[test]
fn whoever_has_no_token_is_refused() {
    let (_stage, manager, _peer, id) =
        scene(Habits { token: Some("secret".into()), ..Habits::default() });
    assert_eq!(manager.task(&id)["name"], "task");
    let asked = ureq::get(format!("{}/tasks/{id}", manager.url())).call();
    assert!(matches!(asked, Err(ureq::Error::StatusCode(401))), "{asked:?}");
}
