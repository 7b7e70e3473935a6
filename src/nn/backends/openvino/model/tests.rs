//! Memory that changes hands: with the real library, by its own contract and
//! with whatever it does behind it.

use std::sync::Arc;

use wasmtime_wasi_nn::wit::TensorType;

use crate::nn::backends::openvino::tests::{add, context, floats, layer, load, net, nn};
use crate::nn::bytes::{Bytes, Kept};
use crate::nn::context::NnCtx;
use crate::nn::source::{Origin, Origins};

/// Computes with an input by its index, and gives the outputs' handles.
fn infer(task: &mut NnCtx, context: u32, shape: &[u32], input: &[f32]) -> Vec<u32> {
    let input = task.new_tensor(shape, TensorType::Fp32, &floats(input)).expect("a tensor");
    let input = task.take_tensor(input).expect("it was made");
    let outputs = task.compute_named(context, vec![("0".to_owned(), input)]).expect("computed");
    outputs.into_iter().map(|(_, tensor)| tensor).collect()
}

fn read(task: &NnCtx, tensor: u32) -> Vec<f32> {
    let data = task.tensor(tensor).expect("a tensor").data();
    let (numbers, rest) = (*data).as_ref().as_chunks();
    assert!(rest.is_empty());
    numbers.iter().map(|number| f32::from_le_bytes(*number)).collect()
}

/// What a core module gets of the same: by copies.
fn copied(task: &mut NnCtx, context: u32, shape: &[u32], input: &[f32]) -> Vec<f32> {
    task.set_input(context, 0, 1, shape, &floats(input)).expect("set");
    task.compute(context).expect("computed");
    let mut buffer = vec![0; 4 * input.len()];
    let length = task.get_output(context, 0, &mut buffer).expect("an output") as usize;
    assert_eq!(length, buffer.len());
    buffer.as_chunks().0.iter().map(|number| f32::from_le_bytes(*number)).collect()
}

/// Outputs that a guest keeps are its own: whatever the same request, another
/// one of the graph, or another task computes afterwards.
#[test]
fn an_output_that_is_kept_is_never_written_again() {
    let nn = nn();
    for shape in ["1", "-1"] {
        let mut first = context(&nn);
        let graph = load(&mut first, &add(shape)).expect("a graph");
        let contexts = [0, 1].map(|_| first.init_execution_context(graph).expect("a context"));
        let rows: &[u32] = if shape == "-1" { &[1, 3, 2, 8, 1] } else { &[1] };
        let mut kept = Vec::new();
        for round in 0..6 {
            for (&context, &rows) in contexts.iter().zip(rows.iter().cycle().skip(round)) {
                let input = vec![100.0 * round as f32 + context as f32; 4 * rows as usize];
                let sum = |(n, x): (usize, &f32)| x + (n % 4) as f32 + 1.0;
                let expected: Vec<f32> = input.iter().enumerate().map(sum).collect();
                let output = infer(&mut first, context, &[rows, 4], &input)[0];
                assert_eq!(read(&first, output), expected);
                // Every third is given back at once, so that its memory is used again.
                if round % 3 != 0 {
                    kept.push((output, expected));
                } else {
                    drop(first.take_tensor(output));
                }
                // A core module's call in between writes to the same memory.
                let copied = copied(&mut first, context, &[rows, 4], &input);
                assert_eq!(copied.len(), 4 * rows as usize);
            }
        }
        for context in contexts {
            first.drop_execution(context);
        }
        // Another task gets the warm requests.
        let mut second = context(&nn);
        let graph = load(&mut second, &add(shape)).expect("a graph");
        for _ in 0..4 {
            let context = second.init_execution_context(graph).expect("a context");
            assert_eq!(copied(&mut second, context, &[1, 4], &[7.0; 4]), [8.0, 9.0, 10.0, 11.0]);
            let output = infer(&mut second, context, &[1, 4], &[8.0; 4])[0];
            assert_eq!(read(&second, output), [9.0, 10.0, 11.0, 12.0]);
        }
        for (output, expected) in &kept {
            assert_eq!(read(&first, *output), *expected, "{shape}");
        }
        drop(second);
        drop(nn.clone());
        for (output, expected) in kept {
            assert_eq!(read(&first, output), expected, "{shape}");
        }
    }
}

