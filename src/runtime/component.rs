//! Components: what they may import, and calling `wasi:cli/run` as `wasmtime
//! run` does, or a function of theirs by name.

mod files;
pub(super) mod imports;
mod network;
mod poll;
pub(super) mod size;
mod streams;
mod typed;
pub(super) mod wave;

use super::CallError;
use super::sandbox::TaskState;
use crate::task::{EntryPoint, Failure};
use wasmtime::Store;
use wasmtime::component::InstancePre;
use wasmtime_wasi::I32Exit;
use wasmtime_wasi::p2::bindings::sync::CommandPre;

pub(super) use typed::{Target, signatures, target};

/// The version of WASI that is provided: wasmtime-wasi's own, by whose name its
/// functions are replaced here.
const WASI: &str = "0.2.12";

/// Instantiates the component and calls what the task means. The value of a
/// function goes to `print`.
pub(super) fn call(
    store: &mut Store<TaskState>,
    pre: &InstancePre<TaskState>,
    target: &Target,
    inputs: &[String],
    print: &mut dyn FnMut(&[u8]),
) -> Result<(), CallError> {
    match target {
        Target::Function(function) => typed::call(store, pre, function, inputs, print),
        Target::Command => command(store, pre),
    }
}

/// Whether a task with this entry can be called, as far as that is known
/// without an instance.
///
/// # Errors
///
/// It can't.
pub(super) fn check(pre: &InstancePre<TaskState>, entry: &EntryPoint) -> Result<(), Failure> {
    match target(pre.component(), entry)?.0 {
        Target::Function(_) => Ok(()),
        Target::Command => as_command(pre).map(drop),
    }
}

fn as_command(pre: &InstancePre<TaskState>) -> Result<CommandPre<TaskState>, Failure> {
    CommandPre::new(pre.clone()).map_err(|_| {
        Failure::Module(format!(
            "the component is not a command: it does not export `wasi:cli/run@0.2`, but {}: name one \
             with `--invoke` or as the task's name",
            typed::exports(pre.component())
        ))
    })
}

fn command(store: &mut Store<TaskState>, pre: &InstancePre<TaskState>) -> Result<(), CallError> {
    let command = as_command(pre).map_err(CallError::Refused)?;
    let command = command.instantiate(&mut *store).map_err(CallError::Guest)?;
    let ended = command.wasi_cli_run().call_run(&mut *store).map_err(CallError::Guest)?;
    // What a program of `wasi:cli` says by it has no other number.
    ended.map_err(|()| CallError::Guest(I32Exit(1).into()))
}
