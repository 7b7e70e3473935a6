//! A TensorFlow Lite file, proven before an engine sees it, and what it says.
//!
//! An engine reads the file where its offsets lead, and looks at no bound. So
//! each table, vector and text that it can get to is proven to lie in the file
//! here, each number that selects something to be one that is there, and
//! each constant to have as many bytes as its shape says. It takes less than
//! the format does: one graph, no name twice, nothing used before it is made,
//! no data outside the file, no operators but TensorFlow Lite's own. What it
//! gives borrows from the file.

mod flat;
mod names;
mod read;
#[cfg(test)]
pub(in crate::nn) mod write;

use crate::nn::not_a_model;
use crate::nn::refusal::{Errno, Refusal};

pub(in crate::nn) use read::MAX_OPERATORS;

/// A model: its one graph.
#[derive(Debug)]
pub(in crate::nn) struct Model<'a> {
    pub(in crate::nn) tensors: Vec<Tensor<'a>>,
    /// Indices of tensors, as are all others.
    pub(in crate::nn) inputs: Vec<usize>,
    pub(in crate::nn) outputs: Vec<usize>,
    /// In an order in which each one's inputs are made before.
    pub(in crate::nn) operators: Vec<Operator>,
}

/// A value: an input, a constant, or what an operator makes.
#[derive(Debug)]
pub(in crate::nn) struct Tensor<'a> {
    pub(in crate::nn) name: &'a str,
    pub(in crate::nn) element: Element,
    /// An open dimension is `None`.
    pub(in crate::nn) shape: Vec<Option<u64>>,
    /// A constant's elements, which are as many as the shape says.
    pub(in crate::nn) data: Option<&'a [u8]>,
    /// Its numbers stand for others.
    pub(in crate::nn) quantized: bool,
}

/// An operator.
#[derive(Debug)]
pub(in crate::nn) struct Operator {
    pub(in crate::nn) op: &'static str,
    /// None for one that is left out.
    pub(in crate::nn) inputs: Vec<Option<usize>>,
    pub(in crate::nn) outputs: Vec<usize>,
    /// What `GATHER` selects along, and how many dimensions it takes one by one.
    pub(in crate::nn) gather: Option<(i32, i32)>,
}

/// TensorFlow Lite's types of elements, but for text, complex numbers and
/// handles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::nn) enum Element {
    F32,
    F16,
    I32,
    U8,
    I64,
    Bool,
    I16,
    I8,
    F64,
    U64,
    U32,
    U16,
    I4,
}

impl Element {
    /// By the schema's number.
    fn of(number: i8) -> Option<Element> {
        use Element::*;
        Some(match number {
            0 => F32,
            1 => F16,
            2 => I32,
            3 => U8,
            4 => I64,
            6 => Bool,
            7 => I16,
            9 => I8,
            10 => F64,
            12 => U64,
            15 => U32,
            16 => U16,
            17 => I4,
            _ => return None,
        })
    }

    /// Bits of one element.
    fn bits(self) -> u64 {
        use Element::*;
        match self {
            I4 => 4,
            U8 | I8 | Bool => 8,
            F16 | I16 | U16 => 16,
            F32 | I32 | U32 => 32,
            I64 | F64 | U64 => 64,
        }
    }
}

impl Tensor<'_> {
    /// The bytes of its elements, with 1 for an open dimension; none if that is
    /// more than 64 bits count.
    pub(in crate::nn) fn bytes(&self) -> Option<u64> {
        let sizes = self.shape.iter().map(|dim| dim.unwrap_or(1));
        let elements = sizes.into_iter().try_fold(1u64, u64::checked_mul)?;
        Some(elements.checked_mul(self.element.bits())?.div_ceil(8))
    }

    /// Its dimensions, if none is open.
    pub(in crate::nn) fn fixed(&self) -> Option<Vec<u64>> {
        self.shape.iter().copied().collect()
    }

    /// The numbers of a constant of no more than `most` integers.
    pub(in crate::nn) fn ints(&self, most: usize) -> Option<Vec<i64>> {
        let data = self.data.filter(|_| !self.quantized)?;
        match self.element {
            Element::I32 if data.len() <= 4 * most => {
                let number = |word: &[u8; 4]| i64::from(i32::from_le_bytes(*word));
                Some(data.as_chunks().0.iter().map(number).collect())
            }
            Element::I64 if data.len() <= 8 * most => {
                let number = |word: &[u8; 8]| i64::from_le_bytes(*word);
                Some(data.as_chunks().0.iter().map(number).collect())
            }
            _ => None,
        }
    }
}

/// As much of a name as a message repeats.
fn short(name: &str) -> &str {
    &name[..name.floor_char_boundary(100)]
}

/// Proves the one builder of a TensorFlow Lite model and gives what it says.
///
/// # Errors
///
/// A sentence on what it is, if it is no TensorFlow Lite file, and otherwise on
/// what is wrong with it, with the place, the operator or the tensor.
pub(in crate::nn) fn scan<'a>(parts: &[&'a [u8]]) -> Result<Model<'a>, Refusal> {
    let &[file] = parts else {
        return Err(Refusal::argument(format!(
            "a TensorFlow Lite model takes one builder, the file, not {}",
            parts.len()
        )));
    };
    // The format's mark stands behind the first offset.
    if file.get(4..8) != Some(b"TFL3") {
        let start: Vec<_> = file.iter().take(8).map(|byte| format!(" {byte:02x}")).collect();
        let text = format!(
            "the builder ({} bytes, beginning with{}) is not a TensorFlow Lite file, which has \
             TFL3 at its fourth byte{}",
            file.len(),
            start.concat(),
            not_a_model::told(file)
        );
        return Err(Refusal::new(Errno::InvalidEncoding, text));
    }
    read::model(file)
}

#[cfg(test)]
mod tests;
