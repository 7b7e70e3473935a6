//! What a worker finds again after a restart: modules or models as they were
//! compiled, in a folder of its own.
//!
//! It only saves time. What is damaged, was made by another version or can't
//! be read is as good as not there, and what can't be written is compiled once
//! more. But what is found is run as it is, native code included: so the
//! folder must be the worker's alone, and nothing is taken from it whose
//! digest is not right.
//!
//! One thread writes, one entry after the other, and what comes while it has
//! enough to do is not kept: nobody waits for it, and no flood of modules can
//! pile up behind a slow disk.

use crate::digest::Digest;
use anyhow::{Context as _, ensure};
use std::fmt;
use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use tracing::{debug, warn};

/// Length of the digest that follows an entry's bytes.
const DIGEST: usize = 32;
/// The name of the entry that is being written.
const UNFINISHED: &str = "unfinished";
/// Entries that wait to be written.
const WAITING: usize = 2;
/// Stack of the thread that writes: OpenVINO walks a model recursively when it
/// gives it away.
const STACK: usize = 32 << 20;

type Make = Box<dyn FnOnce() -> Result<Vec<u8>, String> + Send>;

/// The folder and who writes to it. See the module's documentation.
pub struct DiskCache {
    folder: Arc<Folder>,
    entries: SyncSender<(Digest, Make)>,
    writer: Arc<Writer>,
}

struct Folder {
    path: PathBuf,
    /// What earlier processes have left, which is only read.
    earlier: Option<PathBuf>,
    budget: u64,
    /// A failure to write has been told.
    failed: AtomicBool,
}

/// What the thread is at.
#[derive(Default)]
struct Writer {
    state: Mutex<WriterState>,
    changed: Condvar,
}

#[derive(Default)]
struct WriterState {
    writing: bool,
    closed: bool,
}

impl fmt::Debug for DiskCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DiskCache({})", self.folder.path.display())
    }
}

impl DiskCache {
    /// Opens the folder, or makes it, for `budget` bytes.
    ///
    /// # Errors
    ///
    /// It can't be made, or others than this user can write to it.
    pub fn open(path: &Path, budget: u64) -> anyhow::Result<DiskCache> {
        DiskCache::open_over(None, path, budget)
    }

    /// The same over a folder of what earlier processes have left, which is
    /// read after this one and not written to.
    ///
    /// # Errors
    ///
    /// As above.
    pub fn open_over(
        earlier: Option<PathBuf>,
        path: &Path,
        budget: u64,
    ) -> anyhow::Result<DiskCache> {
        prove(path).with_context(|| format!("the folder {}", path.display()))?;
        let failed = AtomicBool::new(false);
        let folder = Arc::new(Folder { path: path.to_owned(), earlier, budget, failed });
        let writer = Arc::<Writer>::default();
        let (entries, waiting) = sync_channel::<(Digest, Make)>(WAITING);
        std::thread::Builder::new()
            .name("disk-cache".into())
            .stack_size(STACK)
            .spawn({
                let (folder, writer) = (folder.clone(), writer.clone());
                move || {
                    for (key, make) in waiting {
                        writer.work(|| folder.keep(&key, make));
                    }
                }
            })
            .context("starting the thread that writes the cache on disk")?;
        Ok(DiskCache { folder, entries, writer })
    }

    /// What was kept under this key, whole.
    pub fn get(&self, key: &Digest) -> Option<Vec<u8>> {
        self.folder.get(key)
    }

    /// Has what `make` gives kept, in place of what was used least recently,
    /// if the thread that does it is free soon.
    pub fn keep(
        &self,
        key: Digest,
        make: impl FnOnce() -> Result<Vec<u8>, String> + Send + 'static,
    ) {
        if self.entries.try_send((key, Box::new(make))).is_err() {
            debug!("the cache on disk has enough to write: an entry is not kept");
        }
    }

    /// Drops what is of no use, as another version's.
    pub fn remove(&self, key: &Digest) {
        self.folder.remove(key);
    }

    /// Nothing more is begun; what is being written has this long to end.
    pub fn close(&self, within: Duration) {
        let mut state = self.writer.lock();
        state.closed = true;
        let ended = self.writer.changed.wait_timeout_while(state, within, |state| state.writing);
        drop(ended.unwrap_or_else(PoisonError::into_inner));
    }
}

impl Writer {
    fn work(&self, write: impl FnOnce()) {
        let mut state = self.lock();
        if state.closed {
            return;
        }
        state.writing = true;
        drop(state);
        // What has panicked has been reported by the panic hook.
        catch_unwind(AssertUnwindSafe(write)).ok();
        self.lock().writing = false;
        self.changed.notify_all();
    }

