//! wasi-nn for tasks: shared graphs behind checks.
//!
//! [`Nn`] is the process's: the backends, the cache of compiled graphs, what
//! is known of graph directories. [`NnCtx`] is one task's: its handles, its
//! quotas, its cancellation, and what it was refused. [`add_to_linker`] gives
//! it to core modules as `wasi_ephemeral_nn`.
//!
//! ```text
//! witx ─ guest memory ─▶ context ─ handles, quotas ─▶ execution ─ proven ─▶ backend
//!                           │                            ▲                    ▲
//!                           └─▶ named ─▶ graphs ─────────┘ requests           │
//!                                          └─ checks, xml ── compile ─────────┘
//! ```
//!
//! A guest's mistake is an errno for the guest and a sentence in the task's
//! report; a bad pointer ends the task; nothing that a guest does panics.
#![cfg_attr(
    not(feature = "openvino"),
    allow(dead_code, reason = "what only a backend calls is built and tested without one too")
)]

mod backend;
mod checks;
mod context;
mod execution;
mod graph;
mod graphs;
mod inferences;
mod kept;
mod library;
mod named;
mod witx;
mod xml;

#[cfg(all(test, feature = "openvino"))]
#[path = "../../tests/it/support/assets.rs"]
mod assets;
#[cfg(any(test, feature = "fuzzing"))]
#[cfg_attr(not(test), allow(dead_code, reason = "the tests use all of it"))]
pub(crate) mod fake;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
#[cfg(feature = "openvino")]
mod native;
#[cfg(feature = "openvino")]
mod openvino;

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

pub use backend::Library;
pub use context::NnCtx;
pub use inferences::{INFERENCE_BUCKETS, InferenceTimes};
pub use library::SearchEnv;
pub use witx::{MODULE, add_to_linker};

use self::backend::{Backend, Halt};
use self::execution::Task;
use self::graph::SharedGraph;
use self::graphs::{Found, Graphs};
use self::inferences::Inferences;
use self::named::Named;
use crate::cancel::Cancel;
use crate::disk::DiskCache;
use crate::task::GraphDir;

/// What a build without a backend answers.
pub const NO_BACKEND: &str = "this build has no wasi-nn backend; the build with OpenVINO is \
     `cargo build --features openvino` or the container image";

/// Stack of a thread that loads graphs: OpenVINO parses models recursively.
pub const STACK: usize = 32 << 20;

/// Idle requests that a graph keeps for each core.
const KEPT_REQUESTS: usize = 2;

/// What OpenVINO optimises for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hint {
    /// One inference at a time, on all cores.
    #[default]
    Latency,
    /// As many inferences as there are cores to share.
    Throughput,
}

/// What OpenVINO computes in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// The same everywhere. Processors with bfloat16 would compute in that
    /// unasked, and a file's type would depend on the machine: Magika's 0.83
    /// became 0.67.
    #[default]
    F32,
    /// What the processor is fastest in.
    Auto,
}

/// What one task may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NnLimits {
    /// Graphs that it loads, the same one again included.
    pub graphs: u32,
    /// Bytes of the different graphs that it holds, as the cache weighs them.
    pub graph_bytes: u64,
    /// Execution contexts.
    pub contexts: u32,
    /// Bytes of its contexts' input and output tensors.
    pub tensor_bytes: u64,
}

impl Default for NnLimits {
    fn default() -> NnLimits {
        NnLimits { graphs: 64, graph_bytes: 2 << 30, contexts: 1024, tensor_bytes: 512 << 20 }
    }
}

/// How wasi-nn is set up.
#[derive(Clone, Debug, Default)]
pub struct NnConfig {
    /// OpenVINO's C library or the folder that holds it; if it is set, no
    /// other place is looked at.
    pub library: Option<PathBuf>,
    /// Where else to look.
    pub search: SearchEnv,
    /// What OpenVINO optimises for.
    pub hint: Hint,
    /// What it computes in.
    pub precision: Precision,
    /// Bytes of compiled graphs that are kept while no task uses them.
    pub cache_bytes: u64,
    /// The largest model in bytes: XML and weights together.
    pub model_bytes: u64,
    /// Refuses models that a guest hands over itself: only graphs by name.
    pub named_only: bool,
    /// Graphs that every task may load by name.
    pub graphs: Vec<GraphDir>,
    /// What one task may use.
    pub limits: NnLimits,
    /// Where compiled graphs are kept for the next start, if anywhere.
    pub disk: Option<Arc<DiskCache>>,
}

