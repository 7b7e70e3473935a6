//! The modules of waiting tasks: one file for each, named by its digest, once
//! for all tasks that wait with it.
//!
//! They lie beside the database, not in it: after a crash redb reads all that
//! is in it, which a burst of large modules would make gigabytes; a file gives
//! its room back at once; and the threads that run tasks read them without the
//! database.

use super::{Run, trim};
use crate::digest::Digest;
use crate::task::Binary;
use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tracing::debug;

/// Modules that are kept although no task waits with them: the next task
/// usually brings the same one.
const IDLE: usize = 256;
/// Bytes of those.
const IDLE_BYTES: u64 = 64 << 20;
/// Bytes of modules that are read back until their memory is given back.
const GIVE_BACK: u64 = 4 << 20;
/// How the name of a file ends that is being written.
const UNFINISHED: &str = ".new";

/// Where the files lie, so that tests can fill the disk and take its power.
pub(super) trait Files: Send + Sync {
    /// Names and sizes.
    fn list(&self) -> io::Result<Vec<(String, u64)>>;
    /// All of a file.
    fn read(&self, name: &str) -> io::Result<Vec<u8>>;
    /// Writes a file to the disk, in place of one of this name. Its name is
    /// there after a loss of power if [`Files::sync`] was called.
    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Has the names on the disk.
    fn sync(&self) -> io::Result<()>;
}

/// A folder of the file system.
pub(super) struct Folder(PathBuf);

impl Folder {
    /// Makes it if it is not there.
    pub(super) fn open(path: &Path) -> io::Result<Folder> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        Ok(Folder(path.to_owned()))
    }
}

impl Files for Folder {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let files = fs::read_dir(&self.0)?.map(|entry| {
            let entry = entry?;
            Ok((entry.file_name().to_string_lossy().into_owned(), entry.metadata()?.len()))
        });
        files.collect()
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        fs::read(self.0.join(name))
    }

    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let unfinished = self.0.join(format!("{name}{UNFINISHED}"));
        let written = File::create(&unfinished).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_data()?;
            fs::rename(&unfinished, self.0.join(name))
        });
        if written.is_err() {
            // On a full disk its room is what others wait for.
            fs::remove_file(&unfinished).ok();
        }
        written
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.0.join(name))
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.0)?.sync_all()
    }
}

/// The files, for the thread that writes and those that read.
pub(super) struct ModuleFiles {
    files: Box<dyn Files>,
    /// Those that this process has neither written nor found to be right.
    unproven: Mutex<HashSet<Digest>>,
    /// Bytes that have been read.
    read: AtomicU64,
}

impl ModuleFiles {
    pub(super) fn new(files: Box<dyn Files>) -> ModuleFiles {
        ModuleFiles { files, unproven: Mutex::default(), read: AtomicU64::default() }
    }

    /// The module of this digest; none if it is not there or damaged.
    ///
    /// # Errors
    ///
    /// The disk fails.
    pub(super) fn read(&self, digest: Digest) -> io::Result<Option<Binary>> {
        let binary = match self.files.read(&digest.to_string()) {
            Ok(bytes) => {
                let size = bytes.len() as u64;
                let before = self.read.fetch_add(size, Ordering::Relaxed);
                if before / GIVE_BACK < (before + size) / GIVE_BACK {
                    // Those of tasks that have ended, with their results between.
                    trim::give_back();
                }
                Some(Binary::new(bytes)).filter(|binary| binary.digest() == digest)
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(e),
        };
        if binary.is_none() {
            // A task that brings it again must not find the damaged one.
            self.unproven().insert(digest);
        }
        Ok(binary)
    }

    /// Writes a module to the disk.
    pub(super) fn put(&self, digest: Digest, bytes: &[u8]) -> io::Result<()> {
        self.files.write(&digest.to_string(), bytes)
    }

    /// Has the names of those that were written on the disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.files.sync()
    }

