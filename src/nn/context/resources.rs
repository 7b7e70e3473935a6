//! What a component holds by handle beside graphs and execution contexts:
//! tensors, and errors. Both count, so that no loop of a guest's fills the
//! host's memory, and both are gone when the guest drops them.
//!
//! A tensor's bytes are copied when they leave the guest's memory and when they
//! come back to it, and not between.

use std::sync::Arc;

use slab::Slab;
use wasmtime_wasi_nn::wit::TensorType;

use super::NnCtx;
use crate::nn::account::HeldBytes;
use crate::nn::bytes::{Bytes, Output};
use crate::nn::refusal::{Halt, Refusal};

/// The most tensors that a task holds. Their bytes count as those of its
/// contexts do.
pub(in crate::nn) const MAX_TENSORS: usize = 4096;

/// The most errors that a task holds.
pub(in crate::nn) const MAX_ERRORS: usize = 256;

/// A tensor as the guest made it, or an output: nothing is proven of the
/// guest's before a graph's input is known.
pub(in crate::nn) struct Tensor {
    pub(in crate::nn) shape: Vec<u32>,
    pub(in crate::nn) ty: TensorType,
    data: Data,
    _held: HeldBytes,
}

enum Data {
    /// Copied out of the guest's memory.
    Given(Arc<Bytes>),
    /// In the memory that a backend computed it in.
    Computed(Output),
}

impl Tensor {
    /// Its bytes, to be copied into the guest's memory.
    pub(in crate::nn) fn data(&self) -> Output {
        match &self.data {
            Data::Given(bytes) => bytes.clone(),
            Data::Computed(output) => output.clone(),
        }
    }
}

/// The tensors and errors of one task.
#[derive(Default)]
pub(in crate::nn) struct Resources {
    tensors: Slab<Tensor>,
    errors: Slab<Refusal>,
}

impl NnCtx {
    /// The constructor of a tensor. It has no error that a guest could be told:
    /// a refusal ends the task.
    pub(in crate::nn) fn new_tensor(
        &mut self,
        shape: &[u32],
        ty: TensorType,
        data: &[u8],
    ) -> Result<u32, Refusal> {
        self.tensor_room(1)?;
        // Every byte of it counts before any of it is copied.
        let held = self.task.held((data.len() + size_of_val(shape)) as u64)?;
        let data = Data::Given(Arc::new(Bytes::copy_of(data)));
        let tensor = Tensor { shape: shape.to_vec(), ty, data, _held: held };
        Ok(self.resources.tensors.insert(tensor) as u32)
    }

    /// The tensor behind a handle.
    pub(in crate::nn) fn tensor(&self, tensor: u32) -> Option<&Tensor> {
        self.resources.tensors.get(tensor as usize)
    }

    /// Takes a tensor from the guest, which has dropped it or handed it over.
    pub(in crate::nn) fn take_tensor(&mut self, tensor: u32) -> Option<Tensor> {
        self.resources.tensors.try_remove(tensor as usize)
    }

    /// `compute`, with the inputs by name: sets them, computes, and gives the
    /// outputs with the model's names for them. Whoever calls the inputs by their
    /// indices gets the outputs by theirs.
    pub(in crate::nn) fn compute_named(
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
        let mut by_index = !inputs.is_empty();
        for (name, Tensor { shape, ty, data, .. }) in inputs {
            let (index, is_name) = execution.input_named(&name)?;
            by_index &= !is_name;
            match data {
                Data::Given(bytes) => match Arc::try_unwrap(bytes) {
                    Ok(bytes) => execution.give_input(index, ty, &shape, bytes)?,
                    Err(shared) => execution.set_input(index, ty, &shape, (*shared).as_ref())?,
                },
                Data::Computed(output) => {
                    execution.set_input(index, ty, &shape, (*output).as_ref())?;
                }
            }
        }
        execution.compute()?;
        let outputs = execution.outputs()?.into_iter().zip(0..);
        let take = |((name, ty), index): ((String, TensorType), u32)| -> Result<_, Halt> {
            let (shape, output, held) = execution.take_output(index)?;
            let name = if by_index { index.to_string() } else { name };
            Ok((name, Tensor { shape, ty, data: Data::Computed(output), _held: held }))
        };
        outputs.map(take).collect()
    }

