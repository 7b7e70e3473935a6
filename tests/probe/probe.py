#!/usr/bin/env python3
"""What OpenVINO's operators do with hostile attributes, shapes and inputs.

    probe.py operators [--own]                          those of the installed library
    probe.py cases [--op NAME].. [--each N] > CASES     models, a JSON object a line
    probe.py cases --honest > CASES                     those that mean no harm
    probe.py run CASES [--known RESULTS] > RESULTS      each in a process of its own: what came of
                                                        it, and a digest of what it gave
    probe.py table RESULTS                              the sums by operator

`run` loads the library once, in a process of one thread, which forks for each model. It has `guard.c`
(see there) preloaded, and looks for bytes in the outputs that are of nothing that the model was
given: those that memory was filled with, and those that change with it.
"""

import argparse
import base64
import collections
import ctypes
import gc
import hashlib
import itertools
import json
import os
import re
import resource
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
# Where `fixtures/setup.py` puts the library and numpy.
sys.path.insert(0, os.path.join(os.environ.get("PROBE_TARGET", os.path.join(HERE, "..", "..", "target")), "python"))

# A fork takes no other thread along, and these would start one.
os.environ["OPENBLAS_NUM_THREADS"] = "1"
sys.modules["openvino_telemetry"] = None

import numpy as np  # noqa: E402

# What new memory is filled with, one after the other; freed memory has the complement.
FILLS = (0xA5, 0x3C)
PATTERNS = [bytes([byte ^ other]) * 4 for byte in FILLS for other in (0, 0xFF)]
# What a model may compute, and how long it may do nothing.
SECONDS = 6
WAIT = 120
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

    def along(self, axis, array):
        """The array in its place, with this one of its dimensions open."""
        declared = list(self.array.shape)
        declared[axis] = "?"
        return Input(np.asarray(array, dtype=self.array.dtype), False, declared)

    def opened(self):
        return self if self.constant else Input(self.array, False, ["?"] * self.array.ndim)


def fed(array):
    """What an input is given."""
    if array.dtype.kind == "U":
        return dict(type="string", shape=list(array.shape), data=array.tolist())
    data = base64.b64encode(array.tobytes()).decode()
    return dict(type=PRECISIONS[array.dtype.name][0], shape=list(array.shape), data=data)


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
            feed.append(fed(it.array))
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


def resized(array, shape):
    return np.resize(array, shape) if array.size else np.zeros(shape, array.dtype)


def along(array):
    """`(axis, size, array)`: the same elements with another size of one dimension."""
    dims = list(array.shape)
    for axis, dim in enumerate(dims):
        for size in sorted({0, 1, dim + 1, dim * 3 + 2}):
            if axis in (0, len(dims) - 1) or size not in (dim, dim + 1):
                yield axis, size, resized(array, dims[:axis] + [size] + dims[axis + 1:])


def shapes(array):
    """The same elements in other shapes."""
    for axis, size, changed in along(array):
        if axis in (0, array.ndim - 1):
            yield f" dim{axis}={size}", changed
    yield " rank+1", resized(array, [1, *array.shape])
    if array.ndim:
        yield " rank-1", resized(array, array.shape[1:])


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
        # The library works out more of a shape of which one dimension alone is open.
        for axis, size, array in () if it.constant else along(it.array):
            changed = inputs[:i] + [it.along(axis, array)] + inputs[i + 1:]
            yield f"in{i} dim{axis}={size} alone open", (kind, opset, attributes, changed, outputs)
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
    others = [] if only_honest else [bodies.models(), owned()]
    if not wanted or any(name.startswith("fused/") for name in wanted):
        others.append(fused(only_honest))
    for kind, what, xml, weights, feed in itertools.chain(*others):
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


def fused(only_honest):
    """Models that the library makes other operators of."""
    import fused as models

    for kind, what, xml, weights, given in models.models(openvino(), None if only_honest else (arrays, along, shapes)):
        yield kind, what, xml, weights, [fed(array) for array in given]


# --- Runs ---------------------------------------------------------------------

def openvino():
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


