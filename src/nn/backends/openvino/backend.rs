//! The backend: one core for the process, made when the
//! first graph is loaded.

use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use wasmtime_wasi_nn::wit::{ExecutionTarget, GraphEncoding};

use super::config::{Hint, OpenVinoConfig, Precision};
use super::devices;
use super::encodings::{self, ENCODINGS, Proven};
use super::library;
use super::model::OpenVinoModel;
use super::native::{self, Core, Model, RawPort};
use super::paths;
use super::xml::Bounds;
use crate::cancel::Cancel;
use crate::nn::backends::{Backend, BackendName, Compiled, Encoding, Library};
use crate::nn::refusal::Refusal;
use crate::nn::source::Source;
use crate::nn::tensors::{Dim, Port};

/// The backend. See the module's documentation.
pub(in crate::nn) struct OpenVino {
    config: OpenVinoConfig,
    bounds: Bounds,
    loaded: OnceLock<Loaded>,
    /// Held while the library is looked for.
    loading: Mutex<()>,
}

struct Loaded {
    core: Arc<Core>,
    library: Library,
}

impl OpenVino {
    /// One whose models take so many bytes of tensors at most, as far as they say.
    pub(in crate::nn) fn new(config: OpenVinoConfig, tensor_bytes: u64) -> OpenVino {
        let bounds = Bounds { operators: config.operators, tensor_bytes };
        OpenVino { config, bounds, loaded: OnceLock::new(), loading: Mutex::new(()) }
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
        let load = |path: &Path| Ok((path.to_owned(), native::load(path)?));
        let (path, version) =
            library::find(self.config.library.as_deref(), &self.config.search, load)?;
        let failed = |error| format!("OpenVINO (`{}`) does not start: {error}", path.display());
        let core = Core::new().map_err(failed)?;
        self.set_hint(&core, "CPU").map_err(|error| {
            let there = core.devices().unwrap_or_default();
            if there.iter().any(|device| device == "CPU") {
                failed(error)
            } else {
                without_cpu(&path)
            }
        })?;
        tracing::info!(path = %path.display(), version, "OpenVINO loaded");
        let library = Library { backend: self.name(), path: Some(path), version };
        Ok(self.loaded.get_or_init(|| Loaded { core: Arc::new(core), library }))
    }

    fn set_hint(&self, core: &Core, device: &str) -> Result<(), String> {
        let hint = match self.config.hint {
            Hint::Latency => "LATENCY",
            Hint::Throughput => "THROUGHPUT",
        };
        core.set_property(device, "PERFORMANCE_HINT", hint)?;
        if device == "CPU" && self.config.precision == Precision::F32 {
            core.set_property(device, "INFERENCE_PRECISION_HINT", "f32")?;
        }
        Ok(())
    }

    /// Reads a model whose frontend wants a file.
    fn read_file(&self, core: &Core, model: &[u8], suffix: &str) -> Result<Model, String> {
        paths::with(&self.config.links(), model, suffix, |path| core.read_file(path))
    }

    fn device(&self, target: ExecutionTarget) -> Result<String, Refusal> {
        let loaded = self.loaded().map_err(Refusal::runtime)?;
        let available = loaded.core.devices().map_err(Refusal::runtime)?;
        self.config.devices.of(target, &available).map_err(|refusal| match &loaded.library.path {
            Some(path) if available.is_empty() => Refusal { text: without_cpu(path), ..refusal },
            _ => refusal,
        })
    }
}

