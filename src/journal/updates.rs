//! Of which runs an update was being sent, so that the next process does not send
//! it again: its receiver counts each.
//!
//! A small file of fixed size beside the journal, written in place and synced
//! before anything is sent. A mark is of use until its run has a result, so that
//! the oldest ones make room.

use super::{Run, record};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tracing::warn;

/// How far the update of a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpdateMark {
    /// It is being sent.
    Sending,
    /// It has been taken.
    Accepted,
}

/// Marks that are kept: more than runs that can be under way.
const SLOTS: u64 = 4096;
/// Bytes of a slot: a checksum, its number, the run, the mark.
const SLOT: usize = 8 + 8 + 8 + 1;

/// The file. Clones share it.
#[derive(Clone, Debug)]
pub struct UpdateMarks(Arc<Mutex<Marks>>);

#[derive(Debug)]
struct Marks {
    file: File,
    next: u64,
    /// Each with the number of its slot.
    marks: HashMap<Run, (u64, UpdateMark)>,
}

impl UpdateMarks {
    /// Opens or makes the file. `next` is the first run that has not been: a mark of
    /// a later one is another journal's.
    pub(super) fn open(path: &Path, next: Run) -> io::Result<UpdateMarks> {
        let mut options = File::options();
        let mut file = options.read(true).write(true).create(true).truncate(false).open(path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let (first, mut next) = (next, 0);
        let mut marks = HashMap::new();
        for (number, run, mark) in bytes.chunks_exact(SLOT).filter_map(read_slot) {
            next = next.max(number + 1);
            if let Some(mark) = mark.filter(|_| run < first) {
                marks.insert(run, (number, mark));
            }
        }
        bytes.resize(SLOTS as usize * SLOT, 0);
        file.write_all_at(&bytes, 0)?;
        Ok(UpdateMarks(Arc::new(Mutex::new(Marks { file, next, marks }))))
    }

    /// The mark of a run.
    pub fn get(&self, run: Run) -> Option<UpdateMark> {
        self.lock().marks.get(&run).map(|(_, mark)| *mark)
    }

    /// Sets or takes off the mark of a run. Waits for the disk.
    pub fn set(&self, run: Run, mark: Option<UpdateMark>) {
        let mut marks = self.lock();
        let number = match marks.marks.get(&run) {
            Some((number, _)) => *number,
            None => {
                marks.next += 1;
                marks.next - 1
            }
        };
        match mark {
            Some(mark) => drop(marks.marks.insert(run, (number, mark))),
            None => drop(marks.marks.remove(&run)),
        }
        // What had this slot before has a result by now.
        marks.marks.retain(|_, (kept, _)| *kept + SLOTS > number);
        let mut content = number.to_le_bytes().to_vec();
        content.extend_from_slice(&run.0.to_le_bytes());
        content.push(match mark {
            None => 0,
            Some(UpdateMark::Sending) => 1,
            Some(UpdateMark::Accepted) => 2,
        });
        let at = number % SLOTS * SLOT as u64;
        let written = marks.file.write_all_at(&record::sealed(&content), at);
        if let Err(e) = written.and_then(|()| marks.file.sync_data()) {
            warn!("can't note that an update is sent, so a crash could have it sent again: {e}");
        }
    }

    // Each change is whole before the file is written.
    fn lock(&self) -> MutexGuard<'_, Marks> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read_slot(slot: &[u8]) -> Option<(u64, Run, Option<UpdateMark>)> {
    let content = record::opened(slot)?;
    let (number, rest) = content.split_at_checked(8)?;
    let (run, mark) = rest.split_at_checked(8)?;
    let mark = match mark {
        [1] => Some(UpdateMark::Sending),
        [2] => Some(UpdateMark::Accepted),
        _ => None,
    };
    let number = u64::from_le_bytes(number.try_into().ok()?);
    Some((number, Run(u64::from_le_bytes(run.try_into().ok()?)), mark))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_process_knows_which_updates_were_being_sent() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("updates");
        let open = |next| UpdateMarks::open(&path, Run(next)).expect("a file");
        let marks = open(0);
        assert_eq!(marks.get(Run(1)), None);
        marks.set(Run(1), Some(UpdateMark::Sending));
        marks.set(Run(2), Some(UpdateMark::Sending));
        marks.set(Run(2), Some(UpdateMark::Accepted));
        marks.set(Run(3), Some(UpdateMark::Sending));
        marks.set(Run(3), None);
        let marks = open(4);
        let found: Vec<_> = (1..=3).map(|run| marks.get(Run(run))).collect();
        assert_eq!(found, [Some(UpdateMark::Sending), Some(UpdateMark::Accepted), None]);
        marks.set(Run(3), Some(UpdateMark::Sending));
        assert_eq!(open(4).get(Run(3)), Some(UpdateMark::Sending));
        assert_eq!(open(3).get(Run(3)), None, "it is another journal's");
        assert_eq!(std::fs::metadata(&path).expect("a file").len(), SLOTS * SLOT as u64);
    }
}