/// Four numbers and `[1, 2, 3, 4]` as they are, and twice their sum.
fn handed_on() -> (Vec<u8>, Vec<u8>) {
    let (data, wide) = ("<data element_type=\"f32\" shape=\"4\"/>", Some("4"));
    let weights = "<data element_type=\"f32\" shape=\"4\" offset=\"0\" size=\"16\"/>";
    let xml = net(
        &[
            layer(0, "Parameter", data, &[], wide),
            layer(1, "Const", weights, &[], wide),
            layer(2, "Add", "<data auto_broadcast=\"numpy\"/>", &["4", "4"], wide),
            layer(3, "Result", "", &["4"], None),
            layer(4, "Result", "", &["4"], None),
            layer(5, "Result", "", &["4"], None),
            layer(6, "Result", "", &["4"], None),
        ],
        &[(0, 0, 2, 0), (1, 0, 2, 1), (0, 0, 3, 0), (1, 0, 4, 0), (2, 2, 5, 0), (2, 2, 6, 0)],
    );
    (xml, floats(&[1.0, 2.0, 3.0, 4.0]))
}

/// An output may be an input, a constant, or another output: what a guest keeps
/// of it is its own all the same.
#[test]
fn outputs_that_share_memory_are_kept_apart() {
    let nn = nn();
    let mut task = context(&nn);
    let graph = load(&mut task, &handed_on()).expect("a graph");
    let context = task.init_execution_context(graph).expect("a context");
    let expected = |input: f32| {
        let sum = [1.0, 2.0, 3.0, 4.0].map(|n| n + input);
        [[input; 4], [1.0, 2.0, 3.0, 4.0], sum, sum]
    };
    let mut kept = Vec::new();
    for round in 0..5 {
        let input = 10.0 * round as f32;
        let mut outputs = infer(&mut task, context, &[4], &[input; 4]);
        let read: Vec<_> = outputs.iter().map(|output| read(&task, *output)).collect();
        assert_eq!(read, expected(input));
        // One of them stays, with the others given back.
        let stays = outputs.remove(round % 4);
        for output in outputs {
            drop(task.take_tensor(output));
        }
        kept.push((stays, round));
    }
    for (output, round) in kept {
        let expected = expected(10.0 * round as f32)[round % 4];
        assert_eq!(read(&task, output), expected, "{round}");
    }
}

/// Knows tensors whose numbers are those that are kept, from the first on.
struct Known(Arc<Bytes>);

impl Origins for Known {
    fn origin(&self, _: &[u8]) -> Option<Origin> {
        None
    }

    fn kept(&self, bytes: &[u8]) -> Option<Kept> {
        let at = (*self.0).as_ref().windows(bytes.len()).position(|kept| kept == bytes)?;
        Kept::new(self.0.clone(), at..at + bytes.len())
    }
}

/// What is kept for others too is computed on as it is, and no task, no shape and
/// no other input of the same request writes to it.
#[test]
fn what_others_have_too_is_computed_on_and_never_written() {
    let numbers: Vec<f32> = (0..16).map(|n| 100.0 + n as f32).collect();
    let kept = Arc::new(Bytes::copy_of(&floats(&numbers)));
    // Besides the task that knows them.
    let is_shared = || Arc::strong_count(&kept) > 2;
    let nn = nn();
    let sums = |input: &[f32]| -> Vec<f32> {
        input.iter().enumerate().map(|(n, x)| x + (n % 4) as f32 + 1.0).collect()
    };
    for (shape, model) in [("1", add("1")), ("-1", add("-1")), ("handed on", handed_on())] {
        for _task in 0..2 {
            let mut task = context(&nn);
            task.ask_origins(Arc::new(Known(kept.clone())));
            let graph = load(&mut task, &model).expect("a graph");
            let context = task.init_execution_context(graph).expect("a context");
            let mut check = |input: &[f32], shared: bool| {
                let dims: &[u32] = match shape {
                    "handed on" => &[4],
                    _ => &[input.len() as u32 / 4, 4],
                };
                let output = copied(&mut task, context, dims, input);
                let expected = if shape == "handed on" { input.to_vec() } else { sums(input) };
                assert_eq!(output, expected, "{shape}");
                assert_eq!(is_shared(), shared, "{shape} {input:?}");
            };
            check(&numbers[..4], true);
            check(&numbers[..4], true);
            check(&[7.0; 4], false);
            check(&numbers[4..8], true);
            check(&numbers[8..12], true);
            // It begins where no number of eight bytes may.
            check(&numbers[1..5], false);
            if shape == "-1" {
                check(&numbers, true);
                check(&numbers[..8], true);
                check(&[8.0; 12], false);
            }
            check(&numbers[..4], true);
        }
        // Another task, which has other bytes, gets the warm request.
        let mut task = context(&nn);
        let graph = load(&mut task, &model).expect("a graph");
        let context = task.init_execution_context(graph).expect("a context");
        let dims: &[u32] = if shape == "handed on" { &[4] } else { &[1, 4] };
        copied(&mut task, context, dims, &[9.0; 4]);
        assert_eq!(Arc::strong_count(&kept), 1, "{shape}");
        assert_eq!((*kept).as_ref(), floats(&numbers), "{shape}");
    }
}
