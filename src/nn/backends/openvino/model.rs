//! A model that OpenVINO has compiled, and its inference requests.

use std::ops::Range;
use std::sync::{Arc, Weak};

use super::native::{self, Given, InferRequest, Taken};
use crate::cancel::Cancel;
use crate::nn::backends::{Model, Request};
use crate::nn::bytes::{Bytes, Kept, Output};
use crate::nn::refusal::{Errno, Halt, Refusal};
use crate::nn::tensors::{Element, Port};
use wasmtime_wasi_nn::wit::TensorType;

/// Truth values, a byte each.
const BOOLEAN: Element = Element::Other("boolean", Some(8));

/// Bytes of the widest element.
const WIDEST: usize = 8;

/// A compiled model.
pub(super) struct OpenVinoModel {
    compiled: native::CompiledModel,
    ports: Arc<Ports>,
}

struct Ports {
    inputs: Vec<Port>,
    outputs: Vec<Port>,
}

impl OpenVinoModel {
    /// Of these inputs and outputs.
    pub(super) fn new(
        compiled: native::CompiledModel,
        inputs: Vec<Port>,
        outputs: Vec<Port>,
    ) -> OpenVinoModel {
        OpenVinoModel { compiled, ports: Arc::new(Ports { inputs, outputs }) }
    }
}

impl Model for OpenVinoModel {
    fn request(&self) -> Result<Box<dyn Request>, Refusal> {
        let request = self.compiled.request().map_err(|error| {
            Refusal::runtime(format!("OpenVINO can't make an inference request: {error}"))
        })?;
        let taken = self.ports.outputs.iter().map(|_| Weak::new()).collect();
        Ok(Box::new(OpenVinoRequest { request, ports: self.ports.clone(), taken }))
    }

    fn input_named(&self, name: &str) -> Option<usize> {
        let known = self.compiled.input_named(name)?;
        self.ports.inputs.iter().position(|port| !known.is_empty() && port.name == known)
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
    ports: Arc<Ports>,
    /// Outputs that a guest may still have.
    taken: Vec<Weak<Taken>>,
}

impl OpenVinoRequest {
    /// Sets the outputs to zero: an operator may leave a part of its output as
    /// it was, which was another task's or anything that lay in the heap. An
    /// output whose size an inference decides is written as far as it goes. One
    /// that a guest still has stays as it is, and the request gets another.
    fn clear_outputs(&mut self) -> Result<(), String> {
        let inputs = self.memory_of_inputs()?;
        for (index, port) in self.ports.outputs.iter().enumerate() {
            if !port.has_bytes() {
                continue;
            }
            if self.taken[index].strong_count() > 0 {
                self.request.renew(index, port.element)?;
                self.taken[index] = Weak::new();
            }
            let mut tensor = self.request.output(index)?;
            let bytes = tensor.bytes_mut()?;
            // A model may hand an input on in its place.
            if inputs.iter().all(|input| apart(input, &bytes.as_ptr_range())) {
                bytes.fill(0);
            }
        }
        Ok(())
    }

    fn memory_of_inputs(&mut self) -> Result<Vec<Range<*const u8>>, String> {
        let inputs = 0..self.ports.inputs.len();
        inputs.map(|index| Ok(self.request.input(index)?.bytes()?.as_ptr_range())).collect()
    }

    /// Whether an output is in memory of its own: neither an input's, which the
    /// next task writes to, nor another output's.
    fn is_alone(&mut self, index: usize) -> Result<bool, String> {
        let mut others = self.memory_of_inputs()?;
        for (other, port) in self.ports.outputs.iter().enumerate() {
            if other != index && port.has_bytes() {
                others.push(self.request.output(other)?.bytes()?.as_ptr_range());
            }
        }
        let own = self.request.output(index)?.bytes()?.as_ptr_range();
        Ok(others.iter().all(|other| apart(other, &own)))
    }

