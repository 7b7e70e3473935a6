//! Every flag of `wasmtime run` and every option of its groups, once: what it
//! takes, what it does here, and the line that `help` prints for it.

use super::grammar::{
    Flag, FlagDesc, OptionDesc, OptionEffect, OptionGroup, Shape, option, unsupported,
};

const KEYS: &str = "KEY[=VAL[,..]]";

pub(super) const FLAGS: &[FlagDesc] = &[
    FlagDesc {
        names: &["-S", "--wasi"],
        flag: Flag::Group(OptionGroup::Wasi),
        value: KEYS,
        help: "WASI and its proposals; `-S help` lists them",
    },
    FlagDesc {
        names: &["-W", "--wasm"],
        flag: Flag::Group(OptionGroup::Wasm),
        value: KEYS,
        help: "limits and semantics of WebAssembly; `-W help` lists them",
    },
    FlagDesc {
        names: &["--dir"],
        flag: Flag::Dir,
        value: "HOST_DIR[::GUEST_DIR]",
        help: "give the guest a directory of the host",
    },
    FlagDesc {
        names: &["--env"],
        flag: Flag::Env,
        value: "NAME[=VAL]",
        help: "set a variable for the guest, or let it inherit the host's",
    },
    FlagDesc {
        names: &["--invoke"],
        flag: Flag::Invoke,
        value: "FUNCTION",
        help: "call this export; the guest's arguments are its parameters",
    },
    FlagDesc {
        names: &["--addr"],
        flag: Flag::Addr,
        value: "ADDRESS:PORT",
        help: "where a component that is an HTTP server listens",
    },
    FlagDesc {
        names: &["--port"],
        flag: Flag::Port,
        value: "PORT",
        help: "the same, at the worker's own address",
    },
    FlagDesc {
        names: &["-O", "--optimize"],
        flag: Flag::Group(OptionGroup::Optimize),
        value: KEYS,
        help: "accepted, without effect",
    },
    FlagDesc {
        names: &["-C", "--codegen"],
        flag: Flag::Group(OptionGroup::Codegen),
        value: KEYS,
        help: "accepted, without effect",
    },
    FlagDesc {
        names: &["-D", "--debug"],
        flag: Flag::Group(OptionGroup::Debug),
        value: KEYS,
        help: "accepted, without effect",
    },
    FlagDesc {
        names: &["--wasi-modules"],
        flag: Flag::WasiModules,
        value: "LIST",
        help: "the form of `-S` before Wasmtime 14",
    },
    FlagDesc {
        names: &["--mapdir"],
        flag: Flag::MapDir,
        value: "GUEST_DIR::HOST_DIR",
        help: "the form of `--dir` before Wasmtime 14",
    },
    FlagDesc { names: &["-h", "--help"], flag: Flag::Help, value: "", help: "print this list" },
    unsupported(&["--argv0"], "argv[0] is the module's name"),
    unsupported(
        &["--preload"],
        "a task is one module; link the other one into it when it is built",
    ),
    unsupported(&["--allow-precompiled"], "only WebAssembly is run, never compiled native code"),
    unsupported(&["--profile"], "the engine that all tasks share has no profiler"),
    unsupported(&["-R", "--record"], "executions are not recorded"),
    unsupported(&["-g"], "the engine that all tasks share has no debugger"),
    unsupported(&["--target"], "modules are compiled for the worker's own machine"),
    unsupported(&["--config"], "the engine's settings are the worker's, not a file's"),
    unsupported(
        &["--wasm-timeout"],
        "it is a form from before Wasmtime 14; today's is `-W timeout=DURATION`",
    ),
    unsupported(
        &["--wasi-nn-graph"],
        "it is a form from before Wasmtime 14; today's is `-S nn-graph=FORMAT::DIR`",
    ),
    unsupported(
        &["--max-wasm-stack"],
        "it is a form from before Wasmtime 14; today's is `-W max-wasm-stack=N`",
    ),
    unsupported(
        &["--fuel"],
        "fuel is a property of the engine that all tasks share; limit the time with `-W timeout=DURATION`",
    ),
    unsupported(
        &["--wasm-features"],
        "it is a form from before Wasmtime 14, and which proposals are on is the worker's matter",
    ),
    unsupported(&["--tcplisten", "--listenfd"], "sockets of the host are not for guests"),
];

const NOT_PROVIDED: &str = "components find the packages `wasi:cli`, `wasi:clocks`, `wasi:filesystem`, `wasi:io`, `wasi:random`, \
     `wasi:sockets` and `wasi:nn` here; give the guest what it reads by its arguments, `--env` or `--dir`";
