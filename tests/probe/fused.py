"""Models that the library makes other operators of: its plugin's own, which no model may name.

Each is a function of the library's Python interface that builds outputs from inputs. `probe.py` varies
what the inputs are given, with their shapes fixed, all open, and one dimension alone open.
"""

import os
import re
import tempfile

import numpy as np

from cases import F, I, L


def embedding(o, ids):
    """Rows of numbers of a byte: `GatherCompressed`."""
    table = o.convert(o.constant(np.arange(640, dtype=np.uint8).reshape(40, 16)), "f32")
    zero = o.convert(o.constant(np.full((40, 1), 8, np.uint8)), "f32")
    scaled = o.multiply(o.subtract(table, zero), o.constant(np.full((40, 1), 0.5, np.float32)))
    return [o.gather(scaled, ids, o.constant(np.int32(0)))]


def state(o, begins, name, shape):
    """What is kept for the next inference: its last value, and what a new one is assigned to."""
    from openvino import PartialShape, Type
    from openvino.op.util import Variable, VariableInfo

    info = VariableInfo()
    info.variable_id, info.data_type, info.data_shape = name, Type.f32, PartialShape(shape)
    variable = Variable(info)
    return o.read_value(begins, variable), variable


def cache(o, q, k, v, beam, past_k, past_v, attend=None):
    """Attention that goes on from a state: `ScaledDotProductAttentionWithKVCache`."""
    def kept(past, new, name):
        last, variable = state(o, past, name, [-1, 2, -1, 8])
        now = o.concat([o.gather(last, beam, o.constant(np.int32(0))), new], 2)
        return now, o.assign(now, variable)

    (keys, keep_k), (values, keep_v) = kept(past_k, k, "k"), kept(past_v, v, "v")
    return [(attend or o.scaled_dot_product_attention)(q, keys, values), keep_k, keep_v]


def cache_by_parts(o, *inputs):
    """The same, of which no operator is an attention."""
    def attend(q, k, v):
        return o.matmul(o.softmax(o.matmul(q, k, False, True), -1), v, False, False)

    return cache(o, *inputs, attend=attend)


def attention(o, q, k, v, mask):
    """The same out of its parts: a subgraph."""
    scores = o.multiply(o.matmul(q, k, False, True), o.constant(np.float32(0.3)))
    return [o.matmul(o.softmax(o.add(scores, mask), -1), v, False, False)]


def turned(o, q, k, v, mask):
    """Attention between transpositions: `SDPAWithTransposeReshape`."""
    order = o.constant(np.int64([0, 2, 1, 3]))
    heads = [o.transpose(o.reshape(x, o.constant(np.int64([0, 0, 2, 8])), True), order) for x in (q, k, v)]
    found = o.transpose(o.scaled_dot_product_attention(*heads, mask), order)
    return [o.reshape(found, o.constant(np.int64([0, 0, 16])), True)]


def rope(o, x, cos, sin):
    """Turned pairs: `RoPE`."""
    def part(first, last):
        return o.slice(x, o.constant(np.int64([first])), o.constant(np.int64([last])), o.constant(np.int64([1])), o.constant(np.int64([3])))

    half = o.concat([o.multiply(part(4, 1 << 31), o.constant(np.float32(-1))), part(0, 4)], -1)
    return [o.add(o.multiply(x, cos), o.multiply(half, sin))]


def rope_by_place(o, x, places):
    """The same by a table of angles, of which the places are selected."""
    angles = o.constant(np.linspace(0, 1, 320, dtype=np.float32).reshape(1, 1, 40, 8))
    cos = o.gather(o.squeeze(angles, o.constant(np.int64([0, 1]))), places, o.constant(np.int32(0)))
    cos = o.unsqueeze(cos, o.constant(np.int64([1])))
    return rope(o, x, cos, cos)


def rms(o, x, gamma):
    """Divided by the root of the mean of the squares: `RMS`."""
    mean = o.reduce_mean(o.power(x, o.constant(np.float32(2))), o.constant(np.int64([-1])), True)
    root = o.sqrt(o.add(mean, o.constant(np.float32(1e-5))))
    return [o.multiply(gamma, o.multiply(x, o.divide(o.constant(np.float32(1)), root)))]


def chain(o, x, y, z):
    return [o.relu(o.add(o.multiply(x, y), z)), o.sigmoid(o.subtract(x, z))]


def convolved(o, x, y):
    """A convolution with what follows it: weights are constants."""
    made = o.convolution(x, o.constant(F(3, 2, 3, 3)), [1, 1], [0, 0], [0, 0], [1, 1])
    return [o.relu(o.add(made, y))]


def scaled(o, x, scale, slope):
    made = o.convolution(x, o.constant(F(3, 2, 3, 3)), [1, 1], [0, 0], [0, 0], [1, 1])
    return [o.prelu(o.multiply(made, scale), slope)]


