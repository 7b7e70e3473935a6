//! The backend: the library and its threads, made when the first model is loaded.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use wasmtime_wasi_nn::wit::{ExecutionTarget, GraphEncoding, TensorType};

use super::lanes::Lanes;
use super::library;
use super::model::TorchModel;
use super::native::{Argument, Loaded, Shim, refusal};
use crate::cancel::Cancel;
use crate::nn::backends::openvino::{Hint, SearchEnv};
use crate::nn::backends::{Backend, BackendName, Compiled, Encoding, Library};
use crate::nn::refusal::{Errno, Halt, Refusal};
use crate::nn::source::Source;
use crate::nn::tensors::{Element, Port};
use crate::nn::torchscript;

/// TorchScript: one archive with its weights.
const PYTORCH: Encoding =
    Encoding { id: GraphEncoding::Pytorch, name: "pytorch", files: &["model.pt"] };

/// What a tensor of a method may be made of.
const TENSOR: &[TensorType] = &[
    TensorType::Fp16,
    TensorType::Fp32,
    TensorType::Fp64,
    TensorType::Bf16,
    TensorType::U8,
    TensorType::I32,
    TensorType::I64,
];
const INT: &[TensorType] = &[TensorType::I64, TensorType::I32, TensorType::U8];
const FLOAT: &[TensorType] = &[TensorType::Fp32, TensorType::Fp64];
const TRUTH: &[TensorType] = &[TensorType::U8, TensorType::I32, TensorType::I64];

/// The backend. See the module's documentation.
pub(in crate::nn) struct Torch {
    library: Option<PathBuf>,
    search: SearchEnv,
    hint: Hint,
    cores: usize,
    /// Bytes that the tensors of a model may take while it is loaded, and those of a
    /// context.
    memory: (u64, u64),
    opened: OnceLock<Opened>,
    /// Held while the library is looked for.
    opening: Mutex<()>,
}

struct Opened {
    shim: Arc<Shim>,
    lanes: Arc<Lanes>,
    library: Library,
}

impl Torch {
    /// One that computes in as many threads as there are cores: for one
    /// inference at a time, or, for throughput, one in each. `memory`: the most bytes
    /// of a model's tensors while it is loaded, and of those of a context.
    pub(in crate::nn) fn new(
        library: Option<PathBuf>,
        search: SearchEnv,
        hint: Hint,
        cores: usize,
        memory: (u64, u64),
    ) -> Torch {
        let (opened, opening) = (OnceLock::new(), Mutex::new(()));
        Torch { library, search, hint, cores, memory, opened, opening }
    }

    // A failure is not remembered: what was installed meanwhile is found.
    fn opened(&self) -> Result<&Opened, String> {
        if let Some(opened) = self.opened.get() {
            return Ok(opened);
        }
        let _opening = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(opened) = self.opened.get() {
            return Ok(opened);
        }
        let open = |path: &Path| Ok((path.to_owned(), Shim::open(path)?));
        let (path, shim) = library::find(self.library.as_deref(), &self.search, open)?;
        let (lanes, threads) = match self.hint {
            Hint::Latency => (1, self.cores),
            Hint::Throughput => (self.cores, 1),
        };
        let prepared = shim.clone();
        let lanes = Lanes::new(lanes, move || prepared.thread(threads))?;
        let version = format!("libtorch {}", shim.version);
        tracing::info!(path = %path.display(), version, "libtorch loaded");
        let library = Library { backend: self.name(), path: Some(path), version };
        let opened = Opened { shim, lanes: Arc::new(lanes), library };
        Ok(self.opened.get_or_init(|| opened))
    }
}

impl Backend for Torch {
    fn name(&self) -> &'static str {
        BackendName::Torch.name()
    }

    fn encodings(&self) -> &'static [Encoding] {
        &[PYTORCH]
    }

    fn open(&self) -> Result<&Library, String> {
        self.opened().map(|opened| &opened.library)
    }

    fn look(&self) -> Result<(), String> {
        library::find(self.library.as_deref(), &self.search, |_| Ok(()))
    }

    fn devices(&self) -> Result<Vec<String>, String> {
        self.opened().map(|_| vec!["CPU".to_owned()])
    }

    // The archive is proven where it is compiled: nothing is kept of it in between.
    fn check(
        &self,
        _encoding: GraphEncoding,
        target: ExecutionTarget,
        _parts: &[&[u8]],
    ) -> Result<(), Refusal> {
        if target != ExecutionTarget::Cpu {
            let text = "libtorch computes on the CPU alone here";
            return Err(Refusal::new(Errno::UnsupportedOperation, text));
        }
        Ok(())
    }

    fn compile(&self, source: &Source, cancel: &Cancel) -> Result<Compiled, Refusal> {
        let Opened { shim, lanes, .. } = self.opened().map_err(Refusal::runtime)?;
        let parts: Vec<&[u8]> = source.parts().iter().map(|part| &**part).collect();
        let archive = torchscript::prove(&parts)?;
        let weight = weight(parts[0].len(), archive.len());
        let (own, memory) = (shim.clone(), self.memory.0);
        let loaded = lanes.run(cancel, move |flag| {
            own.load(&archive, &torchscript::operators::lines(), memory, flag)
        });
        let loaded = loaded.map_err(|halt| match halt {
            Halt::Refused(refusal) => refusal,
            Halt::Cancelled(_) => Refusal::runtime("libtorch was interrupted"),
        })?;
        let loaded = loaded.map_err(|failed| refusal(failed, "libtorch refuses the model"))?;
        tracing::debug!(
            schema = loaded.schema(),
            stateful = loaded.stateful(),
            "a model is loaded"
        );
        Ok(compiled(loaded, lanes.clone(), weight, self.memory.1))
    }
}

fn compiled(loaded: Loaded, lanes: Arc<Lanes>, weight: u64, memory: u64) -> Compiled {
    let arguments = loaded.inputs();
    let inputs = arguments.iter().map(|argument| Port {
        name: argument.name.clone(),
        element: match argument.kind {
            Argument::Tensor => Element::OneOf("tensor", TENSOR),
            Argument::Int => Element::OneOf("int", INT),
            Argument::Float => Element::OneOf("float", FLOAT),
            Argument::Truth => Element::OneOf("bool", TRUTH),
        },
        shape: None,
    });
    // Only a run tells of what type they are, and of some how many.
    let names = loaded.outputs().unwrap_or_else(|| vec![String::new()]);
    let outputs = names.into_iter().map(|name| Port {
        name,
        element: Element::OneOf("tensor", TENSOR),
        shape: None,
    });
    let optional: Vec<bool> = arguments.iter().map(|argument| argument.optional).collect();
    Compiled {
        inputs: inputs.collect(),
        outputs: outputs.collect(),
        // What is optional may be left out by the next one, which must not have it from this one.
        stateful: loaded.stateful() || optional.contains(&true),
        weight,
        model: Box::new(TorchModel::new(loaded, lanes, optional, memory)),
    }
}

/// What a graph keeps alive: the source, which is compared with, libtorch's
/// tensors, and what it made of the code.
fn weight(source: usize, archive: usize) -> u64 {
    source as u64 + archive as u64 + (1 << 20)
}
