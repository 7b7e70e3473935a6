//! Clears away what large guests leave, beside the next task: a slot is
//! cleared page by page, which takes a millisecond for the memory that 14 MB
//! of weights were read into.

use super::sandbox::TaskState;
use anyhow::Context as _;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use wasmtime::Store;

/// Stores that may be there beside the executors' own: one that is being
/// cleared away and one that waits for that.
pub(super) const PENDING: u32 = 2;

/// The thread. It ends with this, after what it has been handed.
pub(super) struct Sweeper {
    stores: Option<SyncSender<Store<TaskState>>>,
    thread: Option<JoinHandle<()>>,
}

impl Sweeper {
    /// Starts the thread.
    pub(super) fn start() -> anyhow::Result<Sweeper> {
        let (stores, left) = sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("sweeper".into())
            .spawn(move || left.into_iter().for_each(drop))
            .context("starting the thread that clears guests away")?;
        Ok(Sweeper { stores: Some(stores), thread: Some(thread) })
    }

    /// Clears a store away, here if the thread has enough to do.
    pub(super) fn sweep(&self, store: Store<TaskState>) {
        if let Some(stores) = &self.stores {
            // What can't be handed over is dropped with the error.
            drop(stores.try_send(store));
        }
    }
}

impl Drop for Sweeper {
    fn drop(&mut self) {
        self.stores = None;
        if let Some(thread) = self.thread.take() {
            // A panic in it has been reported by the panic hook.
            thread.join().ok();
        }
    }
}
