//! Frozen graphs of TensorFlow's for OpenVINO's own frontend: proven by their
//! scan, and held to the list of operators by what the frontend makes of each
//! node.

mod prove;
mod table;

use super::xml::Bounds;
use crate::nn::operators::Operators;
use crate::nn::refusal::Refusal;
use crate::nn::tensorflow;

/// Proves the one builder of a frozen graph, and gives the number of its nodes.
pub(super) fn check(parts: &[&[u8]], bounds: Bounds) -> Result<usize, Refusal> {
    let nodes = tensorflow::scan(parts)?;
    prove::inputs(&nodes, bounds.tensor_bytes)?;
    if bounds.operators == Operators::Checked {
        prove::operators(&nodes)?;
    }
    Ok(nodes.len())
}

#[cfg(all(test, feature = "openvino"))]
mod tests;