    fn unproven(&self) -> MutexGuard<'_, HashSet<Digest>> {
        self.unproven.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct StoredModule {
    runs: usize,
    size: u64,
}

/// Which modules are on the disk, and who needs them.
pub(super) struct Shelf {
    modules: Arc<ModuleFiles>,
    of_run: HashMap<Run, Digest>,
    kept: HashMap<Digest, StoredModule>,
    /// Bytes of those that runs need.
    needed: u64,
    /// Those that no run needs, oldest first.
    idle: VecDeque<Digest>,
}

impl Shelf {
    /// Takes stock; `of_run` tells which modules are needed.
    pub(super) fn open(
        modules: Arc<ModuleFiles>,
        of_run: HashMap<Run, Digest>,
    ) -> io::Result<Shelf> {
        let mut kept = HashMap::new();
        for (name, size) in modules.files.list()? {
            match name.parse::<Digest>() {
                Ok(digest) => {
                    kept.insert(digest, StoredModule { runs: 0, size });
                }
                // Not whole, or none of ours.
                Err(_) => modules.files.remove(&name)?,
            }
        }
        modules.unproven().extend(kept.keys());
        for digest in of_run.values() {
            if let Some(kept) = kept.get_mut(digest) {
                kept.runs += 1;
            }
        }
        let needed = kept.values().filter(|kept| kept.runs > 0).map(|kept| kept.size).sum();
        let idle = kept.iter().filter(|(_, kept)| kept.runs == 0).map(|(digest, _)| *digest);
        let mut shelf = Shelf { idle: idle.collect(), modules, of_run, kept, needed };
        shelf.tidy();
        Ok(shelf)
    }

    /// Runs that need one, and the bytes of those that are needed.
    pub(super) fn needed(&self) -> (usize, u64) {
        (self.of_run.len(), self.needed)
    }

    /// Bytes of a module that is there.
    pub(super) fn size(&self, digest: &Digest) -> u64 {
        self.kept.get(digest).map_or(0, |kept| kept.size)
    }

    /// Sees to it that these are on the disk when it returns, and stay there
    /// although no run needs them yet.
    pub(super) fn bring<'a>(
        &mut self,
        binaries: impl Iterator<Item = &'a Binary>,
    ) -> io::Result<()> {
        let mut written = false;
        for binary in binaries {
            let digest = binary.digest();
            self.idle.retain(|idle| *idle != digest);
            let there = self.kept.contains_key(&digest);
            if there && !self.modules.unproven().contains(&digest) {
                continue;
            }
            if !(there && self.modules.read(digest)?.is_some()) {
                self.modules.put(digest, binary)?;
                written = true;
            }
            self.modules.unproven().remove(&digest);
            self.kept.entry(digest).or_insert(StoredModule { runs: 0, size: 0 }).size =
                binary.len() as u64;
        }
        if written { self.modules.sync() } else { Ok(()) }
    }

    /// A run waits with a module, which [`Shelf::bring`] has brought.
    pub(super) fn need(&mut self, run: Run, digest: Digest) {
        if self.of_run.insert(run, digest).is_none()
            && let Some(kept) = self.kept.get_mut(&digest)
        {
            self.needed += if kept.runs == 0 { kept.size } else { 0 };
            kept.runs += 1;
        }
    }

    /// A run waits no more.
    pub(super) fn release(&mut self, run: Run) {
        if let Some(digest) = self.of_run.remove(&run)
            && let Some(kept) = self.kept.get_mut(&digest)
        {
            kept.runs -= 1;
            if kept.runs == 0 {
                self.needed -= kept.size;
                self.idle.push_back(digest);
            }
        }
    }

    /// Removes the oldest of those that are idle, if there are too many.
    pub(super) fn tidy(&mut self) {
        let mut bytes: u64 = self.idle.iter().map(|digest| self.size(digest)).sum();
        while (self.idle.len() > IDLE || bytes > IDLE_BYTES)
            && let Some(digest) = self.idle.pop_front()
        {
            bytes -= self.size(&digest);
            self.remove(digest);
        }
    }

    /// Removes all that no run needs.
    pub(super) fn clear(&mut self) {
        self.idle.clear();
        let useless = self.kept.iter().filter(|(_, kept)| kept.runs == 0);
        let useless: Vec<_> = useless.map(|(digest, _)| *digest).collect();
        useless.into_iter().for_each(|digest| self.remove(digest));
    }

    fn remove(&mut self, digest: Digest) {
        self.kept.remove(&digest);
        self.modules.unproven().remove(&digest);
        if let Err(e) = self.modules.files.remove(&digest.to_string()) {
            // The next start finds it.
            debug!(%digest, "a module that is not needed any more can't be removed: {e}");
        }
    }
}
