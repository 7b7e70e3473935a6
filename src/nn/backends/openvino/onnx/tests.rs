//! With the real library.

use super::*;
use crate::nn::assets::assets;
use crate::nn::backends::openvino::tests::{context, floats, nn, nn_with};
use crate::nn::context::NnCtx;
use crate::nn::onnx::write::*;
use crate::nn::refusal::Halt;
use crate::task::GraphDir;

/// ONNX's numbers for types.
const F32: i64 = 1;
const I64: i64 = 7;
const BOOL: i64 = 9;

fn load(task: &mut NnCtx, model: &[u8]) -> Result<u32, String> {
    task.load(1, 0, &[model]).map_err(Halt::sentence)
}

/// What a model makes of its inputs, each one a type of wasi-nn, a shape and bytes.
fn run(
    task: &mut NnCtx,
    model: &[u8],
    inputs: &[(u8, &[u32], Vec<u8>)],
) -> Result<Vec<u8>, String> {
    let graph = load(task, model)?;
    let context = task.init_execution_context(graph).map_err(Halt::sentence)?;
    for (index, (ty, shape, bytes)) in inputs.iter().enumerate() {
        task.set_input(context, index as u32, *ty, shape, bytes).map_err(Halt::sentence)?;
    }
    task.compute(context).map_err(Halt::sentence)?;
    let mut output = vec![0xaa; 1 << 16];
    let length = task.get_output(context, 0, &mut output).map_err(Halt::sentence)?;
    output.truncate(length as usize);
    Ok(output)
}

fn refused(model: &[u8]) -> String {
    check(&[model], Bounds::default()).expect_err("refused").text
}

fn whole(numbers: &[i64]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
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
        let mut output = vec![0; 16 * rows as usize];
        assert_eq!(task.get_output(context, 0, &mut output), Ok(16 * rows));
        assert_eq!(output, floats(&[0.0, 0.0, 0.0, 1.0]).repeat(rows as usize));
    }
    let again = load(&mut task, &add());
    assert_eq!((again, nn.stats().graphs_compiled), (Ok(1), 1));
}

/// `y = x[indices]` along an axis.
fn gather(of: &[i64], indices: Option<(&[i64], &[i64])>, axis: i64, ty: i64) -> Vec<u8> {
    let second = match indices {
        Some((shape, numbers)) => ints("i", shape, numbers),
        None => input("i", I64, &[-1]),
    };
    model(&[
        input("x", ty, of),
        second,
        node("Gather", &["x", "i"], &["y"], &[attribute("axis", axis)]),
        output("y", ty, &[]),
    ])
}

#[test]
fn constant_indices_select_what_gather_selects() {
    let nn = nn();
    let mut task = context(&nn);
    let x = || [(5, &[2u32, 3][..], whole(&[1, 2, 3, 4, 5, 6]))];
    // Known shapes, which change nothing, and open ones, which become slices.
    for of in [&[2, 3][..], &[-1, -1]] {
        for (shape, indices, axis, expected) in [
            (&[][..], &[1][..], 0, &[4, 5, 6][..]),
            (&[], &[-1], 1, &[3, 6]),
            (&[], &[-2], -1, &[2, 5]),
            (&[1], &[0], 0, &[1, 2, 3]),
            (&[3], &[2, 0, -1], 1, &[3, 1, 3, 6, 4, 6]),
        ] {
            let model = gather(of, Some((shape, indices)), axis, I64);
            let output = run(&mut task, &model, &x());
            assert_eq!(output, Ok(whole(expected)), "{of:?} {shape:?} {indices:?} {axis}");
        }
    }
}

