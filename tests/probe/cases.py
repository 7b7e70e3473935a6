"""One honest layer for each operator of OpenVINO's opsets; `probe.py` makes hostile ones of them.

`op(type, opsets, attributes, inputs, outputs)`: an input is an array, and a
constant of the model where it is wrapped in `C`.
"""

import numpy as np

OPS = []


class C:
    """An input that is a constant of the model."""

    def __init__(self, values, dtype=np.int64):
        self.array = np.asarray(values, dtype=dtype)


def F(*shape):
    """Floats between 0 and 1, each another one."""
    count = int(np.prod(shape, dtype=np.int64))
    return ((np.arange(count) % 97 + 1) / 98).astype(np.float32).reshape(shape)


def I(values, dtype=np.int32):
    return np.asarray(values, dtype=dtype)


def L(values):
    return I(values, np.int64)


def B(values):
    return np.asarray(values, dtype=bool)


def op(kind, opsets, attributes, inputs, outputs=1):
    for opset in opsets if isinstance(opsets, list) else [opsets]:
        OPS.append((kind, opset, attributes, inputs, outputs))


for kind in ("Abs Acos Asin Atan Ceiling Cos Cosh Erf Exp Floor Log Negative Relu Sigmoid Sign Sin Sinh Sqrt "
             "Tan Tanh").split():
    op(kind, 1, {}, [F(2, 3)])
for kind, opset in dict(Acosh=4, Asinh=4, Atanh=4, HSigmoid=5, HSwish=4, Mish=4, SoftPlus=4, SoftSign=9, IsFinite=10,
                        IsInf=10, IsNaN=10, ErfInv=17, Identity=16).items():
    op(kind, opset, {}, [F(2, 3)])
op("Inverse", 14, dict(adjoint="false"), [F(2, 3, 3)])
op("Gelu", 2, {}, [F(2, 3)])
op("Gelu", 7, dict(approximation_mode="TANH"), [F(2, 3)])
op("Round", 5, dict(mode="half_to_even"), [F(2, 3)])
op("LogicalNot", 1, {}, [B([1, 0, 1])])
op("BitwiseNot", 13, {}, [I([1, 5, 9])])
op("Elu", 1, dict(alpha=1.0), [F(2, 3)])
op("Clamp", 1, dict(min=0.2, max=0.7), [F(2, 3)])
op("Selu", 1, {}, [F(2, 3), F(1), F(1)])
op("PRelu", 1, {}, [F(2, 3), F(3)])
op("HardSigmoid", 1, {}, [F(2, 3), C(0.2, np.float32), C(0.5, np.float32)])
op("Swish", 4, {}, [F(2, 3), C(1.5, np.float32)])
op("Softmax", 1, dict(axis=1), [F(2, 3)])
op("Softmax", 8, dict(axis=-1), [F(2, 3)])
op("LogSoftmax", 5, dict(axis=1), [F(2, 3)])
op("Convert", 1, dict(destination_type="i32"), [F(2, 3)])
op("ConvertLike", 1, {}, [F(2, 3), I([1])])
op("ConvertPromoteTypes", 14, dict(promote_unsafe="true", pytorch_scalar_promotion="false",
                                   u64_integer_promotion_target="f32"), [F(2, 3), I([1])], 2)
op("FakeConvert", 13, dict(destination_type="f8e4m3"), [F(2, 3), F(1), F(1)])
op("FakeQuantize", 1, dict(levels=16, auto_broadcast="numpy"), [F(2, 3), F(1), F(1), F(1), F(1)])

for kind in "Add Divide FloorMod Maximum Minimum Mod Multiply Power Subtract SquaredDifference".split():
    op(kind, 1, dict(auto_broadcast="numpy"), [F(2, 3), F(3)])
for kind in "Equal Greater GreaterEqual Less LessEqual NotEqual".split():
    op(kind, 1, dict(auto_broadcast="numpy"), [F(2, 3), F(3)])
for kind in "Divide FloorMod Mod Power".split():
    op(kind, 1, dict(auto_broadcast="numpy", m_pythondiv="true"), [I([[7, 8, 9]]), I([1, 2, 3])])
for kind in "LogicalAnd LogicalOr LogicalXor Xor".split():
    op(kind, 1, dict(auto_broadcast="numpy"), [B([1, 0, 1]), B([0, 0, 1])])
for kind in "BitwiseAnd BitwiseOr BitwiseXor".split():
    op(kind, 13, dict(auto_broadcast="numpy"), [I([1, 5, 9]), I([1, 2, 3])])
