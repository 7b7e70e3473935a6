//! Models of a few nodes, written here.

use super::super::Backend;
use super::*;
use crate::cancel::Reason;
use crate::nn::context::NnCtx;
use crate::nn::onnx::write as build;
use crate::nn::onnx::write::{attribute, ints, list, node};
use crate::nn::tensors::{self, Element};
use crate::nn::{Nn, NnConfig};
use wasmtime_wasi_nn::wit::TensorType;

const ONNX: u32 = 1;
const F32: u8 = 1;
const U8: u8 = 3;
const I64: u8 = 5;

fn nn() -> Nn {
    let config = NnConfig { cache_bytes: 1 << 30, model_bytes: 1 << 30, ..NnConfig::default() };
    let backends: Vec<Box<dyn Backend>> = vec![Box::new(Rten::new(2, 64 << 20))];
    Nn::with_backends(config, backends)
}

fn task(nn: &Nn) -> NnCtx {
    nn.context(&[], Arc::default()).expect("a context")
}

fn bytes<const N: usize>(numbers: impl IntoIterator<Item = [u8; N]>) -> Vec<u8> {
    numbers.into_iter().flatten().collect()
}

fn floats(numbers: &[f32]) -> Vec<u8> {
    bytes(numbers.iter().map(|number| number.to_le_bytes()))
}

fn output(task: &mut NnCtx, context: u32, index: u32) -> Vec<u8> {
    let mut buffer = vec![0; 1 << 12];
    let length = task.get_output(context, index, &mut buffer).expect("an output");
    buffer.truncate(length as usize);
    buffer
}

