//! An ONNX file, proven before an engine sees it, and what it says.
//!
//! One pass over the protobuf, bounded in size, nesting and count, without an
//! engine's own parser. It takes less than ONNX does, so that no parser behind
//! it can see another model than the one that was proven: no field twice, no
//! name twice, nothing used before it is made, no data outside the file, no
//! operators of other domains. What it gives borrows from the file.

mod names;
mod read;
mod rewrite;
mod tensor;
mod types;
mod wire;
pub(in crate::nn) mod write;

use std::ops::Range;

use crate::nn::not_a_model;
use crate::nn::refusal::{Errno, Refusal};

pub(in crate::nn) use read::{MAX_DEPTH, MAX_NODES};
pub(in crate::nn) use rewrite::{rewrite, with_inputs};

/// A model.
#[derive(Debug)]
pub(in crate::nn) struct Model<'a> {
    /// The version of ONNX's own operators.
    pub(in crate::nn) opset: i64,
    pub(in crate::nn) graph: Graph<'a>,
    /// Nodes of all graphs, those of branches and bodies included.
    pub(in crate::nn) nodes: usize,
}

/// The model's graph, or a branch or body of one of its nodes.
#[derive(Debug, Default)]
pub(in crate::nn) struct Graph<'a> {
    /// In an order in which each one's inputs are made before.
    pub(in crate::nn) nodes: Vec<Node<'a>>,
    pub(in crate::nn) initializers: Vec<Tensor<'a>>,
    /// One that has an initializer's name is not asked for.
    pub(in crate::nn) inputs: Vec<Value<'a>>,
    pub(in crate::nn) outputs: Vec<Value<'a>>,
    /// What the file says of values in between.
    pub(in crate::nn) values: Vec<Value<'a>>,
}

/// An input, an output or a value in between.
#[derive(Debug)]
pub(in crate::nn) struct Value<'a> {
    pub(in crate::nn) name: &'a str,
    /// None for what is no tensor, such as a sequence, and where nothing is
    /// said of it.
    pub(in crate::nn) tensor: Option<Type>,
}

/// A tensor's type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::nn) struct Type {
    pub(in crate::nn) element: Element,
    /// `None` if the rank is open; an open dimension is `None`.
    pub(in crate::nn) shape: Option<Vec<Option<u64>>>,
}

/// A tensor with its data.
#[derive(Debug)]
pub(in crate::nn) struct Tensor<'a> {
    pub(in crate::nn) name: &'a str,
    pub(in crate::nn) element: Element,
    pub(in crate::nn) shape: Vec<u64>,
    data: Data<'a>,
}

#[derive(Debug)]
enum Data<'a> {
    /// Little-endian elements.
    Raw(&'a [u8]),
    /// Numbers, each in an `i64`.
    Ints(Vec<i64>),
    /// Elements in a form that nobody has asked for yet.
    Other,
}

/// A node.
#[derive(Debug)]
pub(in crate::nn) struct Node<'a> {
    /// Its bytes in the file.
    pub(in crate::nn) place: Range<usize>,
    /// Empty if it has none.
    pub(in crate::nn) name: &'a str,
    pub(in crate::nn) op: &'a str,
    /// Empty for one that is left out.
    pub(in crate::nn) inputs: Vec<&'a str>,
    pub(in crate::nn) outputs: Vec<&'a str>,
    pub(in crate::nn) attributes: Vec<Attribute<'a>>,
}

/// An attribute of a node.
#[derive(Debug)]
pub(in crate::nn) struct Attribute<'a> {
    pub(in crate::nn) name: &'a str,
    pub(in crate::nn) value: Setting<'a>,
}

/// An attribute's value.
#[derive(Debug)]
pub(in crate::nn) enum Setting<'a> {
    Int(i64),
    Tensor(Tensor<'a>),
    Graph(Graph<'a>),
    Ints(Vec<i64>),
    /// A float, a text, or a list of these.
    Other,
}

/// ONNX's types of elements, but for strings and complex numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::nn) enum Element {
    F32,
    U8,
    I8,
    U16,
    I16,
    I32,
    I64,
    Bool,
    F16,
    F64,
    U32,
    U64,
    Bf16,
    /// A float of 8 bits, one of four kinds.
    F8,
    U4,
    I4,
}

