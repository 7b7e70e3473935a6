//! wasi-nn for tasks: shared graphs behind checks.
//!
//! [`Nn`] is the process's: the backends, the cache of compiled graphs, what
//! is known of graph directories. [`NnCtx`] is one task's: its handles, its
//! quotas, its cancellation, and what it was refused. [`add_to_linker`] gives
//! it to core modules as `wasi_ephemeral_nn`, `add_to_component_linker` to
//! components as `wasi:nn`.
//!
//! ```text
//! abi ─ guest memory ─▶ context ─ handles, quotas ─▶ execution ─ proven (tensors) ─▶ backends
//!                          │                            ▲                              ▲
//!                          └─▶ directories ─▶ graphs ───┘ requests                     │
//!                                               └─ checked, compiled (stored) ─────────┘
//! ```
//!
//! A guest's mistake is an errno for the guest and a sentence in the task's
//! report; a bad pointer ends the task; nothing that a guest does panics.
#![cfg_attr(
    not(any(feature = "openvino", feature = "onnx", feature = "pytorch")),
    allow(dead_code, reason = "what only a backend calls is built and tested without one too")
)]

mod abi;
mod account;
mod backends;
mod bytes;
mod config;
mod context;
mod cooldown;
mod directories;
mod execution;
mod graph;
mod graphs;
mod inferences;
mod inspect;
mod not_a_model;
mod onnx;
mod protobuf;
mod refusal;
mod shared;
mod source;
mod stored;
mod tensorflow;
mod tensors;
mod tflite;
#[cfg(any(test, feature = "fuzzing", feature = "pytorch"))]
mod torchscript;

#[cfg(all(test, any(feature = "openvino", feature = "pytorch")))]
#[path = "../../tests/it/support/assets.rs"]
mod assets;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

pub(crate) use abi::wit::add_to_linker as add_to_component_linker;
pub use abi::witx::{MODULE, add_to_linker};
pub use account::NnReport;
#[cfg(test)]
pub(crate) use backends::fake;
pub use backends::openvino::operators::{Operators, PROBED};
pub use backends::openvino::{Devices, Hint, OpenVinoConfig, Precision, SearchEnv};
pub use backends::{BackendName, Library};
pub use bytes::Kept;
pub use config::{LoadBytes, NnConfig, NnLimits};
pub use context::NnCtx;
pub use cooldown::{ModelPauses, PausedModel};
pub use graphs::KeptGraph;
pub use inferences::{INFERENCE_BUCKETS, InferenceTimes};
pub use inspect::{Inspection, PortDescription};
pub use shared::NO_BACKEND;
pub use source::{Origin, Origins};

use self::account::TaskAccount;
use self::backends::{Backend, openvino};
use self::directories::Directories;
use self::graphs::Graphs;
use self::inferences::Inferences;
use self::refusal::Halt;
use self::shared::NnShared;
use crate::cancel::Cancel;
use crate::task::GraphDir;

/// Stack of a thread that loads graphs: OpenVINO parses models recursively.
pub const STACK: usize = 32 << 20;

/// Idle requests that a graph keeps for each core.
const KEPT_REQUESTS: usize = 2;

/// Counters since the start, and what is kept now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
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

/// The process's wasi-nn. Making one costs nothing: libraries are loaded when
/// the first task needs them.
#[derive(Clone)]
pub struct Nn {
    shared: Arc<NnShared>,
}

impl Nn {
    /// wasi-nn with the backends of this build.
    pub fn new(config: NnConfig) -> Nn {
        // The first to be asked for a model, and the last to be opened without one.
        let backends: Vec<Box<dyn Backend>> = vec![
            #[cfg(feature = "pytorch")]
            Box::new(backends::torch::Torch::new(
                config.torch_library.clone(),
                config.openvino.search.clone(),
                config.openvino.hint,
                cores(),
                (config.limits.graph_bytes, config.limits.tensor_bytes),
            )),
            #[cfg(feature = "openvino")]
            Box::new(openvino::OpenVino::new(config.openvino.clone(), config.limits.tensor_bytes)),
            #[cfg(feature = "onnx")]
            Box::new(backends::rten::Rten::new(cores(), config.limits.tensor_bytes)),
        ];
        let pinned = |name: &str| config.backend.is_none_or(|pin| pin.name() == name);
        let backends = backends.into_iter().filter(|backend| pinned(backend.name())).collect();
        Nn::with_backends(config, backends)
    }

