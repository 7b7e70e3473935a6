//! From the fields of ONNX's messages to a model.

use std::collections::HashSet;

use super::names::prove_names;
use super::wire::{FORMAT, Field, Once, Reader, Wire, malformed};
use super::{Attribute, Graph, Model, Node, Setting, short};
use crate::nn::refusal::{Errno, Refusal};

/// The most nodes, those of branches and bodies included. A language model of
/// some billions of weights has about 20,000.
pub(in crate::nn) const MAX_NODES: usize = 100_000;

/// The most graphs around a node: engines recurse through branches and bodies.
pub(in crate::nn) const MAX_DEPTH: usize = 16;

/// The most names, numbers, tensors and attributes that are read: each takes
/// some 100 bytes at most.
const MAX_PARTS: usize = 2_000_000;

pub(super) fn model(file: &[u8]) -> Result<Model<'_>, Refusal> {
    let mut parser = Parser::default();
    let (mut once, mut opset, mut graph) = (Once::default(), None, None);
    let mut reader = Reader::new(file, FORMAT);
    while let Some(field) = reader.next()? {
        match field.number {
            1 => {
                once.see(&field)?;
                field.int()?;
            }
            7 => {
                once.see(&field)?;
                graph = Some(parser.graph(field.message()?, 0)?);
            }
            8 => {
                let (domain, version) = parser.opset(field.message()?)?;
                if is_default(domain) && opset.replace(version).is_some() {
                    return Err(malformed(field.at, "names the version of its operators twice"));
                }
            }
            20 => return Err(unsupported("holds a training graph, which is not run here")),
            25 => {
                return Err(unsupported(
                    "defines functions of its own: export it with them inlined",
                ));
            }
            _ => {}
        }
    }
    let graph = graph.ok_or_else(|| malformed(file.len(), "has no graph"))?;
    let opset = opset.ok_or_else(|| malformed(file.len(), "names no version of its operators"))?;
    prove_names(&graph, &mut HashSet::new())?;
    Ok(Model { opset, graph, nodes: parser.nodes })
}

pub(super) fn unsupported(what: &str) -> Refusal {
    Refusal::new(Errno::UnsupportedOperation, format!("the ONNX model {what}"))
}

/// Whether a domain is that of ONNX's own operators.
fn is_default(domain: &str) -> bool {
    matches!(domain, "" | "ai.onnx")
}

/// What was read so far.
#[derive(Default)]
pub(super) struct Parser {
    nodes: usize,
    parts: usize,
}

impl Parser {
    pub(super) fn part(&mut self) -> Result<(), Refusal> {
        self.parts += 1;
        if self.parts > MAX_PARTS {
            let text =
                format!("the ONNX model has more than {MAX_PARTS} names, numbers and attributes");
            return Err(Refusal::too_large(text));
        }
        Ok(())
    }

