//! The layers of a model's XML: their types, ports and edges, and the bodies in
//! them, as far as the list of operators asks for them.
//!
//! OpenVINO looks its elements up by their place, takes the first of several,
//! and reads ports as they stand. What could mean one thing here and another
//! one to it (an element twice, an id twice, a number that is not one) is refused.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::{Element, malformed, number};
use crate::nn::refusal::Refusal;

/// The most different elements of one layer; OpenVINO knows a dozen.
const MAX_PARTS: usize = 32;

/// The largest id of a layer, which leaves room for more of them.
const MAX_ID: u64 = 1 << 48;

/// What a layer or a port may say of itself to the library: names, and how
/// weights are kept. All else is for its own parts to tell each other (such as
/// which implementation is taken), and would be taken at its word.
const SAID: [&str; 5] =
    ["fused_names", "decompression", "layout", "old_api_map_order", "old_api_map_element_type"];

/// The layers of one model, those of its bodies included.
#[derive(Default)]
pub(super) struct Layers<'a> {
    pub(super) scopes: Vec<Scope<'a>>,
    /// Where it says to the library what a model should not.
    pub(super) cuts: Vec<Range<usize>>,
    /// Where it has pre-processing of an older form.
    pub(super) pre_process: Option<usize>,
    frames: Vec<Frame>,
}

/// The layers of the model itself or of one body, which refer to each other.
#[derive(Default)]
pub(super) struct Scope<'a> {
    /// In the order of the file.
    pub(super) layers: Vec<Layer<'a>>,
    pub(super) edges: Vec<Edge>,
    /// By their ids.
    ids: HashMap<u64, usize>,
    /// The largest id.
    pub(super) largest: u64,
    /// Outputs: layer and port.
    ports: HashSet<(u64, u64)>,
    /// Where more layers and edges may be put: before the end of their lists.
    pub(super) layers_end: Option<usize>,
    pub(super) edges_end: Option<usize>,
    seen_layers: bool,
    seen_edges: bool,
}

/// One layer.
#[derive(Default)]
pub(super) struct Layer<'a> {
    pub(super) id: u64,
    pub(super) name: &'a str,
    pub(super) ty: &'a str,
    pub(super) version: &'a str,
    /// The attributes of its `data`.
    pub(super) data: Vec<(&'a str, &'a str)>,
    /// The ids of its ports, in order.
    pub(super) inputs: Vec<u64>,
    pub(super) outputs: Vec<Port<'a>>,
    /// The attributes of what its port maps say of inputs and outputs.
    pub(super) mapped_inputs: Vec<Vec<(&'a str, &'a str)>>,
    pub(super) mapped_outputs: Vec<Vec<(&'a str, &'a str)>>,
    /// What a body's result goes to in the next iteration: layers of the body.
    pub(super) back_edges: Vec<(u64, u64)>,
    /// The scopes of its bodies.
    pub(super) bodies: Vec<usize>,
    seen: Vec<&'a str>,
}

/// An output as it is declared, which OpenVINO works out itself.
pub(super) struct Port<'a> {
    pub(super) id: u64,
    pub(super) precision: &'a str,
    /// None if one of the dimensions is open.
    pub(super) dims: Option<Vec<u64>>,
}

impl Port<'_> {
    /// Bytes of its tensor as it is declared; 0 if it is open or of an unknown type.
    pub(super) fn bytes(&self) -> u64 {
        let bits = match self.precision {
            "FP64" | "I64" | "U64" => 64,
            "FP32" | "I32" | "U32" => 32,
            "FP16" | "BF16" | "I16" | "U16" => 16,
            "I8" | "U8" | "BOOL" => 8,
            "I4" | "U4" => 4,
            _ => 0,
        };
        let Some(dims) = &self.dims else { return 0 };
        let elements = dims.iter().fold(1u64, |all, dim| all.saturating_mul(*dim));
        elements.saturating_mul(bits) / 8
    }
}

/// From an output of one layer to an input of another, by their ids.
pub(super) struct Edge {
    pub(super) from: (u64, u64),
    pub(super) to: (u64, u64),
    /// The element's bytes.
    pub(super) from_byte: usize,
    pub(super) to_byte: usize,
}

