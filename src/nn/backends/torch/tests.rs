//! Models of a few lines, written here, on libtorch itself.

use std::path::PathBuf;
use std::sync::Arc;

use crate::cancel::{Cancel, Reason};
use crate::nn::backends::{Backend, openvino};
use crate::nn::context::NnCtx;
use crate::nn::refusal::{Errno, Halt, Refusal};
use crate::nn::torchscript::write::{Object, class, model, model_with_constant, text, tiny};
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

/// Counts its inferences, and adds up its inputs.
fn counter() -> Vec<u8> {
    let body = [
        "n = self.n",
        "self.n = torch.add(n, 1)",
        "sum = self.sum",
        "_0 = torch.add_(sum, x, alpha=1)",
        "n0 = self.n",
        "return torch.add(_0, n0, alpha=100)",
    ];
    let code =
        class(&["training : bool", "n : int", "sum : Tensor"], "x: Tensor) -> Tensor", &body);
    let object = Object::new("Model").truth("training", false).number("n", 0);
    model(&code, &object.tensor("sum", &[0.0]))
}

#[test]
fn a_models_state_is_its_contexts_own() {
    let nn = nn();
    let (mut first, mut second) = (ready(&nn, &counter()), ready(&nn, &counter()));
    assert_eq!(first.run(&[&[1.0]]), [101.0]);
    assert_eq!(first.run(&[&[2.0]]), [203.0]);
    assert_eq!(second.run(&[&[5.0]]), [105.0]);
    assert_eq!(first.run(&[&[3.0]]), [306.0]);
    // What was given stays as it is when its context goes on.
    let kept = first.task.execution(first.context).expect("there").take_output(0).expect("one").1;
    first.run(&[&[4.0]]);
    assert_eq!(numbers((*kept).as_ref()), [306.0]);
    drop(first);
    assert_eq!(numbers((*kept).as_ref()), [306.0]);
    // In the same task, too, and after the others have ended.
    let graph = second.task.load(PYTORCH, 0, &[&counter()]).expect("loaded");
    second.context = second.task.init_execution_context(graph).expect("a context");
    assert_eq!(second.run(&[&[7.0]]), [107.0]);
    assert_eq!(second.task.report().graphs_reused, 2);
}

/// Whatever way leads to it: what a task leaves behind, no other one finds.
#[test]
fn a_state_that_is_not_in_sight_is_its_contexts_own_too() {
    let nn = nn();
    let begun = || Object::new("Model").truth("training", false);
    let model_of = |parts: &str, attribute: &str, body: &[&str], object: Object| {
        let attributes = ["training : bool", attribute];
        model(&format!("{parts}{}", class(&attributes, "x: Tensor) -> Tensor", body)), &object)
    };
    let tensor_of = |first: &'static str| [first, "return torch.add_(sum, x, alpha=1)"];
    // Evaluation mode is one of modules; this is only called so.
    let mode = "class Mode:\n  training : bool\n  sum : Tensor\n";
    let trains = {
        let begin = b"(c__torch__\nMode\n)\x81}(";
        [&begin[..], &text("training"), b"\x88", &text("sum")].concat()
    };
    let hidden = [
        "mode = (self.modes)[0]",
        "sum = mode.sum",
        "if mode.training:",
        "  y = torch.add_(sum, x, alpha=1)",
        "else:",
        "  y = torch.add(sum, x, alpha=1)",
        "return y",
    ];
    for archive in [
        model_of(
            "",
            "sums : List[Tensor]",
            &tensor_of("sum = (self.sums)[0]"),
            begun().list_of_tensor("sums", &[0.0]),
        ),
        model_of(
            "",
            "sums : Tuple[Tensor]",
            &tensor_of("sum, = self.sums"),
            begun().around_tensor("sums", b"(", &[0.0], b"t"),
        ),
        model_of(
            mode,
            "modes : Tuple[__torch__.Mode]",
            &hidden,
            begun().around_tensor("modes", &trains, &[0.0], b"ubt"),
        ),
    ] {
        let (mut first, mut second) = (ready(&nn, &archive), ready(&nn, &archive));
        assert_eq!(first.run(&[&[1.0]]), [1.0]);
        assert_eq!(first.run(&[&[2.0]]), [3.0]);
        assert_eq!(second.run(&[&[5.0]]), [5.0]);
        assert!(first.task.shared_graph(0).is_stateful());
    }
}