def spread_out(o, x, y):
    made = o.convolution_backprop_data(x, o.constant(F(2, 3, 3, 3)), [1, 1], pads_begin=[0, 0], pads_end=[0, 0], dilations=[1, 1])
    return [o.relu(o.add(made, y))]


def reduced(o, x, y):
    return [o.add(o.multiply(o.reduce_mean(x, o.constant(np.int64([2, 3])), True), y), y)]


def pooled(o, x, y):
    made = o.avg_pool(x, [2, 2], [0, 0], [0, 0], [2, 2], True)
    return [o.relu(o.add(o.multiply(made, y), y))]


def evened(o, x, y):
    """Means and variances of each channel, then a scale."""
    made = o.mvn(x, o.constant(np.int64([2, 3])), True, 1e-9, "inside_sqrt")
    return [o.add(o.multiply(made, y), y)]


def padded(o, x):
    more = o.pad(x, o.constant(np.int64([0, 0, 1, 1])), o.constant(np.int64([0, 0, 1, 1])), "constant", o.constant(np.float32(0)))
    return [o.convolution(more, o.constant(F(3, 2, 3, 3)), [1, 1], [0, 0], [0, 0], [1, 1])]


def quantized(o, x, y):
    """A convolution of bytes."""
    def levels(of, count):
        low, high = (o.constant(np.full((1, 1, 1, 1), n, np.float32)) for n in (0, 1))
        return o.fake_quantize(of, low, high, low, high, count)

    weights = levels(o.constant(F(3, 2, 3, 3)), 255)
    made = o.convolution(levels(x, 256), weights, [1, 1], [0, 0], [0, 0], [1, 1])
    return [levels(o.add(made, y), 256)]


def biased(o, x, y):
    return [o.relu(o.add(o.matmul(x, o.constant(F(8, 6)), False, False), y))]


def compressed(o, x, y):
    """Weights of half a byte in groups: `FullyConnectedCompressed`."""
    weights = o.convert(o.constant(np.arange(256, dtype=np.uint8).reshape(16, 2, 8)), "f32")
    zero = o.convert(o.constant(np.full((16, 2, 1), 8, np.uint8)), "f32")
    whole = o.multiply(o.subtract(weights, zero), o.constant(np.full((16, 2, 1), 0.1, np.float32)))
    return [o.add(o.matmul(x, o.reshape(whole, o.constant(np.int64([16, 16])), False), False, True), y)]


def in_place(o, x):
    """Parts of a tensor and the whole of them, which share memory."""
    parts = o.variadic_split(x, o.constant(np.int64(1)), o.constant(np.int64([1, -1])))
    return [o.concat([o.relu(parts.output(0)), parts.output(1), o.abs(parts.output(0))], 1)]


def shaped(o, x, place):
    """A shape out of another one's places."""
    size = o.gather(o.shape_of(x, "i64"), place, o.constant(np.int32(0)))
    return [o.reshape(x, o.concat([size, o.constant(np.int64([-1]))], 0), False)]


def spread(o, x, y):
    return [o.add(x, o.broadcast(y, o.shape_of(x, "i64")))]


def normalized(o, x, y):
    mean = o.reduce_mean(x, o.constant(np.int64([-1])), True)
    off = o.subtract(x, mean)
    square = o.reduce_mean(o.multiply(off, off), o.constant(np.int64([-1])), True)
    return [o.multiply(o.divide(off, o.sqrt(o.add(square, o.constant(np.float32(1e-5))))), y)]


def suppressed(o, boxes, scores):
    """The boxes that are left: `NonMaxSuppressionIEInternal`, whose rows may be -1."""
    left = o.non_max_suppression(boxes, scores, o.constant(np.int64(3)), o.constant(np.float32(0.5)), o.constant(np.float32(0)))
    rows = o.gather(left.output(0), o.constant(np.int64(2)), o.constant(np.int32(1)))
    return [o.gather(boxes, rows, o.constant(np.int32(1)))]


def best(o, x, y):
    found = o.topk(x, o.constant(np.int64(2)), 1, "max", "value", "i32")
    return [o.gather_elements(y, found.output(1), 1), o.gather(y, found.output(1), o.constant(np.int32(1)))]


def begun(o, x):
    """A state that begins with what is worked out: `ReadValueWithSubgraph`."""
    last, variable = state(o, o.relu(o.add(x, o.constant(np.float32(1)))), "s", [-1, 3])
    return [o.add(x, last), o.assign(o.multiply(x, last), variable)]


