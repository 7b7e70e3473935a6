//! Each value is made once, and before it is used.

use std::collections::HashSet;

use super::{Graph, short};
use crate::nn::refusal::Refusal;

/// Proves that each name is made once and before it is used. `outer` holds the
/// names of the graphs around.
pub(super) fn prove_names<'a>(
    graph: &Graph<'a>,
    outer: &mut HashSet<&'a str>,
) -> Result<(), Refusal> {
    let mut own = Vec::new();
    let made = make_names(graph, outer, &mut own);
    for name in own {
        outer.remove(name);
    }
    made
}

fn make_names<'a>(
    graph: &Graph<'a>,
    known: &mut HashSet<&'a str>,
    own: &mut Vec<&'a str>,
) -> Result<(), Refusal> {
    let twice = |name: &str| {
        let name = short(name);
        Refusal::argument(format!("the ONNX model has two values that are called `{name}`"))
    };
    let unknown = |name: &str, who: String| {
        let name = short(name);
        let text = format!("the ONNX model uses `{name}` in {who} before it is there");
        Refusal::argument(text)
    };
    let mut initialized = HashSet::new();
    for tensor in &graph.initializers {
        if tensor.name.is_empty() || !known.insert(tensor.name) {
            return Err(twice(tensor.name));
        }
        own.push(tensor.name);
        initialized.insert(tensor.name);
    }
    let mut inputs = HashSet::new();
    for input in &graph.inputs {
        let defaulted = initialized.contains(input.name);
        if input.name.is_empty() {
            return Err(twice(input.name));
        }
        if !inputs.insert(input.name) || !(known.insert(input.name) || defaulted) {
            return Err(twice(input.name));
        }
        if !defaulted {
            own.push(input.name);
        }
    }
    for node in &graph.nodes {
        if let Some(name) =
            node.inputs.iter().find(|name| !name.is_empty() && !known.contains(*name))
        {
            return Err(unknown(name, node.title()));
        }
        for inner in node.graphs() {
            prove_names(inner, known)?;
        }
        for name in node.outputs.iter().filter(|name| !name.is_empty()) {
            if !known.insert(name) {
                return Err(twice(name));
            }
            own.push(name);
        }
    }
    match graph.outputs.iter().find(|output| !known.contains(output.name)) {
        Some(output) => Err(unknown(output.name, "its outputs".to_owned())),
        None => Ok(()),
    }
}
