//! Reads of single runs, beside the thread that writes.

use super::Run;
use super::database::{SharedDatabase, StoreError};
use super::modules::ModuleFiles;
use super::record::{Header, Module, opened};
use crate::task::{ModuleSource, TaskRequest};
use bytes::Bytes;
use redb::{ReadableDatabase as _, TableDefinition};
use std::sync::Arc;

pub(super) const RUNS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("runs");
pub(super) const RESULTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("results");

/// Reads what is on the disk of a run. Clones share the journal.
#[derive(Clone)]
pub struct JournalReader {
    database: Arc<SharedDatabase>,
    modules: Arc<ModuleFiles>,
}

/// Why something can't be read back.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The disk fails, or the journal is being opened anew and can't be just
    /// now: it may be there later.
    #[error("the journal can't be read: {0}")]
    Disk(String),
    /// The journal has nothing of the kind: the run was never accepted, or is
    /// forgotten, or has ended, or has not.
    #[error("the journal has no such record")]
    Absent,
    /// The record is damaged.
    #[error("its record in the journal is damaged: start the task again")]
    Record,
    /// The module is damaged, or gone.
    #[error("its module in the journal is damaged: start the task again")]
    Module,
}

impl ReadError {
    fn of(error: StoreError) -> ReadError {
        match error {
            StoreError::Broken(_) => ReadError::Record,
            error => ReadError::Disk(error.to_string()),
        }
    }
}

impl JournalReader {
    pub(super) fn new(database: Arc<SharedDatabase>, modules: Arc<ModuleFiles>) -> JournalReader {
        JournalReader { database, modules }
    }

    /// What a run without a result asks for, as it came.
    ///
    /// # Errors
    ///
    /// See [`ReadError`].
    pub fn request(&self, run: Run) -> Result<TaskRequest, ReadError> {
        let record = self.record(run)?;
        let id = record.arrival().ok_or(ReadError::Record)?.id;
        let request = record.request.ok_or(ReadError::Absent)?;
        let module = match &request.module {
            Module::Absent => None,
            Module::Url(url) => Some(ModuleSource::Url(url.clone())),
            Module::Kept(digest) => {
                let binary = self.modules.read(*digest);
                let binary = binary.map_err(|e| ReadError::Disk(e.to_string()))?;
                Some(ModuleSource::Bytes(binary.ok_or(ReadError::Module)?))
            }
        };
        Ok(request.restore(id, module))
    }

    /// The result of a run, as it is published.
    ///
    /// # Errors
    ///
    /// See [`ReadError`].
    pub fn result(&self, run: Run) -> Result<Bytes, ReadError> {
        let sealed = self.get(RESULTS, run)?;
        opened(&sealed).map(Bytes::copy_from_slice).ok_or(ReadError::Record)
    }

    fn record(&self, run: Run) -> Result<Header, ReadError> {
        Header::decode(&self.get(RUNS, run)?).ok_or(ReadError::Record)
    }

    fn get(
        &self,
        table: redb::TableDefinition<'static, u64, &'static [u8]>,
        run: Run,
    ) -> Result<Vec<u8>, ReadError> {
        let found = self.database.with(|database| {
            let read = database.begin_read().map_err(StoreError::of)?;
            let table = read.open_table(table).map_err(StoreError::of)?;
            let value = table.get(run.0).map_err(StoreError::of)?;
            Ok(value.map(|value| value.value().to_vec()))
        });
        found.map_err(ReadError::of)?.ok_or(ReadError::Absent)
    }
}