const NO_P3: &str = "WASI 0.3 is experimental in this engine: build the guest for 0.2";
const OWN_LIMIT: &str = "this limit can't be set for one task, and the worker's own holds; what can be tightened are \
     `-W timeout` and `-W max-memory-size`";
const STREAMS: &str = "what the guest prints is the task's result and always kept";
const LINKING: &str = "a module whose imports or exports are unknown is not run";

use OptionEffect::{AlwaysOn, Host, Ignored, Refused};
use Shape::{Integer, Switch, Text};

const WASI: &[OptionDesc] = &[
    option(
        "cli",
        Switch,
        Ignored,
        "WASI for command-line programs, modules and components; always on",
    ),
    option("cli-exit-with-code", Switch, Ignored, "A component's own exit codes; always on"),
    option("common", Switch, Ignored, "The former name of `cli`"),
    option(
        "nn",
        Switch,
        OptionEffect::Nn,
        "Enable support for WASI neural network imports; a guest that has them needs no flag",
    ),
    option(
        "nn-graph",
        Shape::Graph,
        OptionEffect::Graph,
        "Load the graph of a host directory; the guest loads it by the directory's name",
    ),
    option("threads", Switch, Refused("guests run in a single thread"), "Not supported"),
    option("http", Switch, Ignored, "WASI HTTP; a component that imports it has it"),
    option("http-outgoing-body-buffer-chunks", Integer, Ignored, "Without effect"),
    option("http-outgoing-body-chunk-size", Integer, Ignored, "Without effect"),
    option("config", Switch, Refused(NOT_PROVIDED), "Not supported"),
    option("keyvalue", Switch, Refused(NOT_PROVIDED), "Not supported"),
    option("listenfd", Switch, Host, "Take over listening sockets; reaches the host"),
    option("tcplisten", Text, Host, "Open a listening socket; reaches the host"),
    option("tls", Switch, Host, "WASI TLS imports; reaches the host"),
    option("preview2", Switch, Ignored, "Which implementation of WASI serves; without effect"),
    option("inherit-network", Switch, Host, "The host's whole network; reaches the host"),
    option("allow-ip-name-lookup", Switch, Host, "Resolve host names; reaches the host"),
    option("tcp", Switch, Host, "TCP sockets; reaches the host"),
    option("udp", Switch, Host, "UDP sockets; reaches the host"),
    option(
        "network-error-code",
        Switch,
        Ignored,
        "A component's own error codes of sockets; always on",
    ),
    option("preview0", Switch, Ignored, "Imports of `wasi_unstable`; without effect"),
    option("inherit-env", Switch, Host, "All of the host's environment; reaches the host"),
    option("inherit-stdin", Switch, Ignored, "Standard input; a task's is closed"),
    option("inherit-stdout", Switch, AlwaysOn(STREAMS), "Always so"),
    option("inherit-stderr", Switch, AlwaysOn(STREAMS), "Always so"),
    option(
        "cwd",
        Text,
        Refused("a guest has no working directory: give it one as `.` with `--dir HOST::.`"),
        "Not supported",
    ),
    option("runtime-config", Switch, Refused(NOT_PROVIDED), "Not supported"),
    option("runtime-config-var", Text, Refused(NOT_PROVIDED), "Not supported"),
    option("config-var", Text, Refused(NOT_PROVIDED), "Not supported"),
    option("keyvalue-in-memory-data", Text, Refused(NOT_PROVIDED), "Not supported"),
    option("p3", Switch, Refused(NO_P3), "Not supported"),
    option("max-resources", Integer, Ignored, "A limit of the host's; the worker's own holds"),
    option("hostcall-fuel", Integer, Ignored, "A limit of the host's; the worker's own holds"),
    option("max-random-size", Integer, Ignored, "A limit of the host's; the worker's own holds"),
    option(
        "max-http-fields-size",
        Integer,
        Ignored,
        "A limit of the host's; the worker's own holds",
    ),
];

/// Whether a proposal is on is a property of the engine: a module that needs
/// one that is off does not compile, and says so.
const PROPOSAL: &str = "A proposal; which ones are on is the worker's matter";
const ENGINE: &str = "A property of the engine that all tasks share; without effect";

