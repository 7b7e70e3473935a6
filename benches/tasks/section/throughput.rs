//! All executors busy, and OpenVINO's throughput mode on both sides.

use crate::alone::{Alone, Precision};
use crate::ours::Ours;
use crate::place::Place;
use crate::report::{Report, Target};
use crate::stats::Samples;
use std::time::Duration;

const LASTING: Duration = Duration::from_millis(1500);

pub fn measure(place: &Place, rounds: usize, report: &mut Report) -> anyhow::Result<()> {
    let (by_bytes, by_name) = (place.by_bytes()?, place.by_name()?);
    let mut alone = Alone::new(place, "THROUGHPUT", Precision::F32)?;
    let cores = std::thread::available_parallelism()?.get();
    let one = cores.to_string();
    let mut ours = Ours::start(place, &[("nn-hint", "throughput")])?;
    let mut fewer = Ours::start(place, &[("nn-hint", "throughput"), ("executors", &one)])?;
    let in_flight = 4 * cores;
    ours.run(&by_bytes)?;
    fewer.run(&by_bytes)?;

    let [mut own, mut bytes, mut name] = [const { Samples::new() }; 3];
    let [mut fewer_bytes, mut fewer_name] = [const { Samples::new() }; 2];
    for _ in 0..rounds.div_ceil(3) {
        own.add_number(alone.throughput(LASTING)?);
        name.add_number(ours.flow(&by_name, in_flight, LASTING)?);
        bytes.add_number(ours.flow(&by_bytes, in_flight, LASTING)?);
        fewer_name.add_number(fewer.flow(&by_name, in_flight, LASTING)?);
        fewer_bytes.add_number(fewer.flow(&by_bytes, in_flight, LASTING)?);
    }
    report.say("openvino_per_second", own.median(), "/s");
    report.say("by_name_per_second", name.median(), "/s");
    report.say("by_bytes_per_second", bytes.median(), "/s");
    let ratio = |samples: &Samples| samples.median() / own.median();
    report.hold("throughput_by_name", ratio(&name), "", Target::AtLeast(0.95));
    report.hold("throughput_by_bytes", ratio(&bytes), "", Target::AtLeast(0.92));
    // Where nothing is computed while a task of a core reads and writes.
    report.say("throughput_by_name_one_executor_a_core", ratio(&fewer_name), "");
    report.say("throughput_by_bytes_one_executor_a_core", ratio(&fewer_bytes), "");
    Ok(())
}
