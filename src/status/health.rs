//! Whether the worker lives and serves: what its loop tells, and what anyone
//! may ask.

use super::service;
pub(crate) use super::state::WorkerState;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Whether the worker lives and serves, as its loop tells and anyone may ask.
#[derive(Debug)]
pub(crate) struct Health {
    started: Instant,
    /// When the loop turned last, in milliseconds since the start.
    turned: AtomicU64,
    state: Mutex<WorkerState>,
    /// What is wrong although the worker serves.
    note: Mutex<Option<String>>,
    /// Why no task can be taken, if none can.
    unavailable: Mutex<Option<String>>,
    /// Why there is no connection, if there is none.
    failure: Mutex<Option<String>>,
}

/// A loop that has not turned for this long is stuck: it turns each second.
const STUCK: Duration = Duration::from_secs(30);

impl Default for Health {
    fn default() -> Health {
        Health {
            started: Instant::now(),
            turned: AtomicU64::new(0),
            state: Mutex::new(WorkerState::Connecting),
            note: Mutex::new(None),
            unavailable: Mutex::new(None),
            failure: Mutex::new(None),
        }
    }
}

impl Health {
    /// The loop has turned.
    pub(crate) fn turn(&self) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.turned.store(now, Ordering::Relaxed);
    }

    /// The state has changed. Draining is for good.
    pub(crate) fn set(&self, state: WorkerState) {
        let mut current = self.lock();
        if *current != WorkerState::Draining && *current != state {
            *current = state;
            service::does(state);
        }
    }

    /// What the worker does.
    pub(crate) fn state(&self) -> WorkerState {
        *self.lock()
    }

    /// Something is wrong that makes the worker no less ready, or nothing is.
    pub(crate) fn set_note(&self, note: Option<String>) {
        *self.note.lock().unwrap_or_else(PoisonError::into_inner) = note;
    }

    /// What is wrong although the worker serves.
    pub(crate) fn note(&self) -> Option<String> {
        self.note.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// No executor can take a task, and why; or one can.
    pub(crate) fn set_unavailable(&self, why: Option<String>) {
        *self.unavailable.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    /// Why no executor can take a task, if none can.
    pub(crate) fn unavailable(&self) -> Option<String> {
        self.unavailable.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why the connection was lost or not made; or there is one.
    pub(crate) fn set_failure(&self, failure: Option<String>) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = failure;
    }

    /// Why there is no connection, as far as that is known.
    pub(crate) fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The time since the start.
    pub(crate) fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    fn lock(&self) -> MutexGuard<'_, WorkerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long the loop has been stuck, if it is.
    pub(crate) fn stuck(&self) -> Option<Duration> {
        let turned = Duration::from_millis(self.turned.load(Ordering::Relaxed));
        Some(self.started.elapsed().saturating_sub(turned)).filter(|idle| *idle >= STUCK)
    }
}
