//! With the real library.

use super::*;
use crate::nn::backends::openvino::tests::{context, floats, nn, nn_with};
use crate::nn::context::NnCtx;
use crate::nn::refusal::Halt;
use crate::nn::tflite::write::{self, Step, Value, ints, step, value};
use crate::task::GraphDir;

/// Numbers of operators in the schema.
const ADD: i32 = 0;
const FULLY_CONNECTED: i32 = 9;
const RELU: i32 = 19;
const GATHER: i32 = 36;
const REVERSE_V2: i32 = 105;

/// `relu(x + [1, 2, 3, 4])` for any number of rows, and the sum before it.
fn add() -> Vec<u8> {
    let open = |name| Value { signature: Some(vec![-1, 4]), ..value(name, &[1, 4]) };
    let numbers = write::floats("b", &[4], &[1.0, 2.0, 3.0, 4.0]);
    let values = [open("x"), numbers, open("sum"), open("y")];
    let add = Step { options: Some((11, vec![None])), ..step(ADD, &[0, 1], &[2]) };
    write::model(&values, &[add, step(RELU, &[2], &[3])], &[0], &[3, 2])
}

/// `y = x[indices]`.
fn gather(of: &[i32], indices: Value) -> Vec<u8> {
    let values = [value("x", of), indices, value("y", &[1])];
    let gather = Step { options: Some((23, vec![Some(0)])), ..step(GATHER, &[0, 1], &[2]) };
    let asked: &[i32] = if values[1].data.is_some() { &[0] } else { &[0, 1] };
    write::model(&values, &[gather], asked, &[2])
}

fn load(task: &mut NnCtx, model: &[u8]) -> Result<u32, String> {
    task.load(4, 0, &[model]).map_err(Halt::sentence)
}

fn refused(model: &[u8]) -> String {
    check(&[model], Bounds::default()).expect_err("refused").text
}

#[test]
fn a_model_by_bytes_takes_one_shape_after_the_other() {
    let nn = nn();
    let mut task = context(&nn);
    let graph = load(&mut task, &add()).expect("a graph");
    let context = task.init_execution_context(graph).expect("a context");
    for rows in [3u32, 1, 5] {
        let input = floats(&vec![-3.0; 4 * rows as usize]);
        task.set_input(context, 0, 1, &[rows, 4], &input).expect("set");
        task.compute(context).expect("computed");
        for (index, row) in [[0.0, 0.0, 0.0, 1.0], [-2.0, -1.0, 0.0, 1.0]].iter().enumerate() {
            let mut output = vec![0; 16 * rows as usize];
            assert_eq!(task.get_output(context, index as u32, &mut output), Ok(16 * rows));
            assert_eq!(output, floats(row).repeat(rows as usize), "output {index}");
        }
    }
    let again = load(&mut task, &add());
    assert_eq!((again, nn.stats().graphs_compiled), (Ok(1), 1));
}

#[test]
fn a_model_by_name_is_read_from_its_file() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("model.tflite"), add()).expect("written");
    let (encoding, place) = ("tensorflowlite".to_owned(), dir.path().to_owned());
    let graph = GraphDir { encoding, dir: place, name: "sum".into() };
    let mut task = nn().context(&[graph], std::sync::Arc::default()).expect("a context");
    let graph = task.load_by_name("sum").expect("it is loaded");
    let context = task.init_execution_context(graph).expect("a context");
    task.set_input(context, 0, 1, &[1, 4], &floats(&[0.0; 4])).expect("set");
    task.compute(context).expect("computed");
    let mut output = vec![0; 16];
    assert_eq!(task.get_output(context, 0, &mut output), Ok(16));
    assert_eq!(output, floats(&[1.0, 2.0, 3.0, 4.0]));
}

/// ARCHITECTURE.md, case 55.
#[test]
fn indices_out_of_range_are_refused_or_reach_nothing_but_the_model() {
    for index in [4, -5, i32::MAX, i32::MIN] {
        let text = refused(&gather(&[4], ints("i", &[1], &[index])));
        assert!(text.contains("out of a dimension of 4"), "{text}");
    }
    let free = refused(&gather(&[4], Value { ty: 2, ..value("i", &[1]) }));
    assert!(free.contains("Gather (layer `y`)") && free.contains("are not constants"), "{free}");
    let nn = nn();
    let mut task = context(&nn);
    let graph = load(&mut task, &gather(&[4], ints("i", &[1], &[3]))).expect("a graph");
    let context = task.init_execution_context(graph).expect("a context");
    task.set_input(context, 0, 1, &[4], &floats(&[5.0, 6.0, 7.0, 8.0])).expect("set");
    task.compute(context).expect("computed");
    let mut output = vec![0; 4];
    assert_eq!(task.get_output(context, 0, &mut output), Ok(4));
    assert_eq!(output, floats(&[8.0]));
}

