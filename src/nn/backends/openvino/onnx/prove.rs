//! A model's nodes against the list of operators.
//!
//! What is known of a value is what the file's constants and the shapes of its
//! inputs make certain. What the file says of values in between is not looked
//! at: OpenVINO works them out itself.

use std::collections::{BTreeMap, HashMap};

use super::gather;
use super::table;
use crate::nn::onnx::{Element, Graph, Model, Node, Setting, Tensor};
use crate::nn::operators::{self, Doubt, Fact};
use crate::nn::refusal::Refusal;

/// The most numbers of a constant that are looked at.
const MOST: usize = 4096;

/// Proves a model, and gives the nodes that are to stand in the place of those
/// that can't be proven as they are, by where these begin in the file.
pub(super) fn prove(model: &Model<'_>) -> Result<BTreeMap<usize, Vec<u8>>, Refusal> {
    let mut prover = Prover { opset: model.opset, facts: HashMap::new(), others: BTreeMap::new() };
    prover.graph(&model.graph, true)?;
    Ok(prover.others)
}

struct Prover<'a> {
    opset: i64,
    /// By name. A name means one value at a time: what is made anew is written
    /// over what an earlier branch called so.
    facts: HashMap<&'a str, Fact>,
    others: BTreeMap<usize, Vec<u8>>,
}

impl<'a> Prover<'a> {
    fn graph(&mut self, graph: &Graph<'a>, outermost: bool) -> Result<(), Refusal> {
        for tensor in &graph.initializers {
            self.facts.insert(tensor.name, constant(tensor));
        }
        for input in &graph.inputs {
            // What has an initializer too is one or the other to a parser; and
            // what a branch or body is given is of any shape.
            let own = !self.facts.contains_key(input.name) && outermost;
            let shape = input.tensor.as_ref().filter(|_| own).and_then(|ty| ty.shape.clone());
            let shape = shape.and_then(|dims| dims.into_iter().collect());
            self.facts.insert(input.name, Fact { shape, values: None });
        }
        for node in &graph.nodes {
            let made = self.node(node)?;
            for output in &node.outputs {
                self.facts.insert(output, Fact::default());
            }
            if let Some(first) = node.outputs.first() {
                self.facts.insert(first, made);
            }
        }
        Ok(())
    }

    /// Proves a node, and says what is known of its first output.
    fn node(&mut self, node: &Node<'a>) -> Result<Fact, Refusal> {
        let refused = |operator: &str, doubt: Doubt| doubt.refusal(operator, node.label());
        let Some(becomes) = table::operators(node.op) else {
            let why = "what OpenVINO makes of it is not known".to_owned();
            return Err(refused(node.op, Doubt { condition: None, why }));
        };
        // Those of the node's own name have conditions on its inputs.
        match node.op {
            "Gather" => {
                let inputs = [self.input(node, 0), self.input(node, 1), axis(node)];
                if let Err(doubt) = operators::prove("Gather", &inputs) {
                    let [of, indices, _] = &inputs;
                    let other = gather::safe(node, self.opset, of, indices);
                    let other = other.ok_or_else(|| refused("Gather", doubt))?;
                    self.others.insert(node.place.start, other);
                }
                return Ok(Fact::default());
            }
            "GatherND" => {
                let inputs = [self.input(node, 0), self.input(node, 1)];
                operators::prove("GatherND", &inputs)
                    .map_err(|doubt| refused("GatherND", doubt))?;
                return Ok(Fact::default());
            }
            "Range" => {
                let inputs = [self.input(node, 0), self.input(node, 1), self.input(node, 2)];
                operators::prove("Range", &inputs).map_err(|doubt| refused("Range", doubt))?;
                return Ok(Fact::default());
            }
            "Slice" => {
                let mut inputs =
                    vec![self.input(node, 0), self.input(node, 1), self.input(node, 2)];
                // Without steps, or with the older form's attributes, they are 1.
                if node.inputs.get(4).is_some_and(|name| !name.is_empty()) {
                    inputs.push(self.input(node, 4));
                }
                operators::prove("Slice", &inputs).map_err(|doubt| refused("Slice", doubt))?;
                return Ok(Fact::default());
            }
            // The frontend cuts a part out with a step of 1.
            "Shape" => return Ok(self.shape_of(node)),
            // One of two graphs runs, and gives all of the outputs.
            "If" => {
                for graph in node.graphs() {
                    self.graph(graph, false)?;
                }
                return Ok(Fact::default());
            }
            _ => {}
        }
        if node.graphs().next().is_some() {
            let why = "it has bodies, which are not looked into".to_owned();
            return Err(refused(node.op, Doubt { condition: None, why }));
        }
        // Of the others that have conditions, its inputs come in the same order.
        let inputs: Vec<Fact> = match node.op {
            "Tile" => (0..node.inputs.len()).map(|index| self.input(node, index)).collect(),
            _ => Vec::new(),
        };
        for operator in becomes {
            operators::prove(operator, &inputs).map_err(|doubt| refused(operator, doubt))?;
        }
        Ok(self.folded(node))
    }

