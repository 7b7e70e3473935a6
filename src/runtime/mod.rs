//! Running tasks: an engine for small code and one for large, compiled modules
//! shared by all tasks, and a fresh sandbox for each. Knows nothing of messages,
//! brokers or configuration files.

mod artefacts;
mod code;
mod compiler;
mod component;
mod core;
mod daemon_log;
mod engine;
mod errno;
mod files;
mod http;
mod hugepages;
mod inspect;
mod limiter;
mod link;
mod outgoing;
mod output;
mod refusals;
mod run;
mod sandbox;
mod sleep;
mod stores;

pub use artefacts::KeptCode;
#[cfg(target_os = "linux")]
pub use compiler::serve as serve_compiles;
pub use compiler::{CompileProcesses, VERB as COMPILE_VERB, WhenLost};
pub use engine::{InstancePool, MAX_WASM_STACK, THREAD_STACK};
pub use http::{Door, Requests, Served, TIMES};
pub use inspect::{GuestDescription, GuestImport, GuestMemory, inspect};
pub use outgoing::{Connect, Connecting, Outbound};
pub use run::Remains;

use crate::cancel::Cancel;
use crate::disk::DiskCache;
use crate::nn::Nn;
use crate::task::{Binary, Failure, Outcome, TaskSpec};
use anyhow::anyhow;
use std::sync::Arc;
use tracing::warn;

/// Gets the code of a task that came without it, and that may be cancelled
/// meanwhile. The error is a sentence for the task's result.
pub type Fetch = dyn Fn(&TaskSpec, &Arc<Cancel>) -> Result<Binary, String> + Send + Sync;

/// What the runtime needs to know.
#[derive(Clone)]
pub struct RuntimeConfig {
    /// Bytes of compiled code that are kept for the next task.
    pub module_cache: u64,
    /// Where they are kept for the next start, if anywhere.
    pub disk: Option<Arc<DiskCache>>,
    /// Bytes of files' contents that are kept in memory for the next task, in
    /// Linux and with a pool; 0: none are.
    pub file_cache: u64,
    /// Small modules, and as many large ones, that are compiled at the same
    /// time.
    pub compilers: usize,
    /// The processes that compile, twice as many as that. Without them this one
    /// does, and can't end a compile or bound its memory.
    pub compile_apart: Option<CompileProcesses>,
    /// How the code of a task is got that came without it.
    pub fetch: Arc<Fetch>,
    /// Where guests read and write.
    pub stdio: Stdio,
    /// Slots for instances; without them each one is mapped anew, and may be
    /// as large as it likes.
    pub pool: Option<InstancePool>,
    /// Requests of all HTTP servers at once.
    pub requests: Requests,
    /// How guests reach others; none: they reach nobody.
    pub outbound: Option<Outbound>,
}

/// Where guests read and write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stdio {
    /// Output is captured up to the task's limit, input is closed, and every
    /// wait of a guest can be interrupted: for tasks of others.
    Captured,
    /// The terminal's own: for a guest that its user runs by hand.
    Inherited,
}

/// The engines and everything that outlives a task.
pub struct Runtime {
    artefacts: artefacts::Artefacts,
    fetch: Arc<Fetch>,
    huge_pages: Option<hugepages::HugePages>,
    stores: Arc<stores::Stores>,
    crews: http::Crews,
}