for kind in "BitwiseLeftShift BitwiseRightShift".split():
    op(kind, 15, dict(auto_broadcast="numpy"), [I([1, 5, 9]), I([1, 2, 3])])
op("Select", 1, dict(auto_broadcast="numpy"), [B([1, 0, 1]), F(3), F(3)])

for kind in "ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum".split():
    op(kind, 1, dict(keep_dims="true"), [F(2, 3, 4), C([1])])
for kind in "ReduceLogicalAnd ReduceLogicalOr".split():
    op(kind, 1, dict(keep_dims="false"), [B([[1, 0, 1]]), C([1])])
for kind in "ReduceL1 ReduceL2".split():
    op(kind, 4, dict(keep_dims="false"), [F(2, 3, 4), C([1])])
op("CumSum", 3, dict(exclusive="false", reverse="true"), [F(2, 3), I(1)])
op("TopK", [1, 3, 11], dict(axis=1, mode="max", sort="value", index_element_type="i32", stable="false"), [F(2, 5), C(2)], 2)
op("MVN", 2, dict(across_channels="true", normalize_variance="true", eps=1e-9), [F(1, 2, 3, 4)])
op("MVN", 6, dict(normalize_variance="true", eps=1e-9, eps_mode="inside_sqrt"), [F(1, 2, 3, 4), C([2, 3])])
op("NormalizeL2", 1, dict(eps=1e-9, eps_mode="add"), [F(1, 2, 3, 4), C([1])])
op("LRN", 1, dict(alpha=1.0, beta=0.5, bias=1.0, size=3), [F(1, 4, 3, 4), C([1])])
op("GRN", 1, dict(bias=0.1), [F(1, 4, 3, 4)])
op("BatchNormInference", 1, dict(epsilon=1e-3), [F(2), F(2), F(1, 2, 3, 4), F(2), F(2)])
op("BatchNormInference", 5, dict(epsilon=1e-3), [F(1, 2, 3, 4), F(2), F(2), F(2), F(2)])
op("GroupNormalization", 12, dict(num_groups=2, epsilon=1e-3), [F(1, 4, 3, 4), F(4), F(4)])

op("MatMul", 1, dict(transpose_a="false", transpose_b="false"), [F(2, 3), F(3, 4)])
op("MatMul", 1, dict(transpose_a="false", transpose_b="true"), [F(2, 8), C(F(6, 8), np.float32)])
op("MatMul", 1, dict(transpose_a="true", transpose_b="false"), [F(3, 8, 2), C(F(8, 6), np.float32)])
op("MatMul", 1, dict(transpose_a="false", transpose_b="false"), [F(2, 8, 3), F(3)])
op("Einsum", 7, dict(equation="ab,bc->ac"), [F(2, 3), F(3, 4)])
op("Einsum", 7, dict(equation="ab,bc->ac"), [F(2, 8), C(F(8, 6), np.float32)])
op("GroupedMatMul", 17, {}, [F(4, 3), F(2, 5, 3), I([2, 4])])
conv = dict(strides="1,1", dilations="1,1", pads_begin="0,0", pads_end="0,0", auto_pad="explicit")
op("Convolution", 1, conv, [F(1, 2, 6, 6), C(F(3, 2, 3, 3), np.float32)])
op("GroupConvolution", 1, conv, [F(1, 4, 6, 6), C(F(2, 3, 2, 3, 3), np.float32)])
back = dict(conv, output_padding="0,0")
op("ConvolutionBackpropData", 1, back, [F(1, 2, 6, 6), C(F(2, 3, 3, 3), np.float32)])
op("ConvolutionBackpropData", 1, back, [F(1, 2, 6, 6), C(F(2, 3, 3, 3), np.float32), C([8, 8])])
op("GroupConvolutionBackpropData", 1, back, [F(1, 4, 6, 6), C(F(2, 2, 3, 3, 3), np.float32)])
op("BinaryConvolution", 1, dict(conv, mode="xnor-popcount", pad_value=0.0), [F(1, 2, 6, 6), C(F(3, 2, 3, 3), np.float32)])
deform = dict(conv, group=1, deformable_group=1)
op("DeformableConvolution", 1, deform, [F(1, 2, 6, 6), F(1, 18, 4, 4), F(3, 2, 3, 3)])
op("DeformableConvolution", 8, dict(deform, bilinear_interpolation_pad="true"),
   [F(1, 2, 6, 6), F(1, 18, 4, 4), F(3, 2, 3, 3), F(1, 9, 4, 4)])
