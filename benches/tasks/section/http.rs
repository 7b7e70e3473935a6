//! HTTP servers: beside `wasmtime serve` on the same component, beside OpenVINO
//! alone, and beside tasks.

use crate::alone::Alone;
use crate::broker::{Broker, free_address, program};
use crate::http::Client;
use crate::manager::{Manager, Start};
use crate::place::{Place, fixtures, guest, task};
use crate::report::{Report, Target};
use crate::stats::Samples;
use crate::worker::Worker;
use anyhow::{Context as _, ensure};
use proplet::task::TaskRequest;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const CONNECTIONS: usize = 64;
/// Each server in a round, before the other one has its turn.
const LASTING: Duration = Duration::from_secs(2);
/// As long as 64 connections are to last without an error.
const LONG: Duration = Duration::from_secs(30);
/// Inferences and requests in a round.
const RUNS: usize = 20;
const PATIENCE: Duration = Duration::from_secs(60);

pub fn measure(place: &Place, rounds: usize, report: &mut Report) -> anyhow::Result<()> {
    hello(place, rounds, report)?;
    images(place, rounds, report)?;
    beside_tasks(place, rounds, report)
}

/// A component that serves at an address of its own.
fn server(name: &str, args: &[&str]) -> anyhow::Result<(TaskRequest, SocketAddr)> {
    let address = free_address()?;
    let at = address.to_string();
    Ok((task(guest(name)?, &[&["--addr", &at], args].concat()), address))
}

/// A worker that serves a component. It ends with this.
struct Serving {
    manager: Manager,
    _worker: Worker,
    _broker: Broker,
}

impl Serving {
    fn start(
        place: &Place,
        settings: &[(&str, &str)],
        server: &TaskRequest,
    ) -> anyhow::Result<Serving> {
        let broker = Broker::start(place)?;
        let mut manager = Manager::connect(broker.address)?;
        let settings = [&[("http-enabled", "true")], settings].concat();
        let worker = Worker::start(place, broker.address, &settings)?;
        manager.hear()?;
        manager.run(&Start::new(server)?)?;
        Ok(Serving { manager, _worker: worker, _broker: broker })
    }
}

/// The same component by a worker and by `wasmtime serve`, each as by default.
fn hello(place: &Place, rounds: usize, report: &mut Report) -> anyhow::Result<()> {
    let (task, address) = server("http", &[])?;
    // Neither gives the guest a directory.
    let _serving = Serving::start(place, &[("dirs", "")], &task)?;
    let ours = Client::new(address, &[]);
    let theirs = Wasmtime::serve()?;
    match &theirs {
        Some(wasmtime) => {
            let theirs = Client::new(wasmtime.address, &[]);
            let mut rates = [const { Samples::new() }; 2];
            let mut slowest = [const { Samples::new() }; 2];
            let mut alone = [const { Samples::new() }; 2];
            for _ in 0..rounds.div_ceil(3) {
                for (of, client) in [&ours, &theirs].into_iter().enumerate() {
                    let load = client.load(CONNECTIONS, LASTING)?;
                    ensure!(load.failed == 0, "{} requests failed", load.failed);
                    rates[of].add_number(load.per_second);
                    slowest[of].add_number(load.times.quantile(0.99));
                    let one = client.load(1, LASTING / 2)?;
                    alone[of].add_number(one.times.median());
                }
            }
            let [rate, their_rate] = rates.map(|rate| rate.median());
            let [slow, their_slow] = slowest.map(|slow| slow.median());
            let [one, their_one] = alone.map(|one| one.median());
            report.say("http_hello_per_second", rate, "/s");
            report.say("wasmtime_serve_hello_per_second", their_rate, "/s");
            let (name, over) = ("http_hello_over_wasmtime_serve", rate / their_rate);
            report.hold(name, over, "", Target::AtLeast(1.0));
            report.say("http_hello_p99_ms", slow, "ms");
            report.say("wasmtime_serve_hello_p99_ms", their_slow, "ms");
            let (name, over) = ("http_hello_p99_over_wasmtime_serve", slow / their_slow);
            report.hold(name, over, "", Target::AtMost(1.1));
            report.say("http_hello_one_connection_ms", one, "ms");
            report.say("wasmtime_serve_hello_one_connection_ms", their_one, "ms");
        }
        None => report.note(
            "no `wasmtime` was found (PROPLET_BENCH_WASMTIME names one), so `wasmtime serve` was not measured",
        ),
    }
    drop(theirs);
    let load = ours.load(CONNECTIONS, LONG)?;
    report.say("http_hello_for_30_s_per_second", load.per_second, "/s");
    let failed = f64::from(load.failed);
    report.hold("http_hello_for_30_s_failed", failed, "", Target::AtMost(0.0));
    Ok(())
}

