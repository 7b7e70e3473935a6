//! From the fields of a `GraphDef` to nodes.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::{Attribute, Element, Node, short};
use crate::nn::protobuf::{self, Once, Reader};
use crate::nn::refusal::{Errno, Refusal};

/// What messages call it.
pub(super) const FORMAT: &str = "TensorFlow";

/// The most nodes.
pub(in crate::nn) const MAX_NODES: usize = 100_000;

/// The most inputs, attributes, dimensions and numbers that are read.
const MAX_PARTS: usize = 2_000_000;

/// The most dimensions of a shape.
const MAX_RANK: usize = 16;

/// What constants may take beside what the file has: a number in it can stand
/// for as many as a shape says.
const MOST_MORE: u64 = 64 << 20;

pub(super) fn nodes(file: &[u8]) -> Result<Vec<Node<'_>>, Refusal> {
    let mut parser = Parser::default();
    let (mut nodes, mut places) = (Vec::new(), HashMap::new());
    let mut reader = Reader::new(file, FORMAT);
    while let Some(field) = reader.next()? {
        match field.number {
            1 => {
                let place = field.at..reader.at();
                let node = parser.node(field.message()?, place, &places)?;
                if places.insert(node.name, nodes.len()).is_some() {
                    return Err(wrong(&format!(
                        "has two nodes of the name `{}`",
                        short(node.name)
                    )));
                }
                nodes.push(node);
                if nodes.len() > MAX_NODES {
                    let text = format!("the TensorFlow model has more than {MAX_NODES} nodes");
                    return Err(Refusal::too_large(text));
                }
            }
            2 => {
                let mut library = field.message()?;
                if library.next()?.is_some() {
                    return Err(unsupported("has functions: freeze it with them inlined"));
                }
            }
            _ => {}
        }
    }
    if nodes.is_empty() {
        return Err(malformed(file.len(), "has no node"));
    }
    if parser.constants > file.len() as u64 + MOST_MORE {
        return Err(Refusal::too_large(format!(
            "the TensorFlow model's constants take {} bytes, more than {MOST_MORE} beside its file",
            parser.constants
        )));
    }
    Ok(nodes)
}

pub(super) fn unsupported(what: &str) -> Refusal {
    Refusal::new(Errno::UnsupportedOperation, format!("the TensorFlow model {what}"))
}

pub(super) fn wrong(what: &str) -> Refusal {
    Refusal::argument(format!("the TensorFlow model {what}"))
}

pub(super) fn malformed(at: usize, what: &str) -> Refusal {
    protobuf::malformed(FORMAT, at, what)
}

/// What was read so far.
#[derive(Default)]
pub(super) struct Parser {
    parts: usize,
    /// Bytes of all constants.
    pub(super) constants: u64,
}

impl Parser {
    pub(super) fn part(&mut self) -> Result<(), Refusal> {
        self.parts += 1;
        if self.parts > MAX_PARTS {
            return Err(Refusal::too_large(format!(
                "the TensorFlow model has more than {MAX_PARTS} names, numbers and attributes"
            )));
        }
        Ok(())
    }

