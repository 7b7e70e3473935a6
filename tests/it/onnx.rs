//! ONNX, from the message to the result: on the engine in Rust wherever this
//! program is, and first on OpenVINO where that is there.

use crate::support::{Answered, On, Stage, Task, fixtures, over_both_brokers, proplet, wat};
use serde_json::Value;
use std::path::Path;

over_both_brokers!(
    an_onnx_model_runs_by_bytes_and_by_name_without_a_native_library,
    a_component_runs_an_onnx_model_by_bytes_and_by_name,
    a_long_inference_of_rten_is_stopped_and_the_next_task_runs,
    a_long_inference_of_rten_runs_into_its_timeout,
);

const RTEN: (&str, &str) = ("nn-backend", "rten");
const ANSWER: &str = "2\n0\n6\n4\n";

/// A field of a message: a number.
fn int(field: u8, number: u64) -> Vec<u8> {
    [vec![field << 3], varint(number)].concat()
}

/// A field with bytes: a text, a message.
fn bytes(field: u8, bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let bytes = bytes.as_ref();
    [&[field << 3 | 2][..], &varint(bytes.len() as u64), bytes].concat()
}

fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

fn node(op: &str, inputs: &[&str], output: &str) -> Vec<u8> {
    let inputs: Vec<_> = inputs.iter().flat_map(|name| bytes(1, name)).collect();
    bytes(1, [inputs, bytes(2, output), bytes(4, op)].concat())
}

/// Numbers of a type by ONNX's number.
fn tensor(name: &str, ty: u64, dim: u64, data: &[u8]) -> Vec<u8> {
    bytes(5, [int(1, dim), int(2, ty), bytes(8, name), bytes(9, data)].concat())
}

/// An input or an output of f32 \[1, 4\].
fn port(field: u8, name: &str) -> Vec<u8> {
    shaped(field, name, &[1, 4])
}

/// An input or an output of f32.
fn shaped(field: u8, name: &str, dims: &[u64]) -> Vec<u8> {
    let dims: Vec<u8> = dims.iter().flat_map(|&dim| bytes(1, int(1, dim))).collect();
    let ty = bytes(1, [int(1, 1), bytes(2, dims)].concat());
    bytes(field, [bytes(1, name), bytes(2, ty)].concat())
}

fn model(graph: &[Vec<u8>]) -> Vec<u8> {
    [int(1, 8), bytes(7, graph.concat()), bytes(8, int(2, 17))].concat()
}

/// `y = relu(x + [1, 2, 3, 4])`, as `nn-self-test-onnx.wat` has it.
fn tiny() -> Vec<u8> {
    let numbers: Vec<u8> = [1f32, 2.0, 3.0, 4.0].iter().flat_map(|n| n.to_le_bytes()).collect();
    model(&[
        node("Add", &["x", "b"], "sum"),
        node("Relu", &["sum"], "y"),
        bytes(2, "tiny"),
        tensor("b", 1, 4, &numbers),
        port(11, "x"),
        port(12, "y"),
    ])
}

/// The same input and output, and between them so many products of matrices
/// that no test waits for their end.
fn slow() -> Vec<u8> {
    let size: Vec<u8> = [512i64, 512].iter().flat_map(|n| n.to_le_bytes()).collect();
    let mut graph =
        vec![node("ReduceMax", &["x"], "most"), node("Expand", &["most", "size"], "v0")];
    for n in 0..20_000 {
        let (from, to) = (format!("v{n}"), format!("v{}", n + 1));
        graph.push(node("MatMul", &[&from, &from], &to));
    }
    graph.extend([
        node("ReduceMax", &["v20000"], "last"),
        node("Add", &["x", "last"], "y"),
        bytes(2, "slow"),
        tensor("size", 7, 2, &size),
        port(11, "x"),
        port(12, "y"),
    ]);
    model(&graph)
}

/// A folder of graph directories: `tiny` and `slow`.
fn graphs() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    for (name, model) in [("tiny", tiny()), ("slow", slow())] {
        std::fs::create_dir(dir.path().join(name)).expect("made");
        std::fs::write(dir.path().join(name).join("model.onnx"), model).expect("written");
    }
    dir
}

fn named(dir: &Path, name: &str) -> Task {
    let graph = format!("nn,nn-graph=onnx::{}", dir.join(name).display());
    Task::wat("nn-tiny").args(&["-S", &graph]).inputs(&[name])
}

fn backends(result: &Answered) -> Value {
    result.0["backends"].clone()
}

#[track_caller]
fn ran_on(result: &Answered, backend: &str) {
    result.succeeded(ANSWER);
    assert_eq!(backends(result), serde_json::json!([backend]));
}

fn an_onnx_model_runs_by_bytes_and_by_name_without_a_native_library(on: On) {
    let dir = graphs();
    let dirs = dir.path().to_str().expect("text");
    let stage = Stage::new(on);
    let _worker = stage.worker(&[("dirs", dirs), RTEN]);
    let cold = stage.run(Task::wat("nn-self-test-onnx"));
    ran_on(&cold, "rten");
    assert_eq!(cold.0["reused"]["graphs_loaded"], 1);
    // With one backend there is no choice to tell of.
    assert_eq!(cold.diagnostics(), Vec::<String>::new());
    // The same bytes, so the same graph.
    let by_name = stage.run(named(dir.path(), "tiny"));
    ran_on(&by_name, "rten");
    assert_eq!(by_name.0["reused"]["graphs_reused"], 1);
    // Another encoding is not its own.
    let ir = stage.run(Task::wat("nn-self-test"));
    ir.failed(&["this worker's one backend is rten (--nn-backend), which has onnx"]);
    assert_eq!(backends(&ir), serde_json::json!([]));
}

