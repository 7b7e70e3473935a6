//! What OpenVINO's frontends make of the operators of an encoding: which of its
//! own operators, and from which of their inputs.

use super::operators::{Condition, Fact};

/// An encoding's operators, and those of OpenVINO's that the frontend puts in the
/// place of each, in the order of the names.
pub(super) struct Table(pub(super) &'static [(&'static str, &'static [&'static str])]);

impl Table {
    /// What an operator becomes. What is folded into constants, and operators that
    /// are safe and change shapes alone, are left out.
    pub(super) fn of(&self, operator: &str) -> Option<&'static [&'static str]> {
        let found = self.0.binary_search_by(|(name, _)| (*name).cmp(operator));
        found.ok().map(|at| self.0[at].1)
    }
}

/// An input of one of OpenVINO's operators that stands for a node.
#[derive(Clone, Debug)]
pub(super) enum Argument {
    /// The node's own, by its number.
    Input(usize),
    /// The frontend's, and what is known of it.
    Made(Fact),
}

/// The inputs of such an operator, in its order.
pub(super) struct Arranged(pub(super) Vec<Argument>);

impl Arranged {
    /// What is known of the arguments, if this is known of the node's inputs.
    pub(super) fn facts(&self, inputs: &[Fact]) -> Vec<Fact> {
        let fact = |argument: &Argument| match argument {
            Argument::Input(at) => inputs[*at].clone(),
            Argument::Made(fact) => fact.clone(),
        };
        self.0.iter().map(fact).collect()
    }

    /// The same for a condition on operands: the frontend's own are of its making.
    pub(super) fn operands(&self, inputs: &[Fact]) -> Vec<Fact> {
        let fact = |argument: &Argument| match argument {
            Argument::Input(at) => inputs[*at].clone(),
            Argument::Made(_) => Fact::constant(None, None),
        };
        self.0.iter().map(fact).collect()
    }

    /// The argument that a condition is about.
    pub(super) fn argument(&self, condition: Condition) -> Option<Argument> {
        let at = match condition {
            Condition::NotEmpty { input } | Condition::Within { input, .. } => input,
            Condition::Index { indices, .. } => indices,
            _ => return None,
        };
        self.0.get(at).cloned()
    }
}

#[cfg(test)]
mod tests {
    use crate::nn::backends::openvino::operators::{Rule, rule};
    use crate::nn::backends::openvino::{onnx, tensorflow, tflite};

    #[test]
    fn each_table_is_in_order_and_names_operators_that_the_list_takes() {
        for table in [&onnx::table::TABLE, &tensorflow::table::TABLE, &tflite::table::TABLE] {
            assert!(table.0.is_sorted_by(|a, b| a.0 < b.0));
            for (name, becomes) in table.0 {
                for operator in *becomes {
                    let taken = matches!(rule(operator), Some(Rule::Safe | Rule::When(_)));
                    assert!(taken, "{operator} of {name}");
                }
            }
        }
    }
}