/// As `torch.jit.script` writes a layer that counts while it is trained.
#[test]
fn what_only_training_writes_to_is_shared() {
    let nn = nn();
    let attributes = ["count : int", "training : bool", "mean : Tensor", "deviation : Tensor"];
    let layer = [
        "training = self.training",
        "if training:",
        "  count = self.count",
        "  self.count = torch.add(count, 1)",
        "else:",
        "  pass",
        "training0 = self.training",
        "if training0:",
        "  trains = True",
        "else:",
        "  trains = False",
        "_0 = __torch__.batch_norm",
        "return _0(x, self.mean, self.deviation, trains, )",
    ];
    let code = class(&attributes, "x: Tensor) -> Tensor", &layer);
    let code = format!(
        "{code}def batch_norm(x: Tensor,\n    mean: Optional[Tensor],\n    \
         deviation: Optional[Tensor],\n    training: bool=False) -> Tensor:\n  \
         return torch.batch_norm(x, None, None, mean, deviation, training, 0.1, 0., True)\n"
    );
    let object = Object::new("Model").number("count", 0).truth("training", true);
    let object = object.tensor("mean", &[1.0]).tensor("deviation", &[4.0]);
    let mut ready = ready(&nn, &model(&code, &object));
    assert!(!ready.task.shared_graph(0).is_stateful());
    let (task, context) = (&mut ready.task, ready.context);
    task.set_input(context, 0, F32, &[1, 1, 2], &floats(&[1.0, 5.0])).expect("it fits");
    task.compute(context).expect("computed");
    assert_eq!(numbers(&output(task, context, 0)), [0.0, 2.0]);
}

