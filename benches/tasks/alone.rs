//! OpenVINO alone: the same model, library and precision, by its own bindings; and rten alone.

use crate::place::Place;
use anyhow::Context as _;
use openvino::{CompiledModel, Core, DeviceType, InferRequest, PropertyKey, RwPropertyKey};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A compiled model with its requests.
pub struct Alone {
    requests: Vec<InferRequest>,
    _model: CompiledModel,
}

/// What to compute in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// The model's own, as the worker has it.
    F32,
    /// What OpenVINO finds best for this processor.
    Default,
}

impl Alone {
    /// MobileNet; `mode` is `LATENCY` or `THROUGHPUT`.
    pub fn new(place: &Place, mode: &str, precision: Precision) -> anyhow::Result<Alone> {
        let file = |name: &str| place.mobilenet.join(name);
        let files = [file("model.xml"), file("model.bin")];
        Alone::of(place, &files, &file("tensor.bgr"), mode, precision)
    }

    /// EfficientNet as ONNX.
    pub fn onnx(place: &Place) -> anyhow::Result<Alone> {
        let file = |name: &str| place.efficientnet.join(name);
        let files = [file("model.onnx"), PathBuf::new()];
        Alone::of(place, &files, &file("input0.bin"), "LATENCY", Precision::F32)
    }

    fn of(
        place: &Place,
        files: &[PathBuf; 2],
        input: &Path,
        mode: &str,
        precision: Precision,
    ) -> anyhow::Result<Alone> {
        let library = fs::read_dir(&place.libs)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.to_string_lossy().contains("libopenvino_c."))
            .context("there is no libopenvino_c")?;
        openvino_sys::load_from(library).map_err(anyhow::Error::msg)?;
        let mut core = Core::new()?;
        core.set_property(&DeviceType::CPU, &RwPropertyKey::HintPerformanceMode, mode)?;
        if precision == Precision::F32 {
            core.set_property(&DeviceType::CPU, &RwPropertyKey::HintInferencePrecision, "f32")?;
        }
        let [model, weights] = files.each_ref().map(|file| file.to_string_lossy());
        let model = core.read_model_from_file(&model, &weights)?;
        let mut model = core.compile_model(&model, DeviceType::CPU)?;
        let wanted = model.get_property(&PropertyKey::OptimalNumberOfInferRequests)?;
        let wanted: usize = wanted.parse().context("the number of requests")?;
        let input = fs::read(input)?;
        let mut requests = Vec::new();
        for _ in 0..wanted {
            let mut request = model.create_infer_request()?;
            request.get_input_tensor()?.get_raw_data_mut()?.copy_from_slice(&input);
            request.infer()?;
            requests.push(request);
        }
        Ok(Alone { requests, _model: model })
    }

    /// One synchronous inference.
    pub fn infer(&mut self) -> anyhow::Result<Duration> {
        let began = Instant::now();
        self.requests[0].infer()?;
        Ok(began.elapsed())
    }

    /// Inferences a second, with as many in flight as OpenVINO advises.
    pub fn throughput(&mut self, lasting: Duration) -> anyhow::Result<f64> {
        const FOREVER: i64 = 60_000;
        let began = Instant::now();
        let mut done = 0u32;
        for request in &mut self.requests {
            request.infer_async()?;
        }
        while began.elapsed() < lasting {
            for request in &mut self.requests {
                request.wait(FOREVER)?;
                request.infer_async()?;
                done += 1;
            }
        }
        let took = began.elapsed();
        for request in &mut self.requests {
            request.wait(FOREVER)?;
        }
        Ok(f64::from(done) / took.as_secs_f64())
    }
}

/// rten alone, with a thread for each core, as the worker has it.
#[cfg(feature = "onnx")]
pub struct AloneRten {
    model: rten::Model,
    input: rten_tensor::NdTensor<f32, 4>,
    pool: std::sync::Arc<rten::ThreadPool>,
}

