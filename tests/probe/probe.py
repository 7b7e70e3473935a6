#!/usr/bin/env python3
"""What OpenVINO's operators do with hostile attributes, shapes and inputs.

    probe.py operators [--own]                          those of the installed library
    probe.py cases [--op NAME].. [--each N] > CASES     models, a JSON object a line
    probe.py cases --honest > CASES                     those that mean no harm
    probe.py run CASES > RESULTS                        each in a process of its own: what came of
                                                        it, and a digest of what it gave
    probe.py table RESULTS                              the sums by operator

`run` wants `guard.c` (see there) preloaded, and looks for bytes in the outputs that are of nothing
that the model was given: those that memory was filled with, and those that change with it.
"""

import argparse
import base64
import ctypes
import hashlib
import json
import os
import re
import resource
import select
import signal
import sys
import time

import numpy as np

FILLS = (0xA5, 0x3C)
SECONDS = 8
MEMORY = 3 << 30
PRECISIONS = {"float32": ("f32", "FP32"), "float16": ("f16", "FP16"), "int32": ("i32", "I32"), "int64": ("i64", "I64"),
              "uint8": ("u8", "U8"), "bool": ("boolean", "BOOL")}


# --- Models -------------------------------------------------------------------

class Input:
    """An input of the layer: its elements, and how the model declares it."""

    def __init__(self, values, constant=False, declared=None):
        self.array, self.constant, self.declared = np.asarray(values), constant, declared

    def replaced(self, array):
        declared = None if self.declared is None else ["?"] * array.ndim
        return Input(np.asarray(array, dtype=self.array.dtype), self.constant, declared)

    def opened(self):
        return self if self.constant else Input(self.array, False, ["?"] * self.array.ndim)


def model(kind, opset, attributes, inputs, outputs):
    """The layer with its inputs and results around it: XML, weights, and what is fed."""
    layers, edges, weights, feed = [], [], b"", []
    for i, it in enumerate(inputs):
        if it.array.dtype.kind == "U":
            types = "string", "STRING"
        else:
            types = PRECISIONS[it.array.dtype.name]
        shape = [str(n) for n in (it.declared or it.array.shape)]
        dims = "".join(f"<dim>{-1 if n == '?' else n}</dim>" for n in shape)
        data = f'element_type="{types[0]}" shape="{",".join(shape)}"'
        if it.constant:
            raw = it.array.tobytes()
            data += f' offset="{len(weights)}" size="{len(raw)}"'
            weights += raw
        else:
            feed.append(dict(type=types[0], shape=list(it.array.shape), data=it.array.tolist()
                             if types[0] == "string" else base64.b64encode(it.array.tobytes()).decode()))
        layers.append(f'<layer id="{i}" name="in{i}" type="{"Const" if it.constant else "Parameter"}" version="opset1">'
                      f'<data {data}/><output><port id="0" precision="{types[1]}">{dims}</port></output></layer>')
        edges.append((i, 0, len(inputs), i))
    me = len(inputs)
    data = "".join(f' {key}="{value}"' for key, value in attributes.items())
    ports = "".join(f'<port id="{i}"/>' for i in range(me))
    outs = "".join(f'<port id="{me + i}" precision="FP32"/>' for i in range(outputs))
    name = {"Relu": "ReLU", "Softmax": "SoftMax"}.get(kind, kind)
    version = opset if isinstance(opset, str) else f"opset{opset}"
    layers.append(f'<layer id="{me}" name="probed" type="{name}" version="{version}"><data{data}/>'
                  f'<input>{ports}</input><output>{outs}</output></layer>')
    for i in range(outputs):
        layers.append(f'<layer id="{me + 1 + i}" name="out{i}" type="Result" version="opset1">'
                      f'<input><port id="0"/></input></layer>')
        edges.append((me, me + i, me + 1 + i, 0))
    lines = "".join(f'<edge from-layer="{a}" from-port="{b}" to-layer="{c}" to-port="{d}"/>' for a, b, c, d in edges)
    xml = f'<?xml version="1.0"?><net name="probe" version="11"><layers>{"".join(layers)}</layers><edges>{lines}</edges></net>'
    return xml, weights, feed


# --- Hostile variations -------------------------------------------------------

WHOLE = (0, -1, 1, 9, -9, 1000, 1 << 20, (1 << 31) - 1, -(1 << 31))
REAL = (float("nan"), float("inf"), 0.0, -1.0, 1e30, -1e30)


