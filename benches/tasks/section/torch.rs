//! TorchScript: ResNet-18 and silero in a task beside libtorch alone.

use crate::alone::AloneTorch;
use crate::broker::Broker;
use crate::manager::{Manager, Start};
use crate::ours::Ours;
use crate::place::Place;
use crate::report::{Report, Target};
use crate::stats::{Block, Samples};
use crate::worker::Worker;

/// The runs before those that count: libtorch prepares itself, and the processor's caches
/// are full of something else.
const BLOCK: Block = Block { warm_up: 3, runs: 10 };

pub fn measure(place: &Place, rounds: usize, report: &mut Report) -> anyhow::Result<()> {
    let (resnet, silero) = (place.resnet_by_name()?, place.silero_by_name()?);
    let mut ours = Ours::start(place, &[("executors", "1"), ("nn-hint", "latency")])?;
    let mut resnet_alone = AloneTorch::new(place, &place.resnet.join("model.pt"), "image")?;
    let mut silero_alone = AloneTorch::new(place, &place.voice.join("model.pt"), "sound")?;

    let [mut own, mut in_task] = [const { Samples::new() }; 2];
    let [mut heard, mut heard_in_task] = [const { Samples::new() }; 2];
    for _ in 0..rounds {
        BLOCK.measure(&mut own, || resnet_alone.infer())?;
        BLOCK.measure(&mut in_task, || ours.run(&resnet))?;
        BLOCK.measure(&mut heard, || silero_alone.infer())?;
        BLOCK.measure(&mut heard_in_task, || ours.run(&silero))?;
    }

    report.say("torch_resnet_infer_ms", own.median(), "ms");
    report.say("torch_resnet_task_by_name_ms", in_task.median(), "ms");
    let over = in_task.median() / own.median();
    report.hold("torch_resnet_by_name_over_libtorch", over, "", Target::AtMost(1.1));
    report.say("torch_silero_infer_ms", heard.median(), "ms");
    report.say("torch_silero_task_by_name_ms", heard_in_task.median(), "ms");
    let more = heard_in_task.median() - heard.median();
    report.hold("torch_silero_task_minus_infer_ms", more, "ms", Target::AtMost(2.0));
    drop(ours);
    memory(place, report)
}

/// What a worker has while nothing was loaded, and when a task has used ResNet's 47 MB, which stay.
fn memory(place: &Place, report: &mut Report) -> anyhow::Result<()> {
    let resnet = Start::new(&place.resnet_by_name()?)?;
    let broker = Broker::start(place)?;
    let mut manager = Manager::connect(broker.address)?;
    let worker = Worker::start(place, broker.address, &[("executors", "1")])?;
    manager.hear()?;
    report.say("torch_resident_before_mib", worker.resident_of_all()?, "MiB");
    manager.run(&resnet)?;
    report.say("torch_resident_with_resnet_mib", worker.resident_of_all()?, "MiB");
    Ok(())
}
