//! How OpenVINO is set up.

use std::path::PathBuf;

use super::library::{self, SearchEnv};
use super::operators::Operators;
use super::paths;

/// What OpenVINO optimises for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Hint {
    /// One inference at a time, on all cores.
    #[default]
    Latency,
    /// As many inferences as there are cores to share.
    Throughput,
}

/// What OpenVINO computes in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Precision {
    /// The same everywhere. Processors with bfloat16 would compute in that
    /// unasked, and a file's type would depend on the machine: Magika's 0.83
    /// became 0.67.
    #[default]
    F32,
    /// What the processor is fastest in.
    Auto,
}

/// OpenVINO's devices for wasi-nn's targets, as OpenVINO names them: `CPU`,
/// `GPU.1`, `AUTO:GPU,CPU`, `HETERO:NPU,CPU`. None for a target is refused.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Devices {
    /// For the target `cpu`.
    pub cpu: Option<String>,
    /// For the target `gpu`.
    pub gpu: Option<String>,
    /// For the target `tpu`.
    pub tpu: Option<String>,
}

impl Default for Devices {
    fn default() -> Devices {
        Devices { cpu: Some("CPU".to_owned()), gpu: Some("GPU".to_owned()), tpu: None }
    }
}

/// How OpenVINO is found, and what it does.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct OpenVinoConfig {
    /// Its C library or the folder that holds it; if it is set, no other place
    /// is looked at.
    pub library: Option<PathBuf>,
    /// Where else to look.
    pub search: SearchEnv,
    /// What it optimises for.
    pub hint: Hint,
    /// What it computes in.
    pub precision: Precision,
    /// Which operators a model may have.
    pub operators: Operators,
    /// What the guests' targets are.
    pub devices: Devices,
    /// A folder for the names of models that are in memory, which is made when
    /// it is not there; none for one below the system's temporary folder.
    pub links: Option<PathBuf>,
}

impl OpenVinoConfig {
    /// The folder for the names of models that are in memory.
    pub(super) fn links(&self) -> PathBuf {
        self.links.clone().unwrap_or_else(paths::usual_folder)
    }

    /// Makes the names of models that are in memory, for a process that may make
    /// none itself, and says where they are.
    ///
    /// # Errors
    ///
    /// One sentence. Without them, models whose frontends want a file are refused.
    pub fn make_links(&self) -> Result<PathBuf, String> {
        let folder = self.links();
        paths::make(&folder).map(|()| folder)
    }

    /// Where OpenVINO is looked for, on this system and in this environment.
    pub fn looked(&self) -> Vec<PathBuf> {
        library::looked(self.library.as_deref(), &self.search)
    }

    /// The folders that have to be readable for OpenVINO to be found and loaded,
    /// as they are now. None is loaded.
    pub fn folders(&self) -> Vec<PathBuf> {
        library::folders(self.library.as_deref(), &self.search)
    }
}
