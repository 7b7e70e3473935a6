//! Which invocations have come, so that none is run again by the next process:
//! the manager has given up on those of this one, or has their answer.
//!
//! A small file of fixed size, written in place and never synced, like that of
//! the running tasks: it survives a process that dies. After a loss of power an
//! invocation may come again that was answered, if the broker has lost its
//! acknowledgement, too.

use crate::digest::Digest;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use tracing::warn;

/// What an invocation is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct InvocationKey([u8; 16]);

impl InvocationKey {
    /// Of the invocation with this `invocation_id`.
    pub fn of(invocation_id: &str) -> InvocationKey {
        let mut key = [0; 16];
        key.copy_from_slice(&Digest::of(invocation_id.as_bytes()).as_bytes()[..16]);
        InvocationKey(key)
    }
}

/// Invocations that are remembered. A broker repeats what it has in flight for
/// a client, which is 20 messages, or 100.
const REMEMBERED: u64 = 4096;
/// Bytes of a slot: its number, counted from 1, and the key.
const SLOT: usize = 24;

/// The file.
#[derive(Debug)]
pub struct InvocationMarks {
    file: File,
    next: u64,
}

impl InvocationMarks {
    /// Opens or makes the file. Gives the invocations in it, oldest first.
    pub(super) fn open(path: &Path) -> io::Result<(InvocationMarks, Vec<InvocationKey>)> {
        let mut options = File::options();
        let mut file = options.read(true).write(true).create(true).truncate(false).open(path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let mut found: Vec<_> = bytes.chunks_exact(SLOT).filter_map(read_slot).collect();
        found.sort_unstable_by_key(|(number, _)| *number);
        let next = found.last().map_or(1, |(number, _)| number.saturating_add(1));
        // It takes its room on the disk now.
        bytes.resize(REMEMBERED as usize * SLOT, 0);
        file.write_all_at(&bytes, 0)?;
        Ok((InvocationMarks { file, next }, found.into_iter().map(|(_, key)| key).collect()))
    }

    /// This one has come. It waits for no disk.
    pub fn mark(&mut self, key: InvocationKey) {
        let mut slot = [0; SLOT];
        slot[..8].copy_from_slice(&self.next.to_le_bytes());
        slot[8..].copy_from_slice(&key.0);
        let at = self.next % REMEMBERED * SLOT as u64;
        self.next += 1;
        if let Err(e) = self.file.write_all_at(&slot, at) {
            warn!("can't note an invocation, so it could run again after a crash: {e}");
        }
    }
}

fn read_slot(slot: &[u8]) -> Option<(u64, InvocationKey)> {
    let (number, key) = slot.split_at_checked(8)?;
    let number = u64::from_le_bytes(number.try_into().ok()?);
    (number > 0).then_some((number, InvocationKey(key.try_into().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_process_knows_the_last_invocations_in_their_order() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("invocations");
        let key = |n: u64| InvocationKey::of(&format!("call-{n}"));
        let (mut marks, found) = InvocationMarks::open(&path).expect("a file");
        assert_eq!(found, []);
        (0..3).for_each(|n| marks.mark(key(n)));
        let (mut marks, found) = InvocationMarks::open(&path).expect("a file");
        assert_eq!(found, [key(0), key(1), key(2)]);
        (3..REMEMBERED + 5).for_each(|n| marks.mark(key(n)));
        let (_, found) = InvocationMarks::open(&path).expect("a file");
        assert_eq!(found.len() as u64, REMEMBERED);
        assert_eq!((found[0], found[REMEMBERED as usize - 1]), (key(5), key(REMEMBERED + 4)));
        assert_eq!(std::fs::metadata(&path).expect("a file").len(), REMEMBERED * SLOT as u64);
    }
}