/// Counters since the start, and what is kept now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NnStats {
    /// Graphs compiled.
    pub graphs_compiled: u64,
    /// Loads that found their graph compiled.
    pub cache_hits: u64,
    /// Graphs that made room for others.
    pub evicted: u64,
    /// Inferences, failed ones included.
    pub inferences: u64,
    /// What the kept graphs weigh, in bytes.
    pub cached_bytes: u64,
    /// Graphs that are kept.
    pub cached_graphs: u64,
}

/// What one task did with wasi-nn.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NnReport {
    /// What was refused and why, one full sentence each: the first 32.
    pub diagnostics: Vec<String>,
    /// Time spent in loading graphs, those of `-S nn-graph` included.
    pub loaded: Duration,
    /// Graphs that this task had to load: compiled, or from the disk.
    pub graphs_loaded: u32,
    /// Graphs that it found compiled.
    pub graphs_reused: u32,
    /// Inferences, failed ones included.
    pub inferences: u32,
    /// Time spent in inferences.
    pub inferred: Duration,
}

/// The process's wasi-nn. Making one costs nothing: libraries are loaded when
/// the first task needs them.
#[derive(Clone)]
pub struct Nn {
    shared: Arc<Shared>,
}

/// What tasks share.
struct Shared {
    backends: Vec<Box<dyn Backend>>,
    graphs: Graphs,
    named: Named,
    inferences: Inferences,
    config: NnConfig,
    cores: usize,
}

impl Nn {
    /// wasi-nn with the backends of this build.
    pub fn new(config: NnConfig) -> Nn {
        let backends: Vec<Box<dyn Backend>> = vec![
            #[cfg(feature = "openvino")]
            Box::new(openvino::OpenVino::new(&config)),
        ];
        Nn::with_backends(config, backends)
    }

    fn with_backends(config: NnConfig, backends: Vec<Box<dyn Backend>>) -> Nn {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let shared = Shared {
            backends,
            graphs: Graphs::new(config.cache_bytes, cores),
            named: Named::default(),
            inferences: Inferences::new(&config.graphs),
            config,
            cores,
        };
        Nn { shared: Arc::new(shared) }
    }

    /// wasi-nn with the backend of the tests.
    #[cfg(test)]
    pub(crate) fn fake() -> Nn {
        Nn::stuck(Arc::default())
    }

    /// The same, whose models that are `stuck` end when the test lets them.
    #[cfg(test)]
    pub(crate) fn stuck(stuck: Arc<fake::Stuck>) -> Nn {
        let config = NnConfig { cache_bytes: 1 << 20, model_bytes: 1 << 20, ..NnConfig::default() };
        Nn::with_backends(config, vec![Box::new(fake::Fake::stuck(stuck))])
    }