def arrays(array):
    """The same array with other elements."""
    kind = array.dtype.kind
    values = WHOLE if kind == "i" else (0, 9, 255) if kind == "u" else REAL if kind == "f" else ()
    for value in values:
        yield f"={value}", np.full_like(array, value)
    if kind == "i" and array.size > 1:
        for value in (9, -9, 1 << 20):
            changed = array.copy()
            changed.reshape(-1)[-1] = value
            yield f" last={value}", changed


def shapes(array):
    """The same elements in other shapes."""
    def of(shape):
        return np.resize(array, shape) if array.size else np.zeros(shape, array.dtype)

    dims = list(array.shape)
    for axis in sorted({0, len(dims) - 1}) if dims else ():
        for size in (0, 1, dims[axis] + 1, dims[axis] * 3 + 2):
            yield f" dim{axis}={size}", of(dims[:axis] + [size] + dims[axis + 1:])
    yield " rank+1", of([1] + dims)
    if dims:
        yield " rank-1", of(dims[1:])


def attribute_values(value):
    """Other values of an attribute."""
    text = str(value)
    if text in ("true", "false"):
        yield "false" if text == "true" else "true"
        return
    parts = text.split(",")
    try:
        whole = all(float(part) == int(float(part)) and "." not in part and "e" not in part for part in parts)
    except ValueError:
        return
    hostile = (0, -1, 1, 9, 1000, (1 << 31) - 1, -(1 << 31)) if whole else (0.0, -1.0, 1e30, -1e30, "nan")
    for other in hostile:
        yield ",".join([str(other)] * len(parts))
    if len(parts) > 1:
        yield parts[0]
        yield ",".join(parts + [parts[-1]])
        for other in hostile[3:5]:
            yield ",".join(parts[:-1] + [str(other)])


def hostile(kind, opset, attributes, inputs, outputs):
    """`(what was changed, model)` for one honest layer, which comes first."""
    yield "honest", (kind, opset, attributes, inputs, outputs)
    opened = [it.opened() for it in inputs]
    yield "open shapes", (kind, opset, attributes, opened, outputs)
    fixed = [Input(it.array, True) for it in inputs[:1]] + inputs[1:]
    if len(inputs) > 1:
        fixed = inputs[:1] + [Input(it.array, True) for it in inputs[1:]]
        yield "constants", (kind, opset, attributes, fixed, outputs)
    for i, it in enumerate(inputs):
        for what, array in arrays(it.array):
            for form, given in (("", inputs), (" open", opened), (" constant", fixed)):
                # Of constants and open shapes those of whole numbers decide.
                if form and (array.dtype.kind != "i" or (form == " open" and it.constant)):
                    continue
                if form == " constant" and (i == 0 or it.constant):
                    continue
                changed = given[:i] + [given[i].replaced(array)] + given[i + 1:]
                yield f"in{i}{what}{form}", (kind, opset, attributes, changed, outputs)
        for what, array in shapes(it.array):
            for form, given in (("", inputs), (" open", opened)):
                changed = given[:i] + [given[i].replaced(array)] + given[i + 1:]
                yield f"in{i}{what}{form}", (kind, opset, attributes, changed, outputs)
        if it.array.dtype.kind == "f" and i == 0:
            for dtype in (np.int32, np.int64, np.uint8, np.float16):
                array = (it.array * 9).astype(dtype)
                changed = [Input(array, it.constant)] + inputs[1:]
                yield f"in{i} {np.dtype(dtype).name}", (kind, opset, attributes, changed, outputs)
    for key, value in attributes.items():
        for other in attribute_values(value):
            changed = {**attributes, key: other}
            yield f"{key}={other}", (kind, opset, changed, inputs, outputs)
            if len(str(other)) < 6:
                yield f"{key}={other} open", (kind, opset, changed, opened, outputs)


HONEST = "honest", "open shapes", "constants"


