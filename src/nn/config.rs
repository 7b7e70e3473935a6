//! How wasi-nn is set up, and what one task may use.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use super::backends::BackendName;
use super::backends::openvino::OpenVinoConfig;
use super::backends::torch;
use super::cooldown::ModelPauses;
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

/// Of which encodings guests may hand over models of their own.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum LoadBytes {
    /// Of all that are served.
    All,
    /// Of these.
    Only(Vec<String>),
}

impl LoadBytes {
    /// The encodings whose models are taken from anybody: those of which a probe
    /// of the library's operators says what is safe.
    pub const USUAL: &[&str] = &["openvino", "onnx", "tensorflow", "tensorflowlite"];
    /// All encodings that models can be of.
    pub const ENCODINGS: &[&str] = &["openvino", "onnx", "tensorflow", "tensorflowlite", "pytorch"];

    /// Of none.
    pub fn none() -> LoadBytes {
        LoadBytes::Only(Vec::new())
    }

    /// Whether one of this encoding is taken.
    pub fn takes(&self, encoding: &str) -> bool {
        match self {
            LoadBytes::All => true,
            LoadBytes::Only(names) => names.iter().any(|name| name == encoding),
        }
    }
}

impl Default for LoadBytes {
    fn default() -> LoadBytes {
        LoadBytes::Only(LoadBytes::USUAL.iter().map(|&name| name.to_owned()).collect())
    }
}

impl fmt::Display for LoadBytes {
    /// As the setting has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LoadBytes::All => f.write_str("true"),
            LoadBytes::Only(names) if names.is_empty() => f.write_str("false"),
            LoadBytes::Only(names) => f.write_str(&names.join(",")),
        }
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
    /// The worker's library for libtorch or the folder that holds it; if it is set,
    /// no other place is looked at.
    pub torch_library: Option<PathBuf>,
    /// Models of other encodings that a guest hands over itself are refused: only
    /// graphs by name.
    pub load_bytes: LoadBytes,
    /// Graphs that every task may load by name.
    pub graphs: Vec<GraphDir>,
    /// What one task may use.
    pub limits: NnLimits,
    /// Where compiled graphs are kept for the next start, if anywhere.
    #[serde(skip)]
    pub disk: Option<Arc<DiskCache>>,
    /// Models that are not compiled for a while.
    #[serde(skip)]
    pub pauses: Arc<ModelPauses>,
}

impl NnConfig {
    /// The folders that have to be readable for the backends' libraries to be found
    /// and loaded, as they are now. None is loaded.
    pub fn libraries(&self) -> Vec<PathBuf> {
        let mut folders = self.openvino.folders();
        folders.extend(torch::folders(self.torch_library.as_deref(), &self.openvino.search));
        folders
    }
}
