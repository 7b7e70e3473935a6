//! Guests and models that crash, hang and flood, beside honest tasks: what
//! becomes of those, and how long they take.
//!
//! `PROPLET_SOAK_SECONDS` (60) is how long it goes on. Models that crash or hang
//! do so in a library of the tests' own, `tests/broken`.

#[path = "../it/support/assets.rs"]
mod assets;
#[path = "../broken/mod.rs"]
mod broken;

use crate::number;
use crate::processes::{Broker, Worker};
use assets::assets;
use broken::Broken;
use proplet::mqtt::{Address, CleanSession, Event, Events, Link, Options, connect};
use proplet::protocol::{Topics, encode_start};
use proplet::task::{Binary, ModuleSource, TaskId, TaskRequest};
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// A task, and how often one of its kind is started.
struct Kind {
    name: &'static str,
    every: Duration,
    module: ModuleSource,
    args: Vec<String>,
    inputs: Vec<String>,
    /// What an honest one prints; none of one that means harm.
    prints: Option<&'static str>,
    /// When one that ends by nothing else is stopped.
    stopped: Option<Duration>,
}

impl Kind {
    fn new(name: &'static str, every: u64, module: Vec<u8>) -> Kind {
        let module = ModuleSource::Bytes(Binary::new(module));
        let every = Duration::from_millis(every);
        Kind { name, every, module, args: vec![], inputs: vec![], prints: None, stopped: None }
    }

    /// One that has a second.
    fn harm(name: &'static str, every: u64) -> Kind {
        Kind::new(name, every, wat(name)).args(&["-W", "timeout=1s"])
    }

    fn args(mut self, args: &[&str]) -> Kind {
        self.args = args.iter().map(|arg| (*arg).to_owned()).collect();
        self
    }

    fn input(mut self, input: &str) -> Kind {
        self.inputs = vec![input.to_owned()];
        self
    }

    fn prints(mut self, text: &'static str) -> Kind {
        self.prints = Some(text);
        self
    }

    fn stopped_after(mut self, millis: u64) -> Kind {
        self.stopped = Some(Duration::from_millis(millis));
        self
    }
}