/// ARCHITECTURE.md, case 55.
#[test]
fn indices_out_of_range_reach_nothing_but_the_model() {
    let nn = nn();
    let mut task = context(&nn);
    let x = || [(5, &[4u32][..], whole(&[7, 7, 7, 7]))];
    assert!(refused(&gather(&[4], None, 5, I64)).contains("Gather (layer `y`)"));
    for index in [4, 1000, -5, i64::MAX, i64::MIN] {
        for (shape, of) in [(&[][..], &[4][..]), (&[1], &[4]), (&[], &[-1]), (&[1], &[-1])] {
            let model = gather(of, Some((shape, &[index])), 0, I64);
            // An error, nothing, or one of its own numbers.
            if let Ok(output) = run(&mut task, &model, &x()) {
                let own = whole(&[7]).repeat(output.len() / 8);
                assert_eq!(output, own, "{index} of {of:?} as {shape:?}");
            }
        }
        // A table with indices of the guest's.
        let table = model(&[
            input("i", I64, &[-1]),
            ints("t", &[3], &[1, 2, 3]),
            node("Gather", &["t", "i"], &["y"], &[]),
            output("y", I64, &[-1]),
        ]);
        let inputs = [(5, &[3u32][..], whole(&[index, 1, -1]))];
        let output = run(&mut task, &table, &inputs).expect("the nearest of its own");
        let nearest = if index > 0 { 3 } else { 1 };
        assert_eq!(output, whole(&[nearest, 2, 3]), "{index}");
    }
    // What is selected from is of no known size.
    assert!(refused(&gather(&[-1], None, 0, I64)).contains("are not constants"));
    let nd = model(&[
        input("x", F32, &[2, 2]),
        input("i", I64, &[1, 2]),
        node("GatherND", &["x", "i"], &["y"], &[]),
        output("y", F32, &[1]),
    ]);
    assert!(refused(&nd).contains("GatherND (layer `y`)"));
}

/// As in `hostile`: the open dimension is one alone.
#[test]
fn what_has_no_elements_is_an_error() {
    let nn = nn();
    let mut task = context(&nn);
    for of in [&[-1, 4][..], &[-1, -1]] {
        let most = model(&[
            input("x", I64, of),
            ints("k", &[1], &[1]),
            node("TopK", &["x", "k"], &["y", "at"], &[attribute("axis", 0)]),
            output("y", I64, &[]),
        ]);
        let of_two = [(5, &[2u32, 4][..], whole(&[1, 6, 3, 8, 5, 2, 7, 4]))];
        assert_eq!(run(&mut task, &most, &of_two), Ok(whole(&[5, 6, 7, 8])), "{of:?}");
        let of_none = [(5, &[0u32, 4][..], Vec::new())];
        let none = run(&mut task, &most, &of_none).expect_err("refused");
        assert!(none.contains("OpenVINO"), "{of:?}: {none}");
    }
}

/// ARCHITECTURE.md, case 56.
#[test]
fn steps_are_constants_and_not_zero() {
    let slice = |step: Vec<u8>| {
        model(&[
            input("x", F32, &[4]),
            ints("a", &[1], &[0]),
            ints("b", &[1], &[4]),
            ints("c", &[1], &[0]),
            step,
            node("Slice", &["x", "a", "b", "c", "s"], &["y"], &[]),
            output("y", F32, &[-1]),
        ])
    };
    assert!(refused(&slice(ints("s", &[1], &[0]))).contains("a step (input 3) is 0"));
    assert!(refused(&slice(input("s", I64, &[1]))).contains("is not a constant"));
    let x = [(1, &[4u32][..], floats(&[1.0, 2.0, 3.0, 4.0]))];
    let nn = nn();
    let sliced = run(&mut context(&nn), &slice(ints("s", &[1], &[2])), &x);
    assert_eq!(sliced, Ok(floats(&[1.0, 3.0])));
    let range = |step: i64| {
        model(&[
            ints("a", &[], &[0]),
            ints("b", &[], &[3]),
            ints("s", &[], &[step]),
            node("Identity", &["s"], &["t"], &[]),
            node("Range", &["a", "b", "t"], &["y"], &[]),
            output("y", I64, &[-1]),
        ])
    };
    assert!(refused(&range(0)).contains("is 0"));
    assert!(check(&[&range(1)], Bounds::default()).is_ok());
}

