//! What stores are made of that outlives them, for tasks and for requests.

use super::Stdio;
use super::engine::Ticker;
#[cfg(target_os = "linux")]
use super::files::contents::Contents;
use super::limiter::SharedMemory;
use super::outgoing::{GuestRequests, Outbound};
use super::output::Capture;
use super::sandbox::{self, TaskState};
use crate::cancel::Cancel;
use crate::nn::{Nn, NnCtx};
use crate::task::{Failure, Grant};
use std::sync::Arc;
use wasmtime::{Engine, Store};

/// See the module's documentation.
pub(super) struct Stores {
    pub(super) ticker: Ticker,
    pub(super) nn: Nn,
    pub(super) stdio: Stdio,
    pub(super) outbound: Option<Outbound>,
    #[cfg(target_os = "linux")]
    pub(super) contents: Option<Arc<Contents>>,
}

impl Stores {
    /// wasi-nn for a guest that imports it, or names graphs.
    pub(super) fn nn(
        &self,
        grant: &Grant,
        imports_nn: bool,
        cancel: &Arc<Cancel>,
    ) -> Result<Option<NnCtx>, Failure> {
        match &grant.nn {
            // Without either, a missing library does not concern the task.
            Some(graphs) if imports_nn || !graphs.is_empty() => {
                let context = self.nn.context(graphs, cancel.clone());
                let failed = |e| cancel.reason().map_or(Failure::Graph(e), Failure::from);
                context.map(Some).map_err(failed)
            }
            _ => Ok(None),
        }
    }

    /// A fresh store for code of this engine.
    ///
    /// # Errors
    ///
    /// A directory that was granted can't be opened.
    pub(super) fn store(
        &self,
        engine: &Engine,
        grant: &Grant,
        nn: Option<NnCtx>,
        output: (&Capture, &Capture),
        shared: Option<&SharedMemory>,
        cancel: &Arc<Cancel>,
    ) -> Result<Store<TaskState>, Failure> {
        let output = match self.stdio {
            Stdio::Captured => Some(output),
            Stdio::Inherited => None,
        };
        #[cfg_attr(
            not(target_os = "linux"),
            expect(unused_mut, reason = "nothing is mapped there")
        )]
        let mut store = sandbox::store(engine, grant, nn, output, shared, cancel)?;
        store.data_mut().outgoing = GuestRequests::new(self.outbound.clone());
        #[cfg(target_os = "linux")]
        if let Some(contents) = &self.contents {
            store.data_mut().map_contents(contents);
        }
        Ok(store)
    }
}
