//! `proplet submit`, the program itself, against a broker and a worker in this
//! process.

use super::support::wat;
use proplet::broker::{Broker, Settings};
use proplet::config::{Config, Environment};
use proplet::mqtt::{self, Address, Event, MqttLogin};
use proplet::protocol::Topics;
use serde_json::Value;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

const KEY: &str = "secret";

/// A broker, and the files that the program is given.
struct Channel {
    broker: Broker,
    dir: tempfile::TempDir,
    workers: Vec<Worker>,
}

/// A worker on a runtime and a thread of its own. Dropping it ends it.
struct Worker {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !std::thread::panicking()
        {
            panic!("the worker failed");
        }
    }
}

impl Channel {
    fn without_a_worker() -> Channel {
        let credentials = ["w1", "w2", "boss"].map(|name| (name.to_owned(), KEY.to_owned())).into();
        let broker = Broker::start_with(Settings { credentials, ..Settings::default() });
        Channel {
            broker: broker.expect("a broker"),
            dir: tempfile::tempdir().expect("a folder"),
            workers: vec![],
        }
    }

    fn new() -> Channel {
        Channel::without_a_worker().worker("w1")
    }

    fn worker(mut self, id: &str) -> Channel {
        let mut env = Environment::new(self.dir.path())
            .with_executable(env!("CARGO_BIN_EXE_proplet"))
            .with("PROPLET_EXECUTORS", "2")
            .with("PROPLET_LIVELINESS_INTERVAL", "100ms");
        for (name, value) in variables(self.broker.address(), id) {
            env = env.with(name, value);
        }
        let config = Config::from_environment(&env).expect("a configuration");
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .expect("a runtime");
            let stopped = async {
                stopped.await.ok();
            };
            runtime.block_on(proplet::worker::run(config, stopped)).expect("the worker ran");
        });
        self.workers.push(Worker { stop: Some(stop), thread: Some(thread) });
        self.await_worker(id);
        self
    }

    /// A task to a worker that is not there yet is nobody's.
    fn await_worker(&self, id: &str) {
        let started = Instant::now();
        loop {
            let probe = self.submit(&["--timeout=1s", "--proplet", id], "hello").output();
            if probe.expect("the program runs").status.success() {
                return;
            }
            assert!(started.elapsed() < Duration::from_secs(60), "worker {id} does not come");
        }
    }

    /// Watches the broker for tasks that are started from now on.
    fn starts(&self) -> Starts {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let address = self.broker.address();
        let address = Address { host: address.ip().to_string(), port: address.port() };
        let mut options = mqtt::Options::new(address, "boss");
        options.login = Some(MqttLogin { username: "boss".into(), password: KEY.into() });
        options.subscriptions = vec![Topics::new("domain", "channel").start()];
        let (link, mut events) = {
            let _entered = runtime.enter();
            mqtt::connect(options).expect("a connection")
        };
        let first = runtime.block_on(events.next());
        assert!(matches!(first, Some(Event::Connected { .. })), "{first:?}");
        let (started, starts) = mpsc::channel();
        runtime.spawn(async move {
            while let Some(event) = events.next().await {
                if let Event::Message(message) = event {
                    link.ack(message.ack);
                    // Nobody may count any more.
                    started.send(()).ok();
                }
            }
        });
        Starts { starts, _runtime: runtime }
    }

    fn guest(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(format!("{name}.wasm"));
        std::fs::write(&path, wat(name)).expect("written");
        path
    }

    /// `proplet submit` with the worker's credentials and nothing else set.
    fn submit(&self, options: &[&str], guest: &str) -> Command {
        let mut command = program(self.broker.address());
        command.current_dir(self.dir.path()).args(options).arg(self.guest(guest));
        command
    }

    fn run(&self, options: &[&str], guest: &str) -> Output {
        self.submit(options, guest).output().expect("the program runs")
    }
}

/// The tasks that are started at a broker.
struct Starts {
    starts: mpsc::Receiver<()>,
    _runtime: tokio::runtime::Runtime,
}

impl Starts {
    fn wait_for(&self, number: usize) {
        for _ in 0..number {
            self.starts.recv_timeout(Duration::from_secs(60)).expect("a task is started");
        }
    }
}