impl Runtime {
    /// Starts the engines and their clock.
    pub fn new(config: &RuntimeConfig, nn: Nn) -> anyhow::Result<Runtime> {
        let mut pool = config.pool;
        let mapping = cfg!(target_os = "linux") && config.file_cache > 0;
        let engines = engine::engines(pool, mapping)
            .or_else(|e| {
                let wanted = pool.take().ok_or(e)?;
                // A pool is address space, of which a container may have little.
                warn!(?wanted, "no pool of instances could be reserved; tasks will be slower");
                engine::engines(None, false)
            })
            .map_err(|e| anyhow!("creating the WebAssembly engines: {e:#}"))?;
        let huge_pages = pool.map(|pool| hugepages::HugePages::new(pool.reserved()));
        let linkers = engines
            .try_map(|engine| link::Linkers::new(engine, config.stdio))
            .map_err(|e| anyhow!("providing WASI and wasi-nn: {e:#}"))?;
        let stores = stores::Stores {
            ticker: engine::Ticker::start(&engines)?,
            nn,
            stdio: config.stdio,
            outbound: config.outbound.clone(),
            // The memories of an engine without a pool may move.
            #[cfg(target_os = "linux")]
            contents: pool
                .filter(|_| mapping)
                .map(|_| Arc::new(files::contents::Contents::new(config.file_cache))),
        };
        Ok(Runtime {
            huge_pages,
            stores: Arc::new(stores),
            artefacts: artefacts::Artefacts::new(linkers, config)?,
            fetch: config.fetch.clone(),
            crews: http::Crews::new(config.requests),
        })
    }

    /// Runs a task to its end on this thread, which should have a stack of
    /// [`THREAD_STACK`] bytes. Whatever the guest does, this returns: a panic
    /// on its behalf is the task's failure. `timings.queued` is the caller's.
    /// One that turns out to be an HTTP server fails with [`Failure::Serves`],
    /// and is for [`Runtime::serve`].
    pub fn run(&self, spec: &TaskSpec, cancel: &Arc<Cancel>) -> Outcome {
        self.answer(spec, None, cancel).0
    }

    /// Serves until `door` is shut and the last request has ended, or `cancel`
    /// says so. To be called like [`Runtime::run`].
    pub fn serve(&self, spec: &TaskSpec, door: Door, cancel: &Arc<Cancel>) -> Outcome {
        self.answer(spec, Some(door), cancel).0
    }

    /// Runs a task or, with a door, serves: for whoever can send the outcome before
    /// the instance is cleared away. To be called like [`Runtime::run`].
    pub fn answer(
        &self,
        spec: &TaskSpec,
        door: Option<Door>,
        cancel: &Arc<Cancel>,
    ) -> (Outcome, Remains) {
        run::run(self, spec, door, cancel)
    }

    /// wasi-nn, with its graphs.
    pub fn nn(&self) -> &Nn {
        &self.stores.nn
    }

    /// How many modules were compiled since the start.
    pub fn modules_compiled(&self) -> u64 {
        self.artefacts.compiled()
    }

    /// The compiled code that was used last, at most so many.
    pub fn kept_code(&self, most: usize) -> Vec<KeptCode> {
        self.artefacts.kept(most)
    }

    /// Bytes of compiled code that are kept for the next task.
    pub fn module_bytes(&self) -> u64 {
        self.artefacts.bytes()
    }
}

/// The limits that no setting changes, for whoever lists them.
pub fn fixed_limits() -> Vec<(&'static str, u64)> {
    vec![
        ("bytes of a guest's stack", MAX_WASM_STACK as u64),
        ("memories of a module or component", engine::MAX_MEMORIES.into()),
        ("tables of a module", engine::MAX_TABLES.into()),
        ("tables of a component", engine::MAX_COMPONENT_TABLES.into()),
        ("modules that a component instantiates", engine::MAX_CORE_INSTANCES.into()),
        ("elements of a task's tables together", engine::MAX_TABLE_ELEMENTS as u64),
        ("bytes of an instance's own data", engine::MAX_INSTANCE_SIZE as u64),
        ("files, directories and streams open in a task", sandbox::MAX_HANDLES as u64),
        ("handles of a component's own resources", sandbox::MAX_OWN_HANDLES as u64),
        ("bytes of a path", files::MAX_PATH.into()),
        ("bytes of the values of a component's call as text", component::wave::MAX_TEXT as u64),
    ]
}

/// What a call ended with besides success.
enum CallError {
    /// The code or the arguments do not fit: no function was called.
    Refused(Failure),
    /// The guest's own end: a trap, an exit, an interruption.
    Guest(wasmtime::Error),
}

#[cfg(test)]
mod tests;
