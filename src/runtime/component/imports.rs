//! What components may import, and what is said of an import that is not there.

use super::{WASI, files, network, poll, streams};
use crate::runtime::Stdio;
use crate::runtime::sandbox::TaskState;
use wasmtime::Engine;
use wasmtime::component::{Component, InstancePre, Linker};

/// The interfaces that components find here, in each version 0.2 up to [`WASI`].
const PROVIDED: [&str; 29] = [
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
    // What goes out is for `outgoing` to allow.
    "wasi:http/outgoing-handler",
    "wasi:http/types",
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
const PACKAGES: [&str; 7] = [
    "wasi:cli",
    "wasi:clocks",
    "wasi:filesystem",
    "wasi:http",
    "wasi:io",
    "wasi:random",
    "wasi:sockets",
];

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
    wasmtime_wasi_http::p2::add_only_http_to_linker_sync(&mut linker)?;
    crate::nn::add_to_component_linker(&mut linker, |state: &mut TaskState| &mut state.nn)?;
    linker.allow_shadowing(true);
    poll::shadow(&mut linker)?;
    network::shadow(&mut linker)?;
    files::shadow(&mut linker)?;
    streams::shadow_waits(&mut linker)?;
    match stdio {
        Stdio::Captured => streams::shadow(&mut linker)?,
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
pub(in crate::runtime) fn missing(import: &str) -> Option<String> {
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
        _ => format!(
            "this worker provides {}, all of them in version {WASI}, and `{NN_PACKAGE}@{NN}`",
            PACKAGES.map(|package| format!("`{package}`")).join(", ")
        ),
    };
    Some(format!("it imports `{import}`, which is not provided: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// One thing that each interface has.
    const ITEMS: [(&str, &str); 33] = [
        ("wasi:cli/environment", "get-arguments"),
        ("wasi:cli/exit", "exit"),
        ("wasi:cli/stderr", "get-stderr"),
        ("wasi:cli/stdin", "get-stdin"),
        ("wasi:cli/stdout", "get-stdout"),
        ("wasi:cli/terminal-input", "terminal-input"),
        ("wasi:cli/terminal-output", "terminal-output"),
        ("wasi:cli/terminal-stderr", "get-terminal-stderr"),
        ("wasi:cli/terminal-stdin", "get-terminal-stdin"),
        ("wasi:cli/terminal-stdout", "get-terminal-stdout"),
        ("wasi:clocks/monotonic-clock", "subscribe-duration"),
        ("wasi:clocks/wall-clock", "now"),
        ("wasi:filesystem/preopens", "get-directories"),
        ("wasi:filesystem/types", "[method]descriptor.open-at"),
        ("wasi:http/outgoing-handler", "handle"),
        ("wasi:http/types", "fields"),
        ("wasi:io/error", "error"),
        ("wasi:io/poll", "poll"),
        ("wasi:io/streams", "input-stream"),
        ("wasi:nn/errors", "error"),
        ("wasi:nn/graph", "load"),
        ("wasi:nn/inference", "[method]graph-execution-context.compute"),
        ("wasi:nn/tensor", "[constructor]tensor"),
        ("wasi:random/insecure", "get-insecure-random-u64"),
        ("wasi:random/insecure-seed", "insecure-seed"),
        ("wasi:random/random", "get-random-u64"),
        ("wasi:sockets/instance-network", "instance-network"),
        ("wasi:sockets/ip-name-lookup", "resolve-addresses"),
        ("wasi:sockets/network", "network"),
        ("wasi:sockets/tcp", "tcp-socket"),
        ("wasi:sockets/tcp-create-socket", "create-tcp-socket"),
        ("wasi:sockets/udp", "udp-socket"),
        ("wasi:sockets/udp-create-socket", "create-udp-socket"),
    ];

    #[test]
    fn each_interface_that_is_said_to_be_provided_is() {
        let engine = Engine::default();
        for stdio in [Stdio::Captured, Stdio::Inherited] {
            let mut linker = linker(&engine, stdio).expect("a linker");
            let mut there = |interface: &str, version: &str, item: &str| {
                let mut instance =
                    linker.instance(&format!("{interface}@{version}")).expect("an instance");
                // What is there is not defined a second time.
                instance.func_wrap(item, |_, (): ()| Ok(())).is_err()
            };
            for (interface, item) in ITEMS {
                let version = if interface.starts_with(NN_PACKAGE) { NN } else { WASI };
                assert!(there(interface, version, item), "{interface}#{item}");
            }
        }
        let wasi = ITEMS.map(|(interface, _)| interface);
        let wasi = wasi.into_iter().filter(|interface| !interface.starts_with(NN_PACKAGE));
        assert!(wasi.eq(PROVIDED), "and these are what messages name");
    }

    #[test]
    fn the_table_in_the_readme_has_what_is_provided() {
        let readme = include_str!("../../../README.md");
        let (_, section) = readme.split_once("\n## Components\n").expect("the section");
        let (section, _) = section.split_once("\n## ").expect("the next one");
        let mut told = BTreeSet::new();
        for row in section.lines() {
            let mut cells = row.split(" | ");
            let package = cells.next().and_then(|cell| cell.strip_prefix("| `wasi:"));
            let Some(package) = package.and_then(|package| package.strip_suffix('`')) else {
                continue;
            };
            let quoted = cells.next().expect("its interfaces").split('`').skip(1).step_by(2);
            let names = quoted.filter(|name| !name.contains('.'));
            told.extend(names.map(|name| format!("wasi:{package}/{name}")));
        }
        assert_eq!(told, ITEMS.iter().map(|(interface, _)| (*interface).to_owned()).collect());
    }
}