fn variables(broker: SocketAddr, id: &str) -> [(&'static str, String); 5] {
    [
        ("PROPLET_DOMAIN_ID", "domain".into()),
        ("PROPLET_CHANNEL_ID", "channel".into()),
        ("PROPLET_CLIENT_ID", id.into()),
        ("PROPLET_CLIENT_KEY", KEY.into()),
        ("PROPLET_MQTT_ADDRESS", format!("tcp://{broker}")),
    ]
}

fn program(broker: SocketAddr) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_proplet"));
    command.env_clear().envs(variables(broker, "w1")).arg("submit").stdin(Stdio::null());
    command
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).expect("text")
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).expect("text")
}

#[track_caller]
fn succeeded(output: &Output) {
    assert!(output.status.success(), "{}: {}", output.status, stderr(output));
    assert_eq!(stderr(output), "");
}

#[test]
fn stdout_of_the_guest_is_printed_as_it_is() {
    let channel = Channel::new();
    let output = channel.run(&[], "hello");
    succeeded(&output);
    assert!(stdout(&output).starts_with("hello"), "{:?}", stdout(&output));
    // Also what is no text.
    let output = channel.run(&[], "stdout-binary");
    succeeded(&output);
    assert_eq!(output.stdout, b"\x61\x00\x1b\x5b\x33\x31\x6d\xff\xfe\xc3\x0d\x0a");
}

#[test]
fn arguments_variables_and_cli_args_reach_the_guest() {
    let channel = Channel::new();
    let output = channel.run(&["--input", "one", "--input=-2"], "echo-args");
    succeeded(&output);
    let lines: Vec<_> = stdout(&output).lines().skip(1).collect();
    assert_eq!(lines, ["one", "-2"]);
    let mut command = channel.submit(&["--env", "A=b"], "echo-env");
    let output = command.args(["--", "--env", "C=d"]).output().expect("the program runs");
    succeeded(&output);
    let told = stdout(&output).lines().filter(|line| !line.starts_with("PROPLET_ID="));
    assert_eq!(told.collect::<Vec<_>>(), ["A=b", "C=d"]);
}

#[test]
fn a_guest_from_standard_input_runs_too() {
    let channel = Channel::new();
    let mut command = program(channel.broker.address());
    let guest = std::fs::File::open(channel.guest("hello")).expect("there");
    let output = command.arg("-").stdin(guest).output().expect("the program runs");
    succeeded(&output);
}

#[test]
fn a_task_that_failed_is_told_once_and_exits_with_1() {
    let channel = Channel::new();
    let output = channel.run(&[], "stderr-then-trap");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stdout(&output).trim_end(), "partial result");
    let error = stderr(&output);
    assert!(error.starts_with("about to fail"), "{error}");
    assert_eq!(error.lines().filter(|line| *line == "about to fail").count(), 1, "{error}");
    let cause = "stderr-then-trap.wasm failed on worker w1: guest: about to fail\n";
    assert!(error.contains(cause), "{error}");
    assert!(error.contains("unreachable"), "{error}");

    // The worker's own refusal.
    let mut command = channel.submit(&[], "hello");
    let output = command.args(["--", "--dir=/etc"]).output().expect("the program runs");
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("`--dir /etc` is outside"), "{}", stderr(&output));
}

#[test]
fn json_is_the_whole_result_on_one_line() {
    let channel = Channel::new();
    let output = channel.run(&["--json"], "hello");
    succeeded(&output);
    assert_eq!(stdout(&output).lines().count(), 1);
    let result: Value = serde_json::from_str(stdout(&output)).expect("JSON");
    assert_eq!(result["proplet_id"], "w1");
    assert_eq!(result["error"], Value::Null);
    assert_eq!(result["exit_code"], 0);
    assert!(result["timings"]["ran"].is_number(), "{result}");

    let output = channel.run(&["--json", "--input", "3"], "exit");
    assert_eq!(output.status.code(), Some(1));
    let result: Value = serde_json::from_str(stdout(&output)).expect("JSON");
    assert_eq!(result["exit_code"], 3);
}