    /// What is known of a value that is worked out of constants.
    fn folded(&self, node: &Node<'a>) -> Fact {
        let first = || self.input(node, 0);
        match node.op {
            "Constant" => match node.attributes.first().map(|only| (only.name, &only.value)) {
                Some(("value", Setting::Tensor(tensor))) => constant(tensor),
                Some(("value_int", Setting::Int(value))) => {
                    Fact { shape: Some(Vec::new()), values: Some(vec![*value]) }
                }
                Some(("value_ints", Setting::Ints(values))) => {
                    Fact { shape: Some(vec![values.len() as u64]), values: Some(values.clone()) }
                }
                _ => Fact::default(),
            },
            "Identity" => first(),
            "Cast" => {
                let Fact { shape, values } = first();
                let to = node.setting("to");
                // From one kind of integers to another that holds these too.
                let fits = |value: &i64| i32::try_from(*value).is_ok();
                let kept = values.filter(|values| match to {
                    Some(Setting::Int(7)) => true,
                    Some(Setting::Int(6)) => values.iter().all(fits),
                    _ => false,
                });
                Fact { shape, values: kept }
            }
            "Concat" => {
                let all = (0..node.inputs.len()).map(|input| {
                    let Fact { shape, values } = self.input(node, input);
                    values.filter(|_| shape.is_some_and(|shape| shape.len() == 1))
                });
                let all: Option<Vec<Vec<i64>>> = all.collect();
                let values = all.map(|all| all.concat()).filter(|values| values.len() <= MOST);
                let shape = values.as_ref().map(|values| vec![values.len() as u64]);
                Fact { shape, values }
            }
            "Unsqueeze" => {
                let Fact { shape, values } = first();
                // A number becomes a list of one, and of other shapes nothing is said.
                let one = shape.is_some_and(|shape| shape.is_empty());
                Fact { shape: one.then(|| vec![1]), values }
            }
            _ => Fact::default(),
        }
    }

    fn shape_of(&self, node: &Node<'a>) -> Fact {
        let whole = node.setting("start").is_none() && node.setting("end").is_none();
        let shape = self.input(node, 0).shape.filter(|_| whole);
        let values: Option<Vec<i64>> =
            shape.and_then(|dims| dims.iter().map(|&dim| i64::try_from(dim).ok()).collect());
        Fact { shape: values.as_ref().map(|values| vec![values.len() as u64]), values }
    }

    fn input(&self, node: &Node<'a>, index: usize) -> Fact {
        let name = node.inputs.get(index);
        name.and_then(|name| self.facts.get(name)).cloned().unwrap_or_default()
    }
}

/// The axis of a `Gather`, as OpenVINO has it: a constant input.
fn axis(node: &Node<'_>) -> Fact {
    let values = match node.setting("axis") {
        None => Some(vec![0]),
        Some(Setting::Int(axis)) => Some(vec![*axis]),
        Some(_) => None,
    };
    Fact { shape: Some(Vec::new()), values }
}

fn constant(tensor: &Tensor<'_>) -> Fact {
    let integers = matches!(tensor.element, Element::I32 | Element::I64);
    let values = integers.then(|| tensor.ints(MOST)).flatten();
    Fact { shape: Some(tensor.shape.clone()), values }
}
