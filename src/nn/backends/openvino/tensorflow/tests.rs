//! With the real library.

use super::*;
use crate::nn::backends::openvino::tests::{context, floats, nn, nn_with};
use crate::nn::context::NnCtx;
use crate::nn::onnx::write::{bytes, int};
use crate::nn::refusal::Halt;
use crate::nn::tensorflow::write::{F32, I32, attribute, constant, node, placeholder};
use crate::task::GraphDir;

fn typed() -> Vec<u8> {
    attribute("T", int(6, F32))
}

/// `relu(x + [1, 2, 3, 4])` for any number of rows.
fn add() -> Vec<u8> {
    [
        placeholder("x", &[-1, 4]),
        constant("b", F32, &[4], bytes(4, floats(&[1.0, 2.0, 3.0, 4.0]))),
        node("sum", "AddV2", &["x", "b"], &[typed()]),
        node("y", "Relu", &["sum"], &[typed()]),
    ]
    .concat()
}

/// `y = x[indices]`.
fn gather(index: Option<i64>) -> Vec<u8> {
    let index = match index {
        Some(index) => constant("i", I32, &[1], int(7, index)),
        None => {
            let shape = attribute("shape", bytes(7, bytes(2, int(1, 1))));
            node("i", "Placeholder", &[], &[attribute("dtype", int(6, I32)), shape])
        }
    };
    let axis = constant("a", I32, &[], int(7, 0));
    let gather = node("y", "GatherV2", &["x", "i", "a"], &[attribute("batch_dims", int(3, 0))]);
    [placeholder("x", &[4]), index, axis, gather].concat()
}

fn load(task: &mut NnCtx, model: &[u8]) -> Result<u32, String> {
    task.load(2, 0, &[model]).map_err(Halt::sentence)
}

fn refused(model: &[u8]) -> String {
    check(&[model], Bounds::default()).expect_err("refused").text
}

/// What a model of one input and one output of four floats makes of its input.
fn run(task: &mut NnCtx, graph: u32, shape: &[u32], input: &[f32]) -> Vec<u8> {
    let context = task.init_execution_context(graph).expect("a context");
    task.set_input(context, 0, 1, shape, &floats(input)).expect("set");
    task.compute(context).expect("computed");
    let mut output = vec![0xaa; 1 << 10];
    let length = task.get_output(context, 0, &mut output).expect("an output");
    output.truncate(length as usize);
    output
}

#[test]
fn a_graph_by_bytes_takes_one_shape_after_the_other() {
    let nn = nn();
    let mut task = context(&nn);
    let graph = load(&mut task, &add()).expect("a graph");
    for rows in [3u32, 1, 5] {
        let output = run(&mut task, graph, &[rows, 4], &vec![-3.0; 4 * rows as usize]);
        assert_eq!(output, floats(&[0.0, 0.0, 0.0, 1.0]).repeat(rows as usize));
    }
    let again = load(&mut task, &add());
    assert_eq!((again, nn.stats().graphs_compiled), (Ok(1), 1));
}

#[test]
fn a_graph_by_name_is_read_from_its_file() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("model.pb"), add()).expect("written");
    let (encoding, place) = ("tensorflow".to_owned(), dir.path().to_owned());
    let graph = GraphDir { encoding, dir: place, name: "sum".into() };
    let mut task = nn().context(&[graph], std::sync::Arc::default()).expect("a context");
    let graph = task.load_by_name("sum").expect("it is loaded");
    let output = run(&mut task, graph, &[1, 4], &[0.0; 4]);
    assert_eq!(output, floats(&[1.0, 2.0, 3.0, 4.0]));
}

/// ARCHITECTURE.md, case 55.
#[test]
fn indices_out_of_range_are_refused() {
    for index in [4, -5, i64::from(i32::MAX), i64::from(i32::MIN)] {
        let text = refused(&gather(Some(index)));
        assert!(text.contains("out of a dimension of 4"), "{text}");
    }
    let free = refused(&gather(None));
    assert!(free.contains("Gather (layer `y`)") && free.contains("are not constants"), "{free}");
    let nn = nn();
    let mut task = context(&nn);
    let graph = load(&mut task, &gather(Some(3))).expect("a graph");
    assert_eq!(run(&mut task, graph, &[4], &[5.0, 6.0, 7.0, 8.0]), floats(&[8.0]));
}

/// A convolution by a window of 3 by 3 that weighs its middle.
fn convolution(name: &str, input: &str, padding: &str) -> Vec<u8> {
    let numbers = bytes(1, [int(3, 1), int(3, 1), int(3, 1), int(3, 1)].concat());
    let attributes = [
        typed(),
        attribute("strides", numbers),
        attribute("padding", bytes(2, padding)),
        attribute("data_format", bytes(2, "NHWC")),
    ];
    node(name, "Conv2D", &[input, "weights"], &attributes)
}