    /// The port of an output that has bytes.
    fn output(&self, index: usize) -> Result<&Port, Refusal> {
        let port = &self.ports.outputs[index];
        // Strings are pointers into this process.
        if let Element::Other(name, None) = port.element {
            let text = format!("output {index} is of the type {name}, which has no bytes");
            return Err(Refusal::new(Errno::UnsupportedOperation, text));
        }
        Ok(port)
    }
}

/// Says that OpenVINO does not take what was proven for this input.
fn refused(index: usize) -> impl Fn(String) -> Refusal + Copy {
    move |error| Refusal::runtime(format!("OpenVINO refuses input {index}: {error}"))
}

/// Whether no byte is in both.
fn apart(a: &Range<*const u8>, b: &Range<*const u8>) -> bool {
    a.end <= b.start || b.end <= a.start
}

impl Request for OpenVinoRequest {
    fn write(
        &mut self,
        index: usize,
        ty: TensorType,
        shape: &[u32],
        data: &[u8],
    ) -> Result<(), Refusal> {
        let failed = refused(index);
        // What others have too is not written to.
        if self.request.is_kept(index) {
            return self.give(index, ty, shape, Bytes::copy_of(data));
        }
        let given = self.request.is_given(index);
        let mut tensor = self.request.input(index).map_err(failed)?;
        // An open shape keeps that of the last tensor.
        if tensor.shape().map_err(failed)? != shape {
            // What was given is as large as it is.
            if given {
                drop(tensor);
                return self.give(index, ty, shape, Bytes::copy_of(data));
            }
            tensor.set_shape(shape).map_err(failed)?;
        }
        let bytes = tensor.bytes_mut().map_err(failed)?;
        if bytes.len() != data.len() {
            let sizes = format!("its tensor has {} bytes, not {}", bytes.len(), data.len());
            return Err(failed(sizes));
        }
        bytes.copy_from_slice(data);
        // Operators take it for granted that a truth value is 0 or 1.
        if self.ports.inputs[index].element == BOOLEAN {
            bytes.iter_mut().for_each(|byte| *byte = u8::from(*byte != 0));
        }
        Ok(())
    }

    fn give(
        &mut self,
        index: usize,
        ty: TensorType,
        shape: &[u32],
        data: Bytes,
    ) -> Result<(), Refusal> {
        let element = self.ports.inputs[index].element;
        if element == BOOLEAN {
            return self.write(index, ty, shape, data.as_ref());
        }
        self.request.give(index, element, shape, Given::Own(data)).map_err(refused(index))
    }

    fn share(
        &mut self,
        index: usize,
        ty: TensorType,
        shape: &[u32],
        data: Kept,
    ) -> Result<(), Refusal> {
        let element = self.ports.inputs[index].element;
        let is_aligned = data.as_ref().as_ptr().addr().is_multiple_of(WIDEST);
        if element == BOOLEAN || !is_aligned {
            return self.write(index, ty, shape, data.as_ref());
        }
        let failed = refused(index);
        // The last task's, most often.
        if self.request.has(index, &data)
            && self.request.input(index).and_then(|tensor| tensor.shape()).map_err(failed)? == shape
        {
            return Ok(());
        }
        self.request.give(index, element, shape, Given::Kept(data)).map_err(failed)
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
        self.output(index)?;
        let failed = |error| Refusal::runtime(format!("OpenVINO has no output {index}: {error}"));
        let tensor = self.request.output(index).map_err(failed)?;
        show(tensor.bytes().map_err(failed)?);
        Ok(())
    }

    fn take(&mut self, index: usize) -> Result<Output, Refusal> {
        self.output(index)?;
        if let Some(taken) = self.taken[index].upgrade() {
            return Ok(taken);
        }
        let failed = |error| Refusal::runtime(format!("OpenVINO has no output {index}: {error}"));
        if !self.is_alone(index).map_err(failed)? {
            let tensor = self.request.output(index).map_err(failed)?;
            return Ok(Arc::new(Bytes::copy_of(tensor.bytes().map_err(failed)?)));
        }
        let taken = Arc::new(self.request.take(index).map_err(failed)?);
        self.taken[index] = Arc::downgrade(&taken);
        Ok(taken)
    }
}

#[cfg(test)]
mod tests;
