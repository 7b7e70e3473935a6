//! Models of a few lines, written here, on libtorch itself.

mod refused;
mod resize;
mod state;

use std::path::PathBuf;
use std::sync::Arc;

use crate::cancel::{Cancel, Reason};
use crate::nn::backends::{Backend, openvino};
use crate::nn::context::NnCtx;
use crate::nn::refusal::{Errno, Halt, Refusal};
use crate::nn::torchscript::write::{Object, class, model, tiny};
use crate::nn::{LoadBytes, Nn, NnConfig, NnLimits};

use super::Torch;

const PYTORCH: u32 = 3;
const F32: u8 = 1;
const F64: u8 = 2;
const U8: u8 = 3;
const I64: u8 = 5;

fn nn() -> Nn {
    let limits = NnLimits { tensor_bytes: 64 << 20, ..NnLimits::default() };
    let load_bytes = LoadBytes::All;
    let config = NnConfig {
        cache_bytes: 1 << 30,
        model_bytes: 1 << 30,
        limits,
        load_bytes,
        ..NnConfig::default()
    };
    let program: PathBuf = std::env::current_exe().expect("the system tells");
    let search = openvino::SearchEnv::from_lookup(Some(program), |_| None);
    let torch =
        Torch::new(None, search, openvino::Hint::Latency, 2, (1 << 30, limits.tensor_bytes));
    let backends: Vec<Box<dyn Backend>> = vec![Box::new(torch)];
    Nn::with_backends(config, backends)
}

fn task(nn: &Nn) -> NnCtx {
    nn.context(&[], Arc::default()).expect("a context")
}

