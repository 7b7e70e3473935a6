//! What the tasks of a runtime are doing and what their guests hold, where it
//! outlives that process: a place for each lane in memory that both have,
//! written by the one and read by the other when it needs to know.

use crate::cancel::{Doing, TaskChange};
use rustix::fs::{MemfdFlags, memfd_create};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;

/// Bytes of a place: more than the longest name that a graph is shown by.
const PLACE: usize = 512;
/// Bytes at its start: those of the guest's memories, little-endian.
const MEMORY: usize = 8;

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

    /// A task has this lane from now on.
    pub(super) fn clear(&self, lane: u32) {
        let mut place = [0; PLACE];
        if postcard::to_slice(&Doing::Preparing, &mut place[MEMORY..]).is_ok() {
            self.0.write_all_at(&place, at(lane)).ok();
        }
    }

    pub(super) fn write(&self, lane: u32, change: TaskChange<'_>) {
        match change {
            TaskChange::Memory(bytes) => self.0.write_all_at(&bytes.to_le_bytes(), at(lane)).ok(),
            TaskChange::Doing(doing) => {
                let mut place = [0; PLACE - MEMORY];
                // One that does not fit is not told.
                postcard::to_slice(doing, &mut place)
                    .ok()
                    .and_then(|written| self.0.write_all_at(written, at(lane) + MEMORY as u64).ok())
            }
        };
    }

    /// What the task on this lane did last; whatever makes no sense is nothing.
    pub(super) fn doing(&self, lane: u32) -> Doing {
        let mut place = [0; PLACE - MEMORY];
        let read = self.0.read_exact_at(&mut place, at(lane) + MEMORY as u64);
        let doing = read.ok().and_then(|()| postcard::take_from_bytes(&place).ok());
        doing.map(|(doing, _)| doing).unwrap_or_default()
    }

    /// Bytes of the memories of the guest on this lane.
    pub(super) fn memory(&self, lane: u32) -> u64 {
        let mut bytes = [0; MEMORY];
        let read = self.0.read_exact_at(&mut bytes, at(lane));
        read.map(|()| u64::from_le_bytes(bytes)).unwrap_or_default()
    }
}

fn at(lane: u32) -> u64 {
    u64::from(lane) * PLACE as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_last_is_read_and_rubbish_is_nothing() {
        let notes = Notes::new(2).expect("memory");
        let doing = Doing::Computing("x".repeat(200).into());
        notes.write(1, TaskChange::Doing(&doing));
        notes.write(1, TaskChange::Memory(1 << 33));
        notes.write(0, TaskChange::Memory(7));
        assert_eq!((notes.doing(0), notes.doing(1)), (Doing::Preparing, doing.clone()));
        assert_eq!((notes.memory(0), notes.memory(1)), (7, 1 << 33));
        let unfit = Doing::Computing("x".repeat(PLACE).into());
        notes.write(1, TaskChange::Doing(&unfit));
        assert_eq!(notes.doing(1), doing);
        notes.clear(1);
        assert_eq!((notes.doing(1), notes.memory(1)), (Doing::Preparing, 0));
        notes.0.write_all_at(&[0xff; PLACE], 0).expect("written");
        assert_eq!(notes.doing(0), Doing::Preparing);
        assert_eq!((notes.doing(7), notes.memory(7)), (Doing::Preparing, 0));
    }
}
