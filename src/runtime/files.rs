//! Preview 1's functions on paths and directories, bounded and interruptible.
//!
//! Those of wasmtime-wasi take a path of any length, list a whole directory
//! with two calls of the system for each entry whenever a buffer is filled, and
//! wait for the other end of a FIFO that they open. These refuse a path that no
//! system would take before they look at it, list what the guest asks for and
//! notice the task's end meanwhile, and open no FIFO, socket or device. Large
//! reads of files that are read again and again copy nothing. All else is left
//! to wasmtime-wasi, the way that leads to a file above all.

#[cfg(target_os = "linux")]
pub(super) mod contents;
#[cfg(target_os = "linux")]
pub(super) mod linux;
#[cfg(target_os = "linux")]
pub(super) mod mapped;
#[cfg(target_os = "linux")]
mod pages;
#[cfg(all(test, target_os = "linux"))]
mod reading_tests;
#[cfg(target_os = "linux")]
mod reads;
#[cfg(all(test, target_os = "linux"))]
mod tests;

use super::errno;
use super::sandbox::TaskState;
use wasmtime::{Caller, Extern, Linker};
use wasmtime_wasi::p0::wasi_unstable as p0;
use wasmtime_wasi::p1::wasi_snapshot_preview1 as p1;
use wasmtime_wasi::runtime::in_tokio;
use wiggle::GuestMemory;

/// Bytes of the longest path that is looked at: `PATH_MAX` of Linux.
pub(super) const MAX_PATH: u32 = 4096;

/// Bytes that one call may copy between the guest and the host, as it is set
/// for the store.
fn fuel(caller: &mut Caller<'_, TaskState>) -> usize {
    use wasmtime::AsContextMut as _;
    caller.as_context_mut().hostcall_fuel()
}

/// The function of wasmtime-wasi, with the guest's memory and this task's files.
macro_rules! original {
    ($caller:ident, $trait:path, $function:path, $($arg:expr),*) => {{
        let fuel = fuel(&mut $caller);
        let Some(Extern::Memory(memory)) = $caller.get_export("memory") else {
            wasmtime::bail!("a function of WASI needs the guest to export its memory as `memory`");
        };
        let (bytes, state) = memory.data_and_store_mut(&mut $caller);
        let files = state.wasi();
        <_ as $trait>::set_hostcall_fuel(files, fuel);
        in_tokio($function(files, &mut GuestMemory::Unshared(bytes), $($arg),*))
    }};
}

/// Puts a function that refuses long paths in the place of the one that
/// `$linker` has: its arguments, and which of them are lengths of paths.
macro_rules! bounded {
    ($linker:ident, $function:ident($($arg:ident: $ty:ty),*), $($length:ident),+) => {
        $linker.func_wrap(
            "wasi_snapshot_preview1",
            stringify!($function),
            |mut caller: Caller<'_, TaskState>, $($arg: $ty),*| -> wasmtime::Result<i32> {
                if [$($length),+].into_iter().any(too_long) {
                    return Ok(errno::NAMETOOLONG);
                }
                original!(caller, p1::WasiSnapshotPreview1, p1::$function, $($arg),*)
            },
        )?;
        $linker.func_wrap(
            "wasi_unstable",
            stringify!($function),
            |mut caller: Caller<'_, TaskState>, $($arg: $ty),*| -> wasmtime::Result<i32> {
                if [$($length),+].into_iter().any(too_long) {
                    return Ok(errno::NAMETOOLONG);
                }
                original!(caller, p0::WasiUnstable, p0::$function, $($arg),*)
            },
        )?;
    };
}

fn too_long(length: i32) -> bool {
    length.cast_unsigned() > MAX_PATH
}

