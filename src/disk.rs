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
    keeper: Arc<Keeper>,
}

struct Folder {
    path: PathBuf,
    budget: u64,
    /// A failure to write has been told.
    failed: AtomicBool,
}

/// What the thread is at.
#[derive(Default)]
struct Keeper {
    state: Mutex<KeeperState>,
    changed: Condvar,
}

#[derive(Default)]
struct KeeperState {
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
        prove(path).with_context(|| format!("the folder {}", path.display()))?;
        let folder =
            Arc::new(Folder { path: path.to_owned(), budget, failed: AtomicBool::new(false) });
        let keeper = Arc::<Keeper>::default();
        let (entries, waiting) = sync_channel::<(Digest, Make)>(WAITING);
        std::thread::Builder::new()
            .name("disk-cache".into())
            .stack_size(STACK)
            .spawn({
                let (folder, keeper) = (folder.clone(), keeper.clone());
                move || {
                    for (key, make) in waiting {
                        keeper.work(|| folder.keep(&key, make));
                    }
                }
            })
            .context("starting the thread that writes the cache on disk")?;
        Ok(DiskCache { folder, entries, keeper })
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
        let mut state = self.keeper.lock();
        state.closed = true;
        let ended = self.keeper.changed.wait_timeout_while(state, within, |state| state.writing);
        drop(ended.unwrap_or_else(PoisonError::into_inner));
    }
}

impl Keeper {
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
    fn lock(&self) -> MutexGuard<'_, KeeperState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes the folder, and proves that nobody else can write to it.
fn prove(path: &Path) -> anyhow::Result<()> {
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
        let path = self.file(key);
        match read(&path, key) {
            Ok(Some(bytes)) => Some(bytes),
            Ok(None) => {
                debug!(path = %path.display(), "a damaged entry of the cache on disk is dropped");
                self.remove(key);
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
mod tests {
    use super::*;
    use std::time::Duration;

    fn cache(budget: u64) -> (tempfile::TempDir, DiskCache) {
        let dir = tempfile::tempdir().expect("a directory");
        let cache = DiskCache::open(&dir.path().join("cache"), budget).expect("a cache");
        (dir, cache)
    }

    fn key(number: u8) -> Digest {
        Digest::of(&[number])
    }

    #[test]
    fn what_was_kept_is_found_by_the_next_process() {
        let (dir, cache) = cache(1000);
        assert_eq!(cache.get(&key(1)), None);
        cache.folder.put(&key(1), b"one");
        drop(cache);
        let cache = DiskCache::open(&dir.path().join("cache"), 1000).expect("a cache");
        assert_eq!(cache.get(&key(1)).as_deref(), Some(&b"one"[..]));
        assert_eq!(cache.get(&key(2)), None);
    }

    /// ARCHITECTURE.md, case 52.
    #[test]
    fn what_is_damaged_is_not_found() {
        let (_dir, cache) = cache(1000);
        for at in 0..3 + DIGEST {
            cache.folder.put(&key(1), b"one");
            let path = cache.folder.file(&key(1));
            let mut bytes = fs::read(&path).expect("an entry");
            bytes[at] ^= 1;
            fs::write(&path, &bytes).expect("written");
            assert_eq!(cache.get(&key(1)), None, "byte {at}");
            fs::write(&path, &bytes[..at]).expect("written");
            assert_eq!(cache.get(&key(1)), None, "cut at {at}");
            assert!(!path.exists());
        }
        cache.folder.put(&key(1), b"one");
        fs::rename(cache.folder.file(&key(1)), cache.folder.file(&key(2))).expect("renamed");
        assert_eq!(cache.get(&key(2)), None, "under another key");
    }

    /// ARCHITECTURE.md, case 52.
    #[test]
    fn what_can_not_be_written_is_not_there_and_nothing_else_happens() {
        let (dir, cache) = cache(1000);
        fs::remove_dir_all(dir.path().join("cache")).expect("removed");
        cache.folder.put(&key(1), b"one");
        assert_eq!(cache.get(&key(1)), None);
    }

    #[test]
    fn what_was_used_least_recently_makes_room() {
        let (_dir, cache) = cache(299);
        for number in 1..=2 {
            cache.folder.put(&key(number), &[0; 100 - DIGEST]);
            let used = SystemTime::now() - Duration::from_secs(100 - u64::from(number));
            let file = File::options().write(true).open(cache.folder.file(&key(number)));
            file.and_then(|file| file.set_modified(used)).expect("a time");
        }
        assert!(cache.get(&key(1)).is_some());
        cache.folder.put(&key(3), &[0; 100 - DIGEST]);
        assert!(cache.get(&key(1)).is_some() && cache.get(&key(3)).is_some());
        assert_eq!(cache.get(&key(2)), None);
        cache.folder.put(&key(4), &[0; 300 - DIGEST]);
        assert_eq!(cache.get(&key(4)), None, "larger than all of it");
        assert!(cache.get(&key(3)).is_some());
    }

    #[test]
    fn a_folder_that_others_can_write_to_is_not_used() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().expect("a directory");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o770)).expect("set");
        let refused = DiskCache::open(dir.path(), 1000).expect_err("others can write");
        assert!(format!("{refused:#}").contains("others can write"), "{refused:#}");
    }

    #[test]
    fn a_link_is_not_used_and_what_was_left_is_not_followed() {
        let dir = tempfile::tempdir().expect("a directory");
        let (folder, other) = (dir.path().join("cache"), dir.path().join("other"));
        fs::write(&other, "precious").expect("written");
        std::os::unix::fs::symlink(dir.path(), &folder).expect("linked");
        let refused = DiskCache::open(&folder, 1000).expect_err("a link");
        assert!(format!("{refused:#}").contains("it is a link"), "{refused:#}");
        fs::remove_file(&folder).expect("removed");
        fs::create_dir(&folder).expect("made");
        std::os::unix::fs::symlink(&other, folder.join(UNFINISHED)).expect("linked");
        let cache = DiskCache::open(&folder, 1000).expect("a cache");
        cache.folder.put(&key(1), b"one");
        assert_eq!(fs::read(&other).expect("there"), b"precious");
        assert_eq!(cache.get(&key(1)).as_deref(), Some(&b"one"[..]));
    }

    #[test]
    fn a_slow_entry_holds_nobody_up_and_the_end_waits_for_it() {
        let (_dir, cache) = cache(1000);
        let (begun, has_begun) = sync_channel(1);
        let (go, gone) = sync_channel::<()>(1);
        cache.keep(key(1), move || {
            begun.send(()).map_err(|e| e.to_string())?;
            gone.recv().map_err(|e| e.to_string())?;
            Ok(b"slow".to_vec())
        });
        has_begun.recv().expect("it begins");
        for number in 2..10 {
            cache.keep(key(number), || Ok(vec![]));
        }
        cache.close(Duration::ZERO);
        assert_eq!(cache.get(&key(1)), None);
        go.send(()).expect("it waits");
        cache.close(Duration::from_secs(60));
        assert_eq!(cache.get(&key(1)).as_deref(), Some(&b"slow"[..]));
        assert_eq!(cache.get(&key(2)), None, "nothing is begun at the end");
    }
}
