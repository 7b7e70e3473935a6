//! A graph's nodes against the list of operators.
//!
//! What is known of a value is what constants and the shapes of the graph's
//! inputs make certain.

use super::table;
use crate::nn::operators::{self, Doubt, Fact};
use crate::nn::refusal::Refusal;
use crate::nn::tensorflow::{Attribute, Node};

/// The most numbers of a constant that are looked at.
const MOST: usize = 4096;

/// Refuses a graph that says that one of its inputs takes more than `most`
/// bytes.
pub(super) fn inputs(nodes: &[Node<'_>], most: u64) -> Result<(), Refusal> {
    for node in nodes.iter().filter(|node| node.op == "Placeholder") {
        let Some(Attribute::Shape(Some(dims))) = node.attribute("shape") else { continue };
        let size = match node.attribute("dtype") {
            Some(Attribute::Type(element)) => element.bytes(),
            _ => 1,
        };
        let sizes = dims.iter().map(|dim| dim.unwrap_or(1));
        let bytes = sizes.into_iter().fold(size, u64::saturating_mul);
        if bytes > most {
            return Err(Refusal::too_large(format!(
                "the model's input `{}` would take {bytes} bytes, more than \
                 --task-tensor-memory, {most}",
                node.name.chars().take(80).collect::<String>()
            )));
        }
    }
    Ok(())
}

/// Proves a graph's nodes.
pub(super) fn operators(nodes: &[Node<'_>]) -> Result<(), Refusal> {
    // What is known of the first output of each.
    let mut facts: Vec<Fact> = Vec::with_capacity(nodes.len());
    for node in nodes {
        let inputs: Vec<Fact> = node
            .inputs
            .iter()
            .map(|&(from, output)| match output {
                0 => facts[from].clone(),
                _ => Fact::default(),
            })
            .collect();
        one(node, &inputs).map_err(|(of, doubt)| doubt.refusal(of, node.name))?;
        facts.push(made(node, inputs));
    }
    Ok(())
}

/// What is known of what a node makes.
fn made(node: &Node<'_>, inputs: Vec<Fact>) -> Fact {
    match node.op {
        "Const" => match node.attribute("value") {
            Some(Attribute::Tensor(tensor)) => {
                Fact::constant(Some(tensor.shape.clone()), tensor.ints(MOST))
            }
            _ => Fact::default(),
        },
        "Placeholder" => match node.attribute("shape") {
            // The frontend may have another one for what seems to be a number.
            Some(Attribute::Shape(Some(dims))) if !dims.is_empty() => {
                Fact::shaped(dims.iter().copied().collect())
            }
            _ => Fact::default(),
        },
        "Identity" => inputs.into_iter().next().unwrap_or_default(),
        _ => Fact::default(),
    }
}

/// Proves a node; the doubt comes with whom it is about.
fn one<'n>(node: &Node<'n>, inputs: &[Fact]) -> Result<(), (&'n str, Doubt)> {
    let doubt = |why: &str| Doubt::plain(why);
    let Some(becomes) = table::operators(node.op) else {
        return Err((node.op, doubt("what OpenVINO makes of it is not known")));
    };
    let input = |index: usize| inputs.get(index).cloned().unwrap_or_default();
    let held = |of: &'static str, inputs: &[Fact]| {
        operators::prove_but_for_elements(of, inputs).map_err(|doubt| (of, doubt))
    };
    match node.op {
        "Gather" | "GatherV2" => {
            if !matches!(node.attribute("batch_dims"), None | Some(Attribute::Int(0))) {
                return Err(("Gather", doubt("its `batch_dims` is not 0")));
            }
            let axis = match node.op {
                "Gather" => Fact::constant(Some(Vec::new()), Some(vec![0])),
                _ => input(2),
            };
            held("Gather", &[input(0), input(1), axis])
        }
        "GatherNd" => held("GatherND", &[input(0), input(1)]),
        "Range" => held("Range", &[input(0), input(1), input(2)]),
        "StridedSlice" => held("StridedSlice", &[input(0), input(1), input(2), input(3)]),
        // How much goes before and behind is selected from two columns.
        "MirrorPad" | "Pad" | "PadV2" => match input(1).shape.as_deref() {
            Some([_, 2]) => held("Pad", &[]),
            _ => Err((node.op, doubt("its sizes (input 1) are not known to be pairs"))),
        },
        _ => {
            // Of these, the inputs come in the same order.
            let same = match node.op {
                "Tile" | "Conv2D" | "DepthwiseConv2dNative" => inputs,
                _ => &[],
            };
            becomes.iter().try_for_each(|&of| held(of, same))
        }
    }
}
