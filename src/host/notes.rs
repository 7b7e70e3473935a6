//! What the tasks of a runtime are doing, where it outlives that process: a
//! place for each lane in memory that both have, written by the one and read by
//! the other when it needs to know.

use crate::cancel::Doing;
use rustix::fs::{MemfdFlags, memfd_create};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;

/// Bytes of a place: more than the longest name that a graph is shown by.
const PLACE: usize = 512;

#[derive(Debug)]
pub(super) struct Notes(File);

impl Notes {
    /// Empty ones, for this many lanes.
    pub(super) fn new(lanes: u32) -> io::Result<Notes> {
        let file = File::from(memfd_create("proplet-notes", MemfdFlags::CLOEXEC)?);
        file.set_len(u64::from(lanes) * PLACE as u64)?;
        Ok(Notes(file))
    }

    pub(super) fn from(descriptor: OwnedFd) -> Notes {
        Notes(File::from(descriptor))
    }

    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    pub(super) fn write(&self, lane: u32, doing: &Doing) {
        let mut place = [0; PLACE];
        // One that does not fit is not told.
        if postcard::to_slice(doing, &mut place).is_ok() {
            self.0.write_all_at(&place, u64::from(lane) * PLACE as u64).ok();
        }
    }

    /// As it was written last; whatever makes no sense is nothing.
    pub(super) fn read(&self, lane: u32) -> Doing {
        let mut place = [0; PLACE];
        let read = self.0.read_exact_at(&mut place, u64::from(lane) * PLACE as u64);
        let doing = read.ok().and_then(|()| postcard::take_from_bytes(&place).ok());
        doing.map(|(doing, _)| doing).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_last_is_read_and_rubbish_is_nothing() {
        let notes = Notes::new(2).expect("memory");
        let doing = Doing::Computing("x".repeat(200).into());
        notes.write(1, &doing);
        assert_eq!((notes.read(0), notes.read(1)), (Doing::Preparing, doing));
        notes.0.write_all_at(&[0xff; PLACE], 0).expect("written");
        assert_eq!(notes.read(0), Doing::Preparing);
        assert_eq!(notes.read(7), Doing::Preparing);
    }
}
