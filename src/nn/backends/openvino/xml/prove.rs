//! A model's layers against the list of operators.
//!
//! What is known of a value is what constants and the shapes of the model's own
//! inputs make certain. What the XML says of values in between is not looked at:
//! OpenVINO works it out itself.

use super::bodies;
use super::layers::{Layer, Layers};
use super::malformed;
use super::rewrite::Plan;
use super::values::KnownValues;
use crate::nn::backends::openvino::operators::{self, Condition, Doubt, Fact};
use crate::nn::refusal::Refusal;

/// Attributes that say to the library how a layer is to be computed.
const HOW: [&str; 2] = ["PrimitivesPriority", "alt_width"];

/// Whether an inference leaves something for the next one of its request.
pub(super) fn keeps_state(layers: &Layers<'_>) -> bool {
    let all = layers.scopes.iter().flat_map(|scope| &scope.layers);
    all.into_iter().any(|layer| layer.is("ReadValue") || layer.is("Assign"))
}

/// A model that is proven.
pub(super) struct Proof<'l, 'a> {
    /// What must be put into it for that.
    pub(super) plan: Plan<'l, 'a>,
    /// Layers, inputs and numbers that were looked at.
    #[cfg_attr(not(test), allow(dead_code, reason = "a test holds it to the size of the model"))]
    pub(super) steps: u64,
}

/// Proves all layers, and plans what must be put before those that are not
/// proven as they stand.
pub(super) fn prove<'l, 'a>(
    layers: &'l Layers<'a>,
    weights: &'l [u8],
) -> Result<Proof<'l, 'a>, Refusal> {
    if let Some(at) = layers.pre_process {
        return Err(malformed(at, "has pre-processing of an older form: convert the model again"));
    }
    let mut plan = Plan::new(layers);
    let mut steps = 0;
    for (number, scope) in layers.scopes.iter().enumerate() {
        let mut known = KnownValues::of(scope, number == 0, weights)?;
        for (at, layer) in scope.layers.iter().enumerate() {
            let refused = |doubt: Doubt| doubt.refusal(layer.ty, layer.name);
            operators::in_an_opset(layer.version).map_err(refused)?;
            if let Some(how) = HOW.iter().find(|key| layer.attribute(key).is_some()) {
                let why = format!("its `{how}` says how it is to be computed");
                return Err(refused(Doubt::plain(why)));
            }
            let conditions = operators::conditions(layer.ty).map_err(refused)?;
            let sources = known.sources(layer)?;
            let mut facts: Vec<Fact> = sources.iter().map(|&source| known.fact(source)).collect();
            for &condition in conditions {
                while let Err(doubt) = holds(condition, layer, layers, &facts) {
                    match doubt.condition {
                        Some(Condition::NotEmpty { input })
                            if plan.fill(number, &facts, &sources, input) =>
                        {
                            known.is_filled(sources[input]);
                            facts[input] = std::mem::take(&mut facts[input]).with_elements();
                        }
                        Some(of) if plan.mend(number, at, of, &facts, &sources) => break,
                        _ => return Err(refused(doubt)),
                    }
                }
            }
            known.make(layer, &facts);
        }
        steps += known.steps;
    }
    Ok(Proof { plan, steps })
}

fn holds(
    condition: Condition,
    layer: &Layer<'_>,
    layers: &Layers<'_>,
    facts: &[Fact],
) -> Result<(), Doubt> {
    match condition {
        Condition::Bodies => return bodies::prove(layer, layers, facts),
        Condition::Index { indices, .. } if !layer.counts_from_the_end() => {
            not_negative(condition, facts.get(indices))?;
        }
        _ => {}
    }
    operators::holds(condition, facts, &|key| layer.attribute(key).map(str::to_owned))
}

fn not_negative(condition: Condition, indices: Option<&Fact>) -> Result<(), Doubt> {
    let values = indices.and_then(|fact| fact.values.as_deref()).unwrap_or_default();
    match values.iter().find(|value| **value < 0) {
        Some(value) => Err(Doubt::of(condition, format!("its index {value} is negative"))),
        None => Ok(()),
    }
}
