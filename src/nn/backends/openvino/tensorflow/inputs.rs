//! Which of a node's inputs are those that the list's conditions speak of: the
//! frontend puts them into another order, and makes some of its own.

use crate::nn::backends::openvino::operators::Fact;
use crate::nn::backends::openvino::translated::{Argument, Arranged};
use crate::nn::tensorflow::Node;

/// The inputs of an operator that stands for this node.
pub(super) fn arranged(node: &Node<'_>, operator: &str) -> Arranged {
    use Argument::{Input, Made};
    let number = |number| Made(Fact::constant(Some(Vec::new()), Some(vec![number])));
    let input = |at: usize| match at < node.inputs.len() {
        true => Input(at),
        false => Made(Fact::default()),
    };
    let first = |count: usize| (0..count.min(node.inputs.len())).map(input).collect();
    Arranged(match (node.op, operator) {
        ("Gather", _) => vec![input(0), input(1), number(0)],
        // How much goes before and behind, in two columns.
        ("MirrorPad" | "Pad" | "PadV2", _) => vec![input(0), input(1), input(1)],
        // The axis, and the data.
        ("Split", _) => vec![input(1), input(0)],
        // Of one number, a constant of the frontend's own.
        ("LeakyRelu", "PRelu") => vec![input(0), number(0)],
        // Axes and counts are for what follows.
        ("ArgMax" | "ArgMin" | "SplitV" | "TopKV2", _) => first(1),
        // The numbers of the dimensions, in steps of 1.
        ("FusedBatchNorm" | "FusedBatchNormV2" | "FusedBatchNormV3", "Range") => Vec::new(),
        // To a shape, in one direction.
        (_, "Broadcast") => first(2),
        _ => first(node.inputs.len()),
    })
}
