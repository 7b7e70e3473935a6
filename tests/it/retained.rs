//! Messages that the broker retains: it sends them again with each connection.

use crate::support::{On, Process, Proxy, Stage, Task, over_both_brokers, wat};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rumqttc::{Client, Event, Incoming, MqttOptions, QoS};
use serde_json::json;

over_both_brokers!(a_retained_message_is_refused_and_not_acted_on_at_each_reconnect);

/// Has the broker retain this message in place of the one before; an empty one
/// only removes that.
fn retain(stage: &Stage, topic: &str, payload: Vec<u8>) {
    let id = format!("retainer-{}", uuid::Uuid::new_v4());
    let (host, port) = (stage.address.ip().to_string(), stage.address.port());
    let (client, mut connection) = Client::new(MqttOptions::new(id, host, port), 10);
    client.publish(topic, QoS::AtLeastOnce, true, payload).expect("room for a request");
    for event in connection.iter() {
        if let Event::Incoming(Incoming::PubAck(_)) = event.expect("a connection") {
            return;
        }
    }
    panic!("the broker did not take the message");
}

fn refusals(worker: &Process, topic: &str) -> usize {
    let retained = format!("retains on `{topic}`");
    worker.log().iter().filter(|line| line.contains(&retained)).count()
}

/// ARCHITECTURE.md, case 74.
fn a_retained_message_is_refused_and_not_acted_on_at_each_reconnect(on: On) {
    let stage = Stage::new(on);
    let (start, stop, invoke) = (stage.topics.start(), stage.topics.stop(), stage.topics.invoke());
    let task = json!({ "id": "kept", "name": "kept", "file": STANDARD.encode(wat("hello")) });
    let call = json!({ "id": "kept", "invocation_id": "call" });
    retain(&stage, &start, task.to_string().into());
    retain(&stage, &stop, json!({ "id": "kept" }).to_string().into());
    retain(&stage, &invoke, call.to_string().into());
    let proxy = Proxy::to(stage.address);
    let worker = stage.process_at(proxy.address, &[("executors", "1")]);
    let reconnect = |times: usize| {
        proxy.cut();
        proxy.open();
        stage.wait("another introduction", |seen| {
            (seen.iter().filter(|seen| seen.topic == "create").count() == times).then_some(())
        });
        stage.settle();
    };
    stage.settle();
    reconnect(2);
    for topic in [&start, &stop, &invoke] {
        assert_eq!(refusals(&worker, topic), 2, "{:#?}", worker.log());
    }
    worker.logs(&format!("mosquitto_pub -r -n -t {start}"));
    let ran = |seen: &crate::support::Seen| seen.json["task_id"] == "kept";
    assert!(!stage.seen().iter().any(ran), "{:#?}", stage.seen());
    for topic in [&start, &stop, &invoke] {
        retain(&stage, topic, Vec::new());
    }
    reconnect(3);
    assert_eq!(refusals(&worker, &start), 2, "{:#?}", worker.log());
    let dropped = worker.log().iter().filter(|line| line.contains("was dropped")).count();
    assert_eq!(dropped, 6, "what removes them is not worth a word: {:#?}", worker.log());
    // The same message is taken from who does not have it retained.
    stage.publish("start", task.to_string());
    stage.result("kept").succeeded("hello\n");
    stage.run(Task::wat("hello")).succeeded("hello\n");
}
