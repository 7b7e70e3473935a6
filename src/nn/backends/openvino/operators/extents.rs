//! Which values have elements, and which have the same shape in each inference,
//! as far as that follows from the inputs of an operator.
//!
//! Where shapes are fixed OpenVINO works them out as it reads the model, and
//! refuses a window that is larger than what it moves over; where they are open
//! it gives nothing instead. So more is known of the former.

use super::{Fact, order};

/// Operators whose outputs have elements if so many of their first inputs have,
/// and are of fixed shapes if those are and the others are constants. In the
/// order of the list.
const KEEP: &[(&str, usize)] = &[
    ("Abs", 1),
    ("Acos", 1),
    ("Acosh", 1),
    ("Add", 2),
    ("Asin", 1),
    ("Asinh", 1),
    ("Atan", 1),
    ("Atanh", 1),
    ("AvgPool", 1),
    ("BatchNormInference", 5),
    ("BitwiseAnd", 2),
    ("BitwiseNot", 1),
    ("BitwiseOr", 2),
    ("BitwiseXor", 2),
    ("Ceiling", 1),
    ("Clamp", 1),
    ("Concat", usize::MAX),
    ("Convert", 1),
    ("ConvertLike", 1),
    ("Cos", 1),
    ("Cosh", 1),
    ("CumSum", 1),
    ("DepthToSpace", 1),
    ("Divide", 2),
    ("Elu", 1),
    ("Equal", 2),
    ("Erf", 1),
    ("Exp", 1),
    ("FakeQuantize", 5),
    ("Floor", 1),
    ("FloorMod", 2),
    ("Gather", 2),
    ("Gelu", 1),
    ("Greater", 2),
    ("GreaterEqual", 2),
    ("GroupNormalization", 3),
    ("GRUSequence", 6),
    ("HardSigmoid", 1),
    ("HSigmoid", 1),
    ("HSwish", 1),
    ("Identity", 1),
    ("IsFinite", 1),
    ("IsInf", 1),
    ("IsNaN", 1),
    ("Less", 2),
    ("LessEqual", 2),
    ("Log", 1),
    ("LogicalAnd", 2),
    ("LogicalNot", 1),
    ("LogicalOr", 2),
    ("LogicalXor", 2),
    ("LogSoftmax", 1),
    ("LRN", 1),
    ("LSTMSequence", 7),
    ("MatMul", 2),
    ("Maximum", 2),
    ("MaxPool", 1),
    ("Minimum", 2),
    ("Mish", 1),
    ("Mod", 2),
    ("Multiply", 2),
    ("MVN", 1),
    ("Negative", 1),
    ("NormalizeL2", 1),
    ("NotEqual", 2),
    ("Power", 2),
    ("PRelu", 2),
    ("ReduceL1", 1),
    ("ReduceL2", 1),
    ("ReduceLogicalAnd", 1),
    ("ReduceLogicalOr", 1),
    ("ReduceMax", 1),
    ("ReduceMean", 1),
    ("ReduceMin", 1),
    ("ReduceProd", 1),
    ("ReduceSum", 1),
    ("Relu", 1),
    ("Reshape", 1),
    ("RNNSequence", 6),
    ("Round", 1),
    ("Select", 3),
    ("Selu", 1),
    ("Sigmoid", 1),
    ("Sign", 1),
    ("Sin", 1),
    ("Sinh", 1),
    ("Softmax", 1),
    ("SoftPlus", 1),
    ("SoftSign", 1),
    ("SpaceToDepth", 1),
    ("Split", 1),
    ("Sqrt", 1),
    ("SquaredDifference", 2),
    ("Squeeze", 1),
    ("Subtract", 2),
    ("Swish", 1),
    ("Tan", 1),
    ("Tanh", 1),
    ("Transpose", 1),
    ("Unsqueeze", 1),
    ("Xor", 2),
];

/// How a window of weights moves over what has elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::nn) enum Window {
    /// It fits at least once, by padding.
    Fits,
    /// It may be larger, which is refused where shapes are fixed.
    Open,
}

impl Window {
    /// Of a kernel's size, what is added on both sides, and dilations, each by
    /// dimension.
    pub(in crate::nn) fn of(kernel: &[u64], added: &[u64], dilations: &[u64]) -> Window {
        let fits = |at: usize| {
            let dilation = dilations.get(at).copied().unwrap_or(1);
            let reach = kernel[at].saturating_sub(1).saturating_mul(dilation);
            kernel[at] > 0 && reach <= added.get(at).copied().unwrap_or(0)
        };
        match (0..kernel.len()).all(fits) {
            true => Window::Fits,
            false => Window::Open,
        }
    }
}

