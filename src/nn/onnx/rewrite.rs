//! Other nodes in the place of some.

use std::collections::BTreeMap;

use super::wire::{FORMAT, Reader, Wire};
use super::{Node, write};
use crate::nn::refusal::Refusal;

/// Which message of ONNX's is read, as far as nodes are in it.
#[derive(Clone, Copy)]
enum Message {
    Model,
    Graph,
    Node,
    Attribute,
}

impl Message {
    /// The message in one of its fields, if nodes may be in there.
    fn inner(self, field: u32) -> Option<Message> {
        match (self, field) {
            (Message::Model, 7) | (Message::Attribute, 6) => Some(Message::Graph),
            (Message::Graph, 1) => Some(Message::Node),
            (Message::Node, 5) => Some(Message::Attribute),
            _ => None,
        }
    }
}

/// A copy of a file that [`super::scan`] has proven, with other fields in the
/// place of the nodes that begin at these bytes. Everything else is as it was.
pub(in crate::nn) fn rewrite(
    file: &[u8],
    nodes: &BTreeMap<usize, Vec<u8>>,
) -> Result<Vec<u8>, Refusal> {
    copy(file, Reader::new(file, FORMAT), Message::Model, nodes)
}

fn copy(
    file: &[u8],
    mut reader: Reader<'_>,
    message: Message,
    nodes: &BTreeMap<usize, Vec<u8>>,
) -> Result<Vec<u8>, Refusal> {
    let mut copied = Vec::new();
    while let Some(field) = reader.next()? {
        let place = field.at..reader.at();
        let inner =
            message.inner(field.number).filter(|_| nodes.range(place.clone()).next().is_some());
        match (inner, &field.value) {
            (Some(Message::Node), _) if nodes.contains_key(&field.at) => {
                copied.extend_from_slice(&nodes[&field.at]);
            }
            (Some(inner), Wire::Bytes(..)) => {
                let inner = copy(file, field.message()?, inner, nodes)?;
                copied.extend(write::bytes(u64::from(field.number), inner));
            }
            _ => copied.extend_from_slice(&file[place]),
        }
    }
    Ok(copied)
}

/// A node of a file that [`super::scan`] has proven, as a field of its graph,
/// with inputs of these names in the place of its own.
pub(in crate::nn) fn with_inputs(
    file: &[u8],
    node: &Node<'_>,
    names: &[&str],
) -> Result<Vec<u8>, Refusal> {
    let field = &file[node.place.clone()];
    let Some(node) = Reader::new(field, FORMAT).next()? else { return Ok(Vec::new()) };
    // Places are those in the field.
    let (mut reader, mut names) = (node.message()?, names.iter());
    let mut copied = Vec::with_capacity(field.len());
    while let Some(part) = reader.next()? {
        match (part.number, names.as_slice()) {
            (1, [name, ..]) => {
                names.next();
                copied.extend(write::bytes(1, name));
            }
            _ => copied.extend_from_slice(&field[part.at..reader.at()]),
        }
    }
    Ok(write::bytes(1, copied))
}
