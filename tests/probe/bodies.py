"""Models whose layers have bodies, or belong together: TensorIterator, Loop, If, and states."""

import base64

import numpy as np


def layer(number, kind, opset, data, inputs, outputs, inner=""):
    """A layer; ports are `(id, dims)`."""
    def ports(listed):
        return "".join(f'<port id="{i}" precision="FP32">' + "".join(f"<dim>{n}</dim>" for n in dims) + "</port>"
                       for i, dims in listed)

    return (f'<layer id="{number}" name="{kind}{number}" type="{kind}" version="opset{opset}">{data}'
            + (f"<input>{ports(inputs)}</input>" if inputs else "") + (f"<output>{ports(outputs)}</output>" if outputs else "")
            + inner + "</layer>")


def graph(layers, edges):
    lines = "".join(f'<edge from-layer="{a}" from-port="{b}" to-layer="{c}" to-port="{d}"/>' for a, b, c, d in edges)
    return f'<layers>{"".join(layers)}</layers><edges>{lines}</edges>'


def net(layers, edges):
    return f'<?xml version="1.0"?><net name="probe" version="11">{graph(layers, edges)}</net>'


def param(number, shape, kind="f32"):
    dims = [-1 if n == "?" else n for n in shape]
    return layer(number, "Parameter", 1, f'<data element_type="{kind}" shape="{",".join(map(str, shape))}"/>', [], [(0, dims)])


def const(number, kind, shape, offset, size):
    return layer(number, "Const", 1, f'<data element_type="{kind}" shape="{",".join(map(str, shape))}" offset="{offset}" size="{size}"/>',
                 [], [(0, shape)])


def result(number, shape=()):
    return layer(number, "Result", 1, "", [(0, shape)], [])


def twice(number):
    """What another layer of the model reads of the one with a body: a copy, byte by byte."""
    return layer(number, "Concat", 1, '<data axis="0"/>', [(0, []), (1, [])], [(2, [])])


def fed(array):
    names = {"float32": "f32", "int32": "i32", "int64": "i64", "bool": "boolean"}
    return dict(type=names[array.dtype.name], shape=list(array.shape), data=base64.b64encode(array.tobytes()).decode())


ROWS = np.arange(32, dtype=np.float32).reshape(8, 4)


def iterator(start=0, end=-1, stride=1, part=1, out_start=0, out_end=-1, out_stride=1, out_part=1, rows=8, row="1,4",
             axis=0, out_axis=0, open_rows=False, back=None):
    """Rows of `x` through a body, put together again, then through one more layer."""
    inside = [int(n) for n in row.split(",")]
    body = graph([param(0, inside), layer(1, "Negative", 1, "", [(0, inside)], [(1, inside)]), result(2, inside)],
                 [(0, 0, 1, 0), (1, 1, 2, 0)])
    maps = (f'<port_map><input axis="{axis}" external_port_id="0" internal_layer_id="0" start="{start}" end="{end}" stride="{stride}" part_size="{part}"/>'
            f'<output axis="{out_axis}" external_port_id="1" internal_layer_id="2" start="{out_start}" end="{out_end}" stride="{out_stride}" part_size="{out_part}"/>'
            "</port_map>")
    edges = f'<back_edges><edge from-layer="{back[0]}" to-layer="{back[1]}"/></back_edges>' if back else ""
    shape = ["?", 4] if open_rows else [rows, 4]
    kind = layer(1, "TensorIterator", 1, maps, [(0, [rows, 4])], [(1, [rows, 4])], edges + f"<body>{body}</body>")
    return net([param(0, shape), kind, twice(2), result(3)], [(0, 0, 1, 0), (1, 1, 2, 0), (1, 1, 2, 1), (2, 2, 3, 0)])


def loop(outputs, trips=3, condition=True, iterate="", trip_input=False):
    """`x` through a body `trips` times; `outputs` are those of the port map. A trip count and a condition come first."""
    body = graph([param(0, [1, 4]), const(1, "boolean", [1], 9, 1), layer(2, "Negative", 1, "", [(0, [1, 4])], [(1, [1, 4])]),
                  result(3, [1, 4]), result(4, [1])],
                 [(0, 0, 2, 0), (2, 1, 3, 0), (1, 0, 4, 0)])
    maps = (f'<port_map><input external_port_id="2" internal_layer_id="0"{iterate}/>'
            '<output external_port_id="-1" internal_layer_id="4" purpose="execution_condition"/>' + outputs + "</port_map>")
    back = '<back_edges><edge from-layer="3" to-layer="0"/></back_edges>'
    kind = layer(3, "Loop", 5, maps, [(0, []), (1, []), (2, [1, 4])], [(3, [1, 4])], back + f"<body>{body}</body>")
    count = param(0, [], "i64") if trip_input else const(0, "i64", [], 0, 8)
    xml = net([count, const(1, "boolean", [1], 8, 1), param(2, [1, 4]), kind, twice(4), result(5)],
              [(0, 0, 3, 0), (1, 0, 3, 1), (2, 0, 3, 2), (3, 3, 4, 0), (3, 3, 4, 1), (4, 2, 5, 0)])
    feed = ([fed(np.asarray(trips, np.int64))] if trip_input else []) + [fed(ROWS[:1])]
    return xml, np.int64(trips).tobytes() + b"\1" + (b"\1" if condition else b"\0"), feed


