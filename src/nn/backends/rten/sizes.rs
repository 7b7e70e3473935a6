//! How much memory an inference takes, as far as it is known before: rten
//! tells the shapes of the values between nodes, open dimensions as formulas
//! of the inputs' ones. It is held to a limit, since Rust ends the process
//! where there is no memory.
//!
//! Not known are sizes that depend on the numbers in a tensor, and what a node
//! takes for itself. Those are left to the budget of the process.

use std::collections::HashMap;

use ::rten::{DataType, Dimension, Model as Loaded, ValueType};

use crate::nn::onnx::{Graph, Node, short};
use crate::nn::refusal::Refusal;

/// The longest formula that is read, and the most parentheses in it.
const MAX_FORMULA: usize = 1000;
const MAX_DEPTH: usize = 32;

/// The values between the nodes of a model.
pub(super) struct Sizes {
    limit: u64,
    /// In the order of the nodes that make them.
    values: Vec<Sized>,
    /// The names of the inputs' open dimensions: input and dimension.
    symbols: HashMap<String, (usize, usize)>,
}

struct Sized {
    name: String,
    element: u64,
    dims: Vec<Dimension>,
    /// The node that makes it, and the last one that uses it.
    made: usize,
    used: usize,
}

impl Sizes {
    /// # Errors
    ///
    /// What is known for whatever inputs is over the limit of bytes.
    pub(super) fn new(loaded: &Loaded, graph: &Graph<'_>, limit: u64) -> Result<Sizes, Refusal> {
        let mut used = HashMap::new();
        for (at, node) in graph.nodes.iter().enumerate() {
            each_input(node, &mut |name| {
                used.insert(name, at);
            });
        }
        for output in &graph.outputs {
            used.insert(output.name, graph.nodes.len());
        }
        let mut values = Vec::new();
        for (made, node) in graph.nodes.iter().enumerate() {
            for &name in node.outputs.iter().filter(|name| !name.is_empty()) {
                let info = loaded.find_node(name).and_then(|id| loaded.node_info(id));
                let Some((info, dims)) = info.and_then(|info| Some((info.dtype(), info.shape()?)))
                else {
                    continue;
                };
                let element = match info {
                    Some(ValueType::Tensor(DataType::Int8 | DataType::UInt8)) => 1,
                    _ => 4,
                };
                let used = used.get(name).copied().unwrap_or(made);
                values.push(Sized { name: name.to_owned(), element, dims, made, used });
            }
        }
        let mut symbols = HashMap::new();
        for input in 0..loaded.input_ids().len() {
            for (at, dim) in loaded.input_shape(input).unwrap_or_default().into_iter().enumerate() {
                if let Dimension::Symbolic(name) = dim {
                    symbols.entry(name).or_insert((input, at));
                }
            }
        }
        let sizes = Sizes { limit, values, symbols };
        sizes.check("the model", |_, _| None)?;
        Ok(sizes)
    }

    /// Whether they depend on the inputs' shapes.
    pub(super) fn are_open(&self) -> bool {
        !self.symbols.is_empty()
    }

    /// Proves an inference; `dim` is a dimension of an input, if it is known.
    pub(super) fn check(
        &self,
        what: &str,
        dim: impl Fn(usize, usize) -> Option<u64>,
    ) -> Result<(), Refusal> {
        let symbol = |name: &str| {
            let &(input, at) = self.symbols.get(name)?;
            dim(input, at).map(i128::from)
        };
        let mut freed: HashMap<usize, u64> = HashMap::new();
        let (mut taken, mut node) = (0u64, 0);
        for value in &self.values {
            while node < value.made {
                taken = taken.saturating_sub(freed.remove(&node).unwrap_or(0));
                node += 1;
            }
            let dims = value.dims.iter().map(|dim| match dim {
                Dimension::Fixed(size) => *size as u64,
                // What is not known is not counted; below 0 something is wrong.
                Dimension::Symbolic(text) => Formula::eval(text, &symbol)
                    .map_or(1, |size| u64::try_from(size).unwrap_or(u64::MAX)),
            });
            let bytes = dims.fold(value.element, u64::saturating_mul);
            taken = taken.saturating_add(bytes);
            if taken > self.limit {
                return Err(Refusal::too_large(format!(
                    "rten refuses {what}: its tensors take {taken} bytes or more with `{}`, more \
                     than the limit of {} (--task-tensor-memory)",
                    short(&value.name),
                    self.limit
                )));
            }
            let free = freed.entry(value.used).or_default();
            *free = free.saturating_add(bytes);
        }
        Ok(())
    }
}