def cases(names, each, only_honest=False):
    import bodies
    import cases as honest

    wanted = {name.lower() for name in names or ()}
    for number, (kind, opset, attributes, inputs, outputs) in enumerate(honest.OPS):
        if wanted and kind.lower() not in wanted:
            continue
        inputs = [Input(it.array, True) if isinstance(it, honest.C) else Input(it) for it in inputs]
        found = list(hostile(kind, opset, attributes, inputs, outputs))
        if only_honest:
            found = [it for it in found if it[0] in HONEST]
        # Evenly over all of them; the honest one is always there.
        step = max(1.0, len(found) / each) if each else 1.0
        picked = sorted({int(n * step) for n in range(len(found)) if n * step < len(found)})
        for at in picked:
            what, parts = found[at]
            xml, weights, feed = model(*parts)
            yield dict(op=kind, case=f"{kind}-{opset}.{number} {what}", xml=xml, weights=base64.b64encode(weights).decode(),
                       feed=feed)
    if only_honest:
        return
    for kind, what, xml, weights, feed in [*bodies.models(), *owned()]:
        if not wanted or kind.lower() in wanted:
            yield dict(op=kind, case=f"{kind} {what}", xml=xml, weights=base64.b64encode(weights).decode(), feed=feed)


def owned():
    """Models of the operators that are in no opset."""
    from own import OWN

    for opset, names in OWN.items():
        for name in names.split():
            for count in range(1, 5):
                for array in (np.ones((2, 3), np.float32), np.ones((2, 3), np.int32), np.ones((0, 3), np.float32)):
                    given = [Input(array)] * count
                    yield (f"{opset}/{name}", f"{count} of {array.dtype.name} {array.shape}", *model(name, opset, {}, given, 1))


# --- Runs ---------------------------------------------------------------------

def openvino():
    here = os.path.dirname(os.path.abspath(__file__))
    target = os.environ.get("PROBE_TARGET", os.path.join(here, "..", "..", "target"))
    sys.path.insert(0, os.path.join(target, "python"))
    import openvino as ov
    return ov


class Memory:
    """What new memory is filled with, by the allocator and by `guard.c`."""

    def __init__(self):
        self.libc = ctypes.CDLL(None)
        self.fill = getattr(self.libc, "probe_fill", None)

    def filled(self, byte):
        self.libc.mallopt(-6, byte ^ 0xFF)
        if self.fill:
            self.fill(byte)


def tensor(ov, given):
    if given["type"] == "string":
        return ov.Tensor(np.array(given["data"]))
    made = ov.Tensor(getattr(ov.Type, given["type"]), ov.Shape(given["shape"]))
    if given["data"]:
        ctypes.memmove(made.data.ctypes.data, base64.b64decode(given["data"]), made.byte_size)
    return made


def outputs(ov, compiled, feed):
    request = compiled.create_infer_request()
    for i, given in enumerate(feed):
        request.set_input_tensor(i, tensor(ov, given))
    # As the worker does. (`infer` says nothing of an error where one thread computes.)
    request.start_async()
    request.wait()
    found = []
    for i in range(len(compiled.outputs)):
        got = request.get_output_tensor(i)
        kind = got.element_type.get_type_name()
        if kind == "string":
            found.append("\0".join(got.str_data.reshape(-1).tolist()).encode())
        else:
            found.append(ctypes.string_at(got.data.ctypes.data, got.byte_size) if got.byte_size else b"")
    return found


def verdict(ov, core, memory, case):
    memory.filled(FILLS[0])
    weights = base64.b64decode(case["weights"])
    held = np.frombuffer(weights, dtype=np.uint8) if weights else np.zeros(0, np.uint8)
    try:
        read = core.read_model(case["xml"].encode(), ov.Tensor(held)) if weights else core.read_model(case["xml"].encode(), b"")
        settings = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
        compiled = core.compile_model(read, "CPU", settings)
        first = outputs(ov, compiled, case["feed"])
        memory.filled(FILLS[1])
        second = outputs(ov, compiled, case["feed"])
    except (RuntimeError, MemoryError, ValueError) as error:
        return "refused", str(error).strip().splitlines()[-1][:200] if str(error).strip() else ""
    # An operator that goes on from the last inference differs in that alone.
    if first != second and outputs(ov, core.compile_model(read, "CPU", settings), case["feed"]) != first:
        return "foreign", "the outputs change with what memory was filled with"
    for byte, out in ((FILLS[0], first), (FILLS[1], second)):
        if any(bytes([byte]) * 4 in out_i for out_i in out):
            return "foreign", f"an output holds {byte:02x}{byte:02x}{byte:02x}{byte:02x}"
    return "ran", hashlib.sha256(b"".join(first)).hexdigest()


