//! One task's wasi-nn: its handles, its quotas, and what it was refused.
//!
//! A call takes plain values (the layer before it has read them from the
//! guest's memory) and comes to a value or a [`Halt`]; each refusal is also
//! kept, as a sentence, for the task's report.

pub(super) mod resources;

use std::collections::HashMap;
use std::sync::Arc;

use slab::Slab;
use wasmtime_wasi_nn::wit::{ExecutionTarget, GraphEncoding, TensorType};

use super::account::{NnReport, TaskAccount, timed};
use super::directories;
use super::execution::{Execution, Loaded, short};
use super::graph::SharedGraph;
use super::graphs::Found;
use super::refusal::{Errno, Halt, Refusal};
use super::shared::NnShared;
use super::source::Origins;
use super::tensors;
use crate::cancel::Doing;
use crate::task::GraphDir;
use resources::Resources;

/// The names of `$graph_encoding`, by number.
const ENCODINGS: [&str; 6] =
    ["openvino", "onnx", "tensorflow", "pytorch", "tensorflowlite", "autodetect"];

/// What a model is called that a guest hands over.
const HANDED_OVER: &str = "that the guest handed over";

/// One task's wasi-nn state. See [`super::Nn::context`].
pub struct NnCtx {
    // Before the graphs: contexts give their requests back to them.
    executions: Slab<Execution>,
    graphs: Slab<Loaded>,
    named: HashMap<String, Loaded>,
    pub(super) resources: Resources,
    pub(super) task: Arc<TaskAccount>,
    shared: Arc<NnShared>,
    origins: Option<Arc<dyn Origins>>,
}

impl NnCtx {
    pub(super) fn new(shared: Arc<NnShared>, task: Arc<TaskAccount>) -> NnCtx {
        NnCtx {
            executions: Slab::new(),
            graphs: Slab::new(),
            named: HashMap::new(),
            resources: Resources::default(),
            task,
            shared,
            origins: None,
        }
    }

    /// Asks this where the bytes come from that the guest hands over.
    pub fn ask_origins(&mut self, origins: Arc<dyn Origins>) {
        self.origins = Some(origins);
    }

    /// What the task did so far.
    pub fn report(&self) -> NnReport {
        self.task.so_far()
    }

    /// The graph behind a handle.
    #[cfg(all(test, any(feature = "openvino", feature = "onnx", feature = "pytorch")))]
    pub(super) fn shared_graph(&self, graph: u32) -> Arc<SharedGraph> {
        self.graphs[graph as usize].graph.clone()
    }

    /// Loads a graph of the task's `-S nn-graph`.
    pub(super) fn preload(&mut self, dir: &GraphDir) -> Result<(), Halt> {
        let limit = self.task.limits.graphs;
        if self.named.len() >= limit as usize {
            let text = format!("the task names more than {limit} graphs, its limit");
            return Err(Refusal::too_large(text).into());
        }
        let name: Arc<str> = short(&dir.name).into();
        let graph = self.load_dir(dir, &name)?;
        self.hold(&graph)?;
        let observer = self.shared.inferences.of_name(&dir.name, graph.backend);
        self.named.insert(dir.name.clone(), Loaded { graph, observer, name });
        Ok(())
    }

    /// `load`: the numbers as the guest gave them.
    pub(super) fn load(
        &mut self,
        encoding: u32,
        target: u32,
        parts: &[&[u8]],
    ) -> Result<u32, Halt> {
        let loaded = numbered(encoding, target)
            .map_err(Halt::from)
            .and_then(|(encoding, target)| self.try_load(encoding, target, parts));
        self.noted("load", loaded)
    }

    /// `load`: with the types of the component model.
    pub(super) fn load_typed(
        &mut self,
        encoding: GraphEncoding,
        target: ExecutionTarget,
        parts: &[&[u8]],
    ) -> Result<u32, Halt> {
        let loaded = self.try_load(&encoding.to_string(), target, parts);
        self.noted("load", loaded)
    }

    /// `load_by_name`.
    pub(super) fn load_by_name(&mut self, name: &str) -> Result<u32, Halt> {
        let loaded = self.resolve(name).and_then(|loaded| self.add(loaded));
        self.noted("load_by_name", loaded)
    }

    /// `init_execution_context`.
    pub(super) fn init_execution_context(&mut self, graph: u32) -> Result<u32, Halt> {
        let made = match self.graphs.get(graph as usize) {
            Some(loaded) => Execution::new(loaded.clone(), self.task.clone()).map_err(Halt::from),
            None => Err(Refusal::argument(format!(
                "there is no graph {graph}: the task has loaded {}",
                self.graphs.len()
            ))
            .into()),
        };
        let added = made.map(|execution| self.executions.insert(execution) as u32);
        self.noted("init_execution_context", added)
    }

