//! The operators that methods of a TorchScript archive may call. What is not
//! listed is refused by its name: what reads or writes files, starts work
//! beside its own (`fork`), shows memory that nobody has written (`empty`,
//! `resize_`), takes a view of memory by numbers (`as_strided`, `set_`), or
//! trusts numbers in its tensors (`embedding_bag`, `max_unpool2d`, `quantized::…`).
//!
//! What is listed checks shapes and indices itself, in libtorch 1.13 and later.

/// Of the namespace `aten`. A name with `_` behind it is also allowed as it is:
/// it writes its result to its first argument.
const ATEN: &[&str] = &[
    // Numbers, element by element.
    "abs abs_ acos add add_ addcdiv addcdiv_ addcmul addcmul_ asin atan atan2 ceil ceil_ clamp clamp_ clamp_max",
    "clamp_max_ clamp_min clamp_min_ clip clip_ cos cosh deg2rad div div_ divide erf erfc exp exp_ exp2 expm1 fix",
    "floor floor_ floor_divide floordiv fmax fmin fmod frac hypot lerp log log10 log1p log2 log_ logaddexp",
    "maximum minimum mul mul_ multiply nan_to_num neg neg_ negative pow pow_ rad2deg reciprocal reciprocal_ remainder",
    "round round_ rsqrt rsqrt_ rsub sign sin sinh sqrt sqrt_ square sub sub_ subtract tan tanh tanh_ true_divide",
    "trunc",
    // Activations.
    "celu elu elu_ gelu glu hardshrink hardsigmoid hardsigmoid_ hardswish hardswish_ hardtanh hardtanh_ leaky_relu",
    "leaky_relu_ log_sigmoid log_softmax logit logsigmoid mish mish_ prelu relu relu6 relu6_ relu_ selu selu_ sigmoid",
    "sigmoid_ silu silu_ softmax softplus softshrink threshold threshold_",
    // Matrices and layers.
    "addbmm addmm addmv baddbmm batch_norm bilinear bmm conv1d conv2d conv3d conv_transpose1d conv_transpose2d",
    "conv_transpose3d convolution _convolution cosine_similarity dot einsum embedding group_norm gru gru_cell",
    "instance_norm layer_norm linear lstm lstm_cell matmul mm mv norm outer scaled_dot_product_attention",
    "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d avg_pool1d avg_pool2d avg_pool3d max_pool1d",
    "max_pool2d max_pool3d",
    // Nothing in evaluation mode.
    "alpha_dropout dropout dropout_ feature_dropout",
    // Shapes.
    "broadcast_tensors broadcast_to cat channel_shuffle chunk concat contiguous diagonal expand expand_as flatten flip",
    "meshgrid movedim narrow numpy_T permute pixel_shuffle pixel_unshuffle repeat reshape reshape_as roll select slice",
    "split split_with_sizes squeeze stack swapaxes t tensor_split tile transpose tril triu unbind unflatten unfold",
    "unsqueeze view view_as",
    "constant_pad_nd pad reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d replication_pad3d",
    // With a size or with factors, which `factors.h` sees to.
    "upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_trilinear3d _upsample_bicubic2d_aa",
    "upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_bilinear2d_aa",
    "_upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d",
    // Elements by index, each of which is checked.
    "gather index index_put index_put_ index_select masked_fill masked_fill_ scatter scatter_ where",
    // Sums and order.
    "all amax amin any argmax argmin argsort count_nonzero cumprod cumsum linalg_vector_norm logsumexp max mean min",
    "nonzero prod sort std std_mean sum topk var var_mean",
    // New tensors, all of whose elements are written.
    "arange clone copy_ detach eye fill_ full full_like linspace new_full new_ones new_zeros one_hot ones ones_like",
    "scalar_tensor tensor to type_as zero_ zeros zeros_like",
    // Truth.
    "__and__ __contains__ __is__ __isnot__ __not__ __or__ __xor__ bitwise_and bitwise_not bitwise_or bitwise_xor eq ge",
    "gt is_floating_point is_grad_enabled isfinite isinf isnan le logical_and logical_not logical_or logical_xor lt ne",
    // What is known of tensors, and numbers of the interpreter's.
    "Bool BoolImplicit Float FloatImplicit Int IntImplicit ScalarImplicit __derive_index __range_length cpu device dim",
    "is_nonzero item len numel set_grad_enabled size",
    // Lists, dictionaries and texts.
    "__getitem__ _set_item append clear copy dict extend format get insert items keys list pop reverse str values warn",
];

/// Of the namespace `prim`: the language itself.
const PRIM: &[&str] = &[
    "CallFunction CallMethod Constant CreateObject DictConstruct Enter Exit GetAttr If ImplicitTensorToNum ListConstruct ListUnpack",
    "Loop NumToTensor RaiseException SetAttr TupleConstruct TupleIndex TupleSlice TupleUnpack Uninitialized abs",
    "data device dtype is_cuda isinstance max min rangelist requires_grad shape unchecked_cast",
    "unchecked_unwrap_optional",
];

/// Overloads of what is allowed that are not: they trust numbers in a tensor, or
/// take bytes for elements of another type.
pub(in crate::nn) const REFUSED: &[&str] =
    &["aten::gru.data", "aten::lstm.data", "aten::view.dtype"];

/// Names that a class of an archive must not give its methods: they are those of
/// operators on texts, which are computed while code is read.
const OF_TEXTS: &[&str] = &["center", "expandtabs", "join", "ljust", "replace", "rjust", "zfill"];

/// Whether methods may call the operator of this namespace and name.
pub(super) fn is_allowed(namespace: &str, name: &str) -> bool {
    let lines = match namespace {
        "aten" => ATEN,
        "prim" => PRIM,
        _ => return false,
    };
    lines.iter().flat_map(|line| line.split(' ')).any(|allowed| allowed == name)
}

/// Whether a class may have a method of this name.
pub(super) fn is_method(name: &str) -> bool {
    !OF_TEXTS.contains(&name)
}

/// The list, one a line, for the second look at what libtorch has read.
pub(in crate::nn) fn lines() -> String {
    let mut lines = String::new();
    for (namespace, names) in [("aten", ATEN), ("prim", PRIM)] {
        for name in names.iter().flat_map(|line| line.split(' ')) {
            lines.push_str(&format!("{namespace}::{name}\n"));
        }
    }
    for overload in REFUSED {
        lines.push_str(&format!("-{overload}\n"));
    }
    lines
}
