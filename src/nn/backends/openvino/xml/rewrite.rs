//! What is put into a model before OpenVINO reads it: layers in front of those
//! that trust their inputs. An answer for inputs in range is the same with them.
//! And what is taken out of it: what it says to the library's own parts.
//!
//! They need no constants of their own, which would need weights: a `Clamp` to
//! one number makes it of anything. Where shapes are fixed, all of them fold
//! away while the model is compiled.

use std::collections::HashMap;
use std::fmt::Write as _;

use super::layers::{Layers, Scope};
use super::malformed;
use crate::nn::backends::openvino::operators::{self, Condition, Fact};
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
    /// What stands in the place of an output for all that read it, but for the
    /// results of the model or body: those keep its name.
    replaced: HashMap<Output, Output>,
}

impl<'l, 'a> Plan<'l, 'a> {
    /// Nothing yet.
    pub(super) fn new(layers: &'l Layers<'a>) -> Plan<'l, 'a> {
        Plan { layers, scopes: HashMap::new() }
    }

    /// Plans that an input of a layer has elements, for whoever reads the same
    /// output, if that can be: what is known to be empty is not helped.
    pub(super) fn fill(
        &mut self,
        scope: usize,
        facts: &[Fact],
        sources: &[Output],
        input: usize,
    ) -> bool {
        let (Some(fact), Some(&source)) = (facts.get(input), sources.get(input)) else {
            return false;
        };
        if fact.shape.is_some() || fact.values.is_some() {
            return false;
        }
        let mends = self.mends(scope);
        if !mends.replaced.contains_key(&source) {
            let filled = mends.not_empty(source);
            mends.replaced.insert(source, filled);
        }
        true
    }

