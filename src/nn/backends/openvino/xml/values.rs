//! What is known of the values of a model's layers.
//!
//! Each layer is looked at once, in the order of the file, in which the inputs of
//! a layer come before it. Of what comes later nothing is known.

use std::collections::HashMap;

use super::layers::{Layer, Scope};
use super::number;
use crate::nn::backends::openvino::operators::{Fact, Window, made};
use crate::nn::refusal::{Errno, Refusal};

/// The most numbers of a constant that are looked at.
const MOST: usize = 4096;

/// The most dimensions of a shape that are looked at.
const MOST_DIMS: usize = 64;

/// What is known of the values of one scope.
pub(super) struct KnownValues<'l, 'a> {
    scope: &'l Scope<'a>,
    /// Whether its `Parameter`s are the model's own inputs.
    outermost: bool,
    weights: &'l [u8],
    /// By the input's layer and port: the output's.
    edges: HashMap<(u64, u64), (u64, u64)>,
    /// By the output's layer and port.
    facts: HashMap<(u64, u64), Fact>,
    /// Inputs and numbers that were looked at.
    pub(super) steps: u64,
}

impl<'l, 'a> KnownValues<'l, 'a> {
    pub(super) fn of(
        scope: &'l Scope<'a>,
        outermost: bool,
        weights: &'l [u8],
    ) -> Result<Self, Refusal> {
        let mut edges = HashMap::with_capacity(scope.edges.len());
        for edge in &scope.edges {
            if edges.insert(edge.to, edge.from).is_some() {
                return Err(unconnected(edge.to.0, "an input with two edges"));
            }
        }
        Ok(KnownValues { scope, outermost, weights, edges, facts: HashMap::new(), steps: 0 })
    }

    /// The outputs that a layer's inputs come from: layer and port, by their ids.
    pub(super) fn sources(&mut self, layer: &Layer<'a>) -> Result<Vec<(u64, u64)>, Refusal> {
        self.steps += 1 + layer.inputs.len() as u64;
        let source = |&port: &u64| {
            let from = self.edges.get(&(layer.id, port)).copied();
            let from = from.filter(|&from| self.scope.has_output(from));
            from.ok_or_else(|| unconnected(layer.id, "an input without an edge from an output"))
        };
        layer.inputs.iter().map(source).collect()
    }

    /// What is known of an output.
    pub(super) fn fact(&mut self, output: (u64, u64)) -> Fact {
        let fact = self.facts.get(&output).cloned().unwrap_or_default();
        self.steps += 1 + fact.values.as_ref().map_or(0, |values| values.len() as u64);
        fact
    }

    /// Whoever reads this output reads what has elements.
    pub(super) fn is_filled(&mut self, output: (u64, u64)) {
        let fact = self.facts.remove(&output).unwrap_or_default();
        self.facts.insert(output, fact.with_elements());
    }

    /// Works out what is known of a layer's outputs.
    pub(super) fn make(&mut self, layer: &Layer<'a>, inputs: &[Fact]) {
        let made = self.made(layer, inputs);
        self.steps += layer.outputs.len() as u64;
        for port in &layer.outputs {
            let output = (layer.id, port.id);
            // One that was read before it came here may have been seen to.
            let seen = self.facts.get(&output).is_some_and(Fact::is_filled);
            let fact = if seen { made.clone().with_elements() } else { made.clone() };
            self.facts.insert(output, fact);
        }
    }

    fn made(&mut self, layer: &Layer<'a>, inputs: &[Fact]) -> Fact {
        let first = || inputs.first().cloned().unwrap_or_default();
        if layer.is("Const") || layer.is("Constant") {
            return self.constant(layer);
        }
        if layer.is("Parameter") {
            let dims = layer.attribute("shape").filter(|_| self.outermost).and_then(shape);
            return Fact::shaped(dims);
        }
        if layer.is("ShapeOf") {
            let dims = first().shape;
            let dims: Option<Vec<i64>> =
                dims.and_then(|dims| dims.iter().map(|&dim| i64::try_from(dim).ok()).collect());
            return Fact::constant(dims.as_ref().map(|dims| vec![dims.len() as u64]), dims);
        }
        if let (true, [number, shape]) = (layer.is("Broadcast"), inputs) {
            return repeated(number, shape);
        }
        if layer.is("Convert") {
            let of = first();
            let same = matches!(layer.attribute("destination_type"), Some("i32" | "i64"));
            let fits = |value: &i64| i32::try_from(*value).is_ok();
            let kept = of.values.as_ref().is_some_and(|all| same && all.iter().all(fits));
            let made = made(layer.ty, inputs, Window::Open);
            let values = if kept { of.values } else { None };
            return made.with(of.shape, values);
        }
        made(layer.ty, inputs, window(layer, inputs))
    }

