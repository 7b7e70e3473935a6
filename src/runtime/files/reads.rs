//! `fd_read` and `fd_pread` of much at once, out of the files that are kept in
//! memory: mapped into the guest's, not copied.
//!
//! Descriptors stay wasmtime-wasi's own: what file one means, where it stands
//! and whether it may be read is asked with its functions, those of preview 1,
//! with a few bytes in the place of the guest's memory. They are meant for the
//! guests' use alone, and this file is the only one that counts on them here.

use super::super::errno;
use super::contents::{Content, Draft, FileId, Stretch};
use super::linux::{FILESTAT, part};
use super::mapped::Mapped;
use super::{Aligned, GuestMemory, TaskState, fuel, in_tokio, p1};
use std::ops::Range;
use std::sync::Arc;
use wasmtime::{AsContext, Caller, Extern, Memory};
use wasmtime_wasi::p1::WasiP1Ctx;

/// Bytes from which on a read is mapped: for less, a copy is as fast.
pub(super) const LEAST: usize = 64 << 10;

// Sizes and values from the witx files: `iovec`, `filetype`, `whence`.
const IOVEC: usize = 8;
const REGULAR_FILE: u8 = 4;
const SET: i32 = 0;
const CUR: i32 = 1;
/// Bytes that are read at once of what is kept.
const CHUNK: usize = 1 << 20;
/// Of the widest number in memory, which is a reference of Rust's meanwhile.
const ALIGNMENT: usize = 8;
/// The buffers of one read that are looked at, to find the first that is one.
const MAX_IOVECS: usize = 16;

/// `fd_read`, or `fd_pread` if there is an `offset`. None if the read is no
/// large one of a regular file, which others may do: nothing has happened then.
pub(super) fn read(
    caller: &mut Caller<'_, TaskState>,
    fd: i32,
    buffers: i32,
    count: i32,
    offset: Option<i64>,
    read: i32,
) -> wasmtime::Result<Option<i32>> {
    let fuel = fuel(caller);
    let Some(Extern::Memory(memory)) = caller.get_export("memory") else { return Ok(None) };
    let Some(mapped) = caller.data().mapped() else { return Ok(None) };
    let Some(own) = declared(&memory, &*caller) else { return Ok(None) };
    let (bytes, state) = memory.data_and_store_mut(caller);
    let Some(buffer) = first_buffer(bytes, buffers, count) else { return Ok(None) };
    if buffer.len() < LEAST || buffer.len() > fuel || part(bytes, read, 4).is_none() {
        return Ok(None);
    }
    let mut file = Descriptor { files: state.wasi(), fd };
    let Some(stood) = file.tell() else { return Ok(None) };
    let at = match offset {
        None => stood,
        Some(offset) if file.seek(offset, SET).is_some() => offset.cast_unsigned(),
        Some(_) => return Ok(None),
    };
    let done = Read { bytes, own, buffer, mapped: &mapped }.run(&mut file, at);
    if offset.is_some() {
        // Nobody saw that it stood elsewhere.
        let back = i64::try_from(stood).ok().and_then(|stood| file.seek(stood, SET));
        wasmtime::ensure!(back.is_some(), "a file's position could not be set back to {stood}");
    }
    Ok(match done? {
        None => None,
        Some(Err(errno)) => Some(errno),
        Some(Ok(length)) => {
            // No more than the length of a buffer, which has 32 bits.
            let length = u32::try_from(length).unwrap_or(u32::MAX);
            if let Some(place) = part(bytes, read, 4) {
                place.copy_from_slice(&length.to_le_bytes());
            }
            Some(errno::SUCCESS)
        }
    })
}

/// Bytes at the beginning of a memory that come with the module, which may be
/// mapped from its file; none if the memory can't have contents mapped.
fn declared(memory: &Memory, store: impl AsContext) -> Option<usize> {
    let ty = memory.ty(store);
    if ty.is_64() || ty.is_shared() {
        return None;
    }
    usize::try_from(ty.minimum().checked_mul(ty.page_size())?).ok()
}

