//! The backend for OpenVINO's IR: one core for the process, made when the
//! first graph is loaded.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use wasmtime_wasi_nn::wit::{ExecutionTarget, GraphEncoding, TensorType};

use super::backend::{Backend, Compiled, Errno, Halt, Library, Model, Refusal, Request, View};
use super::checks::{self, Dim, Element, Port};
use super::graph::Source;
use super::library::{self, SearchEnv};
use super::native::{self, Core, InferRequest, RawPort};
use super::{Hint, NnConfig, Precision};
use crate::cancel::Cancel;

/// The backend. See the module's documentation.
pub(super) struct OpenVino {
    library: Option<PathBuf>,
    search: SearchEnv,
    hint: Hint,
    precision: Precision,
    loaded: OnceLock<Loaded>,
    /// Held while the library is looked for.
    loading: Mutex<()>,
}

struct Loaded {
    core: Arc<Core>,
    library: Library,
}

impl OpenVino {
    pub(super) fn new(config: &NnConfig) -> OpenVino {
        OpenVino {
            library: config.library.clone(),
            search: config.search.clone(),
            hint: config.hint,
            precision: config.precision,
            loaded: OnceLock::new(),
            loading: Mutex::new(()),
        }
    }

    // A failure is not remembered: looking again costs some hundred system
    // calls, and finds what was installed meanwhile.
    fn loaded(&self) -> Result<&Loaded, String> {
        if let Some(loaded) = self.loaded.get() {
            return Ok(loaded);
        }
        let _loading = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(loaded) = self.loaded.get() {
            return Ok(loaded);
        }
        let load = |path: &Path| {
            let version = native::load(path)?;
            Ok(Library { backend: self.name(), path: path.to_owned(), version })
        };
        let library = library::find(self.library.as_deref(), &self.search, load)?;
        let failed =
            |error| format!("OpenVINO (`{}`) does not start: {error}", library.path.display());
        let core = Core::new().map_err(failed)?;
        self.set_hint(&core, "CPU").map_err(failed)?;
        tracing::info!(path = %library.path.display(), version = library.version, "OpenVINO loaded");
        Ok(self.loaded.get_or_init(|| Loaded { core: Arc::new(core), library }))
    }

    fn set_hint(&self, core: &Core, device: &str) -> Result<(), String> {
        let hint = match self.hint {
            Hint::Latency => "LATENCY",
            Hint::Throughput => "THROUGHPUT",
        };
        core.set_property(device, "PERFORMANCE_HINT", hint)?;
        if device == "CPU" && self.precision == Precision::F32 {
            core.set_property(device, "INFERENCE_PRECISION_HINT", "f32")?;
        }
        Ok(())
    }

    fn device(&self, target: ExecutionTarget) -> Result<&'static str, Refusal> {
        let unsupported = |text: String| Refusal::new(Errno::UnsupportedOperation, text);
        match target {
            ExecutionTarget::Cpu => Ok("CPU"),
            ExecutionTarget::Gpu => {
                let core = &self.loaded().map_err(Refusal::runtime)?.core;
                let devices = core.devices().map_err(Refusal::runtime)?;
                if !devices.iter().any(|device| device == "GPU" || device.starts_with("GPU.")) {
                    let devices = devices.join(", ");
                    let text = format!("there is no GPU: OpenVINO has {devices} on this machine");
                    return Err(unsupported(text));
                }
                Ok("GPU")
            }
            ExecutionTarget::Tpu => Err(unsupported("OpenVINO does not run on a TPU".to_owned())),
        }
    }
}

impl Backend for OpenVino {
    fn encoding(&self) -> GraphEncoding {
        GraphEncoding::Openvino
    }

