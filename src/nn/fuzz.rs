//! Fuzz targets for what a guest hands to wasi-nn: see [`crate::fuzzing`].

use std::sync::Arc;

use super::backends::fake::Fake;
use super::backends::openvino::builders;
use super::backends::openvino::xml::{self as scanner, Bounds};
use super::tensorflow::Attribute;
use super::torchscript::{self, write};
use super::{Nn, NnConfig, NnLimits, onnx, tensorflow, tflite};

/// An OpenVINO model, the XML; its weights have as many bytes.
pub fn xml(data: &[u8]) {
    let weights = vec![0; data.len()];
    let Ok(scan) = builders::check(&[data, &weights], Bounds::default()) else { return };
    assert!((1..=scanner::MAX_ELEMENTS).contains(&scan.elements));
    let text = std::str::from_utf8(data).expect("only UTF-8 is taken");
    assert!(!text.contains('\0'));
    // No more elements can be seen than there are openings.
    assert!(text.matches('<').count() >= scan.elements);
    // Nothing that comes behind its one root is taken.
    assert!(
        builders::check(&[&[data, b"<net></net>"].concat(), &weights], Bounds::default()).is_err()
    );
    // What needs all of its weights is refused without them.
    if builders::check(&[data, &[]], Bounds::default()).is_err() {
        assert!(text.contains("offset") && text.contains("size"));
    }
}

/// An ONNX file: what is taken is small in what it says, and no more is seen
/// behind it than was proven.
pub fn onnx(data: &[u8]) {
    let Ok(model) = onnx::scan(&[data]) else { return };
    assert!(model.nodes <= onnx::MAX_NODES && model.graph.nodes.len() <= model.nodes);
    for node in &model.graph.nodes {
        assert!(node.place.end <= data.len() && node.place.start < node.place.end);
    }
    for tensor in &model.graph.initializers {
        assert!(tensor.ints(0).is_none_or(|ints| ints.is_empty()), "{}", tensor.name);
    }
    // A second graph behind it is a second one.
    assert!(onnx::scan(&[&[data, &[0x3a, 0]].concat()]).is_err());
}

/// A TensorFlow Lite file.
pub fn tflite(data: &[u8]) {
    let Ok(model) = tflite::scan(&[data]) else { return };
    for tensor in &model.tensors {
        if let Some(bytes) = tensor.data {
            assert_eq!(tensor.bytes(), Some(bytes.len() as u64), "{}", tensor.name);
        }
    }
    let mut made: Vec<bool> = model.tensors.iter().map(|tensor| tensor.data.is_some()).collect();
    model.inputs.iter().for_each(|&input| made[input] = true);
    for operator in &model.operators {
        let known = |&input: &usize| made[input] || model.tensors[input].bytes() == Some(0);
        assert!(operator.inputs.iter().flatten().all(known), "{}", operator.op);
        operator.outputs.iter().for_each(|&output| made[output] = true);
    }
}

/// A frozen graph of TensorFlow's.
pub fn tensorflow(data: &[u8]) {
    let Ok(nodes) = tensorflow::scan(&[data]) else { return };
    for (at, node) in nodes.iter().enumerate() {
        assert!(node.inputs.iter().all(|&(from, _)| from < at), "{}", node.name);
        if let Some(Attribute::Tensor(tensor)) = node.attribute("value") {
            let count: u64 = tensor.shape.iter().product();
            let ints = tensor.ints(1 << 12);
            assert!(ints.is_none_or(|ints| ints.len() as u64 == count), "{}", node.name);
        }
    }
    // Its own nodes behind it are there twice.
    assert!(tensorflow::scan(&[&[data, data].concat()]).is_err());
}

/// A TorchScript archive; or code and the pickle behind it, with numbers for a tensor:
/// what is taken is written as it is taken again.
pub fn torchscript(data: &[u8]) {
    let proven = |archive: &[u8]| {
        let Ok(written) = torchscript::prove(&[archive]) else { return };
        assert!(torchscript::prove(&[&written]).as_ref() == Ok(&written));
    };
    proven(data);
    const MARK: &[u8] = b"\n---\n";
    let Some(at) = data.windows(MARK.len()).position(|bytes| bytes == MARK) else { return };
    proven(&write::archive(&[
        ("code/__torch__.py".to_owned(), &data[..at]),
        ("data.pkl".to_owned(), &data[at + MARK.len()..]),
        ("constants.pkl".to_owned(), write::NO_CONSTANTS),
        ("version".to_owned(), b"3"),
        ("data/0".to_owned(), &[0; 16]),
    ]));
}

