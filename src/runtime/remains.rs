//! What remains of a task whose outcome is known: its instance. The kernel takes a
//! fifth of a millisecond to clear a large one away, which neither the answer nor the
//! thread's next task need wait for.

use super::sandbox::TaskState;
use anyhow::Context as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::Duration;
use tokio::runtime::Handle;
use tracing::error;
use wasmtime::Store;

/// What ran for less has touched little, which is cleared away sooner than another
/// thread wakes up.
const LONG: Duration = Duration::from_millis(1);

/// The thread that clears away. It ends with the runtime and what remains of its tasks.
#[derive(Clone)]
pub(super) struct Teardown(SyncSender<Store<TaskState>>);

impl Teardown {
    /// Starts it. To be called within a Tokio runtime or without any: it drops what
    /// guests have open as their own threads do.
    pub(super) fn start() -> anyhow::Result<Teardown> {
        // It holds one at a time: whoever finds it at work clears away its own, so that
        // no more instances wait than there are slots for.
        let (give, given) = sync_channel(0);
        let tokio = Handle::try_current().ok();
        let work = move || {
            let _entered = tokio.as_ref().map(Handle::enter);
            given.into_iter().for_each(clear);
        };
        let thread = thread::Builder::new().name("teardown".into()).spawn(work);
        thread.context("starting the thread that clears away instances")?;
        Ok(Teardown(give))
    }
}

/// See the module's documentation. It is cleared away when this is dropped, here or
/// on the thread for that. No native code is called for it.
#[must_use = "dropping it takes a while, for which no answer has to wait"]
pub struct Remains(Option<(Store<TaskState>, Option<Teardown>)>);

impl Remains {
    /// Of a task that came to no instance.
    pub(super) fn none() -> Remains {
        Remains(None)
    }

    /// Of one that ran for so long.
    pub(super) fn of(store: Store<TaskState>, ran: Duration, teardown: &Teardown) -> Remains {
        Remains(Some((store, (ran >= LONG).then(|| teardown.clone()))))
    }

    /// Clears it away on this thread: afterwards its slot is free.
    pub(super) fn clear(mut self) {
        if let Some((store, _)) = self.0.take() {
            clear(store);
        }
    }
}

impl Drop for Remains {
    fn drop(&mut self) {
        match self.0.take() {
            Some((store, Some(teardown))) => match teardown.0.try_send(store) {
                Ok(()) => {}
                Err(TrySendError::Full(store) | TrySendError::Disconnected(store)) => {
                    clear(store);
                }
            },
            Some((store, None)) => clear(store),
            None => {}
        }
    }
}

// Unwind safe: nothing is left of it.
fn clear(store: Store<TaskState>) {
    if catch_unwind(AssertUnwindSafe(|| drop(store))).is_err() {
        error!("a panic while a task that had ended was cleared away; see above");
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{LONG, runtime, sleeps, task_of};
    use crate::nn::Nn;
    use std::sync::Arc;
    use std::time::Duration;

    /// There are two slots: the task's, and one that is cleared away.
    #[test]
    fn one_instance_at_most_is_cleared_away_beside_the_next_task() {
        let runtime = runtime(Nn::fake());
        let task = task_of(sleeps(Duration::from_millis(2)), LONG);
        for _ in 0..50 {
            let (outcome, remains) = runtime.answer(&task, None, &Arc::default());
            assert_eq!(outcome.verdict, Ok(()));
            drop(remains);
        }
    }
}