def loop_of(trips, how, given=(), condition=True, back=True, body="on"):
    """`x` through a body: its last value or each one, with a count and a condition that are `given` or constants.

    `body` is what decides inside whether it goes on: a constant, what is worked out of one, or of `x`.
    """
    row = [1, 4]
    inner = [param(0, row), const(1, "boolean", [1], 9 if body != "off" else 10, 1),
             layer(2, "Negative", 1, "", [(0, row)], [(1, row)]), result(3, row)]
    edges = [(0, 0, 2, 0), (2, 1, 3, 0)]
    if body == "by x":
        inner += [const(5, "f32", [], 12, 4), const(6, "i64", [2], 16, 16),
                  layer(7, "ReduceMax", 1, '<data keep_dims="false"/>', [(0, row), (1, [2])], [(2, [])]),
                  layer(8, "Greater", 1, '<data auto_broadcast="numpy"/>', [(0, []), (1, [])], [(2, [])]), result(4)]
        edges += [(0, 0, 7, 0), (6, 0, 7, 1), (7, 2, 8, 0), (5, 0, 8, 1), (8, 2, 4, 0)]
    elif body == "not on":
        inner += [layer(7, "LogicalNot", 1, "", [(0, [1])], [(1, [1])]), result(4, [1])]
        edges += [(1, 0, 7, 0), (7, 1, 4, 0)]
    else:
        inner.append(result(4, [1]))
        edges.append((1, 0, 4, 0))
    each = ' axis="0" start="0" end="-1" stride="1" part_size="1"' if how == "each" else ""
    maps = ('<port_map><input external_port_id="2" internal_layer_id="0"/>'
            '<output external_port_id="-1" internal_layer_id="4" purpose="execution_condition"/>'
            f'<output external_port_id="3" internal_layer_id="3"{each}/></port_map>')
    backs = '<back_edges><edge from-layer="3" to-layer="0"/></back_edges>' if back else ""
    kind = layer(3, "Loop", 5, maps, [(0, []), (1, []), (2, row)], [(3, row)], f"{backs}<body>{graph(inner, edges)}</body>")
    count = param(0, [], "i64") if "count" in given else const(0, "i64", [], 0, 8)
    goes_on = param(1, [1], "boolean") if "condition" in given else const(1, "boolean", [1], 8, 1)
    xml = net([count, goes_on, param(2, row), kind, twice(4), result(5)],
              [(0, 0, 3, 0), (1, 0, 3, 1), (2, 0, 3, 2), (3, 3, 4, 0), (3, 3, 4, 1), (4, 2, 5, 0)])
    feed = [fed(np.asarray(trips, np.int64))] if "count" in given else []
    feed += [fed(np.asarray([condition]))] if "condition" in given else []
    constants = np.int64(trips).tobytes() + bytes([condition, 1, 0, 0]) + np.float32(100).tobytes() + np.int64([0, 1]).tobytes()
    return xml, constants, feed + [fed(ROWS[1:2])]


