//! A broker and somebody who plays the manager on a channel of his own.

use super::PATIENCE;
use super::task::Task;
use super::worker::{Process, Worker};
use crate::manager::{Habits, Manager};
use bytes::Bytes;
use proplet::broker::{Broker, Settings};
use proplet::config::{Config, Environment};
use proplet::mqtt::{self, Address, Event, Link};
use proplet::policy::{Resolve, resolve_dir};
use proplet::protocol::Topics;
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Which broker a test runs against, and where its worker runs guests and
/// models.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    /// One inside the test's own process; in a process of their own, as by
    /// default.
    Embedded,
    /// The same broker; in the worker's process.
    OneProcess,
    /// The one that `PROPLET_TEST_BROKER` names; in a process of their own.
    Mosquitto,
}

/// Makes each of these functions, which take an [`On`], a test against the
/// embedded broker and, to be asked for, one against mosquitto.
macro_rules! over_both_brokers {
    ($($name:ident),* $(,)?) => {
        mod embedded {
            $(#[test]
            fn $name() {
                super::$name($crate::support::On::Embedded);
            })*
        }
        mod mosquitto {
            $(#[test]
            #[ignore = "needs a broker in PROPLET_TEST_BROKER=host:port; .ci/run starts one"]
            fn $name() {
                super::$name($crate::support::On::Mosquitto);
            })*
        }
    };
}
pub(crate) use over_both_brokers;

/// Makes each of these functions, which take an [`On`], one more test with a
/// worker that runs guests and models in its own process.
macro_rules! in_one_process_too {
    ($($name:ident),* $(,)?) => {
        #[cfg(target_os = "linux")]
        mod one_process {
            $(#[test]
            fn $name() {
                super::$name($crate::support::On::OneProcess);
            })*
        }
    };
}
pub(crate) use in_one_process_too;

