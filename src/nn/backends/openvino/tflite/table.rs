//! What OpenVINO's frontend makes of TensorFlow Lite's operators.

/// TensorFlow Lite's operator, and those of OpenVINO's that the frontend puts
/// in its place. What is folded into constants, and `Constant`, `Convert`,
/// `Reshape`, `ShapeOf`, `Squeeze`, `Transpose` and `Unsqueeze`, which are safe,
/// are left out, as is what becomes of a scaled value: `FakeQuantize` and
/// arithmetic. In the order of the names.
///
/// What has a condition in the list of operators is proven in `prove`. An
/// operator that is not here is not taken: which others it becomes is not known.
const TABLE: &[(&str, &[&str])] = &[
    ("ABS", &["Abs"]),
    ("ADD", &["Add", "Relu", "Clamp", "Tanh"]),
    ("ADD_N", &["Add"]),
    ("ARG_MAX", &["TopK"]),
    ("ARG_MIN", &["TopK"]),
    ("AVERAGE_POOL_2D", &["AvgPool", "Relu", "Clamp", "Tanh"]),
    ("BATCH_MATMUL", &["MatMul"]),
    ("BROADCAST_TO", &["Broadcast"]),
    ("CAST", &["Convert"]),
    ("CEIL", &["Ceiling"]),
    ("CONCATENATION", &["Concat", "Relu", "Clamp", "Tanh"]),
    ("CONV_2D", &["Convolution", "Add", "Relu", "Clamp", "Tanh"]),
    ("COS", &["Cos"]),
    ("CUMSUM", &["CumSum"]),
    ("DEPTHWISE_CONV_2D", &["GroupConvolution", "Add", "Relu", "Clamp", "Tanh"]),
    ("DEPTH_TO_SPACE", &["DepthToSpace"]),
    ("DEQUANTIZE", &["Convert"]),
    ("DIV", &["Divide", "Relu", "Clamp", "Tanh"]),
    ("ELU", &["Elu"]),
    ("EQUAL", &["Equal"]),
    ("EXP", &["Exp"]),
    ("EXPAND_DIMS", &["Unsqueeze"]),
    ("FILL", &["Broadcast"]),
    ("FLOOR", &["Floor"]),
    ("FLOOR_DIV", &["Floor", "Divide"]),
    ("FLOOR_MOD", &["FloorMod"]),
    ("FULLY_CONNECTED", &["MatMul", "Add", "Relu", "Clamp", "Tanh"]),
    ("GATHER", &["Gather"]),
    ("GATHER_ND", &["GatherND"]),
    ("GELU", &["Gelu"]),
    ("GREATER", &["Greater"]),
    ("GREATER_EQUAL", &["GreaterEqual"]),
    ("HARD_SWISH", &["HSwish"]),
    ("L2_NORMALIZATION", &["NormalizeL2", "Relu", "Clamp", "Tanh"]),
    ("LEAKY_RELU", &["PRelu"]),
    ("LESS", &["Less"]),
    ("LESS_EQUAL", &["LessEqual"]),
    ("LOG", &["Log"]),
    ("LOGICAL_AND", &["LogicalAnd"]),
    ("LOGICAL_NOT", &["LogicalNot"]),
    ("LOGICAL_OR", &["LogicalOr"]),
    ("LOGISTIC", &["Sigmoid"]),
    ("LOG_SOFTMAX", &["LogSoftmax"]),
    ("MAXIMUM", &["Maximum"]),
    ("MAX_POOL_2D", &["MaxPool", "Relu", "Clamp", "Tanh"]),
    ("MEAN", &["ReduceMean"]),
    ("MINIMUM", &["Minimum"]),
    ("MIRROR_PAD", &["Pad"]),
    ("MUL", &["Multiply", "Relu", "Clamp", "Tanh"]),
    ("NEG", &["Negative"]),
    ("NOT_EQUAL", &["NotEqual"]),
    ("ONE_HOT", &["OneHot"]),
    ("PACK", &["Concat"]),
    ("PAD", &["Pad"]),
    ("PADV2", &["Pad"]),
    ("POW", &["Power"]),
    ("PRELU", &["PRelu"]),
    ("QUANTIZE", &["FakeQuantize", "Convert"]),
    ("RANGE", &["Range"]),
    ("RANK", &["ShapeOf"]),
    ("REDUCE_ALL", &["ReduceLogicalAnd"]),
    ("REDUCE_ANY", &["ReduceLogicalOr"]),
    ("REDUCE_MAX", &["ReduceMax"]),
    ("REDUCE_MIN", &["ReduceMin"]),
    ("REDUCE_PROD", &["ReduceProd"]),
    ("RELU", &["Relu"]),
    ("RELU6", &["Clamp"]),
    ("RESHAPE", &["Reshape"]),
    ("RESIZE_BILINEAR", &["Interpolate"]),
    ("RESIZE_NEAREST_NEIGHBOR", &["Interpolate"]),
    ("REVERSE_SEQUENCE", &["ReverseSequence"]),
    ("ROUND", &["Round"]),
    ("RSQRT", &["Sqrt", "Divide", "Power"]),
    ("SELECT_V2", &["Select"]),
    ("SHAPE", &["ShapeOf"]),
    ("SIGN", &["Sign"]),
    ("SIN", &["Sin"]),
    ("SLICE", &["Slice", "Add", "Broadcast", "Equal", "Less", "Select", "Subtract"]),
    ("SOFTMAX", &["Softmax", "Multiply"]),
    ("SPACE_TO_DEPTH", &["SpaceToDepth"]),
    ("SPLIT", &["Split"]),
    ("SPLIT_V", &["VariadicSplit"]),
    ("SQRT", &["Sqrt", "Power"]),
    ("SQUARE", &["Multiply", "Power"]),
    ("SQUARED_DIFFERENCE", &["SquaredDifference"]),
    ("SQUEEZE", &["Squeeze"]),
    ("STRIDED_SLICE", &["StridedSlice"]),
    ("SUB", &["Subtract", "Relu", "Clamp", "Tanh"]),
    ("SUM", &["ReduceSum"]),
    ("TANH", &["Tanh"]),
    ("TILE", &["Tile"]),
    ("TOPK_V2", &["TopK"]),
    ("TRANSPOSE", &["Transpose"]),
    ("UNPACK", &["Split"]),
    ("WHERE", &["NonZero"]),
    ("ZEROS_LIKE", &["Broadcast", "Concat"]),
];

/// What the frontend makes of an operator of TensorFlow Lite's.
pub(super) fn operators(tflite: &str) -> Option<&'static [&'static str]> {
    let found = TABLE.binary_search_by(|(name, _)| (*name).cmp(tflite));
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