def two_iterated(rows, open_rows=False, grows=False):
    """Two inputs of a `TensorIterator` of other lengths; or one that grows from one time to the next."""
    row = [1, 4]
    inner = [param(0, row), param(1, ["?", 4] if grows else row),
             layer(2, "Add", 1, '<data auto_broadcast="numpy"/>', [(0, row), (1, row)], [(2, row)]), result(3, row)]
    edges = [(0, 0, 2, 0), (1, 0, 2, 1), (2, 2, 3, 0)]
    slices = 'axis="0" start="0" end="-1" stride="1" part_size="1"'
    backs = ""
    if grows:
        inner += [layer(4, "Concat", 1, '<data axis="0"/>', [(0, row), (1, row)], [(2, [2, 4])]), result(5, [2, 4])]
        edges += [(1, 0, 4, 0), (1, 0, 4, 1), (4, 2, 5, 0)]
        backs = '<back_edges><edge from-layer="5" to-layer="1"/></back_edges>'
    maps = (f'<port_map><input {slices} external_port_id="0" internal_layer_id="0"/>'
            f'<input {"" if grows else slices} external_port_id="1" internal_layer_id="1"/>'
            f'<output {slices} external_port_id="2" internal_layer_id="3"/></port_map>')
    kind = layer(2, "TensorIterator", 1, maps, [(0, [8, 4]), (1, [rows, 4])], [(2, [8, 4])], f"{backs}<body>{graph(inner, edges)}</body>")
    xml = net([param(0, ["?", 4] if open_rows else [8, 4]), param(1, ["?", 4] if open_rows else [rows, 4]), kind, twice(3), result(4)],
              [(0, 0, 2, 0), (1, 0, 2, 1), (2, 2, 3, 0), (2, 2, 3, 1), (3, 2, 4, 0)])
    return xml, b"", [fed(ROWS), fed(np.ones((rows, 4), np.float32))]


def last_of(rows):
    """The last row of so many, through a `TensorIterator`: of none, nothing is written."""
    row = [1, 4]
    body = graph([param(0, row), layer(1, "Negative", 1, "", [(0, row)], [(1, row)]), result(2, row)], [(0, 0, 1, 0), (1, 1, 2, 0)])
    maps = ('<port_map><input axis="0" external_port_id="0" internal_layer_id="0" start="0" end="-1" stride="1" part_size="1"/>'
            '<output external_port_id="1" internal_layer_id="2"/></port_map>')
    kind = layer(1, "TensorIterator", 1, maps, [(0, [-1, 4])], [(1, row)], f"<body>{body}</body>")
    xml = net([param(0, ["?", 4]), kind, twice(2), result(3)], [(0, 0, 1, 0), (1, 1, 2, 0), (1, 1, 2, 1), (2, 2, 3, 0)])
    return xml, b"", [fed(np.ones((rows, 4), np.float32))]


def branches(condition, lacking=None, wider=False, open_shape=False):
    """Two outputs of an `If`, of which one branch may lack the second, or give the first in another size."""
    def branch(name, other):
        inner = [param(0, ["?"] if open_shape else [4]), layer(1, "ReLU" if other else "Negative", 1, "", [(0, [4])], [(1, [4])])]
        edges, last = [(0, 0, 1, 0)], (1, 1)
        if other and wider:
            inner.append(layer(5, "Concat", 1, '<data axis="0"/>', [(0, [4]), (1, [4])], [(2, [8])]))
            edges += [(1, 1, 5, 0), (1, 1, 5, 1)]
            last = (5, 2)
        inner += [result(2, [4]), layer(3, "Abs", 1, "", [(0, [4])], [(1, [4])]), result(4, [4])]
        edges += [(*last, 2, 0), (0, 0, 3, 0), (3, 1, 4, 0)]
        outs = ['<output external_port_id="0" internal_layer_id="2"/>', '<output external_port_id="1" internal_layer_id="4"/>']
        given = "".join(outs[:1] if lacking == other else outs)
        maps = f'<{name}_port_map><input external_port_id="1" internal_layer_id="0"/>{given}</{name}_port_map>'
        return maps, f"<{name}_body>{graph(inner, edges)}</{name}_body>"

    then, other = branch("then", 0), branch("else", 1)
    kind = layer(2, "If", 8, then[0] + other[0], [(0, []), (1, [4])], [(2, [4]), (3, [4])], then[1] + other[1])
    xml = net([param(0, [], "boolean"), param(1, ["?"] if open_shape else [4]), kind,
               layer(3, "Concat", 1, '<data axis="0"/>', [(0, []), (1, [])], [(2, [])]), result(4)],
              [(0, 0, 2, 0), (1, 0, 2, 1), (2, 2, 3, 0), (2, 3, 3, 1), (3, 2, 4, 0)])
    return xml, b"", [fed(np.asarray(condition)), fed(ROWS[0])]