pool = dict(kernel="2,2", strides="2,2", pads_begin="0,0", pads_end="0,0", rounding_type="floor", auto_pad="explicit")
op("AvgPool", [1, 14, 16], {**pool, "exclude-pad": "true", "dilations": "1,1"}, [F(1, 2, 6, 6)])
op("MaxPool", 1, pool, [F(1, 2, 6, 6)])
op("MaxPool", [8, 14], dict(pool, dilations="1,1", index_element_type="i32", axis=0), [F(1, 2, 6, 6)], 2)
op("AdaptiveAvgPool", 8, {}, [F(1, 2, 6, 6), C([3, 2])])
op("AdaptiveMaxPool", 8, dict(index_element_type="i32"), [F(1, 2, 6, 6), C([3, 2])], 2)
op("ExtractImagePatches", 3, dict(sizes="2,2", strides="1,1", rates="1,1", auto_pad="valid"), [F(1, 2, 6, 6)])
op("Col2Im", 15, dict(strides="1,1", dilations="1,1", pads_begin="0,0", pads_end="0,0"),
   [F(1, 12, 9), L([4, 4]), L([2, 2])])

op("Broadcast", 1, dict(mode="numpy"), [F(1, 3), L([2, 3])])
op("Broadcast", 3, dict(mode="bidirectional"), [F(1, 3), L([2, 1])])
op("Broadcast", 3, dict(mode="explicit"), [F(3), L([2, 3]), C([1])])
op("Concat", 1, dict(axis=1), [F(2, 3), F(2, 1)])
op("DepthToSpace", 1, dict(mode="blocks_first", block_size=2), [F(1, 4, 2, 3)])
op("SpaceToDepth", 1, dict(mode="blocks_first", block_size=2), [F(1, 1, 4, 6)])
op("BatchToSpace", 2, {}, [F(4, 1, 2, 2), L([1, 1, 2, 2]), L([0, 0, 0, 0]), L([0, 0, 0, 0])])
op("SpaceToBatch", 2, {}, [F(1, 1, 4, 4), L([1, 1, 2, 2]), L([0, 0, 0, 0]), L([0, 0, 0, 0])])
op("Pad", [1, 12], dict(pad_mode="constant"), [F(2, 3), L([0, 1]), L([1, 1]), C(0.5, np.float32)])
for mode in "edge reflect symmetric".split():
    op("Pad", 12, dict(pad_mode=mode), [F(2, 3), L([0, 1]), L([1, 1])])
