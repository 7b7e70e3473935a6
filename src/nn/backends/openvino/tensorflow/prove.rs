//! A graph's nodes against the list of operators.
//!
//! What is known of a value is what constants and the shapes of the graph's
//! inputs make certain. Where it is not certain that a value has elements, nodes
//! are put before the one that trusts it to.

use std::collections::{BTreeMap, HashMap};

use super::inputs::arranged;
use super::{guard, table};
use crate::nn::backends::openvino::operators::{
    self, Condition, Doubt, Fact, Window, made as extent,
};
use crate::nn::backends::openvino::translated::Argument;
use crate::nn::refusal::Refusal;
use crate::nn::tensorflow::{Attribute, Node, with_inputs};

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

/// Proves a graph's nodes, and gives what stands in the place of those that are
/// not proven as they are, by their first byte.
pub(super) fn operators(
    file: &[u8],
    nodes: &[Node<'_>],
) -> Result<BTreeMap<usize, Vec<u8>>, Refusal> {
    let (facts, filled, others) =
        (Vec::with_capacity(nodes.len()), HashMap::new(), BTreeMap::new());
    let mut proof = Proof { file, nodes, facts, filled, others };
    for node in nodes {
        let facts = proof.node(node)?;
        proof.facts.push(facts);
    }
    Ok(proof.others)
}

/// A node, and which of its outputs.
type Value = (usize, u32);

struct Proof<'a> {
    file: &'a [u8],
    nodes: &'a [Node<'a>],
    /// What is known of each node's first output, and of its others.
    facts: Vec<(Fact, Fact)>,
    /// Values that have elements, since a node before makes certain of it: what
    /// that gives.
    filled: HashMap<Value, String>,
    others: BTreeMap<usize, Vec<u8>>,
}

impl Proof<'_> {
    /// Proves a node, and says what is known of its first output and of others.
    fn node(&mut self, node: &Node<'_>) -> Result<(Fact, Fact), Refusal> {
        let refused = |of: &str, doubt: Doubt| doubt.refusal(of, node.name);
        let Some(becomes) = table::TABLE.of(node.op) else {
            let why = "what OpenVINO makes of it is not known";
            return Err(refused(node.op, Doubt::plain(why)));
        };
        let mut facts: Vec<Fact> = node.inputs.iter().map(|&value| self.fact(value)).collect();
        let shape = |index: usize| facts.get(index).and_then(|fact| fact.shape.as_deref());
        match node.op {
            "Gather" | "GatherV2"
                if !matches!(node.attribute("batch_dims"), None | Some(Attribute::Int(0))) =>
            {
                return Err(refused("Gather", Doubt::plain("its `batch_dims` is not 0")));
            }
            // How much goes before and behind is selected from two columns.
            "MirrorPad" | "Pad" | "PadV2" if !matches!(shape(1), Some([_, 2])) => {
                let why = "its sizes (input 1) are not known to be pairs";
                return Err(refused(node.op, Doubt::plain(why)));
            }
            _ => {}
        }
        let mut before = Vec::new();
        // What it reads in the place of its first input.
        let mut first = None;
        for &of in becomes {
            let arranged = arranged(node, of);
            for &condition in operators::conditions(of).map_err(|doubt| refused(of, doubt))? {
                loop {
                    let inputs = match condition {
                        Condition::Operands | Condition::NoProducts => arranged.operands(&facts),
                        _ => arranged.facts(&facts),
                    };
                    let Err(doubt) = operators::holds(condition, &inputs, &|_| None) else { break };
                    let what = doubt.condition.unwrap_or(condition);
                    match (what, arranged.argument(what)) {
                        (Condition::NotEmpty { .. }, Some(Argument::Input(at))) => {
                            let nodes = self.fill(node, at, &facts[at]);
                            before.extend(nodes.ok_or_else(|| refused(of, doubt))?);
                            facts[at] = std::mem::take(&mut facts[at]).with_elements();
                        }
                        (Condition::Inner, _) => {
                            let Some(turned) = turned(node) else { return Err(refused(of, doubt)) };
                            let [one, other] = [0, 1].map(|at| self.name(node.inputs[at]));
                            let (made, nodes) = guard::multiplied(
                                node.name,
                                [&one, &other],
                                [turned[0], !turned[1]],
                            );
                            before.extend(nodes);
                            first = Some(made);
                            break;
                        }
                        _ => return Err(refused(of, doubt)),
                    }
                }
            }
        }
        let inputs = node.inputs.iter().enumerate();
        let mut names: BTreeMap<usize, &str> =
            inputs.filter_map(|(at, value)| Some((at, self.filled.get(value)?.as_str()))).collect();
        names.extend(first.as_deref().map(|made| (0, made)));
        if !names.is_empty() {
            before.extend(with_inputs(self.file, node, &names)?);
            self.others.insert(node.place.start, before);
        }
        Ok(made(node, becomes, &facts))
    }

    /// What makes certain that an input has elements, for all nodes that read it
    /// from now on.
    fn fill(&mut self, node: &Node<'_>, at: usize, fact: &Fact) -> Option<Vec<u8>> {
        // What is known to be empty is not helped.
        if fact.shape.is_some() || fact.values.is_some() {
            return None;
        }
        let value = node.inputs[at];
        let (made, nodes) = guard::filled(node.name, at, &self.name(value));
        self.filled.insert(value, made);
        Some(nodes)
    }

    /// What makes a value for who reads it now.
    fn name(&self, value: Value) -> String {
        let own = || match (self.nodes[value.0].name, value.1) {
            (name, 0) => name.to_owned(),
            (name, output) => format!("{name}:{output}"),
        };
        self.filled.get(&value).cloned().unwrap_or_else(own)
    }

    fn fact(&self, value: Value) -> Fact {
        let (first, others) = &self.facts[value.0];
        let fact = if value.1 == 0 { first.clone() } else { others.clone() };
        if self.filled.contains_key(&value) { fact.with_elements() } else { fact }
    }
}

