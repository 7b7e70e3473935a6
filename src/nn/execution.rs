//! One execution context of a task: what it has been given, whether its
//! outputs are of those inputs, and what it costs.
//!
//! A request is borrowed from the graph and given back, so that the next
//! context, of whatever task, finds it warm. That nothing passes from one to
//! the other is decided here: no compute before every input was set in this
//! context, no output before a compute of these inputs.

use std::sync::Arc;
use std::time::Instant;

use wasmtime_wasi_nn::wit::TensorType;

use super::account::{HeldBytes, TaskAccount};
use super::backends::Request;
use super::bytes::{Bytes, Kept, Output};
use super::graph::SharedGraph;
use super::inferences::Observer;
use super::refusal::{Errno, Halt, Refusal};
use super::tensors::{self, Element, Port};
use crate::cancel::Doing;

/// The most bytes of a name that a message repeats.
const MAX_NAME: usize = 200;

/// Whether an input was set in this context, and what it costs beyond the
/// graph's fixed shapes.
#[derive(Clone, Copy, Default)]
struct Input {
    set: bool,
    extra: u64,
}

/// A graph as a task has loaded it.
#[derive(Clone)]
pub(super) struct Loaded {
    pub(super) graph: Arc<SharedGraph>,
    /// Where its inferences are counted, by how it was loaded.
    pub(super) observer: Observer,
    /// What whoever asks for the task's doing hears of it.
    pub(super) name: Arc<str>,
}

/// An execution context. See the module's documentation.
pub(super) struct Execution {
    // Before the graph: what is dropped first. None only while dropping.
    request: Option<Box<dyn Request>>,
    graph: Arc<SharedGraph>,
    observer: Observer,
    name: Arc<str>,
    task: Arc<TaskAccount>,
    inputs: Vec<Input>,
    /// The outputs are of the inputs as they are set now.
    computed: bool,
    /// The outputs of the last compute, where only that tells what they are.
    made: Option<Vec<Port>>,
    /// Nothing failed in the request, so that another context may have it.
    clean: bool,
}

impl Execution {
    /// A context of the graph, within the task's limits.
    pub(super) fn new(loaded: Loaded, task: Arc<TaskAccount>) -> Result<Execution, Refusal> {
        let Loaded { graph, observer, name } = loaded;
        task.hold_context(graph.tensor_bytes)?;
        // From here on dropping it gives back what was held.
        let inputs = vec![Input::default(); graph.inputs.len()];
        let mut execution = Execution {
            request: None,
            graph,
            observer,
            name,
            task,
            inputs,
            computed: false,
            made: None,
            clean: true,
        };
        execution.request = Some(execution.graph.take_request()?);
        Ok(execution)
    }

    /// Copies a tensor into an input, proven before.
    pub(super) fn set_input(
        &mut self,
        index: u32,
        ty: TensorType,
        shape: &[u32],
        data: &[u8],
    ) -> Result<(), Refusal> {
        self.put(index, ty, shape, data.len(), |request, slot| request.write(slot, ty, shape, data))
    }

    /// Makes a tensor the input, proven before, without a copy.
    pub(super) fn give_input(
        &mut self,
        index: u32,
        ty: TensorType,
        shape: &[u32],
        data: Bytes,
    ) -> Result<(), Refusal> {
        self.put(index, ty, shape, data.len(), |request, slot| request.give(slot, ty, shape, data))
    }

    /// Makes bytes that never change the input, proven before.
    pub(super) fn share_input(
        &mut self,
        index: u32,
        ty: TensorType,
        shape: &[u32],
        data: Kept,
    ) -> Result<(), Refusal> {
        let bytes = data.as_ref().len();
        self.put(index, ty, shape, bytes, |request, slot| request.share(slot, ty, shape, data))
    }

    fn put(
        &mut self,
        index: u32,
        ty: TensorType,
        shape: &[u32],
        bytes: usize,
        put: impl FnOnce(&mut dyn Request, usize) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        tensors::check(&self.graph.inputs, index, ty, shape, bytes)?;
        let slot = index as usize;
        self.computed = false;
        let extra = match self.graph.inputs[slot].bytes()? {
            Some(_) => 0,
            None => bytes as u64,
        };
        self.task.hold_input(self.inputs[slot].extra, extra)?;
        self.inputs[slot] = Input { set: false, extra };
        let done = put(&mut **self.request()?, slot);
        self.inputs[slot].set = done.is_ok();
        self.clean &= done.is_ok();
        done
    }

