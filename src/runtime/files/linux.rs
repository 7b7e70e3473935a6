//! What a path leads to, and listing a directory, with Linux's own calls.

use super::super::errno;
use super::super::sandbox::{Interrupted, TaskState};
use super::{Aligned, GuestMemory, in_tokio, p1};
use crate::cancel::Cancel;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::fs::{fstat, openat, openat2, statat};
use rustix::io::Errno;
use std::ffi::CStr;
use std::fs::File;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::sync::Arc;
use wasmtime::{Caller, Extern};
use wasmtime_wasi::WasiView as _;
use wasmtime_wasi::filesystem::Descriptor;
use wasmtime_wasi::p1::WasiP1Ctx;

// Sizes, offsets and values from the witx files: `dirent`, `filestat`.
const DIRENT: usize = 24;
pub(super) const FILESTAT: usize = 64;
const DIRECTORY: u8 = 3;
const FOLLOW: i32 = 1;

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
    if state.opens_special {
        return false;
    }
    let Some(path) = part(bytes, path, length) else { return false };
    let Some(dir) = directory(state.wasi(), fd) else { return false };
    leads_to_special(&dir, path, lookup & FOLLOW != 0)
}

/// Whether `path` leads from `dir` to a FIFO, socket or device.
pub(in crate::runtime) fn leads_to_special(dir: &File, path: &[u8], follow: bool) -> bool {
    let links = if follow { OFlags::empty() } else { OFlags::NOFOLLOW };
    let flags = OFlags::PATH | OFlags::CLOEXEC | links;
    // Nothing is opened by this: it is only found.
    let within = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let Ok(found) = openat2(dir, path, flags, Mode::empty(), within) else { return false };
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
    let Some(out) = part(bytes, buffer, length) else { return Ok(Some(errno::FAULT)) };
    let filled = match fill(&dir, cookie.cast_unsigned(), out, &state.cancel)? {
        Ok(filled) => filled,
        Err(errno) => return Ok(Some(errno)),
    };
    // No more than the length of a buffer, which has 32 bits.
    let filled = u32::try_from(filled).unwrap_or(u32::MAX);
    let Some(place) = part(bytes, used, 4) else { return Ok(Some(errno::FAULT)) };
    place.copy_from_slice(&filled.to_le_bytes());
    Ok(Some(errno::SUCCESS))
}

/// Writes entries from the one after `cookie` on; the last may be cut.
pub(super) fn fill(
    dir: &File,
    cookie: u64,
    out: &mut [u8],
    cancel: &Cancel,
) -> Result<Result<usize, i32>, Interrupted> {
    let entries = match entries(dir) {
        Ok(entries) => entries,
        Err(error) => return Ok(Err(number(error))),
    };
    let mut filled = 0;
    let mut put = |index: u64, inode: u64, kind: u8, name: &[u8]| {
        let mut head = [0; DIRENT];
        head[..8].copy_from_slice(&(index + 1).to_le_bytes());
        head[8..16].copy_from_slice(&inode.to_le_bytes());
        head[16..20].copy_from_slice(&u32::try_from(name.len()).unwrap_or(u32::MAX).to_le_bytes());
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
        entry.as_ref().map_or(true, |entry| !is_own_or_parent(entry.file_name()))
    };
    for (index, entry) in (2u64..).zip(entries.filter(named)) {
        if index % CHECK == 0
            && let Some(reason) = cancel.reason()
        {
            return Err(Interrupted(reason));
        }
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => return Ok(Err(number(error))),
        };
        if index < cookie {
            continue;
        }
        let name = entry.file_name();
        if name.to_str().is_err() {
            return Ok(Err(errno::ILSEQ));
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
    let mut stat = Aligned([0; FILESTAT]);
    let memory = &mut GuestMemory::Unshared(&mut stat.0);
    let got = in_tokio(p1::fd_filestat_get(files, memory, fd, 0)).ok()?;
    if got != errno::SUCCESS || stat.0[16] != DIRECTORY {
        return None;
    }
    let inode = u64::from_le_bytes(stat.0[8..16].try_into().ok()?);
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

fn number(error: Errno) -> i32 {
    match error {
        Errno::ACCESS => errno::ACCES,
        Errno::BADF => errno::BADF,
        Errno::MFILE => errno::MFILE,
        Errno::NOENT => errno::NOENT,
        _ => errno::IO,
    }
}

pub(super) fn part(bytes: &mut [u8], offset: i32, length: i32) -> Option<&mut [u8]> {
    let (offset, length) = (offset.cast_unsigned() as usize, length.cast_unsigned() as usize);
    bytes.get_mut(offset..offset.checked_add(length)?)
}

/// A directory, read entry by entry.
pub(in crate::runtime) struct Listing {
    dir: Arc<File>,
    entries: Dir,
}

impl Listing {
    /// From its first entry on.
    pub(in crate::runtime) fn new(dir: &Arc<File>) -> io::Result<Listing> {
        Ok(Listing { dir: dir.clone(), entries: entries(dir)? })
    }
}

impl Iterator for Listing {
    type Item = io::Result<(FileType, String)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let entry = match self.entries.next()? {
                Ok(entry) => entry,
                Err(error) => return Some(Err(error.into())),
            };
            let name = entry.file_name();
            if is_own_or_parent(name) {
                continue;
            }
            let Ok(text) = name.to_str() else { return Some(Err(Errno::ILSEQ.into())) };
            let kind = match entry.file_type() {
                // Some file systems do not tell it with the name.
                FileType::Unknown => match statat(&*self.dir, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                    // It may have gone since the directory was read.
                    Err(_) => continue,
                },
                kind => kind,
            };
            return Some(Ok((kind, text.to_owned())));
        }
    }
}

fn entries(dir: &File) -> Result<Dir, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(dir, ".", flags, Mode::empty()).and_then(Dir::new)
}

fn is_own_or_parent(name: &CStr) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}
