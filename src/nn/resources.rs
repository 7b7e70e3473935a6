//! What a component holds by handle beside graphs and execution contexts:
//! tensors, and errors. Both count, so that no loop of a guest's fills the
//! host's memory, and both are gone when the guest drops them.

use std::sync::Arc;

use slab::Slab;
use wasmtime_wasi_nn::wit::TensorType;

use super::context::NnCtx;
use super::execution::{Held, Task};
use super::refusal::{Halt, Refusal};

/// The most tensors that a task holds. Their bytes count as those of its
/// contexts do.
pub(super) const MAX_TENSORS: usize = 4096;

/// The most errors that a task holds.
pub(super) const MAX_ERRORS: usize = 256;

/// A tensor as the guest made it, or an output: nothing is proven of the
/// guest's before a graph's input is known.
pub(super) struct Tensor {
    pub(super) shape: Vec<u32>,
    pub(super) ty: TensorType,
    pub(super) data: Arc<[u8]>,
    _held: Held,
}

impl Tensor {
    /// Copies the bytes, once they are within the task's limit.
    pub(super) fn new(
        task: &Arc<Task>,
        shape: Vec<u32>,
        ty: TensorType,
        data: &[u8],
    ) -> Result<Tensor, Refusal> {
        let held = task.held((data.len() + size_of_val(shape.as_slice())) as u64)?;
        Ok(Tensor { shape, ty, data: Arc::from(data), _held: held })
    }
}

/// The tensors and errors of one task.
#[derive(Default)]
pub(super) struct Resources {
    tensors: Slab<Tensor>,
    errors: Slab<Refusal>,
}

impl NnCtx {
    /// The constructor of a tensor. It has no error that a guest could be told:
    /// a refusal ends the task.
    pub(super) fn new_tensor(
        &mut self,
        shape: &[u32],
        ty: TensorType,
        data: &[u8],
    ) -> Result<u32, Refusal> {
        self.tensor_room(1)?;
        let tensor = Tensor::new(&self.task, shape.to_vec(), ty, data)?;
        Ok(self.resources.tensors.insert(tensor) as u32)
    }

    /// The tensor behind a handle.
    pub(super) fn tensor(&self, tensor: u32) -> Option<&Tensor> {
        self.resources.tensors.get(tensor as usize)
    }

    /// Takes a tensor from the guest, which has dropped it or handed it over.
    pub(super) fn take_tensor(&mut self, tensor: u32) -> Option<Tensor> {
        self.resources.tensors.try_remove(tensor as usize)
    }

    /// `compute`, with the inputs by name: sets them, computes, and copies the
    /// outputs.
    pub(super) fn compute_named(
        &mut self,
        context: u32,
        inputs: Vec<(String, Tensor)>,
    ) -> Result<Vec<(String, u32)>, Halt> {
        let outputs = self.try_compute(context, inputs);
        let kept = outputs.and_then(|outputs| {
            self.tensor_room(outputs.len())?;
            let mut keep = |tensor| self.resources.tensors.insert(tensor) as u32;
            Ok(outputs.into_iter().map(|(name, tensor)| (name, keep(tensor))).collect())
        });
        self.noted("compute", kept)
    }

    fn try_compute(
        &mut self,
        context: u32,
        inputs: Vec<(String, Tensor)>,
    ) -> Result<Vec<(String, Tensor)>, Halt> {
        let execution = self.execution(context)?;
        for (name, Tensor { shape, ty, data, .. }) in inputs {
            let index = execution.input_named(&name)?;
            execution.set_input(index, ty, &shape, &data)?;
        }
        execution.compute()?;
        Ok(execution.outputs()?)
    }

    /// Keeps a refusal for the guest to ask about.
    ///
    /// # Errors
    ///
    /// A sentence: it keeps too many.
    pub(super) fn keep_error(&mut self, refusal: Refusal) -> Result<u32, String> {
        if self.resources.errors.len() >= MAX_ERRORS {
            return Err(format!("the task holds {MAX_ERRORS} errors of wasi-nn, its limit"));
        }
        Ok(self.resources.errors.insert(refusal) as u32)
    }

    /// The error behind a handle.
    pub(super) fn error(&self, error: u32) -> Option<&Refusal> {
        self.resources.errors.get(error as usize)
    }

    /// Forgets an error.
    pub(super) fn drop_error(&mut self, error: u32) {
        self.resources.errors.try_remove(error as usize);
    }

    fn tensor_room(&self, more: usize) -> Result<(), Refusal> {
        if self.resources.tensors.len() + more > MAX_TENSORS {
            let text = format!("the task holds {MAX_TENSORS} tensors, its limit");
            return Err(Refusal::too_large(text));
        }
        Ok(())
    }
}
