//! A model that rten has loaded, and its requests.

use std::sync::Arc;

use ::rten::{Model as Loaded, NodeId, RunOptions, Value, ValueOrView};
use rten_tensor::Layout as _;
use wasmtime_wasi_nn::wit::TensorType;

use super::engine::Engine;
use super::sizes::Sizes;
use super::values::{self, Input, Kind};
use crate::cancel::Cancel;
use crate::nn::backends::{Model, Request};
use crate::nn::bytes::{Bytes, Output};
use crate::nn::refusal::{Halt, Refusal};
use crate::nn::tensors::Port;

/// A loaded model.
pub(super) struct RtenModel(Arc<LoadedModel>);

struct LoadedModel {
    engine: Arc<Engine>,
    loaded: Loaded,
    sizes: Sizes,
    inputs: Vec<(NodeId, Kind)>,
    outputs: Vec<Kind>,
}

impl RtenModel {
    /// Of these ports, as the file declares them.
    ///
    /// # Errors
    ///
    /// rten has read other ports.
    pub(super) fn new(
        engine: Arc<Engine>,
        loaded: Loaded,
        sizes: Sizes,
        inputs: &[Port],
        outputs: &[Port],
    ) -> Result<RtenModel, Refusal> {
        let (read, made) = (loaded.input_ids(), loaded.output_ids());
        let is = |(id, port): (&NodeId, &Port)| {
            loaded.node_info(*id).and_then(|node| node.name()) == Some(&*port.name)
        };
        if read.len() != inputs.len()
            || made.len() != outputs.len()
            || !read.iter().zip(inputs).all(is)
        {
            return Err(Refusal::runtime("rten reads other inputs and outputs than the file has"));
        }
        let inputs = read.iter().copied().zip(inputs.iter().map(Kind::of_port)).collect();
        let outputs = outputs.iter().map(Kind::of_port).collect();
        Ok(RtenModel(Arc::new(LoadedModel { engine, loaded, sizes, inputs, outputs })))
    }
}

impl Model for RtenModel {
    fn request(&self) -> Result<Box<dyn Request>, Refusal> {
        Ok(Box::new(RtenRequest {
            model: self.0.clone(),
            inputs: self.0.inputs.iter().map(|_| None).collect(),
            outputs: Vec::new(),
            proven: !self.0.sizes.are_open(),
        }))
    }
}

struct RtenRequest {
    model: Arc<LoadedModel>,
    /// Gone while an inference that was left behind has them.
    inputs: Vec<Option<Input>>,
    outputs: Vec<Arc<Value>>,
    /// An inference of inputs of these shapes is within the limit.
    proven: bool,
}

/// An output whose elements lie as wasi-nn has them.
struct Plain(Arc<Value>, Kind);

impl AsRef<[u8]> for Plain {
    fn as_ref(&self) -> &[u8] {
        values::plain(&self.0, self.1).unwrap_or_default()
    }
}

impl RtenRequest {
    /// Another shape may be too much for an open model.
    fn is_proven_for(&self, index: usize, shape: &[u32]) -> bool {
        let same = |input: &Input| {
            let dims = input.dims();
            dims.len() == shape.len() && dims.iter().zip(shape).all(|(a, b)| *a == *b as usize)
        };
        !self.model.sizes.are_open()
            || self.inputs.get(index).and_then(Option::as_ref).is_some_and(same)
    }
}

impl Request for RtenRequest {
    fn write(
        &mut self,
        index: usize,
        _ty: TensorType,
        shape: &[u32],
        data: &[u8],
    ) -> Result<(), Refusal> {
        self.proven &= self.is_proven_for(index, shape);
        let slot = self.inputs.get_mut(index).ok_or_else(gone)?;
        values::write(slot, self.model.inputs[index].1, shape, data)
            .map_err(|error| Refusal::argument(format!("rten refuses input {index}: {error}")))
    }

    fn give(
        &mut self,
        index: usize,
        ty: TensorType,
        shape: &[u32],
        data: Bytes,
    ) -> Result<(), Refusal> {
        match Input::given(self.model.inputs[index].1, shape, data) {
            Ok(given) => {
                self.proven &= self.is_proven_for(index, shape);
                *self.inputs.get_mut(index).ok_or_else(gone)? = Some(given);
                Ok(())
            }
            Err(data) => self.write(index, ty, shape, data.as_ref()),
        }
    }

    fn run(&mut self, cancel: &Cancel) -> Result<(), Halt> {
        self.outputs.clear();
        if !self.proven {
            let dim = |input: usize, at: usize| {
                let input = self.inputs.get(input)?.as_ref()?;
                input.dims().get(at).map(|&dim| dim as u64)
            };
            self.model.sizes.check("the inference", dim)?;
            self.proven = true;
        }
        let (model, inputs) = (self.model.clone(), std::mem::take(&mut self.inputs));
        let (inputs, outputs) = self.model.engine.run(cancel, move |pool| {
            let options = RunOptions::default().with_thread_pool(Some(pool.clone()));
            let set = model.inputs.iter().zip(&inputs);
            let given: Result<Vec<_>, String> = set
                .filter_map(|((id, _), input)| Some((id, input.as_ref()?)))
                .map(|(id, input)| Ok((*id, ValueOrView::from(input.view()?))))
                .collect();
            let outputs = given.and_then(|given| {
                let outputs = model.loaded.output_ids();
                model.loaded.run(given, outputs, Some(options)).map_err(|error| error.to_string())
            });
            (inputs, outputs)
        })?;
        self.inputs = inputs;
        let outputs = outputs
            .map_err(|error| Refusal::runtime(format!("rten's inference failed: {error}")))?;
        self.outputs = outputs.into_iter().map(Arc::new).collect();
        Ok(())
    }

    fn output_shape(&mut self, index: usize) -> Result<Vec<u32>, Refusal> {
        let dims = self.outputs.get(index).ok_or_else(gone)?.shape();
        // What is larger than that is larger than the limit.
        Ok(dims.iter().map(|&dim| u32::try_from(dim).unwrap_or(u32::MAX)).collect())
    }

    fn read(&mut self, index: usize, show: &mut dyn FnMut(&[u8])) -> Result<(), Refusal> {
        let value = self.outputs.get(index).ok_or_else(gone)?;
        values::show(value, self.model.outputs[index], show)
            .map_err(|error| Refusal::runtime(format!("output {index} can't be shown: {error}")))
    }

    fn take(&mut self, index: usize) -> Result<Output, Refusal> {
        let (value, kind) = (self.outputs.get(index).ok_or_else(gone)?, self.model.outputs[index]);
        if values::plain(value, kind).is_some() {
            return Ok(Arc::new(Plain(value.clone(), kind)));
        }
        let mut copied = None;
        self.read(index, &mut |bytes| copied = Some(Bytes::copy_of(bytes)))?;
        Ok(Arc::new(copied.ok_or_else(gone)?))
    }
}

fn gone() -> Refusal {
    Refusal::runtime("an inference of this execution context failed, so it can't be used any more")
}
