//! Nothing is lost with a manager and a broker that have the habits of
//! Propeller's, while worker, manager and broker are killed and restarted: each
//! task that the worker has taken ends in the manager too.

use crate::fluxmq::{self, FluxMq};
use crate::guest;
use crate::manager::{Answer, Client, Habits, Manager, Store};
use crate::processes::{Broker, Worker};
use crate::proxy::{Proxy, Seen};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proplet::protocol::Topics;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Tasks of one test: the worker asks the manager about ten of them a second.
const TASKS: usize = 120;

/// Bytes that some of them print: as JSON more than FluxMQ takes in a packet.
const MUCH: u32 = 250_000;

/// Who start them.
const USERS: u32 = 12;

/// What is left to do when everybody is well again is done within this time:
/// the worker asks the manager 15 s after a result, and 30 s after that.
const PEACE: Duration = Duration::from_secs(120);

/// What is out of the ordinary in a test.
#[derive(Default)]
struct Case {
    name: &'static str,
    habits: Habits,
    /// The broker drops persistent sessions and ends connections on large packets.
    fluxmq: bool,
    /// Some tasks are started again and again.
    scheduled: bool,
    /// Each task is started a second time.
    started_twice: bool,
}

#[test]
#[ignore = "needs mosquitto; .ci/run asks for it"]
fn a_manager_that_marks_tasks_as_running_after_seconds() {
    let late = Duration::ZERO..Duration::from_secs(5);
    let habits = Habits { running_after: late, ..Habits::default() };
    endure(Case { name: "late", habits, ..Case::default() });
}

#[test]
#[ignore = "needs mosquitto; .ci/run asks for it"]
fn a_manager_that_is_deaf_after_a_reconnect() {
    endure(Case { name: "deaf", ..Case::default() });
}

#[test]
#[ignore = "needs mosquitto; .ci/run asks for it"]
fn a_manager_with_a_schedule_that_starts_the_same_tasks() {
    endure(Case { name: "schedule", scheduled: true, ..Case::default() });
}

#[test]
#[ignore = "needs mosquitto; .ci/run asks for it"]
fn a_manager_that_refuses_a_second_start() {
    let habits = Habits {
        store: Store::Sqlite,
        running_after: Duration::from_millis(50)..Duration::from_millis(100),
        ..Habits::default()
    };
    endure(Case { name: "sqlite", habits, started_twice: true, ..Case::default() });
}

#[test]
#[ignore = "needs mosquitto; .ci/run asks for it"]
fn a_manager_that_forgets_its_tasks() {
    let habits = Habits { store: Store::Memory, ..Habits::default() };
    endure(Case { name: "memory", habits, ..Case::default() });
}