#[test]
fn what_is_in_a_branch_is_held_to_the_list() {
    let branches = |inner: Vec<u8>| {
        let other = [node("Neg", &["x"], &["e"], &[]), output("e", F32, &[4])];
        let then = [inner, output("t", F32, &[4])];
        model(&[
            input("c", BOOL, &[]),
            input("x", F32, &[4]),
            node(
                "If",
                &["c"],
                &["y"],
                &[branch("then_branch", &then), branch("else_branch", &other)],
            ),
            output("y", F32, &[4]),
        ])
    };
    assert!(refused(&branches(node("Col2Im", &["x"], &["t"], &[]))).contains("Col2Im (layer `t`)"));
    assert!(check(&[&branches(node("Relu", &["x"], &["t"], &[]))], Bounds::default()).is_ok());
    let body = [output("x", F32, &[4])];
    let around = model(&[
        input("x", F32, &[4]),
        node("Loop", &["", "", "x"], &["y"], &[branch("body", &body)]),
        output("y", F32, &[4]),
    ]);
    assert!(refused(&around).contains("Loop (layer `y`)"));
}

#[test]
fn what_is_not_proven_is_taken_where_every_model_is_trusted() {
    let nn = nn_with(Operators::All);
    let x = [(5, &[4u32][..], whole(&[5, 6, 7, 8])), (5, &[2], whole(&[3, 0]))];
    let output = run(&mut context(&nn), &gather(&[-1], None, 0, I64), &x);
    assert_eq!(output, Ok(whole(&[8, 5])));
    // Not so what names other files, or operators that are no operators of ONNX's.
    let place = bytes(13, [bytes(1, "location"), bytes(2, "/etc/passwd")].concat());
    let tensor = [bytes(1, [4]), int(2, 1), bytes(8, "w"), place].concat();
    let external = load(&mut context(&nn), &model(&[bytes(5, tensor)])).expect_err("refused");
    assert!(external.contains("`w` outside of the file"), "{external}");
}

#[test]
fn bytes_of_another_encoding_are_said_to_be_so() {
    let nn = nn();
    let mut task = context(&nn);
    assert!(load(&mut task, b"<?xml version=\"1.0\"?><net/>").expect_err("XML").contains("3c 3f"));
    let as_ir = task.load(0, 0, &[&add(), &[]]).map_err(Halt::sentence).expect_err("ONNX");
    assert!(as_ir.contains("is not OpenVINO's XML"), "{as_ir}");
}

fn read_floats(path: &std::path::Path) -> Vec<f32> {
    let bytes = std::fs::read(path).expect("an answer of the set-up");
    bytes.as_chunks().0.iter().map(|word| f32::from_le_bytes(*word)).collect()
}

