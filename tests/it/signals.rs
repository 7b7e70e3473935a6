//! Signals that are no end of the worker, and what the log says.

use crate::support::{
    On, PATIENCE, Process, Stage, Task, in_one_process_too, over_both_brokers, program,
};
use std::os::unix::net::UnixDatagram;

over_both_brokers!(
    a_hangup_ends_nothing_and_sets_the_log_level_anew,
    text_from_outside_stays_in_its_line_of_the_log,
);

in_one_process_too!(
    a_hangup_ends_nothing_and_sets_the_log_level_anew,
    text_from_outside_stays_in_its_line_of_the_log
);

/// A worker in `home` whose log level is in its file.
fn with_file(stage: &Stage, home: &std::path::Path) -> Process {
    let environment = stage.environment(stage.address, &[("executors", "1")]);
    let mut command = program();
    command.arg("worker").envs(environment.variables()).current_dir(home);
    let worker = Process::spawn(&mut command);
    worker.logs(&format!("Subscribed to topic {}", stage.topics.stop()));
    worker
}

fn a_hangup_ends_nothing_and_sets_the_log_level_anew(on: On) {
    let stage = Stage::new(on);
    let home = tempfile::tempdir().expect("a directory");
    let write = |text: &str| std::fs::write(home.path().join("config.toml"), text);
    write("[proplet]\nlog_level = \"info\"\n").expect("written");
    let mut worker = with_file(&stage, home.path());
    let running = stage.start(Task::wat("loop-forever"));
    worker.signal("HUP");
    worker.logs("SIGHUP: the log level is info as before, from `log_level` in section [proplet]");

    write("[proplet]\nlog_level = \"debug\"\n").expect("written");
    worker.signal("HUP");
    worker.logs("SIGHUP: the log level is debug now, from `log_level` in section [proplet]");
    stage.publish("stop", r#"{"id":"x","proplet_id":"another"}"#);
    worker.logs("a stop for another worker");

    write("[proplet]\nlog_level = ").expect("written");
    worker.signal("HUP");
    worker.logs("SIGHUP: the log level stays debug, because of the configuration");

    // The task has not noticed, and the worker drains as ever.
    stage.stop(&running);
    stage.result(&running).failed(&["stopped"]);
    // The level is that of the process with the guests and models, too.
    if cfg!(any(feature = "onnx", feature = "openvino")) {
        let encoding = Task::wat("nn-unknown-encoding").args(&["-S", "nn"]).inputs(&["5"]);
        stage.until("that process logs more", || {
            stage.run(encoding.clone());
            worker.log().iter().any(|line| line.contains("the encoding autodetect is not served"))
        });
    }
    worker.signal("HUP");
    worker.signal("TERM");
    assert_eq!(worker.ended().code(), Some(0), "{:#?}", worker.log());
}

#[test]
fn a_service_manager_is_told_of_the_start_and_the_end() {
    let stage = Stage::new(On::Embedded);
    let home = tempfile::tempdir().expect("a directory");
    let socket = UnixDatagram::bind(home.path().join("notify")).expect("a socket");
    socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let told = || {
        let mut message = [0; 256];
        let length = socket.recv(&mut message).expect("a message in time");
        String::from_utf8(message[..length].to_vec()).expect("text")
    };
    let environment = stage.environment(stage.address, &[("executors", "1")]);
    let mut command = program();
    command.arg("worker").envs(environment.variables()).current_dir(home.path());
    let mut worker = Process::spawn(command.env("NOTIFY_SOCKET", home.path().join("notify")));
    assert!(told().starts_with("READY=1\n"), "without a broker, too");
    assert!(told().contains("STATUS=serving"));
    worker.signal("TERM");
    assert!(told().starts_with("STOPPING=1\n"));
    assert_eq!(worker.ended().code(), Some(0), "{:#?}", worker.log());
}

/// ARCHITECTURE.md, case 73.
fn text_from_outside_stays_in_its_line_of_the_log(on: On) {
    let stage = Stage::new(on);
    let worker = stage.process(&[("executors", "1"), ("log-level", "trace")]);
    let id = "id\nERROR proplet: forged\r\u{1b}[2J";
    stage.run(Task::wat("hello").id(id).set("name", "label\nERROR proplet: forged")).stdout();
    stage.run(Task::wat("hello").args(&["--dir=\nERROR proplet: forged\u{1b}[31m"])).error();
    worker.logs(r"id\nERROR proplet: forged\r\u{1b}[2J");
    for line in worker.log() {
        assert!(!line.starts_with("ERROR") && !line.contains(char::is_control), "{line:?}");
    }
}
