//! The argument grammar of `wasmtime run`, as text: what was typed becomes
//! [`RunFlags`]. Whether any of it is allowed is for [`crate::policy`] to say.
//! No I/O.

use std::time::Duration;

/// What the arguments of `wasmtime run` before the module ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunFlags {
    /// `-S nn`.
    pub nn: bool,
    /// `-S nn-graph=ENCODING::DIR`, in order.
    pub graphs: Vec<GraphFlag>,
    /// `--dir HOST[::GUEST]`, in order.
    pub dirs: Vec<DirFlag>,
    /// `--env NAME[=VALUE]`, in order; no value means: inherit the host's.
    pub env: Vec<(String, Option<String>)>,
    /// `--invoke NAME`.
    pub invoke: Option<String>,
    /// `-W timeout=…`.
    pub timeout: Option<Duration>,
    /// `-W max-memory-size=…`, in bytes.
    pub max_memory: Option<u64>,
    /// `-W max-wasm-stack=…`, in bytes.
    pub max_wasm_stack: Option<u64>,
    /// `-S` options that would reach the host and are on, by name
    /// (`inherit-env`, `inherit-network`, `tcp`, …).
    pub host_access: Vec<String>,
    /// Settings of an engine that the worker owns, as typed: without effect.
    pub ignored: Vec<String>,
}

/// One `-S nn-graph`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GraphFlag {
    /// As typed, such as `openvino`.
    pub encoding: String,
    /// As typed.
    pub dir: String,
}

/// One `--dir`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirFlag {
    /// The host's path, as typed.
    pub host: String,
    /// The guest's path: as typed behind `::`, else the host's.
    pub guest: String,
}

/// Why arguments were not understood. The text names the argument.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FlagError(String);
