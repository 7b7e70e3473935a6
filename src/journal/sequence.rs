//! How far the journal has come, twice: in the database, and in a small file
//! beside it.
//!
//! A database whose newest commit is damaged opens with the one before, as if
//! nothing had been. redb can't tell that from a commit that was cut short by a
//! crash; the file can. It is written in place after a commit is on the disk,
//! and never synced, so at each moment:
//!
//! - killed before it is written: it is older than the database, which means
//!   nothing;
//! - loss of power: its last writes may be lost, or it is torn: likewise;
//! - a commit that fails may be in the database, but not in the file.
//!
//! So a database that is older than the file says has lost what was on the
//! disk, and nothing else makes it so.

use super::record::{opened, sealed};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// What has been recorded since the journal was begun.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sequence {
    /// Steps of any kind.
    pub(super) steps: u64,
    /// Tasks that were accepted.
    pub(super) accepted: u64,
}

impl Sequence {
    /// What is missing from a database that has come this far only.
    pub(super) fn beyond(self, found: Sequence) -> Option<Sequence> {
        (self.steps > found.steps).then(|| Sequence {
            steps: self.steps - found.steps,
            accepted: self.accepted.saturating_sub(found.accepted),
        })
    }

    pub(super) fn encode(self) -> Vec<u8> {
        sealed(&[self.steps.to_le_bytes(), self.accepted.to_le_bytes()].concat())
    }

    /// None if the bytes are damaged.
    pub(super) fn decode(bytes: &[u8]) -> Option<Sequence> {
        let (steps, accepted) = opened(bytes)?.split_at_checked(8)?;
        Some(Sequence {
            steps: u64::from_le_bytes(steps.try_into().ok()?),
            accepted: u64::from_le_bytes(accepted.try_into().ok()?),
        })
    }
}

/// Where the sequence is written beside the database, so that tests can take
/// its power.
pub(super) trait Counter: Send {
    /// What was written last, or an earlier one, or nothing that makes sense.
    fn read(&mut self) -> io::Result<Vec<u8>>;
    /// Writes it in place, without a sync.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;
}

/// A file of the file system.
pub(super) struct CounterFile(File);

impl CounterFile {
    /// Makes it if it is not there.
    pub(super) fn open(path: &Path) -> io::Result<CounterFile> {
        let mut options = File::options();
        let file = options.read(true).write(true).create(true).truncate(false).open(path)?;
        Ok(CounterFile(file))
    }
}

impl Counter for CounterFile {
    fn read(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        // Of any file that lies there no more than is ours.
        Read::by_ref(&mut self.0).take(64).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, 0)
    }
}
