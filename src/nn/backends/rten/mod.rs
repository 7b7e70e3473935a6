//! ONNX in Rust alone, by the crate `rten`: no native library, so it is there
//! wherever this program is.
//!
//! What is proven before rten sees a model is in `crate::nn::onnx` and
//! [`bounds`], before it runs one in [`sizes`]. rten itself promises memory
//! safety and nothing on time or panics: [`engine`] contains those.

mod bounds;
mod engine;
mod model;
mod sizes;
mod values;

use std::sync::Arc;

use ::rten::{LoadErrorKind, ModelOptions};
use wasmtime_wasi_nn::wit::{ExecutionTarget, GraphEncoding};

use self::engine::Engine;
use self::model::RtenModel;
use self::sizes::Sizes;
use super::{Backend, BackendName, Compiled, Encoding, Library, ONNX};
use crate::cancel::Cancel;
use crate::nn::onnx;
use crate::nn::refusal::{Errno, Halt, Refusal};
use crate::nn::source::Source;

/// The backend. See the module's documentation.
pub(in crate::nn) struct Rten {
    engine: Arc<Engine>,
    /// Bytes that a model's constants may take beside the file's own, and what
    /// an inference takes at the same time.
    memory: u64,
    library: Library,
}

impl Rten {
    /// One that computes in as many threads as there are cores, and takes no
    /// model whose tensors need more than `memory` bytes.
    pub(in crate::nn) fn new(cores: usize, memory: u64) -> Rten {
        Rten {
            memory,
            engine: Arc::new(Engine::new(cores)),
            library: Library {
                backend: BackendName::Rten.name(),
                path: None,
                version: env!("PROPLET_RTEN").to_owned(),
            },
        }
    }
}

impl Backend for Rten {
    fn name(&self) -> &'static str {
        BackendName::Rten.name()
    }

    fn encodings(&self) -> &'static [Encoding] {
        &[ONNX]
    }

    fn open(&self) -> Result<&Library, String> {
        Ok(&self.library)
    }

    fn devices(&self) -> Result<Vec<String>, String> {
        Ok(vec!["CPU".to_owned()])
    }

    fn check(
        &self,
        _encoding: GraphEncoding,
        target: ExecutionTarget,
        parts: &[&[u8]],
    ) -> Result<(), Refusal> {
        if target != ExecutionTarget::Cpu {
            let text = "rten computes on the CPU alone";
            return Err(Refusal::new(Errno::UnsupportedOperation, text));
        }
        let model = onnx::scan(parts)?;
        bounds::check(&model, self.memory)?;
        values::ports(&model.graph).map(drop)
    }

    fn compile(&self, source: &Source, cancel: &Cancel) -> Result<Compiled, Refusal> {
        let parts: Vec<&[u8]> = source.parts().iter().map(|part| &**part).collect();
        let scanned = onnx::scan(&parts)?;
        let (inputs, outputs) = values::ports(&scanned.graph)?;
        let weight = weight(parts[0].len(), scanned.nodes);
        let own = source.clone();
        let loaded = self.engine.run(cancel, move |_| {
            let mut options = ModelOptions::with_all_ops();
            options.prepack_weights(true).load(own.parts()[0].to_vec())
        });
        let loaded = loaded.map_err(|halt| match halt {
            Halt::Refused(refusal) => refusal,
            Halt::Cancelled(_) => Refusal::runtime("rten was interrupted"),
        })?;
        let loaded = loaded.map_err(|error| {
            let errno = match error.kind() {
                LoadErrorKind::OperatorInvalid => Errno::UnsupportedOperation,
                _ => Errno::RuntimeError,
            };
            Refusal::new(errno, format!("rten refuses the model: {error}"))
        })?;
        let sizes = Sizes::new(&loaded, &scanned.graph, self.memory)?;
        let model = RtenModel::new(self.engine.clone(), loaded, sizes, &inputs, &outputs)?;
        Ok(Compiled { model: Box::new(model), inputs, outputs, stateful: false, weight })
    }
}

/// What a graph keeps alive: the source, which is compared with, rten's own
/// copy of the weights and the one in the layout that it multiplies with, and
/// the nodes.
fn weight(file: usize, nodes: usize) -> u64 {
    3 * file as u64 + 4096 * nodes as u64 + (1 << 20)
}

#[cfg(test)]
mod tests;
