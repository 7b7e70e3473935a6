//! A model that libtorch has loaded, and its requests.

use std::sync::Arc;

use super::lanes::Lanes;
use super::native::{Context, Loaded, ShimFailure, refusal};
use crate::cancel::Cancel;
use crate::nn::backends::{Model, Request};
use crate::nn::bytes::{Bytes, Output};
use crate::nn::refusal::{Errno, Halt, Refusal};
use crate::nn::tensors::{Dim, Element, Port};
use wasmtime_wasi_nn::wit::TensorType;

/// A loaded model.
pub(super) struct TorchModel {
    loaded: Loaded,
    lanes: Arc<Lanes>,
    /// Which arguments may be left out.
    optional: Vec<bool>,
    /// Bytes that the tensors of a context may take.
    memory: u64,
}

impl TorchModel {
    pub(super) fn new(
        loaded: Loaded,
        lanes: Arc<Lanes>,
        optional: Vec<bool>,
        memory: u64,
    ) -> TorchModel {
        TorchModel { loaded, lanes, optional, memory }
    }
}

impl Model for TorchModel {
    fn request(&self) -> Result<Box<dyn Request>, Refusal> {
        let context = self.loaded.context(self.memory);
        let context =
            context.map_err(|failed| refusal(failed, "libtorch can't copy the model's state"))?;
        Ok(Box::new(TorchRequest { context: Some(context), lanes: self.lanes.clone() }))
    }

    // As Wasmtime's own backend has it, whatever the method's author called it.
    fn input_named(&self, name: &str) -> Option<usize> {
        (self.optional.len() == 1 && name == "input").then_some(0)
    }

    fn is_optional(&self, input: usize) -> bool {
        self.optional.get(input).copied().unwrap_or(false)
    }
}

struct TorchRequest {
    /// Gone when a run has not given it back.
    context: Option<Context>,
    lanes: Arc<Lanes>,
}

impl TorchRequest {
    fn context(&mut self) -> Result<&mut Context, Refusal> {
        self.context.as_mut().ok_or_else(gone)
    }
}

impl Request for TorchRequest {
    fn write(
        &mut self,
        index: usize,
        ty: TensorType,
        shape: &[u32],
        data: &[u8],
    ) -> Result<(), Refusal> {
        let written = self.context()?.write(index, ty, shape, data);
        written.map_err(|(_, text)| {
            Refusal::argument(format!("libtorch refuses input {index}: {text}"))
        })
    }

    fn give(
        &mut self,
        index: usize,
        ty: TensorType,
        shape: &[u32],
        data: Bytes,
    ) -> Result<(), Refusal> {
        let given = self.context()?.give(index, ty, shape, data);
        given.map_err(|(_, text)| {
            Refusal::argument(format!("libtorch refuses input {index}: {text}"))
        })
    }

    fn run(&mut self, cancel: &Cancel) -> Result<(), Halt> {
        let mut context = self.context.take().ok_or_else(gone)?;
        let (context, ran) = self.lanes.run(cancel, move |flag| {
            let ran = context.run(flag);
            (context, ran)
        })?;
        self.context = Some(context);
        ran.map_err(|failed| match (failed.0, cancel.reason()) {
            (ShimFailure::Cancelled, Some(reason)) => Halt::Cancelled(reason),
            _ => refusal(failed, "libtorch's inference failed").into(),
        })
    }

    fn outputs(&mut self) -> Option<Vec<Port>> {
        let context = self.context.as_ref()?;
        let port = |index| {
            let output = context.output(index);
            let dim = |&dim: &i64| {
                let dim = u64::try_from(dim).unwrap_or(0);
                Dim { min: dim, max: Some(dim) }
            };
            let shape = Some(output.shape.iter().map(dim).collect());
            Port { name: output.name, element: output.element, shape }
        };
        Some((0..context.outputs()).map(port).collect())
    }

    fn output_shape(&mut self, index: usize) -> Result<Vec<u32>, Refusal> {
        let output = self.context()?.output(index);
        let dim = |&dim: &i64| {
            u32::try_from(dim)
                .map_err(|_| Refusal::too_large(format!("output {index} has a dimension of {dim}")))
        };
        output.shape.iter().map(dim).collect()
    }

    fn read(&mut self, index: usize, show: &mut dyn FnMut(&[u8])) -> Result<(), Refusal> {
        let output = self.context()?.output(index);
        if let Element::Other(name, bits) = output.element
            && bits != Some(8)
        {
            let text = format!("output {index} is {name}, a type that wasi-nn has no name for");
            return Err(Refusal::new(Errno::UnsupportedOperation, text));
        }
        show(output.data);
        Ok(())
    }

    fn take(&mut self, index: usize) -> Result<Output, Refusal> {
        let taken = self.context()?.take(index);
        let taken = taken.map_err(|failed| refusal(failed, "libtorch keeps its output"))?;
        Ok(Arc::new(taken))
    }
}

fn gone() -> Refusal {
    Refusal::runtime(
        "an inference of this execution context was left, so it can't be used any more",
    )
}
