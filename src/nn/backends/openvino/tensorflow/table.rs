//! What OpenVINO's frontend makes of TensorFlow's operators.

/// TensorFlow's operator, and those of OpenVINO's that the frontend puts in its
/// place. What is folded into constants, and `Constant`, `Convert`, `Reshape`,
/// `ShapeOf`, `Squeeze`, `Transpose` and `Unsqueeze`, which are safe, are left
/// out. In the order of the names.
///
/// What has a condition in the list of operators is proven in `prove`. An
/// operator that is not here is not taken: which others it becomes is not known.
const TABLE: &[(&str, &[&str])] = &[
    ("Abs", &["Abs"]),
    ("Acos", &["Acos"]),
    ("Acosh", &["Acosh"]),
    ("Add", &["Add"]),
    ("AddN", &["Add"]),
    ("AddV2", &["Add"]),
    ("All", &["ReduceLogicalAnd"]),
    ("Any", &["ReduceLogicalOr"]),
    ("ArgMax", &["TopK"]),
    ("ArgMin", &["TopK"]),
    ("Asin", &["Asin"]),
    ("Asinh", &["Asinh"]),
    ("Atan", &["Atan"]),
    ("Atanh", &["Atanh"]),
    ("AvgPool", &["AvgPool"]),
    ("BatchMatMul", &["MatMul"]),
    ("BatchMatMulV2", &["MatMul"]),
    ("BiasAdd", &["Add"]),
    ("Cast", &["Convert"]),
    ("Ceil", &["Ceiling"]),
    ("ClipByValue", &["Maximum", "Minimum", "Clamp"]),
    ("ConcatV2", &["Concat"]),
    ("Const", &["Constant"]),
    ("Conv2D", &["Convolution", "GroupConvolution"]),
    ("Cos", &["Cos"]),
    ("Cosh", &["Cosh"]),
    ("Cumsum", &["CumSum"]),
    ("DepthToSpace", &["DepthToSpace"]),
    ("DepthwiseConv2dNative", &["GroupConvolution"]),
    ("Elu", &["Elu"]),
    ("Equal", &["Equal"]),
    ("Erf", &["Erf"]),
    ("Exp", &["Exp"]),
    ("ExpandDims", &["Unsqueeze"]),
    ("Fill", &["Broadcast"]),
    ("Floor", &["Floor"]),
    ("FloorDiv", &["Floor", "Divide"]),
    ("FloorMod", &["FloorMod"]),
    ("FusedBatchNorm", NORMALIZED),
    ("FusedBatchNormV2", NORMALIZED),
    ("FusedBatchNormV3", NORMALIZED),
    ("Gather", &["Gather"]),
    ("GatherNd", &["GatherND"]),
    ("GatherV2", &["Gather"]),
    ("Greater", &["Greater"]),
    ("GreaterEqual", &["GreaterEqual"]),
    ("Identity", &["Identity"]),
    ("IsFinite", &["IsFinite"]),
    ("IsInf", &["IsInf"]),
    ("IsNan", &["IsNaN"]),
    ("LeakyRelu", &["Maximum", "Minimum", "Multiply", "PRelu"]),
    ("Less", &["Less"]),
    ("LessEqual", &["LessEqual"]),
    ("Log", &["Log"]),
    ("LogSoftmax", &["LogSoftmax"]),
    ("LogicalAnd", &["LogicalAnd"]),
    ("LogicalNot", &["LogicalNot"]),
    ("LogicalOr", &["LogicalOr"]),
    ("LogicalXor", &["LogicalXor"]),
    ("MatMul", &["MatMul"]),
    ("Max", &["ReduceMax"]),
    ("MaxPool", &["MaxPool"]),
    ("Maximum", &["Maximum"]),
    ("Mean", &["ReduceMean"]),
    ("Min", &["ReduceMin"]),
    ("Minimum", &["Minimum"]),
    ("MirrorPad", &["Pad"]),
    ("Mish", &["Mish"]),
    ("Mod", &["Mod"]),
    ("Mul", &["Multiply"]),
    ("Neg", &["Negative"]),
    ("NotEqual", &["NotEqual"]),
    ("OneHot", &["OneHot"]),
    ("Pack", &["Concat"]),
    ("Pad", &["Pad"]),
    ("PadV2", &["Pad"]),
    ("Placeholder", &["Parameter"]),
    ("Pow", &["Power"]),
    ("Prod", &["ReduceProd"]),
    ("Range", &["Range"]),
    ("Rank", &["ShapeOf"]),
    ("RealDiv", &["Divide"]),
    ("Reciprocal", &["Divide", "Power"]),
    ("Relu", &["Relu"]),
    ("Relu6", &["Clamp"]),
    ("Reshape", &["Reshape"]),
    ("ResizeBilinear", &["Interpolate"]),
    ("ResizeNearestNeighbor", &["Interpolate"]),
    ("Round", &["Round"]),
    ("Rsqrt", &["Sqrt", "Divide", "Power"]),
    ("SelectV2", &["Select"]),
    ("Selu", &["Selu"]),
    ("Shape", &["ShapeOf"]),
    ("Sigmoid", &["Sigmoid"]),
    ("Sign", &["Sign"]),
    ("Sin", &["Sin"]),
    ("Sinh", &["Sinh"]),
    ("Size", &["ShapeOf", "ReduceProd"]),
    ("Slice", &["Slice", "Add", "Broadcast", "Equal", "Less", "Select", "Subtract"]),
    ("Softmax", &["Softmax"]),
    ("Softplus", &["SoftPlus"]),
    ("Softsign", &["SoftSign"]),
    ("SpaceToDepth", &["SpaceToDepth"]),
    ("Split", &["Split"]),
    ("SplitV", &["VariadicSplit"]),
    ("Sqrt", &["Sqrt", "Power"]),
    ("Square", &["Multiply", "Power"]),
    ("SquaredDifference", &["SquaredDifference"]),
    ("Squeeze", &["Squeeze"]),
    ("StopGradient", &["Identity"]),
    ("StridedSlice", &["StridedSlice"]),
    ("Sub", &["Subtract"]),
    ("Sum", &["ReduceSum"]),
    ("Swish", &["Swish"]),
    ("Tan", &["Tan"]),
    ("Tanh", &["Tanh"]),
    ("Tile", &["Tile"]),
    ("TopKV2", &["TopK"]),
    ("Transpose", &["Transpose"]),
    ("Unpack", &["Split"]),
    ("Where", &["NonZero"]),
    ("ZerosLike", &["Broadcast", "Concat"]),
];

/// With the model's mean and variance, or with those of its input.
const NORMALIZED: &[&str] = &[
    "Add",
    "BatchNormInference",
    "Concat",
    "Divide",
    "MVN",
    "Multiply",
    "Power",
    "Range",
    "ReduceMean",
    "SquaredDifference",
    "Subtract",
];

/// What the frontend makes of an operator of TensorFlow's.
pub(super) fn operators(tensorflow: &str) -> Option<&'static [&'static str]> {
    let found = TABLE.binary_search_by(|(name, _)| (*name).cmp(tensorflow));
    found.ok().map(|at| TABLE[at].1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::operators::rule;

    #[test]
    fn the_table_is_in_order_and_names_operators_of_the_list() {
        for pair in TABLE.windows(2) {
            assert!(pair[0].0 < pair[1].0, "{} {}", pair[0].0, pair[1].0);
        }
        for (name, becomes) in TABLE {
            for operator in *becomes {
                assert!(rule(operator).is_some(), "{name}: {operator}");
            }
        }
    }
}
