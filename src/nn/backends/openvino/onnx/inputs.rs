//! Which of a node's inputs are those that the list's conditions speak of: the
//! frontend puts them into another order, and makes some of its own.

use super::values;
use crate::nn::backends::openvino::operators::Fact;
use crate::nn::backends::openvino::translated::{Argument, Arranged};
use crate::nn::onnx::Node;

/// The inputs of an operator that stands for this node, of whose inputs this is
/// known.
pub(super) fn arranged(node: &Node<'_>, operator: &str, opset: i64, facts: &[Fact]) -> Arranged {
    use Argument::{Input, Made};
    let is_there = |at: usize| node.inputs.get(at).is_some_and(|name| !name.is_empty());
    let unknown = || Made(Fact::default());
    let input = |at: usize| if is_there(at) { Input(at) } else { unknown() };
    let first = |count: usize| (0..count.min(node.inputs.len())).map(input).collect();
    let arguments: Vec<Argument> = match (node.op, operator) {
        ("Gather", _) => vec![input(0), input(1), Made(values::axis(node))],
        // The frontend cuts a part out of the shape with a step of 1.
        ("Shape", _) => Vec::new(),
        // Without steps, or with the older form's attributes, they are 1.
        ("Slice", _) if !is_there(4) => first(3),
        ("Slice", _) => vec![input(0), input(1), input(2), Input(4)],
        // The region is not looked at. An older form has the scales in its place.
        ("Resize", _) if opset < 11 => first(2),
        ("Resize", _) => vec![input(0), if is_there(3) { Input(3) } else { input(2) }],
        ("Upsample", _) => first(2),
        // Its axes, and the one number of the other, are the frontend's.
        ("LRN" | "LeakyRelu" | "ArgMax" | "ArgMin" | "TopK" | "Split", _) => vec![input(0)],
        // The data, the state, and the weights of what comes back.
        ("LSTM", "LSTMSequence") => {
            let [x, h, r] = sequence(node, facts);
            vec![x, h, unknown(), unknown(), unknown(), r]
        }
        ("GRU", "GRUSequence") | ("RNN", "RNNSequence") => {
            let [x, h, r] = sequence(node, facts);
            vec![x, h, unknown(), unknown(), r]
        }
        // To a shape, in one direction.
        (_, "Broadcast") => first(2),
        _ => first(node.inputs.len()),
    };
    Arranged(arguments)
}

fn sequence(node: &Node<'_>, facts: &[Fact]) -> [Argument; 3] {
    let is_there = |at: usize| node.inputs.get(at).is_some_and(|name| !name.is_empty());
    let weights = facts.get(2).cloned().unwrap_or_default();
    let state = match is_there(5) {
        true => Argument::Input(5),
        // Zeros, as many as the data has rows and the weights have.
        false if weights.is_filled() => Argument::Made(Fact::default().with_elements()),
        false => Argument::Made(Fact::default()),
    };
    [Argument::Input(0), state, Argument::Made(weights)]
}