op("Reshape", 1, dict(special_zero="true"), [F(2, 3), L([3, -1])])
op("Reverse", 1, dict(mode="index"), [F(2, 3), C([1])])
op("ReverseSequence", 1, dict(batch_axis=0, seq_axis=1), [F(2, 5), I([2, 5])])
op("Roll", 7, {}, [F(2, 3), I([1]), I([1])])
op("ShapeOf", 1, {}, [F(2, 3)])
op("ShapeOf", 3, dict(output_type="i32"), [F(2, 3)])
op("ShuffleChannels", 3, dict(axis=1, group=2), [F(1, 4, 2, 3)])
op("Slice", 8, {}, [F(4, 5), L([0, 1]), L([4, 5]), L([1, 2])])
op("Slice", 8, {}, [F(4, 5), L([1]), L([5]), L([2]), L([1])])
op("Slice", 8, {}, [F(4, 5), L([1]), L([5]), C([2]), C([1])])
op("Slice", 8, {}, [F(4, 5), L([3]), L([-9]), C([-1]), C([1])])
op("SliceScatter", 15, {}, [F(4, 5), F(4, 2), L([1]), L([5]), L([2]), L([1])])
op("SliceScatter", 15, {}, [F(4, 5), F(4, 2), L([1]), L([5]), C([2]), C([1])])
masks = dict(begin_mask="0,0", end_mask="0,0", new_axis_mask="0,0", shrink_axis_mask="0,0", ellipsis_mask="0,0")
op("StridedSlice", 1, masks, [F(4, 5), L([0, 1]), L([4, 5]), L([1, 2])])
op("StridedSlice", 1, masks, [F(4, 5), L([0, 1]), L([4, 5]), C([1, 2])])
op("StridedSlice", 1, dict(masks, shrink_axis_mask="1,0"), [F(4, 5), L([0, 1]), L([4, 5]), C([1, 2])])
op("StridedSlice", 1, dict(masks, ellipsis_mask="1,0", new_axis_mask="0,1"), [F(4, 5), L([0, 1]), L([4, 5]), C([1, 2])])
op("StridedSlice", 1, masks, [F(4, 5), L([0, 1]), L([4, 5])])
op("Split", 1, dict(num_splits=2), [F(2, 4), C(1)], 2)
op("VariadicSplit", 1, {}, [F(2, 4), C(1), C([1, -1])], 2)
op("VariadicSplit", 1, {}, [F(2, 4), L(1), L([1, 3])], 2)
op("Squeeze", [1, 15], {}, [F(1, 3), C([0])])
op("Unsqueeze", 1, {}, [F(2, 3), C([0])])
op("Tile", 1, {}, [F(2, 3), L([2, 1])])
op("Transpose", 1, {}, [F(2, 3, 4), C([2, 0, 1])])
op("Transpose", 1, {}, [F(2, 3, 4), L([2, 0, 1])])
op("OneHot", 1, dict(axis=-1), [I([0, 2, 1]), C(3), C(1.0, np.float32), C(0.0, np.float32)])
op("OneHot", 1, dict(axis=0), [I([0, 2, 1]), L(3), F(), F()])
op("OneHot", 16, dict(axis=-1, negative_indices_mode="normalize"), [I([0, 2, 1]), C(3), C(1.0, np.float32), C(0.0, np.float32)])
op("Eye", 9, dict(output_type="f32"), [I(3), I(4), I(1)])
op("Eye", 9, dict(output_type="f32"), [I(3), I(4), I(1), I([2])])
op("Range", 1, {}, [L(0), L(5), L(2)])
op("Range", 4, dict(output_type="i32"), [L(0), L(5), L(2)])
op("Range", 4, dict(output_type="f32"), [F(), np.float32(5), np.float32(1)])
op("Range", 4, dict(output_type="i64"), [L(0), L(5), C(1)])
op("NonZero", 3, dict(output_type="i32"), [F(2, 3)])
op("Unique", 10, dict(sorted="true", index_element_type="i32", count_element_type="i32"), [I([1, 2, 1, 3])], 4)
op("Unique", 10, dict(sorted="true", index_element_type="i32", count_element_type="i32"), [F(3, 2), C(0)], 4)
op("Bucketize", 3, dict(output_type="i32", with_right_bound="true"), [F(2, 3), F(4)])
op("SearchSorted", 15, dict(right_mode="false", output_type="i32"), [F(2, 5), F(2, 3)])
op("RandomUniform", 8, dict(output_type="f32", global_seed=7, op_seed=9, alignment="tensorflow"), [L([2, 3]), F(1), np.float32([2])])
op("Multinomial", 13, dict(convert_type="i32", with_replacement="true", log_probs="false", global_seed=7, op_seed=9), [F(2, 3), I([4])])
op("Multinomial", 13, dict(convert_type="i32", with_replacement="false", log_probs="true", global_seed=7, op_seed=9), [F(2, 3), I([2])])

op("Gather", 1, {}, [F(4, 3), I([0, 2]), C(0)])
op("Gather", [7, 8], dict(batch_dims=0), [F(4, 3), I([0, 2]), C(0)])
op("Gather", 8, dict(batch_dims=0), [F(4, 3), I([0, 2]), L(0)])
op("Gather", [1, 7, 8], dict(batch_dims=0), [I([7, 8, 9, 10]), I([0, 2]), C(0)])
op("Gather", 8, dict(batch_dims=0), [L([7, 8, 9, 10]), L([0, 2]), C(0)])
op("Gather", 8, dict(batch_dims=0), [F(40), I([0, 2]), C(0)])
op("Gather", 8, dict(batch_dims=0), [F(5, 6, 7), I([[0, 2], [1, 1]]), C(1)])
op("Gather", 8, dict(batch_dims=1), [F(2, 6, 7), I([[0, 2], [1, 1]]), C(1)])
op("Gather", 8, dict(batch_dims=1), [F(2, 6, 1), I([[0, 2], [1, 1]]), C(1)])
op("Gather", 8, dict(batch_dims=0), [I(np.arange(60).reshape(20, 3), np.uint8), I([0, 2]), C(0)])
op("Gather", 8, dict(batch_dims=0), [C(F(40, 3), np.float32), I([0, 2]), C(0)])
op("GatherElements", 6, dict(axis=0), [F(4, 3), I([[0, 1, 2]])])
op("GatherElements", 6, dict(axis=1), [I(np.arange(12).reshape(4, 3)), I([[0], [1], [2], [0]])])
op("GatherND", [5, 8], dict(batch_dims=0), [F(4, 3), I([[0, 1], [3, 2]])])
op("GatherND", [5, 8], dict(batch_dims=1), [F(2, 4, 3), I([[0], [3]])])
op("GatherND", 8, dict(batch_dims=0), [L(np.arange(12).reshape(4, 3)), L([[0], [3]])])
op("GatherTree", 1, {}, [I(np.arange(6).reshape(3, 1, 2)), I(np.zeros((3, 1, 2))), I([3]), I(9)])
op("GatherTree", 1, {}, [F(3, 1, 2), np.zeros((3, 1, 2), np.float32), np.float32([3]), np.float32(9)])
op("ScatterElementsUpdate", [3], {}, [F(4, 3), I([[0, 1, 2]]), F(1, 3), C(0)])
for reduction in "none sum prod min max mean".split():
    op("ScatterElementsUpdate", 12, dict(reduction=reduction, use_init_val="false"), [F(4, 3), I([[0, 1, 2]]), F(1, 3), C(0)])
