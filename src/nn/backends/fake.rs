//! A backend for tests: one input of four numbers, one output that is twice
//! each of them, and models that misbehave when they say so.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use wasmtime_wasi_nn::wit::{ExecutionTarget, GraphEncoding, TensorType};

use super::openvino::xml::Bounds;
use super::openvino::{IR, builders};
use super::{Backend, Compiled, Encoding, Library, Model, ONNX, Request, ServedEncoding};
use crate::cancel::Cancel;
use crate::nn::backends::openvino::operators::Operators;
use crate::nn::bytes::{Bytes, Output};
use crate::nn::refusal::{Halt, Refusal};
use crate::nn::source::Source;
use crate::nn::tensors::{Dim, Element, Port};

/// A model that compiles.
pub(in crate::nn) const MODEL: &[u8] = b"<net/>";

/// What an exported model begins with.
const EXPORTED: &[u8] = b"fake ";

/// What never ends in a test.
const LONG: Duration = Duration::from_secs(600);

/// What each compiled model is said to weigh.
pub(in crate::nn) const WEIGHT: u64 = 1000;

/// See the module's documentation. The model's XML decides: `bad` does not
/// compile, `panic` panics there, `fails` fails in each inference, `endless`
/// runs until it is cancelled, `stuck` as well, which takes until the test lets
/// it, `ReadValue` keeps a state, `open` has an open first dimension.
#[derive(Clone, Default)]
pub(in crate::nn) struct Fake {
    stuck: Arc<Stuck>,
    compiled: Arc<AtomicU64>,
    imported: Arc<AtomicU64>,
    requests: Arc<AtomicU64>,
    memory: Arc<Memory>,
    compiles_for: Duration,
    serves: Serves,
    missing: bool,
    lenient: bool,
    compiling: Arc<AtomicU64>,
    name: Option<&'static str>,
    gate: Arc<Mutex<()>>,
}

/// The encodings that a fake backend serves.
#[derive(Clone, Copy, Default)]
pub(in crate::nn) enum Serves {
    #[default]
    Ir,
    Onnx,
    Both,
}

/// Where the tensors of the last inference were.
#[derive(Default)]
pub(in crate::nn) struct Memory {
    input: AtomicUsize,
    output: AtomicUsize,
}

impl Memory {
    /// The addresses of input and output.
    pub(in crate::nn) fn addresses(&self) -> (usize, usize) {
        (self.input.load(Ordering::SeqCst), self.output.load(Ordering::SeqCst))
    }
}

/// A native cancellation that blocks.
#[derive(Default)]
pub(crate) struct Stuck {
    state: Mutex<StuckState>,
    changed: Condvar,
}

#[derive(Default)]
struct StuckState {
    cancelling: bool,
    released: bool,
}

impl Stuck {
    /// Waits until a cancellation blocks.
    pub(crate) fn until_cancelling(&self) {
        self.wait(|state| state.cancelling);
    }

    /// Lets all cancellations end.
    pub(crate) fn release(&self) {
        self.change(|state| state.released = true);
    }

    fn infer(&self) {
        self.wait(|state| state.released);
    }

    fn cancel(&self) {
        self.change(|state| state.cancelling = true);
        self.wait(|state| state.released);
    }

    fn change(&self, change: impl FnOnce(&mut StuckState)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
    }

    fn wait(&self, until: impl Fn(&StuckState) -> bool) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(state, LONG, |state| !until(state));
        let waited = waited.unwrap_or_else(PoisonError::into_inner).1;
        assert!(!waited.timed_out(), "nothing has come for {LONG:?}");
    }
}

impl Fake {
    pub(in crate::nn) fn stuck(stuck: Arc<Stuck>) -> Fake {
        Fake { stuck, ..Fake::default() }
    }

    pub(in crate::nn) fn serving(serves: Serves) -> Fake {
        Fake { serves, ..Fake::default() }
    }

    /// One whose library can't be opened.
    pub(in crate::nn) fn missing() -> Fake {
        Fake { missing: true, ..Fake::default() }
    }

