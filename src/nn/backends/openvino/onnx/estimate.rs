//! How much memory the tensors of a model take, as its file declares them.

use std::collections::HashMap;

use crate::nn::backends::openvino::operators::{Step, peak};
use crate::nn::onnx::{Graph, Node, Type};
use crate::nn::refusal::Refusal;

/// Refuses what declares that its tensors take more than `most` bytes at one
/// time: those that a later node still reads. A branch counts on its own.
pub(super) fn prove(graph: &Graph<'_>, most: u64) -> Result<(), Refusal> {
    let all = graph.values.iter().chain(&graph.outputs);
    let declared: HashMap<&str, u64> =
        all.filter_map(|value| Some((value.name, bytes(value.tensor.as_ref()?)))).collect();
    let inputs = graph.inputs.iter();
    let given = inputs.filter_map(|value| Some((value.name, bytes(value.tensor.as_ref()?))));
    let mut steps = vec![Step { makes: given.collect(), reads: Vec::new() }];
    steps.extend(graph.nodes.iter().map(|node| {
        let made = node.outputs.iter().filter(|name| !name.is_empty());
        let mut reads = Vec::new();
        read(node, &mut reads);
        Step {
            makes: made.map(|&name| (name, declared.get(name).copied().unwrap_or(0))).collect(),
            reads,
        }
    }));
    if let Some((at, all, own)) = peak(&steps, most) {
        let what = match at.checked_sub(1).map(|at| graph.nodes[at].title()) {
            Some(title) => format!("the node {title}"),
            None => "its inputs".to_owned(),
        };
        return Err(Refusal::too_large(format!(
            "the model's tensors would take {all} bytes at {what} ({own} bytes), more than \
             --task-tensor-memory, {most}"
        )));
    }
    for node in &graph.nodes {
        node.graphs().try_for_each(|graph| prove(graph, most))?;
    }
    Ok(())
}

/// What a node reads, in its branches, too.
fn read<'a>(node: &Node<'a>, reads: &mut Vec<&'a str>) {
    reads.extend_from_slice(&node.inputs);
    for graph in node.graphs() {
        graph.nodes.iter().for_each(|node| read(node, reads));
    }
}

/// Bytes of a tensor of this type; 0 if one of its dimensions is open.
fn bytes(ty: &Type) -> u64 {
    let dims: Option<Vec<u64>> =
        ty.shape.as_ref().and_then(|dims| dims.iter().copied().collect::<Option<_>>());
    let Some(dims) = dims else { return 0 };
    let elements = dims.iter().fold(1u64, |all, dim| all.saturating_mul(*dim));
    elements.saturating_mul(ty.element.bits()) / 8
}