#[cfg(feature = "onnx")]
impl AloneRten {
    pub fn new(place: &Place) -> anyhow::Result<AloneRten> {
        let model = fs::read(place.efficientnet.join("model.onnx"))?;
        let mut options = rten::ModelOptions::with_all_ops();
        let model = options.prepack_weights(true).load(model);
        let model = model.map_err(|error| anyhow::anyhow!("{error}"))?;
        let bytes = fs::read(place.efficientnet.join("input0.bin"))?;
        let number = |bytes: &[u8]| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let numbers: Vec<f32> = bytes.chunks_exact(4).map(number).collect();
        let input = rten_tensor::NdTensor::from_data([1, 3, 224, 224], numbers);
        let threads = std::thread::available_parallelism()?.get();
        let pool = std::sync::Arc::new(rten::ThreadPool::with_num_threads(threads));
        Ok(AloneRten { model, input, pool })
    }

    /// One inference.
    pub fn infer(&mut self) -> anyhow::Result<Duration> {
        use rten_tensor::AsView as _;
        let options = rten::RunOptions::default().with_thread_pool(Some(self.pool.clone()));
        let (inputs, outputs) = (self.model.input_ids(), self.model.output_ids());
        let given = vec![(inputs[0], self.input.view().into())];
        let began = Instant::now();
        let outputs = self.model.run(given, outputs, Some(options));
        let took = began.elapsed();
        outputs.map_err(|error| anyhow::anyhow!("{error}"))?;
        Ok(took)
    }
}

/// libtorch alone, in a program of its own: `torch.cpp`.
#[cfg(feature = "pytorch")]
pub struct AloneTorch {
    program: std::process::Child,
    lines: std::io::Lines<std::io::BufReader<std::process::ChildStdout>>,
}

#[cfg(feature = "pytorch")]
impl AloneTorch {
    /// Of a model, for an `image` or a `sound`; with a thread for each core, as the
    /// worker has it.
    pub fn new(place: &Place, model: &Path, input: &str) -> anyhow::Result<AloneTorch> {
        use std::io::{BufRead as _, BufReader};
        use std::process::{Command, Stdio};
        let program = place.scratch.path().join("torch-alone");
        if !program.exists() {
            let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/tasks/torch.cpp");
            let mut command = Command::new("c++");
            command.args(["-std=c++17", "-O2"]).arg(source).arg("-o").arg(&program);
            if let Some(root) = std::env::var_os("LIBTORCH").map(PathBuf::from) {
                let lib = root.join("lib");
                command.arg("-I").arg(root.join("include"));
                command.arg("-I").arg(root.join("include/torch/csrc/api/include"));
                command.arg("-L").arg(&lib).arg(format!("-Wl,-rpath,{}", lib.display()));
            } else {
                command.args(["-I", "/usr/include/torch/csrc/api/include"]);
            }
            let built = command.args(["-ltorch", "-ltorch_cpu", "-lc10"]).status()?;
            anyhow::ensure!(built.success(), "torch.cpp was not built: is libtorch-dev installed?");
        }
        let threads = std::thread::available_parallelism()?.to_string();
        let mut program = Command::new(program)
            .arg(model)
            .args([input, &threads])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = program.stdout.take().context("its output")?;
        Ok(AloneTorch { program, lines: BufReader::new(output).lines() })
    }

    /// One inference.
    pub fn infer(&mut self) -> anyhow::Result<Duration> {
        use std::io::Write as _;
        self.program.stdin.as_mut().context("its input")?.write_all(b"\n")?;
        let nanoseconds: u64 = self.lines.next().context("it has ended")??.parse()?;
        Ok(Duration::from_nanos(nanoseconds))
    }
}

#[cfg(feature = "pytorch")]
impl Drop for AloneTorch {
    fn drop(&mut self) {
        // It ends with its input.
        drop(self.program.stdin.take());
        self.program.wait().ok();
    }
}