    /// The same for another encoding.
    pub(in crate::nn) fn also(self, serves: Serves) -> Fake {
        Fake { serves, ..self }
    }

    /// One that compiles what is `bad` too.
    pub(in crate::nn) fn lenient(self) -> Fake {
        Fake { lenient: true, ..self }
    }

    /// Waits until a model is compiled.
    pub(in crate::nn) fn until_compiling(&self) {
        while self.compiling.load(Ordering::SeqCst) == 0 {
            thread::yield_now();
        }
    }

    /// The same by another name.
    pub(in crate::nn) fn named(self, name: &'static str) -> Fake {
        Fake { name: Some(name), ..self }
    }

    /// Itself, for its first encoding.
    pub(in crate::nn) fn served(&self) -> ServedEncoding<'_> {
        ServedEncoding { encoding: &self.encodings()[0], backends: vec![self] }
    }

    pub(in crate::nn) fn slow(compiles_for: Duration) -> Fake {
        Fake { compiles_for, ..Fake::default() }
    }

    /// No model is compiled until this is dropped.
    pub(in crate::nn) fn hold(&self) -> MutexGuard<'_, ()> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Models compiled so far.
    pub(in crate::nn) fn compiled(&self) -> u64 {
        self.compiled.load(Ordering::SeqCst)
    }

    /// Models taken over so far.
    pub(in crate::nn) fn imported(&self) -> u64 {
        self.imported.load(Ordering::SeqCst)
    }

    /// Where it computes.
    pub(in crate::nn) fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Requests made so far.
    pub(in crate::nn) fn requests(&self) -> u64 {
        self.requests.load(Ordering::SeqCst)
    }
}

impl Backend for Fake {
    fn name(&self) -> &'static str {
        self.name.unwrap_or("fake")
    }

    fn encodings(&self) -> &'static [Encoding] {
        match self.serves {
            Serves::Ir => &[IR],
            Serves::Onnx => &[ONNX],
            Serves::Both => &[IR, ONNX],
        }
    }

    fn open(&self) -> Result<&Library, String> {
        static LIBRARY: OnceLock<Library> = OnceLock::new();
        if self.missing {
            return Err("the fake library is missing".to_owned());
        }
        let library = || Library { backend: "fake", path: None, version: "0".into() };
        Ok(LIBRARY.get_or_init(library))
    }

    fn devices(&self) -> Result<Vec<String>, String> {
        Ok(vec!["CPU".to_owned()])
    }

    fn check(
        &self,
        encoding: GraphEncoding,
        _target: ExecutionTarget,
        parts: &[&[u8]],
    ) -> Result<(), Refusal> {
        if encoding == ONNX.id {
            return match parts {
                [_] => Ok(()),
                parts => {
                    Err(Refusal::argument(format!("ONNX takes 1 builder, not {}", parts.len())))
                }
            };
        }
        match parts.first() {
            Some(xml) if !xml.starts_with(b"<net") => Ok(()),
            _ => {
                let bounds = Bounds { operators: Operators::All, ..Bounds::default() };
                builders::check(parts, bounds).map(drop)
            }
        }
    }

    fn compile(&self, source: &Source, _cancel: &Cancel) -> Result<Compiled, Refusal> {
        self.compiling.fetch_add(1, Ordering::SeqCst);
        thread::sleep(self.compiles_for);
        drop(self.hold());
        let xml = String::from_utf8_lossy(&source.parts()[0]).into_owned();
        let says = |word: &str| xml.contains(word);
        assert!(!says("panic"), "a model that panics");
        if says("bad") && !self.lenient {
            return Err(Refusal::runtime(format!(
                "the {} backend can't compile this",
                self.name()
            )));
        }
        self.compiled.fetch_add(1, Ordering::SeqCst);
        Ok(self.graph(&xml))
    }

    fn settings(&self, _target: ExecutionTarget) -> Option<String> {
        Some("fake".to_owned())
    }

    fn import(&self, _source: &Source, compiled: Vec<u8>) -> Result<Compiled, Refusal> {
        self.imported.fetch_add(1, Ordering::SeqCst);
        let Some(xml) = compiled.strip_prefix(EXPORTED) else {
            return Err(Refusal::runtime("the fake backend can't import this"));
        };
        Ok(self.graph(&String::from_utf8_lossy(xml)))
    }
}