    fn name(&self) -> &'static str {
        "openvino"
    }

    fn files(&self) -> &'static [&'static str] {
        &["model.xml", "model.bin"]
    }

    fn open(&self) -> Result<Library, String> {
        self.loaded().map(|loaded| loaded.library.clone())
    }

    fn devices(&self) -> Result<Vec<String>, String> {
        self.loaded()?.core.devices()
    }

    fn check(&self, target: ExecutionTarget, parts: &[&[u8]]) -> Result<(), Refusal> {
        checks::openvino(parts)?;
        self.device(target).map(drop)
    }

    fn compile(&self, source: &Source) -> Result<Compiled, Refusal> {
        let core = &self.loaded().map_err(Refusal::runtime)?.core;
        let parts: Vec<&[u8]> = source.parts().iter().map(|part| &**part).collect();
        let scan = checks::openvino(&parts)?;
        let device = self.device(source.target())?;
        let failed = |error| Refusal::runtime(format!("OpenVINO refuses the model: {error}"));
        if device != "CPU" {
            self.set_hint(core, device).map_err(failed)?;
        }
        let compiled = core.compile(source, device).map_err(failed)?;
        graph(compiled, source, scan.stateful).map_err(failed)
    }

    fn settings(&self, target: ExecutionTarget) -> Option<String> {
        // What other devices' drivers depend on is not known here.
        if target != ExecutionTarget::Cpu {
            return None;
        }
        let Loaded { core, library } = self.loaded().ok()?;
        // A state directory may move to another machine.
        let processor = ["FULL_DEVICE_NAME", "OPTIMIZATION_CAPABILITIES"]
            .map(|property| core.property("CPU", property).unwrap_or_default())
            .join(" ");
        let version = &library.version;
        Some(format!("{version} {processor} {:?} {:?}", self.hint, self.precision))
    }

    fn import(&self, source: &Source, compiled: Vec<u8>) -> Result<Compiled, Refusal> {
        let core = &self.loaded().map_err(Refusal::runtime)?.core;
        let parts: Vec<&[u8]> = source.parts().iter().map(|part| &**part).collect();
        let scan = checks::openvino(&parts)?;
        let device = self.device(source.target())?;
        let failed =
            |error| Refusal::runtime(format!("OpenVINO refuses the compiled model: {error}"));
        let imported = compiled.len() as u64;
        let compiled = core.import(source, compiled, device).map_err(failed)?;
        let mut graph = graph(compiled, source, scan.stateful).map_err(failed)?;
        // These bytes are kept, too.
        graph.weight += imported;
        Ok(graph)
    }
}

fn graph(compiled: native::Compiled, source: &Source, stateful: bool) -> Result<Compiled, String> {
    let inputs: Vec<Port> = compiled.inputs()?.into_iter().map(port).collect();
    let outputs: Vec<Port> = compiled.outputs()?.into_iter().map(port).collect();
    Ok(Compiled {
        stateful,
        weight: weight(source),
        model: Box::new(OpenVinoModel {
            compiled,
            inputs: inputs.len(),
            outputs: outputs.clone().into(),
        }),
        inputs,
        outputs,
    })
}

/// What a graph keeps alive: the source, which is compared with and whose
/// weights OpenVINO refers to; a second copy of the weights, in the layout that
/// the device wants; and the operators, which go with the length of the XML.
///
/// Measured as resident memory with OpenVINO 2026.4 after a first inference,
/// beside what is said here: MobileNetV2 (0.1 MB of XML, 14.0 MB of weights)
/// 30 and 33 MB, Magika (0.1 and 3.1 MB, open shapes) 11 and 10 MB, a chain of
/// 600 products (0.4 MB and next to none) 17 and 12 MB, four numbers 0.8 and
/// 1.1 MB. What a model computes in is not known before it runs.
fn weight(source: &Source) -> u64 {
    let bytes = |part: usize| source.parts().get(part).map_or(0, |part| part.len() as u64);
    32 * bytes(0) + 2 * bytes(1) + (1 << 20)
}

fn port(raw: RawPort) -> Port {
    let dim = |(min, max): (i64, i64)| Dim {
        min: u64::try_from(min).unwrap_or(0),
        max: u64::try_from(max).ok().filter(|&max| max < i64::MAX as u64),
    };
    Port {
        name: raw.name,
        element: native::element(raw.element),
        shape: raw.shape.map(|dims| dims.into_iter().map(dim).collect()),
    }
}

struct OpenVinoModel {
    compiled: native::Compiled,
    inputs: usize,
    outputs: Arc<[Port]>,
}

impl Model for OpenVinoModel {
    fn request(&self) -> Result<Box<dyn Request>, Refusal> {
        let request = self.compiled.request().map_err(|error| {
            Refusal::runtime(format!("OpenVINO can't make an inference request: {error}"))
        })?;
        let outputs = self.outputs.clone();
        Ok(Box::new(OpenVinoRequest { request, inputs: self.inputs, outputs }))
    }