/// The mean of each channel of an image of the guide's size.
fn means() -> Vec<u8> {
    model(&[
        node("GlobalAveragePool", &["data"], "pooled"),
        node("Flatten", &["pooled"], "means"),
        bytes(2, "means"),
        shaped(11, "data", &[1, 3, 224, 224]),
        shaped(12, "means", &[1, 3]),
    ])
}

fn a_component_runs_an_onnx_model_by_bytes_and_by_name(on: On) {
    let dir = tempfile::tempdir().expect("a directory");
    let folder = dir.path().join("means");
    std::fs::create_dir(&folder).expect("made");
    std::fs::write(folder.join("model.onnx"), means()).expect("written");
    let channel = |mean: f32| mean.to_le_bytes().repeat(224 * 224);
    let image = [0.5, 2.0, -0.25].map(channel).concat();
    std::fs::write(folder.join("tensor.bgr"), image).expect("written");
    let path = folder.to_str().expect("text");
    let guest = fixtures().join("guests/bin/classification-component.wasm");
    let guest = Task::module(&std::fs::read(guest).expect("a guest")).set("name", "");
    let guest = guest.env("FULL", "1").env("INPUT", "data").env("REPEAT", "3");
    let stage = Stage::new(on);
    let _worker = stage.worker(&[("dirs", path), RTEN]);
    let (folder, graph) = (format!("--dir={path}::fixture"), format!("nn-graph=onnx::{path}"));
    let run = |inputs: &[&str]| {
        let task = guest.clone().args(&["-S", &graph, &folder]).inputs(inputs);
        let result = stage.run(task);
        let output = result.stdout().lines().find_map(|line| line.strip_prefix("output: "));
        assert_eq!(output, Some("5e-1 2e0 -2.5e-1"), "{result:?}");
        assert_eq!(backends(&result), serde_json::json!(["rten"]));
        result.0["reused"]["graphs_loaded"].clone()
    };
    assert_eq!(run(&["onnx"]), 1);
    assert_eq!(run(&["name", "means"]), 0, "the same bytes, so the same graph");
}

/// Loads it and makes an execution context: what such a task does from then on
/// is its inference.
fn load_slow(stage: &Stage, dir: &Path) -> bool {
    let graph = format!("nn,nn-graph=onnx::{}", dir.join("slow").display());
    let task = Task::wat("nn-context-loop").args(&["-S", &graph]).inputs(&["slow", "1"]);
    let result = stage.run(task);
    result.succeeded("contexts 1\nerrno 0\n");
    result.0["reused"]["graphs_reused"] == 1
}

fn a_long_inference_of_rten_is_stopped_and_the_next_task_runs(on: On) {
    let dir = graphs();
    let dirs = dir.path().to_str().expect("text");
    let stage = Stage::new(on);
    let _worker = stage.worker(&[("dirs", dirs), ("executors", "1"), ("queue", "1"), RTEN]);
    assert!(!load_slow(&stage, dir.path()));
    let id = stage.running(named(dir.path(), "slow"));
    stage.stop(&id);
    stage.result(&id).failed(&["stopped"]);
    assert_eq!(stage.results_in_the_end(&id), 1);
    // On the one executor, while what was stopped goes on behind it.
    ran_on(&stage.run(named(dir.path(), "tiny")), "rten");
    assert!(load_slow(&stage, dir.path()), "its graph is as good as before");
}

fn a_long_inference_of_rten_runs_into_its_timeout(on: On) {
    let dir = graphs();
    let dirs = dir.path().to_str().expect("text");
    let stage = Stage::new(on);
    let _worker = stage.worker(&[("dirs", dirs), ("executors", "1"), RTEN]);
    load_slow(&stage, dir.path());
    let graph = format!("nn,nn-graph=onnx::{}", dir.path().join("slow").display());
    let slow = Task::wat("nn-tiny").args(&["-S", &graph, "-W", "timeout=100ms"]);
    stage.run(slow.inputs(&["slow"])).failed(&["timeout", "100ms"]);
    ran_on(&stage.run(Task::wat("nn-self-test-onnx")), "rten");
}

#[test]
fn an_onnx_model_is_run_by_hand() {
    let guest = wat("nn-self-test-onnx");
    let ran = proplet(&["run", "--nn-backend=rten", "-Snn", "-"], &guest, &[]);
    assert_eq!(ran.text(), ANSWER, "{}", ran.stderr);
    let refused = proplet(&["run", "--nn-backend=abacus", "-"], &guest, &[]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("it is auto or one of openvino, rten"), "{}", refused.stderr);
}

/// Without a setting it is the first backend that can.
#[cfg(feature = "openvino")]
#[test]
fn openvino_is_asked_first_and_rten_takes_what_it_does_not() {
    crate::support::assets();
    let stage = Stage::new(On::Embedded);
    let worker = stage.worker(&[]);
    let result = stage.run(Task::wat("nn-self-test-onnx"));
    ran_on(&result, "openvino");
    assert_eq!(result.diagnostics(), ["wasi-nn: the model runs on openvino"]);
    drop(worker);
    let _without = stage.worker(&[("openvino-lib", "/no/such/library")]);
    let result = stage.run(Task::wat("nn-self-test-onnx"));
    ran_on(&result, "rten");
    let said = result.diagnostics();
    assert!(said[0].starts_with("wasi-nn: the model runs on rten, since "), "{said:?}");
    assert!(said[0].contains("/no/such/library"), "{said:?}");
}
