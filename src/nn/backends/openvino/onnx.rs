//! ONNX models for OpenVINO's own frontend: proven by their scan, and held to
//! the list of operators by what the frontend makes of each node.

mod estimate;
mod gather;
mod guard;
mod inputs;
mod prove;
pub(super) mod table;
mod values;

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::operators::Operators;
use super::xml::Bounds;
use crate::nn::onnx::{self, rewrite};
use crate::nn::refusal::Refusal;

/// Proves the one builder of an ONNX model and gives what OpenVINO is to read:
/// the file, or one with other nodes where only those are known to be safe; and
/// the number of nodes.
pub(super) fn check<'a>(
    parts: &[&'a [u8]],
    bounds: Bounds,
) -> Result<(Cow<'a, [u8]>, usize), Refusal> {
    let model = onnx::scan(parts)?;
    let others = match bounds.operators {
        Operators::All => BTreeMap::new(),
        Operators::Checked => prove::prove(parts[0], &model)?.others,
    };
    estimate::prove(&model.graph, bounds.tensor_bytes)?;
    if others.is_empty() {
        return Ok((Cow::Borrowed(parts[0]), model.nodes));
    }
    let rewritten = rewrite(parts[0], &others)?;
    // The names of new values could be those of the model's.
    let nodes = onnx::scan(&[&rewritten])?.nodes;
    Ok((Cow::Owned(rewritten), nodes))
}

#[cfg(all(test, feature = "openvino"))]
mod tests;
