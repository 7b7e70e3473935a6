//! The files that tasks use, and the worker's settings for them.

use crate::assets::assets;
use crate::report::Target;
use anyhow::Context as _;
use proplet::config::{Config, Environment, Isolation};
use proplet::task::{Binary, ModuleSource, TaskId, TaskRequest};
use std::fmt::Write as _;
use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

/// See the module's documentation.
pub struct Place {
    /// OpenVINO's libraries.
    pub libs: PathBuf,
    /// MobileNet's folder, which also holds its input.
    pub mobilenet: PathBuf,
    /// EfficientNet's, with an input.
    pub efficientnet: PathBuf,
    /// ResNet-18's as TorchScript, with an input.
    #[cfg(feature = "pytorch")]
    pub resnet: PathBuf,
    /// Silero's, as TorchScript.
    #[cfg(feature = "pytorch")]
    pub voice: PathBuf,
    /// Everything else, gone with this.
    pub scratch: tempfile::TempDir,
}

impl Place {
    pub fn new() -> anyhow::Result<Place> {
        let target = assets();
        let canonical = |name: &str| target.join(name).canonicalize().context(name.to_owned());
        Ok(Place {
            libs: canonical("openvino/libs")?,
            mobilenet: canonical("fixtures/mobilenet")?,
            efficientnet: canonical("fixtures/real/efficientnet")?,
            #[cfg(feature = "pytorch")]
            resnet: canonical("fixtures/resnet")?,
            #[cfg(feature = "pytorch")]
            voice: canonical("fixtures/real/voice")?,
            scratch: tempfile::tempdir()?,
        })
    }

