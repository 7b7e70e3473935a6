//! One graph, shared by all tasks that load its bytes.
//!
//! It owns the bytes, as long as native code may refer to them, the compiled
//! model, and inference requests that are idle: made once, warm for the next
//! task, and never given on if they could carry something with them.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use super::backends::{Compiled, Model, Request};
use super::refusal::Refusal;
use super::source::Source;
use super::tensors::Port;
use crate::task::GraphDir;

/// The most bytes of a model with open shapes' tensors for which a request is
/// kept: it would keep the size that the last task chose.
const KEEP_OPEN: u64 = 4 << 20;

/// What a backend made, and why those that were asked before it did not, if
/// there are several.
pub(super) struct Taken {
    pub(super) compiled: Compiled,
    pub(super) backend: &'static str,
    pub(super) passed: String,
    pub(super) several: bool,
}

/// A compiled model and its idle inference requests.
pub(super) struct SharedGraph {
    // Before the model: what is dropped first.
    idle: Mutex<Vec<Box<dyn Request>>>,
    model: Box<dyn Model>,
    pub(super) inputs: Vec<Port>,
    pub(super) outputs: Vec<Port>,
    stateful: bool,
    weight: u64,
    /// Bytes of the tensors of one request, as far as the shapes are fixed.
    pub(super) tensor_bytes: u64,
    /// Whether the shapes of all ports are fixed.
    fixed: bool,
    /// The backend that made it.
    pub(super) backend: &'static str,
    /// Why those that were asked before it did not; empty if it was the first.
    pub(super) passed: String,
    /// Several backends serve its encoding.
    pub(super) several: bool,
    source: Source,
    fingerprint: u64,
    /// The directory that it was loaded from first, if it was by a name.
    place: OnceLock<(String, PathBuf)>,
}

impl SharedGraph {
    /// # Errors
    ///
    /// A port is larger than can be counted.
    pub(super) fn new(
        taken: Taken,
        source: Source,
        fingerprint: u64,
    ) -> Result<SharedGraph, Refusal> {
        let Taken { compiled, backend, passed, several } = taken;
        let Compiled { model, inputs, outputs, stateful, weight } = compiled;
        let (mut tensor_bytes, mut fixed) = (0u64, true);
        for port in inputs.iter().chain(&outputs) {
            match port.bytes()? {
                Some(bytes) => tensor_bytes = tensor_bytes.saturating_add(bytes),
                None => fixed = false,
            }
        }
        Ok(SharedGraph {
            idle: Mutex::default(),
            model,
            inputs,
            outputs,
            stateful,
            weight,
            tensor_bytes,
            fixed,
            backend,
            passed,
            several,
            source,
            fingerprint,
            place: OnceLock::new(),
        })
    }

    /// It was loaded from a directory, by this name.
    pub(super) fn loaded_from(&self, dir: &GraphDir) {
        self.place.get_or_init(|| (dir.name.clone(), dir.dir.clone()));
    }

    /// The name and the directory of a graph that was loaded by a name.
    pub(super) fn place(&self) -> Option<&(String, PathBuf)> {
        self.place.get()
    }

    /// What it was made of.
    pub(super) fn source(&self) -> &Source {
        &self.source
    }

    /// The cache's number for the source.
    pub(super) fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// Whether a request is its context's alone.
    #[cfg(all(test, feature = "pytorch"))]
    pub(super) fn is_stateful(&self) -> bool {
        self.stateful
    }

    /// What it keeps alive, in bytes.
    pub(super) fn weight(&self) -> u64 {
        self.weight
    }

    /// The graph as it was compiled.
    pub(super) fn export(&self) -> Result<Vec<u8>, String> {
        self.model.export()
    }

    /// The index of the input that has this among its names.
    pub(super) fn input_named(&self, name: &str) -> Option<usize> {
        self.model.input_named(name)
    }

    /// Whether an inference does without this input.
    pub(super) fn is_optional(&self, input: usize) -> bool {
        self.model.is_optional(input)
    }

    /// A request that no other context uses: one that is warm, or a new one.
    pub(super) fn take_request(&self) -> Result<Box<dyn Request>, Refusal> {
        let idle = self.lock().pop();
        match idle {
            Some(request) => Ok(request),
            None => self.model.request(),
        }
    }

    /// Keeps a request warm for the next context, unless it could carry
    /// something from one task to another. `bytes` are those of its tensors.
    pub(super) fn give_request(&self, request: Box<dyn Request>, bytes: u64, kept: usize) {
        if self.stateful || (!self.fixed && bytes > KEEP_OPEN) {
            return;
        }
        let mut idle = self.lock();
        if idle.len() < kept {
            idle.push(request);
            return;
        }
        drop(idle);
        // `request` is dropped after the lock: it is slow to free.
    }

    // The list is whole at any moment: a panic elsewhere does not matter.
    fn lock(&self) -> MutexGuard<'_, Vec<Box<dyn Request>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
