//! No task and no result is ever lost, whatever is killed, cut or restarted.
//!
//! Worker and mosquitto run as processes; between them is a proxy that cuts
//! and stalls connections and sees what each side acknowledges. Each result
//! holds random characters, so a task that was run twice and answered twice shows.
//!
//! `habits` does the same with a manager and a broker that have the habits of
//! Propeller's; there a task must end in the manager, too.
//!
//! Needs mosquitto, and is asked for: `cargo test --test chaos -- --ignored`.
//! `PROPLET_CHAOS_SECONDS` (20) is how long it goes on, with each habit three
//! quarters of it, `PROPLET_CHAOS_SEED` repeats the choices of a run. The cost of the journal:
//! `cargo test --release --test chaos cost -- --ignored --nocapture`.

#![allow(unreachable_pub, reason = "a test binary exports nothing; `pub` marks what modules share")]

mod crashes;
mod deployments;
#[path = "../it/support/fluxmq.rs"]
#[allow(dead_code, reason = "the other tests need all of it")]
mod fluxmq;
#[path = "../manager/mod.rs"]
mod manager;
mod manager_faults;
mod processes;
mod proxy;
#[cfg(all(target_os = "linux", feature = "openvino"))]
mod soak;
mod wire;

use processes::{Broker, Worker};
use proplet::mqtt::{self, Address, Backoff, CleanSession, Event, Events, Link, Options};
use proplet::protocol::{Topics, encode_start};
use proplet::task::{Binary, ModuleSource, TaskId, TaskRequest};
use proxy::{Proxy, Record};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A number from the environment.
fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

