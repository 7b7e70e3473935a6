"""Operators that are in no opset: the CPU plugin and the library have them for what they make of a model.

Once the plugin is loaded a model can name them, by the name of their own set. `probe.py operators --own` finds them.
"""

OWN = {
    "cpu_plugin_opset": (
        "CausalMaskPreprocess Interaction LeakyRelu LLMMLP Ngram PowerStatic QKVProjection "
        "ReadValueWithSubgraph ScaledDotProductAttentionWithKVCache SDPAWithTransposeReshape"
    ),
    "extension": "GatedDeltaNet PagedCausalConv1D PagedGatedDeltaNet PagedSelectiveSSM SelectiveSSM",
    "ie_internal_opset": (
        "AUGRUCell AUGRUSequence FullyConnected FullyConnectedCompressed FullyConnectedQuantized "
        "FullyConnectedQuantizedLegacy GatherCompressed MulticlassNmsIEInternal "
        "NonMaxSuppressionIEInternal RMS RoPE"
    ),
    "SnippetsOpset": (
        "Brgemm BrgemmCopyB BrgemmCPU BroadcastLoad BroadcastMove Buffer ConvertSaturation "
        "ConvertTruncation Fill HorizonMax HorizonSum KernelDynamic KernelStatic Load "
        "LoadConvertSaturation LoadConvertTruncation LoadReorder LoopBegin LoopEnd Nop PowerStatic "
        "RankNormalization ReduceMax ReduceSum Reshape Result Scalar Store StoreConvertSaturation "
        "StoreConvertTruncation Subgraph VectorBuffer"
    ),
}
