//! OpenVINO alone: the same model, library and precision, by its own bindings.

use crate::place::Place;
use anyhow::Context as _;
use openvino::{CompiledModel, Core, DeviceType, InferRequest, PropertyKey, RwPropertyKey};
use std::fs;
use std::time::{Duration, Instant};

/// A compiled MobileNet with its requests.
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
    /// `mode` is `LATENCY` or `THROUGHPUT`.
    pub fn new(place: &Place, mode: &str, precision: Precision) -> anyhow::Result<Alone> {
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
        let file = |name: &str| place.mobilenet.join(name).to_string_lossy().into_owned();
        let model = core.read_model_from_file(&file("model.xml"), &file("model.bin"))?;
        let mut model = core.compile_model(&model, DeviceType::CPU)?;
        let wanted = model.get_property(&PropertyKey::OptimalNumberOfInferRequests)?;
        let wanted: usize = wanted.parse().context("the number of requests")?;
        let input = fs::read(place.mobilenet.join("tensor.bgr"))?;
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