impl Fake {
    fn graph(&self, xml: &str) -> Compiled {
        let says = |word: &str| xml.contains(word);
        let batch = if says("open") { None } else { Some(4) };
        let port = |name: &str| Port {
            name: name.into(),
            element: Element::Nn(TensorType::U8),
            shape: Some(vec![Dim { min: batch.unwrap_or(0), max: batch }]),
        };
        Compiled {
            inputs: vec![port("in")],
            outputs: vec![port("out")],
            stateful: says("ReadValue"),
            weight: WEIGHT,
            model: Box::new(FakeModel {
                xml: xml.to_owned(),
                requests: self.requests.clone(),
                memory: self.memory.clone(),
                fails: says("fails"),
                endless: says("endless"),
                stuck: says("stuck").then(|| self.stuck.clone()),
            }),
        }
    }
}

#[derive(Clone)]
struct FakeModel {
    xml: String,
    requests: Arc<AtomicU64>,
    memory: Arc<Memory>,
    fails: bool,
    endless: bool,
    stuck: Option<Arc<Stuck>>,
}

impl Model for FakeModel {
    fn request(&self) -> Result<Box<dyn Request>, Refusal> {
        self.requests.fetch_add(1, Ordering::SeqCst);
        let (input, output) = (Bytes::copy_of(&[]), Arc::new(Bytes::copy_of(&[])));
        Ok(Box::new(FakeRequest { model: self.clone(), input, output }))
    }

    fn export(&self) -> Result<Vec<u8>, String> {
        Ok([EXPORTED, self.xml.as_bytes()].concat())
    }
}

struct FakeRequest {
    model: FakeModel,
    input: Bytes,
    output: Arc<Bytes>,
}

impl Request for FakeRequest {
    fn write(
        &mut self,
        _index: usize,
        _ty: TensorType,
        _shape: &[u32],
        data: &[u8],
    ) -> Result<(), Refusal> {
        self.input = Bytes::copy_of(data);
        Ok(())
    }

    fn give(
        &mut self,
        _index: usize,
        _ty: TensorType,
        _shape: &[u32],
        data: Bytes,
    ) -> Result<(), Refusal> {
        self.input = data;
        Ok(())
    }

    fn run(&mut self, cancel: &Cancel) -> Result<(), Halt> {
        if self.model.fails {
            return Err(Refusal::runtime("the fake backend can't infer this").into());
        }
        if self.model.endless {
            cancel.wait_until(Instant::now() + LONG).map_err(Halt::Cancelled)?;
        }
        if let Some(stuck) = self.model.stuck.clone() {
            let interrupt = stuck.clone();
            cancel
                .interruptible(move || interrupt.cancel(), || stuck.infer())
                .map_err(Halt::Cancelled)?;
            cancel.reason().map_or(Ok(()), |reason| Err(Halt::Cancelled(reason)))?;
        }
        let input = self.input.as_ref();
        let doubled: Vec<u8> = input.iter().map(|n| n.wrapping_mul(2)).collect();
        self.output = Arc::new(Bytes::copy_of(&doubled));
        let addresses = [input, (*self.output).as_ref()].map(|bytes| bytes.as_ptr().addr());
        self.model.memory.input.store(addresses[0], Ordering::SeqCst);
        self.model.memory.output.store(addresses[1], Ordering::SeqCst);
        Ok(())
    }

    fn output_shape(&mut self, _index: usize) -> Result<Vec<u32>, Refusal> {
        Ok(vec![self.output.len() as u32])
    }

    fn read(&mut self, _index: usize, show: &mut dyn FnMut(&[u8])) -> Result<(), Refusal> {
        show((*self.output).as_ref());
        Ok(())
    }

    fn take(&mut self, _index: usize) -> Result<Output, Refusal> {
        Ok(self.output.clone())
    }
}
