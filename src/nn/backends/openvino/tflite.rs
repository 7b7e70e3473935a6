//! TensorFlow Lite models for OpenVINO's own frontend: proven by their scan,
//! and held to the list of operators by what the frontend makes of each one.

mod prove;
pub(super) mod table;

use super::operators::Operators;
use super::xml::Bounds;
use crate::nn::refusal::Refusal;
use crate::nn::tflite;

/// Proves the one builder of a TensorFlow Lite model, and gives the number of
/// its operators.
pub(super) fn check(parts: &[&[u8]], bounds: Bounds) -> Result<usize, Refusal> {
    let model = tflite::scan(parts)?;
    prove::sizes(&model, bounds.tensor_bytes)?;
    if bounds.operators == Operators::Checked {
        prove::operators(&model)?;
    }
    Ok(model.operators.len())
}

#[cfg(all(test, feature = "openvino"))]
mod tests;
