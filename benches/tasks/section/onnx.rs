//! ONNX: EfficientNet-Lite0 in a task beside the same engine alone, for each
//! of the two.

use crate::alone::Alone;
#[cfg(feature = "onnx")]
use crate::alone::AloneRten;
use crate::ours::Ours;
use crate::place::Place;
use crate::report::{Report, Target};
use crate::stats::{Block, Samples};

/// The runs before those that count find the processor's caches full of something else.
const BLOCK: Block = Block { warm_up: 3, runs: 10 };

pub fn measure(place: &Place, rounds: usize, report: &mut Report) -> anyhow::Result<()> {
    let task = place.onnx_by_name()?;
    let settings = |backend| [("executors", "1"), ("nn-hint", "latency"), ("nn-backend", backend)];
    let mut alone = Alone::onnx(place)?;
    let mut ours = Ours::start(place, &settings("openvino"))?;
    #[cfg(feature = "onnx")]
    let (mut alone_rten, mut ours_rten) =
        (AloneRten::new(place)?, Ours::start(place, &settings("rten"))?);

    let [mut own, mut in_task] = [const { Samples::new() }; 2];
    #[cfg(feature = "onnx")]
    let [mut rten, mut rten_in_task] = [const { Samples::new() }; 2];
    for _ in 0..rounds {
        BLOCK.measure(&mut own, || alone.infer())?;
        BLOCK.measure(&mut in_task, || ours.run(&task))?;
        #[cfg(feature = "onnx")]
        {
            BLOCK.measure(&mut rten, || alone_rten.infer())?;
            BLOCK.measure(&mut rten_in_task, || ours_rten.run(&task))?;
        }
    }

    let alone = own.median();
    report.say("onnx_openvino_infer_ms", alone, "ms");
    report.say("onnx_task_by_name_ms", in_task.median(), "ms");
    let over = in_task.median() / alone;
    report.hold("onnx_by_name_over_openvino", over, "", Target::AtMost(1.15));
    #[cfg(feature = "onnx")]
    {
        let (alone_rten, in_task) = (rten.median(), rten_in_task.median());
        report.say("rten_infer_ms", alone_rten, "ms");
        report.say("rten_task_by_name_ms", in_task, "ms");
        report.hold("rten_by_name_over_rten", in_task / alone_rten, "", Target::AtMost(1.1));
        report.say("rten_by_name_over_openvino", in_task / alone, "");
    }
    Ok(())
}