fn floats(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

fn numbers(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
}

fn output(task: &mut NnCtx, context: u32, index: u32) -> Vec<u8> {
    let mut buffer = vec![0; 1 << 16];
    let length = task.get_output(context, index, &mut buffer).expect("an output");
    buffer.truncate(length as usize);
    buffer
}

#[track_caller]
fn refusal<T: std::fmt::Debug>(result: Result<T, Halt>) -> Refusal {
    match result {
        Err(Halt::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}

/// `forward` with these arguments and lines, without attributes.
fn script(head: &str, body: &[&str]) -> Vec<u8> {
    let code = class(&["training : bool"], head, body);
    model(&code, &Object::new("Model").truth("training", false))
}

fn unary(body: &[&str]) -> Vec<u8> {
    script("x: Tensor) -> Tensor", body)
}

struct Ready {
    task: NnCtx,
    context: u32,
}

/// The model with an execution context.
#[track_caller]
fn ready(nn: &Nn, archive: &[u8]) -> Ready {
    let mut task = task(nn);
    let graph = task.load(PYTORCH, 0, &[archive]).expect("loaded");
    let context = task.init_execution_context(graph).expect("a context");
    Ready { task, context }
}

impl Ready {
    #[track_caller]
    fn run(&mut self, inputs: &[&[f32]]) -> Vec<f32> {
        for (index, input) in inputs.iter().enumerate() {
            let shape = [input.len() as u32];
            let set = self.task.set_input(self.context, index as u32, F32, &shape, &floats(input));
            set.expect("it fits");
        }
        self.task.compute(self.context).expect("computed");
        numbers(&output(&mut self.task, self.context, 0))
    }
}

#[test]
fn a_model_computes_for_one_shape_after_the_other() {
    let nn = nn();
    let mut ready = ready(&nn, &tiny());
    for _ in 0..3 {
        assert_eq!(ready.run(&[&[1.0, -5.0, 3.0, 0.0]]), [2.0, 0.0, 6.0, 4.0]);
        assert_eq!(ready.run(&[&[1.0]]), [2.0, 3.0, 4.0, 5.0]);
    }
    assert_eq!(ready.task.report().backends, ["torch"]);
    // An input is still there for the next inference, whatever the model did to it.
    let mut doubled = self::ready(&nn, &unary(&["return torch.mul_(x, 2)"]));
    assert_eq!(doubled.run(&[&[1.5]]), [3.0]);
    assert_eq!(doubled.run(&[]), [3.0]);
    // Two tasks with the same bytes have the same graph.
    let mut other = task(&nn);
    other.load(PYTORCH, 0, &[&tiny()]).expect("loaded");
    assert_eq!(other.report().graphs_reused, 1);
}

#[test]
fn what_an_operator_refuses_is_said_in_one_sentence() {
    let mut ready = ready(&nn(), &tiny());
    ready.task.set_input(ready.context, 0, F32, &[3], &floats(&[0.0; 3])).expect("it fits");
    let refused = refusal(ready.task.compute(ready.context));
    assert_eq!(refused.errno, Errno::RuntimeError);
    assert!(
        refused.text.starts_with("libtorch's inference failed: ")
            && refused.text.contains("must match the size")
            && !refused.text.contains('\n'),
        "{refused}"
    );
    let own =
        unary(&["ops.prim.RaiseException(\"too few cats\", \"builtins.ValueError\")", "return x"]);
    let mut own = self::ready(&nn(), &own);
    own.task.set_input(own.context, 0, F32, &[1], &floats(&[0.0])).expect("it fits");
    let refused = refusal(own.task.compute(own.context));
    assert!(refused.text.contains("too few cats"), "{refused}");
}

#[test]
fn outputs_come_in_order_and_by_name() {
    let nn = nn();
    let pair = "class Pair(NamedTuple):\n  boxes : Tensor\n  scores : Tensor\n";
    let named = {
        let code = class(
            &["training : bool"],
            "x: Tensor) -> __torch__.Pair",
            &["return __torch__.Pair(x, torch.neg(x))"],
        );
        model(&format!("{pair}{code}"), &Object::new("Model").truth("training", false))
    };
    let dict =
        script("x: Tensor) -> Dict[str, Tensor]", &["return {\"b\": x, \"a\": torch.neg(x)}"]);
    let list = script("x: Tensor) -> List[Tensor]", &["return [x, torch.neg(x), x]"]);
    let tuple = script(
        "x: Tensor) -> Tuple[Tensor, Tuple[Tensor, int]]",
        &["return (x, (torch.neg(x), 7))"],
    );
    let of_lists =
        script("x: Tensor) -> Dict[str, List[Tensor]]", &["return {\"b\": [x, torch.neg(x)]}"]);
    for (archive, names) in [
        (named, &["boxes", "scores"][..]),
        (dict, &["b", "a"]),
        (list, &["0", "1", "2"]),
        (tuple, &["0", "1", "2"]),
        (of_lists, &["b.0", "b.1"]),
    ] {
        let mut ready = ready(&nn, &archive);
        assert_eq!(ready.run(&[&[2.0]]), [2.0]);
        assert_eq!(numbers(&output(&mut ready.task, ready.context, 1)), [-2.0]);
        let execution = ready.task.execution(ready.context).expect("there");
        let outputs = execution.outputs().expect("types that wasi-nn has");
        let found: Vec<_> = outputs.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(found, names);
        let none = ready.task.get_output(ready.context, names.len() as u32, &mut [0; 8]);
        assert!(refusal(none).text.contains("there is no output"));
    }
    // One output and one input have the names of Wasmtime's own backend, too.
    let mut one = ready(&nn, &tiny());
    one.run(&[&[0.0; 4]]);
    let execution = one.task.execution(one.context).expect("there");
    assert_eq!(execution.outputs().expect("a type")[0].0, "output");
    assert_eq!(execution.input_named("input"), Ok((0, true)));
    assert_eq!(execution.input_named("x"), Ok((0, true)));
    execution.input_named("y").expect_err("no name of it");
    let strings = script("x: Tensor) -> str", &["return \"a\""]);
    let refused = refusal(task(&nn).load(PYTORCH, 0, &[&strings]));
    assert!(refused.text.contains("can't be tensors of wasi-nn: forward("), "{refused}");
}

#[test]
fn arguments_are_what_the_method_takes() {
    let nn = nn();
    let head =
        "x: Tensor, n: int, f: float, b: bool, m: int=10, o: Optional[Tensor]=None) -> Tensor";
    let body = [
        "y = torch.add(torch.mul(x, n), f, alpha=1)",
        "if b:",
        "  z = torch.add(y, m, alpha=1)",
        "else:",
        "  z = y",
        "if torch.__isnot__(o, None):",
        "  o0 = unchecked_cast(Tensor, o)",
        "  w = torch.add(z, o0, alpha=1)",
        "else:",
        "  w = z",
        "return w",
    ];
    let archive = script(head, &body);
    let mut ready = ready(&nn, &archive);
    let (task, context) = (&mut ready.task, ready.context);
    task.set_input(context, 0, F32, &[1], &floats(&[1.0])).expect("a tensor");
    task.set_input(context, 1, I64, &[1], &3_i64.to_le_bytes()).expect("an int");
    task.set_input(context, 2, F64, &[], &0.5_f64.to_le_bytes()).expect("a float");
    let missing = refusal(task.compute(context)).text;
    assert!(missing.contains("input 3 (`b` bool [...]) is not set"), "{missing}");
    task.set_input(context, 3, U8, &[1], &[1]).expect("a truth value");
    task.compute(context).expect("the others have values of their own");
    assert_eq!(numbers(&output(task, context, 0)), [13.5]);
    task.set_input(context, 4, I64, &[1], &20_i64.to_le_bytes()).expect("an int");
    task.set_input(context, 5, F32, &[1], &floats(&[0.25])).expect("a tensor");
    task.compute(context).expect("computed");
    assert_eq!(numbers(&output(task, context, 0)), [23.75]);
    let wrong = refusal(task.set_input(context, 1, F32, &[1], &floats(&[1.0]))).text;
    assert!(wrong.contains("the model's input is `n` int"), "{wrong}");
    let two = refusal(task.set_input(context, 1, I64, &[2], &[0; 16])).text;
    assert!(two.contains("`n` is one number"), "{two}");
    // The next one has nothing of what this one was given.
    drop(ready);
    let mut next = self::ready(&nn, &archive);
    let (task, context) = (&mut next.task, next.context);
    task.set_input(context, 0, F32, &[1], &floats(&[1.0])).expect("a tensor");
    task.set_input(context, 1, I64, &[1], &3_i64.to_le_bytes()).expect("an int");
    task.set_input(context, 2, F64, &[], &0.5_f64.to_le_bytes()).expect("a float");
    task.set_input(context, 3, U8, &[1], &[1]).expect("a truth value");
    task.compute(context).expect("computed");
    assert_eq!(numbers(&output(task, context, 0)), [13.5]);
    let texts = script("x: Tensor, t: str) -> Tensor", &["return x"]);
    let refused = refusal(self::task(&nn).load(PYTORCH, 0, &[&texts]));
    assert!(refused.text.contains("`t` can't be a tensor of wasi-nn: forward("), "{refused}");
}

#[test]
fn an_endless_inference_ends_with_its_task() {
    let nn = nn();
    // The second one makes no tensor.
    for step in ["y = torch.add(y, x, alpha=1)", "y = torch.detach(y)"] {
        let endless = unary(&["y = x", "while True:", &format!("  {step}"), "return y"]);
        let cancel = Arc::new(Cancel::default());
        let mut task = nn.context(&[], cancel.clone()).expect("a context");
        let graph = task.load(PYTORCH, 0, &[&endless]).expect("loaded");
        let context = task.init_execution_context(graph).expect("a context");
        task.set_input(context, 0, F32, &[1], &floats(&[1.0])).expect("it fits");
        let ran = std::thread::scope(|scope| {
            let running = scope.spawn(move || task.compute(context));
            cancel.cancel(Reason::Stopped);
            running.join().expect("no panic")
        });
        assert_eq!(ran, Err(Halt::Cancelled(Reason::Stopped)));
    }
    // And the next one has the thread.
    assert_eq!(ready(&nn, &tiny()).run(&[&[0.0; 4]]), [1.0, 2.0, 3.0, 4.0]);
}

#[test]
fn tasks_compute_at_the_same_time_on_one_graph() {
    let nn = nn();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let nn = &nn;
            scope.spawn(move || {
                let mut ready = ready(nn, &tiny());
                for round in 0..50 {
                    let x = (thread * 50 + round) as f32;
                    assert_eq!(ready.run(&[&[x]]), [x + 1.0, x + 2.0, x + 3.0, x + 4.0]);
                }
            });
        }
    });
    assert_eq!(nn.stats().graphs_compiled, 1);
}

