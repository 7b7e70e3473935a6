//! What all tasks share: the backends, and the graphs that they have made.

use std::sync::Arc;

use super::backends::{Backend, Served};
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
        let served = self.served(&dir.encoding)?;
        let max = self.config.model_bytes;
        let ours = self.config.graphs.contains(dir);
        let disk = self.config.disk.as_ref().filter(|_| ours);
        self.directories.load(&self.graphs, served, dir, max, disk, cancel).map_err(|halt| {
            match halt {
                Halt::Refused(mut refusal) => {
                    refusal.text = format!("graph `{}`: {}", dir.name, refusal.text);
                    Halt::Refused(refusal)
                }
                cancelled => cancelled,
            }
        })
    }

    /// The encoding of that name, with its backend, whose library is open.
    pub(super) fn served(&self, encoding: &str) -> Result<Served<'_>, Refusal> {
        let found = self.encodings().find(|served| served.encoding.name == encoding);
        let served = found.ok_or_else(|| {
            let names: Vec<_> = self.encodings().map(|served| served.encoding.name).collect();
            let text = match names.as_slice() {
                [] => NO_BACKEND.to_owned(),
                names => format!(
                    "the encoding {encoding} is not served here: this build has {}",
                    names.join(", ")
                ),
            };
            Refusal::new(Errno::InvalidEncoding, text)
        })?;
        served.backend.open().map_err(Refusal::runtime)?;
        Ok(served)
    }

    /// Proves that a backend can be used.
    pub(super) fn usable(&self) -> Result<(), String> {
        let mut failures = Vec::new();
        for backend in &self.backends {
            match backend.open() {
                Ok(_) => return Ok(()),
                Err(failure) => failures.push(failure),
            }
        }
        Err(if failures.is_empty() { NO_BACKEND.to_owned() } else { failures.join("; ") })
    }

    /// All encodings that are served, with their backends.
    pub(super) fn encodings(&self) -> impl Iterator<Item = Served<'_>> {
        self.backends.iter().flat_map(|backend| {
            let backend = &**backend;
            backend.encodings().iter().map(move |encoding| Served { backend, encoding })
        })
    }
}
