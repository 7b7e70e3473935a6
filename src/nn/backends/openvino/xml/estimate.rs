//! How much memory the tensors of a model take, as its XML declares them.

use std::collections::HashMap;

use super::layers::Layers;
use crate::nn::backends::openvino::operators::{Step, peak};
use crate::nn::refusal::Refusal;

/// Refuses what declares that its tensors take more than `most` bytes at one
/// time: those that a later layer still reads, in the order of the file. A body
/// counts on its own.
pub(super) fn prove(layers: &Layers<'_>, most: u64) -> Result<(), Refusal> {
    for scope in &layers.scopes {
        let mut reads: HashMap<u64, Vec<(u64, u64)>> = HashMap::new();
        for edge in &scope.edges {
            reads.entry(edge.to.0).or_default().push(edge.from);
        }
        let steps: Vec<_> = scope
            .layers
            .iter()
            .map(|layer| {
                // Weights are not made by an inference.
                let weights = layer.is("Const") || layer.is("Constant");
                let made = layer.outputs.iter().filter(|_| !weights);
                let makes = made.map(|port| ((layer.id, port.id), port.bytes())).collect();
                Step { makes, reads: reads.remove(&layer.id).unwrap_or_default() }
            })
            .collect();
        if let Some((at, all, own)) = peak(&steps, most) {
            let layer = &scope.layers[at];
            return Err(Refusal::too_large(format!(
                "the model's tensors would take {all} bytes at the layer `{}` ({}, {own} bytes), \
                 more than --task-tensor-memory, {most}",
                layer.name.chars().take(80).collect::<String>(),
                layer.ty.chars().take(80).collect::<String>(),
            )));
        }
    }
    Ok(())
}