    /// `set_input`: the type as the guest gave it.
    pub(super) fn set_input(
        &mut self,
        context: u32,
        index: u32,
        ty: u8,
        shape: &[u32],
        data: &[u8],
    ) -> Result<(), Halt> {
        let kept = self.origins.as_ref().and_then(|origins| origins.kept(data));
        let set = tensor_type(ty).and_then(|ty| {
            let execution = self.execution(context)?;
            match kept {
                Some(kept) => execution.share_input(index, ty, shape, kept),
                None => execution.set_input(index, ty, shape, data),
            }
        });
        self.noted("set_input", set.map_err(Halt::from))
    }

    /// `compute`.
    pub(super) fn compute(&mut self, context: u32) -> Result<(), Halt> {
        let computed = match self.execution(context) {
            Ok(execution) => execution.compute(),
            Err(refusal) => Err(refusal.into()),
        };
        self.noted("compute", computed)
    }

    /// `get_output`: copies the output to the start of `buffer` and says how
    /// many bytes that were.
    pub(super) fn get_output(
        &mut self,
        context: u32,
        index: u32,
        buffer: &mut [u8],
    ) -> Result<u32, Halt> {
        let got = self.execution(context).and_then(|execution| {
            let mut copied = Err(0);
            execution.output(index, &mut |bytes| {
                copied = match buffer.get_mut(..bytes.len()) {
                    Some(start) => {
                        start.copy_from_slice(bytes);
                        Ok(bytes.len() as u32)
                    }
                    None => Err(bytes.len()),
                };
            })?;
            copied.map_err(|needed| {
                Refusal::too_large(format!(
                    "output {index} has {needed} bytes, more than the guest's buffer of {}",
                    buffer.len()
                ))
            })
        });
        self.noted("get_output", got.map_err(Halt::from))
    }

    /// Keeps a refusal that no call of this type made.
    pub(super) fn refuse(&mut self, call: &'static str, refusal: Refusal) -> Halt {
        let refused: Result<(), Halt> = self.noted(call, Err(refusal.into()));
        refused.expect_err("it was an error")
    }

    fn try_load(
        &mut self,
        encoding: &str,
        target: ExecutionTarget,
        parts: &[&[u8]],
    ) -> Result<u32, Halt> {
        self.room()?;
        let shared = self.shared.clone();
        let served = shared.served(encoding)?;
        let load_bytes = &shared.config.load_bytes;
        if !load_bytes.takes(encoding) {
            let text = format!(
                "this worker takes no models of the encoding {encoding} from guests \
                 (--nn-load-bytes is {load_bytes}): put the model into an allowed directory, name \
                 it with `-S nn-graph={encoding}::DIR`, and load it by the directory's name"
            );
            return Err(Refusal::new(Errno::UnsupportedOperation, text).into());
        }
        let size = parts.iter().map(|part| part.len() as u64).sum();
        let max = shared.config.model_bytes;
        if size > max {
            return Err(directories::too_large(size, max).into());
        }
        let name: Arc<str> = HANDED_OVER.into();
        let origin = |part: &&[u8]| self.origins.as_ref().and_then(|origins| origins.origin(part));
        let origins: Vec<_> = parts.iter().map(origin).collect();
        let graph = self.loading("the model", &name, |shared, task| {
            shared.graphs.load_known(served, target, (parts, &origins), None, &task.cancel)
        })?;
        let observer = shared.inferences.of_bytes(graph.backend);
        self.add(Loaded { graph, observer, name })
    }

    fn resolve(&mut self, name: &str) -> Result<Loaded, Halt> {
        self.room()?;
        if let Some(loaded) = self.named.get(name) {
            return Ok(loaded.clone());
        }
        let shared = self.shared.clone();
        let Some(dir) = shared.config.graphs.iter().rev().find(|dir| dir.name == name) else {
            let short = short(name);
            let mut known: Vec<_> = self.named.keys().map(String::as_str).collect();
            known.extend(shared.config.graphs.iter().map(|dir| dir.name.as_str()));
            known.sort_unstable();
            known.dedup();
            let known = match known.as_slice() {
                [] => "no graphs; name one with `-S nn-graph=ENCODING::DIR`".to_owned(),
                known => known.join(", "),
            };
            let text = format!("there is no graph `{short}`: the task has {known}");
            return Err(Refusal::new(Errno::NotFound, text).into());
        };
        let called: Arc<str> = short(name).into();
        let graph = self.load_dir(dir, &called)?;
        let observer = shared.inferences.of_name(name, graph.backend);
        let loaded = Loaded { graph, observer, name: called };
        self.named.insert(name.to_owned(), loaded.clone());
        Ok(loaded)
    }

