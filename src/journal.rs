//! The journal: accepted tasks and unsent results on disk, so that each
//! accepted task ends in one result whatever happens to the process.
//!
//! ```text
//! message ─▶ Accepted ─▶ (on disk) ─▶ acknowledged to the broker ─▶ runs
//!        ─▶ Finished ─▶ (on disk) ─▶ published ─▶ acknowledged by the broker
//!        ─▶ Delivered ─▶ remembered for repeated messages ─▶ Forgotten
//!        ─▶ Unconfirmed ─▶ Confirmed, where the manager is asked about it
//! latent: Accepted ─▶ Deployed ─▶ Forgotten, after a stop or in favour of another
//! ```
//!
//! [`Journal::record`] hands a step to a thread and returns; what is to follow
//! the step comes back once it is on the disk. The thread writes all that
//! waits as one transaction with one sync, so a burst costs one, and neither
//! the poll loop nor an executor ever waits for the disk. When the disk is
//! full or fails nothing comes back, so nothing is acknowledged; the thread
//! tries again until it succeeds, results first, because they need little room
//! and make some.
//!
//! What a task asks for is read back when its turn comes, by a [`JournalReader`],
//! beside the thread that writes; a start reads only what waits and what has
//! results, and no module.
//!
//! A result is on the disk before it is published: what a run after a crash
//! makes can't differ from what someone has already seen.
//!
//! The store is redb: transactions that survive a crash at any point, in one
//! file (the modules lie beside it, as `modules.rs` explains), in Rust alone (so
//! the static build stays one), without dependencies, stable and maintained. It takes a disk of the caller's own, by which the
//! tests fill it, tear it and kill it. rusqlite and heed bring C; fjall brings
//! thirty crates and background threads for volumes that a worker never has;
//! sled has not had a stable release for years.
//!
//! Nothing here knows of MQTT or of the worker.

mod database;
mod invocations;
mod loss;
mod modules;
mod pace;
mod reader;
mod record;
mod running;
mod sequence;
mod store;
mod trim;
mod updates;
mod writer;

#[cfg(test)]
mod damage;
#[cfg(test)]
mod tests;

use crate::task::{TaskId, TaskRequest};
use anyhow::Context as _;
use bytes::Bytes;
use database::{Open, StoreError};
use modules::Folder;
use sequence::CounterFile;
use std::fs::{DirBuilder, File, TryLockError};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use store::Store;
use tokio::sync::mpsc::UnboundedReceiver;
use tracing::error;

pub use invocations::{InvocationKey, InvocationMarks};
pub use pace::{JOURNAL_BUCKETS, JournalLevels, Pace};
pub use reader::{JournalReader, ReadError};
pub use record::{Arrival, Deployed, Ending, Fingerprint, Finished, Waiting, fingerprint};
pub use running::{RunningMark, RunningTasks};
pub use updates::{UpdateMark, UpdateMarks};
pub use writer::Journal;

/// Memory that the store may use for pages that it has read or written.
const PAGE_CACHE: usize = 16 << 20;
/// The store's name in the state directory.
const FILE: &str = "journal.redb";
/// A file from this size on is made smaller at the start.
const COMPACT_FROM: u64 = 64 << 20;

/// The number of a run: a task that is started again is another run. They grow
/// in the order of acceptance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Run(pub u64);