def verdict(ov, core, memory, threads, case):
    memory.filled(FILLS[0])
    weights = base64.b64decode(case["weights"])
    held = np.frombuffer(weights, dtype=np.uint8) if weights else np.zeros(0, np.uint8)
    try:
        read = core.read_model(case["xml"].encode(), ov.Tensor(held)) if weights else core.read_model(case["xml"].encode(), b"")
        settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
        compiled = core.compile_model(read, "CPU", settings)
        try:
            first = outputs(ov, compiled, case["feed"])
        except RuntimeError:
            # What has failed once may be passed over the next time.
            first = outputs(ov, compiled, case["feed"])
        memory.filled(FILLS[1])
        second = outputs(ov, compiled, case["feed"])
    except (RuntimeError, MemoryError, ValueError) as error:
        return "refused", str(error).strip().splitlines()[-1][:200] if str(error).strip() else ""
    # An operator that goes on from the last inference differs in that alone.
    if first != second and outputs(ov, core.compile_model(read, "CPU", settings), case["feed"]) != first:
        return "foreign", "the outputs change with what memory was filled with"
    for pattern in PATTERNS:
        if any(pattern in output for output in first + second):
            return "foreign", f"an output holds {pattern.hex()}"
    return "ran", hashlib.sha256(b"".join(first)).hexdigest()


class Zygote:
    """A process of one thread that has the library loaded, and forks for each case."""

    def __init__(self, threads=1):
        self.threads = threads
        self.ov = openvino()
        self.core = self.ov.Core()
        self.core.get_property("CPU", "FULL_DEVICE_NAME")
        # This loads what reads models, too.
        xml, _, _ = model("Relu", 1, {}, [Input(np.ones(1, np.float32))], 1)
        self.core.read_model(xml.encode(), b"")
        self.memory = Memory()
        threads = os.listdir("/proc/self/task")
        if len(threads) != 1:
            sys.exit(f"probe.py: {len(threads)} threads before the first fork")
        # What is there now is not looked at again, so that pages stay shared.
        gc.collect()
        gc.freeze()

    def begin(self, case):
        """Starts a case; its process's id, and what its verdict is read from until it ends."""
        reader, writer = os.pipe()
        child = os.fork()
        if child:
            os.close(writer)
            return child, reader
        os.close(reader)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        for what, most in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_DATA, MEMORY), (resource.RLIMIT_CPU, SECONDS)):
            resource.setrlimit(what, (most, most))
        try:
            found = verdict(self.ov, self.core, self.memory, self.threads, case)
        except BaseException as error:  # noqa: B902: what is not OpenVINO's is a fault of the probe
            found = "broken", repr(error)[:200]
        os.write(writer, json.dumps(found).encode())
        os._exit(0)

    def verdicts(self, cases, jobs):
        """`(case, verdict)` as they end, so many at a time."""
        cases, running, ready = iter(cases), {}, selectors.DefaultSelector()
        while True:
            while len(running) < jobs and (case := next(cases, None)) is not None:
                child, reader = self.begin(case)
                running[reader] = case, child, time.monotonic() + WAIT
                ready.register(reader, selectors.EVENT_READ)
            if not running:
                return
            for key, _ in ready.select(1):
                case, child, _ = running.pop(key.fd)
                ready.unregister(key.fd)
                # It ends right after it has told, or without.
                told = os.read(key.fd, 4096)
                os.close(key.fd)
                yield case, ended(os.waitpid(child, 0)[1], told)
            for case, child, until in running.values():
                if time.monotonic() > until:
                    os.kill(child, signal.SIGKILL)


def ended(status, told):
    if told:
        return tuple(json.loads(told))
    if not os.WIFSIGNALED(status):
        return "crashed", f"exit {os.WEXITSTATUS(status)}"
    by = os.WTERMSIG(status)
    # At the limit of what it may compute, or of waiting for it.
    return ("stuck", f"over {SECONDS} s") if by in (signal.SIGKILL, signal.SIGXCPU) else ("crashed", signal.Signals(by).name)


