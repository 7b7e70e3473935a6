//! Layers with bodies: what a body gives must be all of what its layer says it
//! gives, since other layers of the model read it.

use super::layers::{Layer, Layers};
use crate::nn::backends::openvino::operators::{Condition, Doubt, Fact};

/// Proves a layer with bodies, from what is known of its inputs. The layers in
/// the bodies are proven on their own.
pub(super) fn prove(layer: &Layer<'_>, layers: &Layers<'_>, inputs: &[Fact]) -> Result<(), Doubt> {
    let doubt = |why: &str| Err(Doubt::of(Condition::Bodies, why));
    for (what, maps) in [("reads", &layer.mapped_inputs), ("writes", &layer.mapped_outputs)] {
        for map in maps {
            if value(map, "axis").is_none() {
                continue;
            }
            let or = |key, default| value(map, key).unwrap_or(default);
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
    if layer.is("Loop") && !runs(inputs) && !gives_what_it_was_given(layer) {
        return doubt("it may run no times, and then its outputs are not written");
    }
    Ok(())
}

/// Whether a `Loop` runs once at least: by its count, which is -1 for one
/// without end, and its condition.
fn runs(inputs: &[Fact]) -> bool {
    let number = |input: usize| {
        let values = inputs.get(input).and_then(|fact| fact.values.as_deref())?;
        (values.len() == 1).then(|| values[0])
    };
    number(0).is_some_and(|count| count == -1 || count > 0) && number(1) == Some(1)
}

/// Whether each output is the last value of what the body is given again: if it
/// runs no times, that is an input.
fn gives_what_it_was_given(layer: &Layer<'_>) -> bool {
    layer.mapped_outputs.iter().all(|map| {
        // The body's own condition is no output.
        if value(map, "external_port_id") == Some("-1") {
            return true;
        }
        let result = value(map, "internal_layer_id").and_then(|id| id.parse::<u64>().ok());
        let goes_back = |result: u64| layer.back_edges.iter().any(|(from, _)| *from == result);
        value(map, "axis").is_none() && result.is_some_and(goes_back)
    })
}

fn value<'a>(map: &[(&'a str, &'a str)], key: &str) -> Option<&'a str> {
    map.iter().find(|(own, _)| *own == key).map(|(_, text)| *text)
}