/// The sound of a track, as frames of 32 ms.
fn frames(track: &[u8]) -> Vec<Vec<f32>> {
    let samples: &[u8] = track.strip_prefix(b"RIFF").expect("a WAV file").get(40..).expect("sound");
    let samples: Vec<f32> = samples
        .as_chunks()
        .0
        .iter()
        .map(|&bytes| f32::from(i16::from_le_bytes(bytes)) / 32768.0)
        .collect();
    samples.chunks_exact(512).map(<[f32]>::to_vec).collect()
}

/// Silero keeps the sound before and its state itself; its sibling in ONNX, which
/// OpenVINO has heard the same track with, is given both.
#[test]
fn silero_hears_what_openvino_hears() {
    let folder = crate::nn::assets::assets().join("fixtures/real/voice");
    let read = |name: &str| std::fs::read(folder.join(name)).expect("the set-up has made it");
    let expected: serde_json::Value =
        serde_json::from_slice(&read("expected.json")).expect("the reference's answer");
    let expected = expected["probabilities"].as_array().expect("a list").clone();
    let nn = nn();
    let mut ready = ready(&nn, &read("model.pt"));
    let (task, context) = (&mut ready.task, ready.context);
    let frames = frames(&read("speech.wav"));
    assert_eq!(frames.len(), expected.len());
    let mut most = 0.0_f32;
    for (frame, expected) in frames.iter().zip(&expected) {
        task.set_input(context, 0, F32, &[1, 512], &floats(frame)).expect("a frame");
        task.set_input(context, 1, I64, &[1], &16_000_i64.to_le_bytes()).expect("a rate");
        task.compute(context).expect("computed");
        let heard = numbers(&output(task, context, 0))[0];
        let expected = expected.as_f64().expect("a number") as f32;
        assert!((heard - expected).abs() < 1e-3, "{heard}, not {expected}");
        most = most.max(heard);
    }
    assert!(most > 0.8, "somebody speaks");
}

#[test]
fn resnet_18_answers_as_the_same_network_in_openvino() {
    let folder = crate::nn::assets::assets().join("fixtures/resnet");
    let read = |name: &str| std::fs::read(folder.join(name)).expect("the set-up has made it");
    let expected: serde_json::Value =
        serde_json::from_slice(&read("expected.json")).expect("the reference's answer");
    let nn = nn();
    let mut ready = ready(&nn, &read("model.pt"));
    // Nothing of it is written to, so that contexts share one copy.
    assert!(!ready.task.shared_graph(0).is_stateful());
    let (task, context) = (&mut ready.task, ready.context);
    let image = read("kitten.tensor");
    task.set_input(context, 0, F32, &[1, 3, 224, 224], &image).expect("an image");
    task.compute(context).expect("computed");
    let answer = numbers(&output(task, context, 0));
    let expected = expected["output"].as_array().expect("a list");
    assert_eq!(answer.len(), expected.len());
    for (found, expected) in answer.iter().zip(expected) {
        let expected = expected.as_f64().expect("a number") as f32;
        assert!((found - expected).abs() < 1e-5, "{found}, not {expected}");
    }
    assert!(answer.iter().copied().fold(0.0, f32::max) > 0.005, "one class is likelier than most");
}