    /// What a worker here would find in its environment, beside its connection.
    pub fn environment(&self, settings: &[(&str, &str)]) -> Environment {
        let roots: &[&Path] = &[
            &self.mobilenet,
            &self.efficientnet,
            #[cfg(feature = "pytorch")]
            &self.resnet,
            #[cfg(feature = "pytorch")]
            &self.voice,
            self.scratch.path(),
        ];
        let roots: Vec<_> = roots.iter().map(|path| path.display().to_string()).collect();
        let roots = roots.join(":");
        let mut env = Environment::new(self.scratch.path())
            .with_executable(env!("CARGO_BIN_EXE_proplet"))
            .with_cores(std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN))
            .with("PROPLET_DOMAIN_ID", "bench")
            .with("PROPLET_CHANNEL_ID", "bench")
            .with("PROPLET_CLIENT_ID", "bench-worker")
            .with("PROPLET_CLIENT_KEY", "bench")
            .with("PROPLET_OPENVINO_LIB", &self.libs)
            .with("PROPLET_STATE_DIR", self.scratch.path().join("state"))
            .with("PROPLET_METRICS_ENABLED", "false")
            // What is measured is the worker, not its patience with the manager.
            .with("PROPLET_RESULT_HOLD", "0")
            .with("PROPLET_RESULT_REPEAT", "0")
            .with("PROPLET_DIRS", roots);
        // Else as by default.
        if let Some(isolation) = std::env::var_os("PROPLET_BENCH_ISOLATION") {
            env = env.with("PROPLET_ISOLATION", isolation);
        }
        for (name, value) in settings {
            env = env.with(&format!("PROPLET_{}", name.replace('-', "_").to_uppercase()), *value);
        }
        env
    }

    pub fn config(&self, settings: &[(&str, &str)]) -> anyhow::Result<Config> {
        Ok(Config::from_environment(&self.environment(settings))?)
    }

    /// What is held to, where guests and models run in a process of their own, and
    /// where they run in the worker's.
    pub fn at_most(&self, apart: f64, here: f64) -> anyhow::Result<Target> {
        Ok(Target::AtMost(match self.config(&[])?.isolation {
            Isolation::Process => apart,
            Isolation::None => here,
        }))
    }

    /// The guide's classification task: the guest reads the model itself.
    pub fn by_bytes(&self) -> anyhow::Result<TaskRequest> {
        Ok(task(guest("classification")?, &["-S", "nn", &self.fixture()]))
    }

    /// The same with the model that the host has loaded.
    pub fn by_name(&self) -> anyhow::Result<TaskRequest> {
        let graph = format!("nn,nn-graph=openvino::{}", self.mobilenet.display());
        Ok(task(guest("by-name")?, &["-S", &graph, &self.fixture()]))
    }

    /// EfficientNet as ONNX that the host has loaded, and a tensor in place of a photo.
    pub fn onnx_by_name(&self) -> anyhow::Result<TaskRequest> {
        let folder = self.efficientnet.display();
        let graph = format!("nn,nn-graph=onnx::{folder}");
        let mut task = task(guest("classify")?, &["-S", &graph, &format!("--dir={folder}::model")]);
        task.env = [("GRAPH".to_owned(), "efficientnet".to_owned())].into();
        task.inputs = vec!["model/input0.bin".to_owned()];
        Ok(task)
    }

    /// ResNet-18 that the host has loaded, in a component.
    #[cfg(feature = "pytorch")]
    pub fn resnet_by_name(&self) -> anyhow::Result<TaskRequest> {
        let (folder, scratch) = (self.resnet.display(), self.scratch.path().join("resnet"));
        fs::create_dir_all(&scratch)?;
        // Where the guest looks for its input.
        fs::copy(self.resnet.join("kitten.tensor"), scratch.join("tensor.bgr"))?;
        let graph = format!("nn,nn-graph=pytorch::{folder}");
        let dir = format!("--dir={}::fixture", scratch.display());
        let mut task = task(guest("classification-component")?, &["-S", &graph, &dir]);
        task.env = [("INPUT".to_owned(), "x".to_owned())].into();
        task.inputs = vec!["name".to_owned(), "resnet".to_owned()];
        Ok(task)
    }

    /// Silero that the host has loaded, asked about 32 ms.
    #[cfg(feature = "pytorch")]
    pub fn silero_by_name(&self) -> anyhow::Result<TaskRequest> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/guests/wat/nn-silero.wat");
        let graph = format!("nn,nn-graph=pytorch::{}", self.voice.display());
        let mut task = task(wat::parse_file(path)?, &["-S", &graph]);
        task.inputs = vec!["voice".to_owned()];
        Ok(task)
    }

    /// A task without work, whose module has this many bytes, most of them code.
    pub fn empty(bytes: usize) -> anyhow::Result<TaskRequest> {
        // A function of this many additions takes some 250 bytes.
        const ADDITIONS: usize = 62;
        const FUNCTION: usize = 250;
        let mut text = String::from("(module (memory (export \"memory\") 1)\n");
        for n in 0..bytes / FUNCTION {
            let add = " i32.const 3 i32.add".repeat(ADDITIONS);
            writeln!(text, "(func (param i32) (result i32) i32.const {n}{add})")?;
        }
        text.push_str("(func (export \"_start\")))");
        let mut module = wat::parse_str(&text)?;
        pad(&mut module, bytes, 0)?;
        Ok(task(module, &[]))
    }

    /// The same by name in a component.
    pub fn component_by_name(&self) -> anyhow::Result<TaskRequest> {
        let graph = format!("nn,nn-graph=openvino::{}", self.mobilenet.display());
        let mut task = task(guest("classification-component")?, &["-S", &graph, &self.fixture()]);
        task.inputs = ["name", "mobilenet"].map(str::to_owned).to_vec();
        Ok(task)
    }

    /// A command component that does nothing.
    pub fn empty_component() -> anyhow::Result<TaskRequest> {
        const TEXT: &str = r#"(component
            (core module $Main (func (export "run") (result i32) i32.const 0))
            (core instance $main (instantiate $Main))
            (func $run (result (result)) (canon lift (core func $main "run")))
            (instance $command (export "run" (func $run)))
            (export "wasi:cli/run@0.2.0" (instance $command)))"#;
        Ok(task(wat::parse_str(TEXT)?, &[]))
    }

    pub fn fixture(&self) -> String {
        format!("--dir={}::fixture", self.mobilenet.display())
    }
}

/// Makes another module that does the same, by a custom section.
pub fn pad(module: &mut Vec<u8>, to: usize, number: u8) -> anyhow::Result<()> {
    // The section's kind, its size in three bytes, and the length of its name.
    const OVERHEAD: usize = 5;
    let size = to.saturating_sub(module.len() + OVERHEAD) + 2;
    anyhow::ensure!(size < 1 << 21, "the padding is too long");
    let seven = |shift: usize| (size >> shift) as u8 & 0x7f;
    module.extend([0, seven(0) | 0x80, seven(7) | 0x80, seven(14), 0]);
    module.resize(module.len() + size - 1, number);
    Ok(())
}

/// A guest of `fixtures/guests/bin`.
pub fn guest(name: &str) -> anyhow::Result<Vec<u8>> {
    let path = fixtures().join(format!("guests/bin/{name}.wasm"));
    fs::read(&path).with_context(|| path.display().to_string())
}

/// A guest of `fixtures/guests/wat`.
pub fn wat(name: &str) -> anyhow::Result<Vec<u8>> {
    Ok(wat::parse_file(fixtures().join(format!("guests/wat/{name}.wat")))?)
}

pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

pub fn task(module: Vec<u8>, cli_args: &[&str]) -> TaskRequest {
    TaskRequest {
        name: "bench".into(),
        module: Some(ModuleSource::Bytes(Binary::new(module))),
        cli_args: cli_args.iter().map(|arg| (*arg).to_owned()).collect(),
        ..TaskRequest::new(TaskId::new("task-0000000000").expect("a short id"))
    }
}
