//! What all tasks share: the backends, and the graphs that they have made.

use std::sync::Arc;

use super::backends::Backend;
use super::config::NnConfig;
use super::directories::Directories;
use super::graph::SharedGraph;
use super::graphs::{Found, Graphs};
use super::inferences::Inferences;
use super::refusal::{Errno, Halt, Refusal};
use crate::cancel::Cancel;
use crate::task::GraphDir;

/// What a build without a backend answers.
pub const NO_BACKEND: &str = "this build has no wasi-nn backend; the build with OpenVINO is \
     `cargo build --features openvino` or the container image";

/// What tasks share.
pub(super) struct NnShared {
    pub(super) backends: Vec<Box<dyn Backend>>,
    pub(super) graphs: Graphs,
    pub(super) directories: Directories,
    pub(super) inferences: Inferences,
    pub(super) config: NnConfig,
    pub(super) cores: usize,
}

impl NnShared {
    /// The graph of a directory.
    pub(super) fn load_dir(
        &self,
        dir: &GraphDir,
        cancel: &Cancel,
    ) -> Result<(Arc<SharedGraph>, Found), Halt> {
        let backend = self.backend(&dir.encoding)?;
        let max = self.config.model_bytes;
        let ours = self.config.graphs.contains(dir);
        let disk = self.config.disk.as_ref().filter(|_| ours);
        self.directories.load(&self.graphs, backend, dir, max, disk, cancel).map_err(|halt| {
            match halt {
                Halt::Refused(mut refusal) => {
                    refusal.text = format!("graph `{}`: {}", dir.name, refusal.text);
                    Halt::Refused(refusal)
                }
                cancelled => cancelled,
            }
        })
    }

    /// The backend of an encoding, by its name.
    pub(super) fn backend(&self, encoding: &str) -> Result<&dyn Backend, Refusal> {
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
            Refusal::new(Errno::InvalidEncoding, text)
        })
    }
}