def guarded():
    """Begins again with `guard.c` preloaded, if it is not."""
    if hasattr(ctypes.CDLL(None), "probe_fill"):
        shutil.rmtree(os.environ.pop("PROBE_GUARD", ""), ignore_errors=True)
        return
    folder = tempfile.mkdtemp()
    library = os.path.join(folder, "guard.so")
    subprocess.run([os.environ.get("CC", "cc"), "-O2", "-shared", "-fPIC", "-o", library, os.path.join(HERE, "guard.c")], check=True)
    os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "LD_PRELOAD": library, "PROBE_GUARD": folder})


def digest(case):
    parts = json.dumps([case["xml"], case["weights"], case["feed"]], sort_keys=True)
    return hashlib.sha256(parts.encode()).hexdigest()[:32]


def results(path):
    """The version that results are of, and the results; the last one may not have been written whole."""
    with open(path) as lines:
        return json.loads(next(lines))["version"], [json.loads(line) for line in lines if line.endswith("}\n")]


def run(path, known, jobs, threads):
    guarded()
    zygote = Zygote(threads)
    # By what the model is: the same one is run once.
    found = {}
    for file in known:
        version, before = results(file)
        if version != zygote.ov.__version__:
            sys.exit(f"probe.py: {file} is of OpenVINO {version}, this is {zygote.ov.__version__}")
        found.update((result["model"], {key: result[key] for key in ("verdict", "gave", "why") if key in result})
                     for result in before)
    print(json.dumps(dict(version=zygote.ov.__version__)), flush=True)
    asked, waiting = set(found), collections.deque()

    def new():
        with open(path) as lines:
            for case in map(json.loads, lines):
                case["model"] = digest(case)
                waiting.append({key: case[key] for key in ("op", "case", "model")})
                if case["model"] not in asked:
                    asked.add(case["model"])
                    yield case

    def tell():
        # In the order of the file.
        while waiting and (verdict := found.get(waiting[0]["model"])):
            print(json.dumps(waiting.popleft() | verdict), flush=True)

    for case, (verdict, told) in zygote.verdicts(new(), jobs or len(os.sched_getaffinity(0))):
        found[case["model"]] = {"verdict": verdict, "gave" if verdict == "ran" else "why": told}
        tell()
    tell()


def own_operators():
    """Those of the library and its CPU plugin that a model can name by another set's name than an opset's."""
    zygote, found, names = Zygote(), [], set()
    libs = os.path.join(os.path.dirname(zygote.ov.__file__), "libs")
    for library in os.listdir(libs):
        if "intel_cpu" in library or library.startswith("libopenvino.so"):
            with open(os.path.join(libs, library), "rb") as file:
                for size, name in re.findall(rb"N2ov(?:9intel_cpu|2op8internal|8snippets2op)(\d+)([A-Za-z]\w*)E\0", file.read()):
                    name = name[:int(size)].decode()
                    names |= {name, name.removesuffix("Node")}
    for opset in ("cpu_plugin_opset", "extension", "ie_internal_opset", "SnippetsOpset", "type_relaxed_opset"):
        for name in sorted(names, key=str.lower):
            xml, _, feed = model(name, opset, {}, [Input(np.ones((2, 3), np.float32))], 1)
            (_, (_, why)), = zygote.verdicts([dict(xml=xml, weights="", feed=feed)], 1)
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
    sums = {}
    version, found = results(path)
    for result in found:
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
    ran = verbs.add_parser("run")
    ran.add_argument("file")
    ran.add_argument("--known", metavar="RESULTS", action="append", default=[], help="models that are in there are not run again")
    ran.add_argument("--jobs", type=int, help="so many at a time; by default as many as there are processors")
    ran.add_argument("--threads", type=int, default=int(os.environ.get("PROBE_THREADS", "1")), help="those of an inference")
    verbs.add_parser("table").add_argument("file")
    args = parser.parse_args()
    if args.verb == "cases":
        for case in cases(args.op, args.each, args.honest):
            print(json.dumps(case))
    elif args.verb == "operators":
        print("\n".join(own_operators() if args.own else operators()))
    elif args.verb == "run":
        run(args.file, args.known, args.jobs, args.threads)
    else:
        table(args.file)


if __name__ == "__main__":
    main()