    fn opset<'a>(&mut self, mut reader: Reader<'a>) -> Result<(&'a str, i64), Refusal> {
        let (mut once, mut domain, mut version) = (Once::default(), "", 0);
        while let Some(field) = reader.next()? {
            match field.number {
                1 => {
                    once.see(&field)?;
                    domain = field.text()?;
                }
                2 => {
                    once.see(&field)?;
                    version = field.int()?;
                }
                _ => {}
            }
        }
        Ok((domain, version))
    }

    fn graph<'a>(&mut self, mut reader: Reader<'a>, depth: usize) -> Result<Graph<'a>, Refusal> {
        if depth == MAX_DEPTH {
            let text = format!("the ONNX model nests more than {MAX_DEPTH} graphs");
            return Err(Refusal::too_large(text));
        }
        let mut graph = Graph::default();
        while let Some(field) = reader.next()? {
            match field.number {
                1 => {
                    let mut node = self.node(field.message()?, depth)?;
                    node.place = field.at..reader.at();
                    graph.nodes.push(node);
                }
                5 => graph.initializers.push(self.tensor(field.message()?)?),
                11 => graph.inputs.push(self.value(field.message()?)?),
                12 => graph.outputs.push(self.value(field.message()?)?),
                13 => graph.values.push(self.value(field.message()?)?),
                15 => return Err(unsupported("has a sparse tensor")),
                _ => {}
            }
        }
        Ok(graph)
    }

    fn node<'a>(&mut self, mut reader: Reader<'a>, depth: usize) -> Result<Node<'a>, Refusal> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            let text = format!("the ONNX model has more than {MAX_NODES} nodes");
            return Err(Refusal::too_large(text));
        }
        let mut once = Once::default();
        let mut domain = "";
        let mut node = Node {
            place: 0..0,
            name: "",
            op: "",
            inputs: Vec::new(),
            outputs: Vec::new(),
            attributes: Vec::new(),
        };
        while let Some(field) = reader.next()? {
            self.part()?;
            match field.number {
                1 => node.inputs.push(field.text()?),
                2 => node.outputs.push(field.text()?),
                3 => {
                    once.see(&field)?;
                    node.name = field.text()?;
                }
                4 => {
                    once.see(&field)?;
                    node.op = field.text()?;
                    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
                    if node.op.len() > 64 || !node.op.bytes().all(plain) {
                        return Err(malformed(field.at, "has an operator with an invalid name"));
                    }
                }
                5 => node.attributes.push(self.attribute(field.message()?, field.at, depth)?),
                7 => {
                    once.see(&field)?;
                    domain = field.text()?;
                }
                8 if !field.text()?.is_empty() => {
                    return Err(unsupported("names an overload of a function"));
                }
                _ => {}
            }
        }
        if !is_default(domain) {
            return Err(unsupported(&format!(
                "has the operator {} of the domain `{}`: only ONNX's own operators are taken",
                node.title(),
                short(domain)
            )));
        }
        let mut known = HashSet::new();
        if let Some(twice) = node.attributes.iter().find(|found| !known.insert(found.name)) {
            let text =
                format!("has the attribute `{}` twice at {}", short(twice.name), node.title());
            return Err(Refusal::argument(format!("the ONNX model {text}")));
        }
        Ok(node)
    }

    fn attribute<'a>(
        &mut self,
        mut reader: Reader<'a>,
        at: usize,
        depth: usize,
    ) -> Result<Attribute<'a>, Refusal> {
        let (mut once, mut name, mut ty) = (Once::default(), "", 0);
        // The one value, with the number of its field, and a list of numbers.
        let (mut value, mut ints) = (None, Vec::new());
        while let Some(field) = reader.next()? {
            let setting = match field.number {
                1 => {
                    once.see(&field)?;
                    name = field.text()?;
                    continue;
                }
                20 => {
                    once.see(&field)?;
                    ty = field.int()?;
                    continue;
                }
                2 => match field.value {
                    Wire::Fixed32 => Setting::Other,
                    _ => return Err(field.wrong()),
                },
                3 => Setting::Int(field.int()?),
                5 => Setting::Tensor(self.tensor(field.message()?)?),
                6 => Setting::Graph(self.graph(field.message()?, depth + 1)?),
                7 => Setting::Other,
                8 => {
                    self.ints(&field, &mut ints)?;
                    Setting::Other
                }
                4 | 9 => {
                    field.bytes()?;
                    Setting::Other
                }
                10 | 11 | 14 | 15 | 22 | 23 => {
                    return Err(unsupported(&format!(
                        "has the attribute `{}` of a type that no operator here takes",
                        short(name)
                    )));
                }
                21 => return Err(unsupported("has an attribute that refers to a function's")),
                _ => continue,
            };
            // Lists come in several fields, anything else in one; and nothing
            // beside it, or another parser could take that.
            let list = matches!(field.number, 7..=9);
            match &value {
                None => value = Some((field.number, setting)),
                Some((number, _)) if list && *number == field.number => {}
                Some(_) => return Err(malformed(field.at, "has an attribute with two values")),
            }
        }
        let value = match (ty, value) {
            (2, Some((3, int))) => int,
            (4, Some((5, tensor))) => tensor,
            (5, Some((6, graph))) => graph,
            (7, Some((8, _)) | None) => Setting::Ints(ints),
            // Zero need not be written down, nor an empty text or list.
            (2, None) => Setting::Int(0),
            (1, Some((2, _)) | None)
            | (3, Some((4, _)) | None)
            | (6, Some((7, _)) | None)
            | (8, Some((9, _)) | None) => Setting::Other,
            _ => {
                let text =
                    format!("has the attribute `{}` without a value of its type", short(name));
                return Err(malformed(at, &text));
            }
        };
        Ok(Attribute { name, value })
    }

    /// Adds the numbers of a field that is packed or one of many.
    pub(super) fn ints(&mut self, field: &Field<'_>, ints: &mut Vec<i64>) -> Result<(), Refusal> {
        if let Wire::Varint(number) = field.value {
            self.part()?;
            ints.push(number as i64);
            return Ok(());
        }
        let mut packed = field.message()?;
        while let Some(number) = packed.packed()? {
            self.part()?;
            ints.push(number as i64);
        }
        Ok(())
    }
}