/// Whether a product turns its first and its second factor, if it says so.
fn turned(node: &Node<'_>) -> Option<[bool; 2]> {
    let keys = match node.op {
        "MatMul" => ["transpose_a", "transpose_b"],
        "BatchMatMul" | "BatchMatMulV2" => ["adj_x", "adj_y"],
        _ => return None,
    };
    let told = |key| match node.attribute(key) {
        None => Some(false),
        Some(Attribute::Bool(turned)) => Some(*turned),
        Some(_) => None,
    };
    let [first, second] = keys.map(told);
    Some([first?, second?])
}

/// What is known of what a node makes: of the first output, and of others.
fn made(node: &Node<'_>, becomes: &[&str], inputs: &[Fact]) -> (Fact, Fact) {
    let first = || inputs.first().cloned().unwrap_or_default();
    let only = |fact| (fact, Fact::default());
    match node.op {
        "Const" => only(match node.attribute("value") {
            Some(Attribute::Tensor(tensor)) => {
                Fact::constant(Some(tensor.shape.clone()), tensor.ints(MOST))
            }
            _ => Fact::default(),
        }),
        "Placeholder" => only(match node.attribute("shape") {
            // The frontend may have another one for what seems to be a number.
            Some(Attribute::Shape(Some(dims))) if !dims.is_empty() => {
                Fact::shaped(dims.iter().copied().collect())
            }
            _ => Fact::default(),
        }),
        "Identity" => only(first()),
        // To constant sizes.
        "ResizeBilinear" | "ResizeNearestNeighbor" => {
            let sizes = inputs.get(1).and_then(|sizes| sizes.values.as_ref());
            let some = sizes.is_some_and(|all| all.iter().all(|&size| size > 0));
            only(if some { extent("Relu", &[first()], Window::Open) } else { Fact::default() })
        }
        _ => {
            let of = becomes.first().copied().unwrap_or_default();
            let made = extent(of, &arranged(node, of).facts(inputs), window(node, inputs));
            (made.clone(), made)
        }
    }
}

/// How the weights of a node move over its data, if it has any.
fn window(node: &Node<'_>, inputs: &[Fact]) -> Window {
    let weights = inputs.get(1).and_then(|fact| fact.shape.as_deref());
    match (node.attribute("padding"), weights) {
        // As many places as the data has, but for the strides.
        (Some(Attribute::Text(b"SAME")), _) | (_, Some([1, 1, ..])) => Window::Fits,
        _ => Window::Open,
    }
}