    /// Computes the outputs, once every input is set.
    pub(super) fn compute(&mut self) -> Result<(), Halt> {
        let missing = |(index, input): (usize, &Input)| {
            (!input.set && !self.graph.is_optional(index)).then_some(index)
        };
        if let Some(missing) = self.inputs.iter().enumerate().find_map(missing) {
            return Err(Refusal::new(
                Errno::UnsupportedOperation,
                format!("input {missing} ({}) is not set", self.graph.inputs[missing]),
            )
            .into());
        }
        self.computed = false;
        let task = self.task.clone();
        let begun = Instant::now();
        let doing = Doing::Computing(self.name.clone());
        let request = self.request()?;
        let ran = task.cancel.during(doing, || request.run(&task.cancel));
        let took = begun.elapsed();
        self.computed = ran.is_ok();
        self.made = if self.computed { self.request()?.outputs() } else { None };
        self.clean &= ran.is_ok();
        self.observer.observe(took);
        task.report(|report| {
            report.inferences += 1;
            report.inferred += took;
        });
        ran
    }

    /// Shows the bytes of an output of the last compute.
    pub(super) fn output(
        &mut self,
        index: u32,
        show: &mut dyn FnMut(&[u8]),
    ) -> Result<(), Refusal> {
        self.computed(index)?.read(index as usize, show)
    }

    /// An output of the last compute, with its shape, without a copy. Its bytes
    /// count as the task's for as long as it is there.
    pub(super) fn take_output(
        &mut self,
        index: u32,
    ) -> Result<(Vec<u32>, Output, HeldBytes), Refusal> {
        let request = self.computed(index)?;
        let shape = request.output_shape(index as usize)?;
        let mut bytes = size_of_val(shape.as_slice());
        request.read(index as usize, &mut |output| bytes += output.len())?;
        let held = self.task.held(bytes as u64)?;
        Ok((shape, self.request()?.take(index as usize)?, held))
    }

    /// The request, of which the output of that index has been computed.
    fn computed(&mut self, index: u32) -> Result<&mut Box<dyn Request>, Refusal> {
        let outputs = self.ports().len();
        if index as usize >= outputs {
            return Err(Refusal::argument(format!(
                "there is no output {index}: the model has {outputs}"
            )));
        }
        if !self.computed {
            return Err(Refusal::new(
                Errno::UnsupportedOperation,
                format!("output {index} has not been computed since the inputs were set"),
            ));
        }
        self.request()
    }

    /// The index of the input of that name, and whether the name is one: a number
    /// is an index where no input has it for its name.
    pub(super) fn input_named(&self, name: &str) -> Result<(u32, bool), Refusal> {
        let inputs = &self.graph.inputs;
        let named = inputs.iter().position(|port| port.name == name);
        if let Some(index) = named.or_else(|| self.graph.input_named(name)) {
            return Ok((index as u32, true));
        }
        match name.parse() {
            Ok(index) if (index as usize) < inputs.len() => Ok((index, false)),
            _ => {
                let short = short(name);
                let inputs: Vec<_> = inputs.iter().map(ToString::to_string).collect();
                Err(Refusal::argument(format!(
                    "there is no input `{short}`: the model's inputs are {}",
                    inputs.join(", ")
                )))
            }
        }
    }

    /// The outputs' names and types, in the model's order. One without a name is
    /// called by its index.
    ///
    /// # Errors
    ///
    /// One is of a type that wasi-nn has no name for.
    pub(super) fn outputs(&self) -> Result<Vec<(String, TensorType)>, Refusal> {
        let output = |(index, port): (usize, &Port)| {
            let name = if port.name.is_empty() { index.to_string() } else { port.name.clone() };
            match port.element {
                Element::Nn(ty) => Ok((name, ty)),
                // Truth values and signed bytes are seen as bytes.
                Element::Other(_, Some(8)) => Ok((name, TensorType::U8)),
                Element::Other(..) | Element::OneOf(..) => Err(Refusal::new(
                    Errno::UnsupportedOperation,
                    format!("output {index} is {port}, a type that wasi-nn has no name for"),
                )),
            }
        };
        self.ports().iter().enumerate().map(output).collect()
    }

    fn ports(&self) -> &[Port] {
        self.made.as_deref().unwrap_or(&self.graph.outputs)
    }

    fn request(&mut self) -> Result<&mut Box<dyn Request>, Refusal> {
        self.request.as_mut().ok_or_else(|| Refusal::runtime("the execution context has ended"))
    }

    fn extra(&self) -> u64 {
        self.inputs.iter().map(|input| input.extra).sum()
    }
}

impl Drop for Execution {
    fn drop(&mut self) {
        let bytes = self.graph.tensor_bytes.saturating_add(self.extra());
        self.task.give_context_back(bytes);
        if let (true, Some(request)) = (self.clean, self.request.take()) {
            self.graph.give_request(request, bytes, self.task.kept);
        }
    }
}

/// The start of a name, as far as a message repeats it.
pub(super) fn short(name: &str) -> &str {
    &name[..name.floor_char_boundary(MAX_NAME)]
}
