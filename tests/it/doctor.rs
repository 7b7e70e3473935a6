//! `proplet doctor` on set-ups that are well and on some that are not.

use crate::support::{FluxMq, Habits, On, RoundServices, Stage, program};
use proplet::broker::{Broker, Settings};
use proplet::config::Environment;
use serde_json::Value;
use std::collections::HashMap;

/// What it finds, and its exit code.
fn doctor(environment: &Environment) -> (Value, Option<i32>) {
    let output = program()
        .args(["doctor", "--json", "--watch=100ms"])
        .envs(environment.variables())
        .current_dir(environment.working_dir())
        .output()
        .expect("the program starts");
    let text = String::from_utf8(output.stdout).expect("text");
    let report = serde_json::from_str(&text)
        .unwrap_or_else(|e| panic!("{text}{}: {e}", String::from_utf8_lossy(&output.stderr)));
    (report, output.status.code())
}

/// The verdict on something, the worst if there are several, and what is said.
fn verdict(report: &Value, check: &str) -> (String, String) {
    let findings = report["findings"].as_array().expect("a list");
    let of_check = || findings.iter().filter(|finding| finding["check"] == check);
    let find = |verdict: &str| of_check().find(|finding| finding["verdict"] == verdict);
    let worst = find("failed").or_else(|| find("warning")).or_else(|| find("ok"));
    let worst = worst.unwrap_or_else(|| panic!("nothing was said of {check}: {report:#}"));
    let text = |key: &str| worst[key].as_str().expect("text").to_owned();
    (text("verdict"), text("message"))
}

#[track_caller]
fn assert_verdict(report: &Value, check: &str, expected: &str, words: &str) {
    let (found, message) = verdict(report, check);
    assert_eq!(found, expected, "{check}: {message}");
    assert!(message.contains(words), "`{words}` is not in: {message}");
}

#[test]
fn a_set_up_that_is_well_passes() {
    let stage = Stage::new(On::Embedded);
    let state = tempfile::tempdir().expect("a folder");
    let settings = [
        ("dirs", "models"),
        ("executors", "1"),
        ("client-key", "not-to-be-shown"),
        ("stateless", "false"),
        ("state-dir", state.path().to_str().expect("text")),
    ];
    let (report, code) = doctor(&stage.environment(stage.address, &settings));
    assert_eq!(code, Some(0), "{report:#}");
    assert_eq!(report["ok"], true);
    assert_verdict(&report, "configuration", "ok", &stage.worker_id);
    assert_verdict(&report, "directories", "ok", "1 model in it is readable");
    assert_verdict(&report, "state", "ok", "can be written to");
    assert_verdict(&report, "session", "ok", "come later");
    for check in ["a task", "broker", "credentials", "topics", "channel", "clock", "processor"] {
        assert_verdict(&report, check, "ok", "");
    }
    // How long it took is the machine's affair.
    assert!(verdict(&report, "round trip").1.contains("to the broker and back"), "{report:#}");
    assert_verdict(&report, "manager", "warning", "no proof");
    if cfg!(feature = "openvino") {
        assert_verdict(&report, "OpenVINO", "ok", "CPU");
        assert_verdict(&report, "inference", "ok", "right answer");
    }
    if cfg!(feature = "onnx") {
        assert_verdict(&report, "rten", "ok", "a part of this program; devices: CPU");
        let rows = report["findings"].as_array().expect("a list");
        let says = |row: &Value| row["message"].as_str().expect("text").contains("(onnx) gave the");
        let ok = |row: &Value| row["check"] == "inference" && row["verdict"] == "ok" && says(row);
        assert!(rows.iter().any(ok), "{report:#}");
    }
    if !cfg!(any(feature = "openvino", feature = "onnx")) {
        assert_verdict(&report, "build", "warning", "--features openvino");
    }
    let text = report.to_string();
    assert!(!text.contains("not-to-be-shown"), "{text}");
    let settings = report["settings"].as_array().expect("a list");
    assert!(settings.iter().any(
        |setting| setting["name"] == "dirs" && setting["source"] == "the variable PROPLET_DIRS"
    ));
}

#[test]
fn a_manager_that_can_be_asked_tells_whether_it_hears_the_worker() {
    let stage = Stage::new(On::Embedded);
    let mut manager = stage.manager(crate::manager::Habits::default());
    let url = manager.url();
    let settings = [("manager-url", url.as_str()), ("manager-token", "not-to-be-shown")];
    let asked = || {
        let (report, _) = doctor(&stage.environment(stage.address, &settings));
        assert!(!report.to_string().contains("not-to-be-shown"), "{report:#}");
        report
    };
    assert_verdict(&asked(), "manager", "warning", "does not know the worker");
    let _worker = stage.worker(&[]);
    manager.worker_alive(&stage.worker_id);
    assert_verdict(&asked(), "manager", "ok", "(version dev) and heard the worker");
    manager.kill();
    assert_verdict(&asked(), "manager", "warning", "no answer from http://127.0.0.1:");
}

