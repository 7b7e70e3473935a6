//! Components: what they may import, and calling `wasi:cli/run` as `wasmtime
//! run` does.

mod files;
pub(super) mod imports;
mod network;
mod poll;
pub(super) mod size;
mod streams;

use super::CallError;
use super::sandbox::TaskState;
use crate::task::{Entry, Failure};
use wasmtime::Store;
use wasmtime::component::InstancePre;
use wasmtime_wasi::I32Exit;
use wasmtime_wasi::p2::bindings::sync::CommandPre;

/// The version of WASI that is provided: wasmtime-wasi's own, by whose name its
/// functions are replaced here.
const WASI: &str = "0.2.12";

/// Instantiates the component and runs it as a command. Returns a line for each
/// result.
pub(super) fn call(
    store: &mut Store<TaskState>,
    pre: &InstancePre<TaskState>,
    entry: &Entry,
    _inputs: &[String],
) -> Result<Vec<String>, CallError> {
    if let Entry::Invoke(name) = entry {
        return Err(CallError::Refused(Failure::Module(format!(
            "`--invoke {name}`: this version runs components as commands alone: leave it out"
        ))));
    }
    let command = CommandPre::new(pre.clone()).map_err(|_| {
        let component = pre.component();
        let ty = component.component_type();
        let exports: Vec<_> =
            ty.exports(component.engine()).map(|(name, _)| format!("`{name}`")).collect();
        let exports = match exports.len() {
            0 => "nothing at all".to_owned(),
            _ => exports.join(", "),
        };
        CallError::Refused(Failure::Module(format!(
            "the component is no command: it does not export `wasi:cli/run@0.2`, but {exports}"
        )))
    })?;
    let command = command.instantiate(&mut *store).map_err(CallError::Guest)?;
    let ended = command.wasi_cli_run().call_run(&mut *store).map_err(CallError::Guest)?;
    // What a program of `wasi:cli` says by it has no other number.
    ended.map_err(|()| CallError::Guest(I32Exit(1).into()))?;
    Ok(Vec::new())
}