/// Puts these functions in the place of those that `linker` has.
pub(super) fn shadow(linker: &mut Linker<TaskState>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    bounded!(linker, path_create_directory(fd: i32, path: i32, length: i32), length);
    bounded!(linker, path_filestat_get(fd: i32, flags: i32, path: i32, length: i32, stat: i32), length);
    bounded!(
        linker,
        path_link(
            fd: i32, flags: i32, path: i32, length: i32, to: i32, new: i32, new_length: i32
        ),
        length,
        new_length
    );
    bounded!(
        linker,
        path_readlink(fd: i32, path: i32, length: i32, buffer: i32, size: i32, used: i32),
        length
    );
    bounded!(linker, path_remove_directory(fd: i32, path: i32, length: i32), length);
    bounded!(
        linker,
        path_rename(fd: i32, path: i32, length: i32, to: i32, new: i32, new_length: i32),
        length,
        new_length
    );
    bounded!(
        linker,
        path_symlink(path: i32, length: i32, fd: i32, new: i32, new_length: i32),
        length,
        new_length
    );
    bounded!(linker, path_unlink_file(fd: i32, path: i32, length: i32), length);
    for module in ["wasi_snapshot_preview1", "wasi_unstable"] {
        linker.func_wrap(module, "path_open", path_open)?;
        linker.func_wrap(module, "path_filestat_set_times", path_filestat_set_times)?;
        linker.func_wrap(module, "fd_readdir", fd_readdir)?;
        linker.func_wrap(module, "fd_read", fd_read)?;
        linker.func_wrap(module, "fd_pread", fd_pread)?;
    }
    linker.allow_shadowing(false);
    Ok(())
}

// The types and numbers of both versions are the same here.
#[expect(clippy::too_many_arguments, reason = "WASI's own")]
fn path_open(
    mut caller: Caller<'_, TaskState>,
    fd: i32,
    lookup: i32,
    path: i32,
    length: i32,
    how: i32,
    rights: i64,
    inheriting: i64,
    flags: i32,
    opened: i32,
) -> wasmtime::Result<i32> {
    if too_long(length) {
        return Ok(errno::NAMETOOLONG);
    }
    #[cfg(target_os = "linux")]
    if linux::is_special(&mut caller, fd, lookup, path, length) {
        return Ok(errno::NOTSUP);
    }
    original!(
        caller,
        p1::WasiSnapshotPreview1,
        p1::path_open,
        fd,
        lookup,
        path,
        length,
        how,
        rights,
        inheriting,
        flags,
        opened
    )
}

// It opens what it sets the times of.
#[expect(clippy::too_many_arguments, reason = "WASI's own")]
fn path_filestat_set_times(
    mut caller: Caller<'_, TaskState>,
    fd: i32,
    lookup: i32,
    path: i32,
    length: i32,
    accessed: i64,
    modified: i64,
    which: i32,
) -> wasmtime::Result<i32> {
    if too_long(length) {
        return Ok(errno::NAMETOOLONG);
    }
    #[cfg(target_os = "linux")]
    if linux::is_special(&mut caller, fd, lookup, path, length) {
        return Ok(errno::NOTSUP);
    }
    original!(
        caller,
        p1::WasiSnapshotPreview1,
        p1::path_filestat_set_times,
        fd,
        lookup,
        path,
        length,
        accessed,
        modified,
        which
    )
}

fn fd_readdir(
    mut caller: Caller<'_, TaskState>,
    fd: i32,
    buffer: i32,
    length: i32,
    cookie: i64,
    used: i32,
) -> wasmtime::Result<i32> {
    #[cfg(target_os = "linux")]
    if let Some(errno) = linux::list(&mut caller, fd, buffer, length, cookie, used)? {
        return Ok(errno);
    }
    original!(caller, p1::WasiSnapshotPreview1, p1::fd_readdir, fd, buffer, length, cookie, used)
}

fn fd_read(
    mut caller: Caller<'_, TaskState>,
    fd: i32,
    buffers: i32,
    count: i32,
    read: i32,
) -> wasmtime::Result<i32> {
    #[cfg(target_os = "linux")]
    if let Some(errno) = reads::read(&mut caller, fd, buffers, count, None, read)? {
        return Ok(errno);
    }
    original!(caller, p1::WasiSnapshotPreview1, p1::fd_read, fd, buffers, count, read)
}

fn fd_pread(
    mut caller: Caller<'_, TaskState>,
    fd: i32,
    buffers: i32,
    count: i32,
    offset: i64,
    read: i32,
) -> wasmtime::Result<i32> {
    #[cfg(target_os = "linux")]
    if let Some(errno) = reads::read(&mut caller, fd, buffers, count, Some(offset), read)? {
        return Ok(errno);
    }
    original!(caller, p1::WasiSnapshotPreview1, p1::fd_pread, fd, buffers, count, offset, read)
}