fn convolutions(rows: i64, paddings: &[&str]) -> Vec<u8> {
    let mut middle = [0.0; 9];
    middle[4] = 2.0;
    let weights = constant("weights", F32, &[3, 3, 1, 1], bytes(4, floats(&middle)));
    let mut graph = [placeholder("x", &[rows, 4, 4, 1]), weights].concat();
    for (at, padding) in paddings.iter().enumerate() {
        let input = if at == 0 { "x".to_owned() } else { format!("y{}", at - 1) };
        graph.extend(convolution(&format!("y{at}"), &input, padding));
    }
    graph
}

/// SECURITY.md: a convolution of what has no elements reads what is not its own.
#[test]
fn what_may_have_no_elements_is_kept_from_operators_that_trust_it() {
    let nodes = |rows, paddings: &[&str]| {
        let graph = convolutions(rows, paddings);
        check(&[&graph], Bounds::default()).expect("taken").1 - 2 - paddings.len()
    };
    // Where shapes are fixed, and behind what gives as much as it was given, all is
    // certain.
    assert_eq!(nodes(1, &["VALID", "VALID"]), 0);
    assert_eq!(nodes(-1, &["SAME", "SAME"]), 15);
    assert_eq!(nodes(-1, &["SAME", "VALID", "SAME"]), 30);
    let none = check(&[&convolutions(0, &["SAME"])], Bounds::default()).expect_err("refused").text;
    assert!(none.contains("Convolution (layer `y0`)") && none.contains("may be empty"), "{none}");

    let nn = nn();
    let mut task = context(&nn);
    let graph = load(&mut task, &convolutions(-1, &["VALID"])).expect("a graph");
    let input: Vec<f32> = (0..32u8).map(f32::from).collect();
    let (one, two) = ([10.0, 12.0, 18.0, 20.0], [42.0, 44.0, 50.0, 52.0]);
    assert_eq!(run(&mut task, graph, &[1, 4, 4, 1], &input[..16]), floats(&one));
    assert_eq!(run(&mut task, graph, &[2, 4, 4, 1], &input), floats(&[one, two].concat()));
    let execution = task.init_execution_context(graph).expect("a context");
    task.set_input(execution, 0, 1, &[0, 4, 4, 1], &[]).expect("set");
    let refused = task.compute(execution).map_err(Halt::sentence).expect_err("refused");
    assert!(refused.contains("OpenVINO"), "{refused}");
}

#[test]
fn operators_are_held_to_the_list() {
    let axes = constant("a", I32, &[1], int(7, 0));
    let reverse = node("y", "ReverseV2", &["x", "a"], &[typed()]);
    let model = [placeholder("x", &[2, 2]), axes, reverse].concat();
    let text = refused(&model);
    assert!(text.contains("ReverseV2 (layer `y`)"), "{text}");
    let trusted = nn_with(Operators::All);
    load(&mut context(&trusted), &model).expect("whoever trusts each model has it");
    // One column of sizes, of which the second would be selected.
    let sizes = constant("a", I32, &[2, 1], int(7, 0));
    let pad = node("y", "Pad", &["x", "a"], &[typed()]);
    let text = refused(&[placeholder("x", &[2, 2]), sizes, pad].concat());
    assert!(text.contains("Pad (layer `y`)"), "{text}");
    // What reads files of the host.
    let file = node("y", "ReadFile", &["x"], &[]);
    assert!(refused(&[placeholder("x", &[1]), file].concat()).contains("ReadFile (layer `y`)"));
}

#[test]
fn inputs_over_the_tasks_memory_are_refused() {
    let bounds = Bounds { tensor_bytes: 15, ..Bounds::default() };
    let text = check(&[&add()], bounds).expect_err("refused").text;
    assert!(text.contains("`x` would take 16 bytes, more than --task-tensor-memory, 15"), "{text}");
}

#[test]
fn a_graph_is_told_with_its_ports() {
    let told = nn().inspect("tensorflow", &[&add()]).expect("a model");
    assert_eq!(told.inputs[0].shape, Some(vec![(0, None), (4, Some(4))]));
    assert_eq!(told.outputs[0].element, "f32");
    assert!(told.memory > add().len() as u64 && !told.stateful);
}

#[test]
fn factors_of_open_shapes_are_compared() {
    let turned = attribute("transpose_b", int(5, 1));
    let product = [
        placeholder("x", &[-1, -1]),
        constant("w", F32, &[2, 2], bytes(4, floats(&[1.0, 2.0, 3.0, 4.0]))),
        node("y", "MatMul", &["x", "w"], &[typed(), turned]),
    ]
    .concat();
    let nn = nn();
    let mut task = context(&nn);
    let graph = load(&mut task, &product).expect("a graph");
    assert_eq!(run(&mut task, graph, &[1, 2], &[1.0, 1.0]), floats(&[3.0, 7.0]));
    // However often.
    for _ in 0..2 {
        let context = task.init_execution_context(graph).expect("a context");
        task.set_input(context, 0, 1, &[2, 1], &floats(&[1.0, 1.0])).expect("set");
        let error = task.compute(context).map_err(Halt::sentence).expect_err("of another size");
        assert!(error.contains("OpenVINO"), "{error}");
    }
}