/// What happens to a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// It will run.
    Accepted {
        /// The run.
        run: Run,
        /// The message.
        arrival: Arrival,
        /// What it asks for.
        request: TaskRequest,
    },
    /// It is to be stopped, now or after a restart; after its end: its result
    /// answers no later start.
    Stopped(Run),
    /// Its task is deployed: what was accepted is kept for invocations.
    Deployed(Run),
    /// It is an HTTP server, which listens at this port.
    Serves {
        /// The run.
        run: Run,
        /// The port.
        port: u16,
    },
    /// The broker is known to have the acknowledgement of its message.
    Acknowledged(Run),
    /// The process died while it ran, so it is a suspect.
    Died {
        /// The run.
        run: Run,
        /// How often by now with no other task beside it.
        times: u32,
    },
    /// It has this result. It need not have been accepted: a refusal is a
    /// result too.
    Finished {
        /// The run.
        run: Run,
        /// The message.
        arrival: Arrival,
        /// How it ended.
        ending: Ending,
        /// What is to be published.
        result: Bytes,
    },
    /// The broker has acknowledged the result.
    Delivered(Run),
    /// It is to be published once more, whatever happens to this process.
    Undelivered(Run),
    /// The result has answered a start of a task that the manager showed as
    /// running, which it does once.
    Replayed(Run),
    /// Whether its result has arrived where it is meant for is to be asked.
    Unconfirmed {
        /// The run.
        run: Run,
        /// When the result left.
        left: SystemTime,
    },
    /// That need not be asked any more.
    Confirmed(Run),
    /// Nothing of it is needed any more.
    Forgotten(Run),
    /// None: to learn that all steps before it are on the disk.
    Nothing,
}

/// What the last process left.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Accepted, without a result, oldest first, but suspects in front.
    pub waiting: Vec<Waiting>,
    /// Deployed, oldest first.
    pub deployed: Vec<Deployed>,
    /// With a result, oldest first.
    pub finished: Vec<Finished>,
    /// What could not be read.
    pub losses: Vec<Loss>,
    /// The last invocations that came, oldest first.
    pub invoked: Vec<InvocationKey>,
    /// The first run that has not been.
    pub next: Run,
}

/// Something that was in the journal and can't be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loss {
    /// A record.
    Record(Run),
    /// So many records, of which nothing else is known.
    Records(u64),
    /// What was recorded last.
    Newest {
        /// Steps of any kind.
        steps: u64,
        /// Tasks that were accepted with them.
        accepted: u64,
    },
    /// A task's result, and whether it had been delivered.
    Result(TaskId, bool),
}

/// A journal that has been opened.
pub struct Opened<T> {
    /// To be written to.
    pub journal: Journal<T>,
    /// What was in it.
    pub recovered: Recovered,
    /// Beside it: which invocations have come.
    pub invocations: InvocationMarks,
    /// Beside it: of which runs an update was being sent.
    pub updates: UpdateMarks,
    /// What follows steps that are on the disk, in the order of the steps.
    pub durable: UnboundedReceiver<T>,
}

impl<T: Send + 'static> Journal<T> {
    /// Opens the journal in `directory`, or begins one there. `executors` tasks
    /// can run at the same time.
    ///
    /// # Errors
    ///
    /// The directory can't be made or written, or another process uses it. A
    /// damaged journal is not an error: it is set aside, and damaged modules are
    /// for who reads them.
    pub fn open(directory: &Path, executors: usize) -> anyhow::Result<Opened<T>> {
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700).create(directory).with_context(|| {
            format!(
                "creating the state directory {}: choose another one with --state-dir, or do \
                 without one with --stateless",
                directory.display()
            )
        })?;
        let lock = lock(directory)?;
        let (mut store, mut recovered) = open_or_begin(directory)?;
        let running = directory.join("running");
        let (marks, died) = RunningTasks::open(&running, executors)
            .with_context(|| format!("opening {}", running.display()))?;
        // First, so that no death is counted twice, whatever happens here.
        marks.clear().with_context(|| format!("writing {}", running.display()))?;
        find_suspects(&mut store, &mut recovered, &died)
            .with_context(|| format!("writing the journal in {}", directory.display()))?;
        let path = directory.join("invocations");
        let (invocations, invoked) =
            InvocationMarks::open(&path).with_context(|| format!("opening {}", path.display()))?;
        recovered.invoked = invoked;
        let path = directory.join("updates");
        let updates = UpdateMarks::open(&path, recovered.next)
            .with_context(|| format!("opening {}", path.display()))?;
        let (journal, durable) = Journal::start(store, marks, lock, directory.join(FILE))?;
        Ok(Opened { journal, recovered, invocations, updates, durable })
    }
}

