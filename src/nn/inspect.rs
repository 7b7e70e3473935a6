//! What a model is, for whoever writes a guest for it.

use std::time::{Duration, Instant};

use super::Nn;
use super::backends::{Backend, Compiled, Encoding};
use super::refusal::Refusal;
use super::source::Source;
use super::tensors::Port;
use crate::cancel::Cancel;
use wasmtime_wasi_nn::wit::ExecutionTarget;

/// A model as the first backend that takes it sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// In the order of their indices.
    pub inputs: Vec<PortDescription>,
    /// In the order of their indices.
    pub outputs: Vec<PortDescription>,
    /// Whether it keeps a state between the inferences of a context.
    pub stateful: bool,
    /// What it keeps alive once it is compiled, in bytes, as quotas count it.
    pub memory: u64,
    /// Each backend for the encoding, with the time that it compiled for, or
    /// why it does not take the model.
    pub backends: Vec<(&'static str, Result<Duration, String>)>,
}

/// An input or an output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortDescription {
    /// Empty if it has none.
    pub name: String,
    /// Such as `f32`.
    pub element: &'static str,
    /// The least and the greatest of each dimension, none for no end; none if
    /// even the rank is open.
    pub shape: Option<Vec<(u64, Option<u64>)>>,
    /// As messages show it.
    pub text: String,
}

impl Nn {
    /// The encodings that are served, and what a directory of each one holds in
    /// the order of the builders.
    pub fn files(&self) -> Vec<(&'static str, &'static [&'static str])> {
        let mut all: Vec<(&str, &[&str])> = Vec::new();
        for Encoding { name, files, .. } in self.shared.backends.iter().flat_map(|b| b.encodings())
        {
            if !all.iter().any(|(known, _)| known == name) {
                all.push((name, files));
            }
        }
        all
    }

    /// Compiles a model of this encoding by each backend that serves it, and
    /// says what it is.
    ///
    /// # Errors
    ///
    /// What each backend says, if none takes it.
    pub fn inspect(&self, encoding: &str, parts: &[&[u8]]) -> Result<Inspection, String> {
        let served = self.shared.served(encoding).map_err(|refusal| refusal.text)?;
        let (mut taken, mut backends) = (None, Vec::new());
        for backend in served.backends {
            let begun = Instant::now();
            let compiled = compile(backend, served.encoding, parts);
            let took = begun.elapsed();
            let outcome = compiled.map(|compiled| {
                taken.get_or_insert(compiled);
                took
            });
            backends.push((backend.name(), outcome.map_err(|refusal| refusal.text)));
        }
        let Some(Compiled { inputs, outputs, stateful, weight, .. }) = taken else {
            let said = backends.into_iter().filter_map(|(name, outcome)| {
                outcome.err().map(|refusal| format!("{name}: {refusal}"))
            });
            return Err(said.collect::<Vec<_>>().join("; "));
        };
        let describe = |ports: Vec<Port>| ports.iter().map(PortDescription::of).collect();
        Ok(Inspection {
            inputs: describe(inputs),
            outputs: describe(outputs),
            stateful,
            memory: weight,
            backends,
        })
    }
}

fn compile(
    backend: &dyn Backend,
    encoding: &Encoding,
    parts: &[&[u8]],
) -> Result<Compiled, Refusal> {
    backend.open().map_err(Refusal::runtime)?;
    backend.check(encoding.id, ExecutionTarget::Cpu, parts)?;
    let source = Source::new(encoding.id, ExecutionTarget::Cpu, parts);
    backend.compile(&source, &Cancel::default())
}

impl PortDescription {
    fn of(port: &Port) -> PortDescription {
        let dims = port.shape.as_ref();
        PortDescription {
            name: port.name.clone(),
            element: port.element.name(),
            shape: dims.map(|dims| dims.iter().map(|dim| (dim.min, dim.max)).collect()),
            text: port.to_string(),
        }
    }
}
