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
use super::refusals::{Why, Within};
use super::sandbox::TaskState;
use wasmtime::{Caller, Extern, Linker};
use wasmtime_wasi::p0::wasi_unstable as p0;
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::p1::wasi_snapshot_preview1 as p1;
use wasmtime_wasi::runtime::in_tokio;
use wiggle::GuestMemory;

/// Bytes of the longest path that is looked at: `PATH_MAX` of Linux.
pub(super) const MAX_PATH: u32 = 4096;

// Sizes and values from the witx files: `prestat`, `oflags` (create, exclusive,
// truncate), the right `fd_write`.
const PRESTAT: usize = 8;
const CHANGES: i32 = 1 | 4 | 8;
const WRITE: i64 = 1 << 6;

/// Bytes in the place of a guest's memory: numbers in it are looked at where
/// they are, so it begins where the widest of them may.
#[repr(align(8))]
struct Aligned<const N: usize>([u8; N]);

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
/// `$linker` has: its arguments, which of them are lengths of paths, and for one
/// that changes something the directory, the path and its length.
macro_rules! bounded {
    (
        $linker:ident, $function:ident($($arg:ident: $ty:ty),*), $($length:ident),+
        $(; changes $fd:ident, $path:ident, $path_length:ident)?
    ) => {
        $linker.func_wrap(
            "wasi_snapshot_preview1",
            stringify!($function),
            |mut caller: Caller<'_, TaskState>, $($arg: $ty),*| -> wasmtime::Result<i32> {
                if [$($length),+].into_iter().any(too_long) {
                    return Ok(errno::NAMETOOLONG);
                }
                let done = original!(caller, p1::WasiSnapshotPreview1, p1::$function, $($arg),*)?;
                $(refused(&mut caller, done, $fd, ($path, $path_length), true);)?
                Ok(done)
            },
        )?;
        $linker.func_wrap(
            "wasi_unstable",
            stringify!($function),
            |mut caller: Caller<'_, TaskState>, $($arg: $ty),*| -> wasmtime::Result<i32> {
                if [$($length),+].into_iter().any(too_long) {
                    return Ok(errno::NAMETOOLONG);
                }
                let done = original!(caller, p0::WasiUnstable, p0::$function, $($arg),*)?;
                $(refused(&mut caller, done, $fd, ($path, $path_length), true);)?
                Ok(done)
            },
        )?;
    };
}

/// Remembers what a function said no to, for a task that fails.
fn refused(
    caller: &mut Caller<'_, TaskState>,
    done: i32,
    fd: i32,
    (path, length): (i32, i32),
    writes: bool,
) {
    let Some(why) = Why::of(done, writes) else { return };
    let Some(Extern::Memory(memory)) = caller.get_export("memory") else { return };
    let (bytes, state) = memory.data_and_store_mut(caller);
    let (start, length) = (path.cast_unsigned() as usize, length.cast_unsigned() as usize);
    let Some(path) = start.checked_add(length).and_then(|end| bytes.get(start..end)) else {
        return;
    };
    let within = preopened(state.wasi(), fd).map_or(Within::Opened, Within::Named);
    state.refused.add(path, within, why);
}

/// What the guest calls a directory that its task has; none of any other.
fn preopened(files: &mut WasiP1Ctx, fd: i32) -> Option<String> {
    let mut stat = Aligned([0; PRESTAT]);
    let memory = &mut GuestMemory::Unshared(&mut stat.0);
    let got = p1::fd_prestat_get(files, memory, fd, 0).ok()?;
    if got != errno::SUCCESS {
        return None;
    }
    let length = i32::from_le_bytes(stat.0[4..].try_into().ok()?);
    let mut name = vec![0; usize::try_from(length).ok()?];
    let memory = &mut GuestMemory::Unshared(&mut name);
    let got = p1::fd_prestat_dir_name(files, memory, fd, 0, length).ok()?;
    (got == errno::SUCCESS).then(|| String::from_utf8(name).ok()).flatten()
}

fn too_long(length: i32) -> bool {
    length.cast_unsigned() > MAX_PATH
}

/// Puts these functions in the place of those that `linker` has.
pub(super) fn shadow(linker: &mut Linker<TaskState>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    bounded!(linker, path_create_directory(fd: i32, path: i32, length: i32), length; changes fd, path, length);
    bounded!(linker, path_filestat_get(fd: i32, flags: i32, path: i32, length: i32, stat: i32), length);
    bounded!(
        linker,
        path_link(
            fd: i32, flags: i32, path: i32, length: i32, to: i32, new: i32, new_length: i32
        ),
        length,
        new_length;
        changes to, new, new_length
    );
    bounded!(
        linker,
        path_readlink(fd: i32, path: i32, length: i32, buffer: i32, size: i32, used: i32),
        length
    );
    bounded!(linker, path_remove_directory(fd: i32, path: i32, length: i32), length; changes fd, path, length);
    bounded!(
        linker,
        path_rename(fd: i32, path: i32, length: i32, to: i32, new: i32, new_length: i32),
        length,
        new_length;
        changes fd, path, length
    );
    bounded!(
        linker,
        path_symlink(path: i32, length: i32, fd: i32, new: i32, new_length: i32),
        length,
        new_length;
        changes fd, new, new_length
    );
    bounded!(linker, path_unlink_file(fd: i32, path: i32, length: i32), length; changes fd, path, length);
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
    let done = original!(
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
    )?;
    if done != errno::SUCCESS {
        let writes = how & CHANGES != 0 || rights & WRITE != 0;
        refused(&mut caller, done, fd, (path, length), writes);
    }
    Ok(done)
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
