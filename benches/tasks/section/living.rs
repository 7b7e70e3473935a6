//! Deployed tasks: what an invocation costs over an empty round trip through the
//! broker, and what ten thousand deployments cost.

use crate::alone::{Alone, Precision};
use crate::broker::{Broker, Relay};
use crate::manager::{Echo, Manager, Start};
use crate::place::Place;
use crate::report::{Report, Target};
use crate::stats::Samples;
use crate::worker::Worker;
use anyhow::ensure;
use proplet::task::TaskRequest;
use std::time::{Duration, Instant};

/// Of each in a round.
const RUNS: usize = 20;
const DEPLOYMENTS: u32 = 10_000;
const PATIENCE: Duration = Duration::from_secs(300);

pub fn measure(place: &Place, rounds: usize, report: &mut Report) -> anyhow::Result<()> {
    invocations(place, rounds, report)?;
    deployments(place, report)
}

fn latent(task: TaskRequest) -> anyhow::Result<Start> {
    Start::new(&TaskRequest { latent: true, ..task })
}

fn invocations(place: &Place, rounds: usize, report: &mut Report) -> anyhow::Result<()> {
    let settings = [("executors", "1"), ("nn-hint", "latency")];
    let mut alone = Alone::new(place, "LATENCY", Precision::F32)?;
    let broker = Broker::start(place)?;
    let mut manager = Manager::connect(broker.address)?;
    let _echo = Echo::beside(&manager, broker.address)?;
    let _worker = Worker::start(place, broker.address, &settings)?;
    manager.hear()?;
    let empty = manager.deploy(&latent(Place::empty_component()?)?)?;
    let by_name = manager.deploy(&latent(place.by_name()?)?)?;
    let mut times = [const { Samples::new() }; 4];
    let [own, trip, invoked, classified] = &mut times;
    for _ in 0..rounds {
        for _ in 0..RUNS {
            own.add(alone.infer()?);
            classified.add(manager.invoke(&by_name)?);
        }
        for _ in 0..RUNS {
            trip.add(manager.round_trip()?);
            invoked.add(manager.invoke(&empty)?);
        }
    }
    report.steady(own);
    report.say("round_trip_ms", trip.median(), "ms");
    report.say("invocation_ms", invoked.median(), "ms");
    let more = invoked.median() - trip.median();
    report.hold("invocation_over_round_trip_ms", more, "ms", Target::AtMost(0.6));
    let over = classified.median() / own.median();
    report.say("invocation_by_name_ms", classified.median(), "ms");
    report.hold("invocation_by_name_over_openvino", over, "", Target::AtMost(1.3));
    report.note(format!("invocations went through {}", broker.name));
    Ok(())
}

fn deployments(place: &Place, report: &mut Report) -> anyhow::Result<()> {
    let broker = Broker::start(place)?;
    let mut manager = Manager::connect(broker.address)?;
    let worker = Worker::start(place, broker.address, &[])?;
    manager.hear()?;
    let start = latent(Place::empty(1000)?)?;
    // Its code, and what the first message of all costs.
    manager.deploy(&start)?;
    let before = worker.resident()?;
    for _ in 1..DEPLOYMENTS {
        manager.send(&start);
    }
    let began = Instant::now();
    while worker.metric("proplet_deployments")? < f64::from(DEPLOYMENTS) {
        ensure!(began.elapsed() < PATIENCE, "the tasks are not deployed");
        std::thread::sleep(Duration::from_millis(100));
    }
    let each = (worker.resident()? - before) * 1024.0 / f64::from(DEPLOYMENTS);
    report.hold("deployment_kib", each, "KiB", Target::AtMost(20.0));
    let state = worker.stop()?;
    let state_dir = state.path().to_string_lossy().into_owned();
    let mut times = Samples::new();
    for _ in 0..5 {
        let relay = Relay::to(broker.address)?;
        let worker = Worker::start(place, relay.address, &[("state-dir", &state_dir)])?;
        times.add(relay.subscribed()? - worker.started);
        manager.hear()?;
    }
    let name = "start_to_suback_with_deployments_ms";
    report.hold(name, times.median(), "ms", Target::AtMost(250.0));
    Ok(())
}