/// `wasmtime serve` with the component that says hello. It ends with this.
struct Wasmtime {
    child: Child,
    address: SocketAddr,
}

impl Wasmtime {
    /// None if there is no `wasmtime`.
    fn serve() -> anyhow::Result<Option<Wasmtime>> {
        let Some(program) = program("PROPLET_BENCH_WASMTIME", "wasmtime") else {
            return Ok(None);
        };
        let address = free_address()?;
        let child = Command::new(&program)
            // The guest reads its environment, as others do.
            .args(["serve", "-Scli", "--addr", &address.to_string()])
            .arg(fixtures().join("guests/bin/http.wasm"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| program.display().to_string())?;
        let mut wasmtime = Wasmtime { child, address };
        let began = Instant::now();
        while TcpStream::connect(address).is_err() {
            let ended = wasmtime.child.try_wait()?;
            ensure!(ended.is_none(), "{} serve ended: {ended:?}", program.display());
            ensure!(began.elapsed() < PATIENCE, "{} does not listen", program.display());
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(Some(wasmtime))
    }
}

impl Drop for Wasmtime {
    fn drop(&mut self) {
        // It may have ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// EfficientNet by name on the tensor that is the request's body.
fn images(place: &Place, rounds: usize, report: &mut Report) -> anyhow::Result<()> {
    let mut alone = Alone::onnx(place)?;
    let graph = format!("-Snn-graph=onnx::{}", place.efficientnet.display());
    let (mut task, address) = server("http-image", &[&graph])?;
    task.env = [("GRAPH".to_owned(), "efficientnet".to_owned())].into();
    let _serving = Serving::start(place, &[("executors", "1"), ("nn-hint", "latency")], &task)?;
    let asked = Client::new(address, &fs::read(place.efficientnet.join("input0.bin"))?);
    let mut sent = asked.connect()?;
    let [mut own, mut classified] = [const { Samples::new() }; 2];
    for _ in 0..rounds {
        for _ in 0..RUNS {
            own.add(alone.infer()?);
            classified.add(sent.ask()?);
        }
    }
    report.steady(&own);
    report.say("http_image_ms", classified.median(), "ms");
    let over = classified.median() / own.median();
    report.hold("http_image_over_openvino", over, "", Target::AtMost(1.4));
    Ok(())
}

/// What servers and tasks of one worker take from each other.
fn beside_tasks(place: &Place, rounds: usize, report: &mut Report) -> anyhow::Result<()> {
    let (task, address) = server("http", &[])?;
    let mut serving = Serving::start(place, &[], &task)?;
    let hello = Client::new(address, &[]);
    let classification = Start::new(&place.by_name()?)?;
    serving.manager.run(&classification)?;
    let in_flight = 2 * std::thread::available_parallelism()?.get();
    let [mut idle, mut loaded, mut slowest] = [const { Samples::new() }; 3];
    for _ in 0..rounds.div_ceil(3) {
        for _ in 0..RUNS {
            idle.add(serving.manager.run(&classification)?);
        }
        // Whoever says hello, with all executors busy.
        let load = std::thread::scope(|scope| {
            let tasks =
                scope.spawn(|| serving.manager.flow(&classification, in_flight, 2 * LASTING));
            // They are at work by then, and for longer.
            let load = hello.load(1, LASTING);
            tasks.join().expect("no panic").and(load)
        })?;
        ensure!(load.failed == 0, "{} requests failed", load.failed);
        slowest.add_number(load.times.quantile(0.99));
        // A task, under all connections.
        let (took, load) = std::thread::scope(|scope| {
            let load = scope.spawn(|| hello.load(CONNECTIONS, LASTING));
            let mut took = Samples::new();
            let began = Instant::now();
            while began.elapsed() < LASTING - LASTING / 4 {
                took.add(serving.manager.run(&classification)?);
            }
            anyhow::Ok((took, load.join().expect("no panic")?))
        })?;
        ensure!(load.failed == 0, "{} requests failed", load.failed);
        loaded.add_number(took.median());
    }
    report.hold("http_hello_beside_tasks_p99_ms", slowest.median(), "ms", Target::AtMost(50.0));
    report.say("task_by_name_idle_ms", idle.median(), "ms");
    let over = loaded.median() / idle.median();
    report.hold("task_by_name_under_64_connections_over_idle", over, "", Target::AtMost(2.0));
    Ok(())
}