#[test]
fn operators_are_held_to_the_list() {
    let values = || [value("x", &[2, 2]), ints("a", &[1], &[0]), value("y", &[2, 2])];
    let reverse = write::model(&values(), &[step(REVERSE_V2, &[0, 1], &[2])], &[0], &[2]);
    let text = refused(&reverse);
    assert!(text.contains("REVERSE_V2 (layer `y`)"), "{text}");
    let trusted = nn_with(Operators::All);
    load(&mut context(&trusted), &reverse).expect("whoever trusts each model has it");
    // The number of columns would be selected out of one dimension.
    let values = [value("x", &[2, 2]), write::floats("w", &[2], &[1.0; 2]), value("y", &[2, 2])];
    let full = Step { options: Some((8, vec![None])), ..step(FULLY_CONNECTED, &[0, 1], &[2]) };
    let text = refused(&write::model(&values, &[full], &[0], &[2]));
    assert!(text.contains("FULLY_CONNECTED (layer `y`)"), "{text}");
}

#[test]
fn tensors_over_the_tasks_memory_are_refused() {
    let within = |tensor_bytes| check(&[&add()], Bounds { tensor_bytes, ..Bounds::default() });
    let refused = |bytes| within(bytes).expect_err("refused").text;
    assert_eq!(
        refused(15),
        "the model's tensors would take 16 bytes at its inputs (16 bytes), more than \
         --task-tensor-memory, 15"
    );
    assert_eq!(
        refused(31),
        "the model's tensors would take 32 bytes at the operator ADD (layer `sum`, 16 bytes), \
         more than --task-tensor-memory, 31"
    );
    // What is read no more makes room; both outputs are kept.
    assert_eq!(within(32), Ok(2));
}

#[test]
fn bytes_of_another_encoding_are_said_to_be_so() {
    let nn = nn();
    let text = load(&mut context(&nn), b"<?xml version=\"1.0\"?><net/>").expect_err("XML");
    assert!(text.contains("is not a TensorFlow Lite file"), "{text}");
    let as_onnx = context(&nn).load(1, 0, &[&add()]).map_err(Halt::sentence).expect_err("TFLite");
    assert!(as_onnx.contains("is not an ONNX file"), "{as_onnx}");
}

#[test]
fn a_model_is_told_with_its_ports() {
    let told = nn().inspect("tensorflowlite", &[&add()]).expect("a model");
    assert_eq!(told.inputs[0].text, "`x` f32 [?,4]");
    assert_eq!((&*told.outputs[1].name, told.outputs[1].element), ("sum", "f32"));
    assert!(told.memory > add().len() as u64 && !told.stateful);
}

/// Numbers of a byte that stand for others.
#[test]
fn a_quantized_constant_is_what_its_scale_says() {
    let small = Value {
        ty: 9,
        data: Some(vec![3, 4, 5, 6]),
        scales: Some((vec![0.5], vec![2], 0)),
        ..value("q", &[4])
    };
    let values = [value("x", &[4]), small, value("b", &[4]), value("y", &[4])];
    let add = Step { options: Some((11, vec![None])), ..step(ADD, &[0, 2], &[3]) };
    let model = write::model(&values, &[step(6, &[1], &[2]), add], &[0], &[3]);
    let nn = nn();
    let mut task = context(&nn);
    let graph = load(&mut task, &model).expect("a graph");
    let context = task.init_execution_context(graph).expect("a context");
    task.set_input(context, 0, 1, &[4], &floats(&[0.0; 4])).expect("set");
    task.compute(context).expect("computed");
    let mut output = vec![0; 16];
    assert_eq!(task.get_output(context, 0, &mut output), Ok(16));
    assert_eq!(output, floats(&[0.5, 1.0, 1.5, 2.0]));
}
