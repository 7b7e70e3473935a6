//! The tables on disk: what a step does to them, and how they are read back.
//!
//! | table | key → value |
//! |---|---|
//! | `runs` | run → its record |
//! | `results` | run → the result as it is published |
//! | `modules` | digest → the module, once for all runs that wait with it |
//! | `stopped`, `delivered` | run → nothing |
//! | `deaths` | run → how often the process died with it |
//!
//! Everything is one transaction: it is there after a crash or it is not. A
//! store that has failed once is opened anew, because redb refuses to go on
//! with one.

use super::record::{Finished, Header, Module, Waiting, opened, sealed};
use super::{Loss, Recovered, Run, Step};
use crate::digest::Digest;
use crate::task::{Binary, ModuleSource, TaskId};
use bytes::Bytes;
use redb::{Database, ReadableTable, TableDefinition, WriteTransaction};
use std::collections::{HashMap, HashSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};

const RUNS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("runs");
const RESULTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("results");
const MODULES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("modules");
const STOPPED: TableDefinition<'_, u64, ()> = TableDefinition::new("stopped");
const DELIVERED: TableDefinition<'_, u64, ()> = TableDefinition::new("delivered");
const DEATHS: TableDefinition<'_, u64, u32> = TableDefinition::new("deaths");

/// Bytes of modules kept although no run waits with them: the next task
/// usually brings the same one.
const IDLE_BYTES: usize = 64 << 20;

/// Opens the database; again after each failure.
pub(super) type Open = Box<dyn Fn() -> Result<Database, redb::DatabaseError> + Send>;

/// Why the store can't be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    /// The disk is full or fails, the file may not be written, …
    #[error("{0}")]
    Io(redb::Error),
    /// What is in the file makes no sense.
    #[error("{0}")]
    Broken(String),
}

impl StoreError {
    fn of(error: impl Into<redb::Error>) -> StoreError {
        match error.into() {
            redb::Error::Corrupted(what) => StoreError::Broken(what),
            redb::Error::Io(e)
                if matches!(
                    e.kind(),
                    std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof
                ) =>
            {
                StoreError::Broken(e.to_string())
            }
            error @ (redb::Error::TableTypeMismatch { .. }
            | redb::Error::UpgradeRequired(_)
            | redb::Error::RepairAborted) => StoreError::Broken(error.to_string()),
            error => StoreError::Io(error),
        }
    }
}

/// redb asserts in places that a damaged file can reach.
fn guarded<T>(f: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|_| {
        Err(StoreError::Broken("the library that reads it gave up; see the log".into()))
    })
}

/// Which modules the waiting runs need, and which are kept beyond that.
#[derive(Clone, Debug, Default)]
struct Shelf {
    of_run: HashMap<Run, Digest>,
    needed: HashMap<Digest, usize>,
    /// Oldest first.
    idle: VecDeque<(Digest, usize)>,
}

impl Shelf {
    fn need(&mut self, run: Run, digest: Digest) {
        if self.of_run.insert(run, digest).is_none() {
            *self.needed.entry(digest).or_default() += 1;
            self.idle.retain(|(idle, _)| *idle != digest);
        }
    }

    /// The module that no run needs any more, if this one was the last.
    fn release(&mut self, run: Run) -> Option<Digest> {
        let digest = self.of_run.remove(&run)?;
        let count = self.needed.get_mut(&digest)?;
        *count -= 1;
        (*count == 0).then(|| {
            self.needed.remove(&digest);
            digest
        })
    }

    /// Keeps a module for later; gives those that are too much then.
    fn keep(&mut self, digest: Digest, size: usize) -> Vec<Digest> {
        self.idle.push_back((digest, size));
        let mut bytes: usize = self.idle.iter().map(|(_, size)| size).sum();
        let mut gone = Vec::new();
        while bytes > IDLE_BYTES
            && let Some((digest, size)) = self.idle.pop_front()
        {
            bytes -= size;
            gone.push(digest);
        }
        gone
    }
}

pub(super) struct Store {
    open: Open,
    database: Option<Database>,
    shelf: Shelf,
}

impl Store {
    /// Opens the store and reads all that is in it.
    pub(super) fn open(open: Open) -> Result<(Store, Recovered), StoreError> {
        guarded(move || {
            let database = open().map_err(StoreError::of)?;
            let mut store = Store { open, database: None, shelf: Shelf::default() };
            let recovered = store.load(&database)?;
            store.database = Some(database);
            Ok((store, recovered))
        })
    }