/// What an open element is to those within it.
#[derive(Clone, Copy)]
enum Frame {
    /// `net`, or a body.
    Scope(usize),
    Layers(usize),
    Edges(usize),
    Layer(usize, usize),
    Inputs(usize, usize),
    InputPort,
    Outputs(usize, usize),
    OutputPort(usize, usize),
    Map(usize, usize),
    BackEdges(usize, usize),
    /// `rt_info` of a layer or a port, from here; whether something in it is not
    /// in [`SAID`].
    Said(usize, bool),
    /// What is cut out, from here.
    Cut(usize),
    Other,
}

impl<'a> Layer<'a> {
    /// An attribute of its `data`.
    pub(super) fn attribute(&self, key: &str) -> Option<&'a str> {
        self.data.iter().find(|(own, _)| *own == key).map(|(_, value)| *value)
    }

    /// Whether it is of this type. OpenVINO takes upper case for lower case.
    pub(super) fn is(&self, ty: &str) -> bool {
        self.ty.eq_ignore_ascii_case(ty)
    }

    /// Whether it takes a negative index for one that counts from the end:
    /// `Gather` does from its version of opset 8 on, which later opsets have too.
    pub(super) fn counts_from_the_end(&self) -> bool {
        let opset =
            self.version.strip_prefix("opset").and_then(|number| number.parse::<u32>().ok());
        self.is("Gather") && opset.is_some_and(|opset| opset >= 8)
    }
}

impl<'a> Scope<'a> {
    /// The layer of this id.
    pub(super) fn by_id(&self, id: u64) -> Option<usize> {
        self.ids.get(&id).copied()
    }

    /// Whether a layer has an output of this id.
    pub(super) fn has_output(&self, output: (u64, u64)) -> bool {
        self.ports.contains(&output)
    }
}

impl<'a> Layers<'a> {
    /// An element begins; it stays open if `opens`.
    pub(super) fn element(
        &mut self,
        element: &Element<'_, 'a>,
        opens: bool,
    ) -> Result<(), Refusal> {
        if let (true, Some(Frame::Edges(_)), "edge") = (opens, self.frames.last(), element.name) {
            return Err(malformed(element.at, "has an edge with something in it"));
        }
        let frame = self.frame(element)?;
        if opens {
            self.frames.push(frame);
        } else if let Frame::Cut(from) = frame {
            self.cuts.push(from..element.end);
        } else if let Frame::Layers(scope) | Frame::Edges(scope) = frame {
            // Nothing can be put into an element that is closed as it opens.
            let scope = &self.scopes[scope];
            if !scope.layers.is_empty() || !scope.edges.is_empty() {
                return Err(malformed(element.at, "has layers without edges between them"));
            }
        }
        Ok(())
    }

    /// The last element that was opened ends; its end is from `at` to `end`.
    pub(super) fn close(&mut self, at: usize, end: usize) {
        match self.frames.pop() {
            Some(Frame::Cut(from) | Frame::Said(from, true)) => self.cuts.push(from..end),
            Some(Frame::Layers(scope)) => self.scopes[scope].layers_end = Some(at),
            Some(Frame::Edges(scope)) => self.scopes[scope].edges_end = Some(at),
            _ => {}
        }
    }