#[test]
fn many_tasks_are_summed_up() {
    let channel = Channel::new();
    let output = channel.run(&["--count", "10", "--parallel", "4", "--json"], "hello");
    succeeded(&output);
    let summary: Value = serde_json::from_str(stdout(&output)).expect("JSON");
    assert_eq!((&summary["tasks"], &summary["failed"]), (&10.into(), &0.into()));
    // The worker has run this guest before, when it was waited for.
    assert_eq!(summary["reused"]["modules"], 10);
    let latency = |name: &str| summary["latency_ms"][name].as_f64().expect("a number");
    assert!(latency("min") > 0.0 && latency("min") <= latency("p50"), "{summary}");
    assert!(latency("p50") <= latency("p99") && latency("p99") <= latency("max"), "{summary}");
    assert!(summary["throughput"].as_f64().is_some_and(|n| n > 0.0), "{summary}");

    let output = channel.run(&["--count", "3"], "hello");
    succeeded(&output);
    for part in ["3 completed, 0 failed", "latency     min ", " p99 ", "tasks/s", "3 of 3 tasks"] {
        assert!(stdout(&output).contains(part), "{part}: {}", stdout(&output));
    }

    let output = channel.run(&["--count", "3", "--parallel", "2", "--input", "7"], "exit");
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("0 completed, 3 failed"), "{}", stdout(&output));
    assert!(stderr(&output).contains("3× the guest exited with code 7"), "{}", stderr(&output));
}

#[test]
fn one_of_two_workers_can_be_named_and_a_broadcast_has_one_answer() {
    let channel = Channel::new().worker("w2");
    for id in ["w1", "w2"] {
        let output = channel.run(&["--json", "--proplet", id], "hello");
        succeeded(&output);
        let result: Value = serde_json::from_str(stdout(&output)).expect("JSON");
        assert_eq!(result["proplet_id"], id);
    }
    let output = channel.run(&["--count", "5", "--json"], "hello");
    succeeded(&output);
    let summary: Value = serde_json::from_str(stdout(&output)).expect("JSON");
    assert_eq!(summary["tasks"], 5);
}

#[test]
fn without_a_worker_the_error_says_that_none_is_alive() {
    let channel = Channel::without_a_worker();
    for options in [&["--timeout=1s"][..], &["--timeout=1s", "--count=50"]] {
        let output = channel.run(options, "hello");
        assert_eq!(output.status.code(), Some(1));
        let error = stderr(&output);
        assert!(
            error.contains("no worker is alive on channel channel of domain domain"),
            "{error}"
        );
        assert!(error.contains("within 1s") && error.contains("PROPLET_CHANNEL_ID"), "{error}");
    }
}

#[test]
fn a_task_that_takes_too_long_is_told_apart_and_stopped() {
    let channel = Channel::new();
    let output = channel.run(&["--timeout=1s"], "loop-forever");
    assert_eq!(output.status.code(), Some(1));
    let error = stderr(&output);
    assert!(error.contains("no result within 1s") && error.contains("alive: w1"), "{error}");
    // Two such would fill both executors.
    channel.run(&["--timeout=1s"], "loop-forever");
    channel.run(&["--timeout=1s"], "loop-forever");
    succeeded(&channel.run(&[], "hello"));
}

#[test]
fn a_broker_that_is_not_there_is_told_at_once() {
    let gone = Broker::start().expect("a broker").address();
    let channel = Channel::without_a_worker();
    let mut command = program(gone);
    let output = command.arg(channel.guest("hello")).output().expect("the program runs");
    assert_eq!(output.status.code(), Some(1));
    let error = stderr(&output);
    assert!(error.starts_with("proplet: ") && error.lines().count() == 1, "{error}");
    assert!(error.contains(&gone.to_string()) && error.contains("nothing listens"), "{error}");
}

#[test]
fn the_managers_credentials_come_first_and_wrong_ones_are_named() {
    let channel = Channel::new();
    let mut command = channel.submit(&[], "hello");
    command.env("MANAGER_CLIENT_ID", "boss").env("MANAGER_CLIENT_KEY", KEY);
    succeeded(&command.output().expect("the program runs"));
    command.env("MANAGER_CLIENT_KEY", "wrong");
    let output = command.output().expect("the program runs");
    assert_eq!(output.status.code(), Some(1));
    let error = stderr(&output);
    assert!(error.contains("user name boss, from the variable MANAGER_CLIENT_ID"), "{error}");
    assert!(!error.contains("wrong"), "{error}");
}

#[test]
fn ctrl_c_stops_the_task_and_exits_with_130() {
    let channel = Channel::new();
    let starts = channel.starts();
    let both: Vec<Child> = (0..2)
        .map(|_| {
            let mut command = channel.submit(&[], "loop-forever");
            command.stdout(Stdio::null()).spawn().expect("the program starts")
        })
        .collect();
    // What the broker has told of comes to the worker before what follows.
    starts.wait_for(2);
    for mut child in both {
        let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
        assert!(kill.expect("kill runs").success());
        assert_eq!(child.wait().expect("it ends").code(), Some(130));
    }
    // Both executors are free again.
    succeeded(&channel.run(&["--timeout=60s"], "hello"));
}