def alone(ov, core, memory, case):
    """The verdict of a process of its own."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        found = "refused", ""
        try:
            found = verdict(ov, core, memory, case)
        except BaseException as error:  # noqa: B902: what is not OpenVINO's is a fault of the probe
            found = "broken", repr(error)[:200]
        os.write(writer, json.dumps(found).encode())
        os._exit(0)
    os.close(writer)
    ready, _, _ = select.select([reader], [], [], SECONDS)
    told = os.read(reader, 4096) if ready else b""
    os.close(reader)
    if not ready:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if not ready:
        return "stuck", f"over {SECONDS} s"
    if os.WIFSIGNALED(status) and not told:
        return "crashed", signal.Signals(os.WTERMSIG(status)).name
    return json.loads(told) if told else ("crashed", f"exit {os.WEXITSTATUS(status)}")


def run(path):
    ov = openvino()
    core = ov.Core()
    core.get_property("CPU", "FULL_DEVICE_NAME")
    memory = Memory()
    if memory.fill is None:
        sys.exit("probe.py run: guard.c is not preloaded (LD_PRELOAD)")
    print(json.dumps(dict(version=ov.__version__)), flush=True)
    with open(path) as lines:
        for line in lines:
            case = json.loads(line)
            found = ("refused", case["refused"]) if "refused" in case else alone(ov, core, memory, case)
            told = dict(gave=found[1]) if found[0] == "ran" else dict(why=found[1])
            print(json.dumps(dict(op=case["op"], case=case["case"], verdict=found[0], **told)), flush=True)


def own_operators():
    """Those of the library and its CPU plugin that a model can name by another set's name than an opset's."""
    ov = openvino()
    core = ov.Core()
    core.get_property("CPU", "FULL_DEVICE_NAME")
    memory, found, names = Memory(), [], set()
    libs = os.path.join(os.path.dirname(ov.__file__), "libs")
    for library in os.listdir(libs):
        if "intel_cpu" in library or library.startswith("libopenvino.so"):
            with open(os.path.join(libs, library), "rb") as file:
                for size, name in re.findall(rb"N2ov(?:9intel_cpu|2op8internal|8snippets2op)(\d+)([A-Za-z]\w*)E\0", file.read()):
                    name = name[:int(size)].decode()
                    names |= {name, name.removesuffix("Node")}
    for opset in ("cpu_plugin_opset", "extension", "ie_internal_opset", "SnippetsOpset", "type_relaxed_opset"):
        for name in sorted(names, key=str.lower):
            xml, _, feed = model(name, opset, {}, [Input(np.ones((2, 3), np.float32))], 1)
            _, why = alone(ov, core, memory, dict(xml=xml, weights="", feed=feed))
            if "Cannot create" not in why:
                found.append(f"{opset}/{name}")
    return found


def operators():
    """The operators that the installed library has, by the names of its classes."""
    ov = openvino()
    libs = os.path.join(os.path.dirname(ov.__file__), "libs")
    library = next(name for name in sorted(os.listdir(libs)) if name.startswith("libopenvino.so"))
    with open(os.path.join(libs, library), "rb") as file:
        found = re.findall(rb"_ZTVN2ov2op(?:2v\d|3v\d\d)(\d+)([A-Za-z]\w*)E\0", file.read())
    return sorted({name.decode() for size, name in found if int(size) == len(name)})


KINDS = ("ran", "refused", "crashed", "foreign", "stuck")


def table(path):
    sums, version = {}, ""
    with open(path) as lines:
        for line in lines:
            result = json.loads(line)
            if "version" in result:
                version = result["version"]
                continue
            counts = sums.setdefault(result["op"], dict.fromkeys(KINDS, 0))
            counts[result["verdict"]] += 1
    print(f"OpenVINO {version}")
    print(f"{'operator':<56}" + "".join(f"{kind:>9}" for kind in KINDS))
    for name in sorted(sums, key=str.lower):
        print(f"{name:<56}" + "".join(f"{sums[name][kind]:>9}" for kind in KINDS))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("operators").add_argument("--own", action="store_true", help="those that are in no opset")
    made = verbs.add_parser("cases")
    made.add_argument("--op", action="append")
    made.add_argument("--honest", action="store_true", help="without hostile variations")
    made.add_argument("--each", type=int, default=0, help="so many at most of each honest layer; 0: all")
    for verb in ("run", "table"):
        verbs.add_parser(verb).add_argument("file")
    args = parser.parse_args()
    if args.verb == "cases":
        for case in cases(args.op, args.each, args.honest):
            print(json.dumps(case))
    elif args.verb == "operators":
        print("\n".join(own_operators() if args.own else operators()))
    elif args.verb == "run":
        run(args.file)
    else:
        table(args.file)


if __name__ == "__main__":
    main()