    /// The backends in the order in which they are asked for a model.
    fn with_backends(config: NnConfig, backends: Vec<Box<dyn Backend>>) -> Nn {
        let cores = cores();
        let shared = NnShared {
            inferences: Inferences::new(&config.graphs, &backends),
            backends,
            graphs: Graphs::new(config.cache_bytes, cores).pausing(config.pauses.clone()),
            directories: Directories::default(),
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
    pub fn encodings(&self) -> Vec<&'static str> {
        self.shared.encodings()
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
                let loaded = self.shared.load_dir(dir, &cancel).map(drop).map_err(Halt::sentence);
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
    /// One sentence: not a single backend can be used, or a graph could not be
    /// loaded. A backend that can't be used while another can is told of where
    /// a graph of its encodings is asked for.
    pub fn context(&self, graphs: &[GraphDir], cancel: Arc<Cancel>) -> Result<NnCtx, String> {
        let shared = &self.shared;
        shared.usable()?;
        let limits = shared.config.limits;
        let task = TaskAccount::new(cancel, limits, KEPT_REQUESTS * shared.cores);
        let mut context = NnCtx::new(shared.clone(), Arc::new(task));
        for dir in graphs {
            context.preload(dir).map_err(Halt::sentence)?;
        }
        Ok(context)
    }

    /// The backends' libraries by the backends' names, loaded now if they were
    /// not: each one, or a sentence on where it was looked for and how to
    /// install it. Nothing is remembered of a failure: once the library is
    /// installed, the next task finds it.
    pub fn libraries(&self) -> Vec<(&'static str, Result<Library, String>)> {
        let backends = self.shared.backends.iter();
        backends.map(|backend| (backend.name(), backend.open().cloned())).collect()
    }

    /// Where OpenVINO is looked for.
    pub fn openvino_places(&self) -> Vec<PathBuf> {
        self.shared.config.openvino.looked()
    }

    /// What is known to be missing, one sentence each, without loading what is not
    /// needed yet.
    pub fn missing(&self) -> Vec<String> {
        self.shared.backends.iter().filter_map(|backend| backend.look().err()).collect()
    }

    /// Whether a backend that is there takes models of this encoding, by the
    /// name of `-S nn-graph`.
    pub fn serves(&self, encoding: &str) -> bool {
        let mut backends = self.shared.backends.iter();
        let has = |backend: &dyn Backend| backend.encodings().iter().any(|e| e.name == encoding);
        backends.any(|backend| has(&**backend) && backend.open().is_ok())
    }

    /// What a backend can compute on, by its library's own names.
    ///
    /// # Errors
    ///
    /// One sentence, if its library can't be used.
    pub fn devices(&self, backend: &str) -> Result<Vec<String>, String> {
        let found = self.shared.backends.iter().find(|found| found.name() == backend);
        found.map_or_else(|| Err(NO_BACKEND.to_owned()), |backend| backend.devices())
    }

    /// How long inferences took, by graph.
    pub fn inference_times(&self) -> Vec<InferenceTimes> {
        self.shared.inferences.times()
    }

    /// The graphs that were used last, at most so many.
    pub fn kept_graphs(&self, most: usize) -> Vec<KeptGraph> {
        self.shared.graphs.kept(most)
    }

    /// Counters since the start, and what is kept now.
    pub fn stats(&self) -> NnStats {
        let graphs = self.shared.graphs.stats();
        NnStats {
            graphs_compiled: self.shared.graphs.compiled(),
            cache_hits: graphs.hits,
            evicted: graphs.evicted,
            inferences: self.shared.inferences.total(),
            cached_bytes: graphs.bytes,
            cached_graphs: graphs.entries,
        }
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The limits that no setting changes, for whoever lists them.
pub fn fixed_limits() -> Vec<(&'static str, u64)> {
    vec![
        ("dimensions of a tensor", tensors::MAX_RANK as u64),
        ("tensors that a component holds", context::resources::MAX_TENSORS as u64),
        ("errors of wasi-nn that a component holds", context::resources::MAX_ERRORS as u64),
        ("bytes of a model's XML", openvino::xml::MAX_BYTES as u64),
        ("nested elements of a model's XML", openvino::xml::MAX_DEPTH as u64),
        ("elements of a model's XML", openvino::xml::MAX_ELEMENTS as u64),
        ("nodes of an ONNX model", onnx::MAX_NODES as u64),
        ("nested graphs of an ONNX model", onnx::MAX_DEPTH as u64),
        ("nodes of a TensorFlow model", tensorflow::MAX_NODES as u64),
        ("operators of a TensorFlow Lite model", tflite::MAX_OPERATORS as u64),
        #[cfg(feature = "pytorch")]
        ("entries of a TorchScript archive", torchscript::MAX_ENTRIES as u64),
        #[cfg(feature = "pytorch")]
        ("nested brackets in the code of a TorchScript archive", torchscript::MAX_DEPTH as u64),
        #[cfg(feature = "pytorch")]
        ("names, brackets and signs of a line of it", torchscript::MAX_LINE as u64),
    ]
}

#[cfg(test)]
mod tests;
