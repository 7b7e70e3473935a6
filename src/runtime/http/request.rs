//! One request in one fresh instance.

use super::Server;
use super::exchange::Exchange;
use crate::cancel::Doing;
use crate::runtime::run::{describe, panic_message};
use crate::runtime::sandbox::TaskState;
use crate::task::Failure;
use hyper::{Request, Response, StatusCode};
use std::panic::{AssertUnwindSafe, catch_unwind};
use tokio::sync::oneshot;
use wasmtime::{Store, Trap};
use wasmtime_wasi::I32Exit;
use wasmtime_wasi_http::WasiHttpView as _;
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, Scheme};
use wasmtime_wasi_http::p2::body::{HyperIncomingBody, HyperOutgoingBody};

/// What a guest answers.
pub(super) type GuestAnswer = Result<Response<HyperOutgoingBody>, ErrorCode>;

/// Has the guest answer, on this thread. Whatever it does, this returns when it
/// has ended, with the status for a client that it left without an answer.
pub(super) fn run(
    server: &Server,
    exchange: &Exchange,
    request: Request<HyperIncomingBody>,
    reply: oneshot::Sender<GuestAnswer>,
) -> StatusCode {
    // Unwind safe: what a panic may leave half done is dropped with the store.
    let ended = catch_unwind(AssertUnwindSafe(|| attempt(server, exchange, request, reply)));
    exchange.guest_ended(ended.unwrap_or_else(|panic| {
        Err(Failure::Internal(format!("panic while the guest ran: {}", panic_message(&*panic))))
    }))
}

fn attempt(
    server: &Server,
    exchange: &Exchange,
    request: Request<HyperIncomingBody>,
    reply: oneshot::Sender<GuestAnswer>,
) -> Result<(), Failure> {
    let Server { stores, artefact, stdout, stderr, .. } = server;
    let cancel = &exchange.cancel;
    if let Some(reason) = cancel.reason() {
        // It waited for too long.
        return Err(reason.into());
    }
    let grant = server.spec.grant();
    let _watch = stores.ticker.watch(cancel, Some(server.serving.timeout));
    let nn = stores.nn(grant, artefact.imports_nn, cancel)?;
    let (engine, output) = (artefact.code.engine(), (stdout, stderr));
    let mut store = stores.store(engine, grant, nn, output, Some(&server.memory), cancel)?;
    // Dropped before the store is, and with that what the guest has not ended.
    let runs = exchange.guest_runs();
    cancel.set_doing(Doing::Running);
    let ended = match call(server, &mut store, request, reply) {
        Ok(()) => Ok(()),
        Err(error) => failure(&error, exchange),
    };
    if ended.is_ok() {
        runs.well();
    } else {
        let state = store.data();
        let refused = state.nn.as_ref().map(|nn| nn.report().diagnostics).unwrap_or_default();
        let refused = refused.iter().map(|sentence| format!("wasi-nn: {sentence}"));
        let refused = refused
            .chain(state.refused.told(&grant.dirs))
            .chain(state.memory_refused())
            .chain(state.outgoing.refusal());
        refused.for_each(|why| exchange.complain(&why));
    }
    ended
}

fn call(
    server: &Server,
    store: &mut Store<TaskState>,
    request: Request<HyperIncomingBody>,
    reply: oneshot::Sender<GuestAnswer>,
) -> wasmtime::Result<()> {
    let proxy = server.proxy.instantiate(&mut *store)?;
    let mut http = store.data_mut().http();
    let request = http.new_incoming_request(Scheme::Http, request)?;
    let out = http.new_response_outparam(reply)?;
    proxy.wasi_http_incoming_handler().call_handle(&mut *store, request, out)
}

fn failure(error: &wasmtime::Error, exchange: &Exchange) -> Result<(), Failure> {
    if let Some(I32Exit(code)) = error.downcast_ref::<I32Exit>() {
        return if *code == 0 { Ok(()) } else { Err(Failure::Exit(*code)) };
    }
    if let Some(reason) = exchange.cancel.reason() {
        return Err(reason.into());
    }
    let text = describe(error);
    Err(if error.is::<Trap>() { Failure::Trap(text) } else { Failure::Fault(text) })
}