def gather_inside(index):
    """A branch of an `If` that gathers with the guest's own index."""
    def branch(name, kind):
        inner = [param(0, [4], "i32"), param(1, [1], "i32"), const(2, "i32", [], 0, 4)]
        if kind == "gather":
            inner += [layer(3, "Gather", 8, '<data batch_dims="0"/>', [(0, [4]), (1, [1]), (2, [])], [(3, [1])]), result(4, [1])]
            edges = [(0, 0, 3, 0), (1, 0, 3, 1), (2, 0, 3, 2), (3, 3, 4, 0)]
        else:
            inner += [layer(3, "ReLU", 1, "", [(0, [1])], [(1, [1])]), result(4, [1]),
                      layer(5, "ReLU", 1, "", [(0, [4])], [(1, [4])]), result(6, [4])]
            edges = [(1, 0, 3, 0), (3, 1, 4, 0), (0, 0, 5, 0), (5, 1, 6, 0)]
        maps = (f'<{name}_port_map><input external_port_id="1" internal_layer_id="0"/><input external_port_id="2" internal_layer_id="1"/>'
                f'<output external_port_id="0" internal_layer_id="4"/></{name}_port_map>')
        return maps, f"<{name}_body>{graph(inner, edges)}</{name}_body>"

    then, other = branch("then", "gather"), branch("else", "gather")
    kind = layer(3, "If", 8, then[0] + other[0], [(0, []), (1, [4]), (2, [1])], [(3, [1])], then[1] + other[1])
    xml = net([param(0, [], "boolean"), param(1, [4], "i32"), param(2, [1], "i32"), kind, result(4)],
              [(0, 0, 3, 0), (1, 0, 3, 1), (2, 0, 3, 2), (3, 3, 4, 0)])
    return xml, np.int32(0).tobytes(), [fed(np.asarray(True)), fed(np.arange(4, dtype=np.int32)), fed(np.asarray([index], np.int32))]


def state(assigned=True, other="", again=False):
    """A variable that is read, added to, and assigned."""
    data = f'<data variable_id="v" variable_type="f32" variable_shape="2,3"/>'
    wrong = f'<data variable_id="v{other}" variable_type="f32" variable_shape="2,3"/>'
    layers = [param(0, [2, 3]), layer(1, "ReadValue", 6, data, [(0, [2, 3])], [(1, [2, 3])]),
              layer(2, "Add", 1, "", [(0, [2, 3]), (1, [2, 3])], [(2, [2, 3])]), result(3, [2, 3])]
    edges = [(0, 0, 1, 0), (1, 1, 2, 0), (0, 0, 2, 1), (2, 2, 3, 0)]
    if assigned:
        layers.append(layer(4, "Assign", 6, wrong, [(0, [2, 3])], [(1, [2, 3])]))
        edges.append((2, 2, 4, 0))
    if again:
        layers.append(layer(5, "Assign", 6, data, [(0, [2, 3])], [(1, [2, 3])]))
        edges.append((0, 0, 5, 0))
    return net(layers, edges), b"", [fed(np.ones((2, 3), np.float32))]


def constant(kind, shape, size):
    """A constant of so many bytes, whatever its shape says, added to `x`."""
    xml = net([param(0, [1]), const(1, kind, shape, 0, size), layer(2, "ConvertLike", 1, "", [(0, shape), (1, [1])], [(2, shape)]),
               layer(3, "Add", 1, "", [(0, [1]), (1, shape)], [(2, shape)]), result(4, shape)],
              [(0, 0, 3, 0), (1, 0, 2, 0), (0, 0, 2, 1), (2, 2, 3, 1), (3, 2, 4, 0)])
    return xml, bytes(max(size, 4)), [fed(np.ones(1, np.float32))]