    fn constant(&mut self, layer: &Layer<'a>) -> Fact {
        let dims = layer.attribute("shape").and_then(shape);
        let count = dims.as_ref().and_then(|dims| {
            dims.iter().try_fold(1usize, |all, &dim| all.checked_mul(usize::try_from(dim).ok()?))
        });
        let place = |key| layer.attribute(key).and_then(|text| number(text.as_bytes()));
        let start = place("offset").and_then(|at| usize::try_from(at).ok());
        let read = |size: usize, read: fn(&[u8]) -> i64| {
            let (count, start) = (count.filter(|&count| count <= MOST)?, start?);
            let end = start.checked_add(count.checked_mul(size)?)?;
            Some(self.weights.get(start..end)?.chunks_exact(size).map(read).collect::<Vec<i64>>())
        };
        let values = match layer.attribute("element_type") {
            Some("i64") => {
                read(8, |bytes| i64::from_le_bytes(bytes.try_into().expect("eight of them")))
            }
            Some("i32") => read(4, |bytes| {
                i64::from(i32::from_le_bytes(bytes.try_into().expect("four of them")))
            }),
            Some("u8" | "boolean") => read(1, |bytes| i64::from(bytes[0])),
            Some("i8") => read(1, |bytes| i64::from(bytes[0].cast_signed())),
            _ => None,
        };
        self.steps += values.as_ref().map_or(0, |values| values.len() as u64);
        Fact::constant(dims, values)
    }
}

/// Whether a convolution's window fits what it moves over, whatever its size is.
fn window(layer: &Layer<'_>, inputs: &[Fact]) -> Window {
    let before = match layer.is("GroupConvolution") {
        true => 3,
        false => 2,
    };
    let weights = inputs.get(1).and_then(|fact| fact.shape.as_deref());
    let Some(kernel) = weights.and_then(|dims| dims.get(before..)) else { return Window::Open };
    match layer.attribute("auto_pad") {
        Some("same_upper" | "same_lower") => return Window::Fits,
        None | Some("explicit" | "notset") => {}
        Some(_) => return Window::Open,
    }
    let numbers = |key| layer.attribute(key).and_then(shape);
    let (Some(before), Some(after), Some(dilations)) =
        (numbers("pads_begin"), numbers("pads_end"), numbers("dilations"))
    else {
        return Window::Open;
    };
    let added: Vec<u64> =
        before.iter().zip(&after).map(|(before, after)| before.saturating_add(*after)).collect();
    Window::of(kernel, &added, &dilations)
}

/// One number of a constant, as often as a known shape says.
fn repeated(number: &Fact, shape: &Fact) -> Fact {
    let (Some([number]), Some(dims)) = (number.values.as_deref(), shape.values.as_deref()) else {
        return Fact::default();
    };
    let dims: Option<Vec<u64>> = dims.iter().map(|&dim| u64::try_from(dim).ok()).collect();
    let count = dims.as_ref().and_then(|dims| {
        dims.iter().try_fold(1usize, |all, &dim| all.checked_mul(usize::try_from(dim).ok()?))
    });
    match count.filter(|&count| (1..=MOST).contains(&count)) {
        // Of another mode or rank it may have another shape, of the same number.
        Some(count) => Fact::constant(None, Some(vec![*number; count])),
        None => Fact::default(),
    }
}

fn unconnected(layer: u64, what: &str) -> Refusal {
    let text = format!("the layer {layer} of the model's XML has {what}");
    Refusal::new(Errno::InvalidArgument, text)
}

/// Dimensions as models write them, if all of them are fixed.
fn shape(text: &str) -> Option<Vec<u64>> {
    if text.trim().is_empty() {
        return Some(Vec::new());
    }
    let dims = text.split(',').take(MOST_DIMS + 1).map(|dim| number(dim.trim().as_bytes()));
    dims.collect::<Option<Vec<u64>>>().filter(|dims| dims.len() <= MOST_DIMS)
}