    /// Keeps a refusal for the guest to ask about.
    ///
    /// # Errors
    ///
    /// A sentence: it keeps too many.
    pub(in crate::nn) fn keep_error(&mut self, refusal: Refusal) -> Result<u32, String> {
        if self.resources.errors.len() >= MAX_ERRORS {
            return Err(format!("the task holds {MAX_ERRORS} errors of wasi-nn, its limit"));
        }
        Ok(self.resources.errors.insert(refusal) as u32)
    }

    /// The error behind a handle.
    pub(in crate::nn) fn error(&self, error: u32) -> Option<&Refusal> {
        self.resources.errors.get(error as usize)
    }

    /// Forgets an error.
    pub(in crate::nn) fn drop_error(&mut self, error: u32) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::backends::fake::{Fake, MODEL};
    use crate::nn::{Nn, NnConfig};

    fn task(fake: &Fake) -> (NnCtx, u32) {
        let config = NnConfig { cache_bytes: 1 << 20, model_bytes: 100, ..NnConfig::default() };
        let nn = Nn::with_backends(config, vec![Box::new(fake.clone())]);
        let mut task = nn.context(&[], Arc::default()).expect("a context");
        let graph = task.load(0, 0, &[MODEL, b""]).expect("a graph");
        let context = task.init_execution_context(graph).expect("an execution context");
        (task, context)
    }

    fn infer(task: &mut NnCtx, context: u32, name: &str, input: u32) -> (String, u32) {
        let tensor = task.take_tensor(input).expect("a tensor");
        let outputs = task.compute_named(context, vec![(name.to_owned(), tensor)]);
        let [output] = <[_; 1]>::try_from(outputs.expect("computed")).expect("one output");
        output
    }

    fn address(task: &NnCtx, tensor: u32) -> usize {
        (*task.tensor(tensor).expect("a tensor").data()).as_ref().as_ptr().addr()
    }

    fn bytes(task: &NnCtx, tensor: u32) -> Vec<u8> {
        (*task.tensor(tensor).expect("a tensor").data()).as_ref().to_vec()
    }

    #[test]
    fn a_tensor_is_not_copied_on_its_way_to_the_backend_and_none_on_its_way_back() {
        let fake = Fake::default();
        let (mut task, context) = task(&fake);
        let input = task.new_tensor(&[4], TensorType::U8, &[1, 2, 3, 4]).expect("a tensor");
        let made = address(&task, input);
        let (_, output) = infer(&mut task, context, "in", input);
        assert_eq!(fake.memory().addresses(), (made, address(&task, output)));
        assert_eq!(bytes(&task, output), [2, 4, 6, 8]);
    }

    #[test]
    fn an_output_stays_as_it_is_and_can_be_the_next_input() {
        let fake = Fake::default();
        let (mut task, context) = task(&fake);
        let input = task.new_tensor(&[4], TensorType::U8, &[1, 2, 3, 4]).expect("a tensor");
        let (_, first) = infer(&mut task, context, "in", input);
        let other = task.new_tensor(&[4], TensorType::U8, &[9, 9, 9, 9]).expect("a tensor");
        infer(&mut task, context, "in", other);
        assert_eq!(bytes(&task, first), [2, 4, 6, 8]);
        let (_, second) = infer(&mut task, context, "in", first);
        assert_eq!(bytes(&task, second), [4, 8, 12, 16]);
    }

    #[test]
    fn outputs_are_called_as_inputs_are_by_name_or_by_index() {
        let fake = Fake::default();
        let (mut task, context) = task(&fake);
        for (input, output) in [("in", "out"), ("0", "0")] {
            let tensor = task.new_tensor(&[4], TensorType::U8, &[0; 4]).expect("a tensor");
            assert_eq!(infer(&mut task, context, input, tensor).0, output);
        }
    }
}
