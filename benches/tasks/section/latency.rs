//! One task after the other: one executor, and OpenVINO's latency mode on
//! both sides.

use crate::alone::{Alone, Precision};
use crate::broker::Broker;
use crate::manager::{Manager, Start};
use crate::ours::Ours;
use crate::place::Place;
use crate::report::{Report, Target};
use crate::shellout::{Memory, Shellout};
use crate::stats::{Block, Samples};
use crate::worker::Worker;

/// The runs before those that count find the processor's caches full of something else.
const BLOCK: Block = Block { warm_up: 5, runs: 20 };

pub fn measure(place: &Place, rounds: usize, report: &mut Report) -> anyhow::Result<()> {
    let settings = [("executors", "1"), ("nn-hint", "latency")];
    let (by_bytes, by_name) = (place.by_bytes()?, place.by_name()?);
    let component_by_name = place.component_by_name()?;
    let mut alone = Alone::new(place, "LATENCY", Precision::F32)?;
    let mut alone_default = Alone::new(place, "LATENCY", Precision::Default)?;
    let mut ours = Ours::start(place, &settings)?;
    let mut copying = Ours::start(place, &[&settings[..], &[("file-cache", "0")]].concat())?;
    let broker = Broker::start(place)?;
    let mut manager = Manager::connect(broker.address)?;
    let _worker = Worker::start(place, broker.address, &settings)?;
    manager.hear()?;
    let message_by_name = Start::new(&by_name)?;
    let message_by_bytes = Start::new(&by_bytes)?;
    let shellout = Shellout::find(place)?;

    let mut times = [const { Samples::new() }; 10];
    let [
        own,
        own_default,
        bytes,
        copied,
        name,
        component,
        message,
        message_bytes,
        shell_bytes,
        shell_name,
    ] = &mut times;
    for _ in 0..rounds {
        BLOCK.measure(own, || alone.infer())?;
        BLOCK.measure(name, || ours.run(&by_name))?;
        BLOCK.measure(component, || ours.run(&component_by_name))?;
        BLOCK.measure(own, || alone.infer())?;
        BLOCK.measure(bytes, || ours.run(&by_bytes))?;
        BLOCK.measure(copied, || copying.run(&by_bytes))?;
        BLOCK.measure(message, || manager.run(&message_by_name))?;
        BLOCK.measure(message_bytes, || manager.run(&message_by_bytes))?;
        BLOCK.measure(own_default, || alone_default.infer())?;
        if let Some(shellout) = &shellout {
            shell_bytes.add(shellout.by_bytes(Memory::Own)?);
            shell_name.add(shellout.by_name(Memory::Own)?);
        }
    }
    report.steady(own);

    let alone = own.median();
    report.say("openvino_infer_ms", alone, "ms");
    report.say("openvino_infer_default_precision_ms", own_default.median(), "ms");
    report.say("task_by_bytes_ms", bytes.median(), "ms");
    report.say("task_by_bytes_copied_ms", copied.median(), "ms");
    report.say("task_by_name_ms", name.median(), "ms");
    let over = bytes.median() / alone;
    report.hold("by_bytes_over_openvino", over, "", place.at_most(1.20, 1.15)?);
    report.say("by_bytes_copied_over_openvino", copied.median() / alone, "");
    let over = name.median() / alone;
    report.hold("by_name_over_openvino", over, "", place.at_most(1.13, 1.08)?);
    let [tail, own_tail] = [&*name, &*own].map(|samples| samples.quantile(0.99) / samples.median());
    report.say("openvino_p99_over_median", own_tail, "");
    report.hold("by_name_p99_over_median", tail, "", Target::AtMost(own_tail + 0.2));
    let over = component.median() / alone;
    report.say("component_by_name_ms", component.median(), "ms");
    report.hold("component_by_name_over_openvino", over, "", Target::AtMost(1.25));
    report.say("message_by_bytes_ms", message_bytes.median(), "ms");
    report.say("message_by_name_ms", message.median(), "ms");
    let more = message.median() - name.median();
    report.hold("message_over_executor_ms", more, "ms", Target::AtMost(2.0));
    let [by_bytes, by_name] = [&*message_bytes, &*message].map(|samples| samples.median() / alone);
    report.hold("message_by_bytes_over_openvino", by_bytes, "", Target::AtMost(1.45));
    report.hold("message_by_name_over_openvino", by_name, "", Target::AtMost(1.35));
    report.note(format!("messages went through {}", broker.name));
    if shellout.is_some() {
        report.say("shell_out_by_bytes_ms", shell_bytes.median(), "ms");
        report.say("shell_out_by_name_ms", shell_name.median(), "ms");
        let (by_bytes, by_name) =
            (shell_bytes.median() / bytes.median(), shell_name.median() / name.median());
        report.hold("shell_out_over_by_bytes", by_bytes, "", Target::AtLeast(20.0));
        report.hold("shell_out_over_by_name", by_name, "", Target::AtLeast(30.0));
    } else {
        report.note(
            "there is no `wasmtime` on the PATH or in PROPLET_BENCH_WASMTIME to compare with",
        );
    }
    Ok(())
}
