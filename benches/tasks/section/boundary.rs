//! What it costs that guests and models have a process of their own: a task that
//! does nothing, here and there; and how soon there is another one after a crash.

use crate::ours::Ours;
use crate::place::Place;
use crate::report::{Report, Target};
use crate::stats::Samples;
use anyhow::{Context as _, ensure};
use std::fs;
use std::process::Command;
use std::time::Instant;

/// Of each in a round.
const RUNS: usize = 200;
/// Those before.
const WARM_UP: usize = 20;
/// Crashes in a row that no wait follows.
const CRASHES: usize = 4;

pub fn measure(place: &Place, rounds: usize, report: &mut Report) -> anyhow::Result<()> {
    if !cfg!(target_os = "linux") {
        report.note("only Linux has a process of its own for guests and models");
        return Ok(());
    }
    after_a_crash(place, rounds, report)?;
    let empty = Place::empty(1 << 10)?;
    let settings = |isolation| [("executors", "1"), ("isolation", isolation)];
    let mut here = Ours::start(place, &settings("none"))?;
    let mut apart = Ours::start(place, &settings("process"))?;
    let mut times = [const { Samples::new() }; 2];
    for _ in 0..rounds {
        for (ours, samples) in [&mut here, &mut apart].into_iter().zip(&mut times) {
            for _ in 0..WARM_UP {
                ours.run(&empty)?;
            }
            for _ in 0..RUNS {
                samples.add(ours.run(&empty)?);
            }
        }
    }
    let [here, apart] = times.map(|samples| samples.median());
    report.say("empty_task_here_ms", here, "ms");
    report.say("empty_task_apart_ms", apart, "ms");
    report.hold("boundary_ms", apart - here, "ms", Target::AtMost(0.15));
    Ok(())
}

/// From the end of the process to the next result, of a model that an earlier
/// worker has left on the disk.
fn after_a_crash(place: &Place, rounds: usize, report: &mut Report) -> anyhow::Result<()> {
    let graph = format!("openvino::{}", place.mobilenet.display());
    let settings = [("executors", "1"), ("isolation", "process"), ("nn-graphs", &graph)];
    let by_name = place.by_name()?;
    let mut earlier = Ours::start(place, &settings)?;
    earlier.run(&by_name)?;
    earlier.end();
    let mut ours = Ours::start(place, &settings)?;
    let mut times = Samples::new();
    for _ in 0..rounds.clamp(1, CRASHES) {
        ours.run(&by_name)?;
        let runtime = runtime()?;
        let began = Instant::now();
        let killed = Command::new("kill").args(["-KILL", &runtime]).status()?;
        ensure!(killed.success(), "no process {runtime}");
        ours.run(&by_name)?;
        times.add(began.elapsed());
    }
    report.hold("task_after_a_crash_ms", times.median(), "ms", Target::AtMost(250.0));
    Ok(())
}

/// The runtime's process of this one, which has a single one.
fn runtime() -> anyhow::Result<String> {
    for thread in fs::read_dir("/proc/self/task")?.flatten() {
        let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        let is = |id: &&str| {
            let line = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).nth(1) == Some(b"runtime")
        };
        if let Some(id) = children.split_whitespace().find(is) {
            return Ok(id.to_owned());
        }
    }
    None.context("there is no process for guests and models")
}