const WASM: &[OptionDesc] = &[
    option(
        "timeout",
        Shape::Duration,
        OptionEffect::Timeout,
        "Wall-clock limit of the task (1, 2s, 100ms, ..); tightens the worker's own",
    ),
    option(
        "max-memory-size",
        Integer,
        OptionEffect::MaxMemory,
        "Bytes of linear memory; tightens the worker's own",
    ),
    option(
        "max-wasm-stack",
        Integer,
        OptionEffect::MaxStack,
        "Bytes of WebAssembly stack that the task needs",
    ),
    option(
        "fuel",
        Integer,
        Refused(
            "fuel is a property of the engine that all tasks share; limit the time with `-W timeout=DURATION`",
        ),
        "Not supported: use `timeout`",
    ),
    option("max-table-elements", Integer, Refused(OWN_LIMIT), "Not supported"),
    option("max-instances", Integer, Refused(OWN_LIMIT), "Not supported"),
    option("max-tables", Integer, Refused(OWN_LIMIT), "Not supported"),
    option("max-memories", Integer, Refused(OWN_LIMIT), "Not supported"),
    option(
        "trap-on-grow-failure",
        Switch,
        Refused("memory that can't grow is an error that the guest sees, never a trap"),
        "Not supported",
    ),
    option("unknown-exports-allow", Switch, Refused(LINKING), "Not supported"),
    option("unknown-imports-trap", Switch, Refused(LINKING), "Not supported"),
    option("unknown-imports-default", Switch, Refused(LINKING), "Not supported"),
    option("nan-canonicalization", Switch, Ignored, ENGINE),
    option("epoch-interruption", Switch, Ignored, ENGINE),
    option("async-stack-size", Integer, Ignored, ENGINE),
    option("async-stack-zeroing", Switch, Ignored, ENGINE),
    option("wmemcheck", Switch, Ignored, ENGINE),
    option("relaxed-simd-deterministic", Switch, Ignored, ENGINE),
    option("shared-memory", Switch, Ignored, ENGINE),
    option("gc-support", Switch, Ignored, ENGINE),
    option("concurrency-support", Switch, Ignored, ENGINE),
    option("all-proposals", Switch, Ignored, PROPOSAL),
    option("bulk-memory", Switch, Ignored, PROPOSAL),
    option("multi-memory", Switch, Ignored, PROPOSAL),
    option("multi-value", Switch, Ignored, PROPOSAL),
    option("reference-types", Switch, Ignored, PROPOSAL),
    option("simd", Switch, Ignored, PROPOSAL),
    option("relaxed-simd", Switch, Ignored, PROPOSAL),
    option("tail-call", Switch, Ignored, PROPOSAL),
    option("threads", Switch, Ignored, PROPOSAL),
    option("shared-everything-threads", Switch, Ignored, PROPOSAL),
    option("memory64", Switch, Ignored, PROPOSAL),
    option("component-model", Switch, Ignored, PROPOSAL),
    option("component-model-async", Switch, Ignored, PROPOSAL),
    option("component-model-async-builtins", Switch, Ignored, PROPOSAL),
    option("component-model-async-stackful", Switch, Ignored, PROPOSAL),
    option("component-model-threading", Switch, Ignored, PROPOSAL),
    option("component-model-error-context", Switch, Ignored, PROPOSAL),
    option("component-model-gc", Switch, Ignored, PROPOSAL),
    option("component-model-fixed-length-lists", Switch, Ignored, PROPOSAL),
    option("function-references", Switch, Ignored, PROPOSAL),
    option("stack-switching", Switch, Ignored, PROPOSAL),
    option("gc", Switch, Ignored, PROPOSAL),
    option("custom-page-sizes", Switch, Ignored, PROPOSAL),
    option("wide-arithmetic", Switch, Ignored, PROPOSAL),
    option("extended-const", Switch, Ignored, PROPOSAL),
    option("exceptions", Switch, Ignored, PROPOSAL),
];

/// The options of a group; none when it takes any.
pub(super) fn of(group: OptionGroup) -> Option<&'static [OptionDesc]> {
    match group {
        OptionGroup::Wasi => Some(WASI),
        OptionGroup::Wasm => Some(WASM),
        OptionGroup::Optimize | OptionGroup::Codegen | OptionGroup::Debug => None,
    }
}

/// The flag of this name, dashes included.
pub(super) fn flag(name: &str) -> Option<&'static FlagDesc> {
    FLAGS.iter().find(|desc| desc.names.contains(&name))
}

/// The names of the flags that work here.
pub(super) fn flags() -> impl Iterator<Item = &'static str> {
    FLAGS
        .iter()
        .filter(|desc| !matches!(desc.flag, Flag::Unsupported(_)))
        .flat_map(|desc| desc.names.iter().copied())
}
