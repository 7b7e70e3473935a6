//! What the kernel says of pages that a file's content was mapped to: whether
//! they are still the file's.
//!
//! A page of a private mapping that was written is the process's own: it is
//! present and no file's, or it is swapped out, or on its way to another place
//! in memory, which both show as swapped. So `untouched` means that no page is
//! present or swapped that is not the file's. (What Wasmtime can ask for to
//! clear a slot is only which pages are present, and so it must not.)

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;

// Bits of an entry, from the kernel's Documentation/admin-guide/mm/pagemap.rst.
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const OF_A_FILE: u64 = 1 << 61;
const ENTRY: usize = 8;
/// Entries that are read at once.
const ENTRIES: usize = 2048;

/// The open `/proc/self/pagemap`.
pub(super) struct PageMap(File);

impl PageMap {
    /// None if this system has no such file, or one that does not tell what is
    /// needed. To be opened before the process hides its memory.
    pub(super) fn open() -> Option<PageMap> {
        let map = PageMap(File::open("/proc/self/pagemap").ok()?);
        map.tells().ok()?.then_some(map)
    }

    /// Whether all bytes of these pages are still those of the file that was
    /// mapped there. False if that is not known.
    pub(super) fn are_untouched(&self, start: usize, length: usize) -> bool {
        let page = rustix::param::page_size();
        let (first, last) = (start / page, (start + length).div_ceil(page));
        let mut buffer = [0; ENTRIES * ENTRY];
        (first..last).step_by(ENTRIES).all(|at| {
            let entries = &mut buffer[..(last - at).min(ENTRIES) * ENTRY];
            self.0.read_exact_at(entries, (at * ENTRY) as u64).is_ok()
                && entries.chunks_exact(ENTRY).all(|entry| {
                    let entry = u64::from_le_bytes(entry.try_into().expect("eight bytes"));
                    entry & (PRESENT | SWAPPED) == 0 || entry & OF_A_FILE != 0
                })
        })
    }

    /// Tries it with a page that is read and one that is written.
    fn tells(&self) -> io::Result<bool> {
        let page = rustix::param::page_size();
        let mut file = File::from(memfd_create("proplet-pages", MemfdFlags::CLOEXEC)?);
        file.write_all(&vec![1; 2 * page])?;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the mapping is new, of a file that nobody else has, and only
        // used here, by bytes of it.
        #[allow(unsafe_code, reason = "memory is what is asked for")]
        unsafe {
            let start = mmap(std::ptr::null_mut(), 2 * page, access, MapFlags::PRIVATE, &file, 0)?;
            let bytes = start.cast::<u8>();
            let before = self.are_untouched(bytes.addr(), 2 * page);
            let read = bytes.read_volatile() == 1 && self.are_untouched(bytes.addr(), 2 * page);
            bytes.add(page).write_volatile(1);
            let written = !self.are_untouched(bytes.addr(), 2 * page)
                && !self.are_untouched(bytes.addr() + page, page)
                && self.are_untouched(bytes.addr(), page);
            munmap(start, 2 * page)?;
            Ok(before && read && written)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_without_a_file_is_not_untouched() {
        let map = PageMap::open().expect("Linux tells");
        let page = rustix::param::page_size();
        let bytes = vec![1_u8; 3 * page];
        let inner = bytes.as_ptr().addr().next_multiple_of(page);
        assert!(!map.are_untouched(inner, page));
        // Beyond what processes have, nothing is known.
        assert!(!map.are_untouched(usize::MAX - 8 * page, page));
    }
}
