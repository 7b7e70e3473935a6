//! The program as users start it: its end by signals, its log, its exit code.

#[cfg(feature = "openvino")]
use crate::support::assets;
use crate::support::{On, Process, Stage, Task, in_one_process_too, over_both_brokers, program};
use std::process::Stdio;
#[cfg(feature = "openvino")]
use std::time::Duration;

over_both_brokers!(
    a_signal_lets_the_running_task_finish_and_answers_for_the_waiting_ones,
    a_task_that_does_not_finish_in_time_is_ended_and_answered_for,
    a_second_signal_ends_the_worker_at_once,
    an_idle_worker_ends_at_once,
    a_start_during_the_shutdown_is_refused,
    a_worker_that_is_told_to_end_in_process_ends,
    the_log_keeps_the_lines_that_the_guide_looks_for,
);

in_one_process_too!(
    a_signal_lets_the_running_task_finish_and_answers_for_the_waiting_ones,
    a_task_that_does_not_finish_in_time_is_ended_and_answered_for,
    a_second_signal_ends_the_worker_at_once,
    a_worker_that_is_told_to_end_in_process_ends,
);

const FULL_WITH_ONE: &[(&str, &str)] = &[("executors", "1"), ("queue", "1")];

fn a_signal_lets_the_running_task_finish_and_answers_for_the_waiting_ones(on: On) {
    for signal in ["TERM", "INT"] {
        let stage = Stage::new(on);
        let mut worker = stage.process(FULL_WITH_ONE);
        let running = stage.running(Task::wat("sleep").inputs(&["1500"]));
        let waiting = stage.start(Task::wat("hello"));
        worker.signal(signal);
        stage.result(&waiting).failed(&["shutting down"]);
        stage.result(&running).succeeded("slept\n");
        assert_eq!(worker.ended().code(), Some(0), "{:#?}", worker.log());
        let results = stage.seen().into_iter().filter(|seen| seen.topic == "results");
        let of = |id: &str| results.clone().filter(|seen| seen.json["task_id"] == id).count();
        assert_eq!((of(&running), of(&waiting)), (1, 1));
    }
}

fn a_task_that_does_not_finish_in_time_is_ended_and_answered_for(on: On) {
    let stage = Stage::new(on);
    let mut worker =
        stage.process(&[("executors", "1"), ("queue", "1"), ("drain-timeout", "200ms")]);
    let running = stage.running(Task::wat("loop-forever"));
    worker.signal("TERM");
    stage.result(&running).failed(&["shutting down"]);
    assert_eq!(worker.ended().code(), Some(0), "{:#?}", worker.log());
}

fn a_second_signal_ends_the_worker_at_once(on: On) {
    let stage = Stage::new(on);
    let mut worker = stage.process(FULL_WITH_ONE);
    stage.running(Task::wat("loop-forever"));
    worker.signal("TERM");
    worker.logs("shutting down");
    worker.signal("INT");
    let status = worker.ended();
    // One that has waited for its tasks ends with 0.
    assert_eq!(status.code(), Some(130), "{:#?}", worker.log());
}

fn an_idle_worker_ends_at_once(on: On) {
    let stage = Stage::new(on);
    let mut worker = stage.process(&[]);
    worker.signal("TERM");
    assert_eq!(worker.ended().code(), Some(0), "{:#?}", worker.log());
}

fn a_start_during_the_shutdown_is_refused(on: On) {
    let stage = Stage::new(on);
    let mut worker = stage.process(FULL_WITH_ONE);
    let running = stage.running(Task::wat("loop-forever"));
    worker.signal("TERM");
    worker.logs("shutting down");
    stage.run(Task::wat("hello")).failed(&["shutting down"]);
    // It still takes a stop.
    stage.stop(&running);
    stage.result(&running).failed(&["stopped"]);
    assert_eq!(worker.ended().code(), Some(0), "{:#?}", worker.log());
}

