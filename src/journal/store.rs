//! The tables on disk: what a step does to them, and how they are read back.
//!
//! | table | key → value |
//! |---|---|
//! | `runs` | run → its record |
//! | `results` | run → the result as it is published |
//! | `stopped`, `deployed`, `delivered`, `acknowledged`, `replayed` | run → nothing |
//! | `unconfirmed` | run → when its result left, in milliseconds since 1970 |
//! | `deaths` | run → how often the process died with it alone; with others beside it: 0 |
//! | `serves` | run → the port of a task that is an HTTP server |
//! | `sequence` | how far the journal has come |
//!
//! Everything is one transaction: it is there after a crash or it is not. The
//! modules that a transaction speaks of are on the disk before it, and removed
//! after it.

use super::database::{Open, SharedDatabase, StoreError};
use super::modules::{Files, ModuleFiles, Shelf};
use super::reader::{JournalReader, RESULTS, RUNS, ReadError};
use super::record::{Deployed, Finished, Header, Module, Waiting, millis, opened, sealed, time};
use super::sequence::{Counter, Sequence};
use super::{Loss, Recovered, Run, Step};
use crate::digest::Digest;
use crate::task::{Life, ModuleSource, Weight};
use bytes::Bytes;
use redb::{
    Database, ReadableTable, ReadableTableMetadata as _, TableDefinition, TableHandle as _,
    WriteTransaction,
};
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use tracing::debug;

const STOPPED: TableDefinition<'_, u64, ()> = TableDefinition::new("stopped");
const DEPLOYED: TableDefinition<'_, u64, ()> = TableDefinition::new("deployed");
const DELIVERED: TableDefinition<'_, u64, ()> = TableDefinition::new("delivered");
const ACKNOWLEDGED: TableDefinition<'_, u64, ()> = TableDefinition::new("acknowledged");
const REPLAYED: TableDefinition<'_, u64, ()> = TableDefinition::new("replayed");
const DEATHS: TableDefinition<'_, u64, u32> = TableDefinition::new("deaths");
const SERVES: TableDefinition<'_, u64, u16> = TableDefinition::new("serves");
const SEQUENCE: TableDefinition<'_, (), (u64, u64)> = TableDefinition::new("sequence");
const UNCONFIRMED: TableDefinition<'_, u64, u64> = TableDefinition::new("unconfirmed");
/// Where version 0.1.0 had the modules.
const OLD_MODULES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("modules");

pub(super) struct Store {
    database: Arc<SharedDatabase>,
    modules: Arc<ModuleFiles>,
    shelf: Shelf,
    counter: Box<dyn Counter>,
    /// How far the journal has come, by what was on the disk.
    sequence: Sequence,
}

impl Store {
    /// Opens the store and reads what the next process needs at once.
    pub(super) fn open(
        open: Open,
        files: Box<dyn Files>,
        mut counter: Box<dyn Counter>,
    ) -> Result<(Store, Recovered), StoreError> {
        let database = Arc::new(SharedDatabase::new(open));
        let modules = Arc::new(ModuleFiles::new(files));
        let loaded = database.with(|database| load(database, &modules));
        let (shelf, sequence, mut recovered) = loaded.inspect_err(|_| database.close())?;
        let counted = counter.read().map_err(disk)?;
        if let Some(lost) = Sequence::decode(&counted).and_then(|count| count.beyond(sequence)) {
            recovered.losses.push(lost.into());
        }
        counter.write(&sequence.encode()).map_err(disk)?;
        Ok((Store { database, modules, shelf, counter, sequence }, recovered))
    }

    /// Reads beside it.
    pub(super) fn reader(&self) -> JournalReader {
        JournalReader::new(self.database.clone(), self.modules.clone())
    }

