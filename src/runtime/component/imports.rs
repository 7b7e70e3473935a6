//! What components may import, and what is said of an import that is not there.

use super::{WASI, files, network, poll, streams};
use crate::runtime::Stdio;
use crate::runtime::sandbox::TaskState;
use wasmtime::Engine;
use wasmtime::component::{Component, InstancePre, Linker};

/// The interfaces that components find here, in each version 0.2 up to [`WASI`].
const PROVIDED: [&str; 27] = [
    "wasi:cli/environment",
    "wasi:cli/exit",
    "wasi:cli/stderr",
    "wasi:cli/stdin",
    "wasi:cli/stdout",
    "wasi:cli/terminal-input",
    "wasi:cli/terminal-output",
    "wasi:cli/terminal-stderr",
    "wasi:cli/terminal-stdin",
    "wasi:cli/terminal-stdout",
    "wasi:clocks/monotonic-clock",
    "wasi:clocks/wall-clock",
    "wasi:filesystem/preopens",
    "wasi:filesystem/types",
    "wasi:io/error",
    "wasi:io/poll",
    "wasi:io/streams",
    "wasi:random/insecure",
    "wasi:random/insecure-seed",
    "wasi:random/random",
    // These refuse, but they are there: see `network`.
    "wasi:sockets/instance-network",
    "wasi:sockets/ip-name-lookup",
    "wasi:sockets/network",
    "wasi:sockets/tcp",
    "wasi:sockets/tcp-create-socket",
    "wasi:sockets/udp",
    "wasi:sockets/udp-create-socket",
];

/// Their packages.
const PACKAGES: [&str; 6] =
    ["wasi:cli", "wasi:clocks", "wasi:filesystem", "wasi:io", "wasi:random", "wasi:sockets"];

/// The package of wasi-nn.
pub(in crate::runtime) const NN_PACKAGE: &str = "wasi:nn";
/// The version of it.
const NN: &str = "0.2.0-rc-2024-10-28";

/// The functions for components that read and write there.
pub(in crate::runtime) fn linker(
    engine: &Engine,
    stdio: Stdio,
) -> wasmtime::Result<Linker<TaskState>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_sync(&mut linker)?;
    crate::nn::add_to_component_linker(&mut linker, |state: &mut TaskState| &mut state.nn)?;
    linker.allow_shadowing(true);
    poll::shadow(&mut linker)?;
    network::shadow(&mut linker)?;
    match stdio {
        Stdio::Captured => {
            streams::shadow(&mut linker)?;
            files::shadow(&mut linker)?;
        }
        // Who runs a guest by hand may mean a FIFO.
        Stdio::Inherited => {}
    }
    linker.allow_shadowing(false);
    Ok(linker)
}

/// Resolves the imports of `component`.
///
/// # Errors
///
/// A sentence that names an import which is not provided, and the version that
/// is.
pub(in crate::runtime) fn link(
    linker: &Linker<TaskState>,
    component: &Component,
) -> Result<InstancePre<TaskState>, String> {
    linker.instantiate_pre(component).map_err(|e| {
        let ty = component.component_type();
        let missing = ty.imports(component.engine()).find_map(|(name, _)| missing(name));
        match missing {
            Some(why) => format!("the component can't be linked: {why}"),
            None => format!("the component can't be linked: {e:#}"),
        }
    })
}

/// Why an import of this name is not provided, if it is not.
fn missing(import: &str) -> Option<String> {
    let (interface, version) = import.split_once('@').unwrap_or((import, ""));
    if PROVIDED.contains(&interface) {
        // The engine takes each version with the same first two numbers for one.
        let fits = version == "0.2" || version.starts_with("0.2.");
        return (!fits).then(|| {
            format!("it imports `{import}`, and this worker provides `{interface}@{WASI}`")
        });
    }
    let package = interface.split('/').next().unwrap_or(interface);
    let why = match package {
        NN_PACKAGE if version == NN => return None,
        NN_PACKAGE => {
            return Some(format!(
                "it imports `{import}`, and this worker provides `{interface}@{NN}`"
            ));
        }
        "wasi:http" => "a task has no network".to_owned(),
        _ => format!(
            "this worker provides {}, all of them in version {WASI}, and `{NN_PACKAGE}@{NN}`",
            PACKAGES.map(|package| format!("`{package}`")).join(", ")
        ),
    };
    Some(format!("it imports `{import}`, which is not provided: {why}"))
}