fn a_worker_that_is_told_to_end_in_process_ends(on: On) {
    let stage = Stage::new(on);
    let mut worker = stage.worker(FULL_WITH_ONE);
    let running = stage.running(Task::wat("sleep").inputs(&["500"]));
    let waiting = stage.start(Task::wat("hello"));
    // The start and the end go different ways: this one's answer comes behind it.
    stage.run(Task::bare()).failed(&["neither"]);
    worker.shut_down();
    stage.result(&waiting).failed(&["shutting down"]);
    stage.result(&running).succeeded("slept\n");
    worker.ended();
}

fn the_log_keeps_the_lines_that_the_guide_looks_for(on: On) {
    let stage = Stage::new(on);
    let worker = stage.process(&[]);
    let starting = worker.logs("Starting Proplet");
    assert!(starting.contains(&stage.worker_id), "{starting}");
    for topic in [stage.topics.start(), stage.topics.stop(), stage.topics.invoke()] {
        worker.logs(&format!("Subscribed to topic {topic}"));
    }
    let log = worker.log().join("\n");
    assert!(!log.contains("secret"), "the key is in the log: {log}");
    assert!(!log.contains("connection error"), "{log}");
}

#[test]
fn a_broker_that_is_not_there_is_a_connection_error_and_no_end() {
    let mut worker = Process::spawn(
        program()
            .args(["worker", "--stateless"])
            .args(["--domain-id=d", "--channel-id=c", "--client-id=w", "--client-key=secret"])
            .arg("--mqtt-address=127.0.0.1:9")
            .current_dir(crate::support::fixtures())
            .stdin(Stdio::null()),
    );
    let line = worker.logs("connection error");
    assert!(line.contains("127.0.0.1:9") && line.contains("next attempt in"), "{line}");
    worker.signal("TERM");
    assert_eq!(worker.ended().code(), Some(0), "{:#?}", worker.log());
    assert!(!worker.log().join("\n").contains("secret"));
}

#[test]
fn wrong_credentials_are_a_connection_error_that_says_so() {
    use proplet::broker::{Broker, Settings};
    let credentials = [("w".to_owned(), "right".to_owned())].into();
    let broker = Broker::start_with(Settings { credentials, ..Settings::default() });
    let broker = broker.expect("a broker");
    let mut worker = Process::spawn(
        program()
            .args(["worker", "--stateless"])
            .args(["--domain-id=d", "--channel-id=c", "--client-id=w", "--client-key=wrong"])
            .arg(format!("--mqtt-address={}", broker.address()))
            .current_dir(crate::support::fixtures())
            .stdin(Stdio::null()),
    );
    let line = worker.logs("connection error");
    assert!(line.contains("credentials") && line.contains("PROPLET_CLIENT_KEY"), "{line}");
    assert!(!line.contains("wrong"), "the key is in the log: {line}");
    worker.signal("INT");
    assert_eq!(worker.ended().code(), Some(0), "{:#?}", worker.log());
}

#[test]
fn a_worker_without_credentials_says_which_and_where_from() {
    let ran = crate::support::proplet(&["worker"], b"", &[("PROPLET_CLIENT_ID", "w")]);
    assert_eq!(ran.code, Some(1));
    for part in ["PROPLET_DOMAIN_ID", "PROPLET_CHANNEL_ID", "PROPLET_CLIENT_KEY", "provision"] {
        assert!(ran.stderr.contains(part), "{part}: {}", ran.stderr);
    }
    assert!(!ran.stderr.contains("PROPLET_CLIENT_ID"), "{}", ran.stderr);
}

/// A compile can't be interrupted, and the process must not crash under it.
#[cfg(feature = "openvino")]
#[test]
fn a_worker_ends_in_order_while_it_loads_a_model() {
    let stage = Stage::new(On::Embedded);
    let graph = format!("openvino::{}", assets().join("fixtures/mobilenet").display());
    // At a different moment of the compile each time.
    for after in (0..160).step_by(10).map(Duration::from_millis) {
        let mut worker = stage.process(&[("nn-graphs", &graph)]);
        worker.logs("OpenVINO loaded");
        std::thread::sleep(after);
        worker.signal("TERM");
        assert_eq!(worker.ended().code(), Some(0), "{after:?}: {:#?}", worker.log());
        let loaded = worker.log().iter().any(|line| line.contains("preloaded"));
        println!("{after:?}: the model was {}", if loaded { "there" } else { "being loaded" });
    }
}