/// What is known of the outputs of an operator beside shapes and values. Each is
/// of fixed shape and has elements, or nothing is said of any of them.
pub(in crate::nn) fn made(operator: &str, inputs: &[Fact], window: Window) -> Fact {
    let all = |count: usize, is: fn(&Fact) -> bool| {
        let first = &inputs[..count.min(inputs.len())];
        !first.is_empty() && first.iter().all(is)
    };
    let constants = |from: usize| {
        inputs.get(from..).unwrap_or_default().iter().all(|fact| fact.values.is_some())
    };
    let is = |name: &str| operator.eq_ignore_ascii_case(name);
    let not_negative = |input: usize| match inputs.get(input) {
        None => true,
        Some(fact) => fact.values.as_ref().is_some_and(|all| all.iter().all(|&value| value >= 0)),
    };
    let (fixed, filled) = if is("Convolution") || is("GroupConvolution") {
        let fixed = all(2, Fact::is_fixed);
        (fixed, all(2, Fact::is_filled) && (fixed || window == Window::Fits))
    } else if is("Pad") {
        let filled = all(1, Fact::is_filled) && not_negative(1) && not_negative(2);
        (all(1, Fact::is_fixed) && constants(1), filled)
    } else if let Ok(at) = KEEP.binary_search_by(|(name, _)| order(name, operator)) {
        let count = KEEP[at].1;
        (all(count, Fact::is_fixed) && constants(count), all(count, Fact::is_filled))
    } else {
        (false, false)
    };
    // What changes the shape alone is taken out, or moved, before products are looked for.
    let first = |is: fn(&Fact) -> bool| inputs.first().is_some_and(is);
    let shape = ["Convert", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"];
    let product = !fixed
        && (is("Multiply") || shape.iter().any(|name| is(name)) && first(|fact| fact.product));
    Fact { fixed, filled, product, ..Fact::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::backends::openvino::operators::{LIST, Rule, rule};
    use std::cmp::Ordering;

    fn shaped(dims: &[u64]) -> Fact {
        Fact::shaped(Some(dims.to_vec()))
    }

    fn known(operator: &str, inputs: &[Fact]) -> (bool, bool) {
        let made = made(operator, inputs, Window::Open);
        (made.is_fixed(), made.is_filled())
    }

    #[test]
    fn what_keeps_elements_is_in_order_and_in_the_list() {
        assert!(KEEP.windows(2).all(|pair| order(pair[0].0, pair[1].0) == Ordering::Less));
        for (name, _) in KEEP {
            assert!(!matches!(rule(name), None | Some(Rule::Refused(_))), "{name}");
        }
        assert!(KEEP.len() < LIST.len());
    }

    #[test]
    fn elements_and_fixed_shapes_come_from_those_of_the_inputs() {
        let open = Fact::default().with_elements();
        assert_eq!(known("Add", &[shaped(&[2]), shaped(&[1])]), (true, true));
        assert_eq!(known("Add", &[shaped(&[2]), open.clone()]), (false, true));
        assert_eq!(known("Add", &[shaped(&[2]), Fact::default()]), (false, false));
        assert_eq!(known("Add", &[shaped(&[2]), shaped(&[0])]), (true, false));
        // A shape that is worked out may be another one in the next inference.
        assert_eq!(known("Reshape", &[shaped(&[2]), shaped(&[1])]), (false, true));
        let pattern = Fact::constant(Some(vec![1]), Some(vec![2]));
        assert_eq!(known("Reshape", &[shaped(&[2]), pattern]), (true, true));
        assert_eq!(known("NonZero", &[shaped(&[2])]), (false, false));
        assert_eq!(known("Add", &[]), (false, false));
    }

    #[test]
    fn a_window_that_may_be_larger_gives_elements_where_shapes_are_fixed() {
        let weights = shaped(&[3, 2, 3, 3]);
        let open = Fact::default().with_elements();
        assert_eq!(known("Convolution", &[shaped(&[1, 2, 8, 8]), weights.clone()]), (true, true));
        assert_eq!(known("Convolution", &[open.clone(), weights.clone()]), (false, false));
        let padded = made("Convolution", &[open, weights], Window::Fits);
        assert_eq!((padded.is_fixed(), padded.is_filled()), (false, true));
        for (kernel, added, dilations, fits) in [
            (&[3, 3][..], &[2, 2][..], &[1, 1][..], Window::Fits),
            (&[3, 3], &[2, 1], &[1, 1], Window::Open),
            (&[3, 3], &[2, 2], &[1, 2], Window::Open),
            (&[1, 1], &[], &[], Window::Fits),
            (&[0], &[2], &[1], Window::Open),
        ] {
            assert_eq!(Window::of(kernel, added, dilations), fits, "{kernel:?} {added:?}");
        }
    }

    #[test]
    fn padding_may_take_elements_away() {
        let numbers = |number: i64| Fact::constant(Some(vec![1]), Some(vec![number]));
        assert_eq!(known("Pad", &[shaped(&[4]), numbers(1), numbers(0)]), (true, true));
        assert_eq!(known("Pad", &[shaped(&[4]), numbers(1), numbers(-4)]), (true, false));
        assert_eq!(known("Pad", &[shaped(&[4]), shaped(&[1]), numbers(0)]), (false, false));
    }
}