impl Backend for OpenVino {
    fn name(&self) -> &'static str {
        BackendName::OpenVino.name()
    }

    fn encodings(&self) -> &'static [Encoding] {
        ENCODINGS
    }

    fn open(&self) -> Result<&Library, String> {
        self.loaded().map(|loaded| &loaded.library)
    }

    fn devices(&self) -> Result<Vec<String>, String> {
        self.loaded()?.core.devices()
    }

    fn check(
        &self,
        encoding: GraphEncoding,
        target: ExecutionTarget,
        parts: &[&[u8]],
    ) -> Result<(), Refusal> {
        encodings::prove(encoding, parts, self.bounds)?;
        self.device(target).map(drop)
    }

    fn compile(&self, source: &Source, _cancel: &Cancel) -> Result<Compiled, Refusal> {
        let core = &self.loaded().map_err(Refusal::runtime)?.core;
        let parts: Vec<&[u8]> = source.parts().iter().map(|part| &**part).collect();
        let proven = encodings::prove(source.encoding(), &parts, self.bounds)?;
        let device = self.device(source.target())?;
        let failed = |error| Refusal::runtime(format!("OpenVINO refuses the model: {error}"));
        for part in devices::parts(&device).filter(|&part| part != "CPU") {
            self.set_hint(core, part.split('(').next().unwrap_or(part)).map_err(failed)?;
        }
        let model = match proven.suffix {
            None => core.read(&proven.model, proven.weights),
            Some(suffix) => self.read_file(core, &proven.model, suffix),
        };
        let compiled = model.and_then(|model| core.compile(&model, source, &device));
        graph(compiled.map_err(failed)?, &proven).map_err(failed)
    }

    fn settings(&self, target: ExecutionTarget) -> Option<String> {
        // What other devices' drivers depend on is not known here.
        if self.device(target).ok()? != "CPU" {
            return None;
        }
        let Loaded { core, library } = self.loaded().ok()?;
        // A state directory may move to another machine.
        let processor = ["FULL_DEVICE_NAME", "OPTIMIZATION_CAPABILITIES"]
            .map(|property| core.property("CPU", property).unwrap_or_default())
            .join(" ");
        let version = &library.version;
        let OpenVinoConfig { hint, precision, operators, .. } = &self.config;
        // Another build may prove models otherwise, and put other layers into them.
        let build = concat!(env!("CARGO_PKG_VERSION"), " ", env!("PROPLET_COMMIT"));
        Some(format!("{build} {version} {processor} {hint:?} {precision:?} {operators:?}"))
    }

    fn import(&self, source: &Source, compiled: Vec<u8>) -> Result<Compiled, Refusal> {
        let core = &self.loaded().map_err(Refusal::runtime)?.core;
        let parts: Vec<&[u8]> = source.parts().iter().map(|part| &**part).collect();
        let proven = encodings::prove(source.encoding(), &parts, self.bounds)?;
        let device = self.device(source.target())?;
        let failed =
            |error| Refusal::runtime(format!("OpenVINO refuses the compiled model: {error}"));
        let imported = compiled.len() as u64;
        let compiled = core.import(source, compiled, &device).map_err(failed)?;
        let mut graph = graph(compiled, &proven).map_err(failed)?;
        // These bytes are kept, too.
        graph.weight += imported;
        Ok(graph)
    }
}

/// What is said of a library without any device: its plugins are files beside it.
fn without_cpu(library: &Path) -> String {
    let plugin = match (cfg!(target_os = "macos"), cfg!(target_arch = "x86_64")) {
        (false, true) => "libopenvino_intel_cpu_plugin.so",
        (false, false) => "libopenvino_arm_cpu_plugin.so",
        (true, true) => "libopenvino_intel_cpu_plugin.dylib",
        (true, false) => "libopenvino_arm_cpu_plugin.dylib",
    };
    let folder = library.canonicalize().ok().and_then(|file| Some(file.parent()?.to_owned()));
    let beside = folder.unwrap_or_else(|| library.parent().unwrap_or(library).to_owned());
    format!(
        "OpenVINO at `{}` has no plugin for the CPU: `{}` is missing, or what it needs is",
        library.display(),
        beside.join(plugin).display()
    )
}

fn graph(compiled: native::CompiledModel, proven: &Proven<'_>) -> Result<Compiled, String> {
    let inputs: Vec<Port> = compiled.inputs()?.into_iter().map(port).collect();
    let outputs: Vec<Port> = compiled.outputs()?.into_iter().map(port).collect();
    Ok(Compiled {
        stateful: proven.stateful,
        weight: proven.weight,
        model: Box::new(OpenVinoModel::new(compiled, inputs.clone(), outputs.clone())),
        inputs,
        outputs,
    })
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
