//! What runtimes compile and keep on the disk. All of them read one folder, and
//! none may write there; each has a folder of its own for what it makes, which
//! goes over to the common one when it has ended in order, and away when it has
//! crashed. So nothing that a broken process wrote is ever run by another one.
//!
//! ```text
//! cache/modules, cache/graphs          read by all
//! cache/process-N/{modules,graphs}     written by one
//! ```

use crate::disk::{self, DiskCache};
use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tracing::warn;

const KINDS: [&str; 2] = ["modules", "graphs"];
/// How the name of a process's own folder begins.
const OWN: &str = "process-";

/// The folder of all caches.
#[derive(Clone, Debug)]
pub struct Caches {
    folder: PathBuf,
    budget: u64,
    next: Arc<AtomicU64>,
}

/// The folder of a process. Removed when this is dropped.
#[derive(Debug)]
pub(super) struct OwnCaches {
    caches: Caches,
    folder: PathBuf,
}

/// Where a process finds and keeps what was compiled.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CacheFolders {
    /// What earlier processes have left.
    common: PathBuf,
    own: PathBuf,
    /// Bytes of a kind.
    budget: u64,
}

impl Caches {
    /// Opens the folder, or makes it, with `budget` bytes for each kind. What the
    /// processes of a worker left that was killed, and with it they, is taken over.
    ///
    /// # Errors
    ///
    /// It can't be made, or others than this user can write to it.
    pub fn open(folder: &Path, budget: u64) -> anyhow::Result<Caches> {
        let caches = Caches { folder: folder.to_owned(), budget, next: Arc::default() };
        for kind in KINDS {
            let common = folder.join(kind);
            disk::prove(&common).with_context(|| format!("the folder {}", common.display()))?;
        }
        for entry in fs::read_dir(folder)?.flatten() {
            if entry.file_name().to_str().is_some_and(|name| name.starts_with(OWN)) {
                OwnCaches { caches: caches.clone(), folder: entry.path() }.keep();
            }
        }
        Ok(caches)
    }

    /// A folder for the next process.
    pub(super) fn own(&self) -> anyhow::Result<OwnCaches> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let folder = self.folder.join(format!("{OWN}{number}"));
        let made = fs::DirBuilder::new().mode(0o700).create(&folder);
        made.with_context(|| format!("making the folder {}", folder.display()))?;
        Ok(OwnCaches { caches: self.clone(), folder })
    }
}

impl OwnCaches {
    /// What its process is told.
    pub(super) fn disk(&self) -> CacheFolders {
        let Caches { folder, budget, .. } = &self.caches;
        CacheFolders { common: folder.clone(), own: self.folder.clone(), budget: *budget }
    }

    /// The folders that its process reads.
    pub(super) fn read(&self) -> impl Iterator<Item = PathBuf> {
        KINDS.into_iter().map(|kind| self.caches.folder.join(kind))
    }

    /// The one that it writes.
    pub(super) fn written(&self) -> &Path {
        &self.folder
    }

    /// Its process has ended in order: others have what it made.
    pub(super) fn keep(self) {
        for kind in KINDS {
            let into = self.caches.folder.join(kind);
            let kept = disk::adopt(&self.folder.join(kind), &into, self.caches.budget);
            if let Err(e) = kept {
                warn!("compiled {kind} are not kept, so each start compiles them: {e:#}");
            }
        }
    }
}

impl Drop for OwnCaches {
    fn drop(&mut self) {
        // What stays behind is looked at by the next worker.
        fs::remove_dir_all(&self.folder).ok();
    }
}

impl CacheFolders {
    /// The caches of modules and graphs, as far as they can be had.
    pub(super) fn open(&self) -> [Option<Arc<DiskCache>>; 2] {
        KINDS.map(|kind| {
            let common = Some(self.common.join(kind));
            let opened = DiskCache::open_over(common, &self.own.join(kind), self.budget);
            let unused = |e: &anyhow::Error| {
                warn!(
                    "compiled {kind} are not kept on the disk, so each start compiles them: {e:#}"
                );
            };
            opened.inspect_err(unused).ok().map(Arc::new)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use std::time::Duration;

    fn key() -> Digest {
        Digest::of(b"a module")
    }

    /// Keeps a module as a process does.
    fn make(own: &OwnCaches, bytes: &'static [u8]) {
        let [modules, _] = own.disk().open();
        let modules = modules.expect("a cache");
        modules.keep(key(), move || Ok(bytes.to_vec()));
        while modules.get(&key()).is_none_or(|found| found != bytes) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn found(caches: &Caches) -> Option<Vec<u8>> {
        let [modules, _] = caches.own().expect("a folder").disk().open();
        modules.expect("a cache").get(&key())
    }

    #[test]
    fn what_a_process_made_is_there_for_others_once_it_ended_in_order() {
        let dir = tempfile::tempdir().expect("a directory");
        let caches = Caches::open(dir.path(), 1000).expect("caches");
        let own = caches.own().expect("a folder");
        make(&own, b"of a process that crashes");
        assert_eq!(found(&caches), None, "nobody else reads it before");
        drop(own);
        assert_eq!(found(&caches), None);
        let own = caches.own().expect("a folder");
        make(&own, b"in order");
        own.keep();
        assert_eq!(found(&caches).as_deref(), Some(&b"in order"[..]));
        assert_eq!(fs::read_dir(dir.path()).expect("a folder").count(), 2, "the common ones");
    }

    #[test]
    fn what_the_processes_of_a_killed_worker_made_is_taken_over() {
        let dir = tempfile::tempdir().expect("a directory");
        let own = Caches::open(dir.path(), 1000).expect("caches").own().expect("a folder");
        make(&own, b"left");
        std::mem::forget(own);
        let caches = Caches::open(dir.path(), 1000).expect("caches");
        assert_eq!(found(&caches).as_deref(), Some(&b"left"[..]));
    }
}
