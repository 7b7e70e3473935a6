//! Frozen graphs of TensorFlow's for OpenVINO's own frontend: proven by their
//! scan, and held to the list of operators by what the frontend makes of each
//! node.

mod guard;
mod inputs;
mod prove;
pub(super) mod table;

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::operators::Operators;
use super::xml::Bounds;
use crate::nn::refusal::Refusal;
use crate::nn::tensorflow;

/// Proves the one builder of a frozen graph and gives what OpenVINO is to read:
/// the file, or one with other nodes where only those are known to be safe; and
/// the number of nodes.
pub(super) fn check<'a>(
    parts: &[&'a [u8]],
    bounds: Bounds,
) -> Result<(Cow<'a, [u8]>, usize), Refusal> {
    let nodes = tensorflow::scan(parts)?;
    prove::inputs(&nodes, bounds.tensor_bytes)?;
    let others = match bounds.operators {
        Operators::All => BTreeMap::new(),
        Operators::Checked => prove::operators(parts[0], &nodes)?,
    };
    if others.is_empty() {
        return Ok((Cow::Borrowed(parts[0]), nodes.len()));
    }
    let rewritten = tensorflow::rewrite(parts[0], &others)?;
    // The names of new values could be those of the model's.
    let nodes = tensorflow::scan(&[&rewritten])?.len();
    Ok((Cow::Owned(rewritten), nodes))
}

#[cfg(all(test, feature = "openvino"))]
mod tests;