    fn mends(&mut self, scope: usize) -> &mut Mends {
        let next = self.layers.scopes[scope].largest.saturating_add(1);
        self.scopes.entry(scope).or_insert_with(|| Mends { next, ..Mends::default() })
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
        let layers = self.layers;
        let layer = &layers.scopes[scope].layers[layer];
        let mends = self.mends(scope);
        // What was moved or replaced before is where it comes from now.
        let source = |mends: &Mends, input: usize| {
            let port = layer.inputs.get(input)?;
            if let Some(&moved) = mends.moved.get(&(layer.id, *port)) {
                return Some(moved);
            }
            let source = sources.get(input)?;
            Some(mends.replaced.get(source).copied().unwrap_or(*source))
        };
        let fact = |input: usize| facts.get(input).cloned().unwrap_or_default();
        let (input, made) = match condition {
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
            Condition::Inner => {
                let turned = |key| match layer.attribute(key) {
                    None => Some(false),
                    Some(text) if ["0", "false"].iter().any(|no| text.eq_ignore_ascii_case(no)) => {
                        Some(false)
                    }
                    Some(text)
                        if ["1", "true"].iter().any(|yes| text.eq_ignore_ascii_case(yes)) =>
                    {
                        Some(true)
                    }
                    Some(_) => None,
                };
                let turns = turned("transpose_a").zip(turned("transpose_b"));
                let factors = source(mends, 0).zip(source(mends, 1));
                let (Some((first, second)), Some(factors)) = (turns, factors) else {
                    return false;
                };
                (0, mends.multiplied(factors, first, !second))
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

    /// Numbers in one dimension, of what has a number.
    fn numbers<const N: usize>(&mut self, of: Output, numbers: [i32; N]) -> [Output; N] {
        numbers.map(|number| {
            self.add("Clamp", 1, &format!("min=\"{number}\" max=\"{number}\""), &[of])
        })
    }

    /// The same tensor, or an error if it has no elements.
    fn not_empty(&mut self, of: Output) -> Output {
        let shape = self.add("ShapeOf", 3, "output_type=\"i64\"", &[of]);
        let rank = self.add("ShapeOf", 3, "output_type=\"i64\"", &[shape]);
        let bits @ [zero, _] = self.numbers(rank, [0, 1]);
        let least = self.add("ReduceMin", 1, "keep_dims=\"true\"", &[shape, zero]);
        let some = self.add("Clamp", 1, "min=\"0\" max=\"1\"", &[least]);
        self.only_if(some, of, bits)
    }

    /// The first factor, or an error if the dimension along which the two are
    /// multiplied is another one in the second: the last, or the one before it.
    fn multiplied(&mut self, factors: (Output, Output), first: bool, second: bool) -> Output {
        let mut size = |of: Output, before_last: bool| {
            let shape = self.add("ShapeOf", 3, "output_type=\"i64\"", &[of]);
            let rank = self.add("ShapeOf", 3, "output_type=\"i64\"", &[shape]);
            let [zero, one, last, from, to] = self.numbers(rank, [0, 1, -1, -2, 1 << 20]);
            // One dimension is both.
            let (of, place) = match before_last {
                true => (self.add("Slice", 8, "", &[shape, from, to, one]), zero),
                false => (shape, last),
            };
            (self.add("Gather", 8, "batch_dims=\"0\"", &[of, place, zero]), [zero, one])
        };
        let ((one, bits), (other, _)) = (size(factors.0, first), size(factors.1, second));
        let same = self.add("Equal", 1, "auto_broadcast=\"numpy\"", &[one, other]);
        let some = self.add("Convert", 1, "destination_type=\"i64\"", &[same]);
        self.only_if(some, factors.0, bits)
    }

    /// The same tensor, or an error if the one number of `some` is 0 and not 1. As many
    /// elements as it says, one or two, are given a shape of one, and that is the
    /// condition by which the tensor is selected from itself. A new shape of the
    /// tensor's own is taken out by the library where one of its dimensions alone is
    /// open; and what fails by the shape that it is to have, and not by what it is
    /// given, fails once and is passed over the next time.
    fn only_if(&mut self, some: Output, of: Output, [zero, one]: [Output; 2]) -> Output {
        let [two] = self.numbers(zero, [2]);
        let count = self.add("Subtract", 1, "auto_broadcast=\"numpy\"", &[two, some]);
        let made = self.add("Broadcast", 3, "mode=\"numpy\"", &[one, count]);
        let square = self.add("Concat", 1, "axis=\"0\"", &[one, one]);
        let single = self.add("Reshape", 1, "special_zero=\"false\"", &[made, square]);
        let both = self.add("Concat", 1, "axis=\"0\"", &[zero, one]);
        let number = self.add("ReduceMin", 1, "keep_dims=\"false\"", &[single, both]);
        let truth = self.add("Convert", 1, "destination_type=\"boolean\"", &[number]);
        self.add("Select", 1, "auto_broadcast=\"numpy\"", &[truth, of, of])
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

/// The XML with what is planned in it, and without what is cut; none if both are
/// nothing.
pub(super) fn text(xml: &[u8], plan: Plan<'_, '_>) -> Result<Option<Vec<u8>>, Refusal> {
    // What is put where, in place of how many bytes.
    let mut changes: Vec<(usize, usize, String)> = Vec::new();
    for (scope, mends) in plan.scopes {
        if mends.moved.is_empty() && mends.replaced.is_empty() {
            continue;
        }
        let scope: &Scope<'_> = &plan.layers.scopes[scope];
        let result = |id: u64| scope.by_id(id).is_some_and(|at| scope.layers[at].is("Result"));
        for edge in &scope.edges {
            let (to, slot) = edge.to;
            let moved = mends.moved.get(&edge.to);
            let from = moved.or_else(|| mends.replaced.get(&edge.from).filter(|_| !result(to)));
            if let Some((layer, port)) = from {
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
    let cuts = plan.layers.cuts.iter();
    changes.extend(cuts.map(|cut| (cut.start, cut.len(), String::new())));
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
