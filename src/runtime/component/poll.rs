//! `wasi:io/poll` that can be interrupted.
//!
//! The one of wasmtime-wasi waits for as long as the guest says, so a stopped
//! task would keep its thread. A store that suspends its guest, as the engine's
//! async ones do, would need a stack for each guest that is deep enough for
//! wasi-nn's libraries; so the wait alone is a future, and ends with the task's
//! [`Cancel`].

use crate::cancel::Cancel;
use crate::runtime::sandbox::{Interrupted, TaskState};
use std::sync::Arc;
use tokio::sync::Notify;
use wasmtime::component::{HasData, Linker, Resource, ResourceTable};
use wasmtime_wasi::WasiView as _;
use wasmtime_wasi::p2::DynPollable;
use wasmtime_wasi::p2::bindings::io::poll as waiting;
use wasmtime_wasi::p2::bindings::sync::io::poll;
use wasmtime_wasi::runtime::in_tokio;

/// Puts these functions in the place of those that `linker` has.
pub(super) fn shadow(linker: &mut Linker<TaskState>) -> wasmtime::Result<()> {
    poll::add_to_linker::<TaskState, Waits>(linker, |state| {
        let cancel = state.cancel.clone();
        Wait { table: state.ctx().table, cancel }
    })
}

struct Waits;

impl HasData for Waits {
    type Data<'a> = Wait<'a>;
}

struct Wait<'a> {
    table: &'a mut ResourceTable,
    cancel: Arc<Cancel>,
}

impl poll::Host for Wait<'_> {
    fn poll(&mut self, pollables: Vec<Resource<DynPollable>>) -> wasmtime::Result<Vec<u32>> {
        unless_cancelled(&self.cancel, waiting::Host::poll(self.table, pollables))
    }
}

impl poll::HostPollable for Wait<'_> {
    fn ready(&mut self, pollable: Resource<DynPollable>) -> wasmtime::Result<bool> {
        poll::HostPollable::ready(self.table, pollable)
    }

    fn block(&mut self, pollable: Resource<DynPollable>) -> wasmtime::Result<()> {
        unless_cancelled(&self.cancel, waiting::HostPollable::block(self.table, pollable))
    }

    fn drop(&mut self, pollable: Resource<DynPollable>) -> wasmtime::Result<()> {
        poll::HostPollable::drop(self.table, pollable)
    }
}

/// What `wait` comes to, unless the task is to end first.
pub(super) fn unless_cancelled<R>(
    cancel: &Cancel,
    wait: impl Future<Output = wasmtime::Result<R>>,
) -> wasmtime::Result<R> {
    let cancelled = Arc::new(Notify::new());
    let interrupt = {
        let cancelled = cancelled.clone();
        // One who waits later finds it, too.
        move || cancelled.notify_one()
    };
    let waited = cancel.interruptible(interrupt, || {
        in_tokio(async {
            tokio::select! {
                () = cancelled.notified() => None,
                result = wait => Some(result),
            }
        })
    });
    match (waited, cancel.reason()) {
        (Err(reason), _) | (_, Some(reason)) => Err(Interrupted(reason).into()),
        (Ok(Some(result)), None) => result,
        (Ok(None), None) => unreachable!("it is interrupted for a reason alone"),
    }
}