    /// By a file in memory: the library does not tell when a disk is full.
    #[cfg(target_os = "linux")]
    fn export(&self) -> Result<Vec<u8>, String> {
        use rustix::fs::{MemfdFlags, memfd_create};
        use std::os::fd::AsRawFd as _;

        let file = memfd_create("graph", MemfdFlags::CLOEXEC).map_err(|error| error.to_string())?;
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        self.compiled.export(&path)?;
        std::fs::read(path).map_err(|error| error.to_string())
    }
}

struct OpenVinoRequest {
    request: InferRequest,
    inputs: usize,
    outputs: Arc<[Port]>,
}

impl OpenVinoRequest {
    /// Sets the outputs to zero: an operator may leave a part of its output as
    /// it was, which was another task's or anything that lay in the heap. An
    /// output whose size an inference decides is written as far as it goes.
    fn clear_outputs(&mut self) -> Result<(), String> {
        let mut inputs = Vec::with_capacity(self.inputs);
        for index in 0..self.inputs {
            inputs.push(self.request.input(index)?.bytes()?.as_ptr_range());
        }
        for (index, port) in self.outputs.iter().enumerate() {
            if !port.has_bytes() {
                continue;
            }
            let mut tensor = self.request.output(index)?;
            let bytes = tensor.bytes_mut()?;
            let range = bytes.as_ptr_range();
            // A model may hand an input on in its place.
            if inputs.iter().all(|input| input.end <= range.start || range.end <= input.start) {
                bytes.fill(0);
            }
        }
        Ok(())
    }
}

impl Request for OpenVinoRequest {
    fn write(&mut self, index: usize, shape: &[u32], data: &[u8]) -> Result<(), Refusal> {
        let failed = |error| Refusal::runtime(format!("OpenVINO refuses input {index}: {error}"));
        let mut tensor = self.request.input(index).map_err(failed)?;
        // An open shape keeps that of the last tensor.
        if tensor.shape().map_err(failed)? != shape {
            tensor.set_shape(shape).map_err(failed)?;
        }
        let bytes = tensor.bytes_mut().map_err(failed)?;
        if bytes.len() != data.len() {
            let sizes = format!("its tensor has {} bytes, not {}", bytes.len(), data.len());
            return Err(failed(sizes));
        }
        bytes.copy_from_slice(data);
        Ok(())
    }

    fn run(&mut self, cancel: &Cancel) -> Result<(), Halt> {
        self.clear_outputs().map_err(|error| {
            Refusal::runtime(format!("OpenVINO's outputs can't be cleared: {error}"))
        })?;
        let (starts, ends) = (self.request.canceller(), self.request.canceller());
        let request = &mut self.request;
        let ran = cancel.interruptible(
            move || ends.cancel(),
            || {
                request.start()?;
                // A reason that came between the registration and the start
                // found nothing to cancel.
                if cancel.reason().is_some() {
                    starts.cancel();
                }
                request.wait()
            },
        );
        match (ran, cancel.reason()) {
            (Ok(Ok(())), _) => Ok(()),
            (Err(reason), _) | (_, Some(reason)) => Err(Halt::Cancelled(reason)),
            (Ok(Err(error)), None) => {
                Err(Refusal::runtime(format!("OpenVINO's inference failed: {error}")).into())
            }
        }
    }

    fn read(&mut self, index: usize, show: &mut dyn FnMut(View<'_>)) -> Result<(), Refusal> {
        let port = &self.outputs[index];
        let ty: Option<TensorType> = match port.element {
            Element::Nn(ty) => Some(ty),
            Element::Other(_, Some(_)) => None,
            // Strings are pointers into this process.
            Element::Other(name, None) => {
                let text = format!("output {index} is of the type {name}, which has no bytes");
                return Err(Refusal::new(Errno::UnsupportedOperation, text));
            }
        };
        let failed = |error| Refusal::runtime(format!("OpenVINO has no output {index}: {error}"));
        let tensor = self.request.output(index).map_err(failed)?;
        let shape = tensor.shape().map_err(failed)?;
        show(View { shape, ty, data: tensor.bytes().map_err(failed)? });
        Ok(())
    }
}

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod tests;
