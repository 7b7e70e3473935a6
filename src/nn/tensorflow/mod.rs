//! A frozen graph of TensorFlow's, proven before an engine sees it, and what it
//! says.
//!
//! One pass over the protobuf, bounded in size and count, without an engine's
//! own parser. It takes less than TensorFlow does: no functions, no variables,
//! no text, no name twice, nothing used before it is made, and a constant has
//! the bytes that its shape says. What it gives borrows from the file.

mod read;
mod rewrite;
mod tensor;
pub(in crate::nn) mod write;

use std::ops::Range;

use crate::nn::not_a_model;
use crate::nn::refusal::{Errno, Refusal};

pub(in crate::nn) use read::MAX_NODES;
pub(in crate::nn) use rewrite::{rewrite, with_inputs};

/// A node.
#[derive(Debug)]
pub(in crate::nn) struct Node<'a> {
    /// Its bytes in the file.
    pub(in crate::nn) place: Range<usize>,
    pub(in crate::nn) name: &'a str,
    pub(in crate::nn) op: &'a str,
    /// The nodes that make its inputs, and which of their outputs these are.
    pub(in crate::nn) inputs: Vec<(usize, u32)>,
    pub(in crate::nn) attributes: Vec<(&'a str, Attribute<'a>)>,
}

/// An attribute's value.
#[derive(Debug)]
pub(in crate::nn) enum Attribute<'a> {
    Int(i64),
    Type(Element),
    /// `None` if the rank is open; an open dimension is `None`.
    Shape(Option<Vec<Option<u64>>>),
    Tensor(Tensor<'a>),
    /// UTF-8 in most cases.
    Text(&'a [u8]),
    Bool(bool),
    /// A float or a list.
    Other,
}

/// A constant.
#[derive(Debug)]
pub(in crate::nn) struct Tensor<'a> {
    pub(in crate::nn) element: Element,
    pub(in crate::nn) shape: Vec<u64>,
    data: Data<'a>,
}

#[derive(Debug)]
enum Data<'a> {
    /// Little-endian elements.
    Raw(&'a [u8]),
    /// Numbers, one for each element or one for all.
    Ints(Vec<i64>),
    /// Elements in a form that nobody has asked for yet.
    Other,
}

/// TensorFlow's types of elements, but for text, complex numbers, handles and
/// those that stand for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::nn) enum Element {
    F32,
    F64,
    I32,
    U8,
    I16,
    I8,
    I64,
    Bool,
    Bf16,
    U16,
    F16,
    U32,
    U64,
}

impl Element {
    /// By TensorFlow's number.
    fn of(number: i64) -> Option<Element> {
        use Element::*;
        Some(match number {
            1 => F32,
            2 => F64,
            3 => I32,
            4 => U8,
            5 => I16,
            6 => I8,
            9 => I64,
            10 => Bool,
            14 => Bf16,
            17 => U16,
            19 => F16,
            22 => U32,
            23 => U64,
            _ => return None,
        })
    }

    /// Bytes of one element.
    pub(in crate::nn) fn bytes(self) -> u64 {
        use Element::*;
        match self {
            U8 | I8 | Bool => 1,
            I16 | U16 | F16 | Bf16 => 2,
            F32 | I32 | U32 => 4,
            F64 | I64 | U64 => 8,
        }
    }
}

impl Tensor<'_> {
    /// The numbers, if it is one of integers and holds no more than `most`.
    pub(in crate::nn) fn ints(&self, most: usize) -> Option<Vec<i64>> {
        let count = self.shape.iter().try_fold(1u64, |all, &dim| all.checked_mul(dim))?;
        let count = usize::try_from(count).ok().filter(|&count| count <= most)?;
        match (&self.data, self.element) {
            (Data::Ints(ints), element @ (Element::I32 | Element::I64)) => {
                let fits = |&number: &i64| match element {
                    Element::I32 => i64::from(number as i32),
                    _ => number,
                };
                match ints.len() == count {
                    true => Some(ints.iter().map(fits).collect()),
                    false => Some(vec![fits(ints.first()?); count]),
                }
            }
            (Data::Raw(raw), Element::I32) => {
                let number = |word: &[u8; 4]| i64::from(i32::from_le_bytes(*word));
                Some(raw.as_chunks().0.iter().map(number).collect())
            }
            (Data::Raw(raw), Element::I64) => {
                let number = |word: &[u8; 8]| i64::from_le_bytes(*word);
                Some(raw.as_chunks().0.iter().map(number).collect())
            }
            _ => None,
        }
    }
}

impl<'a> Node<'a> {
    /// The value of an attribute.
    pub(in crate::nn) fn attribute(&self, name: &str) -> Option<&Attribute<'a>> {
        self.attributes.iter().find(|(own, _)| *own == name).map(|(_, value)| value)
    }
}

/// As much of a name as a message repeats.
fn short(name: &str) -> &str {
    &name[..name.floor_char_boundary(100)]
}

/// Proves the one builder of a frozen graph and gives its nodes, in an order in
/// which each one's inputs are made before.
///
/// # Errors
///
/// A sentence on what it is, if it is no graph of TensorFlow's, and otherwise
/// on what is wrong with it, with the place or the node.
pub(in crate::nn) fn scan<'a>(parts: &[&'a [u8]]) -> Result<Vec<Node<'a>>, Refusal> {
    let &[file] = parts else {
        return Err(Refusal::argument(format!(
            "a TensorFlow model takes one builder, the frozen graph, not {}",
            parts.len()
        )));
    };
    // Field 1, the nodes, or 4, the version: TensorFlow writes them in order.
    if !matches!(file.first(), Some(0x0a | 0x22)) {
        let start: Vec<_> = file.iter().take(8).map(|byte| format!(" {byte:02x}")).collect();
        let text = format!(
            "the builder ({} bytes, beginning with{}) is not a frozen graph of TensorFlow's, which \
             begins with 0a{}",
            file.len(),
            start.concat(),
            not_a_model::told(file)
        );
        return Err(Refusal::new(Errno::InvalidEncoding, text));
    }
    read::nodes(file)
}

#[cfg(test)]
mod tests;