/// Whether there is a journal in `directory`.
pub fn exists(directory: &Path) -> bool {
    directory.join(FILE).exists()
}

/// Held as long as the journal is open.
fn lock(directory: &Path) -> anyhow::Result<File> {
    let path = directory.join("lock");
    let file = File::options().write(true).create(true).truncate(false).open(&path);
    let file = file.with_context(|| {
        format!(
            "opening {}: the state directory must be writable; choose another one with \
             --state-dir, or do without one with --stateless",
            path.display()
        )
    })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => anyhow::bail!(
            "another proplet with this client id uses the state directory {}: stop it, or give \
             this one a client id or a --state-dir of its own",
            directory.display()
        ),
        Err(TryLockError::Error(e)) => {
            Err(e).with_context(|| format!("locking {}", path.display()))
        }
    }
}

/// The store in `directory`. One that makes no sense is set aside, and a new
/// one begun.
fn open_or_begin(directory: &Path) -> anyhow::Result<(Store, Recovered)> {
    let path = &directory.join(FILE);
    let modules = directory.join("tasks");
    let sequence = directory.join("sequence");
    let open = || {
        let failed = |e| StoreError::Io(redb::Error::Io(e));
        let modules = Folder::open(&modules).map_err(failed)?;
        let counter = CounterFile::open(&sequence).map_err(failed)?;
        Store::open(opener(path), Box::new(modules), Box::new(counter))
    };
    match open() {
        Ok(opened) => Ok(opened),
        Err(e @ (StoreError::Io(_) | StoreError::Closed)) => {
            Err(e).with_context(|| format!("opening the journal {}", path.display()))
        }
        Err(StoreError::Broken(reason)) => {
            let aside = aside(path);
            std::fs::rename(path, &aside)
                .with_context(|| format!("setting aside {}", path.display()))?;
            // What it was ahead of is said in the next line.
            std::fs::remove_file(&sequence).ok();
            error!(
                "the journal {} is broken ({reason}): tasks that were accepted and had no result \
                 are lost; it is kept as {}, and a new one is begun",
                path.display(),
                aside.display()
            );
            open().with_context(|| format!("beginning the journal {}", path.display()))
        }
    }
}

/// A name beside `path` that is free.
fn aside(path: &Path) -> PathBuf {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    path.with_extension(format!("broken-{}", now.as_millis()))
}

fn opener(path: &Path) -> Open {
    let path = path.to_owned();
    let compacted = std::sync::atomic::AtomicBool::new(false);
    Box::new(move || {
        let mut database = redb::Builder::new().set_cache_size(PAGE_CACHE).create(&path)?;
        let large = std::fs::metadata(&path).is_ok_and(|file| file.len() >= COMPACT_FROM);
        // Once a process: it is for the start, when nothing waits for it.
        if !compacted.swap(true, std::sync::atomic::Ordering::Relaxed) && large {
            database.compact().map_err(|e| match e {
                redb::CompactionError::Storage(e) => redb::DatabaseError::Storage(e),
                _ => redb::DatabaseError::TransactionInProgress,
            })?;
        }
        Ok(database)
    })
}

/// What the last process died with is suspected of having caused it, and comes
/// first. What was alone is charged with it: several may be innocent.
fn find_suspects(
    store: &mut Store,
    recovered: &mut Recovered,
    died: &[TaskId],
) -> Result<(), StoreError> {
    let alone = u32::from(died.len() == 1);
    let mut steps = Vec::new();
    for waiting in &mut recovered.waiting {
        if died.contains(&waiting.arrival.id) {
            waiting.suspect = true;
            waiting.deaths += alone;
            steps.push(Step::Died { run: waiting.run, times: waiting.deaths });
        }
    }
    if !steps.is_empty() {
        store.apply(steps.iter())?;
    }
    recovered.waiting.sort_by_key(|waiting| (!waiting.suspect, waiting.run));
    Ok(())
}