#[test]
fn each_service_of_federated_rounds_is_asked() {
    let stage = Stage::new(On::Embedded);
    let services = RoundServices::start(1);
    let url = services.url();
    let settings = [("coordinator-url", url.as_str()), ("data-store-url", &url)];
    let environment = stage.environment(stage.address, &settings);
    assert_verdict(&doctor(&environment).0, "rounds", "warning", "404 dataset not found");
    services.data(&stage.worker_id, serde_json::json!([]));
    assert_verdict(&doctor(&environment).0, "rounds", "ok", &format!("coordinator at {url}"));
    assert_eq!(services.posts(), 0);
    let asked = services.requests();
    assert!(asked.contains(&"GET /rounds/doctor/complete".to_owned()), "{asked:?}");
    assert!(!asked.iter().any(|request| request.starts_with("GET /models")), "{asked:?}");
}

#[test]
fn a_key_that_the_broker_refuses_is_told_from_a_broker_that_is_away() {
    let credentials = HashMap::from([("worker".to_owned(), "right".to_owned())]);
    let settings = Settings { credentials, ..Settings::default() };
    let broker = Broker::start_with(settings).expect("a broker");
    let environment = |key: &str| {
        Environment::new(crate::support::fixtures())
            .with("PROPLET_DOMAIN_ID", "d")
            .with("PROPLET_CHANNEL_ID", "c")
            .with("PROPLET_CLIENT_ID", "worker")
            .with("PROPLET_CLIENT_KEY", key)
            .with("PROPLET_METRICS_PORT", "0")
            .with("PROPLET_MQTT_ADDRESS", broker.address().to_string())
    };
    let (report, code) = doctor(&environment("right"));
    assert_eq!(code, Some(0), "{report:#}");
    let (report, code) = doctor(&environment("wrong-one"));
    assert_eq!(code, Some(1));
    assert_verdict(&report, "broker", "ok", "reached");
    assert_verdict(&report, "credentials", "failed", "client id worker: check PROPLET_CLIENT_ID");
    assert!(!report.to_string().contains("wrong-one"));
    let away = environment("right");
    drop(broker);
    let (report, code) = doctor(&away);
    assert_eq!(code, Some(1));
    assert_verdict(&report, "broker", "failed", "is the broker running");
}

#[test]
fn a_broker_that_keeps_no_sessions_is_told_with_what_that_means() {
    let stage = Stage::new(On::Embedded);
    let state = tempfile::tempdir().expect("a folder");
    let habits = Habits { no_sessions: true, ..Habits::default() };
    let broker = FluxMq::before(stage.address, habits);
    let kept = [("stateless", "false"), ("state-dir", state.path().to_str().expect("text"))];
    let with = |order| [&kept[..], &[("mqtt-clean-session", order)]].concat();
    let (report, code) = doctor(&stage.environment(broker.address, &with("auto")));
    assert_eq!(code, Some(0), "{report:#}");
    assert_verdict(&report, "session", "warning", "FluxMQ");
    assert_verdict(&report, "session", "warning", "while the worker is away are lost");
    let (report, code) = doctor(&stage.environment(broker.address, &with("false")));
    assert_eq!(code, Some(1), "{report:#}");
    assert_verdict(&report, "session", "failed", "set PROPLET_MQTT_CLEAN_SESSION=true");
    let (report, _) = doctor(&stage.environment(broker.address, &with("true")));
    assert_verdict(&report, "session", "warning", "as PROPLET_MQTT_CLEAN_SESSION says");
    let (report, _) = doctor(&stage.environment(broker.address, &[]));
    assert_verdict(&report, "session", "warning", "nothing is kept on disk");
    // A worker that had a session there is waiting for it.
    let own = state.path().join(&stage.worker_id);
    std::fs::create_dir(&own).expect("a folder");
    let memory = format!("{{\"{}\": \"persistent\"}}", broker.address);
    std::fs::write(own.join("sessions.json"), memory).expect("written");
    let (report, code) = doctor(&stage.environment(broker.address, &with("auto")));
    assert_eq!(code, Some(1), "{report:#}");
    assert_verdict(&report, "session", "failed", "has kept a session for this worker before");
}

#[test]
fn without_credentials_all_is_looked_at_that_needs_none() {
    let stage = Stage::new(On::Embedded);
    let environment = Environment::new(crate::support::fixtures())
        .with("PROPLET_DIRS", "models")
        .with("PROPLET_METRICS_PORT", "0")
        .with("PROPLET_MQTT_ADDRESS", stage.address.to_string());
    let (report, code) = doctor(&environment);
    assert_eq!(code, Some(1), "{report:#}");
    assert_verdict(&report, "credentials", "failed", "PROPLET_CLIENT_KEY are not set");
    assert_verdict(&report, "configuration", "ok", "there are no credentials");
    assert_verdict(&report, "directories", "ok", "");
    assert_verdict(&report, "broker", "ok", "something takes connections");
    for check in ["a task", "clock", "processor", "runtime memory"] {
        verdict(&report, check);
    }
    assert_verdict(&report, "other checks", "warning", "need the worker's credentials");
    let nowhere = environment.with("PROPLET_MQTT_ADDRESS", "127.0.0.1:1");
    assert_verdict(&doctor(&nowhere).0, "broker", "failed", "is the broker running?");
}