    // Two flags: whole at any moment.
    fn lock(&self) -> MutexGuard<'_, WriterState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Moves the entries of the folder `from`, which nobody writes to any more, to
/// `into`, which is made or proven, in place of what was used least recently.
/// What is no entry by its name or kind stays where it is.
///
/// # Errors
///
/// `into` can't be used, or has no room, or something can't be moved.
pub fn adopt(from: &Path, into: &Path, budget: u64) -> anyhow::Result<()> {
    prove(into).with_context(|| format!("the folder {}", into.display()))?;
    let into =
        Folder { path: into.to_owned(), earlier: None, budget, failed: AtomicBool::new(false) };
    let Some(entries) = unless_gone(fs::read_dir(from))? else { return Ok(()) };
    for entry in entries {
        let entry = entry?;
        let (name, metadata) = (entry.file_name(), entry.metadata()?);
        let Some(key) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        if metadata.is_file() && metadata.len() <= budget {
            into.make_room(metadata.len())?;
            fs::rename(entry.path(), into.file(&key))?;
        }
    }
    Ok(())
}

/// Makes the folder, and proves that nobody else can write to it.
///
/// # Errors
///
/// It can't be made, is a link or another user's, or others can write to it.
pub fn prove(path: &Path) -> anyhow::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    let metadata = fs::symlink_metadata(path)?;
    ensure!(metadata.is_dir(), "it is a link, or no folder: remove it");
    ensure!(
        metadata.mode() & 0o022 == 0,
        "others can write to it, so what is in it could not be trusted: `chmod go-w` it"
    );
    // What the last process was at when it died.
    match fs::remove_file(path.join(UNFINISHED)) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    // A file that is made here has this process's user.
    let probe = path.join(UNFINISHED);
    let own = create(&probe).and_then(|file| file.metadata())?.uid();
    fs::remove_file(&probe)?;
    ensure!(metadata.uid() == own, "it is another user's: remove it");
    Ok(())
}

/// A file that was not there: nothing that somebody put in its place.
fn create(path: &Path) -> io::Result<File> {
    File::options().write(true).create_new(true).open(path)
}

impl Folder {
    fn get(&self, key: &Digest) -> Option<Vec<u8>> {
        let earlier = || self.find(self.earlier.as_ref()?.join(key.to_string()), key);
        self.find(self.file(key), key).or_else(earlier)
    }

    fn find(&self, path: PathBuf, key: &Digest) -> Option<Vec<u8>> {
        match read(&path, key) {
            Ok(Some(bytes)) => Some(bytes),
            Ok(None) => {
                debug!(path = %path.display(), "a damaged entry of the cache on disk is dropped");
                // One that is only read stays, and is damaged the next time, too.
                fs::remove_file(path).ok();
                None
            }
            Err(error) => {
                if error.kind() != ErrorKind::NotFound {
                    debug!(path = %path.display(), "the cache on disk can't be read: {error}");
                }
                None
            }
        }
    }

    fn remove(&self, key: &Digest) {
        // It may be gone already.
        fs::remove_file(self.file(key)).ok();
    }

    fn keep(&self, key: &Digest, make: Make) {
        match make() {
            Ok(bytes) => self.put(key, &bytes),
            Err(error) => debug!("something compiled can't be kept on the disk: {error}"),
        }
    }

    fn put(&self, key: &Digest, bytes: &[u8]) {
        if let Err(error) = self.write(key, bytes) {
            // Once: a full disk is full for every task.
            if !self.failed.swap(true, Ordering::Relaxed) {
                let folder = self.path.display();
                warn!(
                    "the cache in {folder} can't be written, so the next start is slower: {error}"
                );
            }
        }
    }

    fn file(&self, key: &Digest) -> PathBuf {
        self.path.join(key.to_string())
    }

    fn write(&self, key: &Digest, bytes: &[u8]) -> io::Result<()> {
        let size = (bytes.len() + DIGEST) as u64;
        if size > self.budget {
            return Ok(());
        }
        self.make_room(size)?;
        let unfinished = self.path.join(UNFINISHED);
        let written = create(&unfinished).and_then(|mut file| {
            file.write_all(bytes)?;
            // No flush to the disk: what a crash tears has another digest.
            file.write_all(seal(key, bytes).as_bytes())
        });
        let kept = written.and_then(|()| fs::rename(&unfinished, self.file(key)));
        if kept.is_err() {
            // Half of it would take room that the next one may have.
            fs::remove_file(&unfinished).ok();
        }
        kept
    }

    fn make_room(&self, size: u64) -> io::Result<()> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            // One that is of no use may go meanwhile.
            let Some(metadata) = unless_gone(entry.metadata())? else { continue };
            entries.push((metadata.modified()?, metadata.len(), entry.path()));
        }
        entries.sort();
        let mut held: u64 = entries.iter().map(|(_, size, _)| size).sum();
        for (_, length, path) in entries {
            if held.saturating_add(size) <= self.budget {
                break;
            }
            unless_gone(fs::remove_file(path))?;
            held -= length;
        }
        Ok(())
    }
}

fn unless_gone<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// None if it is not what was written.
fn read(path: &Path, key: &Digest) -> io::Result<Option<Vec<u8>>> {
    let mut file = File::open(path)?;
    let mut bytes = Vec::with_capacity(file.metadata()?.len() as usize);
    file.read_to_end(&mut bytes)?;
    // The time of use decides who makes room.
    file.set_modified(SystemTime::now()).ok();
    let Some(length) = bytes.len().checked_sub(DIGEST) else { return Ok(None) };
    let whole = seal(key, &bytes[..length]).as_bytes() == &bytes[length..];
    bytes.truncate(length);
    Ok(whole.then_some(bytes))
}

/// Of the key as well, so that no entry passes for another.
fn seal(key: &Digest, bytes: &[u8]) -> Digest {
    Digest::of_list([&key.as_bytes()[..], bytes])
}

#[cfg(test)]
mod tests;