    /// Does all of these steps, or none; they are on the disk when this
    /// returns. Doing them again changes nothing.
    pub(super) fn apply<'a>(
        &mut self,
        steps: impl Iterator<Item = &'a Step>,
    ) -> Result<(), StoreError> {
        let database = self.database.take();
        let shelf = self.shelf.clone();
        let open = &self.open;
        let (database, shelf) = guarded(move || {
            let database = match database {
                Some(database) => database,
                None => open().map_err(StoreError::of)?,
            };
            let shelf = transaction(&database, shelf, steps)?;
            Ok((database, shelf))
        })?;
        self.database = Some(database);
        self.shelf = shelf;
        Ok(())
    }

    fn load(&mut self, database: &Database) -> Result<Recovered, StoreError> {
        let write = database.begin_write().map_err(StoreError::of)?;
        let recovered = self.read(&write)?;
        write.commit().map_err(StoreError::of)?;
        Ok(recovered)
    }

    /// Reads everything, and removes what can't be used.
    fn read(&mut self, write: &WriteTransaction) -> Result<Recovered, StoreError> {
        let mut recovered = Recovered::default();
        let mut runs = write.open_table(RUNS).map_err(StoreError::of)?;
        let mut results = write.open_table(RESULTS).map_err(StoreError::of)?;
        let mut modules = write.open_table(MODULES).map_err(StoreError::of)?;
        let stopped = write.open_table(STOPPED).map_err(StoreError::of)?;
        let delivered = write.open_table(DELIVERED).map_err(StoreError::of)?;
        let deaths = write.open_table(DEATHS).map_err(StoreError::of)?;
        let mut loaded: HashMap<Digest, Option<Binary>> = HashMap::new();
        let mut useless = Vec::new();
        for entry in runs.iter().map_err(StoreError::of)? {
            let (run, record) = entry.map_err(StoreError::of)?;
            let run = Run(run.value());
            recovered.next = Run(run.0 + 1);
            let header = Header::decode(record.value());
            let Some((arrival, header)) = header.and_then(|h| Some((h.arrival()?, h))) else {
                recovered.losses.push(Loss::Record(run));
                useless.push(run);
                continue;
            };
            let Some(request) = header.request else {
                let result = results.get(run.0).map_err(StoreError::of)?;
                let result =
                    result.and_then(|sealed| Some(Bytes::copy_from_slice(opened(sealed.value())?)));
                let delivered = delivered.get(run.0).map_err(StoreError::of)?.is_some();
                match result {
                    Some(result) => {
                        recovered.finished.push(Finished { run, arrival, result, delivered });
                    }
                    None => {
                        recovered.losses.push(Loss::Result(arrival.id, delivered));
                        useless.push(run);
                    }
                }
                continue;
            };
            let module = match &request.module {
                Module::Absent => Some(None),
                Module::Url(url) => Some(Some(ModuleSource::Url(url.clone()))),
                Module::Kept(digest) => {
                    let bytes = match loaded.get(digest) {
                        Some(bytes) => bytes.clone(),
                        None => {
                            let found =
                                modules.get(&digest.as_bytes()[..]).map_err(StoreError::of)?;
                            let bytes = found
                                .map(|found| Binary::new(found.value()))
                                .filter(|found| found.digest() == *digest);
                            loaded.insert(*digest, bytes.clone());
                            bytes
                        }
                    };
                    self.shelf.need(run, *digest);
                    bytes.map(|bytes| Some(ModuleSource::Bytes(bytes)))
                }
            };
            if module.is_none() {
                recovered.losses.push(Loss::Module(arrival.id.clone()));
            }
            recovered.waiting.push(Waiting {
                run,
                request: module.map(|module| request.restore(arrival.id.clone(), module)),
                arrival,
                stopped: stopped.get(run.0).map_err(StoreError::of)?.is_some(),
                deaths: deaths.get(run.0).map_err(StoreError::of)?.map_or(0, |n| n.value()),
            });
        }
        for run in useless {
            runs.remove(run.0).map_err(StoreError::of)?;
            results.remove(run.0).map_err(StoreError::of)?;
        }
        // Those that no run needs, and those that are damaged: a task that
        // brings the module again must not find the damaged one.
        let mut drop = HashSet::new();
        for entry in modules.iter().map_err(StoreError::of)? {
            let (key, value) = entry.map_err(StoreError::of)?;
            let digest = <[u8; 32]>::try_from(key.value()).map(Digest::from_bytes);
            match digest {
                Ok(digest) if matches!(loaded.get(&digest), Some(Some(_))) => {}
                Ok(digest)
                    if !loaded.contains_key(&digest) && Digest::of(value.value()) == digest =>
                {
                    let gone = self.shelf.keep(digest, value.value().len());
                    drop.extend(gone.iter().map(|digest| digest.as_bytes().to_vec()));
                }
                _ => {
                    drop.insert(key.value().to_vec());
                }
            }
        }
        for key in drop {
            modules.remove(&key[..]).map_err(StoreError::of)?;
        }
        Ok(recovered)
    }
}

