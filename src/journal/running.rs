//! Which tasks are in execution, so that the next process can tell which ones
//! this one died with.
//!
//! A small file of fixed size, one slot for each executor, written in place
//! and never synced: the page cache survives a process that dies, and a
//! machine that fails is not the task's doing. So a task costs two writes of
//! half a kilobyte to memory, and starting one waits for no disk.

use super::record;
use crate::task::TaskId;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tracing::warn;

/// Bytes of a slot: a checksum, a length, and the longest id.
const SLOT: usize = 512;

/// The file. Clones share it.
#[derive(Clone, Debug)]
pub struct RunningTasks(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    file: File,
    free: Mutex<Vec<usize>>,
    /// The process has been asked to end.
    closed: AtomicBool,
}

/// The mark of a task that runs; dropping it says that the process survived.
#[derive(Debug)]
pub struct RunningMark {
    slot: Option<usize>,
    marks: RunningTasks,
}

impl RunningTasks {
    /// Opens or makes the file, with a slot for each of `executors`. Gives the
    /// tasks that were running when the last process ended; [`RunningTasks::clear`]
    /// then forgets them.
    pub(super) fn open(path: &Path, executors: usize) -> io::Result<(RunningTasks, Vec<TaskId>)> {
        let mut options = File::options();
        let mut file = options.read(true).write(true).create(true).truncate(false).open(path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let running = bytes.chunks(SLOT).filter_map(read_slot).collect();
        let free = Mutex::new((0..executors).rev().collect());
        let closed = AtomicBool::new(false);
        Ok((RunningTasks(Arc::new(Inner { file, free, closed })), running))
    }

    /// Makes all slots empty, and takes the room for them on the disk.
    pub(super) fn clear(&self) -> io::Result<()> {
        let slots = self.free().len();
        self.0.file.set_len(0)?;
        self.0.file.write_all_at(&vec![0; slots * SLOT], 0)
    }

    /// The process has been asked to end: however it does, no task is the
    /// cause. Nothing is marked as running from now on.
    pub fn close(&self) {
        self.0.closed.store(true, Ordering::SeqCst);
        if let Err(e) = self.clear() {
            warn!("can't say that running tasks are not the cause of the worker's end: {e}");
        }
    }

    /// This task runs from now on, until the mark is dropped.
    pub fn begin(&self, id: &TaskId) -> RunningMark {
        // There is one for each executor; more would be a fault of ours that
        // costs nothing but the count.
        let slot = self.free().pop();
        if let Some(slot) = slot {
            self.write(slot, &slot_of(id));
        }
        let mark = RunningMark { slot, marks: self.clone() };
        if self.0.closed.load(Ordering::SeqCst) {
            // They may have been cleared before this one was written.
            mark.erase();
        }
        mark
    }

    fn write(&self, slot: usize, bytes: &[u8]) {
        if let Err(e) = self.0.file.write_all_at(bytes, (slot * SLOT) as u64) {
            warn!("can't mark a task as running, so a crash would not be counted: {e}");
        }
    }

    fn free(&self) -> MutexGuard<'_, Vec<usize>> {
        self.0.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RunningMark {
    fn erase(&self) {
        if let Some(slot) = self.slot {
            self.marks.write(slot, &[0; 10]);
        }
    }
}

impl Drop for RunningMark {
    fn drop(&mut self) {
        self.erase();
        self.marks.free().extend(self.slot);
    }
}

fn slot_of(id: &TaskId) -> Vec<u8> {
    let id = id.as_str().as_bytes();
    // An id has at most 256 bytes.
    let mut content = (id.len() as u16).to_le_bytes().to_vec();
    content.extend_from_slice(id);
    record::sealed(&content)
}

fn read_slot(slot: &[u8]) -> Option<TaskId> {
    let length = usize::from(u16::from_le_bytes([*slot.get(8)?, *slot.get(9)?]));
    let content = record::opened(slot.get(..10 + length)?)?;
    TaskId::new(std::str::from_utf8(&content[2..]).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_process_learns_what_was_running() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("running");
        let id = |id: &str| TaskId::new(id).expect("an id");
        let (marks, running) = RunningTasks::open(&path, 3).expect("a file");
        assert_eq!(running, []);
        marks.clear().expect("cleared");
        let long = id(&"x".repeat(TaskId::MAX_LEN));
        let (first, second) = (marks.begin(&id("a")), marks.begin(&long));
        drop(first);
        let third = marks.begin(&id("b"));
        let (again, mut running) = RunningTasks::open(&path, 3).expect("a file");
        running.sort();
        assert_eq!(running, [id("b"), long]);
        drop((second, third));
        again.clear().expect("cleared");
        assert_eq!(RunningTasks::open(&path, 3).expect("a file").1, []);
    }

    #[test]
    fn whoever_is_asked_to_end_leaves_no_mark() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("running");
        let id = TaskId::new("a").expect("an id");
        let (marks, _) = RunningTasks::open(&path, 2).expect("a file");
        let before = marks.begin(&id);
        marks.close();
        let after = marks.begin(&id);
        assert_eq!(RunningTasks::open(&path, 2).expect("a file").1, []);
        drop((before, after));
        assert_eq!(RunningTasks::open(&path, 2).expect("a file").1, []);
    }

    #[test]
    fn rubbish_is_no_mark() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("running");
        std::fs::write(&path, vec![0xA5; 3 * SLOT + 7]).expect("written");
        assert_eq!(RunningTasks::open(&path, 1).expect("a file").1, []);
    }
}
