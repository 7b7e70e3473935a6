//! A model's operators against the list.
//!
//! What is known of a value is what constants and the shapes of the model's
//! inputs make certain. What the file says of values in between is not
//! believed: OpenVINO works them out itself.

use super::table;
use crate::nn::operators::{self, Doubt, Fact};
use crate::nn::refusal::Refusal;
use crate::nn::tflite::{Model, Operator};

/// The most numbers of a constant that are looked at.
const MOST: usize = 4096;

/// Refuses a model that says that one of its tensors takes more than `most`
/// bytes.
pub(super) fn sizes(model: &Model<'_>, most: u64) -> Result<(), Refusal> {
    let made = model.tensors.iter().filter(|tensor| tensor.data.is_none());
    for tensor in made {
        let bytes = tensor.bytes().unwrap_or(u64::MAX);
        if bytes > most {
            return Err(Refusal::too_large(format!(
                "the model's tensor `{}` would take {bytes} bytes, more than \
                 --task-tensor-memory, {most}",
                tensor.name.chars().take(80).collect::<String>()
            )));
        }
    }
    Ok(())
}

/// Proves a model's operators.
pub(super) fn operators(model: &Model<'_>) -> Result<(), Refusal> {
    let mut facts: Vec<Fact> = vec![Fact::default(); model.tensors.len()];
    for (fact, tensor) in facts.iter_mut().zip(&model.tensors) {
        if tensor.data.is_some() || tensor.bytes() == Some(0) {
            *fact = Fact { shape: tensor.fixed(), values: tensor.ints(MOST) };
        }
    }
    for &input in &model.inputs {
        facts[input].shape = model.tensors[input].fixed();
    }
    for operator in &model.operators {
        let inputs: Vec<Fact> = operator
            .inputs
            .iter()
            .map(|input| input.map(|input| facts[input].clone()).unwrap_or_default())
            .collect();
        one(operator, &inputs).map_err(|(of, doubt)| {
            let layer = operator.outputs.first().map_or("", |&output| model.tensors[output].name);
            doubt.refusal(of, layer)
        })?;
        // Half floats and small numbers become floats of the same shape.
        let same = matches!(operator.op, "DEQUANTIZE" | "QUANTIZE");
        let shape = inputs.into_iter().next().and_then(|first| first.shape).filter(|_| same);
        for &output in &operator.outputs {
            facts[output] = Fact::default();
        }
        if let Some(&first) = operator.outputs.first() {
            facts[first].shape = shape;
        }
    }
    Ok(())
}

/// Proves an operator; the doubt comes with whom it is about.
fn one<'o>(operator: &'o Operator, inputs: &[Fact]) -> Result<(), (&'o str, Doubt)> {
    let doubt = |why: &str| Doubt { condition: None, why: why.to_owned() };
    let Some(becomes) = table::operators(operator.op) else {
        return Err((operator.op, doubt("what OpenVINO makes of it is not known")));
    };
    let input = |index: usize| inputs.get(index).cloned().unwrap_or_default();
    let held = |of: &'static str, inputs: &[Fact]| {
        operators::prove(of, inputs).map_err(|doubt| (of, doubt))
    };
    match operator.op {
        "GATHER" => {
            let (axis, taken) = operator.gather.unwrap_or_default();
            if taken != 0 {
                return Err(("Gather", doubt("its `batch_dims` is not 0")));
            }
            let axis = Fact { shape: Some(Vec::new()), values: Some(vec![axis.into()]) };
            held("Gather", &[input(0), input(1), axis])
        }
        "GATHER_ND" => held("GatherND", &[input(0), input(1)]),
        "RANGE" => held("Range", &[input(0), input(1), input(2)]),
        "STRIDED_SLICE" => held("StridedSlice", &[input(0), input(1), input(2), input(3)]),
        // The number of columns is selected from the shape of the weights.
        "FULLY_CONNECTED" => match input(1).shape {
            Some(dims) if dims.len() == 2 => held("MatMul", &[]),
            _ => Err((operator.op, doubt("its weights (input 1) are of no two fixed dimensions"))),
        },
        // How much goes before and behind is selected from two columns.
        "MIRROR_PAD" | "PAD" | "PADV2" => match input(1).shape.as_deref() {
            Some([_, 2]) => held("Pad", &[]),
            _ => Err((operator.op, doubt("its sizes (input 1) are not known to be pairs"))),
        },
        _ => {
            // Of these, the inputs come in the same order.
            let same = match operator.op {
                "TILE" | "PRELU" | "CONV_2D" | "DEPTHWISE_CONV_2D" => inputs,
                _ => &[],
            };
            becomes.iter().try_for_each(|&of| held(of, same))
        }
    }
}