fn transaction<'a>(
    database: &Database,
    mut shelf: Shelf,
    steps: impl Iterator<Item = &'a Step>,
) -> Result<Shelf, StoreError> {
    let write = database.begin_write().map_err(StoreError::of)?;
    {
        let mut runs = write.open_table(RUNS).map_err(StoreError::of)?;
        let mut results = write.open_table(RESULTS).map_err(StoreError::of)?;
        let mut modules = write.open_table(MODULES).map_err(StoreError::of)?;
        let mut stopped = write.open_table(STOPPED).map_err(StoreError::of)?;
        let mut delivered = write.open_table(DELIVERED).map_err(StoreError::of)?;
        let mut deaths = write.open_table(DEATHS).map_err(StoreError::of)?;
        for step in steps {
            match step {
                Step::Accepted { run, arrival, request } => {
                    if let Some(ModuleSource::Bytes(bytes)) = &request.module {
                        let digest = bytes.digest();
                        let key = &digest.as_bytes()[..];
                        if modules.get(key).map_err(StoreError::of)?.is_none() {
                            modules.insert(key, &bytes[..]).map_err(StoreError::of)?;
                        }
                        shelf.need(*run, digest);
                    }
                    let record = Header::new(arrival, Some(request)).encode();
                    runs.insert(run.0, &record[..]).map_err(StoreError::of)?;
                }
                Step::Stopped(run) => {
                    stopped.insert(run.0, ()).map_err(StoreError::of)?;
                }
                Step::Died { run, times } => {
                    deaths.insert(run.0, times).map_err(StoreError::of)?;
                }
                Step::Finished { run, arrival, result } => {
                    let record = Header::new(arrival, None).encode();
                    runs.insert(run.0, &record[..]).map_err(StoreError::of)?;
                    results.insert(run.0, &sealed(result)[..]).map_err(StoreError::of)?;
                    stopped.remove(run.0).map_err(StoreError::of)?;
                    deaths.remove(run.0).map_err(StoreError::of)?;
                    if let Some(digest) = shelf.release(*run) {
                        let size = modules.get(&digest.as_bytes()[..]).map_err(StoreError::of)?;
                        let size = size.map_or(0, |bytes| bytes.value().len());
                        for gone in shelf.keep(digest, size) {
                            modules.remove(&gone.as_bytes()[..]).map_err(StoreError::of)?;
                        }
                    }
                }
                Step::Delivered(run) => {
                    delivered.insert(run.0, ()).map_err(StoreError::of)?;
                }
                Step::Forgotten(run) => {
                    runs.remove(run.0).map_err(StoreError::of)?;
                    results.remove(run.0).map_err(StoreError::of)?;
                    delivered.remove(run.0).map_err(StoreError::of)?;
                }
                Step::Nothing => {}
            }
        }
    }
    write.commit().map_err(StoreError::of)?;
    Ok(shelf)
}

impl std::fmt::Display for Loss {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Loss::Record(run) => write!(
                f,
                "the record of run {} is damaged: which task it was of is not known, and no result \
                 of it will follow",
                run.0
            ),
            Loss::Result(id, true) => {
                write!(f, "the recorded result of task {id} is damaged; it had been delivered")
            }
            Loss::Result(id, false) => write!(
                f,
                "the recorded result of task {id} is damaged, and the broker had not acknowledged it"
            ),
            Loss::Module(id) => {
                write!(f, "the recorded module of task {id} is damaged, so the task can't be run")
            }
        }
    }
}

impl Loss {
    /// The task that has no result yet because of it.
    pub fn unanswered(&self) -> Option<&TaskId> {
        match self {
            Loss::Result(id, false) => Some(id),
            // The task itself is among those that wait.
            Loss::Module(_) | Loss::Record(_) | Loss::Result(..) => None,
        }
    }
}