def models():
    """`(operator, what, xml, weights, feed)`."""
    x = [fed(ROWS)]
    for what, changes in {
        "honest": {}, "open": dict(open_rows=True), "reversed": dict(start=-1, end=0, stride=-1, out_start=-1, out_end=0, out_stride=-1),
        "two of one written": dict(out_end=8, out_part=2), "two of one written, to the end": dict(out_part=2),
        "three rows of eight": dict(end=3, out_end=3), "three read, all said": dict(end=3),
        "parts of two": dict(part=2, stride=2, row="2,4"), "parts of two, said one": dict(part=2, stride=2, row="2,4", out_part=2, out_stride=2),
        "part 0": dict(part=0), "stride 0": dict(stride=0), "out stride 0": dict(out_stride=0), "out stride 2": dict(out_stride=2),
        "out stride -1": dict(out_stride=-1), "stride -1": dict(stride=-1), "out part 0": dict(out_part=0), "out part 9": dict(out_part=9),
        "part 9": dict(part=9), "start 9": dict(start=9), "start -9": dict(start=-9), "end 9": dict(end=9), "end -9": dict(end=-9),
        "out start 9": dict(out_start=9), "out start 1": dict(out_start=1), "out start -9": dict(out_start=-9), "out end 9": dict(out_end=9),
        "out end 16": dict(out_end=16), "out end 4": dict(out_end=4), "out end -4": dict(out_end=-4), "axis 1": dict(axis=1, row="8,1"),
        "axis 9": dict(axis=9), "axis -1": dict(axis=-1, row="8,1"), "out axis 1": dict(out_axis=1), "out axis 9": dict(out_axis=9),
        "out axis -1": dict(out_axis=-1), "stride 2": dict(stride=2), "stride 3": dict(stride=3), "part 3": dict(part=3, stride=3, row="3,4"),
        "stride huge": dict(stride=1 << 31), "part huge": dict(part=1 << 31), "out part huge": dict(out_part=1 << 31),
        "back edge": dict(back=(2, 0)), "row of another size": dict(row="2,4"), "row of 1": dict(row="1,1"),
    }.items():
        for form in ("", " open"):
            yield "TensorIterator", what + form, iterator(**{**changes, "open_rows": bool(form)}), b"", x
    last = '<output external_port_id="3" internal_layer_id="3"/>'
    all_of = '<output external_port_id="3" internal_layer_id="3" axis="0" start="{}" end="{}" stride="{}" part_size="{}"/>'
    for trips in (3, 0, -1, 1, 1000, 1 << 31):
        for given in (False, True):
            for what, out in {"last": last, "each": all_of.format(0, -1, 1, 1), "each, two said": all_of.format(0, -1, 1, 2),
                              "each, backwards": all_of.format(-1, 0, -1, 1), "each, stride 2": all_of.format(0, -1, 2, 1),
                              "each, end 9": all_of.format(0, 9, 1, 1), "each, end 2": all_of.format(0, 2, 1, 1)}.items():
                if trips >= 1 << 31 and what != "last":
                    continue
                yield ("Loop", f"{what}, {trips} times{', given' if given else ''}", *loop(out, trips, trip_input=given))
    yield ("Loop", "last, condition false", *loop(last, 3, False))
    yield ("Loop", "each, condition false", *loop(all_of.format(0, -1, 1, 1), 3, False))
    for trips in (0, 1, 3, -1):
        for given in ((), ("count",), ("condition",), ("count", "condition")):
            for condition in (True, False):
                for how in ("last", "each"):
                    for back in (True, False):
                        for body in ("on", "off", "not on", "by x"):
                            # That would go on for ever.
                            if trips == -1 and condition and body == "on":
                                continue
                            what = (f"{how}, {trips} times{' if so' if condition else ' if not so'}{', and back' if back else ''}, "
                                    f"{body}, given {' and '.join(given) or 'nothing'}")
                            yield ("Loop", what, *loop_of(trips, how, given, condition, back, body))
    for rows in (1, 3, 8, 9, 100):
        for open_rows in (False, True):
            form = ", open" if open_rows else ""
            yield ("TensorIterator", f"8 rows and {rows}{form}", *two_iterated(rows, open_rows))
    for open_rows in (False, True):
        yield ("TensorIterator", f"grows{', open' if open_rows else ''}", *two_iterated(1, open_rows, True))
    for rows in (0, 1, 3):
        yield ("TensorIterator", f"the last of {rows}", *last_of(rows))
    for condition in (True, False):
        for what, changes in {"two": {}, "second lacks in then": dict(lacking=0), "second lacks in else": dict(lacking=1),
                              "wider in else": dict(wider=True), "open": dict(open_shape=True),
                              "open, wider in else": dict(open_shape=True, wider=True)}.items():
            yield ("If", f"{condition}, {what}", *branches(condition, **changes))
    for index in (0, 3, -1, 4, 9, 1000, 1 << 20, -9, -(1 << 31)):
        yield ("If", f"index {index}", *gather_inside(index))
    for what, changes in {"honest": {}, "never assigned": dict(assigned=False), "of another name": dict(other="w"),
                          "assigned twice": dict(again=True)}.items():
        yield ("ReadValue", f"state {what}", *state(**changes))
        yield ("Assign", f"state {what}", *state(**changes))
    for kind in "f32 i64 u1 i4 u4 boolean string f64".split():
        for shape, size in (((4,), 16), ((4,), 4), ((1000,), 4), ((1 << 31, 1 << 31, 4), 16), ((0,), 0), ((4,), 64), ((), 0)):
            yield ("Constant", f"{kind} of {shape} in {size} bytes", *constant(kind, shape, size))
    for shape in ([0], ["?"], [1 << 40], [-1], ["9..4"], ["?", "..."], ["a"]):
        yield "Parameter", f"shape {shape}", net([param(0, shape), result(1)], [(0, 0, 1, 0)]), b"", [fed(np.ones(1, np.float32))]
        yield "Result", f"shape {shape}", net([param(0, shape), result(1)], [(0, 0, 1, 0)]), b"", [fed(np.ones(1, np.float32))]