op("ScatterElementsUpdate", 12, dict(reduction="none", use_init_val="true"), [F(4, 3), I([[0, 1, 2]]), F(1, 3), L(0)])
op("ScatterNDUpdate", 4, {}, [F(4, 3), I([[0], [3]]), F(2, 3)])
for reduction in "none sum sub prod min max".split():
    op("ScatterNDUpdate", 15, dict(reduction=reduction), [F(4, 3), I([[0, 1], [3, 2]]), F(2)])
op("ScatterUpdate", 3, {}, [F(4, 3), I([0, 3]), F(2, 3), C(0)])
op("ScatterUpdate", 3, {}, [I([1, 2, 3, 4]), I([0, 3]), I([9, 9]), C(0)])
op("ScatterUpdate", 3, {}, [F(4, 3), I([0, 3]), F(2, 3), L(0)])
op("SegmentMax", 16, dict(fill_mode="ZERO"), [F(4, 3), I([0, 0, 1, 2])])
op("SegmentMax", 16, dict(fill_mode="LOWEST"), [F(4, 3), I([0, 0, 1, 2]), I(4)])
op("SparseFillEmptyRows", 16, {}, [F(2), L([3, 4]), L([[0, 1], [2, 3]]), F()], 3)
op("EmbeddingBagOffsetsSum", 3, {}, [F(5, 2), I([0, 2, 3, 4]), I([0, 0, 2]), I(1), F(4)])
op("EmbeddingBagOffsets", 15, dict(reduction="mean"), [F(5, 2), I([0, 2, 3, 4]), I([0, 0, 2]), I(-1)])
op("EmbeddingBagPackedSum", 3, {}, [F(5, 2), I([[0, 2], [1, 2]]), F(2, 2)])
op("EmbeddingBagPacked", 15, dict(reduction="mean"), [F(5, 2), I([[0, 2], [1, 2]])])
op("EmbeddingSegmentsSum", 3, {}, [F(5, 2), I([0, 2, 3, 4]), I([0, 0, 2, 2]), I(3), I(0), F(4)])

op("DFT", 7, {}, [F(2, 4, 2), L([0, 1])])
op("IDFT", 7, {}, [F(2, 4, 2), L([0, 1])])
op("RDFT", 9, {}, [F(2, 4), L([0, 1])])
op("IRDFT", 9, {}, [F(2, 4, 2), L([0, 1])])
op("DFT", 7, {}, [F(2, 4, 2), C([0, 1])])
op("IDFT", 7, {}, [F(2, 4, 2), C([0, 1])])
op("RDFT", 9, {}, [F(2, 4), C([0, 1])])
op("IRDFT", 9, {}, [F(2, 4, 2), C([0, 1])])
for kind, data in (("DFT", F(2, 4, 2)), ("IDFT", F(2, 4, 2)), ("RDFT", F(2, 4)), ("IRDFT", F(2, 4, 2))):
    op(kind, 9 if "R" in kind else 7, {}, [data, C([1]), L([4])])
op("STFT", 15, dict(transpose_frames="true"), [F(1, 16), F(4), L(4), L(2)])
op("ISTFT", 16, dict(center="false", normalized="false"), [F(1, 3, 7, 2), F(4), L(4), L(2)])
op("ISTFT", 16, dict(center="true", normalized="true"), [F(1, 3, 7, 2), F(4), L(4), L(2), L(10)])

near = dict(mode="nearest", shape_calculation_mode="sizes", coordinate_transformation_mode="half_pixel",
            nearest_mode="floor", antialias="false", pads_begin="0", pads_end="0", cube_coeff=-0.75)
op("Interpolate", 1, dict(mode="linear", axes="2,3", align_corners="false", antialias="false", pads_begin="0", pads_end="0"),
   [F(1, 2, 3, 4), L([6, 8])])
for mode in "nearest linear linear_onnx cubic".split():
    op("Interpolate", 4, dict(near, mode=mode), [F(1, 2, 3, 4), L([6, 8]), np.float32([2, 2]), C([2, 3])])
