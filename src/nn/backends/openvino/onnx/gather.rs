//! A `Gather` whose indices are not proven, in another form.
//!
//! Constant indices become slices, which OpenVINO keeps within what they cut
//! from, whatever that is; others are kept within a dimension whose size is
//! known. Answers for indices in range are the same; what is out of range gives
//! an error or the nearest element, never memory that is not the model's.

use super::guard::constant;
use crate::nn::backends::openvino::operators::Fact;
use crate::nn::onnx::write::{attribute, list, node};
use crate::nn::onnx::{Node, Setting};

/// The most indices that become slices.
const MOST_SLICES: usize = 64;

/// ONNX's number for `i64`.
const I64: i64 = 7;

/// Nodes that stand in the place of a `Gather` of `of` by `indices`, if there
/// are any that are known to be safe.
/// Its inputs go by these names.
pub(super) fn safe(
    gather: &Node<'_>,
    inputs: &[String],
    opset: i64,
    of: &Fact,
    indices: &Fact,
) -> Option<Vec<u8>> {
    let [from, places] = inputs else { return None };
    let axis = match gather.setting("axis") {
        None => 0,
        Some(Setting::Int(axis)) => *axis,
        Some(_) => return None,
    };
    if let (Some(values), Some(shape)) = (&indices.values, &indices.shape) {
        return slices(gather, from, opset, axis, values, shape);
    }
    let rank = i64::try_from(of.shape.as_ref()?.len()).ok()?;
    let place = usize::try_from(if axis < 0 { axis + rank } else { axis }).ok()?;
    let size = i64::try_from(*of.shape.as_ref()?.get(place)?).ok()?;
    // An index into nothing is never in range.
    (size > 0).then(|| clamped(gather, (from, places), size)).flatten()
}

/// One slice for each index, and then what `Gather` makes of their dimension.
fn slices(
    gather: &Node<'_>,
    from: &str,
    opset: i64,
    axis: i64,
    values: &[i64],
    shape: &[u64],
) -> Option<Vec<u8>> {
    let &[to] = &gather.outputs[..] else { return None };
    if values.is_empty() || values.len() > MOST_SLICES || shape.len() > 1 {
        return None;
    }
    let name = |what: String| format!("proplet/{to}/{what}");
    let mut nodes = Vec::new();
    let mut parts = Vec::new();
    for (number, &value) in values.iter().enumerate() {
        let part = name(number.to_string());
        let end = if value == -1 { i64::MAX } else { value.checked_add(1)? };
        if opset < 10 {
            let bounds = [("starts", value), ("ends", end), ("axes", axis)];
            nodes.push(node("Slice", &[from], &[&part], &bounds.map(|(key, n)| list(key, &[n]))));
        } else {
            let bounds = [("start", value), ("end", end), ("axis", axis)]
                .map(|(key, n)| (name(format!("{number}/{key}")), n));
            nodes.extend(bounds.iter().map(|(name, n)| constant(name, &[1], &[*n])));
            let [start, end, axis] = &bounds;
            nodes.push(node("Slice", &[from, &start.0, &end.0, &axis.0], &[&part], &[]));
        }
        parts.push(part);
    }
    if shape.len() == 1 {
        let parts: Vec<_> = parts.iter().map(String::as_str).collect();
        nodes.push(node("Concat", &parts, &[to], &[attribute("axis", axis)]));
    } else if opset < 13 {
        nodes.push(node("Squeeze", &[&parts[0]], &[to], &[list("axes", &[axis])]));
    } else {
        let axes = name("axes".to_owned());
        nodes.push(constant(&axes, &[1], &[axis]));
        nodes.push(node("Squeeze", &[&parts[0], &axes], &[to], &[]));
    }
    Some(nodes.concat())
}

/// The same `Gather`, of indices that are kept within a dimension's size.
fn clamped(gather: &Node<'_>, (from, indices): (&str, &str), size: i64) -> Option<Vec<u8>> {
    let &[to] = &gather.outputs[..] else { return None };
    let name = |what: &str| format!("proplet/{to}/{what}");
    let [wide, least, most, above, inside] = ["wide", "least", "most", "above", "inside"].map(name);
    let axis = match gather.setting("axis") {
        Some(Setting::Int(axis)) => *axis,
        _ => 0,
    };
    Some(
        [
            node("Cast", &[indices], &[&wide], &[attribute("to", I64)]),
            constant(&least, &[], &[-size]),
            constant(&most, &[], &[size - 1]),
            node("Max", &[&wide, &least], &[&above], &[]),
            node("Min", &[&above, &most], &[&inside], &[]),
            node("Gather", &[from, &inside], &[to], &[attribute("axis", axis)]),
        ]
        .concat(),
    )
}
