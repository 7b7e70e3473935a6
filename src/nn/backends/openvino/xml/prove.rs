//! A model's layers against the list of operators, and the memory that their
//! declared shapes take.
//!
//! What is known of a value is what constants and the shapes of the model's own
//! inputs make certain. What the XML says of values in between is taken for the
//! estimate of memory alone: OpenVINO works it out itself.

use std::collections::HashMap;

use super::layers::{Layer, Layers, Scope};
use super::mend::Plan;
use super::number;
use crate::nn::operators::{self, Condition, Doubt, Fact, Rule};
use crate::nn::refusal::{Errno, Refusal};

/// The most numbers of a constant that are looked at.
const MOST: usize = 4096;

/// How far the shape of a value is followed.
const FAR: usize = 8;

/// Whether an inference leaves something for the next one of its request.
pub(super) fn keeps_state(layers: &Layers<'_>) -> bool {
    let all = layers.scopes.iter().flat_map(|scope| &scope.layers);
    all.into_iter().any(|layer| layer.is("ReadValue") || layer.is("Assign"))
}

/// Proves all layers, and plans what must be put before those that are not
/// proven as they stand.
pub(super) fn prove<'l, 'a>(
    layers: &'l Layers<'a>,
    weights: &'l [u8],
) -> Result<Plan<'l, 'a>, Refusal> {
    let mut plan = Plan::new(layers);
    for (number, scope) in layers.scopes.iter().enumerate() {
        let known = Known::of(scope, number == 0, weights)?;
        for (at, layer) in scope.layers.iter().enumerate() {
            let refused = |doubt: Doubt| doubt.refusal(layer.ty, layer.name);
            operators::known(layer.ty, layer.version).map_err(refused)?;
            let sources = known.sources(layer)?;
            let Some(Rule::When(conditions)) = operators::rule(layer.ty) else { continue };
            let facts: Vec<Fact> = sources.iter().map(|&source| known.fact(source, FAR)).collect();
            for &condition in conditions {
                let held = match condition {
                    Condition::Bodies => bodies(layer, layers),
                    Condition::Attribute { .. } | Condition::Attributed { .. } => {
                        operators::attribute(condition, &facts, |key| layer.attribute(key))
                    }
                    Condition::Index { indices, .. } if !layer.counts_from_the_end() => {
                        not_negative(condition, facts.get(indices..).unwrap_or_default())
                            .and_then(|()| operators::holds(condition, &facts))
                    }
                    _ => operators::holds(condition, &facts),
                };
                let Err(doubt) = held else { continue };
                if !plan.mend(number, at, condition, &facts, &sources) {
                    return Err(refused(doubt));
                }
            }
        }
    }
    Ok(plan)
}

/// What is known of the values of one scope.
struct Known<'l, 'a> {
    scope: &'l Scope<'a>,
    /// Whether its `Parameter`s are the model's own inputs.
    outermost: bool,
    weights: &'l [u8],
    /// By the input's layer and port: the output's.
    edges: HashMap<(u64, u64), (u64, u64)>,
}

impl<'l, 'a> Known<'l, 'a> {
    fn of(scope: &'l Scope<'a>, outermost: bool, weights: &'l [u8]) -> Result<Self, Refusal> {
        let mut edges = HashMap::with_capacity(scope.edges.len());
        for edge in &scope.edges {
            if edges.insert(edge.to, edge.from).is_some() {
                return Err(unconnected(edge.to.0, "an input with two edges"));
            }
        }
        Ok(Known { scope, outermost, weights, edges })
    }

    /// The outputs that a layer's inputs come from: layer and port, by their ids.
    fn sources(&self, layer: &Layer<'a>) -> Result<Vec<(u64, u64)>, Refusal> {
        let source = |&port: &u64| {
            let from = self.edges.get(&(layer.id, port)).copied();
            let from = from.filter(|(from, port)| {
                let at = self.scope.by_id(*from);
                at.is_some_and(|at| self.scope.layers[at].outputs.iter().any(|out| out.id == *port))
            });
            from.ok_or_else(|| unconnected(layer.id, "an input without an edge from an output"))
        };
        layer.inputs.iter().map(source).collect()
    }