/// libtorch's own checks of these go round.
#[test]
fn numbers_that_are_out_of_all_proportion_are_refused() {
    let nn = nn();
    for (call, what) in [
        ("torch.reflection_pad1d(y, [n, n])", "`padding` of `aten::reflection_pad1d`"),
        ("torch.pad(y, [n, 9223372036854775807], \"replicate\")", "`pad` of `aten::pad`"),
        ("torch.slice(y, 1, 0, 2, 9223372036854775807)", "`step` of `aten::slice`"),
    ] {
        let body = ["y = torch.unsqueeze(x, 0)", "n = torch.sub(-9223372036854775807, 1)"];
        let mut ready = ready(&nn, &unary(&[body[0], body[1], &format!("return {call}")]));
        let shape = [4];
        let set = ready.task.set_input(ready.context, 0, F32, &shape, &floats(&[1.0; 4]));
        set.expect("it fits");
        let refused = refusal(ready.task.compute(ready.context));
        assert!(refused.text.contains(&format!("{what} is beyond 2147483648")), "{refused}");
    }
    // As `x[1:]` is written.
    let all = unary(&["return torch.slice(x, 0, 1, 9223372036854775807)"]);
    assert_eq!(ready(&nn, &all).run(&[&[1.0, 2.0, 3.0]]), [2.0, 3.0]);
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

/// What only libtorch can tell. What can be told without it is in the tests of
/// `nn/torchscript`.
#[test]
fn what_passes_by_its_names_is_refused_by_what_it_comes_to() {
    let nn = nn();
    let taken = |archive: &[u8]| refusal(task(&nn).load(PYTORCH, 0, &[archive]));
    // A method of the archive's own with the name of an operator.
    let smuggled = |name: &str, call: &str| {
        let code = class(&["training : bool"], "x: Tensor) -> Tensor", &[call]);
        let own =
            format!("{code}  def {name}(self: __torch__.Model) -> NoneType:\n    return None\n");
        model(&own, &Object::new("Model").truth("training", false))
    };
    for (archive, part) in [
        (
            smuggled("resize_", "return (x).resize_([1000])"),
            "the operator `aten::resize_` is not allowed",
        ),
        (
            smuggled("as_strided", "return (x).as_strided([9], [1], 7)"),
            "`aten::as_strided` is not allowed",
        ),
        (smuggled("set_", "return (x).set_(x)"), "`aten::set_` is not allowed"),
        (
            unary(&["return torch.add(x, x, alpha=1, out=x)"]),
            "writes into a tensor that it is given",
        ),
        (
            unary(&["return torch.upsample_nearest2d(x, [4, 4], 1e-30, 1e-30)"]),
            "factors that are not constants between 0.001 and 1000",
        ),
    ] {
        let refused = taken(&archive);
        assert!(refused.text.contains(part), "{refused}");
        assert_eq!(refused.errno, Errno::UnsupportedOperation, "{refused}");
    }
    // What contexts share.
    let with_constant = |body: &[&str]| {
        let code = class(&["training : bool"], "x: Tensor) -> Tensor", body);
        let object = Object::new("Model").truth("training", false);
        model_with_constant(&code, &object, &[1.0, 2.0])
    };
    let reads = with_constant(&["return torch.add(CONSTANTS.c0, x, alpha=1)"]);
    assert_eq!(ready(&nn, &reads).run(&[&[1.0]]), [2.0, 3.0]);
    let refused = taken(&with_constant(&["return torch.add_(CONSTANTS.c0, x, alpha=1)"]));
    assert!(refused.text.contains("`forward` writes to a constant"), "{refused}");
    // Functions that each call the one before twice.
    let mut code =
        class(&["training : bool"], "x: Tensor) -> Tensor", &["return __torch__.f40(x, )"]);
    code.push_str("def f0(x: Tensor) -> Tensor:\n  return torch.relu(x)\n");
    for n in 1..=40 {
        let before = n - 1;
        code.push_str(&format!(
            "def f{n}(x: Tensor) -> Tensor:\n  return __torch__.f{before}(__torch__.f{before}(x, ), )\n"
        ));
    }
    let refused = taken(&model(&code, &Object::new("Model").truth("training", false)));
    assert!(refused.text.contains("come to more than 1000000 operations"), "{refused}");
    let none = class(&["training : bool"], "x: Tensor) -> Tensor", &["return x"]);
    let none = none.replace("def forward", "def backward");
    let refused = taken(&model(&none, &Object::new("Model").truth("training", false)));
    assert!(refused.text.contains("no method `forward`"), "{refused}");
}

#[test]
fn an_attribute_is_of_the_type_that_its_class_declares() {
    let nn = nn();
    let parts = "class Small(Module):\n  training : bool\nclass Large(Module):\n  training : bool\n  \
                 a : int\n  b : int\n  c : int\n";
    let attributes = ["training : bool", "part : __torch__.Large", "b : Tensor"];
    let body = ["part = self.part", "c = part.c", "return torch.add(x, c, alpha=1)"];
    let code = format!("{parts}{}", class(&attributes, "x: Tensor) -> Tensor", &body));
    let begun = || Object::new("Model").truth("training", false);
    let part = |class: &str, more: &str| {
        let mut part = format!("c__torch__\n{class}\n)").into_bytes();
        part.extend(*b"\x81}(");
        part.extend(text("training"));
        part.push(0x89);
        for name in more.split_whitespace() {
            part.extend(text(name));
            part.extend(*b"K\x05");
        }
        part.extend(*b"ub");
        part
    };
    let (small, large) = (part("Small", ""), part("Large", "a b c"));
    let whole = begun().with("part", &large).tensor("b", &[1.0]);
    assert_eq!(ready(&nn, &model(&code, &whole)).run(&[&[1.0]]), [6.0]);
    for (object, name) in [
        (begun().with("part", &small).tensor("b", &[1.0]), "`part`"),
        (begun().with("part", &large).number("b", 7), "`b`"),
        (begun().with("part", &large).with("b", b"]"), "`b`"),
        (
            Object::new("Model").number("training", 1).with("part", &large).tensor("b", &[1.0]),
            "`training`",
        ),
    ] {
        let refused = refusal(task(&nn).load(PYTORCH, 0, &[&model(&code, &object)]));
        assert!(refused.text.contains(&format!("the attribute {name} is not")), "{refused}");
    }
    // This one libtorch itself notices.
    let number = model(&code, &begun().number("part", 7).tensor("b", &[1.0]));
    let refused = refusal(task(&nn).load(PYTORCH, 0, &[&number]));
    assert!(refused.text.contains("Expected Object but got Int"), "{refused}");
    // An object that code takes for one of a class with more attributes.
    let code = format!(
        "{parts}{}",
        class(
            &["training : bool", "part : __torch__.Small"],
            "x: Tensor) -> Tensor",
            &[
                "part = self.part",
                "large = unchecked_cast(__torch__.Large, part)",
                "c = large.c",
                "return torch.add(x, c, alpha=1)",
            ]
        )
    );
    let refused =
        refusal(task(&nn).load(PYTORCH, 0, &[&model(&code, &begun().with("part", &small))]));
    assert!(refused.text.contains("an object is taken for one of another class"), "{refused}");
}

#[test]
fn tensors_of_a_model_are_bounded() {
    let nn = nn();
    let large = unary(&["return torch.ones([100000, 100000])"]);
    let mut ready = ready(&nn, &large);
    ready.task.set_input(ready.context, 0, F32, &[1], &floats(&[0.0])).expect("it fits");
    let refused = refusal(ready.task.compute(ready.context));
    assert_eq!(refused.errno, Errno::TooLarge);
    assert!(refused.text.contains("more than 67108864 bytes"), "{refused}");
    // What an inference has used is free again.
    let fits = unary(&["y = torch.ones([2000000])", "return torch.sum(torch.add(y, x, alpha=1))"]);
    let mut ready = self::ready(&nn, &fits);
    for _ in 0..20 {
        assert_eq!(ready.run(&[&[1.0]]), [4_000_000.0]);
    }
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

/// Archives that are changed here and there: each one is refused, fails or computes.
#[test]
fn damaged_archives_end_in_an_answer_of_libtorch_too() {
    let nn = nn();
    let mut random = fastrand::Rng::with_seed(20_261_130);
    let attributes = ["training : bool", "b : Tensor", "n : int"];
    let body = [
        "b = self.b",
        "n = self.n",
        "y = torch.relu(torch.add(x, b, alpha=1))",
        "z = torch.reshape(y, [n, -1])",
        "if torch.gt(torch.len(torch.size(z)), 1):",
        "  w = torch.sum(z, [0], False)",
        "else:",
        "  w = torch.index_select(z, 0, torch.to(y, 4))",
        "return w",
    ];
    let code = class(&attributes, "x: Tensor) -> Tensor", &body);
    let object = Object::new("Model").truth("training", false);
    let object = object.tensor("b", &[1.0, 2.0, 3.0, 4.0]).number("n", 2);
    let (mut loaded, mut refused) = (0, 0);
    for _ in 0..600 {
        let mut code = code.clone().into_bytes();
        for _ in 0..random.usize(1..3) {
            let at = random.usize(..code.len());
            match random.u8(..3) {
                0 => code[at] = random.choice(b"0123456789()[],.:xyzbnw ").copied().unwrap_or(b' '),
                1 => drop(code.remove(at)),
                _ => {
                    let (from, length) = (random.usize(..code.len()), random.usize(1..12));
                    let piece = code[from..code.len().min(from + length)].to_vec();
                    code.splice(at..at, piece);
                }
            }
        }
        let Ok(code) = String::from_utf8(code) else { continue };
        let mut task = task(&nn);
        let Ok(graph) = task.load(PYTORCH, 0, &[&model(&code, &object)]) else {
            refused += 1;
            continue;
        };
        loaded += 1;
        let Ok(context) = task.init_execution_context(graph) else { continue };
        let set = task.set_input(context, 0, F32, &[4], &floats(&[1.0, -5.0, 3.0, 0.0]));
        if set.is_ok() && task.compute(context).is_ok() {
            task.get_output(context, 0, &mut [0; 1 << 12]).ok();
        }
    }
    assert!(loaded > 20 && refused > 100, "{loaded} loaded, {refused} refused");
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
