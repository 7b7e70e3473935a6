//! Other nodes in the place of some.

use std::collections::BTreeMap;

use super::Node;
use super::read::FORMAT;
use crate::nn::onnx::write::bytes;
use crate::nn::protobuf::Reader;
use crate::nn::refusal::Refusal;

/// A copy of a file that [`super::scan`] has proven, with other fields in the
/// place of the nodes that begin at these bytes. Everything else is as it was.
pub(in crate::nn) fn rewrite(
    file: &[u8],
    nodes: &BTreeMap<usize, Vec<u8>>,
) -> Result<Vec<u8>, Refusal> {
    let (mut reader, mut copied) = (Reader::new(file, FORMAT), Vec::with_capacity(file.len()));
    while let Some(field) = reader.next()? {
        match nodes.get(&field.at) {
            Some(others) => copied.extend_from_slice(others),
            None => copied.extend_from_slice(&file[field.at..reader.at()]),
        }
    }
    Ok(copied)
}

/// A node of a file that [`super::scan`] has proven, as a field of its graph,
/// with inputs of these names in the place of its own, by their numbers.
pub(in crate::nn) fn with_inputs(
    file: &[u8],
    node: &Node<'_>,
    names: &BTreeMap<usize, &str>,
) -> Result<Vec<u8>, Refusal> {
    let field = &file[node.place.clone()];
    let Some(node) = Reader::new(field, FORMAT).next()? else { return Ok(Vec::new()) };
    // Places are those in the field.
    let (mut reader, mut at) = (node.message()?, 0);
    let mut copied = Vec::with_capacity(field.len());
    while let Some(part) = reader.next()? {
        // What only has to run before is no input.
        let is_input = part.number == 3 && !part.text()?.starts_with('^');
        match names.get(&at).filter(|_| is_input) {
            Some(name) => copied.extend(bytes(3, name)),
            None => copied.extend_from_slice(&field[part.at..reader.at()]),
        }
        at += usize::from(is_input);
    }
    Ok(bytes(1, copied))
}
