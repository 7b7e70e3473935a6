//! Protobuf's wire format, as messages of this encoding tell of it.

use crate::nn::protobuf;
pub(super) use crate::nn::protobuf::{Field, Once, Reader, Wire};
use crate::nn::refusal::Refusal;

/// What messages call it.
pub(super) const FORMAT: &str = "ONNX";

/// The refusal of what is no ONNX file.
pub(super) fn malformed(at: usize, what: &str) -> Refusal {
    protobuf::malformed(FORMAT, at, what)
}