const LIMITS: NnLimits = NnLimits { graphs: 8, graph_bytes: 4000, contexts: 6, tensor_bytes: 200 };

/// A task's calls, written as bytes, on a backend that doubles its input.
pub fn nn(data: &[u8]) {
    // Models that panic or never end have tests of their own.
    let holds = |word: &[u8]| data.windows(word.len()).any(|part| part == word);
    if [&b"panic"[..], b"endless", b"stuck"].into_iter().any(holds) {
        return;
    }
    let config =
        NnConfig { cache_bytes: 3000, model_bytes: 200, limits: LIMITS, ..NnConfig::default() };
    let nn = Nn::with_backends(config, vec![Box::new(Fake::default())]);
    let mut task = nn.context(&[], Arc::default()).expect("a context");
    let mut bytes = Bytes(data);
    // What each context was given last.
    let mut contexts: Vec<Option<Vec<u8>>> = Vec::new();
    let mut graphs = 0;
    while let Some(call) = bytes.next() {
        match call % 6 {
            0 => {
                let (encoding, target) = (bytes.number(), bytes.number());
                let parts: Vec<&[u8]> = (0..bytes.number() % 4).map(|_| bytes.part()).collect();
                if let Ok(graph) = task.load(encoding, target, &parts) {
                    assert_eq!((graph, encoding), (graphs, 0), "handles count up");
                    graphs += 1;
                }
            }
            1 => {
                let name = String::from_utf8_lossy(bytes.part()).into_owned();
                assert!(task.load_by_name(&name).is_err(), "there is no graph with a name");
            }
            2 => {
                let graph = bytes.number();
                if let Ok(context) = task.init_execution_context(graph) {
                    assert!(graph < graphs, "a context of graph {graph} of {graphs}");
                    assert_eq!(context as usize, contexts.len());
                    contexts.push(None);
                }
            }
            3 => {
                let (context, index, ty) = (bytes.number(), bytes.number(), bytes.next());
                let shape: Vec<u32> = (0..bytes.number() % 10).map(|_| bytes.number()).collect();
                let tensor = bytes.part();
                let known = contexts.get_mut(context as usize);
                if task.set_input(context, index, ty.unwrap_or(3), &shape, tensor).is_ok() {
                    let product = shape.iter().map(|&n| u128::from(n)).product::<u128>();
                    assert_eq!(product, tensor.len() as u128, "{shape:?}");
                    *known.expect("a context that was made") = Some(tensor.to_vec());
                }
            }
            4 => {
                let context = bytes.number();
                let set = contexts.get(context as usize).is_some_and(Option::is_some);
                assert!(task.compute(context).is_err() || set, "computed without an input");
            }
            _ => {
                let (context, index) = (bytes.number(), bytes.number());
                let mut buffer = vec![0xaa; bytes.number() as usize % 64];
                let Ok(length) = task.get_output(context, index, &mut buffer) else {
                    assert!(buffer.iter().all(|&byte| byte == 0xaa), "written and refused");
                    continue;
                };
                let input = &contexts[context as usize];
                let doubled: Vec<u8> =
                    input.iter().flatten().map(|byte| byte.wrapping_mul(2)).collect();
                assert_eq!(&buffer[..length as usize], doubled, "an output of other inputs");
            }
        }
        assert!(graphs <= LIMITS.graphs && contexts.len() <= LIMITS.contexts as usize);
    }
    assert!(task.report().diagnostics.len() <= 33);
    drop(task);
    assert!(nn.stats().cached_bytes <= 3000);
}

/// Reads calls out of bytes; at the end everything is 0 and empty.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// One byte; the largest one stands for a number of four.
    fn number(&mut self) -> u32 {
        match self.next() {
            Some(u8::MAX) => {
                (0..4).fold(0, |number, _| number << 8 | u32::from(self.next().unwrap_or(0)))
            }
            byte => byte.unwrap_or(0).into(),
        }
    }

    fn part(&mut self) -> &'a [u8] {
        let length = (self.number() as usize).min(self.0.len());
        let (part, rest) = self.0.split_at(length);
        self.0 = rest;
        part
    }
}
