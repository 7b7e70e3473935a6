//! Writes parts of frozen graphs: each function gives the bytes of one field. What
//! stands in the place of nodes is made of them, and so are the tests' models.

use crate::nn::onnx::write::{bytes, int};

/// TensorFlow's number of floats.
#[cfg(test)]
pub(in crate::nn) const F32: i64 = 1;
/// The same of whole numbers of 32 bits.
pub(in crate::nn) const I32: i64 = 3;
/// And of those of 64 bits.
pub(in crate::nn) const I64: i64 = 9;

/// An attribute with the field of its value.
pub(in crate::nn) fn attribute(name: &str, value: Vec<u8>) -> Vec<u8> {
    bytes(5, [bytes(1, name), bytes(2, value)].concat())
}

/// A shape as a field of that number.
pub(in crate::nn) fn shape(field: u64, dims: &[i64]) -> Vec<u8> {
    let dims: Vec<_> = dims.iter().map(|&dim| bytes(2, int(1, dim))).collect();
    bytes(field, dims.concat())
}

/// A node and its attributes.
pub(in crate::nn) fn node(
    name: &str,
    op: &str,
    inputs: &[&str],
    attributes: &[Vec<u8>],
) -> Vec<u8> {
    let inputs: Vec<_> = inputs.iter().map(|input| bytes(3, input)).collect();
    bytes(1, [bytes(1, name), bytes(2, op), inputs.concat(), attributes.concat()].concat())
}

/// An input of floats.
#[cfg(test)]
pub(in crate::nn) fn placeholder(name: &str, dims: &[i64]) -> Vec<u8> {
    let ty = attribute("dtype", int(6, F32));
    node(name, "Placeholder", &[], &[ty, attribute("shape", shape(7, dims))])
}

/// A constant whose elements stand in these fields.
pub(in crate::nn) fn constant(name: &str, ty: i64, dims: &[i64], fields: Vec<u8>) -> Vec<u8> {
    let tensor = bytes(8, [int(1, ty), shape(2, dims), fields].concat());
    node(name, "Const", &[], &[attribute("dtype", int(6, ty)), attribute("value", tensor)])
}