impl Element {
    /// By ONNX's number.
    fn of(number: i64) -> Option<Element> {
        use Element::*;
        Some(match number {
            1 => F32,
            2 => U8,
            3 => I8,
            4 => U16,
            5 => I16,
            6 => I32,
            7 => I64,
            9 => Bool,
            10 => F16,
            11 => F64,
            12 => U32,
            13 => U64,
            16 => Bf16,
            17..=20 => F8,
            21 => U4,
            22 => I4,
            _ => return None,
        })
    }

    /// Bits of one element.
    pub(in crate::nn) fn bits(self) -> u64 {
        use Element::*;
        match self {
            U4 | I4 => 4,
            U8 | I8 | Bool | F8 => 8,
            U16 | I16 | F16 | Bf16 => 16,
            F32 | I32 | U32 => 32,
            F64 | I64 | U64 => 64,
        }
    }
}

impl Tensor<'_> {
    /// The numbers, if it is one of integers and holds no more than `most`.
    pub(in crate::nn) fn ints(&self, most: usize) -> Option<Vec<i64>> {
        use Element::*;
        match (&self.data, self.element) {
            (Data::Ints(ints), I32 | I64) if ints.len() <= most => Some(ints.clone()),
            (Data::Raw(raw), I32) if raw.len() <= 4 * most => {
                let number = |word: &[u8; 4]| i64::from(i32::from_le_bytes(*word));
                Some(raw.as_chunks().0.iter().map(number).collect())
            }
            (Data::Raw(raw), I64) if raw.len() <= 8 * most => {
                let number = |word: &[u8; 8]| i64::from_le_bytes(*word);
                Some(raw.as_chunks().0.iter().map(number).collect())
            }
            _ => None,
        }
    }
}

impl<'a> Node<'a> {
    /// The value of an attribute.
    pub(in crate::nn) fn setting(&self, name: &str) -> Option<&Setting<'a>> {
        self.attributes.iter().find(|attribute| attribute.name == name).map(|found| &found.value)
    }

    /// Its branches or its body.
    pub(in crate::nn) fn graphs(&self) -> impl Iterator<Item = &Graph<'a>> {
        self.attributes.iter().filter_map(|attribute| match &attribute.value {
            Setting::Graph(graph) => Some(graph),
            _ => None,
        })
    }

    /// Its name, or what it makes if it has none.
    pub(in crate::nn) fn label(&self) -> &'a str {
        match (self.name, self.outputs.first()) {
            ("", Some(output)) => output,
            (name, _) => name,
        }
    }

    /// What a message calls it.
    pub(in crate::nn) fn title(&self) -> String {
        format!("{} `{}`", self.op, short(self.label()))
    }
}

/// As much of a name as a message repeats.
pub(in crate::nn) fn short(name: &str) -> &str {
    &name[..name.floor_char_boundary(100)]
}

/// Proves the one builder of an ONNX model and gives what it says.
///
/// # Errors
///
/// A sentence on what it is, if it is no ONNX file, and otherwise on what is
/// wrong with it, with the place or the node.
pub(in crate::nn) fn scan<'a>(parts: &[&'a [u8]]) -> Result<Model<'a>, Refusal> {
    let &[file] = parts else {
        return Err(Refusal::argument(format!(
            "an ONNX model takes one builder, the file, not {}",
            parts.len()
        )));
    };
    // Each ONNX file begins with the version of its format: field 1, a number.
    if file.first() != Some(&0x08) {
        let start: Vec<_> = file.iter().take(8).map(|byte| format!(" {byte:02x}")).collect();
        let text = format!(
            "the builder ({} bytes, beginning with{}) is not an ONNX file, which begins with 08{}",
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
