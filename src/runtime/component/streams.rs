//! Writing to a stream, held to what it permits, and waiting for one, which ends
//! with the task: the other end may be a client that says nothing.
//!
//! The `write` of wasmtime-wasi takes as much as the guest hands over and
//! writes it in the background, so that a few hundred streams could hold the
//! guest's memory as many times. WASI lets a guest write what `check-write` has
//! told, and so does this.

use super::WASI;
use super::poll::unless_cancelled;
use crate::runtime::sandbox::TaskState;
use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource};
use wasmtime_wasi::WasiView as _;
use wasmtime_wasi::p2::bindings::io::streams as waiting;
use wasmtime_wasi::p2::bindings::sync::io::streams::{
    Host as _, HostOutputStream as _, StreamError as Answer,
};
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream, StreamError, StreamResult};

/// Puts this function in the place of the one that `linker` has.
pub(super) fn shadow(linker: &mut Linker<TaskState>) -> wasmtime::Result<()> {
    let mut streams = linker.instance(&format!("wasi:io/streams@{WASI}"))?;
    streams.func_wrap("[method]output-stream.write", write)
}

/// One of them: its name, the function of wasmtime-wasi that waits in a future,
/// its arguments and its value.
macro_rules! waits {
    ($streams:ident, $name:literal, $host:ident::$function:ident($($arg:ident: $ty:ty),*) -> $out:ty) => {
        $streams.func_wrap(
            concat!("[method]", $name),
            |mut store: StoreContextMut<'_, TaskState>,
             (stream, $($arg),*): (Resource<_>, $($ty),*)|
             -> wasmtime::Result<(Result<$out, Answer>,)> {
                let cancel = store.data().cancel.clone();
                let table = store.data_mut().ctx().table;
                let wait = async { Ok(waiting::$host::$function(table, stream, $($arg),*).await) };
                match unless_cancelled(&cancel, wait)? {
                    Ok(value) => Ok((Ok(value),)),
                    Err(error) => {
                        let table = store.data_mut().ctx().table;
                        Ok((Err(table.convert_stream_error(error)?),))
                    }
                }
            },
        )?;
    };
}
/// Puts functions that can be interrupted in the place of those that wait.
pub(super) fn shadow_waits(linker: &mut Linker<TaskState>) -> wasmtime::Result<()> {
    let mut streams = linker.instance(&format!("wasi:io/streams@{WASI}"))?;
    waits!(streams, "input-stream.blocking-read", HostInputStream::blocking_read(len: u64) -> Vec<u8>);
    waits!(streams, "input-stream.blocking-skip", HostInputStream::blocking_skip(len: u64) -> u64);
    waits!(streams, "output-stream.blocking-flush", HostOutputStream::blocking_flush() -> ());
    waits!(
        streams,
        "output-stream.blocking-write-and-flush",
        HostOutputStream::blocking_write_and_flush(bytes: Vec<u8>) -> ()
    );
    waits!(
        streams,
        "output-stream.blocking-write-zeroes-and-flush",
        HostOutputStream::blocking_write_zeroes_and_flush(len: u64) -> ()
    );
    waits!(
        streams,
        "output-stream.blocking-splice",
        HostOutputStream::blocking_splice(from: Resource<DynInputStream>, len: u64) -> u64
    );
    Ok(())
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
