//! Writing to a stream, held to what it permits.
//!
//! The `write` of wasmtime-wasi takes as much as the guest hands over and
//! writes it in the background, so that a few hundred streams could hold the
//! guest's memory as many times. WASI lets a guest write what `check-write` has
//! told, and so does this.

use super::WASI;
use crate::runtime::sandbox::TaskState;
use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource};
use wasmtime_wasi::WasiView as _;
use wasmtime_wasi::p2::bindings::sync::io::streams::{
    Host as _, HostOutputStream as _, StreamError as Answer,
};
use wasmtime_wasi::p2::{DynOutputStream, StreamError, StreamResult};

/// Puts this function in the place of the one that `linker` has.
pub(super) fn shadow(linker: &mut Linker<TaskState>) -> wasmtime::Result<()> {
    let mut streams = linker.instance(&format!("wasi:io/streams@{WASI}"))?;
    streams.func_wrap("[method]output-stream.write", write)
}

type Written = (Result<(), Answer>,);

fn write(
    mut store: StoreContextMut<'_, TaskState>,
    (stream, bytes): (Resource<DynOutputStream>, Vec<u8>),
) -> wasmtime::Result<Written> {
    let table = store.data_mut().ctx().table;
    let permitted = || -> StreamResult<()> {
        let permit = table.get_mut(&stream)?.check_write()?;
        if bytes.len() > permit {
            return Err(StreamError::Trap(wasmtime::format_err!(
                "the guest writes {} bytes at once to a stream that permits {permit}: \
                 `check-write` tells how many",
                bytes.len()
            )));
        }
        table.write(stream, bytes)
    };
    match permitted() {
        Ok(()) => Ok((Ok(()),)),
        Err(error) => Ok((Err(table.convert_stream_error(error)?),)),
    }
}