    /// The encodings that this build serves, by the names of `-S nn-graph`.
    pub fn encodings(&self) -> &'static [&'static str] {
        if cfg!(feature = "openvino") { &["openvino"] } else { &[] }
    }

    /// Loads the graphs of the configuration for the start of a worker, as
    /// many at a time as there are cores, and tells of each when it is there.
    /// A failure changes nothing: a task that asks for that graph tries again.
    pub fn preload(&self, tell: impl FnMut(&GraphDir, Result<(), String>) + Send) {
        let cancel = Cancel::default();
        let graphs = &self.shared.config.graphs;
        let (next, tell) = (AtomicUsize::new(0), Mutex::new(tell));
        let work = || {
            while let Some(dir) = graphs.get(next.fetch_add(1, Ordering::Relaxed)) {
                let loaded = self.shared.load_dir(dir, &cancel).map(drop).map_err(sentence);
                (tell.lock().unwrap_or_else(PoisonError::into_inner))(dir, loaded);
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..self.shared.cores.min(graphs.len()) {
                let thread = std::thread::Builder::new().name("preload".into()).stack_size(STACK);
                // With one less, the others do it; without any, the tasks.
                if let Err(error) = thread.spawn_scoped(scope, work) {
                    tracing::warn!("no thread to load graphs: {error}");
                }
            }
        });
    }

    /// A task's wasi-nn, with the graphs of its `-S nn-graph` loaded.
    ///
    /// # Errors
    ///
    /// One sentence: no backend, its library was not found, or a graph could
    /// not be loaded.
    pub fn context(&self, graphs: &[GraphDir], cancel: Arc<Cancel>) -> Result<NnCtx, String> {
        self.libraries()?;
        let shared = &self.shared;
        let limits = shared.config.limits;
        let task = Task::new(cancel, limits, KEPT_REQUESTS * shared.cores);
        let mut context = NnCtx::new(shared.clone(), Arc::new(task));
        for dir in graphs {
            context.preload(dir).map_err(sentence)?;
        }
        Ok(context)
    }

    /// The backends' libraries, loaded now if they were not.
    ///
    /// # Errors
    ///
    /// One sentence, if not a single backend is usable: where it was looked
    /// for and how to install it. Nothing is remembered of a failure: once the
    /// library is installed, the next task finds it.
    pub fn libraries(&self) -> Result<Vec<Library>, String> {
        let mut libraries = Vec::new();
        let mut failure = NO_BACKEND.to_owned();
        for backend in &self.shared.backends {
            match backend.open() {
                Ok(library) => libraries.push(library),
                Err(error) => failure = error,
            }
        }
        if libraries.is_empty() { Err(failure) } else { Ok(libraries) }
    }

    /// What the backends can compute on, by their libraries' own names.
    ///
    /// # Errors
    ///
    /// One sentence, if a backend's library can't be used.
    pub fn devices(&self) -> Result<Vec<String>, String> {
        let devices = self.shared.backends.iter().map(|backend| backend.devices());
        Ok(devices.collect::<Result<Vec<_>, _>>()?.concat())
    }

    /// How long inferences took, by graph.
    pub fn inference_times(&self) -> Vec<InferenceTimes> {
        self.shared.inferences.times()
    }

    /// Counters since the start, and what is kept now.
    pub fn stats(&self) -> NnStats {
        let graphs = self.shared.graphs.stats();
        NnStats {
            graphs_compiled: graphs.compiled,
            cache_hits: graphs.hits,
            evicted: graphs.evicted,
            inferences: self.shared.inferences.total(),
            cached_bytes: graphs.bytes,
            cached_graphs: graphs.entries,
        }
    }
}

impl Shared {
    fn load_dir(&self, dir: &GraphDir, cancel: &Cancel) -> Result<(Arc<SharedGraph>, Found), Halt> {
        let backend = self.backend(&dir.encoding)?;
        let max = self.config.model_bytes;
        let ours = self.config.graphs.contains(dir);
        let disk = self.config.disk.as_ref().filter(|_| ours);
        self.named.load(&self.graphs, backend, dir, max, disk, cancel).map_err(|halt| match halt {
            Halt::Refused(mut refusal) => {
                refusal.text = format!("graph `{}`: {}", dir.name, refusal.text);
                Halt::Refused(refusal)
            }
            cancelled => cancelled,
        })
    }

    fn backend(&self, encoding: &str) -> Result<&dyn Backend, backend::Refusal> {
        let found = self.backends.iter().find(|backend| backend.name() == encoding);
        found.map(|backend| &**backend).ok_or_else(|| {
            let names: Vec<_> = self.backends.iter().map(|backend| backend.name()).collect();
            let text = match names.as_slice() {
                [] => NO_BACKEND.to_owned(),
                names => format!(
                    "the encoding {encoding} is not served here: this build has {}",
                    names.join(", ")
                ),
            };
            backend::Refusal::new(backend::Errno::InvalidEncoding, text)
        })
    }
}

/// The limits that no setting changes, for whoever lists them.
pub fn fixed_limits() -> Vec<(&'static str, u64)> {
    vec![
        ("dimensions of a tensor", checks::MAX_RANK as u64),
        ("bytes of a model's XML", xml::MAX_BYTES as u64),
        ("nested elements of a model's XML", xml::MAX_DEPTH as u64),
        ("elements of a model's XML", xml::MAX_ELEMENTS as u64),
    ]
}

fn sentence(halt: Halt) -> String {
    match halt {
        Halt::Refused(refusal) => refusal.text,
        Halt::Cancelled(_) => "the task ended while its graphs were loaded".to_owned(),
    }
}