/// Models as their packages ship them, against OpenVINO's Python API, which
/// read them as they are.
#[test]
fn real_models_by_name_answer_as_openvinos_own_interface_does() {
    let nn = nn();
    // A type of wasi-nn's and a shape.
    type Input = (u8, &'static [u32]);
    let cases: [(&str, &[Input]); 2] = [
        // Seven times Gather, and an If around each kind of sound.
        ("voice", &[(1, &[1, 576]), (5, &[]), (1, &[2, 1, 128])]),
        // Any number of lines of any width.
        ("line", &[(1, &[1, 3, 48, 160])]),
    ];
    for (name, inputs) in cases {
        let dir = assets().join("fixtures/real").join(name);
        let graph = GraphDir { encoding: "onnx".into(), dir: dir.clone(), name: name.into() };
        let mut task = nn.context(&[graph], std::sync::Arc::default()).expect(name);
        let graph = task.load_by_name(name).expect("it is loaded");
        let context = task.init_execution_context(graph).expect("a context");
        for (index, (ty, shape)) in inputs.iter().enumerate() {
            let bytes = std::fs::read(dir.join(format!("input{index}.bin"))).expect("an input");
            task.set_input(context, index as u32, *ty, shape, &bytes).expect("set");
        }
        task.compute(context).expect("computed");
        let outputs = (0..).map(|index| dir.join(format!("output{index}.bin")));
        for (index, path) in outputs.take_while(|path| path.exists()).enumerate() {
            let expected = read_floats(&path);
            let mut output = vec![0; 4 * expected.len()];
            assert_eq!(
                task.get_output(context, index as u32, &mut output),
                Ok(output.len() as u32)
            );
            let output = output.as_chunks().0.iter().map(|word| f32::from_le_bytes(*word));
            let far = output.zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(far < 1e-4, "output {index} of {name} is off by {far}");
        }
    }
}

#[test]
fn a_model_is_told_with_its_ports_and_each_backend() {
    let nn = nn();
    let told = nn.inspect("onnx", &[&add()]).expect("a model");
    assert_eq!(told.inputs[0].text, "`x` f32 [?,4]");
    assert_eq!(told.inputs[0].shape, Some(vec![(0, None), (4, Some(4))]));
    assert_eq!((&*told.outputs[0].name, told.outputs[0].element), ("y", "f32"));
    assert!(told.memory > add().len() as u64 && !told.stateful);
    assert!(matches!(told.backends[..], [("openvino", Ok(_))]), "{:?}", told.backends);
    let refused = nn.inspect("onnx", &[b"text"]).expect_err("no model");
    assert!(refused.starts_with("openvino: the builder (4 bytes"), "{refused}");
}

/// f16, f64, u8, i32 and i64 beside each other, in and out.
#[test]
fn each_type_goes_in_and_comes_out_at_its_index() {
    let nn = nn();
    // ONNX's number, wasi-nn's, and 1 as its bytes.
    let types: [(i64, u8, &[u8]); 5] = [
        (10, 0, &[0x00, 0x3c]),
        (11, 2, &[0, 0, 0, 0, 0, 0, 0xf0, 0x3f]),
        (2, 3, &[1]),
        (6, 4, &[1, 0, 0, 0]),
        (7, 5, &[1, 0, 0, 0, 0, 0, 0, 0]),
    ];
    let mut graph = Vec::new();
    for (number, (onnx, ..)) in types.iter().enumerate() {
        let (x, y) = (format!("x{number}"), format!("y{number}"));
        graph.push(input(&x, *onnx, &[3]));
        graph.push(node("Add", &[&x, &x], &[&y], &[]));
        graph.push(output(&y, *onnx, &[3]));
    }
    let file = model(&graph);
    let mut task = context(&nn);
    let graph = load(&mut task, &file).expect("a graph");
    let context = task.init_execution_context(graph).expect("a context");
    for (number, (_, ty, one)) in types.iter().enumerate() {
        let zeros = vec![0; one.len()];
        let values = [*one, &zeros, *one].concat();
        task.set_input(context, number as u32, *ty, &[3], &values).expect("set");
    }
    task.compute(context).expect("computed");
    let two: [&[u8]; 5] = [
        &[0x00, 0x40],
        &[0, 0, 0, 0, 0, 0, 0, 0x40],
        &[2],
        &[2, 0, 0, 0],
        &[2, 0, 0, 0, 0, 0, 0, 0],
    ];
    for (number, two) in two.iter().enumerate() {
        let zeros = vec![0; two.len()];
        let mut bytes = vec![0xaa; 3 * two.len()];
        assert_eq!(task.get_output(context, number as u32, &mut bytes), Ok(bytes.len() as u32));
        assert_eq!(bytes, [*two, &zeros, *two].concat(), "type {number}");
    }
}

#[test]
fn factors_of_open_shapes_are_compared() {
    let weights = crate::nn::onnx::write::floats("w", &[2, 2], &[1.0, 2.0, 3.0, 4.0]);
    let turned = [attribute("transB", 1)];
    for (op, attributes, expected) in
        [("MatMul", &[][..], [4.0, 6.0]), ("Gemm", &turned[..], [3.0, 7.0])]
    {
        let product = model(&[
            input("x", F32, &[-1, -1]),
            weights.clone(),
            node(op, &["x", "w"], &["y"], attributes),
            output("y", F32, &[-1, -1]),
        ]);
        let nn = nn();
        let mut task = context(&nn);
        let mut of = |shape: &[u32], numbers: &[f32]| {
            run(&mut task, &product, &[(1, shape, floats(numbers))])
        };
        assert_eq!(of(&[1, 2], &[1.0, 1.0]), Ok(floats(&expected)), "{op}");
        // However often.
        for (shape, numbers) in
            [([2, 1], &[1.0, 1.0][..]), ([2, 1], &[1.0; 2]), ([1, 3], &[1.0; 3])]
        {
            let error = of(&shape, numbers).expect_err("of another size");
            assert!(error.contains("OpenVINO"), "{op}: {error}");
        }
    }
}
