//! Layers that are put into a model before OpenVINO reads it, in front of those
//! that trust their inputs. An answer for inputs in range is the same with them.
//!
//! They need no constants of their own, which would need weights: a `Clamp` to
//! one number makes it of anything. Where shapes are fixed, all of them fold
//! away while the model is compiled.

use std::collections::HashMap;
use std::fmt::Write as _;

use super::layers::{Layers, Scope};
use super::malformed;
use crate::nn::operators::{self, Condition, Fact};
use crate::nn::refusal::Refusal;

/// The largest dimension within which a `Clamp` is exact: its bounds are f32 to
/// the processor.
const EXACT: u64 = 1 << 24;

/// An output: its layer and its port, by their ids.
type Output = (u64, u64);

/// What is to be put into a model.
pub(super) struct Plan<'l, 'a> {
    layers: &'l Layers<'a>,
    scopes: HashMap<usize, Mends>,
}

/// What is to be put into one scope.
#[derive(Default)]
struct Mends {
    layers: String,
    edges: String,
    next: u64,
    /// By the input's layer and port: where it comes from now.
    moved: HashMap<(u64, u64), Output>,
}

impl<'l, 'a> Plan<'l, 'a> {
    /// Nothing yet.
    pub(super) fn new(layers: &'l Layers<'a>) -> Plan<'l, 'a> {
        Plan { layers, scopes: HashMap::new() }
    }

    /// Plans what brings the condition about for a layer of a scope, if there is
    /// such a thing. `sources` are where its inputs come from.
    pub(super) fn mend(
        &mut self,
        scope: usize,
        layer: usize,
        condition: Condition,
        facts: &[Fact],
        sources: &[Output],
    ) -> bool {
        let own = &self.layers.scopes[scope];
        let Some(first) = own.layers.iter().map(|layer| layer.id).max() else { return false };
        let layer = &own.layers[layer];
        let mends = self.scopes.entry(scope).or_default();
        mends.next = mends.next.max(first.saturating_add(1));
        // What was moved before is where it comes from now.
        let source = |mends: &Mends, input: usize| {
            let port = layer.inputs.get(input)?;
            let moved = mends.moved.get(&(layer.id, *port)).copied();
            moved.or_else(|| sources.get(input).copied())
        };
        let fact = |input: usize| facts.get(input).cloned().unwrap_or_default();
        let (input, made) = match condition {
            Condition::NotEmpty { input } => match source(mends, input) {
                // What is known to be empty is not helped.
                Some(of) if fact(input).shape.is_none() => (input, mends.not_empty(of)),
                _ => return false,
            },
            Condition::Within { input, least, most } => match source(mends, input) {
                Some(of) if fact(input).values.is_none() => {
                    let wide = mends.add("Convert", 1, "destination_type=\"i64\"", &[of]);
                    let bounds = format!("min=\"{least}\" max=\"{most}\"");
                    (input, mends.add("Clamp", 1, &bounds, &[wide]))
                }
                _ => return false,
            },
            Condition::Index { indices, of, axis } => {
                let (Some(places), Some(from)) = (source(mends, indices), source(mends, of)) else {
                    return false;
                };
                let place = source(mends, axis).zip(fact(axis).values).zip(fact(axis).shape);
                let Some(((axis, values), shape)) = place else { return false };
                if values.len() != 1 {
                    return false;
                }
                let wide = mends.add("Convert", 1, "destination_type=\"i64\"", &[places]);
                let size = operators::dimension(&fact(of), values[0]);
                let inside = match size {
                    Some(size) if size > 0 && size <= EXACT => {
                        let least = if layer.counts_from_the_end() {
                            format!("-{size}")
                        } else {
                            "0".into()
                        };
                        let bounds = format!("min=\"{least}\" max=\"{}\"", size - 1);
                        mends.add("Clamp", 1, &bounds, &[wide])
                    }
                    _ => mends.within(
                        wide,
                        from,
                        axis,
                        shape.is_empty(),
                        layer.counts_from_the_end(),
                    ),
                };
                (indices, inside)
            }
            _ => return false,
        };
        mends.moved.insert((layer.id, layer.inputs[input]), made);
        true
    }
}