#[test]
fn what_is_wrong_with_the_configuration_is_all_told() {
    let environment = Environment::new(crate::support::fixtures())
        .with("PROPLET_QUEUE", "many")
        .with("PROPLET_OPENVINO_LIB", "/no/where");
    let (report, code) = doctor(&environment);
    assert_eq!((code, &report["ok"]), (Some(1), &Value::Bool(false)));
    let findings = report["findings"].as_array().expect("a list");
    let failed = findings.iter().filter(|finding| finding["verdict"] == "failed").count();
    assert_eq!(failed, if cfg!(feature = "openvino") { 3 } else { 2 }, "{report:#}");
    assert_verdict(&report, "other checks", "warning", "not looked at");
}

#[cfg(feature = "openvino")]
#[test]
fn openvino_that_is_not_where_it_was_said_fails_once() {
    let stage = Stage::new(On::Embedded);
    let (report, code) = doctor(&stage.environment(
        stage.address,
        &[("openvino-lib", "/no/where"), ("dirs", "/no/where/either"), ("executors", "2000")],
    ));
    // More executors than may be is a mistake of the configuration.
    assert_eq!(code, Some(1));
    assert_verdict(&report, "configuration", "failed", "the most is 1024");
    let settings =
        [("openvino-lib", "/no/where"), ("dirs", "/no/where/either"), ("executors", "9")];
    let (report, code) = doctor(&stage.environment(stage.address, &settings));
    assert_eq!(code, Some(1));
    assert_verdict(&report, "OpenVINO", "failed", "PROPLET_OPENVINO_LIB");
    assert_verdict(&report, "directories", "warning", "/no/where/either");
    assert_verdict(&report, "a task", "ok", "");
    let findings = report["findings"].as_array().expect("a list");
    // What needs no library is looked at all the same.
    let inferences = findings.iter().filter(|finding| finding["check"] == "inference").count();
    assert_eq!(inferences, usize::from(cfg!(feature = "onnx")));
}

/// A broker that keeps what it is sent: it confirms subscriptions, all of them
/// or those that a worker needs, and passes no message on.
fn silent_broker(granted: fn(&str) -> bool) -> std::net::SocketAddr {
    use std::io::{Read as _, Write as _};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    let serve = move |mut stream: std::net::TcpStream| -> std::io::Result<()> {
        loop {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            let kind = byte[0] >> 4;
            let (mut length, mut shift) = (0, 0);
            while {
                stream.read_exact(&mut byte)?;
                length |= usize::from(byte[0] & 0x7f) << shift;
                shift += 7;
                byte[0] & 0x80 != 0
            } {}
            let mut packet = vec![0; length];
            stream.read_exact(&mut packet)?;
            let string = |at: usize| {
                let length = usize::from(u16::from_be_bytes([packet[at], packet[at + 1]]));
                let text = String::from_utf8_lossy(&packet[at + 2..at + 2 + length]);
                (text.into_owned(), at + 2 + length)
            };
            let answer = match kind {
                // CONNECT, PUBLISH with QoS 1, PINGREQ.
                1 => vec![0x20, 2, 0, 0],
                3 => {
                    let (_, id) = string(0);
                    vec![0x40, 2, packet[id], packet[id + 1]]
                }
                12 => vec![0xd0, 0],
                // SUBSCRIBE: a code for each topic.
                8 => {
                    let (mut at, mut codes) = (2, Vec::new());
                    while at < packet.len() {
                        let (topic, end) = string(at);
                        codes.push(if granted(&topic) { 1 } else { 0x80 });
                        at = end + 1;
                    }
                    let length = u8::try_from(2 + codes.len()).expect("few topics");
                    [&[0x90, length, packet[0], packet[1]], &codes[..]].concat()
                }
                _ => return Ok(()),
            };
            stream.write_all(&answer)?;
        }
    };
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A client that goes away ends its thread.
            std::thread::spawn(move || serve(stream).ok());
        }
    });
    address
}

#[test]
fn a_broker_that_confirms_what_it_does_not_serve_is_told_from_one_that_refuses() {
    let stage = Stage::new(On::Embedded);
    let confirms = silent_broker(|_| true);
    let (report, code) = doctor(&stage.environment(confirms, &[]));
    assert_eq!(code, Some(0), "{report:#}");
    assert_verdict(&report, "topics", "ok", "subscribed");
    assert_verdict(&report, "channel", "warning", "can't be known");
    let refuses = silent_broker(|topic| !topic.ends_with("/doctor"));
    let (report, _) = doctor(&stage.environment(refuses, &[]));
    assert_verdict(&report, "channel", "ok", "refuses what the client may not read");
}