    fn node<'a>(
        &mut self,
        mut reader: Reader<'a>,
        place: Range<usize>,
        places: &HashMap<&'a str, usize>,
    ) -> Result<Node<'a>, Refusal> {
        let mut once = Once::default();
        let mut node = Node { place, name: "", op: "", inputs: Vec::new(), attributes: Vec::new() };
        let mut inputs = Vec::new();
        while let Some(field) = reader.next()? {
            self.part()?;
            match field.number {
                1 => {
                    once.see(&field)?;
                    node.name = field.text()?;
                    // What TensorFlow allows in the name of a node.
                    let plain =
                        |byte: u8| byte.is_ascii_alphanumeric() || b"_.\\-/>".contains(&byte);
                    if node.name.is_empty() || !node.name.bytes().all(plain) {
                        return Err(malformed(field.at, "has a node with an invalid name"));
                    }
                }
                2 => {
                    once.see(&field)?;
                    node.op = field.text()?;
                    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
                    if node.op.len() > 64 || !node.op.bytes().all(plain) {
                        return Err(malformed(field.at, "has an operator with an invalid name"));
                    }
                }
                3 => inputs.push(field.text()?),
                5 => {
                    let attribute = self.attribute(field.message()?, field.at)?;
                    node.attributes.push(attribute);
                }
                _ => {}
            }
        }
        if node.name.is_empty() || node.op.is_empty() {
            return Err(wrong("has a node without a name or an operator"));
        }
        let mut known = HashSet::new();
        if let Some((twice, _)) = node.attributes.iter().find(|(name, _)| !known.insert(*name)) {
            let (twice, name) = (short(twice), short(node.name));
            return Err(wrong(&format!("has the attribute `{twice}` twice at the node `{name}`")));
        }
        for input in inputs {
            let (name, output) = match input.split_once(':') {
                Some((name, number)) => (name, number.parse().ok()),
                None => (input, Some(0)),
            };
            // What only has to run before.
            let orders = input.strip_prefix('^');
            let Some(&place) = places.get(orders.unwrap_or(name)) else {
                return Err(wrong(&format!(
                    "uses `{}` at the node `{}` before it is made",
                    short(input),
                    short(node.name)
                )));
            };
            if orders.is_some() {
                continue;
            }
            let output = output.ok_or_else(|| {
                wrong(&format!("has an input `{}`, which is not a name", short(input)))
            })?;
            node.inputs.push((place, output));
        }
        Ok(node)
    }

    fn attribute<'a>(
        &mut self,
        mut reader: Reader<'a>,
        at: usize,
    ) -> Result<(&'a str, Attribute<'a>), Refusal> {
        let (mut once, mut name, mut value) = (Once::default(), "", None);
        while let Some(field) = reader.next()? {
            match field.number {
                1 => {
                    once.see(&field)?;
                    name = field.text()?;
                }
                2 => {
                    once.see(&field)?;
                    value = Some(field.message()?);
                }
                _ => {}
            }
        }
        let Some(reader) = value else {
            return Err(malformed(
                at,
                &format!("has the attribute `{}` without a value", short(name)),
            ));
        };
        self.value(reader, name, at).map(|value| (name, value))
    }

    fn value<'a>(
        &mut self,
        mut reader: Reader<'a>,
        name: &str,
        at: usize,
    ) -> Result<Attribute<'a>, Refusal> {
        let mut found = None;
        while let Some(field) = reader.next()? {
            self.part()?;
            let value = match field.number {
                1 => {
                    self.list(field.message()?, name)?;
                    Attribute::Other
                }
                2 => Attribute::Text(field.bytes()?.0),
                3 => Attribute::Int(field.int()?),
                4 => Attribute::Other,
                5 => Attribute::Bool(field.int()? != 0),
                6 => Attribute::Type(element(field.int()?)?),
                7 => Attribute::Shape(self.shape(field.message()?)?),
                8 => Attribute::Tensor(self.tensor(field.message()?)?),
                9 | 10 => {
                    return Err(unsupported(&format!(
                        "has the attribute `{}`, which is a function",
                        short(name)
                    )));
                }
                _ => continue,
            };
            // One of them; of two, another parser could take the other.
            if found.replace(value).is_some() {
                return Err(malformed(field.at, "has an attribute with two values"));
            }
        }
        found.ok_or_else(|| {
            malformed(at, &format!("has the attribute `{}` without a value", short(name)))
        })
    }

    fn list(&mut self, mut reader: Reader<'_>, name: &str) -> Result<(), Refusal> {
        while let Some(field) = reader.next()? {
            self.part()?;
            match field.number {
                3 | 6 => {
                    if let Ok(mut numbers) = field.message() {
                        while numbers.packed()?.is_some() {
                            self.part()?;
                        }
                    }
                }
                7 => drop(self.shape(field.message()?)?),
                8 | 9 => {
                    return Err(unsupported(&format!(
                        "has the attribute `{}`, a list of tensors or functions",
                        short(name)
                    )));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// `None` for an open rank; an open dimension is `None`.
    pub(super) fn shape(
        &mut self,
        mut reader: Reader<'_>,
    ) -> Result<Option<Vec<Option<u64>>>, Refusal> {
        let (mut dims, mut open) = (Vec::new(), false);
        while let Some(field) = reader.next()? {
            self.part()?;
            match field.number {
                2 => {
                    let (mut once, mut size) = (Once::default(), 0);
                    let mut dim = field.message()?;
                    while let Some(part) = dim.next()? {
                        if part.number == 1 {
                            once.see(&part)?;
                            size = part.int()?;
                        }
                    }
                    dims.push(match size {
                        -1 => None,
                        size => Some(u64::try_from(size).map_err(|_| {
                            malformed(field.at, "has a shape with a negative size")
                        })?),
                    });
                }
                3 => open = field.int()? != 0,
                _ => {}
            }
        }
        if dims.len() > MAX_RANK {
            return Err(wrong(&format!("has a shape of more than {MAX_RANK} dimensions")));
        }
        let sizes = dims.iter().map(|dim| dim.unwrap_or(1));
        if sizes.clone().try_fold(8u64, u64::checked_mul).is_none_or(|all| all > i64::MAX as u64) {
            return Err(wrong("has a shape of a size that can't be"));
        }
        Ok((!open).then_some(dims))
    }
}

/// A type by its number.
pub(super) fn element(number: i64) -> Result<Element, Refusal> {
    let what = || unsupported(&format!("has values of the type {number}, which is not taken"));
    Element::of(number).ok_or_else(what)
}