    fn fact(&self, (layer, _): (u64, u64), far: usize) -> Fact {
        let Some(at) = self.scope.by_id(layer).filter(|_| far > 0) else { return Fact::default() };
        let layer = &self.scope.layers[at];
        let input_at = |index: usize| {
            let port = layer.inputs.get(index);
            let source = port.and_then(|&port| self.edges.get(&(layer.id, port)));
            source.map(|&source| self.fact(source, far - 1)).unwrap_or_default()
        };
        let input = || input_at(0);
        if layer.is("Const") || layer.is("Constant") {
            return self.constant(layer);
        }
        if layer.is("Parameter") && self.outermost {
            return Fact { shape: layer.attribute("shape").and_then(shape), values: None };
        }
        if layer.is("ShapeOf") {
            let dims = input().shape;
            let dims: Option<Vec<i64>> =
                dims.and_then(|dims| dims.iter().map(|&dim| i64::try_from(dim).ok()).collect());
            let shape = dims.as_ref().map(|dims| vec![dims.len() as u64]);
            return Fact { shape, values: dims };
        }
        if layer.is("Broadcast") && layer.inputs.len() == 2 {
            return repeated(&input(), &input_at(1));
        }
        if layer.is("Convert") {
            let Fact { shape, values } = input();
            let same = matches!(layer.attribute("destination_type"), Some("i32" | "i64"));
            let fits = |values: &Vec<i64>| values.iter().all(|&value| i32::try_from(value).is_ok());
            return Fact { shape, values: values.filter(|values| same && fits(values)) };
        }
        Fact::default()
    }

    fn constant(&self, layer: &Layer<'a>) -> Fact {
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
            Some("u8") => read(1, |bytes| i64::from(bytes[0])),
            Some("i8") => read(1, |bytes| i64::from(bytes[0].cast_signed())),
            _ => None,
        };
        Fact { shape: dims, values }
    }
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
        Some(count) => Fact { shape: None, values: Some(vec![*number; count]) },
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
    text.split(',').map(|dim| number(dim.trim().as_bytes())).collect()
}

fn not_negative(condition: Condition, indices: &[Fact]) -> Result<(), Doubt> {
    let values = indices.first().and_then(|fact| fact.values.as_deref()).unwrap_or_default();
    match values.iter().find(|value| **value < 0) {
        Some(value) => {
            let why = format!("its index {value} is negative");
            Err(Doubt { condition: Some(condition), why })
        }
        None => Ok(()),
    }
}

/// What a body gives must cover what its layer makes of it.
fn bodies(layer: &Layer<'_>, layers: &Layers<'_>) -> Result<(), Doubt> {
    let doubt = |why: &str| Err(Doubt { condition: Some(Condition::Bodies), why: why.to_owned() });
    for (what, maps) in [("reads", &layer.mapped_inputs), ("writes", &layer.mapped_outputs)] {
        for map in maps {
            let value = |key: &str| map.iter().find(|(own, _)| *own == key).map(|(_, text)| *text);
            if value("axis").is_none() {
                continue;
            }
            let or = |key, default| value(key).unwrap_or(default);
            // One at a time, from one end to the other.
            let whole = match (or("start", "0"), or("end", "-1"), or("stride", "1")) {
                ("0", "-1", "1") | ("-1", "0", "-1") => or("part_size", "1") == "1",
                _ => false,
            };
            if !whole || or("axis", "0").starts_with('-') {
                return doubt(&format!("its body {what} parts that may not be the whole"));
            }
        }
    }
    if layer.bodies.is_empty()
        || layer.bodies.iter().any(|&body| layers.scopes[body].layers.is_empty())
    {
        return doubt("it has no body");
    }
    Ok(())
}

/// Refuses what declares that its tensors take more than `most` bytes at one
/// time: those that a later layer still reads, in the order of the file.
pub(super) fn memory(layers: &Layers<'_>, most: u64) -> Result<(), Refusal> {
    for scope in &layers.scopes {
        // When each output is read last.
        let mut last: HashMap<(u64, u64), usize> = HashMap::new();
        for edge in &scope.edges {
            if let Some(reader) = scope.by_id(edge.to.0) {
                let slot = last.entry(edge.from).or_default();
                *slot = (*slot).max(reader);
            }
        }
        let mut ends: Vec<Vec<u64>> = vec![Vec::new(); scope.layers.len()];
        let mut live = 0u64;
        for (at, layer) in scope.layers.iter().enumerate() {
            // Weights are not made by an inference.
            if layer.is("Const") {
                continue;
            }
            let mut own = 0u64;
            for port in &layer.outputs {
                let bytes = port.bytes();
                own = own.saturating_add(bytes);
                if let Some(&end) = last.get(&(layer.id, port.id)).filter(|&&end| end > at) {
                    ends[end].push(bytes);
                    live = live.saturating_add(bytes);
                }
            }
            if live.max(own) > most {
                return Err(Refusal::too_large(format!(
                    "the model's tensors would take {} bytes at the layer `{}` ({}, {own} bytes), \
                     more than --task-tensor-memory, {most}",
                    live.max(own),
                    layer.name.chars().take(80).collect::<String>(),
                    layer.ty.chars().take(80).collect::<String>(),
                )));
            }
            let freed: u64 = ends[at].iter().fold(0, |all, bytes| all.saturating_add(*bytes));
            live = live.saturating_sub(freed);
        }
    }
    Ok(())
}