    /// Does all of these steps, or none; they are on the disk when this
    /// returns. Doing them again changes nothing. Gives what is found to be
    /// lost of earlier ones.
    pub(super) fn apply<'a>(
        &mut self,
        steps: impl Iterator<Item = &'a Step> + Clone,
    ) -> Result<Option<Loss>, StoreError> {
        let modules = steps.clone().filter_map(|step| match step {
            Step::Accepted { request, .. } => match &request.module {
                Some(ModuleSource::Bytes(binary)) => Some(binary),
                _ => None,
            },
            _ => None,
        });
        self.shelf.bring(modules).map_err(disk)?;
        let written = self.database.with(|database| transaction(database, steps.clone()));
        // First who needs what, lest it is removed between.
        for step in steps.clone() {
            if let Step::Accepted { run, request, .. } = step
                && let Some(ModuleSource::Bytes(binary)) = &request.module
                && (written.is_ok() || self.may_be_there(*run))
            {
                self.shelf.need(*run, binary.digest());
            }
        }
        let (before, after) = written?;
        for step in steps {
            if let Step::Finished { run, .. } | Step::Forgotten(run) = step {
                self.shelf.release(*run);
            }
        }
        self.shelf.tidy();
        // Opened anew after a failure, it may have come back older.
        let lost = self.sequence.beyond(before).map(Loss::from);
        self.sequence = after;
        if let Err(e) = self.counter.write(&after.encode()) {
            // Without it a loss is not noticed; none is made.
            debug!("the journal's sequence can't be written beside it: {e}");
        }
        Ok(lost)
    }

    /// Tasks that wait with a module of the journal's, and the bytes of those
    /// modules.
    pub(super) fn waiting(&self) -> (usize, u64) {
        self.shelf.needed()
    }

    /// A write that fails may be on the disk all the same.
    fn may_be_there(&self, run: Run) -> bool {
        !matches!(self.reader().request(run), Err(ReadError::Absent))
    }

    /// Removes what only makes the next task quicker.
    pub(super) fn make_room(&mut self) {
        self.shelf.clear();
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.database.close();
    }
}

fn disk(error: io::Error) -> StoreError {
    StoreError::Io(redb::Error::Io(error))
}

/// Reads all but requests and modules, and removes what can't be used.
fn load(
    database: &Database,
    modules: &Arc<ModuleFiles>,
) -> Result<(Shelf, Sequence, Recovered), StoreError> {
    let write = database.begin_write().map_err(StoreError::of)?;
    move_old_modules(&write, modules)?;
    let sequence = sequence_in(&write.open_table(SEQUENCE).map_err(StoreError::of)?)?;
    let (shelf, recovered) = read(&write, modules)?;
    write.commit().map_err(StoreError::of)?;
    Ok((shelf, sequence, recovered))
}

fn sequence_in(table: &impl ReadableTable<(), (u64, u64)>) -> Result<Sequence, StoreError> {
    let found = table.get(()).map_err(StoreError::of)?;
    let (steps, accepted) = found.map(|found| found.value()).unwrap_or_default();
    Ok(Sequence { steps, accepted })
}

