//! The backends, and what a backend of wasi-nn owes this crate.
//!
//! The traits are narrower than those of `wasmtime_wasi_nn` in three points
//! that they lack: a tensor is written and read in place, or changes hands (no
//! copy of it on the way), an inference can be interrupted, and a graph tells
//! its ports, so that what a guest hands over is proven before native code sees
//! it.

#[cfg(any(test, feature = "fuzzing"))]
#[cfg_attr(not(test), allow(dead_code, reason = "the tests use all of it"))]
pub(crate) mod fake;
pub(super) mod openvino;
#[cfg(feature = "onnx")]
pub(super) mod rten;
pub(super) mod torch;

use std::path::PathBuf;

use wasmtime_wasi_nn::wit::{ExecutionTarget, GraphEncoding, TensorType};

use super::bytes::{Bytes, Kept, Output};
use super::refusal::{Errno, Halt, Refusal};
use super::source::Source;
use super::tensors::Port;
use crate::cancel::Cancel;

/// A backend that can be pinned; each serves some of the encodings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum BackendName {
    /// OpenVINO, a native library.
    OpenVino,
    /// The engine for ONNX in Rust alone.
    Rten,
    /// libtorch, a native library, for PyTorch's models.
    Torch,
}

impl BackendName {
    /// All of them, also those that this build is without.
    pub const ALL: [BackendName; 3] =
        [BackendName::OpenVino, BackendName::Rten, BackendName::Torch];

    /// Whether this build has it.
    pub fn is_built(self) -> bool {
        match self {
            BackendName::OpenVino => cfg!(feature = "openvino"),
            BackendName::Rten => cfg!(feature = "onnx"),
            BackendName::Torch => cfg!(feature = "pytorch"),
        }
    }

    /// As settings, results and metrics have it.
    pub fn name(self) -> &'static str {
        match self {
            BackendName::OpenVino => "openvino",
            BackendName::Rten => "rten",
            BackendName::Torch => "torch",
        }
    }
}

/// What a backend computes with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Library {
    /// The backend's name, such as `openvino`.
    pub backend: &'static str,
    /// The file that was loaded; none if it is a part of this program.
    pub path: Option<PathBuf>,
    /// What it says its version is.
    pub version: String,
}

/// An encoding of models.
#[derive(Debug)]
pub(super) struct Encoding {
    /// wasi-nn's own number for it.
    pub(super) id: GraphEncoding,
    /// Its name, as `-S nn-graph` and messages have it.
    pub(super) name: &'static str,
    /// What a graph directory holds, in the order of the builders.
    pub(super) files: &'static [&'static str],
}

/// Open Neural Network Exchange: one file with its weights.
#[cfg_attr(not(feature = "onnx"), allow(dead_code, reason = "not every build serves it"))]
pub(super) const ONNX: Encoding =
    Encoding { id: GraphEncoding::Onnx, name: "onnx", files: &["model.onnx"] };

/// An encoding with the backends that serve it: a model is the first one's that
/// takes it.
#[derive(Clone)]
pub(super) struct ServedEncoding<'a> {
    pub(super) encoding: &'static Encoding,
    pub(super) backends: Vec<&'a dyn Backend>,
}

/// Makes graphs of some encodings.
pub(super) trait Backend: Send + Sync {
    /// Its name, such as `openvino`.
    fn name(&self) -> &'static str;

    /// The encodings that it serves. Several backends may serve one.
    fn encodings(&self) -> &'static [Encoding];

    /// Makes the native library ready, which is cheap when it is already.
    ///
    /// # Errors
    ///
    /// One sentence: where it was looked for and how to install it.
    fn open(&self) -> Result<&Library, String>;

    /// Whether [`Backend::open`] would make it ready, as far as is known without:
    /// a large library need not be there before a task needs it.
    ///
    /// # Errors
    ///
    /// One sentence, as of [`Backend::open`].
    fn look(&self) -> Result<(), String> {
        self.open().map(drop)
    }

