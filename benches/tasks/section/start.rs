//! From nothing to a connection, to a loaded model, to the first result.

use crate::broker::{Broker, Relay};
use crate::manager::{Manager, Start};
use crate::place::Place;
use crate::report::{Report, Target};
use crate::shellout::{Memory, Shellout};
use crate::stats::Samples;
use crate::worker::Worker;

pub fn measure(place: &Place, rounds: usize, report: &mut Report) -> anyhow::Result<()> {
    let [by_bytes, by_name] = [Start::new(&place.by_bytes()?)?, Start::new(&place.by_name()?)?];
    let broker = Broker::start(place)?;
    let mut manager = Manager::connect(broker.address)?;
    let shellout = Shellout::find(place)?;
    let graph = format!("openvino::{}", place.mobilenet.display());
    let preload = [("nn-graphs", graph.as_str())];

    let mut times = [const { Samples::new() }; 9];
    let [
        plain,
        beside_preload,
        preloaded,
        preloaded_again,
        cold,
        second,
        shell,
        cold_by_name,
        shell_by_name,
    ] = &mut times;
    for _ in 0..rounds.div_ceil(2) {
        let relay = Relay::to(broker.address)?;
        let worker = Worker::start(place, relay.address, &[])?;
        plain.add(relay.subscribed()? - worker.started);
        manager.hear()?;
        drop(worker);

        let relay = Relay::to(broker.address)?;
        let worker = Worker::start(place, relay.address, &preload)?;
        let subscribed = relay.subscribed()? - worker.started;
        beside_preload.add(subscribed);
        preloaded.add(subscribed.max(worker.logged("preloaded a graph")? - worker.started));
        manager.hear()?;
        worker.kept(1)?;
        let state = worker.stop()?;

        let state_dir = state.path().to_string_lossy().into_owned();
        let again = [&preload[..], &[("state-dir", &state_dir)]].concat();
        let relay = Relay::to(broker.address)?;
        let worker = Worker::start(place, relay.address, &again)?;
        let subscribed = relay.subscribed()? - worker.started;
        let loaded = worker.logged("preloaded a graph")? - worker.started;
        preloaded_again.add(subscribed.max(loaded));
        manager.hear()?;
        drop(worker);

        if let Some(shellout) = &shellout {
            shell.add(shellout.by_bytes(Memory::Empty)?);
            shell_by_name.add(shellout.by_name(Memory::Empty)?);
        }
        let worker = Worker::start(place, broker.address, &[])?;
        manager.hear()?;
        manager.run(&by_name)?;
        cold_by_name.add(worker.started.elapsed());
        drop(worker);

        let worker = Worker::start(place, broker.address, &[])?;
        manager.hear()?;
        manager.run(&by_bytes)?;
        cold.add(worker.started.elapsed());
        worker.kept(1)?;
        let state = worker.stop()?;

        let state_dir = state.path().to_string_lossy().into_owned();
        let worker = Worker::start(place, broker.address, &[("state-dir", &state_dir)])?;
        manager.hear()?;
        manager.run(&by_bytes)?;
        second.add(worker.started.elapsed());
    }
    report.hold("start_to_suback_ms", plain.median(), "ms", Target::AtMost(60.0));
    report.say("start_to_suback_while_preloading_ms", beside_preload.median(), "ms");
    report.hold("start_to_preloaded_ms", preloaded.median(), "ms", Target::AtMost(400.0));
    report.say("second_start_to_preloaded_ms", preloaded_again.median(), "ms");
    report.say("first_task_with_start_ms", cold.median(), "ms");
    report.say("first_task_by_name_with_start_ms", cold_by_name.median(), "ms");
    report.say("first_task_of_second_start_ms", second.median(), "ms");
    if shellout.is_some() {
        report.say("shell_out_with_empty_cache_ms", shell.median(), "ms");
        let ratio = cold.median() / shell.median();
        report.hold("first_task_over_shell_out", ratio, "", Target::AtMost(0.85));
        report.say("shell_out_by_name_with_empty_cache_ms", shell_by_name.median(), "ms");
        let ratio = cold_by_name.median() / shell_by_name.median();
        report.hold("first_task_by_name_over_shell_out", ratio, "", Target::AtMost(0.85));
    }
    Ok(())
}
