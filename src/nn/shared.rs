//! What all tasks share: the backends, and the graphs that they have made.

use std::sync::Arc;

use super::backends::{Backend, Encoding, ServedEncoding};
use super::config::NnConfig;
use super::directories::Directories;
use super::graph::SharedGraph;
use super::graphs::{Found, Graphs};
use super::inferences::Inferences;
use super::refusal::{Errno, Halt, Refusal};
use crate::cancel::Cancel;
use crate::task::GraphDir;

/// What a build without a backend answers.
pub const NO_BACKEND: &str = "this build has no wasi-nn backend; the one with OpenVINO and ONNX is \
     `cargo build --features openvino,onnx` or the container image";

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
        let loaded = self.directories.load(&self.graphs, served, dir, max, disk, cancel);
        let (graph, found) = loaded.map_err(|halt| match halt {
            Halt::Refused(mut refusal) => {
                refusal.text = format!("graph `{}`: {}", dir.name, refusal.text);
                Halt::Refused(refusal)
            }
            cancelled => cancelled,
        })?;
        graph.loaded_from(dir);
        Ok((graph, found))
    }

    /// The encoding of that name with its backends, whose libraries may be
    /// missing.
    pub(super) fn served(&self, encoding: &str) -> Result<ServedEncoding<'_>, Refusal> {
        let mut backends = Vec::new();
        let mut found = None;
        for backend in &self.backends {
            if let Some(serves) = backend.encodings().iter().find(|e| e.name == encoding) {
                found.get_or_insert(serves);
                backends.push(&**backend);
            }
        }
        if let Some(encoding) = found {
            return Ok(ServedEncoding { encoding, backends });
        }
        let text = match (self.encodings().as_slice(), self.config.backend) {
            ([], _) => NO_BACKEND.to_owned(),
            (names, None) => format!(
                "the encoding {encoding} is not served here: this build has {}",
                names.join(", ")
            ),
            (names, Some(pin)) => format!(
                "the encoding {encoding} is not served here: this worker's one backend is {} \
                 (--nn-backend), which has {}",
                pin.name(),
                names.join(", ")
            ),
        };
        Err(Refusal::new(Errno::InvalidEncoding, text))
    }

    /// Proves that a backend can be used.
    pub(super) fn usable(&self) -> Result<(), String> {
        let mut failures = Vec::new();
        // The last ones need no library: one that is not there is looked for
        // each time.
        for backend in self.backends.iter().rev() {
            match backend.open() {
                Ok(_) => return Ok(()),
                Err(failure) => failures.push(failure),
            }
        }
        Err(if failures.is_empty() { NO_BACKEND.to_owned() } else { failures.join("; ") })
    }

    /// The names of all encodings that are served.
    pub(super) fn encodings(&self) -> Vec<&'static str> {
        let all = self.backends.iter().flat_map(|backend| backend.encodings());
        let mut names = Vec::new();
        for Encoding { name, .. } in all {
            if !names.contains(name) {
                names.push(*name);
            }
        }
        names
    }
}
