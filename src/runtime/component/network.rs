//! Sockets, which no guest gets.
//!
//! The interfaces are there, since a C library imports them whether its program
//! opens a connection or not. What would make a socket or ask for an address is
//! refused, and the task's diagnostics say so.

use super::WASI;
use crate::runtime::sandbox::TaskState;
use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource};
use wasmtime_wasi::p2::bindings::sockets::ip_name_lookup::ResolveAddressStream;
use wasmtime_wasi::p2::bindings::sockets::network::{ErrorCode, IpAddressFamily, Network};
use wasmtime_wasi::p2::{TcpSocket, UdpSocket};

/// Puts these functions in the place of those that `linker` has.
pub(super) fn shadow(linker: &mut Linker<TaskState>) -> wasmtime::Result<()> {
    linker
        .instance(&format!("wasi:sockets/tcp-create-socket@{WASI}"))?
        .func_wrap("create-tcp-socket", refuse::<(IpAddressFamily,), Resource<TcpSocket>>)?;
    linker
        .instance(&format!("wasi:sockets/udp-create-socket@{WASI}"))?
        .func_wrap("create-udp-socket", refuse::<(IpAddressFamily,), Resource<UdpSocket>>)?;
    linker.instance(&format!("wasi:sockets/ip-name-lookup@{WASI}"))?.func_wrap(
        "resolve-addresses",
        refuse::<(Resource<Network>, String), Resource<ResolveAddressStream>>,
    )
}

type Answer<R> = (Result<R, ErrorCode>,);

fn refuse<P, R>(mut store: StoreContextMut<'_, TaskState>, _: P) -> wasmtime::Result<Answer<R>> {
    store.data_mut().network_refused = true;
    Ok((Err(ErrorCode::AccessDenied),))
}
