//! A model's operators against the list.
//!
//! What is known of a value is what constants and the shapes of the model's
//! inputs make certain. What the file says of values in between is not
//! believed: OpenVINO works them out itself. Nothing can be put into such a
//! file, so what is not proven is refused; most of these models have fixed
//! shapes alone, and then all values have elements.

use super::table;
use crate::nn::backends::openvino::operators::{self, Doubt, Fact, Step, Window, made, peak};
use crate::nn::refusal::Refusal;
use crate::nn::tflite::{Model, Operator};

/// The most numbers of a constant that are looked at.
const MOST: usize = 4096;

/// Refuses what declares that its tensors take more than `most` bytes at one
/// time: those that a later operator still reads, and the outputs.
pub(super) fn sizes(model: &Model<'_>, most: u64) -> Result<(), Refusal> {
    let bytes = |&at: &usize| (at, model.tensors[at].bytes().unwrap_or(u64::MAX));
    let mut steps =
        vec![Step { makes: model.inputs.iter().map(bytes).collect(), reads: Vec::new() }];
    steps.extend(model.operators.iter().map(|operator| Step {
        makes: operator.outputs.iter().map(bytes).collect(),
        reads: operator.inputs.iter().flatten().copied().collect(),
    }));
    steps.push(Step { makes: Vec::new(), reads: model.outputs.clone() });
    let Some((at, all, own)) = peak(&steps, most) else { return Ok(()) };
    let what = match at.checked_sub(1).and_then(|at| model.operators.get(at)) {
        Some(operator) => {
            let name = operator.outputs.first().map_or("", |&output| model.tensors[output].name);
            let name: String = name.chars().take(80).collect();
            format!("the operator {} (layer `{name}`, {own} bytes)", operator.op)
        }
        None => format!("its inputs ({own} bytes)"),
    };
    Err(Refusal::too_large(format!(
        "the model's tensors would take {all} bytes at {what}, more than --task-tensor-memory, \
         {most}"
    )))
}

/// Proves a model's operators.
pub(super) fn operators(model: &Model<'_>) -> Result<(), Refusal> {
    let mut facts: Vec<Fact> = vec![Fact::default(); model.tensors.len()];
    for (fact, tensor) in facts.iter_mut().zip(&model.tensors) {
        if tensor.data.is_some() || tensor.bytes() == Some(0) {
            *fact = Fact::constant(tensor.fixed(), tensor.ints(MOST));
        }
    }
    for &input in &model.inputs {
        facts[input] = Fact::shaped(model.tensors[input].fixed());
    }
    for operator in &model.operators {
        let inputs: Vec<Fact> = operator
            .inputs
            .iter()
            .map(|input| input.map(|input| facts[input].clone()).unwrap_or_default())
            .collect();
        let made = one(operator, &inputs).map_err(|(of, doubt)| {
            let layer = operator.outputs.first().map_or("", |&output| model.tensors[output].name);
            doubt.refusal(of, layer)
        })?;
        // Half floats and small numbers become floats of the same shape.
        let same = matches!(operator.op, "DEQUANTIZE" | "QUANTIZE");
        let shape = inputs.into_iter().next().and_then(|first| first.shape).filter(|_| same);
        for &output in &operator.outputs {
            facts[output] = made.clone();
        }
        if let Some(&first) = operator.outputs.first() {
            facts[first] = made.with(shape, None);
        }
    }
    Ok(())
}

/// Proves an operator and says what is known of each of its outputs beside shape
/// and values; the doubt comes with whom it is about.
fn one<'o>(operator: &'o Operator, inputs: &[Fact]) -> Result<Fact, (&'o str, Doubt)> {
    let doubt = |why: &str| Err((operator.op, Doubt::plain(why)));
    let Some(becomes) = table::TABLE.of(operator.op) else {
        return doubt("what OpenVINO makes of it is not known");
    };
    let shape = |index: usize| inputs.get(index).and_then(|fact| fact.shape.as_deref());
    match operator.op {
        // The number of columns is selected from the shape of the weights.
        "FULLY_CONNECTED" if shape(1).is_none_or(|dims| dims.len() != 2) => {
            return doubt("its weights (input 1) are of no two fixed dimensions");
        }
        // How much goes before and behind is selected from two columns.
        "MIRROR_PAD" | "PAD" | "PADV2" if !matches!(shape(1), Some([_, 2])) => {
            return doubt("its sizes (input 1) are not known to be pairs");
        }
        _ => {}
    }
    let own = arranged(operator, inputs);
    let taken = operator.gather.map_or(0, |(_, taken)| taken);
    let attributes = |key: &str| (key == "batch_dims").then(|| taken.to_string());
    for &of in becomes {
        // What is made as large as another one is so in one direction.
        let count = if of == "Broadcast" { 2 } else { own.len() };
        let inputs = &own[..count.min(own.len())];
        operators::prove(of, inputs, &attributes).map_err(|doubt| (of, doubt))?;
    }
    let sizes =
        |fact: &Fact| fact.values.as_ref().is_some_and(|all| all.iter().all(|&size| size > 0));
    Ok(match (becomes.first().copied().unwrap_or_default(), &own[..]) {
        // To constant sizes.
        ("Interpolate", [data, to]) if sizes(to) => {
            made("Relu", std::slice::from_ref(data), Window::Open)
        }
        // Along dimensions that are the frontend's own.
        ("NormalizeL2", [data, ..]) => made("Relu", std::slice::from_ref(data), Window::Open),
        (of, own) => made(of, own, Window::Open),
    })
}

/// The inputs as OpenVINO's operator has them.
fn arranged(operator: &Operator, inputs: &[Fact]) -> Vec<Fact> {
    let input = |at: usize| inputs.get(at).cloned().unwrap_or_default();
    let number = |number: i64| Fact::constant(Some(Vec::new()), Some(vec![number]));
    match operator.op {
        "GATHER" => {
            let axis = operator.gather.map_or(0, |(axis, _)| axis);
            vec![input(0), input(1), number(axis.into())]
        }
        // Identifiers, and the table.
        "EMBEDDING_LOOKUP" => vec![input(1), input(0), number(0)],
        // The axis, and the data.
        "SPLIT" => vec![input(1), input(0)],
        // The shape of the output, the weights, and the data.
        "TRANSPOSE_CONV" => vec![input(2), input(1)],
        // Of one number, a constant of the frontend's own.
        "LEAKY_RELU" => vec![input(0), number(0)],
        "SQUARE" => vec![input(0), input(0)],
        // Its steps are 1.
        "SLICE" => vec![input(0), input(1), input(2)],
        "QUANTIZE" | "RSQRT" | "SOFTMAX" => vec![input(0)],
        // Biases, and what is padded with, are for another operator; a shape has
        // one direction.
        "CONV_2D" | "DEPTHWISE_CONV_2D" | "FULLY_CONNECTED" | "PAD" | "PADV2" | "MIRROR_PAD"
        | "FILL" | "ZEROS_LIKE" | "BROADCAST_TO" => inputs.iter().take(2).cloned().collect(),
        _ => inputs.to_vec(),
    }
}