/// The first of a read's buffers that is not empty: no other is filled.
fn first_buffer(bytes: &mut [u8], buffers: i32, count: i32) -> Option<Range<usize>> {
    let count = (count.cast_unsigned() as usize).min(MAX_IOVECS);
    let array = part(bytes, buffers, i32::try_from(count * IOVEC).ok()?)?;
    let word = |at: &[u8]| u32::from_le_bytes([at[0], at[1], at[2], at[3]]) as usize;
    let mut buffers = array.chunks_exact(IOVEC).map(|iovec| (word(iovec), word(&iovec[4..])));
    let (start, length) = buffers.find(|(_, length)| *length > 0)?;
    let buffer = start..start.checked_add(length)?;
    bytes.get(buffer.clone()).map(|_| buffer)
}

/// One read into the guest's memory.
struct Read<'a> {
    bytes: &'a mut [u8],
    /// Bytes at the beginning of the memory where nothing is mapped.
    own: usize,
    buffer: Range<usize>,
    mapped: &'a Mapped,
}

impl Read<'_> {
    /// How many bytes were read, or why not. None: nothing has happened.
    fn run(
        self,
        file: &mut Descriptor<'_>,
        at: u64,
    ) -> wasmtime::Result<Option<Result<usize, i32>>> {
        let page = rustix::param::page_size();
        let Some(id) = file.identity() else { return Ok(None) };
        let rest = usize::try_from(id.size.saturating_sub(at)).unwrap_or(usize::MAX);
        let (start, length) = (self.buffer.start, self.buffer.len().min(rest));
        let first = start.max(self.own).next_multiple_of(page);
        let pages = first..(start + length) / page * page;
        if pages.len() < LEAST || first - start > LEAST {
            return Ok(None);
        }
        let stretch = Stretch { file: id, offset: at, length, in_page: start % page };
        let contents = &self.mapped.contents;
        match contents.find(&stretch) {
            Some(content) if self.mapped.has_room() => self.map(file, &content, pages, length),
            Some(_) => Ok(None),
            None if contents.wants(&stretch) => self.keep(file, stretch),
            None => Ok(None),
        }
    }

    /// The bytes before `pages` are read, so that who may not read the file
    /// does not; those in `pages` are mapped, and the last ones copied.
    fn map(
        self,
        file: &mut Descriptor<'_>,
        content: &Arc<Content>,
        pages: Range<usize>,
        length: usize,
    ) -> wasmtime::Result<Option<Result<usize, i32>>> {
        let start = self.buffer.start;
        let mut last = vec![0; start + length - pages.end];
        if content.read(&mut last, pages.end - start).is_err() {
            return Ok(None);
        }
        let wanted = (pages.start - start).max(1);
        let head = match file.read(wanted)? {
            Ok(head) => head,
            Err(errno) => return Ok(Some(Err(errno))),
        };
        let head = head.bytes();
        if head.len() < wanted {
            // The file is shorter by now.
            self.bytes[start..start + head.len()].copy_from_slice(head);
            return Ok(Some(Ok(head.len())));
        }
        let rest = i64::try_from(length - wanted).ok().and_then(|rest| file.seek(rest, CUR));
        wasmtime::ensure!(rest.is_some(), "a file's position could not be set");
        // Before the ends are written: in an area that they bound they are in
        // small pages, not in huge ones that are cleared whole.
        self.mapped.put(&mut self.bytes[pages.clone()], content, pages.start - start);
        self.bytes[start..pages.start].copy_from_slice(&head[..pages.start - start]);
        self.bytes[pages.end..start + length].copy_from_slice(&last);
        Ok(Some(Ok(length)))
    }

    /// Reads into memory that no guest sees, and keeps what came if the file is
    /// still the same.
    fn keep(
        self,
        file: &mut Descriptor<'_>,
        stretch: Stretch,
    ) -> wasmtime::Result<Option<Result<usize, i32>>> {
        let mut draft = Draft::new(stretch);
        let mut taken = 0;
        while taken < stretch.length {
            let bytes = match file.read((stretch.length - taken).min(CHUNK))? {
                Ok(bytes) => bytes,
                Err(errno) if taken == 0 => return Ok(Some(Err(errno))),
                Err(_) => break,
            };
            let bytes = bytes.bytes();
            if bytes.is_empty() {
                break;
            }
            let at = self.buffer.start + taken;
            self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
            draft = draft.and_then(|mut draft| draft.add(bytes).map(|()| draft));
            taken += bytes.len();
        }
        if taken == stretch.length && file.identity() == Some(stretch.file) {
            let kept = draft.and_then(|draft| self.mapped.contents.keep(draft));
            if let Err(error) = kept {
                tracing::debug!("a file's content is not kept in memory: {error}");
            }
        }
        Ok(Some(Ok(taken)))
    }
}