/// Prints eight random characters of ASCII, and this many zeros, after counting to `turns`.
fn guest(turns: u32, zeros: u32) -> Vec<u8> {
    let (length, pages) = (8 + zeros, 1 + (zeros + 24) / 65_536);
    let text = format!(
        r#"(module
          (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
          (import "wasi_snapshot_preview1" "fd_write"
            (func $write (param i32 i32 i32 i32) (result i32)))
          (memory (export "memory") {pages})
          (func (export "_start") (local $n i32)
            (local.set $n (i32.const {turns}))
            (loop $again
              (local.set $n (i32.sub (local.get $n) (i32.const 1)))
              (br_if $again (i32.gt_s (local.get $n) (i32.const 0))))
            (drop (call $random (i32.const 16) (i32.const 8)))
            (i64.store (i32.const 16)
              (i64.and (i64.load (i32.const 16)) (i64.const 0x7f7f7f7f7f7f7f7f)))
            (i32.store (i32.const 0) (i32.const 16))
            (i32.store (i32.const 4) (i32.const {length}))
            (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#
    );
    wat::parse_str(text).expect("a module")
}

/// What a run plays with, and for how long.
struct Stage {
    seconds: u64,
    dir: tempfile::TempDir,
    broker: Broker,
    proxy: Proxy,
    worker: Worker,
}

impl Stage {
    /// Starts all of it, and says what makes the same choices again.
    fn set() -> Stage {
        let seconds = number("PROPLET_CHAOS_SECONDS", 20);
        let seed = number("PROPLET_CHAOS_SEED", fastrand::u64(..));
        println!("PROPLET_CHAOS_SEED={seed}");
        fastrand::seed(seed);
        let dir = tempfile::tempdir().expect("a folder");
        let broker = Broker::start(dir.path());
        let proxy = Proxy::start(broker.port);
        let worker = Worker::start(dir.path(), proxy.port, &[]);
        // The broker keeps nothing for a worker that it does not know yet.
        let deadline = Instant::now() + Duration::from_secs(60);
        let log = || std::fs::read_to_string(dir.path().join("worker.log")).unwrap_or_default();
        while !log().contains("connected to the broker") {
            assert!(Instant::now() < deadline, "the worker does not connect: {}", log());
            std::thread::sleep(Duration::from_millis(10));
        }
        Stage { seconds, dir, broker, proxy, worker }
    }
}

/// Connects as the manager, and subscribes.
fn connect(port: u16, subscription: String) -> (Link, Events) {
    let mut options = Options::new(Address { host: "127.0.0.1".into(), port }, "manager");
    options.subscriptions = vec![subscription];
    options.clean_session = CleanSession::Never;
    options.backoff = Backoff {
        first: Duration::from_millis(200),
        cap: Duration::from_secs(1),
        ..Backoff::default()
    };
    mqtt::connect(options).expect("a connection")
}

fn stop(link: &Link, topics: &Topics, id: &str) {
    let message = serde_json::json!({ "id": id, "proplet_id": "worker" }).to_string();
    drop(link.publish(&topics.stop(), message));
}

/// Plays the manager.
struct Manager {
    link: Link,
    topics: Topics,
    modules: Vec<ModuleSource>,
    /// What the subscriber got: results by task, and how often.
    got: Got,
}

impl Manager {
    fn connect(port: u16) -> Manager {
        let topics = Topics::new("domain", "channel");
        let (link, events) = connect(port, topics.results());
        let got = Arc::default();
        tokio::spawn(consume(events, link.clone(), Arc::clone(&got)));
        let modules = [1, 20_000_000];
        let modules = modules
            .into_iter()
            .map(|turns| ModuleSource::Bytes(Binary::new(guest(turns, 0))))
            .collect();
        Manager { link, topics, modules, got }
    }

    fn start(&self, request: &TaskRequest) {
        let message = encode_start(request, Some("worker"));
        drop(self.link.publish(&self.topics.start(), message));
    }

    fn stop(&self, id: &str) {
        stop(&self.link, &self.topics, id);
    }

    /// Starts a numbered task; sometimes the message goes out twice.
    fn submit(&self, number: u64, twice: bool) {
        let request = TaskRequest {
            name: "chaos".into(),
            module: Some(self.modules[usize::from(number.is_multiple_of(8))].clone()),
            inputs: vec![number.to_string()],
            ..TaskRequest::new(TaskId::new(&format!("task-{number}")).expect("an id"))
        };
        for _ in 0..=u8::from(twice) {
            self.start(&request);
        }
    }
}

type Got = Arc<Mutex<HashMap<String, (HashSet<String>, u64)>>>;

async fn consume(mut events: Events, link: Link, got: Got) {
    while let Some(event) = events.next().await {
        let Event::Message(message) = event else { continue };
        let mut json: serde_json::Value =
            serde_json::from_slice(&message.payload).expect("a result is JSON");
        json.as_object_mut().expect("a result is an object").remove("replayed");
        let task = json["task_id"].as_str().expect("a task's id").to_owned();
        {
            let mut got = got.lock().expect("the results");
            let (results, times) = got.entry(task).or_default();
            results.insert(json.to_string());
            *times += 1;
        }
        link.ack(message.ack);
    }
}

#[derive(Debug, Default)]
struct Deeds {
    kills: u32,
    ends: u32,
    cuts: u32,
    stalls: u32,
    restarts: u32,
    wipes: u32,
}

impl Deeds {
    fn one(&mut self, worker: &mut Worker, broker: &mut Broker, proxy: &Proxy) -> bool {
        match fastrand::u32(..100) {
            0..40 => {
                self.kills += 1;
                worker.kill();
            }
            40..50 => {
                self.ends += 1;
                worker.restart();
            }
            50..75 => {
                self.cuts += 1;
                proxy.cut();
            }
            75..88 => {
                self.stalls += 1;
                proxy.stall(Duration::from_millis(fastrand::u64(100..3000)));
            }
            88..96 => {
                self.restarts += 1;
                broker.restart(true);
            }
            _ => {
                self.wipes += 1;
                broker.restart(false);
                return true;
            }
        }
        false
    }
}

/// Tasks whose start the worker has acknowledged, without a result that the
/// broker has.
fn open_tasks(record: &Record) -> Vec<&String> {
    let open = record.tasks.iter().filter(|(_, seen)| seen.accepted && !seen.answered);
    open.map(|(id, _)| id).collect()
}

#[test]
#[ignore = "needs mosquitto; .ci/run asks for it"]
fn nothing_is_lost_and_nothing_diverges() {
    let Stage { seconds, dir, mut broker, proxy, mut worker } = Stage::set();
    let tokio = tokio::runtime::Runtime::new().expect("a runtime");
    let _entered = tokio.enter();
    let manager = Manager::connect(broker.port);

    let mut deeds = Deeds::default();
    let (begun, mut submitted, mut written_off) = (Instant::now(), 0_u64, 0_u64);
    let mut next_deed = Instant::now() + Duration::from_secs(2);
    while begun.elapsed() < Duration::from_secs(seconds) {
        let answered = {
            let record = proxy.record.lock().expect("the record");
            record.tasks.values().filter(|seen| !seen.results.is_empty()).count() as u64
        };
        if submitted.saturating_sub(answered + written_off) < 150 {
            for _ in 0..10 {
                submitted += 1;
                manager.submit(submitted, fastrand::u8(..20) == 0);
            }
        }
        if Instant::now() >= next_deed {
            let wiped = deeds.one(&mut worker, &mut broker, &proxy);
            if wiped {
                // What the broker has forgotten is not the worker's to answer.
                written_off = submitted.saturating_sub(answered);
            }
            next_deed = Instant::now() + Duration::from_millis(fastrand::u64(50..4000));
        }
        std::thread::sleep(Duration::from_millis(10));
    }

    // Now in peace, and with a result for every task that was accepted.
    let deadline = Instant::now() + Duration::from_secs(120);
    let mut quiet = Instant::now();
    let mut last = 0;
    while Instant::now() < deadline && quiet.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(200));
        let record = proxy.record.lock().expect("the record");
        let sent: u64 = record.tasks.values().map(|seen| seen.sent).sum();
        let open = open_tasks(&record).len();
        if sent != last || open > 0 {
            (last, quiet) = (sent, Instant::now());
        }
    }
    let memory = worker.memory() >> 20;
    worker.end();
    let record = proxy.record.lock().expect("the record");
    let got = manager.got.lock().expect("the results");
    let lost = open_tasks(&record);
    let accepted = record.tasks.values().filter(|seen| seen.accepted).count();
    let divergent: Vec<_> =
        record.tasks.iter().filter(|(_, seen)| seen.results.len() > 1).map(|(id, _)| id).collect();
    let divergent_at_consumer = got.values().filter(|(results, _)| results.len() > 1).count();
    let repeated: u64 = got.values().map(|(_, times)| times - 1).sum();
    let fatal = record.tasks.values().filter(|seen| {
        seen.results.iter().any(|result| String::from_utf8_lossy(result).contains("worker died"))
    });
    println!(
        "{} s: {submitted} tasks submitted, {accepted} acknowledged by the worker; {deeds:?}; \
         lost {}, divergent {} (at the consumer {divergent_at_consumer}), results seen again by \
         the consumer {repeated}, given up after three deaths {}, worker {memory} MiB",
        begun.elapsed().as_secs(),
        lost.len(),
        divergent.len(),
        fatal.count(),
    );
    let log = std::fs::read_to_string(dir.path().join("worker.log")).unwrap_or_default();
    if !lost.is_empty() || !divergent.is_empty() {
        let keep = std::env::temp_dir().join("proplet-chaos.log");
        std::fs::write(&keep, &log).ok();
        println!("the worker's log is {}", keep.display());
    }
    assert!(!log.contains("panicked"), "the worker panicked");
    assert_eq!(lost, Vec::<&String>::new(), "tasks were lost");
    assert_eq!(divergent, Vec::<&String>::new(), "tasks have different results");
    assert!(accepted as u64 >= seconds, "too few tasks to mean anything: {accepted}");
}

/// Tasks per second with and without the journal.
#[test]
#[ignore = "needs mosquitto; a measurement, for a release build"]
fn cost_of_the_journal() {
    let tokio = tokio::runtime::Runtime::new().expect("a runtime");
    let _entered = tokio.enter();
    for (flags, what) in [(&["--stateless=true"][..], "without"), (&[][..], "with")] {
        for window in [1_u64, 100] {
            let dir = tempfile::tempdir().expect("a folder");
            let broker = Broker::start(dir.path());
            let _worker =
                Worker::start(dir.path(), broker.port, &[flags, &["--log-level=warn"]].concat());
            let manager = Manager::connect(broker.port);
            let answered = || manager.got.lock().expect("the results").len() as u64;
            // The worker may connect a little later: a persistent session or a
            // task that is sent again covers that.
            let mut number = 1_000_001;
            while answered() == 0 {
                manager.submit(number, false);
                std::thread::sleep(Duration::from_millis(500));
                number += 8;
            }
            let mut warm = 0;
            while warm != answered() {
                warm = answered();
                std::thread::sleep(Duration::from_millis(300));
            }
            let (begun, mut submitted, base) = (Instant::now(), 0_u64, answered());
            while begun.elapsed() < Duration::from_secs(8) {
                if submitted < answered() - base + window {
                    submitted += 1;
                    // Quick ones only.
                    manager.submit(submitted * 8 + 1, false);
                } else {
                    std::thread::sleep(Duration::from_micros(100));
                }
            }
            let rate = (answered() - base) as f64 / begun.elapsed().as_secs_f64();
            println!("{what} the journal, {window} at a time: {rate:.0} tasks/s");
        }
    }
}