impl Mends {
    /// A layer with one output, an i64 or what its inputs are of.
    fn add(&mut self, ty: &str, opset: u32, data: &str, inputs: &[Output]) -> Output {
        let (id, out) = (self.next, inputs.len() as u64);
        self.next = self.next.saturating_add(1);
        let _ = write!(
            self.layers,
            "<layer id=\"{id}\" name=\"proplet/{id}\" type=\"{ty}\" version=\"opset{opset}\">\
             <data {data}/><input>"
        );
        for (port, (layer, from)) in inputs.iter().enumerate() {
            let _ = write!(self.layers, "<port id=\"{port}\" precision=\"I64\"/>");
            let _ = write!(
                self.edges,
                "<edge from-layer=\"{layer}\" from-port=\"{from}\" to-layer=\"{id}\" to-port=\"{port}\"/>"
            );
        }
        let _ = write!(
            self.layers,
            "</input><output><port id=\"{out}\" precision=\"I64\"/></output></layer>"
        );
        (id, out)
    }

    /// The same tensor, or an error if it has no elements: the product of its
    /// dimensions, each 1 at least, is then another one.
    fn not_empty(&mut self, of: Output) -> Output {
        let shape = self.add("ShapeOf", 3, "output_type=\"i64\"", &[of]);
        let least = self.add("Clamp", 1, "min=\"1\" max=\"2147483647\"", &[shape]);
        self.add("Reshape", 1, "special_zero=\"false\"", &[of, least])
    }

    /// Indices kept within the dimension of `from` that `axis` selects.
    fn within(
        &mut self,
        indices: Output,
        from: Output,
        axis: Output,
        scalar: bool,
        from_the_end: bool,
    ) -> Output {
        let shape = self.add("ShapeOf", 3, "output_type=\"i64\"", &[from]);
        let axis = self.add("Convert", 1, "destination_type=\"i64\"", &[axis]);
        let zero = self.add("Clamp", 1, "min=\"0\" max=\"0\"", &[axis]);
        let one = self.add("Clamp", 1, "min=\"1\" max=\"1\"", &[axis]);
        let mut size = self.add("Gather", 8, "batch_dims=\"0\"", &[shape, axis, zero]);
        let numpy = "auto_broadcast=\"numpy\"";
        let mut least = match from_the_end {
            true => self.add("Subtract", 1, numpy, &[zero, size]),
            false => zero,
        };
        size = self.add("Subtract", 1, numpy, &[size, one]);
        if !scalar {
            // Indices of rank 0 keep it.
            least = self.add("Squeeze", 1, "", &[least]);
            size = self.add("Squeeze", 1, "", &[size]);
        }
        let above = self.add("Maximum", 1, numpy, &[indices, least]);
        self.add("Minimum", 1, numpy, &[above, size])
    }
}

/// The XML with what is planned in it; none if that is nothing.
pub(super) fn text(xml: &[u8], plan: Plan<'_, '_>) -> Result<Option<Vec<u8>>, Refusal> {
    // What is put where, in place of how many bytes.
    let mut changes: Vec<(usize, usize, String)> = Vec::new();
    for (scope, mends) in plan.scopes {
        if mends.moved.is_empty() {
            continue;
        }
        let scope: &Scope<'_> = &plan.layers.scopes[scope];
        for edge in &scope.edges {
            if let Some((layer, port)) = mends.moved.get(&edge.to) {
                let (to, slot) = edge.to;
                let text = format!(
                    "<edge from-layer=\"{layer}\" from-port=\"{port}\" to-layer=\"{to}\" to-port=\"{slot}\"/>"
                );
                changes.push((edge.from_byte, edge.to_byte - edge.from_byte, text));
            }
        }
        let (Some(layers), Some(edges)) = (scope.layers_end, scope.edges_end) else {
            return Err(malformed(0, "has layers or edges that do not end"));
        };
        changes.push((layers, 0, mends.layers));
        changes.push((edges, 0, mends.edges));
    }
    if changes.is_empty() {
        return Ok(None);
    }
    changes.sort_unstable_by_key(|(at, ..)| *at);
    let more: usize = changes.iter().map(|(.., text)| text.len()).sum();
    let mut mended = Vec::with_capacity(xml.len() + more);
    let mut from = 0;
    for (at, removed, text) in changes {
        mended.extend_from_slice(&xml[from..at]);
        mended.extend_from_slice(text.as_bytes());
        from = at + removed;
    }
    mended.extend_from_slice(&xml[from..]);
    Ok(Some(mended))
}