    /// What it can compute on, by the library's own names.
    ///
    /// # Errors
    ///
    /// One sentence, as of [`Backend::open`].
    fn devices(&self) -> Result<Vec<String>, String>;

    /// Proves the builders and the target, without compiling anything.
    fn check(
        &self,
        encoding: GraphEncoding,
        target: ExecutionTarget,
        parts: &[&[u8]],
    ) -> Result<(), Refusal>;

    /// Compiles what [`Backend::check`] has proven. Where that can be
    /// interrupted, `cancel` does it, and what comes of it then is a refusal
    /// that nobody reads.
    fn compile(&self, source: &Source, cancel: &Cancel) -> Result<Compiled, Refusal>;

    /// What a graph for this target depends on beside its source: versions and
    /// settings. None if graphs can't be taken over from an earlier process.
    fn settings(&self, _target: ExecutionTarget) -> Option<String> {
        None
    }

    /// Makes the graph of this source out of what [`Model::export`] gave.
    fn import(&self, _source: &Source, _compiled: Vec<u8>) -> Result<Compiled, Refusal> {
        Err(Refusal::new(Errno::UnsupportedOperation, "this backend takes no compiled graphs"))
    }
}

/// A graph, ready to run.
pub(super) struct Compiled {
    pub(super) model: Box<dyn Model>,
    pub(super) inputs: Vec<Port>,
    pub(super) outputs: Vec<Port>,
    /// Whether an inference leaves something behind for the next one of the
    /// same request.
    pub(super) stateful: bool,
    /// What it keeps alive, the source included, in bytes.
    pub(super) weight: u64,
}

/// A compiled model.
pub(super) trait Model: Send + Sync {
    /// A request of its own for one execution context.
    fn request(&self) -> Result<Box<dyn Request>, Refusal>;

    /// The index of the input that has this among its names, where ports have
    /// more names than one.
    fn input_named(&self, _name: &str) -> Option<usize> {
        None
    }

    /// Whether an inference does without this input.
    fn is_optional(&self, _input: usize) -> bool {
        false
    }

    /// The graph as it was compiled, for [`Backend::import`].
    fn export(&self) -> Result<Vec<u8>, String> {
        Err("this backend gives no compiled graphs".to_owned())
    }
}

/// One inference request. Its callers have proven indices, types and shapes
/// against the graph's ports.
pub(super) trait Request: Send + Sync {
    /// Copies `data` into the input.
    fn write(
        &mut self,
        index: usize,
        ty: TensorType,
        shape: &[u32],
        data: &[u8],
    ) -> Result<(), Refusal>;

    /// Makes `data` the input, without a copy.
    fn give(
        &mut self,
        index: usize,
        ty: TensorType,
        shape: &[u32],
        data: Bytes,
    ) -> Result<(), Refusal>;

    /// Makes `data`, which others have too, the input. Without a copy where the
    /// backend is known to only read its inputs.
    fn share(
        &mut self,
        index: usize,
        ty: TensorType,
        shape: &[u32],
        data: Kept,
    ) -> Result<(), Refusal> {
        self.write(index, ty, shape, data.as_ref())
    }

    /// Computes the outputs; `cancel` interrupts it.
    fn run(&mut self, cancel: &Cancel) -> Result<(), Halt>;

    /// The outputs of the last [`Request::run`], where a graph does not tell them.
    fn outputs(&mut self) -> Option<Vec<Port>> {
        None
    }

    /// The shape of an output of the last [`Request::run`].
    fn output_shape(&mut self, index: usize) -> Result<Vec<u32>, Refusal>;

    /// Shows the bytes of an output of the last [`Request::run`].
    fn read(&mut self, index: usize, show: &mut dyn FnMut(&[u8])) -> Result<(), Refusal>;

    /// The output of the last [`Request::run`], without a copy: it stays as it
    /// is whatever becomes of the request.
    fn take(&mut self, index: usize) -> Result<Output, Refusal>;
}
