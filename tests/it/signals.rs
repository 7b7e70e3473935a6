//! Signals that are no end of the worker, and what the log says.

use crate::support::{
    On, PATIENCE, Process, Stage, Task, in_one_process_too, over_both_brokers, program,
};
use std::os::unix::net::UnixDatagram;

over_both_brokers!(
    a_hangup_ends_nothing_and_takes_over_what_it_can,
    text_from_outside_stays_in_its_line_of_the_log,
);

in_one_process_too!(
    a_hangup_ends_nothing_and_takes_over_what_it_can,
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

fn a_hangup_ends_nothing_and_takes_over_what_it_can(on: On) {
    let stage = Stage::new(on);
    let home = tempfile::tempdir().expect("a directory");
    let write = |text: &str| std::fs::write(home.path().join("config.toml"), text);
    write("[proplet]\nlog_level = \"info\"\n").expect("written");
    let mut worker = with_file(&stage, home.path());
    let running = stage.start(Task::wat("loop-forever"));
    worker.signal("HUP");
    worker.logs("SIGHUP: nothing has changed that takes effect at once");

    write("[proplet]\nlog_level = \"debug\"\nqueue = 7\n").expect("written");
    worker.signal("HUP");
    worker.logs("SIGHUP: log-level took effect; a restart is needed for queue");
    stage.publish("stop", r#"{"id":"x","proplet_id":"another"}"#);
    worker.logs("a stop for another worker");

    write("[proplet]\nlog_level = ").expect("written");
    worker.signal("HUP");
    worker.logs("SIGHUP: all stays as it is, because of the configuration");

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
    write("[proplet]\nlog_format = \"json\"\n").expect("written");
    worker.signal("HUP");
    worker.logs(r#""message":"SIGHUP: log-level, log-format took effect"#);
    worker.signal("HUP");
    worker.signal("TERM");
    assert_eq!(worker.ended().code(), Some(0), "{:#?}", worker.log());
}

/// Limits and directories of tasks that come from then on; the one that runs keeps
/// what it had.
#[test]
fn limits_and_directories_take_effect_while_the_worker_runs() {
    let stage = Stage::new(On::Embedded);
    let home = tempfile::tempdir().expect("a directory");
    for (dir, content) in [("a", "in a"), ("b", "in b")] {
        std::fs::create_dir(home.path().join(dir)).expect("made");
        std::fs::write(home.path().join(dir).join("file"), content).expect("written");
    }
    let write =
        |text: &str| std::fs::write(home.path().join("config.toml"), format!("[proplet]\n{text}"));
    write("dirs = \"a\"\n").expect("written");
    let environment = stage.environment(stage.address, &[]);
    let variables = environment.variables().filter(|(name, _)| *name != "PROPLET_DIRS");
    let mut command = program();
    command.arg("worker").envs(variables).current_dir(home.path());
    let worker = Process::spawn(&mut command);
    worker.logs(&format!("Subscribed to topic {}", stage.topics.stop()));
    let cat =
        |dir: &str| stage.run(Task::wat("cat").args(&[&format!("--dir={dir}")]).inputs(&["file"]));
    cat("a").succeeded("in a");
    cat("b").failed(&["outside the allowed directories"]);
    let running = stage.start(Task::wat("loop-forever"));
    worker.logs(&format!("task accepted task={running}"));
    write("dirs = \"b\"\ntask_timeout = \"400ms\"\n").expect("written");
    worker.signal("HUP");
    worker.logs("SIGHUP: task-timeout, dirs took effect");
    cat("b").succeeded("in b");
    cat("a").failed(&["outside the allowed directories"]);
    stage.run(Task::wat("loop-forever")).failed(&["timeout", "400ms"]);
    // What can't work changes nothing.
    write("dirs = \"/proc\"\n").expect("written");
    worker.signal("HUP");
    worker.logs("SIGHUP: all stays as it is: the allowed directory /proc reaches /proc");
    cat("b").succeeded("in b");
    stage.stop(&running);
    stage.result(&running).failed(&["stopped"]);
}

/// A key that was refused is tried again with the one that the file has by then.
#[test]
fn a_new_key_is_used_for_the_next_connection() {
    let stage = Stage::new(On::Embedded);
    let home = tempfile::tempdir().expect("a directory");
    let write = |key: &str| {
        let text = format!("[proplet]\nclient_key = \"{key}\"\n");
        std::fs::write(home.path().join("config.toml"), text).expect("written");
    };
    write("first");
    let environment = stage.environment(stage.address, &[]);
    let variables = environment.variables().filter(|(name, _)| *name != "PROPLET_CLIENT_KEY");
    let mut command = program();
    command.arg("worker").envs(variables).current_dir(home.path());
    let worker = Process::spawn(&mut command);
    worker.logs(&format!("Subscribed to topic {}", stage.topics.stop()));
    write("second");
    worker.signal("HUP");
    worker.logs("SIGHUP: client-key took effect");
    stage.run(Task::wat("hello")).succeeded("hello\n");
    assert!(worker.log().iter().all(|line| !line.contains("second")), "{:#?}", worker.log());
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
