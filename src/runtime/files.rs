//! WASI's functions on paths and directories, bounded and interruptible.
//!
//! Those of wasmtime-wasi take a path of any length, list a whole directory
//! with two calls of the system for each entry whenever a buffer is filled, and
//! wait for the other end of a FIFO that they open. These refuse a path that no
//! system would take before they look at it, list what the guest asks for and
//! notice the task's end meanwhile, and open no FIFO, socket or device. All
//! else is left to wasmtime-wasi, the way that leads to a file above all.

use super::sandbox::TaskState;
use wasmtime::{Caller, Extern, Linker};
use wasmtime_wasi::p0::wasi_unstable as p0;
use wasmtime_wasi::p1::wasi_snapshot_preview1 as p1;
use wasmtime_wasi::runtime::in_tokio;
use wiggle::GuestMemory;

/// Bytes of the longest path that is looked at: `PATH_MAX` of Linux.
pub(super) const MAX_PATH: u32 = 4096;

const ERRNO_NAMETOOLONG: i32 = 37;
#[cfg(target_os = "linux")]
const ERRNO_NOTSUP: i32 = 58;

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
                    return Ok(ERRNO_NAMETOOLONG);
                }
                original!(caller, p1::WasiSnapshotPreview1, p1::$function, $($arg),*)
            },
        )?;
        $linker.func_wrap(
            "wasi_unstable",
            stringify!($function),
            |mut caller: Caller<'_, TaskState>, $($arg: $ty),*| -> wasmtime::Result<i32> {
                if [$($length),+].into_iter().any(too_long) {
                    return Ok(ERRNO_NAMETOOLONG);
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
        return Ok(ERRNO_NAMETOOLONG);
    }
    #[cfg(target_os = "linux")]
    if linux::is_special(&mut caller, fd, lookup, path, length) {
        return Ok(ERRNO_NOTSUP);
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
        return Ok(ERRNO_NAMETOOLONG);
    }
    #[cfg(target_os = "linux")]
    if linux::is_special(&mut caller, fd, lookup, path, length) {
        return Ok(ERRNO_NOTSUP);
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

#[cfg(all(test, target_os = "linux"))]
mod tests;

#[cfg(target_os = "linux")]
mod linux {
    use super::super::sandbox::{Interrupted, TaskState};
    use super::{GuestMemory, in_tokio, p1};
    use crate::cancel::Cancel;
    use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
    use rustix::fs::{fstat, openat, openat2, statat};
    use rustix::io::Errno;
    use std::ffi::CStr;
    use std::fs::File;
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    use std::sync::Arc;
    use wasmtime::{Caller, Extern};
    use wasmtime_wasi::WasiView as _;
    use wasmtime_wasi::filesystem::Descriptor;
    use wasmtime_wasi::p1::WasiP1Ctx;

    // Sizes, offsets and values from the witx files: `dirent`, `filestat`.
    const DIRENT: usize = 24;
    const FILESTAT: usize = 64;
    const DIRECTORY: u8 = 3;
    const FOLLOW: i32 = 1;
    const SUCCESS: i32 = 0;
    const FAULT: i32 = 21;
    const ILSEQ: i32 = 25;

    /// Entries between two looks at the task's end.
    const CHECK: u64 = 64;

    /// What a path of the guest's leads to would block whoever opens it, or
    /// act when it is opened. What can't be looked at is left to the function
    /// that opens it.
    pub(super) fn is_special(
        caller: &mut Caller<'_, TaskState>,
        fd: i32,
        lookup: i32,
        path: i32,
        length: i32,
    ) -> bool {
        let Some(Extern::Memory(memory)) = caller.get_export("memory") else { return false };
        let (bytes, state) = memory.data_and_store_mut(caller);
        let Some(path) = part(bytes, path, length) else { return false };
        let Some(dir) = directory(state.wasi(), fd) else { return false };
        let links = if lookup & FOLLOW == 0 { OFlags::NOFOLLOW } else { OFlags::empty() };
        let flags = OFlags::PATH | OFlags::CLOEXEC | links;
        // Nothing is opened by this: it is only found.
        let within = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let Ok(found) = openat2(&*dir, &*path, flags, Mode::empty(), within) else { return false };
        fstat(&found).is_ok_and(|stat| {
            let kind = FileType::from_raw_mode(stat.st_mode);
            !matches!(kind, FileType::RegularFile | FileType::Directory | FileType::Symlink)
        })
    }

    /// `fd_readdir`; none if the descriptor is no directory's, which others
    /// may explain.
    pub(super) fn list(
        caller: &mut Caller<'_, TaskState>,
        fd: i32,
        buffer: i32,
        length: i32,
        cookie: i64,
        used: i32,
    ) -> wasmtime::Result<Option<i32>> {
        let Some(Extern::Memory(memory)) = caller.get_export("memory") else { return Ok(None) };
        let (bytes, state) = memory.data_and_store_mut(caller);
        let Some(dir) = directory(state.wasi(), fd) else { return Ok(None) };
        let Some(out) = part(bytes, buffer, length) else { return Ok(Some(FAULT)) };
        let filled = match fill(&dir, cookie.cast_unsigned(), out, &state.cancel)? {
            Ok(filled) => filled,
            Err(errno) => return Ok(Some(errno)),
        };
        // No more than the length of a buffer, which has 32 bits.
        let filled = u32::try_from(filled).unwrap_or(u32::MAX);
        let Some(place) = part(bytes, used, 4) else { return Ok(Some(FAULT)) };
        place.copy_from_slice(&filled.to_le_bytes());
        Ok(Some(SUCCESS))
    }

    /// Writes entries from the one after `cookie` on; the last may be cut.
    pub(super) fn fill(
        dir: &File,
        cookie: u64,
        out: &mut [u8],
        cancel: &Cancel,
    ) -> Result<Result<usize, i32>, Interrupted> {
        let entries =
            openat(dir, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let entries = match entries.and_then(Dir::new) {
            Ok(entries) => entries,
            Err(error) => return Ok(Err(errno(error))),
        };
        let mut filled = 0;
        let mut put = |index: u64, inode: u64, kind: u8, name: &[u8]| {
            let mut head = [0; DIRENT];
            head[..8].copy_from_slice(&(index + 1).to_le_bytes());
            head[8..16].copy_from_slice(&inode.to_le_bytes());
            head[16..20]
                .copy_from_slice(&u32::try_from(name.len()).unwrap_or(u32::MAX).to_le_bytes());
            head[20] = kind;
            for bytes in [&head, name] {
                let rest = &mut out[filled..];
                let length = bytes.len().min(rest.len());
                rest[..length].copy_from_slice(&bytes[..length]);
                filled += length;
            }
            filled == out.len()
        };
        let own = identity(dir).unwrap_or(0);
        for (index, name) in [(0, b".".as_slice()), (1, b"..")] {
            if index >= cookie && put(index, own, DIRECTORY, name) {
                return Ok(Ok(filled));
            }
        }
        let named = |entry: &Result<rustix::fs::DirEntry, Errno>| {
            entry
                .as_ref()
                .map_or(true, |entry| !matches!(entry.file_name().to_bytes(), b"." | b".."))
        };
        for (index, entry) in (2u64..).zip(entries.filter(named)) {
            if index % CHECK == 0
                && let Some(reason) = cancel.reason()
            {
                return Err(Interrupted(reason));
            }
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => return Ok(Err(errno(error))),
            };
            if index < cookie {
                continue;
            }
            let name = entry.file_name();
            if name.to_str().is_err() {
                return Ok(Err(ILSEQ));
            }
            // It may have gone since the directory was read.
            let Some((inode, kind)) = what(dir, name) else { continue };
            if put(index, inode, kind, name.to_bytes()) {
                break;
            }
        }
        Ok(Ok(filled))
    }

    fn what(dir: &File, name: &CStr) -> Option<(u64, u8)> {
        let stat = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::BlockDevice => 1,
            FileType::CharacterDevice => 2,
            FileType::Directory => DIRECTORY,
            FileType::RegularFile => 4,
            FileType::Socket => 6,
            FileType::Symlink => 7,
            _ => 0,
        };
        Some((hash(stat.st_dev, stat.st_ino), kind))
    }

    /// The host's directory behind a descriptor of the guest's. wasmtime-wasi
    /// does not tell which it is, only the number of its inode.
    fn directory(files: &mut WasiP1Ctx, fd: i32) -> Option<Arc<File>> {
        let mut stat = [0; FILESTAT];
        let memory = &mut GuestMemory::Unshared(&mut stat);
        let got = in_tokio(p1::fd_filestat_get(files, memory, fd, 0)).ok()?;
        if got != SUCCESS || stat[16] != DIRECTORY {
            return None;
        }
        let inode = u64::from_le_bytes(stat[8..16].try_into().ok()?);
        let open = files.ctx().table.iter_mut().filter_map(|entry| entry.downcast_ref());
        open.filter_map(|descriptor| match descriptor {
            Descriptor::Dir(dir) => Some(&dir.dir),
            Descriptor::File(_) => None,
        })
        .find(|dir| identity(dir) == Some(inode))
        .cloned()
    }

    fn identity(dir: &File) -> Option<u64> {
        let stat = fstat(dir).ok()?;
        Some(hash(stat.st_dev, stat.st_ino))
    }

    /// An inode's number as wasmtime-wasi tells it to guests.
    pub(super) fn hash(device: u64, inode: u64) -> u64 {
        let mut hasher = DefaultHasher::new();
        (device, inode).hash(&mut hasher);
        hasher.finish()
    }

    fn errno(error: Errno) -> i32 {
        match error {
            Errno::ACCESS => 2,
            Errno::BADF => 8,
            Errno::MFILE => 33,
            Errno::NOENT => 44,
            _ => 29,
        }
    }

    fn part(bytes: &mut [u8], offset: i32, length: i32) -> Option<&mut [u8]> {
        let (offset, length) = (offset.cast_unsigned() as usize, length.cast_unsigned() as usize);
        bytes.get_mut(offset..offset.checked_add(length)?)
    }
}
