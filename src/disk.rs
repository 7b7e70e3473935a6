//! What a worker finds again after a restart: modules and models as they were
//! compiled, in a folder of its own.
//!
//! It only saves time. What is damaged, was made by another version or can't
//! be read is as good as not there, and what can't be written is compiled once
//! more. But what is found is run as it is, native code included: so the
//! folder must be the worker's alone, and nothing is taken from it whose
//! digest is not right.

use crate::digest::Digest;
use anyhow::{Context as _, ensure};
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;
use tracing::{debug, warn};

/// Length of the digest that follows an entry's bytes.
const DIGEST: usize = 32;
/// The name of an entry that is being written.
const UNFINISHED: &str = "unfinished";

/// The folder. See the module's documentation.
#[derive(Debug)]
pub struct DiskCache {
    folder: PathBuf,
    budget: u64,
    /// Held while an entry is written: one at a time is enough.
    writing: Mutex<()>,
    /// A failure to write has been told.
    failed: AtomicBool,
}

impl DiskCache {
    /// Opens the folder, or makes it, for `budget` bytes.
    ///
    /// # Errors
    ///
    /// It can't be made, or others than this user can write to it.
    pub fn open(folder: &Path, budget: u64) -> anyhow::Result<DiskCache> {
        let name = || format!("the folder {}", folder.display());
        DirBuilder::new().recursive(true).mode(0o700).create(folder).with_context(name)?;
        let metadata = fs::symlink_metadata(folder).with_context(name)?;
        // A file that is made here has this process's user.
        let probe = folder.join(UNFINISHED);
        let own = File::create(&probe).and_then(|file| file.metadata()).with_context(name)?;
        fs::remove_file(&probe).with_context(name)?;
        ensure!(
            metadata.is_dir() && metadata.uid() == own.uid() && metadata.mode() & 0o022 == 0,
            "others can write to {}: what is in it could not be trusted",
            name()
        );
        Ok(DiskCache {
            folder: folder.to_owned(),
            budget,
            writing: Mutex::default(),
            failed: AtomicBool::new(false),
        })
    }

    /// What was kept under this key, whole.
    pub fn get(&self, key: &Digest) -> Option<Vec<u8>> {
        let path = self.path(key);
        match read(&path, key) {
            Ok(Some(bytes)) => Some(bytes),
            Ok(None) => {
                debug!(path = %path.display(), "a damaged entry of the cache on disk is dropped");
                self.remove(key);
                None
            }
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    debug!(path = %path.display(), "the cache on disk can't be read: {error}");
                }
                None
            }
        }
    }

    /// Keeps `bytes`, in place of what was used least recently. Whoever asks
    /// later finds all of it or nothing.
    pub fn put(&self, key: &Digest, bytes: &[u8]) {
        if let Err(error) = self.write(key, bytes) {
            // Once: a full disk is full for every task.
            if !self.failed.swap(true, Ordering::Relaxed) {
                let folder = self.folder.display();
                warn!(
                    "the cache in {folder} can't be written, so the next start is slower: {error}"
                );
            }
        }
    }

    /// Drops what is of no use, as another version's.
    pub fn remove(&self, key: &Digest) {
        // It may be gone already.
        fs::remove_file(self.path(key)).ok();
    }

    /// A place in the folder for a file of the caller's, who removes it.
    pub fn scratch(&self, key: &Digest) -> PathBuf {
        self.folder.join(format!("{key}.scratch"))
    }

    fn path(&self, key: &Digest) -> PathBuf {
        self.folder.join(key.to_string())
    }

    fn write(&self, key: &Digest, bytes: &[u8]) -> io::Result<()> {
        let size = bytes.len() as u64;
        if size > self.budget {
            return Ok(());
        }
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        self.make_room(size)?;
        let unfinished = self.folder.join(UNFINISHED);
        let written = File::create(&unfinished).and_then(|mut file| {
            file.write_all(bytes)?;
            // No flush to the disk: what a crash tears has another digest.
            file.write_all(seal(key, bytes).as_bytes())
        });
        let kept = written.and_then(|()| fs::rename(&unfinished, self.path(key)));
        if kept.is_err() {
            // Half of it would take room that the next one may have.
            fs::remove_file(&unfinished).ok();
        }
        kept
    }

    fn make_room(&self, size: u64) -> io::Result<()> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            entries.push((metadata.modified()?, metadata.len(), entry.path()));
        }
        entries.sort();
        let mut held: u64 = entries.iter().map(|(_, size, _)| size).sum();
        for (_, length, path) in entries {
            if held.saturating_add(size) <= self.budget {
                break;
            }
            fs::remove_file(path)?;
            held -= length;
        }
        Ok(())
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
    Digest::of_parts(&[key.as_bytes(), bytes])
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
        cache.put(&key(1), b"one");
        drop(cache);
        let cache = DiskCache::open(&dir.path().join("cache"), 1000).expect("a cache");
        assert_eq!(cache.get(&key(1)).as_deref(), Some(&b"one"[..]));
        assert_eq!(cache.get(&key(2)), None);
    }

    /// HAZARDS.md, case 52.
    #[test]
    fn what_is_damaged_is_not_found() {
        let (_dir, cache) = cache(1000);
        for at in 0..3 + DIGEST {
            cache.put(&key(1), b"one");
            let path = cache.path(&key(1));
            let mut bytes = fs::read(&path).expect("an entry");
            bytes[at] ^= 1;
            fs::write(&path, &bytes).expect("written");
            assert_eq!(cache.get(&key(1)), None, "byte {at}");
            fs::write(&path, &bytes[..at]).expect("written");
            assert_eq!(cache.get(&key(1)), None, "cut at {at}");
            assert!(!path.exists());
        }
        cache.put(&key(1), b"one");
        fs::rename(cache.path(&key(1)), cache.path(&key(2))).expect("renamed");
        assert_eq!(cache.get(&key(2)), None, "under another key");
    }

    /// HAZARDS.md, case 52.
    #[test]
    fn what_can_not_be_written_is_not_there_and_nothing_else_happens() {
        let (dir, cache) = cache(1000);
        fs::remove_dir_all(dir.path().join("cache")).expect("removed");
        cache.put(&key(1), b"one");
        assert_eq!(cache.get(&key(1)), None);
    }

    #[test]
    fn what_was_used_least_recently_makes_room() {
        let (_dir, cache) = cache(300);
        for number in 1..=2 {
            cache.put(&key(number), &[0; 100]);
            let used = SystemTime::now() - Duration::from_secs(100 - u64::from(number));
            let file = File::options().write(true).open(cache.path(&key(number)));
            file.and_then(|file| file.set_modified(used)).expect("a time");
        }
        assert!(cache.get(&key(1)).is_some());
        cache.put(&key(3), &[0; 100]);
        assert!(cache.get(&key(1)).is_some() && cache.get(&key(3)).is_some());
        assert_eq!(cache.get(&key(2)), None);
        cache.put(&key(4), &[0; 301]);
        assert_eq!(cache.get(&key(4)), None, "larger than all of it");
        assert!(cache.get(&key(3)).is_some());
    }

    #[test]
    fn a_folder_that_others_can_write_to_is_not_used() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().expect("a directory");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o770)).expect("set");
        let refused = DiskCache::open(dir.path(), 1000).expect_err("others can write");
        assert!(refused.to_string().contains("others can write"), "{refused}");
    }
}