#[test]
#[ignore = "needs mosquitto; .ci/run asks for it"]
fn a_broker_that_drops_persistent_sessions_and_large_packets() {
    endure(Case { name: "fluxmq", fluxmq: true, ..Case::default() });
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Deed {
    KillWorker,
    KillManager,
    RestartBroker,
    Cut,
    Stall,
    StandStill,
}

/// What is done in each round, in any order.
const ROUND: [Deed; 8] = [
    Deed::KillWorker,
    Deed::KillWorker,
    Deed::KillWorker,
    Deed::KillManager,
    Deed::RestartBroker,
    Deed::Cut,
    Deed::Stall,
    Deed::StandStill,
];

/// All that can be killed.
struct Scene {
    case: Case,
    worker: Worker,
    manager: Manager,
    broker: Broker,
    proxy: Proxy,
    /// Tasks that the schedule starts.
    scheduled: Vec<String>,
    deeds: BTreeMap<Deed, u32>,
    dir: tempfile::TempDir,
}

impl Scene {
    fn new(case: Case) -> Scene {
        let dir = tempfile::tempdir().expect("a folder");
        let broker = Broker::start(dir.path());
        let behaviour = match case.fluxmq {
            true => fluxmq::Habits { no_sessions: true, packet: 1 << 20, ..Default::default() },
            false => fluxmq::Habits::default(),
        };
        let fluxmq = FluxMq::before(SocketAddr::from(([127, 0, 0, 1], broker.port)), behaviour);
        let topics = Topics::new("domain", "channel");
        let manager = Manager::start(fluxmq.address, &topics, case.habits.clone());
        let proxy = Proxy::start(fluxmq.address.port());
        let manager_url = format!("--manager-url={}", manager.url());
        let worker =
            Worker::start(dir.path(), proxy.port, &["--liveliness-interval=500ms", &manager_url]);
        manager.worker_alive("worker");
        let (scheduled, deeds) = (vec![], BTreeMap::new());
        Scene { case, worker, manager, broker, proxy, scheduled, deeds, dir }
    }

    fn carry_out(&mut self, deed: Deed) {
        *self.deeds.entry(deed).or_default() += 1;
        match deed {
            Deed::KillWorker => self.worker.kill(),
            Deed::Cut => self.proxy.cut(),
            Deed::Stall => self.proxy.stall(Duration::from_millis(fastrand::u64(100..1500))),
            Deed::KillManager => self.restart_manager(),
            Deed::RestartBroker => {
                self.broker.restart(true);
                // From now on nothing reaches a manager that is deaf after a
                // reconnect; its operator notices after a while.
                std::thread::sleep(Duration::from_millis(fastrand::u64(..3000)));
                self.restart_manager();
            }
            Deed::StandStill => {
                let still = self.manager.stand_still();
                std::thread::sleep(Duration::from_secs(3));
                drop(still);
            }
        }
    }

    fn restart_manager(&mut self) {
        self.manager.kill();
        std::thread::sleep(Duration::from_millis(fastrand::u64(..2000)));
        self.manager.run();
        for id in &self.scheduled {
            self.manager.schedule(id, Duration::from_millis(1500));
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("worker.log")).unwrap_or_default()
    }
}

/// Users, who start tasks for some time.
struct Users {
    client: Client,
    /// As the manager wants them; the last one prints much.
    modules: [String; 3],
    tasks: Mutex<Vec<String>>,
    start_twice: bool,
    /// Mean time between two tasks of a user.
    pause: Duration,
    until: Instant,
}

impl Users {
    /// What one of them does.
    fn work(&self) {
        while Instant::now() < self.until {
            std::thread::sleep(self.pause.mul_f64(2.0 * fastrand::f64()));
            let number = self.tasks.lock().expect("the tasks").len();
            if number >= TASKS {
                return;
            }
            let kind = if number.is_multiple_of(8) { 1 + number / 8 % 2 } else { 0 };
            let inputs = [number.to_string()];
            let task = json!({ "name": "chaos", "file": self.modules[kind], "inputs": inputs });
            let created = self.post("/tasks", &task.to_string());
            let created = created.filter(|answer| answer.status == 201);
            let id = created.and_then(|answer| Some(answer.body["id"].as_str()?.to_owned()));
            // Who gets no answer tries another task.
            let Some(id) = id else { continue };
            self.tasks.lock().expect("the tasks").push(id.clone());
            let path = format!("/tasks/{id}/start");
            let started = self.post(&path, "").is_some_and(|answer| answer.status == 200);
            if self.start_twice && started {
                let again = self.post(&path, "").map(|answer| answer.status);
                assert_ne!(again, Some(200), "a second start was not refused");
            }
        }
    }

    fn post(&self, path: &str, body: &str) -> Option<Answer> {
        self.client.ask("POST", path, body.as_bytes(), "application/json").ok()
    }
}

fn endure(case: Case) {
    let seconds = crate::number("PROPLET_CHAOS_SECONDS", 20) * 3 / 4;
    let seed = crate::number("PROPLET_CHAOS_SEED", fastrand::u64(..));
    fastrand::seed(seed);
    let mut scene = Scene::new(case);
    let until = Instant::now() + Duration::from_secs(seconds);
    let users = Users {
        client: Client::clone(&scene.manager),
        modules: [guest(1, 0), guest(20_000_000, 0), guest(1, MUCH)].map(|m| STANDARD.encode(m)),
        tasks: Mutex::default(),
        start_twice: scene.case.started_twice,
        pause: Duration::from_secs(seconds) * USERS / TASKS as u32,
        until,
    };
    let mut round = vec![];
    std::thread::scope(|scope| {
        for _ in 0..USERS {
            scope.spawn(|| users.work());
        }
        while Instant::now() < until {
            std::thread::sleep(Duration::from_millis(fastrand::u64(50..1200)));
            if scene.case.scheduled {
                let tasks = users.tasks.lock().expect("the tasks");
                scene.scheduled = tasks.iter().step_by(10).cloned().collect();
            }
            let deed = round.pop().unwrap_or_else(|| {
                round = ROUND.to_vec();
                fastrand::shuffle(&mut round);
                round.pop().expect("not empty")
            });
            scene.carry_out(deed);
        }
    });
    // Now in peace, with a manager that hears and no schedule.
    scene.scheduled.clear();
    scene.restart_manager();
    scene.manager.listens();
    let tasks = users.tasks.into_inner().expect("the tasks");
    let peace = Instant::now();
    let mut found = Findings::of(&scene, &tasks);
    while found != Findings::default() && peace.elapsed() < PEACE {
        std::thread::sleep(Duration::from_millis(500));
        found = Findings::of(&scene, &tasks);
    }
    let record = scene.proxy.record.lock().expect("the record");
    let accepted = record.tasks.values().filter(|seen| seen.accepted).count();
    let sent: u64 = record.tasks.values().map(|seen| seen.sent).sum();
    let answered = record.tasks.values().filter(|seen| seen.answered).count();
    drop(record);
    println!(
        "{}: {seconds} s, PROPLET_CHAOS_SEED={seed}: {} tasks, {accepted} acknowledged by the worker; \
         {:?}; lost {}, divergent {}, for ever Running {}; {sent} results sent for {answered} tasks, \
         quiet {} s after the last deed",
        scene.case.name,
        tasks.len(),
        scene.deeds,
        found.lost.len(),
        found.divergent.len(),
        found.running.len(),
        peace.elapsed().as_secs(),
    );
    let log = scene.log();
    if found != Findings::default() {
        let name = format!("proplet-chaos-{}.log", scene.case.name);
        let kept = std::env::temp_dir().join(name);
        std::fs::write(&kept, &log).ok();
        println!("the worker's log is {}", kept.display());
    }
    scene.worker.end();
    assert!(!log.contains("panicked"), "the worker panicked");
    assert_eq!(found, Findings::default(), "{}", scene.case.name);
    assert!(accepted as u64 >= seconds, "too few tasks to mean anything: {accepted}");
}

/// Ids of tasks with which something is wrong.
#[derive(Debug, Default, PartialEq)]
struct Findings {
    /// The worker has acknowledged the start and the broker no result.
    lost: Vec<String>,
    /// More results than starts, or another one in the manager.
    divergent: Vec<String>,
    /// The manager has no end.
    running: Vec<String>,
}

impl Findings {
    fn of(scene: &Scene, tasks: &[String]) -> Findings {
        let mut found = Findings::default();
        for id in tasks {
            let seen = {
                let record = scene.proxy.record.lock().expect("the record");
                record.tasks.get(id).cloned().unwrap_or_default()
            };
            if seen.accepted && !seen.answered {
                found.lost.push(id.clone());
            }
            // Only the schedule starts a task that has ended.
            let runs = if scene.case.scheduled { seen.starts } else { 1 };
            if seen.results.len() > runs.max(1) {
                found.divergent.push(id.clone());
            }
            let answer = scene.manager.json("GET", &format!("/tasks/{id}"), None);
            // A manager may have forgotten the task.
            if answer.status == 200 {
                found.of_task(scene, id, &answer.body, &seen);
            }
        }
        found
    }

    fn of_task(&mut self, scene: &Scene, id: &str, task: &Value, seen: &Seen) {
        let state = task["state"].as_u64().expect("a state");
        let results = seen.results.iter().map(|result| {
            let result: Value = serde_json::from_slice(result).expect("JSON");
            result["results"].clone()
        });
        if state >= 3 && !results.into_iter().any(|result| result == task["results"]) {
            self.divergent.push(id.to_owned());
        }
        // Without a session a start that is sent while the worker is away is
        // nobody's; and one that failed was never sent.
        let sent = if scene.case.fluxmq { seen.accepted } else { state > 0 || seen.accepted };
        if state < 3 && sent {
            self.running.push(id.to_owned());
        }
    }
}