/// Makes each of these functions, which take an [`On`], a test with either kind
/// of worker.
macro_rules! in_one_process_or_two {
    ($($(#[$attribute:meta])* $name:ident),* $(,)?) => {
        mod two_processes {
            $($(#[$attribute])* #[test]
            fn $name() {
                super::$name($crate::support::On::Embedded);
            })*
        }
        #[cfg(target_os = "linux")]
        mod one_process {
            $($(#[$attribute])* #[test]
            fn $name() {
                super::$name($crate::support::On::OneProcess);
            })*
        }
    };
}
#[cfg(feature = "broker")]
pub(crate) use in_one_process_or_two;

/// A message from a worker.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The topic's last level, such as `results`.
    pub topic: String,
    pub json: Value,
}

#[derive(Default)]
struct Inbox {
    seen: Mutex<Vec<Seen>>,
    connections: Mutex<u32>,
    changed: Condvar,
}

/// See the module's documentation.
pub struct Stage {
    runtime: Option<tokio::runtime::Runtime>,
    broker: Mutex<Option<Broker>>,
    pub address: SocketAddr,
    channel: String,
    /// The worker's client id, which no other stage has.
    pub worker_id: String,
    /// The worker's setting, if it is not the default.
    isolation: Option<&'static str>,
    pub topics: Topics,
    link: Link,
    inbox: Arc<Inbox>,
    tasks: AtomicU32,
}

const DOMAIN: &str = "domain";

impl Stage {
    pub fn new(on: On) -> Stage {
        let (broker, address) = match on {
            On::Embedded | On::OneProcess => {
                let broker = Broker::start().expect("an embedded broker");
                let address = broker.address();
                (Some(broker), address)
            }
            On::Mosquitto => {
                let address = std::env::var("PROPLET_TEST_BROKER").unwrap_or_else(|_| {
                    panic!(
                        "PROPLET_TEST_BROKER=host:port names no broker: start one with \
                         `mosquitto -p 1883` and set it to 127.0.0.1:1883, or run .ci/run"
                    )
                });
                (None, address.parse().expect("PROPLET_TEST_BROKER is an IP address and a port"))
            }
        };
        let isolation = (on == On::OneProcess).then_some("none");
        Stage::with(broker, address, isolation)
    }

    /// At a broker that the test has started.
    pub fn at(address: SocketAddr) -> Stage {
        Stage::with(None, address, None)
    }

    fn with(broker: Option<Broker>, address: SocketAddr, isolation: Option<&'static str>) -> Stage {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(4)
            .enable_all()
            .build()
            .expect("a Tokio runtime");
        let channel = uuid::Uuid::new_v4().to_string();
        let worker_id = format!("worker-{channel}");
        let topics = Topics::new(DOMAIN, &channel);
        let inbox = Arc::<Inbox>::default();
        let link = {
            let _entered = runtime.enter();
            let address = Address { host: address.ip().to_string(), port: address.port() };
            let mut options = mqtt::Options::new(address, &format!("manager-{channel}"));
            options.subscriptions =
                vec![topics.results(), topics.invoke_results(), topics.create(), topics.alive()];
            options.subscriptions.extend([topics.metrics(), topics.task_metrics()]);
            options.backoff.first = Duration::from_millis(10);
            options.backoff.cap = Duration::from_millis(50);
            let (link, events) = mqtt::connect(options).expect("a connection");
            runtime.spawn(listen(events, link.clone(), inbox.clone()));
            link
        };
        let broker = Mutex::new(broker);
        let runtime = Some(runtime);
        let tasks = AtomicU32::new(0);
        let stage = Stage {
            runtime,
            broker,
            address,
            channel,
            worker_id,
            isolation,
            topics,
            link,
            inbox,
            tasks,
        };
        stage.connected(1);
        stage
    }

    /// For other clients of the broker.
    pub fn runtime(&self) -> &tokio::runtime::Runtime {
        self.runtime.as_ref().expect("there until the end")
    }

    /// Waits until the manager has been connected this often.
    pub fn connected(&self, times: u32) {
        let end = Instant::now() + PATIENCE;
        let mut connections = lock(&self.inbox.connections);
        while *connections < times {
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no connection to the broker at {}", self.address);
            (connections, _) = self
                .inbox
                .changed
                .wait_timeout(connections, left)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Ends the embedded broker and starts another one at the same port, which
    /// knows nothing of the first.
    pub fn restart_broker(&self) {
        let before = *lock(&self.inbox.connections);
        let mut broker = lock(&self.broker);
        drop(broker.take().expect("the embedded broker"));
        let settings = Settings { listen: self.address, ..Settings::default() };
        *broker = Some(Broker::start_with(settings).expect("the port is free again"));
        drop(broker);
        self.connected(before + 1);
    }

    /// Starts a stand-in for the manager at this broker, beside the one that
    /// the stage plays.
    pub fn manager(&self, habits: Habits) -> Manager {
        Manager::start(self.address, &self.topics, habits)
    }

    /// A worker's environment, with these settings (`executors`, …) beside the
    /// connection to `address`.
    pub fn environment(&self, address: SocketAddr, settings: &[(&str, &str)]) -> Environment {
        self.environment_in(&super::fixtures(), address, settings)
    }

    /// The same in this working directory.
    fn environment_in(
        &self,
        working_dir: &Path,
        address: SocketAddr,
        settings: &[(&str, &str)],
    ) -> Environment {
        let mut env = Environment::new(working_dir)
            .with_executable(env!("CARGO_BIN_EXE_proplet"))
            .with("PROPLET_DOMAIN_ID", DOMAIN)
            .with("PROPLET_CHANNEL_ID", &self.channel)
            .with("PROPLET_CLIENT_ID", &self.worker_id)
            .with("PROPLET_CLIENT_KEY", "secret")
            .with("PROPLET_MQTT_ADDRESS", address.to_string())
            // Many at a time have one port, and messages that no test asked for.
            .with("PROPLET_METRICS_ENABLED", "false")
            .with("PROPLET_ENABLE_MONITORING", "false")
            // Whose servers are here.
            .with("PROPLET_IMAGE_HOSTS", "*,127.0.0.1")
            // Results that come again have their own tests, in `arrival.rs`.
            .with("PROPLET_RESULT_REPEAT", "0")
            // What a crash leaves has its own tests, in `tests/chaos`.
            .with("PROPLET_STATELESS", "true");
        if let Some(isolation) = self.isolation {
            env = env.with("PROPLET_ISOLATION", isolation);
        }
        for (name, value) in settings {
            env = env.with(&format!("PROPLET_{}", name.replace('-', "_").to_uppercase()), *value);
        }
        env
    }

    /// Starts a worker in this process and waits until it has introduced itself.
    pub fn worker(&self, settings: &[(&str, &str)]) -> Worker {
        self.worker_at(self.address, settings)
    }

    /// The same by another way to the broker.
    pub fn worker_at(&self, address: SocketAddr, settings: &[(&str, &str)]) -> Worker {
        self.start_worker(&self.environment(address, settings), resolve_dir)
    }

    /// The same in this working directory.
    pub fn worker_in(&self, working_dir: &Path, settings: &[(&str, &str)]) -> Worker {
        self.start_worker(&self.environment_in(working_dir, self.address, settings), resolve_dir)
    }

    /// The same with another way to find the directories that tasks name.
    pub fn worker_resolving(&self, resolve: Resolve, settings: &[(&str, &str)]) -> Worker {
        self.start_worker(&self.environment(self.address, settings), resolve)
    }

    /// What provisioning writes of the worker's credentials.
    #[cfg(feature = "openvino")]
    pub fn provisioned(&self) -> String {
        format!(
            "[proplet]\ndomain_id = \"{DOMAIN}\"\nclient_id = \"{}\"\nclient_key = \"secret\"\n\
             channel_id = \"{}\"\n",
            self.worker_id, self.channel
        )
    }

    /// The same with what no setting says.
    pub fn worker_with(
        &self,
        settings: &[(&str, &str)],
        change: impl FnOnce(&mut Config),
    ) -> Worker {
        let environment = self.environment(self.address, settings);
        let mut config = Config::from_environment(&environment).expect("a configuration");
        change(&mut config);
        self.start_configured(config, resolve_dir)
    }

    fn start_worker(&self, environment: &Environment, resolve: Resolve) -> Worker {
        let config = Config::from_environment(environment).expect("a configuration");
        self.start_configured(config, resolve)
    }

    fn start_configured(&self, config: Config, resolve: Resolve) -> Worker {
        let introduced = self.count("create");
        let runtime = self.runtime.as_ref().expect("there until the end");
        let worker = Worker::start(config, resolve, runtime);
        self.wait("the worker's introduction", |seen| {
            (of(seen, "create").count() > introduced).then_some(())
        });
        worker
    }

    /// Starts `proplet worker` and waits until it has introduced itself.
    pub fn process(&self, settings: &[(&str, &str)]) -> Process {
        self.process_at(self.address, settings)
    }

    /// The same by another way to the broker.
    pub fn process_at(&self, address: SocketAddr, settings: &[(&str, &str)]) -> Process {
        let introduced = self.count("create");
        let process = Process::worker(&self.environment(address, settings));
        self.wait("the worker's introduction", |seen| {
            (of(seen, "create").count() > introduced).then_some(())
        });
        process
    }

    /// The same without waiting for it: there may be no way to the broker.
    pub fn process_unheard(&self, address: SocketAddr, settings: &[(&str, &str)]) -> Process {
        Process::worker(&self.environment(address, settings))
    }

    /// Waits for something that no message tells of.
    pub fn until(&self, what: &str, happened: impl Fn() -> bool) {
        let end = Instant::now() + PATIENCE;
        while !happened() {
            assert!(Instant::now() < end, "{what}: it did not come to that");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Publishes to one of the manager's topics, such as `start`.
    pub fn publish(&self, topic: &str, payload: impl Into<Bytes>) {
        let topic = match topic {
            "start" => self.topics.start(),
            "stop" => self.topics.stop(),
            "invoke" => self.topics.invoke(),
            other => panic!("the manager does not speak on {other}"),
        };
        let delivery = self.link.publish(&topic, payload);
        let runtime = self.runtime.as_ref().expect("there until the end");
        let delivered = runtime.block_on(async { tokio::time::timeout(PATIENCE, delivery).await });
        delivered.expect("in time").expect("the broker takes it");
    }

    /// Starts a task; an id of its own is given to one that has none.
    pub fn start(&self, task: Task) -> String {
        let number = self.tasks.fetch_add(1, Ordering::Relaxed);
        let (id, message) = task.message(&format!("task-{number}"), &self.worker_id);
        self.publish("start", message);
        id
    }

    /// Starts a task and waits until it runs, on a worker with one executor
    /// and room for one to wait: of two more tasks one at least is refused, and
    /// told how many run.
    pub fn running(&self, task: Task) -> String {
        let id = self.start(task);
        let end = Instant::now() + PATIENCE;
        loop {
            let probes = [(); 2].map(|()| self.start(Task::wat("hello")));
            let refusal = self.wait("a refusal", |seen| {
                let mut errors = of(seen, "results")
                    .filter(|seen| probes.iter().any(|probe| seen.json["task_id"] == **probe))
                    .filter_map(|seen| seen.json["error"].as_str());
                errors.find(|error| error.starts_with("busy")).map(str::to_owned)
            });
            for probe in &probes {
                self.stop(probe);
                self.result(probe);
            }
            if refusal.starts_with("busy: 1 tasks running") {
                return id;
            }
            assert!(Instant::now() < end, "it does not run: {refusal}");
        }
    }

    pub fn stop(&self, id: &str) {
        self.publish(
            "stop",
            serde_json::json!({ "id": id, "proplet_id": self.worker_id }).to_string(),
        );
    }

    /// Starts a task and waits for its result.
    pub fn run(&self, task: Task) -> Outcome {
        let id = self.start(task);
        self.result(&id)
    }

    /// Waits for a task's first result.
    pub fn result(&self, id: &str) -> Outcome {
        self.nth_result(id, 1)
    }

    /// Waits for a task's `n`th result, the first one being 1.
    pub fn nth_result(&self, id: &str, n: usize) -> Outcome {
        let json = self.wait(&format!("result {n} of {id}"), |seen| {
            let of_task = of(seen, "results").filter(|seen| seen.json["task_id"] == id);
            of_task.map(|seen| seen.json.clone()).nth(n - 1)
        });
        Outcome(json)
    }

    /// How many results a task has had, after everything that was sent before
    /// has been dealt with. For workers with one executor.
    pub fn results_in_the_end(&self, id: &str) -> usize {
        self.settle();
        let seen = lock(&self.inbox.seen);
        of(&seen, "results").filter(|seen| seen.json["task_id"] == id).count()
    }

    /// How many different ones: the same may come more than once.
    pub fn different_results_in_the_end(&self, id: &str) -> usize {
        self.settle();
        let seen = lock(&self.inbox.seen);
        let results = of(&seen, "results").filter(|seen| seen.json["task_id"] == id);
        results.map(|seen| seen.json.to_string()).collect::<BTreeSet<_>>().len()
    }

    /// Waits until the worker has dealt with everything that was sent before,
    /// by a task whose result comes after all others. It also shows that the
    /// worker still works.
    pub fn settle(&self) {
        self.run(Task::wat("hello")).succeeded("hello\n");
    }

    /// How many messages of this kind came so far.
    pub fn count(&self, topic: &str) -> usize {
        of(&lock(&self.inbox.seen), topic).count()
    }

    /// All messages so far, in order.
    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.inbox.seen).clone()
    }

    /// Waits until `find` finds what it looks for among the messages so far.
    pub fn wait<T>(&self, what: &str, find: impl Fn(&[Seen]) -> Option<T>) -> T {
        let end = Instant::now() + PATIENCE;
        let mut seen = lock(&self.inbox.seen);
        loop {
            if let Some(found) = find(&seen) {
                return found;
            }
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{what} did not come; what came: {:#?}", seen.as_slice());
            (seen, _) =
                self.inbox.changed.wait_timeout(seen, left).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // A worker that a failed test left running must not hold the others up.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn listen(mut events: mqtt::Events, link: Link, inbox: Arc<Inbox>) {
    while let Some(event) = events.next().await {
        match event {
            Event::Connected { .. } => *lock(&inbox.connections) += 1,
            Event::Message(message) => {
                let topic = message.topic.rsplit('/').next().unwrap_or_default().to_owned();
                let json = serde_json::from_slice(&message.payload).expect("workers send JSON");
                lock(&inbox.seen).push(Seen { topic, json });
                link.ack(message.ack);
            }
            Event::Acknowledged(_) | Event::Disconnected { .. } => {}
        }
        inbox.changed.notify_all();
    }
}

fn of<'a>(seen: &'a [Seen], topic: &'a str) -> impl Iterator<Item = &'a Seen> {
    seen.iter().filter(move |seen| seen.topic == topic)
}

// A test that failed while it held the lock has changed nothing.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A result as the manager gets it.
#[derive(Clone, Debug)]
pub struct Outcome(pub Value);

impl Outcome {
    /// The error, which must be there.
    #[track_caller]
    pub fn error(&self) -> &str {
        match self.0["error"].as_str() {
            Some(error) if !error.is_empty() => error,
            _ => panic!("the task did not fail: {:#}", self.0),
        }
    }

    /// Standard output of a task that succeeded.
    #[track_caller]
    pub fn stdout(&self) -> &str {
        assert!(self.0["error"].is_null(), "the task failed: {:#}", self.0);
        self.0["results"].as_str().unwrap_or_else(|| panic!("no text: {:#}", self.0))
    }

    /// The task succeeded and printed just this.
    #[track_caller]
    pub fn succeeded(&self, stdout: &str) {
        assert_eq!(self.stdout(), stdout, "{:#}", self.0);
    }

    /// The task failed, and its error contains all of these.
    #[track_caller]
    pub fn failed(&self, parts: &[&str]) {
        let error = self.error();
        for part in parts {
            assert!(error.contains(part), "`{part}` is not in: {error}");
        }
    }

    /// The text of a diagnostic line each.
    pub fn diagnostics(&self) -> Vec<String> {
        let lines = self.0["diagnostics"].as_array().into_iter().flatten();
        lines.filter_map(|line| Some(line.as_str()?.to_owned())).collect()
    }
}
