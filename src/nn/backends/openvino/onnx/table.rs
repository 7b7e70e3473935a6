//! What OpenVINO's frontend makes of ONNX's operators.

/// ONNX's operator, and those of OpenVINO's that the frontend puts in its
/// place, in any version and form of it. What is folded into constants, and
/// `Constant`, `Convert`, `Reshape`, `ShapeOf`, `Squeeze` and `Unsqueeze`,
/// which are safe, are left out. In the order of the names.
///
/// What has a condition in the list of operators is proven in `prove`. An
/// operator that is not here is not taken: which others it becomes is not known.
const TABLE: &[(&str, &[&str])] = &[
    ("Abs", &["Abs"]),
    ("Acos", &["Acos"]),
    ("Acosh", &["Acosh"]),
    ("Add", &["Add"]),
    ("And", &["LogicalAnd"]),
    ("ArgMax", &["TopK"]),
    ("ArgMin", &["TopK"]),
    ("Asin", &["Asin"]),
    ("Asinh", &["Asinh"]),
    ("Atan", &["Atan"]),
    ("Atanh", &["Atanh"]),
    ("AveragePool", &["AvgPool", "Pad"]),
    ("BatchNormalization", &["BatchNormInference"]),
    ("Cast", &["Convert"]),
    ("CastLike", &["ConvertLike"]),
    ("Ceil", &["Ceiling"]),
    ("Celu", &["Elu", "Divide", "Multiply"]),
    ("Clip", &["Clamp", "Maximum", "Minimum"]),
    ("Concat", &["Concat"]),
    ("Constant", &["Constant"]),
    ("ConstantOfShape", &["Broadcast"]),
    ("Conv", &["Convolution", "GroupConvolution", "Add", "Split", "Concat"]),
    (
        "ConvTranspose",
        &["ConvolutionBackpropData", "GroupConvolutionBackpropData", "Add", "Split", "Concat"],
    ),
    ("Cos", &["Cos"]),
    ("Cosh", &["Cosh"]),
    ("CumSum", &["CumSum"]),
    ("DepthToSpace", &["DepthToSpace"]),
    ("DequantizeLinear", &["Convert", "Subtract", "Multiply"]),
    ("Div", &["Divide"]),
    ("Dropout", &["Broadcast"]),
    (
        "DynamicQuantizeLinear",
        &[
            "ReduceMax",
            "ReduceMin",
            "Maximum",
            "Minimum",
            "Subtract",
            "Divide",
            "Multiply",
            "Round",
            "Clamp",
            "Add",
            "FakeQuantize",
            "ConvertLike",
        ],
    ),
    ("Einsum", &["Einsum"]),
    ("Elu", &["Elu"]),
    ("Equal", &["Equal"]),
    ("Erf", &["Erf"]),
    ("Exp", &["Exp"]),
    ("Expand", &["Broadcast"]),
    ("Flatten", &["Reshape"]),
    ("Floor", &["Floor"]),
    ("GRU", &["GRUSequence", "Transpose", "Split", "Concat", "Broadcast", "Negative"]),
    ("Gather", &["Gather"]),
    ("GatherElements", &["GatherElements"]),
    ("GatherND", &["GatherND"]),
    ("Gelu", &["Gelu"]),
    ("Gemm", &["MatMul", "Multiply", "Add", "Transpose"]),
    ("GlobalAveragePool", &["ReduceMean"]),
    ("GlobalMaxPool", &["ReduceMax"]),
    ("Greater", &["Greater"]),
    ("GreaterOrEqual", &["GreaterEqual"]),
    ("GridSample", &["GridSample"]),
    ("HardSigmoid", &["HardSigmoid"]),
    ("HardSwish", &["HSwish"]),
    ("Identity", &["Identity"]),
    ("If", &["If"]),
    ("InstanceNormalization", &["MVN", "Multiply", "Add", "Broadcast"]),
    ("IsInf", &["IsInf"]),
    ("IsNaN", &["IsNaN"]),
    ("LRN", &["LRN"]),
    ("LSTM", &["LSTMSequence", "Transpose", "Split", "Concat", "Broadcast", "Add"]),
    (
        "LayerNormalization",
        &["MVN", "Multiply", "Add", "ReduceMean", "Subtract", "Power", "Sqrt", "Divide"],
    ),
    ("LeakyRelu", &["PRelu"]),
    ("Less", &["Less"]),
    ("LessOrEqual", &["LessEqual"]),
    ("Log", &["Log"]),
    ("LogSoftmax", &["LogSoftmax"]),
    ("LpNormalization", &["NormalizeL2", "ReduceL1", "ReduceL2", "Divide"]),
    ("MatMul", &["MatMul"]),
    ("MatMulInteger", &["MatMul", "Subtract", "Convert"]),
    ("Max", &["Maximum"]),
    ("MaxPool", &["MaxPool", "Pad"]),
    ("Mean", &["Add", "Divide"]),
    ("Min", &["Minimum"]),
    ("Mish", &["Mish"]),
    ("Mod", &["Mod", "FloorMod"]),
    ("Mul", &["Multiply"]),
    ("Neg", &["Negative"]),
    ("NonMaxSuppression", &["NonMaxSuppression"]),
    ("NonZero", &["NonZero"]),
    ("Not", &["LogicalNot"]),
    ("OneHot", &["OneHot"]),
    ("Or", &["LogicalOr"]),
    ("PRelu", &["PRelu"]),
    ("Pad", &["Pad"]),
    ("Pow", &["Power"]),
    ("QuantizeLinear", &["FakeQuantize", "Convert", "Divide", "Subtract", "Multiply", "Add"]),
    ("RNN", &["RNNSequence", "Transpose", "Split", "Concat", "Broadcast", "Add"]),
    ("Range", &["Range"]),
    ("Reciprocal", &["Divide", "Power"]),
    ("ReduceL1", &["ReduceL1"]),
    ("ReduceL2", &["ReduceL2"]),
    ("ReduceLogSum", &["ReduceSum", "Log"]),
    ("ReduceLogSumExp", &["Exp", "ReduceSum", "Log", "ReduceMax", "Subtract", "Add"]),
    ("ReduceMax", &["ReduceMax"]),
    ("ReduceMean", &["ReduceMean"]),
    ("ReduceMin", &["ReduceMin"]),
    ("ReduceProd", &["ReduceProd"]),
    ("ReduceSum", &["ReduceSum"]),
    ("ReduceSumSquare", &["Multiply", "ReduceSum"]),
    ("Relu", &["Relu"]),
    ("Reshape", &["Reshape"]),
    ("Resize", &["Interpolate"]),
    ("ReverseSequence", &["ReverseSequence"]),
    ("RoiAlign", &["ROIAlign"]),
    ("Round", &["Round"]),
    ("ScatterND", &["ScatterNDUpdate"]),
    ("Selu", &["Selu"]),
    ("Shape", &["ShapeOf", "Slice"]),
    ("Sigmoid", &["Sigmoid"]),
    ("Sign", &["Sign"]),
    ("Sin", &["Sin"]),
    ("Sinh", &["Sinh"]),
    ("Size", &["ShapeOf", "ReduceProd"]),
    ("Slice", &["Slice"]),
    ("Softmax", &["Softmax"]),
    ("Softplus", &["SoftPlus"]),
    ("Softsign", &["SoftSign"]),
    ("SpaceToDepth", &["SpaceToDepth"]),
    ("Split", &["Split", "VariadicSplit"]),
    ("Sqrt", &["Sqrt"]),
    ("Squeeze", &["Squeeze"]),
    ("Sub", &["Subtract"]),
    ("Sum", &["Add"]),
    ("Tan", &["Tan"]),
    ("Tanh", &["Tanh"]),
    ("ThresholdedRelu", &["Greater", "Convert", "Multiply", "Broadcast"]),
    ("Tile", &["Tile"]),
    ("TopK", &["TopK"]),
    ("Transpose", &["Transpose"]),
    ("Unsqueeze", &["Unsqueeze"]),
    ("Upsample", &["Interpolate"]),
    ("Where", &["Select"]),
    ("Xor", &["LogicalXor"]),
];

/// What the frontend makes of an operator of ONNX's.
pub(super) fn operators(onnx: &str) -> Option<&'static [&'static str]> {
    let found = TABLE.binary_search_by(|(name, _)| (*name).cmp(onnx));
    found.ok().map(|at| TABLE[at].1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::operators::{Rule, rule};

    #[test]
    fn the_table_is_in_order_and_names_operators_that_the_list_takes() {
        assert!(TABLE.is_sorted_by(|a, b| a.0 < b.0));
        for (onnx, operators) in TABLE {
            for operator in *operators {
                let taken = matches!(rule(operator), Some(Rule::Safe | Rule::When(_)));
                assert!(taken, "{operator} of {onnx}");
            }
        }
    }
}