fn refused(model: &[u8]) -> Refusal {
    match task(&nn()).load(ONNX, 0, &[model]) {
        Err(Halt::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_inference_is_right_for_one_shape_after_the_other() {
    let nn = nn();
    let mut task = task(&nn);
    let graph = task.load(ONNX, 0, &[&build::add()]).expect("loaded");
    let context = task.init_execution_context(graph).expect("a context");
    for (rows, input, expected) in [
        (1, vec![1.0, -3.0, 0.5, -4.5], vec![2.0, 0.0, 3.5, 0.0]),
        (2, vec![0.0; 8], [1.0, 2.0, 3.0, 4.0].repeat(2)),
        (2, vec![-1.5; 8], [0.0, 0.5, 1.5, 2.5].repeat(2)),
        (0, vec![], vec![]),
    ] {
        task.set_input(context, 0, F32, &[rows, 4], &floats(&input)).expect("it fits");
        task.compute(context).expect("computed");
        assert_eq!(output(&mut task, context, 0), floats(&expected));
    }
    let wrong = task.set_input(context, 0, F32, &[1, 3], &floats(&[0.0; 3])).expect_err("3");
    assert!(wrong.sentence().contains("the model's input is `x` f32 [?,4]"));
    assert_eq!(task.report().backends, ["rten"]);
}

/// `sum` and `less` of two lists of `i64`, and `images` of `u8` as it came.
fn several() -> Vec<u8> {
    build::model(&[
        build::input("a", 7, &[-1]),
        build::input("b", 7, &[-1]),
        build::input("images", 2, &[2, 2]),
        node("Add", &["a", "b"], &["sum"], &[]),
        node("Less", &["a", "b"], &["less"], &[]),
        node("Transpose", &["images"], &["turned"], &[]),
        build::output("sum", 7, &[-1]),
        build::output("less", 9, &[-1]),
        build::output("turned", 2, &[2, 2]),
    ])
}

#[test]
fn several_inputs_and_outputs_have_the_types_that_the_model_declares() {
    let nn = nn();
    let mut task = task(&nn);
    let graph = task.load(ONNX, 0, &[&several()]).expect("loaded");
    let context = task.init_execution_context(graph).expect("a context");
    let numbers = |list: &[i64]| bytes(list.iter().map(|number| number.to_le_bytes()));
    let extremes = numbers(&[i64::from(i32::MIN), -1, i64::from(i32::MAX)]);
    task.set_input(context, 0, I64, &[3], &extremes).expect("it fits");
    task.set_input(context, 1, I64, &[3], &numbers(&[1, -1, -2])).expect("it fits");
    task.set_input(context, 2, U8, &[2, 2], &[1, 2, 3, 255]).expect("it fits");
    task.compute(context).expect("computed");
    let sum = numbers(&[i64::from(i32::MIN) + 1, -2, i64::from(i32::MAX) - 2]);
    assert_eq!(output(&mut task, context, 0), sum);
    assert_eq!(output(&mut task, context, 1), [1, 0, 0]);
    assert_eq!(output(&mut task, context, 2), [1, 3, 2, 255]);
    let large = numbers(&[0, 1 << 31, 0]);
    let refused = task.set_input(context, 0, I64, &[3], &large).expect_err("33 bits");
    assert_eq!(
        refused.sentence(),
        "rten refuses input 0: its element 1 is 2147483648, and rten computes i64 in 32 bits"
    );
    // Nothing of it stays.
    assert!(task.compute(context).is_err());
}

#[test]
fn what_rten_can_not_run_is_named() {
    let ports = |ty| [build::input("x", ty, &[2, 2]), build::output("y", ty, &[2, 2])];
    let of = |op: &str, ty| {
        let [x, y] = ports(ty);
        build::model(&[x, node(op, &["x"], &["y"], &[]), y])
    };
    let operator = refused(&of("Det", 1));
    assert_eq!(operator.errno, Errno::UnsupportedOperation);
    assert!(operator.text.contains("Det"), "{operator}");
    let double = refused(&of("Relu", 11));
    assert!(double.text.starts_with("rten refuses the model: `x` is of F64, and it"), "{double}");
    let body = build::branch("body", &[]);
    let endless =
        build::model(&[ports(1)[0].clone(), node("Loop", &["", "", "x"], &["y"], &[body])]);
    assert!(refused(&endless).text.contains("Loop `y` may go on without end"));
    let gpu = task(&nn()).load(ONNX, 1, &[&build::add()]).expect_err("no GPU").sentence();
    assert_eq!(gpu, "rten computes on the CPU alone");
}

#[test]
fn an_input_that_a_node_refuses_is_the_inferences_error() {
    // A reshape to a shape that does not fit what comes.
    let model = build::model(&[
        build::input("x", 1, &[-1]),
        ints("shape", &[2], &[2, 2]),
        node("Reshape", &["x", "shape"], &["y"], &[attribute("allowzero", 0)]),
        build::output("y", 1, &[2, 2]),
    ]);
    let nn = nn();
    let mut task = task(&nn);
    let graph = task.load(ONNX, 0, &[&model]).expect("loaded");
    let context = task.init_execution_context(graph).expect("a context");
    task.set_input(context, 0, F32, &[3], &floats(&[1.0; 3])).expect("it fits the input");
    let failed = task.compute(context).expect_err("three into four").sentence();
    assert!(failed.starts_with("rten's inference failed: "), "{failed}");
    assert!(failed.contains("does not match target shape"), "{failed}");
    task.set_input(context, 0, F32, &[4], &floats(&[1.0; 4])).expect("it fits the input");
    task.compute(context).expect("four into four");
}

#[test]
fn the_longest_chain_of_nodes_that_is_taken_is_loaded_and_run() {
    let names: Vec<_> = (0..=crate::nn::onnx::MAX_NODES).map(|n| format!("v{n}")).collect();
    let mut fields = vec![build::input("v0", 1, &[1])];
    let nodes = names.windows(2).map(|pair| node("Relu", &[&pair[0]], &[&pair[1]], &[]));
    fields.extend(nodes);
    fields.push(build::output(&names[names.len() - 1], 1, &[1]));
    let nn = nn();
    let mut task = task(&nn);
    let graph = task.load(ONNX, 0, &[&build::model(&fields)]).expect("loaded");
    let context = task.init_execution_context(graph).expect("a context");
    task.set_input(context, 0, F32, &[1], &floats(&[2.0])).expect("it fits");
    task.compute(context).expect("computed");
    assert_eq!(output(&mut task, context, 0), floats(&[2.0]));
}

/// Models that between them have most of what a file can hold.
fn seeds() -> Vec<Vec<u8>> {
    let branch = |name: &str, op: &str| {
        let value = bytes_of_output(op);
        build::branch(name, &[node(op, &["x"], &[op], &[]), value])
    };
    let image = build::model(&[
        build::input("x", 1, &[1, 2, 6, 6]),
        build::floats("w", &[3, 2, 3, 3], &[0.1; 54]),
        node(
            "Conv",
            &["x", "w"],
            &["c"],
            &[list("pads", &[1; 4]), list("strides", &[1; 2]), list("dilations", &[1; 2])],
        ),
        node("MaxPool", &["c"], &["m"], &[list("kernel_shape", &[2; 2]), list("strides", &[1; 2])]),
        ints("shape", &[2], &[1, -1]),
        node("Reshape", &["m", "shape"], &["y"], &[]),
        build::output("y", 1, &[1, 75]),
    ]);
    let shapes = build::model(&[
        build::input("x", 1, &[-1, 2]),
        ints("size", &[2], &[3, 2]),
        ints("times", &[2], &[2, 1]),
        node("ConstantOfShape", &["size"], &["zeros"], &[]),
        node("Tile", &["zeros", "times"], &["tiled"], &[]),
        node("Concat", &["x", "tiled"], &["all"], &[attribute("axis", 0)]),
        node("Softmax", &["all"], &["y"], &[attribute("axis", -1)]),
        build::output("y", 1, &[-1, 2]),
    ]);
    let branches = build::model(&[
        build::input("x", 1, &[-1]),
        build::input("which", 9, &[]),
        node(
            "If",
            &["which"],
            &["y"],
            &[branch("then_branch", "Relu"), branch("else_branch", "Neg")],
        ),
        build::output("y", 1, &[-1]),
    ]);
    vec![build::add(), several(), image, shapes, branches]
}

fn bytes_of_output(name: &str) -> Vec<u8> {
    build::output(name, 1, &[-1])
}

/// Loads it and, if it can be, computes with what its inputs ask for.
fn try_out(nn: &Nn, model: &[u8]) -> Result<(), Halt> {
    let mut task = task(nn);
    let graph = task.load(ONNX, 0, &[model])?;
    let context = task.init_execution_context(graph)?;
    let ports = task.shared_graph(graph).inputs.clone();
    for (index, port) in ports.iter().enumerate() {
        let Element::Nn(ty) = port.element else { return Ok(()) };
        let dims = port.shape.iter().flatten();
        let shape: Vec<u32> = dims.map(|dim| dim.max.unwrap_or(2) as u32).collect();
        let elements = shape.iter().map(|&dim| u64::from(dim)).product::<u64>();
        if elements > 1 << 20 {
            return Ok(());
        }
        let data = vec![0; (elements * tensors::size(ty)) as usize];
        task.set_input(context, index as u32, number(ty), &shape, &data)?;
    }
    task.compute(context)?;
    let mut buffer = vec![0; 1 << 16];
    task.get_output(context, 0, &mut buffer).map(drop)
}

fn number(ty: TensorType) -> u8 {
    match ty {
        TensorType::Fp32 => F32,
        TensorType::U8 => U8,
        TensorType::I32 => 4,
        TensorType::I64 => I64,
        other => panic!("{other:?} is no type of rten's"),
    }
}

/// A long run: `DAMAGED=1000000 cargo test --lib -- rten::tests::damaged`.
#[test]
fn damaged_models_are_refused_or_run_and_nothing_else_happens() {
    let models: u64 = std::env::var("DAMAGED").map_or(4000, |n| n.parse().expect("a number"));
    let mut random = fastrand::Rng::with_seed(15);
    let (nn, seeds) = (nn(), seeds());
    for seed in &seeds {
        try_out(&nn, seed).expect("whole, it runs");
    }
    let (mut ran, mut refused) = (0, 0);
    for _ in 0..models {
        let mut model = seeds[random.usize(..seeds.len())].clone();
        match random.u8(..8) {
            0 => model.truncate(random.usize(..model.len())),
            1 => {
                let at = random.usize(..model.len());
                let extreme = [0x00, 0x7f, 0x80, 0xff, 0x01][random.usize(..5)];
                model[at] = extreme;
            }
            _ => {
                for _ in 0..random.usize(1..4) {
                    let at = random.usize(..model.len());
                    model[at] ^= 1 << random.u8(..8);
                }
            }
        }
        match try_out(&nn, &model) {
            Ok(()) => ran += 1,
            Err(Halt::Refused(refusal)) => {
                assert!(!refusal.text.is_empty());
                refused += 1;
            }
            Err(other) => panic!("{other:?}"),
        }
    }
    assert!(ran > 0 && refused > models / 4, "{ran} ran, {refused} were refused");
}

/// Each asks for more memory than there is, in another way.
#[test]
fn a_model_that_asks_for_more_memory_than_there_is_is_refused() {
    let from = |size: &[i64], nodes: &[Vec<u8>]| {
        let first = [build::input("x", 1, &[1]), ints("size", &[size.len() as i64], size)];
        build::model(&[&first, nodes, &[build::output("y", 1, &[-1])]].concat())
    };
    let huge = [1 << 20, 1 << 20];
    for (what, model) in [
        ("a constant", from(&huge, &[node("ConstantOfShape", &["size"], &["y"], &[])])),
        ("an expanded one", from(&huge, &[node("Expand", &["x", "size"], &["y"], &[])])),
        ("a repeated one", from(&[1 << 40], &[node("Tile", &["x", "size"], &["y"], &[])])),
        ("a padded one", from(&[0, 1 << 40], &[node("Pad", &["x", "size"], &["y"], &[])])),
        (
            "a cast one",
            from(
                &huge,
                &[
                    node("Cast", &["size"], &["same"], &[attribute("to", 7)]),
                    node("ConstantOfShape", &["same"], &["y"], &[]),
                ],
            ),
        ),
        (
            "a product",
            from(
                &[1 << 20, 1],
                &[
                    node("ConstantOfShape", &["size"], &["column"], &[]),
                    node("Transpose", &["column"], &["row"], &[]),
                    node("Mul", &["column", "row"], &["y"], &[]),
                ],
            ),
        ),
        ("one that doubles", {
            let names: Vec<_> = (0..40).map(|n| format!("v{n}")).collect();
            let double = |pair: &[String]| {
                node("Concat", &[&pair[0], &pair[0]], &[&pair[1]], &[attribute("axis", 0)])
            };
            let mut nodes = vec![node("ConstantOfShape", &["size"], &["v0"], &[])];
            nodes.extend(names.windows(2).map(double));
            nodes.push(node("Relu", &["v39"], &["y"], &[]));
            from(&[1024], &nodes)
        }),
    ] {
        let refused = try_out(&nn(), &model).expect_err(what).sentence();
        let by_size = refused.contains("more than the limit of 67108864 (--task-tensor-memory)");
        // Its size can't even be counted.
        let by_panic = refused.contains("rten panicked: attempt to add with overflow");
        assert!(by_size || by_panic && what == "a padded one", "{what}: {refused}");
    }
}

#[test]
fn an_inference_of_open_shapes_is_held_to_the_limit_before_it_runs() {
    // Each row with each: n x 1 by 1 x n.
    let model = build::model(&[
        build::input("x", 1, &[-1, 1]),
        node("Transpose", &["x"], &["row"], &[]),
        node("Mul", &["x", "row"], &["all"], &[]),
        node("ReduceMax", &["all"], &["y"], &[attribute("keepdims", 0)]),
        build::output("y", 1, &[]),
    ]);
    let nn = nn();
    let mut task = task(&nn);
    let graph = task.load(ONNX, 0, &[&model]).expect("loaded");
    let context = task.init_execution_context(graph).expect("a context");
    for (n, fits) in [(1000, true), (1 << 20, false), (1000, true)] {
        task.set_input(context, 0, F32, &[n, 1], &floats(&vec![2.0; n as usize])).expect("open");
        match task.compute(context) {
            Ok(()) => assert!(fits && output(&mut task, context, 0) == floats(&[4.0])),
            Err(halt) => {
                let text = halt.sentence();
                assert!(
                    !fits && text.contains("rten refuses the inference: its tensors take 43"),
                    "{text}"
                );
            }
        }
    }
}

#[test]
fn an_inference_is_stopped_at_once_and_its_thread_ends_by_itself() {
    let names: Vec<_> = (0..=2000).map(|n| format!("v{n}")).collect();
    let mut fields = vec![build::input("v0", 1, &[512, 512])];
    let product = |pair: &[String]| node("MatMul", &[&pair[0], &pair[0]], &[&pair[1]], &[]);
    fields.extend(names.windows(2).map(product));
    fields.push(build::output("v2000", 1, &[512, 512]));
    let backend = Rten::new(2, 1 << 30);
    let engine = backend.engine.clone();
    let backends: Vec<Box<dyn Backend>> = vec![Box::new(backend)];
    let config = NnConfig { cache_bytes: 1 << 30, model_bytes: 1 << 30, ..NnConfig::default() };
    let nn = Nn::with_backends(config, backends);
    let cancel = Arc::new(Cancel::default());
    let mut task = nn.context(&[], cancel.clone()).expect("a context");
    let graph = task.load(ONNX, 0, &[&build::model(&fields)]).expect("loaded");
    let context = task.init_execution_context(graph).expect("a context");
    task.set_input(context, 0, F32, &[512, 512], &vec![0; 1 << 20]).expect("it fits");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // One for the task, one for the thread that computes.
            while engine.works() < 2 {
                std::thread::yield_now();
            }
            cancel.cancel(Reason::Stopped);
        });
        assert_eq!(task.compute(context), Err(Halt::Cancelled(Reason::Stopped)));
    });
    assert_eq!(engine.left_behind(), 1, "it goes on behind its task");
    // Others go on beside it, with the same graph too.
    let mut other = self::task(&nn);
    let graph = other.load(ONNX, 0, &[&build::add()]).expect("loaded");
    let context = other.init_execution_context(graph).expect("a context");
    other.set_input(context, 0, F32, &[1, 4], &floats(&[1.0; 4])).expect("it fits");
    other.compute(context).expect("computed");
}
