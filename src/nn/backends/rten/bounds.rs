//! What is proven of a model for rten's sake: how deep it makes rten recurse,
//! that it comes to an end, and that what rten computes of constants alone,
//! when it loads a model, takes no more memory than a limit: Rust ends the
//! process where there is none.

use std::collections::HashMap;

use crate::nn::onnx::{Graph, Model, Node, Setting, Tensor};
use crate::nn::refusal::{Errno, Refusal};

/// The most nodes of a branch: rten plans it on a thread with a small stack.
const MAX_BRANCH: usize = 1000;

/// The most numbers of a constant that are looked at: sizes, axes, repeats.
const MAX_INTS: usize = 64;

/// The largest element in rten, in bytes.
const ELEMENT: u64 = 4;

/// What is known of a value that depends on constants alone.
#[derive(Clone, Default)]
struct Constant {
    /// Elements, or more.
    count: u64,
    shape: Option<Vec<u64>>,
    /// Its numbers, if they are few and whole.
    ints: Option<Vec<i64>>,
}

type Constants<'a> = HashMap<&'a str, Constant>;

/// Proves a model; its constants may take `memory` bytes beside the file's.
pub(super) fn check(model: &Model<'_>, memory: u64) -> Result<(), Refusal> {
    Bounds { memory, taken: 0 }.graph(&model.graph, Constants::new())
}

struct Bounds {
    memory: u64,
    taken: u64,
}

impl Bounds {
    fn graph<'a>(&mut self, of: &Graph<'a>, mut known: Constants<'a>) -> Result<(), Refusal> {
        for tensor in &of.initializers {
            known.insert(tensor.name, Constant::of(tensor));
        }
        for node in &of.nodes {
            if node.op == "Loop" {
                let text = format!(
                    "rten refuses the model: {} may go on without end, and nothing can interrupt it",
                    node.title()
                );
                return Err(Refusal::new(Errno::UnsupportedOperation, text));
            }
            let mut branches = false;
            for branch in node.graphs() {
                branches = true;
                if branch.nodes.len() > MAX_BRANCH {
                    return Err(Refusal::too_large(format!(
                        "rten refuses the model: a branch of {} has {} nodes, more than \
                         {MAX_BRANCH}",
                        node.title(),
                        branch.nodes.len()
                    )));
                }
                self.graph(branch, known.clone())?;
            }
            if branches {
                continue;
            }
            let inputs = node.inputs.iter().filter(|name| !name.is_empty());
            let Some(inputs) = inputs.map(|name| known.get(name)).collect::<Option<Vec<_>>>()
            else {
                continue;
            };
            let made = self.made(node, &inputs)?;
            for output in node.outputs.iter().filter(|name| !name.is_empty()) {
                self.taken = self.taken.saturating_add(made.count.saturating_mul(ELEMENT));
                if self.taken > self.memory {
                    return Err(Refusal::too_large(format!(
                        "rten refuses the model: its constants take {} bytes or more with {}, \
                         more than the limit of {} (--task-tensor-memory)",
                        self.taken,
                        node.title(),
                        self.memory
                    )));
                }
                known.insert(output, made.clone());
            }
        }
        Ok(())
    }

    /// What a node makes of constants.
    fn made(&self, node: &Node<'_>, inputs: &[&Constant]) -> Result<Constant, Refusal> {
        let none = Constant::default();
        let input = |index: usize| *inputs.get(index).unwrap_or(&&none);
        let (first, second) = (input(0), input(1));
        let all = |counts: fn(u64, u64) -> u64| {
            inputs.iter().map(|input| input.count).reduce(counts).unwrap_or(1)
        };
        let of = |count: u64| Constant { count, ..Constant::default() };
        Ok(match node.op {
            "Constant" => match node.setting("value") {
                Some(Setting::Tensor(tensor)) => Constant::of(tensor),
                _ => of(node.attributes.len() as u64 * MAX_INTS as u64),
            },
            "Shape" => Constant {
                count: 16,
                shape: None,
                ints: first.shape.as_ref().map(|dims| dims.iter().map(|&dim| dim as i64).collect()),
            },
            "Identity" | "Cast" => first.clone(),
            "Squeeze" | "Unsqueeze" | "Reshape" | "Flatten" => {
                Constant { shape: None, ..first.clone() }
            }
            "Transpose" => Constant {
                count: first.count,
                shape: first.shape.as_ref().and_then(|shape| transposed(node, shape)),
                ints: None,
            },
            "Concat" => {
                let ints: Option<Vec<_>> = inputs.iter().map(|input| input.ints.clone()).collect();
                let ints = ints.map(|lists| lists.concat()).filter(|list| list.len() <= MAX_INTS);
                Constant { count: all(u64::saturating_add), shape: None, ints }
            }
            "ConstantOfShape" => of(product(self.ints(node, first)?)),
            "Expand" | "Tile" => of(first.count.saturating_mul(product(self.ints(node, second)?))),
            "OneHot" => of(first.count.saturating_mul(product(self.ints(node, second)?))),
            "Range" => {
                let (start, limit) = (self.ints(node, first)?, self.ints(node, second)?);
                match (start, limit, self.ints(node, input(2))?) {
                    (&[start], &[limit], &[step]) if step != 0 => {
                        of(limit.abs_diff(start) / step.unsigned_abs() + 1)
                    }
                    _ => return Err(self.computed(node)),
                }
            }
            "Pad" => {
                let pads = match node.setting("pads") {
                    Some(Setting::Ints(pads)) => pads,
                    _ => self.ints(node, second)?,
                };
                let shape = first.shape.as_ref().ok_or_else(|| self.computed(node))?;
                let most = pads.iter().map(|&pad| pad.max(0) as u64).fold(0, u64::saturating_add);
                let dims = shape.iter().map(|dim| dim.saturating_add(most));
                of(dims.fold(1, u64::saturating_mul))
            }
            // Their sizes depend on numbers that are not looked at.
            "Resize" | "Upsample" | "ConvTranspose" | "Conv" => return Err(self.computed(node)),
            "MatMul" | "Gemm" => match (first.shape.as_deref(), second.shape.as_deref()) {
                (Some(&[_, inner]), Some(&[_, _])) if inner > 0 && node.op == "MatMul" => {
                    let (rows, columns) = (first.count / inner, second.count / inner);
                    of(rows.saturating_mul(columns))
                }
                _ => of(first.count.saturating_mul(second.count)),
            },
            _ if ALIKE.contains(&node.op) => of(first.count),
            _ => match broadcast(inputs) {
                Some(shape) => Constant {
                    count: shape.iter().copied().fold(1, u64::saturating_mul),
                    shape: Some(shape),
                    ints: None,
                },
                None => of(all(u64::saturating_mul)),
            },
        })
    }

    fn ints<'c>(&self, node: &Node<'_>, of: &'c Constant) -> Result<&'c [i64], Refusal> {
        of.ints.as_deref().ok_or_else(|| self.computed(node))
    }

    fn computed(&self, node: &Node<'_>) -> Refusal {
        Refusal::new(
            Errno::UnsupportedOperation,
            format!(
                "rten refuses the model: {} makes a constant of a size that is computed: export \
                 the model with its constants folded",
                node.title()
            ),
        )
    }
}

