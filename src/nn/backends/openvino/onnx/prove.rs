//! A model's nodes against the list of operators.
//!
//! What is known of a value is what the file's constants and the shapes of its
//! inputs make certain. What the file says of values in between is not looked
//! at: OpenVINO works them out itself.

use std::collections::{BTreeMap, HashMap};

use super::inputs::arranged;
use super::values;
use super::{gather, guard, table};
use crate::nn::backends::openvino::operators::{self, Condition, Doubt, Fact};
use crate::nn::backends::openvino::translated::Argument;
use crate::nn::onnx::{Graph, Model, Node, with_inputs};
use crate::nn::refusal::Refusal;

/// What a model needs so that it is proven.
pub(super) struct Proof {
    /// The nodes that are to stand in the place of those that can't be proven as
    /// they are, by where these begin in the file.
    pub(super) others: BTreeMap<usize, Vec<u8>>,
}

/// Proves a model that is this file.
pub(super) fn prove<'a>(file: &'a [u8], model: &Model<'a>) -> Result<Proof, Refusal> {
    let mut prover = Prover {
        file,
        opset: model.opset,
        facts: HashMap::new(),
        renamed: HashMap::new(),
        undo: Vec::new(),
        others: BTreeMap::new(),
    };
    prover.graph(&model.graph, true)?;
    Ok(Proof { others: prover.others })
}

struct Prover<'a> {
    file: &'a [u8],
    opset: i64,
    /// By name. A name means one value at a time: what is made anew is written
    /// over what an earlier branch called so.
    facts: HashMap<&'a str, Fact>,
    /// What later nodes read in the place of a value.
    renamed: HashMap<&'a str, String>,
    /// What was known of those values before, to be known again behind the branch.
    undo: Vec<(&'a str, Fact)>,
    others: BTreeMap<usize, Vec<u8>>,
}

impl<'a> Prover<'a> {
    fn graph(&mut self, graph: &Graph<'a>, outermost: bool) -> Result<(), Refusal> {
        let before = self.undo.len();
        for tensor in &graph.initializers {
            self.made(tensor.name, values::constant(tensor));
        }
        for input in &graph.inputs {
            // What has an initializer too is one or the other to a parser; and
            // what a branch or body is given is of any shape.
            let own = !self.facts.contains_key(input.name) && outermost;
            let shape = input.tensor.as_ref().filter(|_| own).and_then(|ty| ty.shape.clone());
            let shape = shape.and_then(|dims| dims.into_iter().collect());
            self.made(input.name, Fact::shaped(shape));
        }
        for node in &graph.nodes {
            let (first, others) = self.node(node)?;
            for (at, output) in node.outputs.iter().enumerate() {
                self.made(output, if at == 0 { first.clone() } else { others.clone() });
            }
        }
        // What was put into this graph is not there behind it.
        for (name, fact) in self.undo.drain(before..).rev().collect::<Vec<_>>() {
            self.renamed.remove(name);
            self.facts.insert(name, fact);
        }
        Ok(())
    }

    fn made(&mut self, name: &'a str, fact: Fact) {
        self.renamed.remove(name);
        self.facts.insert(name, fact);
    }