BOXES = np.float32([[[0, 0, 1, 1], [0, .1, 1, 1.1], [0, 2, 1, 3]]])
FUSED = [
    (embedding, [I([[0, 2], [1, 1]])]), (embedding, [L([3])]),
    (cache, [F(1, 2, 1, 8), F(1, 2, 1, 8), F(1, 2, 1, 8), I([0]), F(1, 2, 3, 8), F(1, 2, 3, 8)]),
    (cache, [F(2, 2, 3, 8), F(2, 2, 3, 8), F(2, 2, 3, 8), I([1, 0]), F(2, 2, 4, 8), F(2, 2, 4, 8)]),
    (cache_by_parts, [F(1, 2, 1, 8), F(1, 2, 1, 8), F(1, 2, 1, 8), I([0]), F(1, 2, 3, 8), F(1, 2, 3, 8)]),
    (cache_by_parts, [F(2, 2, 3, 8), F(2, 2, 3, 8), F(2, 2, 3, 8), I([1, 0]), F(2, 2, 4, 8), F(2, 2, 4, 8)]),
    (attention, [F(1, 2, 16, 8), F(1, 2, 16, 8), F(1, 2, 16, 8), F(1, 1, 16, 16)]),
    (turned, [F(1, 4, 16), F(1, 4, 16), F(1, 4, 16), F(1, 1, 4, 4)]),
    (rope, [F(1, 2, 4, 8), F(1, 1, 4, 8), F(1, 1, 4, 8)]), (rope_by_place, [F(1, 2, 4, 8), I([[0, 1, 2, 3]])]),
    (rms, [F(2, 3, 16), F(16)]), (chain, [F(2, 3, 8), F(3, 8), F(8)]),
    (convolved, [F(1, 2, 6, 6), F(1, 3, 4, 4)]), (convolved, [F(1, 2, 6, 6), F(1, 3, 1, 1)]),
    (scaled, [F(1, 2, 6, 6), F(1, 3, 1, 1), F(3)]), (padded, [F(1, 2, 6, 6)]),
    (spread_out, [F(1, 2, 6, 6), F(1, 3, 8, 8)]), (reduced, [F(1, 3, 4, 4), F(1, 3, 1, 1)]), (pooled, [F(1, 3, 6, 6), F(1, 3, 1, 1)]),
    (evened, [F(1, 3, 4, 4), F(1, 3, 1, 1)]), (quantized, [F(1, 2, 6, 6), F(1, 3, 1, 1)]),
    (biased, [F(2, 8), F(6)]), (compressed, [F(2, 16), F(16)]), (in_place, [F(2, 4)]), (shaped, [F(2, 3, 4), L([0, 1])]),
    (spread, [F(2, 3), F(3)]), (normalized, [F(2, 3, 16), F(16)]), (suppressed, [BOXES, F(1, 2, 3)]), (best, [F(2, 5), F(2, 5)]),
    (begun, [F(2, 3)]),
]


def written(ov, build, arrays, declared):
    """XML, weights, and which array each input of the XML is."""
    import openvino.opset13 as o

    inputs = [o.parameter(ov.PartialShape([-1 if n == "?" else n for n in shape]), array.dtype, name=f"in{i}")
              for i, (array, shape) in enumerate(zip(arrays, declared))]
    made = build(o, *inputs)
    sinks = [node for node in made if node.get_type_name() == "Assign"]
    results = [o.result(node) for node in made if node.get_type_name() != "Assign"]
    with tempfile.TemporaryDirectory() as folder:
        xml, weights = (os.path.join(folder, f"model.{ending}") for ending in ("xml", "bin"))
        ov.serialize(ov.Model(results, sinks, inputs, "probe") if sinks else ov.Model(results, inputs, "probe"), xml, weights)
        with open(xml) as text, open(weights, "rb") as numbers:
            xml, weights = text.read(), numbers.read()
    return xml, weights, [int(i) for i in re.findall(r'name="in(\d+)" type="Parameter"', xml)]


def models(ov, variations):
    """`(operator, what, xml, weights, arrays)`; `variations` are those of an array and of its shape, or none."""
    for number, (build, arrays) in enumerate(FUSED):
        def of(what, declared, given=None):
            try:
                xml, weights, order = written(ov, build, arrays, declared)
            except RuntimeError:
                # No model of that shape.
                return
            given = given or arrays
            yield f"fused/{build.__name__}", f"{number} {what}", xml, weights, [given[i] for i in order]

        fixed = [list(array.shape) for array in arrays]
        opened = [["?"] * array.ndim for array in arrays]
        yield from of("honest", fixed)
        yield from of("open shapes", opened)
        if not variations:
            continue
        values, along, shapes = variations
        for i, array in enumerate(arrays):
            def changed(other):
                return arrays[:i] + [other.astype(array.dtype)] + arrays[i + 1:]

            for what, other in values(array):
                for form, declared in (("", fixed), (" open", opened)):
                    yield from of(f"in{i}{what}{form}", declared, changed(other))
            for what, other in shapes(array):
                declared = opened[:i] + [["?"] * other.ndim] + opened[i + 1:]
                yield from of(f"in{i}{what} open", declared, changed(other))
            for axis, size, other in along(array):
                alone = [list(shape) for shape in fixed]
                alone[i][axis] = "?"
                yield from of(f"in{i} dim{axis}={size} alone open", alone, changed(other))