op("Interpolate", 4, dict(near, shape_calculation_mode="scales"), [F(1, 2, 3, 4), L([6, 8]), np.float32([2, 2]), C([2, 3])])
for mode in "nearest bilinear_pillow bicubic_pillow".split():
    op("Interpolate", 11, dict(near, mode=mode), [F(1, 2, 3, 4), L([6, 8]), C([2, 3])])
for mode in "bilinear bicubic nearest".split():
    for padding in "zeros border reflection".split():
        op("GridSample", 9, dict(align_corners="false", mode=mode, padding_mode=padding), [F(1, 2, 3, 4), F(1, 2, 2, 2)])

op("LSTMCell", [1, 4], dict(hidden_size=2, weights_format="fico", input_forget="false", activations="sigmoid,tanh,tanh", clip=0.0),
   [F(1, 3), F(1, 2), F(1, 2), C(F(8, 3), np.float32), C(F(8, 2), np.float32), C(F(8), np.float32)], 2)
op("LSTMSequence", 5, dict(hidden_size=2, direction="forward", activations="sigmoid,tanh,tanh", clip=0.0),
   [F(1, 4, 3), F(1, 1, 2), F(1, 1, 2), I([4]), C(F(1, 8, 3), np.float32), C(F(1, 8, 2), np.float32), C(F(1, 8), np.float32)], 3)
op("LSTMSequence", 5, dict(hidden_size=2, direction="bidirectional", activations="sigmoid,tanh,tanh", clip=0.0),
   [F(2, 4, 3), F(2, 2, 2), F(2, 2, 2), I([4, 2]), C(F(2, 8, 3), np.float32), C(F(2, 8, 2), np.float32), C(F(2, 8), np.float32)], 3)
op("GRUCell", 3, dict(hidden_size=2, activations="sigmoid,tanh", linear_before_reset="false", clip=0.0),
   [F(1, 3), F(1, 2), C(F(6, 3), np.float32), C(F(6, 2), np.float32), C(F(6), np.float32)])
op("GRUSequence", 5, dict(hidden_size=2, direction="reverse", activations="sigmoid,tanh", linear_before_reset="false", clip=0.0),
   [F(1, 4, 3), F(1, 1, 2), I([4]), C(F(1, 6, 3), np.float32), C(F(1, 6, 2), np.float32), C(F(1, 6), np.float32)], 2)
op("RNNCell", 1, dict(hidden_size=2, activations="tanh", clip=0.0),
   [F(1, 3), F(1, 2), C(F(2, 3), np.float32), C(F(2, 2), np.float32), C(F(2), np.float32)])
op("RNNSequence", 5, dict(hidden_size=2, direction="forward", activations="tanh", clip=0.0),
   [F(1, 4, 3), F(1, 1, 2), I([4]), C(F(1, 2, 3), np.float32), C(F(1, 2, 2), np.float32), C(F(1, 2), np.float32)], 2)
op("ScaledDotProductAttention", 13, dict(causal="true"), [F(1, 2, 4, 8), F(1, 2, 4, 8), F(1, 2, 4, 8)])
op("ScaledDotProductAttention", 13, dict(causal="false"), [F(1, 2, 4, 8), F(1, 2, 4, 8), F(1, 2, 4, 8), F(4, 4), F()])

op("CTCGreedyDecoder", 1, dict(ctc_merge_repeated="true"), [F(3, 2, 4), np.ones((3, 2), np.float32)])
op("CTCGreedyDecoderSeqLen", 6, dict(merge_repeated="true", classes_index_type="i32", sequence_length_type="i32"),
   [F(2, 3, 4), I([3, 2]), I(3)], 2)
op("CTCLoss", 4, dict(preprocess_collapse_repeated="false", ctc_merge_repeated="true", unique="false"),
   [F(2, 4, 5), I([4, 4]), I([[0, 1, 2, 3], [1, 2, 0, 0]]), I([3, 2]), I(4)])

boxes = np.float32([[[0, 0, 1, 1], [0, .1, 1, 1.1], [0, 2, 1, 3]]])
nms = [boxes, F(1, 2, 3), I(3), np.float32(.5), np.float32(.0)]
op("NonMaxSuppression", 1, dict(box_encoding="corner", sort_result_descending="true"), nms)
op("NonMaxSuppression", [3, 4], dict(box_encoding="corner", sort_result_descending="true", output_type="i32"), nms)
op("NonMaxSuppression", [5, 9], dict(box_encoding="center", sort_result_descending="true", output_type="i32"),
   nms + [np.float32(.1)], 3)