    fn load_dir(&self, dir: &GraphDir, name: &Arc<str>) -> Result<Arc<SharedGraph>, Halt> {
        let what = format!("graph `{}`", dir.name);
        self.loading(&what, name, |shared, task| shared.load_dir(dir, &task.cancel))
    }

    fn loading(
        &self,
        what: &str,
        name: &Arc<str>,
        load: impl FnOnce(&NnShared, &TaskAccount) -> Result<(Arc<SharedGraph>, Found), Halt>,
    ) -> Result<Arc<SharedGraph>, Halt> {
        let doing = Doing::Loading(name.clone());
        let load = || self.task.cancel.during(doing, || load(&self.shared, &self.task));
        let (graph, found) = timed(&self.task, |report| &mut report.loaded, load)?;
        self.task.loaded(&graph, what);
        self.task.report(|report| match found {
            Found::Compiled => report.graphs_loaded += 1,
            Found::Reused => report.graphs_reused += 1,
        });
        Ok(graph)
    }

    fn room(&self) -> Result<(), Refusal> {
        let limit = self.task.limits.graphs;
        if self.graphs.len() >= limit as usize {
            return Err(Refusal::too_large(format!(
                "the task has loaded {limit} graphs, its limit"
            )));
        }
        Ok(())
    }

    fn hold(&self, graph: &Arc<SharedGraph>) -> Result<(), Refusal> {
        let graphs = self.graphs.iter().map(|(_, loaded)| loaded);
        let loaded = graphs.chain(self.named.values()).map(|loaded| &loaded.graph);
        let mut held: Vec<_> = loaded.chain([graph]).collect();
        held.sort_unstable_by_key(|graph| Arc::as_ptr(graph));
        held.dedup_by_key(|graph| Arc::as_ptr(graph));
        let bytes: u64 = held.iter().map(|graph| graph.weight()).sum();
        let limit = self.task.limits.graph_bytes;
        if bytes > limit {
            return Err(Refusal::too_large(format!(
                "the task's graphs would take {bytes} bytes, more than its limit of {limit}"
            )));
        }
        Ok(())
    }

    fn add(&mut self, loaded: Loaded) -> Result<u32, Halt> {
        self.hold(&loaded.graph)?;
        Ok(self.graphs.insert(loaded) as u32)
    }

    /// Gives a graph back; its contexts stay.
    pub(super) fn drop_graph(&mut self, graph: u32) {
        self.graphs.try_remove(graph as usize);
    }

    /// Gives an execution context back.
    pub(super) fn drop_execution(&mut self, context: u32) {
        self.executions.try_remove(context as usize);
    }

    pub(super) fn execution(&mut self, context: u32) -> Result<&mut Execution, Refusal> {
        let made = self.executions.len();
        self.executions.get_mut(context as usize).ok_or_else(|| {
            Refusal::argument(format!(
                "there is no execution context {context}: the task has made {made}"
            ))
        })
    }

    pub(super) fn noted<R>(&self, call: &'static str, result: Result<R, Halt>) -> Result<R, Halt> {
        if let Err(Halt::Refused(refusal)) = &result {
            self.task.note(format!("`{call}`: {}", refusal.text));
        }
        result
    }
}

/// An encoding's name and a target by their numbers in WITX.
fn numbered(encoding: u32, target: u32) -> Result<(&'static str, ExecutionTarget), Refusal> {
    let Some(name) = ENCODINGS.get(encoding as usize) else {
        let text = format!("{encoding} is not an encoding of wasi-nn");
        return Err(Refusal::new(Errno::InvalidEncoding, text));
    };
    let target = match target {
        0 => ExecutionTarget::Cpu,
        1 => ExecutionTarget::Gpu,
        2 => ExecutionTarget::Tpu,
        _ => {
            let text = format!("{target} is not an execution target of wasi-nn");
            return Err(Refusal::argument(text));
        }
    };
    Ok((name, target))
}

fn tensor_type(ty: u8) -> Result<TensorType, Refusal> {
    Ok(match ty {
        0 => TensorType::Fp16,
        1 => TensorType::Fp32,
        2 => TensorType::Fp64,
        3 => TensorType::U8,
        4 => TensorType::I32,
        5 => TensorType::I64,
        _ => return Err(Refusal::argument(format!("{ty} is not a tensor type of wasi-nn"))),
    })
}

/// The refusal of a tensor whose shape is not even read.
pub(super) fn rank(rank: usize) -> Refusal {
    tensors::rank(rank)
}