    /// Proves a node, and says what is known of its first output and of others.
    fn node(&mut self, node: &Node<'a>) -> Result<(Fact, Fact), Refusal> {
        let refused = |operator: &str, doubt: Doubt| doubt.refusal(operator, node.label());
        let Some(becomes) = table::TABLE.of(node.op) else {
            return Err(refused(node.op, Doubt::plain("what OpenVINO makes of it is not known")));
        };
        // One of two graphs runs, and gives all of the outputs.
        if node.op == "If" {
            for graph in node.graphs() {
                self.graph(graph, false)?;
            }
            return Ok(Default::default());
        }
        if node.graphs().next().is_some() {
            let why = "it has bodies, which are not looked into";
            return Err(refused(node.op, Doubt::plain(why)));
        }
        let mut facts: Vec<Fact> = node.inputs.iter().map(|name| self.fact(name)).collect();
        let mut names: Vec<String> = node.inputs.iter().map(|name| self.name(name)).collect();
        let renamed = names.iter().zip(&node.inputs).any(|(name, own)| name != own);
        let mut before = Vec::new();
        let mut other = None;
        for operator in becomes {
            let arranged = arranged(node, operator, self.opset, &facts);
            for &condition in operators::conditions(operator).map_err(|d| refused(operator, d))? {
                loop {
                    let inputs = match condition {
                        Condition::Operands | Condition::NoProducts => arranged.operands(&facts),
                        _ => arranged.facts(&facts),
                    };
                    let attributes = |key: &str| values::text(node, key);
                    let Err(doubt) = operators::holds(condition, &inputs, &attributes) else {
                        break;
                    };
                    let of = doubt.condition.unwrap_or(condition);
                    let mended = match (of, arranged.argument(of)) {
                        (Condition::NotEmpty { .. }, Some(Argument::Input(at))) => {
                            let filled = self.fill(node, at, &names[at], &facts[at]);
                            filled.map(|(name, nodes)| {
                                names[at] = name;
                                facts[at] = std::mem::take(&mut facts[at]).with_elements();
                                before.extend(nodes);
                            })
                        }
                        (Condition::Within { least, most, .. }, Some(Argument::Input(at)))
                            if facts[at].values.is_none() && self.opset >= guard::OPSET =>
                        {
                            let within = guard::within(node, at, &names[at], least, most);
                            within.map(|(name, nodes)| {
                                names[at] = name;
                                before.extend(nodes);
                            })
                        }
                        (Condition::Index { .. }, _) => {
                            other = gather::safe(node, &names, self.opset, &inputs[0], &inputs[1]);
                            other.as_ref().map(|_| ())
                        }
                        (Condition::Inner, _) => {
                            let made = guard::multiplied(node, [&names[0], &names[1]], self.opset);
                            made.map(|(name, nodes)| {
                                names[0] = name;
                                before.extend(nodes);
                            })
                        }
                        _ => None,
                    };
                    mended.ok_or_else(|| refused(operator, doubt))?;
                    // What has elements now may be held against the condition again.
                    if !matches!(of, Condition::NotEmpty { .. }) {
                        break;
                    }
                }
            }
        }
        let sliced = other.is_some() && facts.get(1).is_some_and(|fact| fact.values.is_some());
        if let Some(other) = other {
            before.extend(other);
            self.others.insert(node.place.start, before);
        } else if renamed || !before.is_empty() {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            before.extend(with_inputs(self.file, node, &names)?);
            self.others.insert(node.place.start, before);
        }
        let facts = &facts[..];
        let extent = if sliced { Fact::default() } else { values::extent(node, becomes, facts) };
        Ok((values::folded(node, facts, extent.clone()), extent))
    }

    /// What makes certain that an input has elements, for all nodes that read it
    /// from now on in this graph: its new name, and the nodes.
    fn fill(
        &mut self,
        node: &Node<'a>,
        at: usize,
        name: &str,
        fact: &Fact,
    ) -> Option<(String, Vec<u8>)> {
        // What is known to be empty is not helped.
        let known = fact.shape.is_some() || fact.values.is_some();
        if known || name.is_empty() || self.opset < guard::OPSET {
            return None;
        }
        let (other, nodes) = guard::filled(node, at, name)?;
        let own = node.inputs[at];
        self.undo.push((own, fact.clone()));
        self.facts.insert(own, fact.clone().with_elements());
        self.renamed.insert(own, other.clone());
        Some((other, nodes))
    }

    fn fact(&self, name: &str) -> Fact {
        self.facts.get(name).cloned().unwrap_or_default()
    }

    fn name(&self, name: &str) -> String {
        self.renamed.get(name).map_or_else(|| name.to_owned(), Clone::clone)
    }
}