op("NMSRotated", 13, dict(sort_result_descending="true", output_type="i32", clockwise="true"),
   [np.float32([[[1, 1, 2, 2, .1], [1, 1, 2, 2, .2], [9, 9, 2, 2, 0]]]), F(1, 2, 3), I(3), np.float32(.5), np.float32(.0)], 3)
many = dict(sort_result_type="score", sort_result_across_batch="false", output_type="i32", score_threshold=0.0, nms_top_k=3,
            keep_top_k=3, background_class=-1, normalized="true")
op("MatrixNms", 8, dict(many, decay_function="linear", gaussian_sigma=2.0, post_threshold=0.0), [boxes, F(1, 2, 3)], 3)
op("MulticlassNms", [8, 9], dict(many, iou_threshold=0.5, nms_eta=1.0), [boxes, F(1, 2, 3)], 3)
op("MulticlassNms", 9, dict(many, iou_threshold=0.5, nms_eta=1.0), [boxes.repeat(2, 0), F(2, 3), I([2])], 3)
detect = dict(num_classes=2, background_label_id=0, top_k=10, variance_encoded_in_target="true", keep_top_k="10",
              code_type="caffe.PriorBoxParameter.CENTER_SIZE", share_location="true", nms_threshold=0.5,
              confidence_threshold=0.0, clip_after_nms="false", clip_before_nms="false", decrease_label_id="false",
              normalized="true", input_height=1, input_width=1, objectness_score=0.0)
op("DetectionOutput", [1, 8], detect, [F(1, 12), F(1, 6), F(1, 1, 12)])
op("DetectionOutput", [1, 8], dict(detect, variance_encoded_in_target="false"), [F(1, 12), F(1, 6), F(1, 2, 12)])
op("DetectionOutput", [1, 8], dict(detect, share_location="false", decrease_label_id="true"), [F(1, 24), F(1, 6), F(1, 1, 12)])
op("DetectionOutput", [1, 8], detect, [F(1, 12), F(1, 6), F(1, 1, 12), F(1, 6), F(1, 12)])
proposal = dict(base_size=16, pre_nms_topn=20, post_nms_topn=5, nms_thresh=0.7, feat_stride=16, min_size=1, ratio="0.5,1",
                scale="2", clip_before_nms="true", clip_after_nms="false", normalize="false", box_size_scale=1.0,
                box_coordinate_scale=1.0, framework="")
op("Proposal", 1, proposal, [F(1, 4, 3, 3), F(1, 8, 3, 3), np.float32([48, 48, 1])])
op("Proposal", 4, proposal, [F(1, 4, 3, 3), F(1, 8, 3, 3), np.float32([48, 48, 1])], 2)
op("GenerateProposals", 9, dict(min_size=1.0, nms_threshold=0.7, pre_nms_count=20, post_nms_count=5, normalized="true",
                                nms_eta=1.0, roi_num_type="i32"),
   [np.float32([[48, 48, 1, 1]]), F(3, 3, 2, 4), F(1, 8, 3, 3), F(1, 2, 3, 3)], 3)
op("PriorBox", [1, 8], dict(min_size="4", max_size="8", aspect_ratio="2", density="", fixed_ratio="", fixed_size="", clip="false",
                            flip="true", step=4.0, offset=0.5, variance="0.1,0.1,0.2,0.2", scale_all_sizes="true",
                            min_max_aspect_ratios_order="true"), [L([3, 3]), L([12, 12])])
op("PriorBox", [1, 8], dict(min_size="", max_size="", aspect_ratio="", density="2", fixed_ratio="1", fixed_size="4", clip="true",
                            flip="false", step=4.0, offset=0.5, variance="0.1", scale_all_sizes="false"), [L([3, 3]), L([12, 12])])
op("PriorBoxClustered", 1, dict(width="2,4", height="2,4", clip="false", step_h=4.0, step_w=4.0, step=0.0, offset=0.5,
                                variance="0.1,0.1,0.2,0.2"), [L([3, 3]), L([12, 12])])
op("PSROIPooling", 1, dict(output_dim=2, group_size=2, spatial_scale=1.0, mode="average", spatial_bins_x=1, spatial_bins_y=1),
   [F(1, 8, 6, 6), np.float32([[0, 0, 0, 4, 4]])])
op("PSROIPooling", 1, dict(output_dim=2, group_size=1, spatial_scale=1.0, mode="bilinear", spatial_bins_x=2, spatial_bins_y=2),
   [F(1, 8, 6, 6), np.float32([[0, 0, 0, 1, 1]])])