fn read(
    write: &WriteTransaction,
    modules: &Arc<ModuleFiles>,
) -> Result<(Shelf, Recovered), StoreError> {
    let mut recovered = Recovered::default();
    let mut runs = write.open_table(RUNS).map_err(StoreError::of)?;
    let mut results = write.open_table(RESULTS).map_err(StoreError::of)?;
    let stopped = write.open_table(STOPPED).map_err(StoreError::of)?;
    let deployed = write.open_table(DEPLOYED).map_err(StoreError::of)?;
    let delivered = write.open_table(DELIVERED).map_err(StoreError::of)?;
    let acknowledged = write.open_table(ACKNOWLEDGED).map_err(StoreError::of)?;
    let replayed = write.open_table(REPLAYED).map_err(StoreError::of)?;
    let deaths = write.open_table(DEATHS).map_err(StoreError::of)?;
    let serves = write.open_table(SERVES).map_err(StoreError::of)?;
    let unconfirmed = write.open_table(UNCONFIRMED).map_err(StoreError::of)?;
    let mut of_run: HashMap<Run, Digest> = HashMap::new();
    let mut useless = Vec::new();
    let mut records = 0;
    for entry in runs.iter().map_err(StoreError::of)? {
        let (run, record) = entry.map_err(StoreError::of)?;
        let run = Run(run.value());
        records += 1;
        recovered.next = Run(run.0 + 1);
        let header = Header::decode(record.value());
        let Some((arrival, header)) = header.and_then(|h| Some((h.arrival()?, h))) else {
            recovered.losses.push(Loss::Record(run));
            useless.push(run);
            continue;
        };
        let stopped = stopped.get(run.0).map_err(StoreError::of)?.is_some();
        let acknowledged = acknowledged.get(run.0).map_err(StoreError::of)?.is_some();
        let ending = header.ending();
        let Some(request) = header.request else {
            let result = results.get(run.0).map_err(StoreError::of)?;
            let result =
                result.and_then(|sealed| Some(Bytes::copy_from_slice(opened(sealed.value())?)));
            let delivered = delivered.get(run.0).map_err(StoreError::of)?.is_some();
            match result {
                Some(result) => {
                    let unconfirmed = unconfirmed.get(run.0).map_err(StoreError::of)?;
                    let unconfirmed = unconfirmed.map(|left| time(left.value()));
                    let replayed = replayed.get(run.0).map_err(StoreError::of)?.is_some();
                    recovered.finished.push(Finished {
                        run,
                        arrival,
                        ending,
                        result,
                        delivered,
                        unconfirmed,
                        stopped,
                        acknowledged,
                        replayed,
                    });
                }
                None => {
                    recovered.losses.push(Loss::Result(arrival.id, delivered));
                    useless.push(run);
                }
            }
            continue;
        };
        let module = match &request.module {
            Module::Kept(digest) => {
                of_run.insert(run, *digest);
                Some((*digest, 0))
            }
            Module::Absent | Module::Url(_) => None,
        };
        let weight = Weight { own: record.value().len(), module };
        if deployed.get(run.0).map_err(StoreError::of)?.is_some() {
            recovered.deployed.push(Deployed { run, arrival, weight });
            continue;
        }
        let deaths = deaths.get(run.0).map_err(StoreError::of)?.map(|n| n.value());
        let port = serves.get(run.0).map_err(StoreError::of)?.map(|port| port.value());
        recovered.waiting.push(Waiting {
            run,
            arrival,
            life: port.map_or(request.life(), |_| Life::Server),
            port,
            stopped,
            acknowledged,
            suspect: deaths.is_some(),
            deaths: deaths.unwrap_or(0),
            weight,
        });
    }
    let expected = runs.len().map_err(StoreError::of)?;
    if records < expected {
        recovered.losses.push(Loss::Records(expected - records));
    }
    for run in useless {
        runs.remove(run.0).map_err(StoreError::of)?;
        results.remove(run.0).map_err(StoreError::of)?;
    }
    let shelf = Shelf::open(modules.clone(), of_run).map_err(disk)?;
    let waiting = recovered.waiting.iter_mut().map(|waiting| &mut waiting.weight);
    let deployed = recovered.deployed.iter_mut().map(|deployed| &mut deployed.weight);
    for weight in waiting.chain(deployed) {
        if let Some((digest, size)) = &mut weight.module {
            *size = usize::try_from(shelf.size(digest)).unwrap_or(usize::MAX);
        }
    }
    Ok((shelf, recovered))
}