fn each_input<'a>(node: &Node<'a>, tell: &mut impl FnMut(&'a str)) {
    node.inputs.iter().for_each(|name| tell(name));
    for branch in node.graphs() {
        branch.nodes.iter().for_each(|node| each_input(node, tell));
        branch.outputs.iter().for_each(|output| tell(output.name));
    }
}

/// A dimension as rten writes it: `2 * (n + 1)`, `max(a, b)`.
struct Formula<'a> {
    rest: &'a str,
    symbol: &'a dyn Fn(&str) -> Option<i128>,
    depth: usize,
}

impl<'a> Formula<'a> {
    /// Its value; none if a name in it is not known.
    fn eval(text: &'a str, symbol: &'a dyn Fn(&str) -> Option<i128>) -> Option<i128> {
        // A name may look like anything.
        if let Some(known) = symbol(text) {
            return Some(known);
        }
        if text.len() > MAX_FORMULA {
            return None;
        }
        let mut formula = Formula { rest: text, symbol, depth: 0 };
        let value = formula.sum()?;
        formula.rest.trim().is_empty().then_some(value)
    }

    fn takes(&mut self, token: &str) -> bool {
        let rest = self.rest.trim_start().strip_prefix(token);
        if let Some(rest) = rest {
            self.rest = rest;
        }
        rest.is_some()
    }

    fn sum(&mut self) -> Option<i128> {
        let mut value = self.product()?;
        loop {
            if self.takes("+ ") {
                value = value.checked_add(self.product()?)?;
            } else if self.takes("- ") {
                value = value.checked_sub(self.product()?)?;
            } else {
                return Some(value);
            }
        }
    }

    fn product(&mut self) -> Option<i128> {
        let mut value = self.term()?;
        loop {
            if self.takes("*") {
                value = value.checked_mul(self.term()?)?;
            } else if self.takes("/") {
                value = value.checked_div_euclid(self.term()?)?;
            } else {
                return Some(value);
            }
        }
    }

    fn term(&mut self) -> Option<i128> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return None;
        }
        let value = self.deeper();
        self.depth -= 1;
        value
    }

    fn deeper(&mut self) -> Option<i128> {
        if self.takes("(") {
            let value = self.sum()?;
            return self.takes(")").then_some(value);
        }
        if self.takes("-") {
            return self.term()?.checked_neg();
        }
        let text = self.rest.trim_start();
        let word = |c: char| !(c.is_alphanumeric() || c == '_' || c == '.');
        let (word, rest) = text.split_at(text.find(word).unwrap_or(text.len()));
        self.rest = rest;
        if !self.takes("(") {
            return word.parse().ok().or_else(|| (self.symbol)(word));
        }
        let left = self.sum()?;
        let right = if self.takes(",") { self.sum()? } else { return None };
        if !self.takes(")") {
            return None;
        }
        match word {
            "max" | "broadcast" => Some(left.max(right)),
            "min" => Some(left.min(right)),
            "ceil_div" => left.checked_add(right.checked_sub(1)?)?.checked_div_euclid(right),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn formulas_are_read_as_rten_writes_them() {
        let symbol = |name: &str| match name {
            "n" => Some(5),
            "batch size" => Some(7),
            "p.0" => Some(3),
            _ => None,
        };
        for (text, value) in [
            ("5", Some(5)),
            ("batch size", Some(7)),
            ("n * 2 + p.0", Some(13)),
            ("n - (p.0 - 1)", Some(3)),
            ("-n + 6", Some(1)),
            ("ceil_div(n, 2) / 2", Some(1)),
            ("broadcast(n, max(2, p.0))", Some(5)),
            ("min(n, 2) * (n + 1)", Some(12)),
            ("n / 0", None),
            ("unknown_3 + 1", None),
            ("n +", None),
            ("n) + 1", None),
            ("max(n)", None),
        ] {
            assert_eq!(Formula::eval(text, &symbol), value, "{text}");
        }
        assert_eq!(Formula::eval(&"(".repeat(900), &symbol), None);
        assert_eq!(Formula::eval(&"-".repeat(900), &symbol), None);
    }

    proptest! {
        #[test]
        fn any_formula_comes_to_an_end(text in "[-+*/(),a-c0-9 ]{0,60}") {
            let _ = Formula::eval(&text, &|_| Some(i128::MAX / 2));
        }
    }
}
