//! The same graphs and contexts behind `wasmtime_wasi_nn`'s own traits, which
//! its layer for components (`wasi:nn`) takes.
//!
//! Checks, quotas, cancellation and diagnostics are those of [`Execution`].
//! Tensors are copied once more here than on the way of core modules: the
//! crate's traits own them.

use std::sync::Arc;

use wasmtime_wasi_nn::backend::{
    BackendError, BackendExecutionContext, BackendGraph, Id, NamedTensor,
};
use wasmtime_wasi_nn::{ExecutionContext, Graph, Tensor};

use super::backend::{Halt, Refusal};
use super::checks::Port;
use super::execution::{Execution, Loaded, Task};

/// A graph as one task sees it.
struct TaskGraph {
    loaded: Loaded,
    task: Arc<Task>,
}

/// The graph for the crate's layers.
pub(super) fn graph(loaded: Loaded, task: Arc<Task>) -> Graph {
    let graph: Box<dyn BackendGraph> = Box::new(TaskGraph { loaded, task });
    graph.into()
}

impl BackendGraph for TaskGraph {
    fn init_execution_context(&self) -> Result<ExecutionContext, BackendError> {
        let execution = Execution::new(self.loaded.clone(), self.task.clone()).map_err(error)?;
        let execution: Box<dyn BackendExecutionContext> = Box::new(execution);
        Ok(execution.into())
    }
}

impl BackendExecutionContext for Execution {
    fn set_input(&mut self, id: Id, tensor: &Tensor) -> Result<(), BackendError> {
        let index = find(&self.graph().inputs, "input", &id).map_err(error)?;
        Execution::set_input(self, index, tensor.ty, &tensor.dimensions, &tensor.data)
            .map_err(error)
    }

    fn get_output(&mut self, id: Id) -> Result<Tensor, BackendError> {
        let index = find(&self.graph().outputs, "output", &id).map_err(error)?;
        copy(self, index).map_err(error)
    }

    fn compute(
        &mut self,
        inputs: Option<Vec<NamedTensor>>,
    ) -> Result<Option<Vec<NamedTensor>>, BackendError> {
        let named = inputs.is_some();
        for NamedTensor { name, tensor } in inputs.into_iter().flatten() {
            BackendExecutionContext::set_input(self, Id::Name(name), &tensor)?;
        }
        Execution::compute(self).map_err(|halt| match halt {
            Halt::Refused(refusal) => error(refusal),
            Halt::Cancelled(reason) => {
                error(Refusal::runtime(format!("the inference was interrupted ({reason:?})")))
            }
        })?;
        if !named {
            return Ok(None);
        }
        let names: Vec<_> = self.graph().outputs.iter().map(|port| port.name.clone()).collect();
        let mut outputs = Vec::new();
        for (index, name) in (0u32..).zip(names) {
            let name = if name.is_empty() { index.to_string() } else { name };
            outputs.push(NamedTensor { name, tensor: copy(self, index).map_err(error)? });
        }
        Ok(Some(outputs))
    }
}

fn copy(execution: &mut Execution, index: u32) -> Result<Tensor, Refusal> {
    let mut tensor = None;
    execution.output(index, &mut |view| {
        tensor = view.ty.map(|ty| Tensor::new(view.shape.clone(), ty, view.data.to_vec()));
    })?;
    tensor.ok_or_else(|| {
        Refusal::runtime(format!("output {index} has a type that wasi-nn has no name for"))
    })
}

// A name that is a number is an index, where no port has that name.
fn find(ports: &[Port], kind: &str, id: &Id) -> Result<u32, Refusal> {
    let found = match id {
        Id::Index(index) => Some(*index),
        Id::Name(name) => match ports.iter().position(|port| port.name == *name) {
            Some(index) => u32::try_from(index).ok(),
            None => name.parse().ok(),
        },
    };
    found.ok_or_else(|| Refusal::argument(format!("there is no {kind} {id:?}")))
}

fn error(refusal: Refusal) -> BackendError {
    BackendError::BackendAccess(wasmtime::Error::msg(refusal.text))
}

#[cfg(test)]
mod tests {
    use wasmtime_wasi_nn::wit::{ExecutionTarget, TensorType};

    use super::super::NnLimits;
    use super::super::fake::{Fake, MODEL};
    use super::super::graphs::Graphs;
    use super::super::inferences::Inferences;
    use super::*;
    use crate::cancel::Cancel;

    #[test]
    fn the_crates_traits_reach_the_same_checks() {
        let (graphs, fake) = (Graphs::new(1 << 20, 1), Fake::default());
        let (found, _) = graphs
            .load(&fake, ExecutionTarget::Cpu, &[MODEL, b""], None, &Cancel::default())
            .expect("a graph");
        let task = Task::new(Arc::default(), NnLimits::default(), 2);
        let loaded = Loaded { graph: found, observer: Inferences::new(&[]).of_bytes() };
        let graph = graph(loaded, Arc::new(task));
        let mut context = graph.init_execution_context().expect("a context");
        assert!(context.compute().is_err(), "no input");
        let tensor = |data: &[u8]| Tensor::new(vec![4], TensorType::U8, data.to_vec());
        let refused = context.set_input(Id::Index(0), &tensor(&[1])).expect_err("too short");
        let BackendError::BackendAccess(text) = refused else { panic!("another error") };
        assert!(text.to_string().contains("has 1 bytes"), "{text}");
        context.set_input(Id::Name("in".into()), &tensor(&[1, 2, 3, 4])).expect("set");
        context.compute().expect("computed");
        assert_eq!(context.get_output(Id::Index(0)).expect("an output").data, [2, 4, 6, 8]);
        let input = NamedTensor { name: "in".into(), tensor: tensor(&[4; 4]) };
        let outputs = context.compute_with_io(vec![input]).expect("computed");
        assert_eq!((outputs[0].name.as_str(), &outputs[0].tensor.data), ("out", &vec![8; 4]));
    }
}