/// Gives how far the journal had come before, and now.
fn transaction<'a>(
    database: &Database,
    steps: impl Iterator<Item = &'a Step>,
) -> Result<(Sequence, Sequence), StoreError> {
    let write = database.begin_write().map_err(StoreError::of)?;
    let (before, after) = {
        let mut table = write.open_table(SEQUENCE).map_err(StoreError::of)?;
        let before = sequence_in(&table)?;
        let mut after = before;
        let mut runs = write.open_table(RUNS).map_err(StoreError::of)?;
        let mut results = write.open_table(RESULTS).map_err(StoreError::of)?;
        let mut stopped = write.open_table(STOPPED).map_err(StoreError::of)?;
        let mut deployed = write.open_table(DEPLOYED).map_err(StoreError::of)?;
        let mut delivered = write.open_table(DELIVERED).map_err(StoreError::of)?;
        let mut acknowledged = write.open_table(ACKNOWLEDGED).map_err(StoreError::of)?;
        let mut replayed = write.open_table(REPLAYED).map_err(StoreError::of)?;
        let mut deaths = write.open_table(DEATHS).map_err(StoreError::of)?;
        let mut serves = write.open_table(SERVES).map_err(StoreError::of)?;
        let mut unconfirmed = write.open_table(UNCONFIRMED).map_err(StoreError::of)?;
        for step in steps {
            after.steps += 1;
            after.accepted += u64::from(matches!(step, Step::Accepted { .. }));
            match step {
                Step::Accepted { run, arrival, request } => {
                    let record = Header::accepted(arrival, request).encode();
                    runs.insert(run.0, &record[..]).map_err(StoreError::of)?;
                }
                Step::Stopped(run) => {
                    stopped.insert(run.0, ()).map_err(StoreError::of)?;
                }
                Step::Deployed(run) => {
                    deployed.insert(run.0, ()).map_err(StoreError::of)?;
                    deaths.remove(run.0).map_err(StoreError::of)?;
                }
                Step::Serves { run, port } => {
                    serves.insert(run.0, port).map_err(StoreError::of)?;
                    deaths.remove(run.0).map_err(StoreError::of)?;
                }
                Step::Died { run, times } => {
                    deaths.insert(run.0, times).map_err(StoreError::of)?;
                }
                Step::Finished { run, arrival, ending, result } => {
                    let record = Header::finished(arrival, *ending).encode();
                    runs.insert(run.0, &record[..]).map_err(StoreError::of)?;
                    results.insert(run.0, &sealed(result)[..]).map_err(StoreError::of)?;
                    stopped.remove(run.0).map_err(StoreError::of)?;
                    deaths.remove(run.0).map_err(StoreError::of)?;
                    serves.remove(run.0).map_err(StoreError::of)?;
                }
                Step::Delivered(run) => {
                    delivered.insert(run.0, ()).map_err(StoreError::of)?;
                }
                Step::Undelivered(run) => {
                    delivered.remove(run.0).map_err(StoreError::of)?;
                }
                Step::Acknowledged(run) => {
                    acknowledged.insert(run.0, ()).map_err(StoreError::of)?;
                }
                Step::Replayed(run) => {
                    replayed.insert(run.0, ()).map_err(StoreError::of)?;
                }
                Step::Unconfirmed { run, left } => {
                    // One that is forgotten is not waited for.
                    if runs.get(run.0).map_err(StoreError::of)?.is_some() {
                        unconfirmed.insert(run.0, millis(*left)).map_err(StoreError::of)?;
                    }
                }
                Step::Confirmed(run) => {
                    unconfirmed.remove(run.0).map_err(StoreError::of)?;
                }
                Step::Forgotten(run) => {
                    unconfirmed.remove(run.0).map_err(StoreError::of)?;
                    runs.remove(run.0).map_err(StoreError::of)?;
                    results.remove(run.0).map_err(StoreError::of)?;
                    stopped.remove(run.0).map_err(StoreError::of)?;
                    deaths.remove(run.0).map_err(StoreError::of)?;
                    deployed.remove(run.0).map_err(StoreError::of)?;
                    serves.remove(run.0).map_err(StoreError::of)?;
                    delivered.remove(run.0).map_err(StoreError::of)?;
                    acknowledged.remove(run.0).map_err(StoreError::of)?;
                    replayed.remove(run.0).map_err(StoreError::of)?;
                }
                Step::Nothing => {}
            }
        }
        table.insert((), (after.steps, after.accepted)).map_err(StoreError::of)?;
        (before, after)
    };
    write.commit().map_err(StoreError::of)?;
    Ok((before, after))
}

/// Moves the modules of version 0.1.0 out of the database.
fn move_old_modules(write: &WriteTransaction, modules: &ModuleFiles) -> Result<(), StoreError> {
    let mut tables = write.list_tables().map_err(StoreError::of)?;
    if !tables.any(|table| table.name() == OLD_MODULES.name()) {
        return Ok(());
    }
    let old = write.open_table(OLD_MODULES).map_err(StoreError::of)?;
    for entry in old.iter().map_err(StoreError::of)? {
        let (key, module) = entry.map_err(StoreError::of)?;
        if let Ok(digest) = key.value().try_into().map(Digest::from_bytes) {
            modules.put(digest, module.value()).map_err(disk)?;
        }
    }
    drop(old);
    modules.sync().map_err(disk)?;
    write.delete_table(OLD_MODULES).map_err(StoreError::of)?;
    Ok(())
}
