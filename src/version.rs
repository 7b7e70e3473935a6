//! What this build is; stamped by `build.rs`.

/// The package's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit, or `unknown`.
pub const COMMIT: &str = env!("PROPLET_COMMIT");

/// The wasi-nn backends of this build, such as `openvino, rten`; or `none`.
pub const BACKENDS: &str = env!("PROPLET_BACKENDS");

/// The WebAssembly engine with its version.
pub const WASMTIME: &str = env!("PROPLET_WASMTIME");

/// All of it on one line, as `--version` prints it.
pub const LONG: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (commit ",
    env!("PROPLET_COMMIT"),
    ", wasi-nn backends: ",
    env!("PROPLET_BACKENDS"),
    ", ",
    env!("PROPLET_WASMTIME"),
    ")"
);
