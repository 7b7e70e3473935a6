//! OpenVINO's modes against the number of executors, for the choice of the
//! default: what each does to one task's time and to all tasks together.

use crate::ours::Ours;
use crate::place::Place;
use crate::report::Report;
use crate::stats::Samples;
use std::time::Duration;

const LASTING: Duration = Duration::from_millis(1500);
const RUNS: usize = 40;

pub fn measure(place: &Place, report: &mut Report) -> anyhow::Result<()> {
    let by_name = place.by_name()?;
    for executors in [1, 2, 4] {
        for hint in ["latency", "throughput"] {
            let settings = [("executors", &*executors.to_string()), ("nn-hint", hint)];
            let mut ours = Ours::start(place, &settings)?;
            ours.run(&by_name)?;
            let mut single = Samples::new();
            for _ in 0..RUNS {
                single.add(ours.run(&by_name)?);
            }
            let all = ours.flow(&by_name, 2 * executors, LASTING)?;
            report.say(format!("{hint}_{executors}_executors_one_task_ms"), single.median(), "ms");
            report.say(format!("{hint}_{executors}_executors_per_second"), all, "/s");
        }
    }
    Ok(())
}