/// An open file of the guest's.
struct Descriptor<'a> {
    files: &'a mut WasiP1Ctx,
    fd: i32,
}

impl Descriptor<'_> {
    /// What file it is; none if it is no regular one.
    fn identity(&mut self) -> Option<FileId> {
        let mut stat = Aligned([0; FILESTAT]);
        let memory = &mut GuestMemory::Unshared(&mut stat.0);
        let got = in_tokio(p1::fd_filestat_get(self.files, memory, self.fd, 0)).ok()?;
        if got != errno::SUCCESS || stat.0[16] != REGULAR_FILE {
            return None;
        }
        let number = |at: usize| Some(u64::from_le_bytes(stat.0[at..at + 8].try_into().ok()?));
        Some(FileId {
            inode: number(8)?,
            size: number(32)?,
            modified: number(48)?,
            changed: number(56)?,
        })
    }

    /// Where it stands; none if it has no place.
    fn tell(&mut self) -> Option<u64> {
        let mut place = Aligned([0; 8]);
        let memory = &mut GuestMemory::Unshared(&mut place.0);
        let got = p1::fd_tell(self.files, memory, self.fd, 0).ok()?;
        (got == errno::SUCCESS).then(|| u64::from_le_bytes(place.0))
    }

    /// Moves it, or does not.
    fn seek(&mut self, by: i64, from: i32) -> Option<()> {
        let mut place = Aligned([0; 8]);
        let memory = &mut GuestMemory::Unshared(&mut place.0);
        let got = in_tokio(p1::fd_seek(self.files, memory, self.fd, by, from, 0)).ok()?;
        (got == errno::SUCCESS).then_some(())
    }

    /// Reads at most `length` bytes from where it stands, or comes to an errno.
    fn read(&mut self, length: usize) -> wasmtime::Result<Result<Taken, i32>> {
        let mut memory = vec![0; Taken::HEAD + length + ALIGNMENT];
        let start = memory.as_ptr().align_offset(ALIGNMENT);
        let guest = &mut memory[start..];
        // The one `iovec`, whose bytes come after the place of their number.
        guest[..4].copy_from_slice(&(Taken::HEAD as u32).to_le_bytes());
        guest[4..8].copy_from_slice(&u32::try_from(length)?.to_le_bytes());
        <_ as p1::WasiSnapshotPreview1>::set_hostcall_fuel(self.files, memory.len());
        let guest = &mut GuestMemory::Unshared(&mut memory[start..]);
        let got = in_tokio(p1::fd_read(self.files, guest, self.fd, 0, 1, Taken::COUNT as i32))?;
        Ok(if got == errno::SUCCESS { Ok(Taken { memory, start }) } else { Err(got) })
    }
}

/// What was read, as a guest would have it from `start` on.
struct Taken {
    memory: Vec<u8>,
    start: usize,
}

impl Taken {
    /// Where the number of bytes is, and then they themselves.
    const COUNT: usize = 8;
    const HEAD: usize = 16;

    fn bytes(&self) -> &[u8] {
        let memory = &self.memory[self.start..];
        let count = &memory[Taken::COUNT..];
        let count = u32::from_le_bytes([count[0], count[1], count[2], count[3]]) as usize;
        &memory[Taken::HEAD..Taken::HEAD + count]
    }
}
