//! A model that OpenVINO has compiled, and its inference requests.

use std::sync::Arc;

use super::native::{self, InferRequest};
use crate::cancel::Cancel;
use crate::nn::backends::{Model, Request};
use crate::nn::refusal::{Errno, Halt, Refusal};
use crate::nn::tensors::{Element, Port};

/// A compiled model.
pub(super) struct OpenVinoModel {
    compiled: native::Compiled,
    inputs: Arc<[Port]>,
    outputs: Arc<[Port]>,
}

impl OpenVinoModel {
    /// Of these inputs and outputs.
    pub(super) fn new(
        compiled: native::Compiled,
        inputs: Arc<[Port]>,
        outputs: Arc<[Port]>,
    ) -> OpenVinoModel {
        OpenVinoModel { compiled, inputs, outputs }
    }
}

impl Model for OpenVinoModel {
    fn request(&self) -> Result<Box<dyn Request>, Refusal> {
        let request = self.compiled.request().map_err(|error| {
            Refusal::runtime(format!("OpenVINO can't make an inference request: {error}"))
        })?;
        let (inputs, outputs) = (self.inputs.clone(), self.outputs.clone());
        Ok(Box::new(OpenVinoRequest { request, inputs, outputs }))
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
    inputs: Arc<[Port]>,
    outputs: Arc<[Port]>,
}

impl OpenVinoRequest {
    /// Sets the outputs to zero: an operator may leave a part of its output as
    /// it was, which was another task's or anything that lay in the heap. An
    /// output whose size an inference decides is written as far as it goes.
    fn clear_outputs(&mut self) -> Result<(), String> {
        let mut inputs = Vec::with_capacity(self.inputs.len());
        for index in 0..self.inputs.len() {
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
        // Operators take it for granted that a truth value is 0 or 1.
        if self.inputs[index].element == Element::Other("boolean", Some(8)) {
            bytes.iter_mut().for_each(|byte| *byte = u8::from(*byte != 0));
        }
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

    fn output_shape(&mut self, index: usize) -> Result<Vec<u32>, Refusal> {
        let failed = |error| Refusal::runtime(format!("OpenVINO has no output {index}: {error}"));
        self.request.output(index).map_err(failed)?.shape().map_err(failed)
    }

    fn read(&mut self, index: usize, show: &mut dyn FnMut(&[u8])) -> Result<(), Refusal> {
        // Strings are pointers into this process.
        if let Element::Other(name, None) = self.outputs[index].element {
            let text = format!("output {index} is of the type {name}, which has no bytes");
            return Err(Refusal::new(Errno::UnsupportedOperation, text));
        }
        let failed = |error| Refusal::runtime(format!("OpenVINO has no output {index}: {error}"));
        let tensor = self.request.output(index).map_err(failed)?;
        show(tensor.bytes().map_err(failed)?);
        Ok(())
    }
}
