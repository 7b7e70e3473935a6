//! Huge pages for what guests need beyond their first megabytes.
//!
//! A guest that reads 14 MB of weights touches 3,500 small pages, each time:
//! in the copy, in the comparison, and when its slot is cleared. Most guests
//! need next to nothing, and theirs stay small: a huge page is cleared whole.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use wasmtime::{AsContext, Memory};

/// Bytes at the beginning of a memory that stay as they are.
const SMALL: usize = 2 << 20;
const HUGE_PAGE: usize = 2 << 20;

/// The slots of a pool that have been seen to.
pub(super) struct HugePages {
    /// Bytes of address space behind each memory's first.
    reserved: usize,
    seen: Mutex<HashSet<usize>>,
}

impl HugePages {
    /// For a pool whose memories have `reserved` bytes of address space each.
    pub(super) fn new(reserved: usize) -> HugePages {
        HugePages { reserved, seen: Mutex::default() }
    }

    /// Asks for huge pages in the slot of `memory`, once for all that will
    /// have it. Without them, or on another system, it is only slower.
    /// Returns the addresses for which they were asked.
    pub(super) fn advise(&self, memory: &Memory, store: impl AsContext) -> Range<usize> {
        let start = memory.data_ptr(store);
        let base = start.addr();
        let first = (base + SMALL).next_multiple_of(HUGE_PAGE);
        let length = (base + self.reserved).saturating_sub(first) / HUGE_PAGE * HUGE_PAGE;
        let asked = first..first + length;
        if length == 0 || !self.seen.lock().unwrap_or_else(PoisonError::into_inner).insert(base) {
            return asked;
        }
        #[cfg(target_os = "linux")]
        {
            use rustix::mm::{Advice, madvise};
            // SAFETY: advice about the size of pages changes no byte of memory,
            // whoever's it is.
            #[allow(unsafe_code, reason = "the engine has no setting for this")]
            let advised =
                unsafe { madvise(start.with_addr(first).cast(), length, Advice::LinuxHugepage) };
            if let Err(error) = advised {
                tracing::debug!("no huge pages for guests: {error}");
            }
        }
        asked
    }
}