fn wat(name: &str) -> Vec<u8> {
    let path = fixtures().join(format!("guests/wat/{name}.wat"));
    wat::parse_file(path).expect("a module")
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

/// A module that takes a compiler for minutes.
fn compile_bomb() -> Vec<u8> {
    const LOCALS: usize = 1000;
    let branch = |i: usize| {
        let (a, b, c) = (i * 7 % LOCALS, i * 13 % LOCALS, i * 29 % LOCALS);
        format!(
            "(if (local.get {a}) (then (local.set {b} (i32.add (local.get {b}) (local.get {c})))))\n"
        )
    };
    let body: String = (0..30_000).map(branch).collect();
    let locals = "i32 ".repeat(LOCALS);
    let text = format!(r#"(module (func (export "_start") (local {locals}) {body}))"#);
    wat::parse_str(text).expect("a module")
}

/// Honest tasks, and those that are beside them. `models`: a folder with the
/// models `tiny`, `crashes` and `hangs`.
fn kinds(models: &Path) -> Vec<Kind> {
    let graph = |name: &str| format!("nn,nn-graph=openvino::{}", models.join(name).display());
    let inference = |name, every, model: &str| {
        Kind::new(name, every, wat("nn-tiny")).args(&["-S", &graph(model)]).input(model)
    };
    vec![
        Kind::new("hello", 100, wat("hello")).prints("hello\n"),
        Kind::new("busy", 400, wat("busy")).input("20").prints("done\n"),
        inference("inference", 200, "tiny").prints("2\n0\n6\n4\n"),
        inference("crashes", 4000, "crashes"),
        inference("hangs", 7000, "hangs").stopped_after(1000),
        Kind::harm("loop-forever", 3000),
        Kind::harm("sleep-forever", 5000),
        Kind::harm("stdout-flood", 1500),
        Kind::harm("memory-bomb", 1500),
        Kind::harm("recursion", 2000),
        Kind::harm("many-tables", 3000),
        Kind::harm("open-many", 3000),
        Kind::new("compile-bomb", 20_000, compile_bomb()).stopped_after(3000),
    ]
}

/// A task without its result.
struct Open {
    kind: usize,
    at: Instant,
}

#[derive(Default)]
struct Tally {
    open: HashMap<String, Open>,
    /// Of each kind: ended as it should, otherwise, and how long that took.
    right: BTreeMap<usize, Vec<Duration>>,
    wrong: Vec<String>,
}

/// Plays the manager.
struct Sender {
    link: Link,
    topics: Topics,
    tally: Arc<Mutex<Tally>>,
    sent: u64,
}

impl Sender {
    fn connect(port: u16, kinds: &[Kind]) -> Sender {
        let topics = Topics::new("domain", "channel");
        let mut options = Options::new(Address { host: "127.0.0.1".into(), port }, "manager");
        options.subscriptions = vec![topics.results()];
        options.clean_session = CleanSession::Never;
        let (link, events) = connect(options).expect("a connection");
        let tally = Arc::<Mutex<Tally>>::default();
        let prints: Vec<_> = kinds.iter().map(|kind| kind.prints).collect();
        tokio::spawn(consume(events, link.clone(), tally.clone(), prints));
        Sender { link, topics, tally, sent: 0 }
    }

    fn start(&mut self, index: usize, kind: &Kind) -> String {
        self.sent += 1;
        let id = format!("{}-{}", kind.name, self.sent);
        let request = TaskRequest {
            module: Some(kind.module.clone()),
            cli_args: kind.args.clone(),
            inputs: kind.inputs.clone(),
            ..TaskRequest::new(TaskId::new(&id).expect("an id"))
        };
        let message = encode_start(&request, Some("worker"));
        let open = Open { kind: index, at: Instant::now() };
        held(&self.tally).open.insert(id.clone(), open);
        drop(self.link.publish(&self.topics.start(), message));
        id
    }

    fn stop(&self, id: &str) {
        let message = serde_json::json!({ "id": id, "proplet_id": "worker" }).to_string();
        drop(self.link.publish(&self.topics.stop(), message));
    }
}

fn held(tally: &Mutex<Tally>) -> MutexGuard<'_, Tally> {
    tally.lock().expect("nobody panics with it")
}

async fn consume(
    mut events: Events,
    link: Link,
    tally: Arc<Mutex<Tally>>,
    prints: Vec<Option<&'static str>>,
) {
    while let Some(event) = events.next().await {
        let Event::Message(message) = event else { continue };
        let json: serde_json::Value =
            serde_json::from_slice(&message.payload).expect("a result is JSON");
        let id = json["task_id"].as_str().expect("a task's id");
        let mut tally = held(&tally);
        if let Some(Open { kind, at }) = tally.open.remove(id) {
            let error = json["error"].as_str().filter(|error| !error.is_empty());
            let right = match prints[kind] {
                Some(text) => error.is_none() && json["results"].as_str() == Some(text),
                // One that floods may come to its end.
                None => true,
            };
            if right {
                tally.right.entry(kind).or_default().push(at.elapsed());
            } else {
                tally.wrong.push(format!("{id}: {json}"));
            }
        }
        drop(tally);
        link.ack(message.ack);
    }
}

/// The value below which so many of a thousand are.
fn percentile(sorted: &[Duration], thousandths: usize) -> Duration {
    let last = sorted.len().saturating_sub(1);
    sorted.get(last * thousandths / 1000).copied().unwrap_or_default()
}

#[test]
#[ignore = "needs mosquitto; PROPLET_SOAK_SECONDS=1800 for half an hour"]
fn honest_tasks_beside_those_that_crash_hang_and_flood_all_complete() {
    let length = Duration::from_secs(number("PROPLET_SOAK_SECONDS", 60));
    let (dir, broken) = (tempfile::tempdir().expect("a folder"), Broken::new(assets()));
    let models = dir.path().join("models");
    for name in ["tiny", "crashes", "hangs"] {
        let (from, to) = (fixtures().join("models/tiny"), models.join(name));
        fs::create_dir_all(&to).expect("a folder");
        let text = fs::read_to_string(from.join("model.xml")).expect("a model");
        let text = match name {
            "tiny" => text,
            harm => text.replace("name=\"x\"", &format!("name=\"{harm}\"")),
        };
        fs::write(to.join("model.xml"), text).expect("written");
        fs::copy(from.join("model.bin"), to.join("model.bin")).expect("copied");
    }
    let broker = Broker::start(dir.path());
    let dirs = format!("{}:{}:rw", models.display(), broken.path().join("out").display());
    let library = broken.path().display().to_string();
    let mut worker = Worker::start(
        dir.path(),
        broker.port,
        &["--result-hold=0", "--result-repeat=0", "--dirs", &dirs, "--openvino-lib", &library],
    );
    let tokio = tokio::runtime::Runtime::new().expect("a runtime");
    let _entered = tokio.enter();
    let kinds = kinds(&models);
    let mut sender = Sender::connect(broker.port, &kinds);
    let log = || fs::read_to_string(dir.path().join("worker.log")).unwrap_or_default();
    let deadline = Instant::now() + Duration::from_secs(60);
    while !log().contains("connected to the broker") {
        assert!(Instant::now() < deadline, "the worker does not connect:\n{}", log());
        std::thread::sleep(Duration::from_millis(20));
    }

    let begun = Instant::now();
    let mut next: Vec<_> = kinds.iter().map(|kind| begun + kind.every).collect();
    let mut stops: Vec<(Instant, String)> = Vec::new();
    while begun.elapsed() < length {
        let now = Instant::now();
        for (index, kind) in kinds.iter().enumerate() {
            if next[index] <= now {
                next[index] += kind.every;
                let id = sender.start(index, kind);
                stops.extend(kind.stopped.map(|after| (now + after, id)));
            }
        }
        stops.retain(|(at, id)| {
            let due = *at <= now;
            if due {
                sender.stop(id);
            }
            !due
        });
        std::thread::sleep(Duration::from_millis(5));
    }
    stops.iter().for_each(|(_, id)| sender.stop(id));
    let deadline = Instant::now() + Duration::from_secs(120);
    while !held(&sender.tally).open.is_empty() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(50));
    }

    let memory = worker.memory() >> 20;
    worker.end();
    let log = log();
    let count = |text: &str| log.matches(text).count();
    println!(
        "{} s, {} tasks; {} processes crashed, {} retired; worker {memory} MiB at the end",
        begun.elapsed().as_secs(),
        sender.sent,
        count("the runtime's process ended ("),
        count("has a task that is stuck"),
    );
    let tally = held(&sender.tally);
    let mut honest = Vec::new();
    for (index, kind) in kinds.iter().enumerate() {
        let mut times = tally.right.get(&index).cloned().unwrap_or_default();
        times.sort_unstable();
        let [half, most, all] = [500, 990, 1000].map(|part| percentile(&times, part));
        let who = if kind.prints.is_some() { "honest" } else { "harm" };
        println!(
            "{:>14} ({who}): {} ended, p50 {half:.1?}, p99 {most:.1?}, max {all:.1?}",
            kind.name,
            times.len()
        );
        if kind.prints.is_some() {
            honest.extend(times);
        }
    }
    honest.sort_unstable();
    println!(
        "honest tasks: {} completed, failed {}, without a result {}; p50 {:.1?}, p99 {:.1?}",
        honest.len(),
        tally.wrong.len(),
        tally.open.len(),
        percentile(&honest, 500),
        percentile(&honest, 990),
    );
    let keep = std::env::temp_dir().join("proplet-soak.log");
    fs::write(&keep, &log).ok();
    println!("the worker's log is {}", keep.display());
    assert!(!log.contains("panicked"), "the worker panicked");
    assert!(tally.open.is_empty(), "no result: {:?}", tally.open.keys());
    assert!(tally.wrong.is_empty(), "honest tasks failed, as this one: {:?}", tally.wrong.first());
    assert!(!honest.is_empty(), "nothing was run");
}
