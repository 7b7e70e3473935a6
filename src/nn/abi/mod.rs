//! What guests import: the calls, as they read and write a guest's memory.

#[cfg(test)]
mod test_support;
pub(super) mod wit;
pub(super) mod witx;

use crate::cancel::Reason;

/// What ends a task that was to end during a call. No guest can go on after it.
fn interrupted(call: &str, reason: Reason) -> wasmtime::Error {
    let why = match reason {
        Reason::Stopped => "the task was stopped",
        Reason::Timeout(_) => "the task's time is over",
        Reason::ShuttingDown => "the worker is shutting down",
    };
    wasmtime::Error::msg(format!("`{call}` was interrupted: {why}"))
}

/// What ends a task that calls wasi-nn without having it.
fn missing(call: &str) -> wasmtime::Error {
    wasmtime::Error::msg(format!("`{call}`: the task has no wasi-nn; ask for it with `-S nn`"))
}
