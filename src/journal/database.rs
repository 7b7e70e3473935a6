//! The database that the thread that writes and those that read share.
//!
//! One that has failed once is closed and opened anew by whoever needs it next,
//! because redb refuses to go on with one.

use redb::Database;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{PoisonError, RwLock};

/// Opens the database; again after each failure.
pub(super) type Open = Box<dyn Fn() -> Result<Database, redb::DatabaseError> + Send + Sync>;

/// Why the store can't be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    /// The disk is full or fails, the file may not be written, …
    #[error("{0}")]
    Io(redb::Error),
    /// What is in the file makes no sense.
    #[error("{0}")]
    Broken(String),
    /// The journal has been closed.
    #[error("it is closed")]
    Closed,
}

impl StoreError {
    pub(super) fn of(error: impl Into<redb::Error>) -> StoreError {
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

pub(super) struct SharedDatabase {
    open: Open,
    state: RwLock<State>,
}

enum State {
    Open(Database),
    /// To be opened by the next who needs it.
    Shut,
    /// For good.
    Closed,
}

impl SharedDatabase {
    pub(super) fn new(open: Open) -> SharedDatabase {
        SharedDatabase { open, state: RwLock::new(State::Shut) }
    }

    /// Has `f` use the database. Several may at the same time.
    pub(super) fn with<T>(
        &self,
        f: impl FnOnce(&Database) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let result = loop {
            // Neither what is called under the lock nor what it guards is left
            // half done by a panic.
            match &*self.state.read().unwrap_or_else(PoisonError::into_inner) {
                State::Open(database) => break guarded(|| f(database)),
                State::Closed => return Err(StoreError::Closed),
                State::Shut => {}
            }
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            if matches!(*state, State::Shut) {
                *state = State::Open(guarded(|| (self.open)().map_err(StoreError::of))?);
            }
        };
        if result.is_err() {
            self.shut(State::Shut);
        }
        result
    }

    /// Closes the file; who comes later gets [`StoreError::Closed`].
    pub(super) fn close(&self) {
        self.shut(State::Closed);
    }

    fn shut(&self, next: State) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if !matches!(*state, State::Closed) {
            let before = std::mem::replace(&mut *state, next);
            // The file is locked until it is dropped.
            guarded(|| {
                drop(before);
                Ok(())
            })
            .ok();
        }
    }
}
