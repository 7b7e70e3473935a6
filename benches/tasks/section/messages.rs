//! Tasks that do nothing, each with a module of 100 KB in its message.

use crate::broker::Broker;
use crate::manager::{Echo, Manager, Start};
use crate::ours::Ours;
use crate::place::Place;
use crate::report::{Report, Target};
use crate::stats::Samples;
use crate::worker::Worker;
use std::time::Duration;

const MODULE: usize = 100_000;
const IN_FLIGHT: usize = 64;
const LASTING: Duration = Duration::from_millis(1500);

pub fn measure(place: &Place, rounds: usize, report: &mut Report) -> anyhow::Result<()> {
    let empty = Place::empty(MODULE)?;
    let component = Place::empty_component()?;
    let start = Start::new(&empty)?;
    // Each directory that a task may read is looked up and opened for it.
    let dirs = place.mobilenet.display().to_string();
    let one = ("dirs", &*dirs);
    let mut ours = Ours::start(place, &[one])?;
    let broker = Broker::start(place)?;
    let mut manager = Manager::connect(broker.address)?;
    let [mut in_executor, mut components, mut echo, mut kept, mut stateless, mut held] =
        [const { Samples::new() }; 6];
    let at_once = [one, ("stateless", "false")];
    let stateless_at_once = [one, ("stateless", "true")];
    let defaults = [one, ("result-hold", "5ms"), ("result-repeat", "2s,10s")];
    for _ in 0..rounds.div_ceil(5) {
        in_executor.add_number(ours.flow(&empty, IN_FLIGHT, LASTING)?);
        components.add_number(ours.flow(&component, IN_FLIGHT, LASTING)?);
        {
            let _echo = Echo::of_starts(broker.address)?;
            manager.run(&start)?;
            echo.add_number(manager.flow(&start, IN_FLIGHT, LASTING)?);
        }
        for (samples, settings) in [
            (&mut kept, &at_once[..]),
            (&mut stateless, &stateless_at_once),
            (&mut held, &defaults),
        ] {
            let _worker = Worker::start(place, broker.address, settings)?;
            manager.hear()?;
            manager.run(&start)?;
            samples.add_number(manager.flow(&start, IN_FLIGHT, LASTING)?);
        }
    }
    let per_second = in_executor.median();
    report.hold("empty_in_executor_per_second", per_second, "/s", Target::AtLeast(20_000.0));
    let components = components.median();
    report.hold("empty_components_per_second", components, "/s", Target::AtLeast(10_000.0));
    report.hold("empty_messages_per_second", kept.median(), "/s", Target::AtLeast(6_000.0));
    report.hold("empty_messages_to_echo", kept.median() / echo.median(), "", Target::AtLeast(0.9));
    report.say("empty_messages_echo_per_second", echo.median(), "/s");
    report.say("empty_messages_stateless_per_second", stateless.median(), "/s");
    report.say("empty_messages_held_and_repeated_per_second", held.median(), "/s");
    Ok(())
}
