//! How wasi-nn is set up, and what one task may use.

use std::sync::Arc;

use super::backends::BackendName;
use super::backends::openvino::OpenVinoConfig;
use crate::disk::DiskCache;
use crate::task::GraphDir;

/// What one task may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
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
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct NnConfig {
    /// The one backend that is used, or all of this build.
    pub backend: Option<BackendName>,
    /// How OpenVINO is found, and what it does.
    pub openvino: OpenVinoConfig,
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
    #[serde(skip)]
    pub disk: Option<Arc<DiskCache>>,
}