/// Operators whose outputs are no larger than their first input.
const ALIKE: [&str; 12] = [
    "BatchNormalization",
    "CumSum",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "InstanceNormalization",
    "LayerNormalization",
    "QuantizeLinear",
    "ReduceMean",
    "ReduceSum",
    "Slice",
    "Split",
    "TopK",
];

impl Constant {
    fn of(tensor: &Tensor<'_>) -> Constant {
        Constant {
            count: tensor.shape.iter().copied().fold(1, u64::saturating_mul),
            shape: Some(tensor.shape.clone()),
            ints: tensor.ints(MAX_INTS),
        }
    }
}

/// The elements of a shape, sizes below 1 taken for 1.
fn product(ints: &[i64]) -> u64 {
    ints.iter().map(|&int| int.max(1) as u64).fold(1, u64::saturating_mul)
}

fn transposed(node: &Node<'_>, shape: &[u64]) -> Option<Vec<u64>> {
    match node.setting("perm") {
        Some(Setting::Ints(perm)) => {
            let dim = |&at: &i64| shape.get(usize::try_from(at).ok()?).copied();
            perm.iter().map(dim).collect()
        }
        _ => Some(shape.iter().rev().copied().collect()),
    }
}

/// The shape that all are broadcast to, if it is known.
fn broadcast(inputs: &[&Constant]) -> Option<Vec<u64>> {
    let shapes = inputs.iter().map(|input| input.shape.as_deref()).collect::<Option<Vec<_>>>()?;
    let rank = shapes.iter().map(|shape| shape.len()).max()?;
    let dim = |at: usize| {
        let dims = shapes.iter().map(|shape| {
            let before = rank - shape.len();
            if at < before { 1 } else { shape[at - before] }
        });
        dims.max().unwrap_or(1)
    };
    Some((0..rank).map(dim).collect())
}
