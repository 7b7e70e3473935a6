//! When running tasks are over their time, and when they have not ended
//! although they were to: one thread, which sleeps until the first of these.
//!
//! What a task's own thread does takes no part in this, so a task that is in
//! native code for ever is noticed like any other.

use crate::cancel::{Cancel, Reason};
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a task may take to end once it was stopped or its time is over,
/// before its result is published without it.
const GRACE: Duration = Duration::from_millis(70);
/// The same when the worker ends: less than that waits for.
const LAST_GRACE: Duration = Duration::from_secs(4);

/// A run on an executor, by its number.
pub(super) type TurnNumber = u64;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    /// This long for it is over.
    Timeout(Duration),
    /// It was to end some time ago.
    Overdue,
}

struct Watched {
    cancel: Arc<Cancel>,
    times: Vec<(Instant, TurnNumber, What)>,
}

#[derive(Default)]
struct State {
    turns: HashMap<TurnNumber, Watched>,
    times: BTreeSet<(Instant, TurnNumber, What)>,
    /// When the thread looks again by itself.
    wakes: Option<Instant>,
    closed: bool,
}

/// See the module's documentation.
#[derive(Default)]
pub(super) struct Watch {
    state: Mutex<State>,
    changed: Condvar,
}

impl Watch {
    /// Watches a turn from now on, until [`Watch::end`].
    pub(super) fn begin(&self, turn: TurnNumber, cancel: &Arc<Cancel>) {
        let watched = Watched { cancel: cancel.clone(), times: Vec::new() };
        self.lock().turns.insert(turn, watched);
    }

    /// The turn's task is cancelled once this long from now has passed, unless
    /// an earlier limit was set.
    pub(super) fn limit(&self, turn: TurnNumber, limit: Duration) {
        // A limit beyond the clock's range never passes.
        let Some(at) = Instant::now().checked_add(limit) else { return };
        self.add(self.lock(), at, turn, What::Timeout(limit));
    }

    /// The turn's task is to end.
    pub(super) fn cancelled(&self, turn: TurnNumber, reason: Reason) {
        let grace = match reason {
            Reason::Stopped | Reason::Timeout(_) => GRACE,
            Reason::ShuttingDown => LAST_GRACE,
        };
        self.add(self.lock(), Instant::now() + grace, turn, What::Overdue);
    }

    fn add(&self, mut state: MutexGuard<'_, State>, at: Instant, turn: TurnNumber, what: What) {
        let Some(watched) = state.turns.get_mut(&turn) else { return };
        watched.times.push((at, turn, what));
        state.times.insert((at, turn, what));
        // It may sleep for an earlier one that has gone: no harm, and the usual
        // task, whose limit is far, wakes nobody.
        if state.wakes.is_none_or(|wakes| at < wakes) {
            self.changed.notify_one();
        }
    }

    /// The turn is over.
    pub(super) fn end(&self, turn: TurnNumber) {
        let mut state = self.lock();
        for time in state.turns.remove(&turn).map(|watched| watched.times).unwrap_or_default() {
            state.times.remove(&time);
        }
    }

    /// Ends the thread.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_one();
    }

    /// The thread: cancels what is over its time, and tells of turns that are
    /// overdue.
    pub(super) fn run(&self, overdue: impl Fn(TurnNumber)) {
        let mut state = self.lock();
        while !state.closed {
            let now = Instant::now();
            match state.times.first().copied() {
                Some(due @ (at, turn, what)) if at <= now => {
                    state.times.remove(&due);
                    let cancel = state.turns.get(&turn).map(|watched| watched.cancel.clone());
                    // Not under the lock: both come back here.
                    drop(state);
                    match (what, cancel) {
                        (What::Timeout(limit), Some(cancel)) => {
                            cancel.cancel(Reason::Timeout(limit));
                        }
                        (What::Timeout(_), None) => {}
                        (What::Overdue, _) => overdue(turn),
                    }
                    state = self.lock();
                }
                next => {
                    let next = next.map(|(at, ..)| at);
                    state.wakes = next;
                    state = match next {
                        None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                        Some(at) => {
                            let waited = self.changed.wait_timeout(state, at - now);
                            waited.unwrap_or_else(PoisonError::into_inner).0
                        }
                    };
                }
            }
        }
    }

    // Each change leaves a time too many at worst, which is of no turn.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