    fn frame(&mut self, element: &Element<'_, 'a>) -> Result<Frame, Refusal> {
        let at = element.at;
        let Some(&parent) = self.frames.last() else { return Ok(self.scope()) };
        let once = |seen: &mut bool| match std::mem::replace(seen, true) {
            false => Ok(()),
            true => Err(malformed(at, "has an element twice")),
        };
        Ok(match (parent, element.name) {
            (Frame::Scope(scope), "layers") => {
                once(&mut self.scopes[scope].seen_layers)?;
                Frame::Layers(scope)
            }
            (Frame::Scope(scope), "edges") => {
                once(&mut self.scopes[scope].seen_edges)?;
                Frame::Edges(scope)
            }
            (Frame::Scope(scope), name) => {
                if name == "pre-process" && scope == 0 {
                    self.pre_process.get_or_insert(at);
                }
                Frame::Cut(at)
            }
            (Frame::Layers(scope), "layer") => self.layer(scope, element)?,
            (Frame::Edges(scope), "edge") => {
                self.edge(scope, element)?;
                Frame::Other
            }
            (Frame::Layer(scope, layer), name) => {
                let own = &mut self.scopes[scope].layers[layer];
                if own.seen.contains(&name) {
                    return Err(malformed(at, "has an element twice"));
                }
                if own.seen.len() == MAX_PARTS {
                    return Err(malformed(at, "has a layer of too many elements"));
                }
                own.seen.push(name);
                match name {
                    "data" => {
                        own.data = element.attributes.to_vec();
                        Frame::Other
                    }
                    "input" => Frame::Inputs(scope, layer),
                    "output" => Frame::Outputs(scope, layer),
                    "body" | "then_body" | "else_body" => {
                        let body = self.scopes.len();
                        self.scopes[scope].layers[layer].bodies.push(body);
                        self.scope()
                    }
                    "port_map" | "then_port_map" | "else_port_map" => Frame::Map(scope, layer),
                    "back_edges" => Frame::BackEdges(scope, layer),
                    "rt_info" => Frame::Said(at, false),
                    _ => Frame::Other,
                }
            }
            (Frame::Inputs(scope, layer), "port") => {
                let id = element.number("id")?;
                let ports = &mut self.scopes[scope].layers[layer].inputs;
                ports.push(id);
                Frame::InputPort
            }
            (Frame::Outputs(scope, layer), "port") => {
                let id = element.number("id")?;
                let precision = element.attribute("precision").unwrap_or_default();
                let port = Port { id, precision, dims: Some(Vec::new()) };
                let own = &mut self.scopes[scope];
                if !own.ports.insert((own.layers[layer].id, id)) {
                    return Err(malformed(at, "has two outputs of one id"));
                }
                own.layers[layer].outputs.push(port);
                Frame::OutputPort(scope, layer)
            }
            (Frame::InputPort | Frame::OutputPort(..), "rt_info") => Frame::Said(at, false),
            (Frame::Said(from, _), _) => {
                let said = element.attribute("name").is_some_and(|name| SAID.contains(&name));
                if let (false, Some(last)) = (said, self.frames.last_mut()) {
                    *last = Frame::Said(from, true);
                }
                Frame::Other
            }
            (Frame::BackEdges(scope, layer), "edge") => {
                let edge = (element.number("from-layer")?, element.number("to-layer")?);
                self.scopes[scope].layers[layer].back_edges.push(edge);
                Frame::Other
            }
            (Frame::Map(scope, layer), "input") => {
                let attributes = element.attributes.to_vec();
                self.scopes[scope].layers[layer].mapped_inputs.push(attributes);
                Frame::Other
            }
            (Frame::Map(scope, layer), "output") => {
                let attributes = element.attributes.to_vec();
                self.scopes[scope].layers[layer].mapped_outputs.push(attributes);
                Frame::Other
            }
            _ => Frame::Other,
        })
    }

    /// A dimension of the output port that is open, if one is.
    pub(super) fn text(&mut self, element: &[u8], text: &[u8]) {
        // The frame of `dim` itself is the last one.
        let [.., Frame::OutputPort(scope, layer), Frame::Other] = self.frames[..] else { return };
        if element != b"dim" {
            return;
        }
        if let Some(port) = self.scopes[scope].layers[layer].outputs.last_mut() {
            match (number(text.trim_ascii()), &mut port.dims) {
                (Some(dim), Some(dims)) => dims.push(dim),
                _ => port.dims = None,
            }
        }
    }

    fn scope(&mut self) -> Frame {
        self.scopes.push(Scope::default());
        Frame::Scope(self.scopes.len() - 1)
    }

    fn layer(&mut self, scope: usize, element: &Element<'_, 'a>) -> Result<Frame, Refusal> {
        let plain = |key| element.attribute(key).filter(|text| !text.contains('&'));
        let (Some(ty), Some(version)) = (plain("type"), plain("version")) else {
            return Err(malformed(element.at, "has a layer without a plain type and version"));
        };
        let id = element.number("id")?;
        if id > MAX_ID {
            return Err(malformed(element.at, "has a layer whose `id` is too large"));
        }
        let name = element.attribute("name").unwrap_or_default();
        let own = &mut self.scopes[scope];
        own.largest = own.largest.max(id);
        own.layers.push(Layer { id, name, ty, version, ..Layer::default() });
        if own.ids.insert(id, own.layers.len() - 1).is_some() {
            return Err(malformed(element.at, "has two layers of one id"));
        }
        Ok(Frame::Layer(scope, own.layers.len() - 1))
    }

    fn edge(&mut self, scope: usize, element: &Element<'_, 'a>) -> Result<(), Refusal> {
        let from = (element.number("from-layer")?, element.number("from-port")?);
        let to = (element.number("to-layer")?, element.number("to-port")?);
        let edge = Edge { from, to, from_byte: element.at, to_byte: element.end };
        self.scopes[scope].edges.push(edge);
        Ok(())
    }
}