psroi = dict(output_dim=2, group_size=2, spatial_scale=1.0, mode="bilinear_deformable", spatial_bins_x=2, spatial_bins_y=2,
             trans_std=0.1, part_size=2)
op("DeformablePSROIPooling", 1, psroi, [F(1, 8, 6, 6), np.float32([[0, 0, 0, 4, 4]])])
op("DeformablePSROIPooling", 1, psroi, [F(1, 8, 6, 6), np.float32([[0, 0, 0, 4, 4]]), F(1, 2, 2, 2)])
op("ROIPooling", 2, dict(pooled_h=2, pooled_w=2, output_size="2,2", spatial_scale=1.0, method="max"), [F(1, 2, 6, 6), np.float32([[0, 0, 0, 4, 4]])])
op("ROIPooling", 2, dict(pooled_h=2, pooled_w=2, output_size="2,2", spatial_scale=1.0, method="bilinear"), [F(1, 2, 6, 6), np.float32([[0, 0, 0, 1, 1]])])
align = dict(pooled_h=2, pooled_w=2, sampling_ratio=2, spatial_scale=1.0)
op("ROIAlign", 3, dict(align, mode="avg"), [F(1, 2, 6, 6), np.float32([[0, 0, 4, 4]]), I([0])])
op("ROIAlign", 9, dict(align, mode="max", aligned_mode="half_pixel"), [F(1, 2, 6, 6), np.float32([[0, 0, 4, 4]]), I([0])])
op("ROIAlignRotated", 15, dict(align, clockwise_mode="true"), [F(1, 2, 6, 6), np.float32([[2, 2, 4, 4, .1]]), I([0])])
op("RegionYolo", 1, dict(coords=4, classes=1, num=1, do_softmax="true", axis=1, end_axis=3, mask="0", anchors="1,2"), [F(1, 6, 2, 2)])
op("RegionYolo", 1, dict(coords=4, classes=1, num=3, do_softmax="false", axis=1, end_axis=3, mask="0,1,2", anchors="1,2"), [F(1, 18, 2, 2)])
op("ReorgYolo", 2, dict(stride=2), [F(1, 4, 4, 4)])
op("ExperimentalDetectronDetectionOutput", 6,
   dict(score_threshold=0.05, nms_threshold=0.5, num_classes=2, post_nms_count=5, max_detections_per_image=5,
        class_agnostic_box_regression="false", max_delta_log_wh=4.1, deltas_weights="10,10,5,5"),
   [F(3, 4), F(3, 8), F(3, 2), np.float32([[48, 48, 1]])], 3)
op("ExperimentalDetectronGenerateProposalsSingleImage", 6, dict(min_size=0.0, nms_threshold=0.7, pre_nms_count=20, post_nms_count=5),
   [np.float32([48, 48, 1]), F(18, 4), F(8, 3, 3), F(2, 3, 3)], 2)
op("ExperimentalDetectronPriorGridGenerator", 6, dict(flatten="true", h=0, w=0, stride_x=0.0, stride_y=0.0),
   [F(2, 4), F(1, 2, 3, 3), F(1, 3, 12, 12)])
op("ExperimentalDetectronROIFeatureExtractor", 6, dict(output_size=2, sampling_ratio=2, pyramid_scales="4", aligned="false"),
   [np.float32([[0, 0, 8, 8]]), F(1, 2, 6, 6)], 2)
op("ExperimentalDetectronTopKROIs", 6, dict(max_rois=2), [F(3, 4), F(3)])
for kind in "NV12toBGR NV12toRGB".split():
    op(kind, 8, {}, [F(1, 6, 4, 1)])
    op(kind, 8, {}, [F(1, 4, 4, 1), F(1, 2, 2, 2)])
for kind in "I420toBGR I420toRGB".split():
    op(kind, 8, {}, [F(1, 6, 4, 1)])
    op(kind, 8, {}, [F(1, 4, 4, 1), F(1, 2, 2, 1), F(1, 2, 2, 1)])
for kind in "BGRtoNV12 RGBtoNV12".split():
    op(kind, 17, {}, [F(1, 4, 4, 3)])
op("StringTensorPack", 15, {}, [I([0, 2]), I([2, 4]), I([97, 98, 99, 100], np.uint8)])
op("StringTensorUnpack", 15, {}, [np.array(["ab", "cd"])], 3)
state = dict(variable_id="v", variable_type="f32", variable_shape="2,3")
op("ReadValue", 3, dict(variable_id="v"), [F(2, 3)])
op("ReadValue", 6, state, [F(2, 3)])
op("Assign", 3, dict(variable_id="v"), [F(2, 3)])
op("Assign", 6, state, [F(2, 3)])
