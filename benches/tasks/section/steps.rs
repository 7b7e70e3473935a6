//! Where a task's time goes, step by step: ours, and the way through
//! `wasmtime run`.

use crate::alone::{Alone, Precision};
use crate::ours::Ours;
use crate::place::Place;
use crate::plot::{Bar, Plot};
use crate::report::Report;
use crate::shellout::{Memory, Shellout};
use crate::stats::Samples;
use proplet::task::TaskRequest;

/// Warm tasks of each in a round, and those before.
const RUNS: usize = 20;
const WARM_UP: usize = 5;

/// What a task of ours does, in this order.
const OURS: [&str; 5] =
    ["threads and processes", "instance of the code", "graph found", "guest", "inference"];
/// What `wasmtime run` does: the first is all of a guest that does nothing, the
/// second all that is neither.
const SHELL_OUT: [&str; 3] = ["start and code", "library, graph, guest", "inference"];

pub fn measure(place: &Place, rounds: usize, report: &mut Report) -> anyhow::Result<()> {
    let settings = [("executors", "1"), ("nn-hint", "latency")];
    let tasks = [
        ("by bytes", place.by_bytes()?),
        ("by name", place.by_name()?),
        ("component by name", place.component_by_name()?),
        ("onnx by name", place.onnx_by_name()?),
    ];
    let mut alone = Alone::new(place, "LATENCY", Precision::F32)?;
    let mut ours = Ours::start(place, &settings)?;
    let shellout = Shellout::find(place)?;

    let mut inference = Samples::new();
    let mut steps = [const { [const { Samples::new() }; OURS.len()] }; 4];
    let [mut start, mut bytes, mut name] = [const { Samples::new() }; 3];
    for _ in 0..rounds {
        for ((_, task), steps) in tasks.iter().zip(&mut steps) {
            in_steps(&mut ours, task, steps)?;
        }
        for _ in 0..RUNS {
            inference.add(alone.infer()?);
        }
        if let Some(shellout) = &shellout {
            start.add(shellout.nothing()?);
            bytes.add(shellout.by_bytes(Memory::Own)?);
            name.add(shellout.by_name(Memory::Own)?);
        }
    }
    report.steady(&inference);

    let inference = inference.median();
    let mut plot = Plot::new("ms of a warm task, medians", &OURS);
    plot.add(Bar::new("OpenVINO alone", [0.0, 0.0, 0.0, 0.0, inference]));
    for ((way, _), steps) in tasks.iter().zip(&steps) {
        let medians = steps.each_ref().map(Samples::median);
        for (step, median) in OURS.iter().zip(medians) {
            report.say(measure_name("task", way, step), median, "ms");
        }
        // The last is of another model.
        if *way != "onnx by name" {
            plot.add(Bar::new(*way, medians));
        }
    }
    report.draw(plot);
    if shellout.is_some() {
        let start = start.median();
        let mut plot = Plot::new("ms of `wasmtime run`, medians", &SHELL_OUT);
        for (way, all) in [("by bytes", bytes), ("by name", name)] {
            let steps = [start, (all.median() - start - inference).max(0.0), inference];
            for (step, value) in SHELL_OUT.iter().zip(steps) {
                report.say(measure_name("shell_out", way, step), value, "ms");
            }
            plot.add(Bar::new(way, steps));
        }
        report.draw(plot);
    }
    Ok(())
}

/// Adds what each step takes of a warm task.
fn in_steps(
    ours: &mut Ours,
    task: &TaskRequest,
    steps: &mut [Samples; OURS.len()],
) -> anyhow::Result<()> {
    for _ in 0..WARM_UP {
        ours.run(task)?;
    }
    for _ in 0..RUNS {
        let (all, timings) = ours.run_in_steps(task)?;
        let run = timings.compiled + timings.loaded + timings.ran;
        let times = [
            all.saturating_sub(run),
            timings.compiled,
            timings.loaded,
            timings.ran.saturating_sub(timings.inferred),
            timings.inferred,
        ];
        steps.iter_mut().zip(times).for_each(|(samples, time)| samples.add(time));
    }
    Ok(())
}

fn measure_name(what: &str, way: &str, step: &str) -> String {
    let name = format!("{what}_{way}_{step}_ms");
    name.replace(", ", "_").replace(' ', "_")
}
