//! PyTorch's models, from the message to the result: by name and, where a setting
//! says so, by bytes, in each isolation.

use crate::support::{
    Answered, On, Stage, Task, assets, fixtures, guest_with, over_both_brokers, proplet,
};
use serde_json::{Value, json};
use std::path::Path;

#[path = "../../src/nn/torchscript/write.rs"]
#[allow(dead_code, reason = "the library's own tests write more")]
mod write;

over_both_brokers!(
    a_torchscript_model_runs_by_name_and_by_bytes_in_each_isolation,
    a_component_runs_resnet_as_openvino_does,
    silero_keeps_its_state_in_a_core_module,
    an_endless_inference_of_libtorch_is_stopped_and_the_next_task_runs,
);

const PYTORCH: u32 = 3;
/// Of `y = relu(x + [1, 2, 3, 4])` for `[1, -5, 3, 0]`.
const ANSWER: &str = "2\n0\n6\n4\n";
const BY_BYTES: (&str, &str) = ("nn-load-bytes", "onnx,pytorch");

/// The same input and output, and no end between them.
fn endless() -> Vec<u8> {
    let body = ["y = x", "while True:", "  y = torch.relu(torch.add(y, x, alpha=1))", "return y"];
    let code = write::class(&["training : bool"], "x: Tensor) -> Tensor", &body);
    write::model(&code, &write::Object::new("Model").truth("training", false))
}

/// A folder of graph directories: `tiny` and `endless`.
fn graphs() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    for (name, model) in [("tiny", write::tiny()), ("endless", endless())] {
        std::fs::create_dir(dir.path().join(name)).expect("made");
        std::fs::write(dir.path().join(name).join("model.pt"), model).expect("written");
    }
    dir
}

fn named(dir: &Path, name: &str) -> Task {
    let graph = format!("nn,nn-graph=pytorch::{}", dir.join(name).display());
    Task::wat("nn-tiny").args(&["-S", &graph]).inputs(&[name])
}

#[track_caller]
fn ran(result: &Answered, how: &str) {
    println!("{how}");
    result.succeeded(ANSWER);
    assert_eq!(result.0["backends"], json!(["torch"]), "{how}");
}

fn a_torchscript_model_runs_by_name_and_by_bytes_in_each_isolation(on: On) {
    let dir = graphs();
    let dirs = dir.path().to_str().expect("text");
    let stage = Stage::new(on);
    let isolations: &[&str] =
        if cfg!(target_os = "linux") { &["process", "none"] } else { &["none"] };
    for &isolation in isolations {
        let worker = stage.worker(&[("dirs", dirs), ("isolation", isolation), BY_BYTES]);
        ran(&stage.run(named(dir.path(), "tiny")), &format!("by name, isolation {isolation}"));
        let by_bytes = stage.run(guest_with(&write::tiny(), PYTORCH));
        ran(&by_bytes, &format!("by bytes, isolation {isolation}"));
        assert_eq!(by_bytes.0["reused"]["graphs_reused"], 1, "the same bytes, so the same graph");
        let refused = stage.run(guest_with(b"no model", PYTORCH));
        refused.failed(&["(8 bytes, beginning with", "exited with code 3"]);
        let body = ["return torch.from_file(\"/etc/passwd\", False, 100)"];
        let code = write::class(&["training : bool"], "x: Tensor) -> Tensor", &body);
        let reads = write::model(&code, &write::Object::new("Model").truth("training", false));
        let refused = stage.run(guest_with(&reads, PYTORCH));
        refused.failed(&["it calls `torch.from_file`, which is not allowed"]);
        drop(worker);
    }
    // Unless the setting names it, guests hand over none.
    let _worker = stage.worker(&[("dirs", dirs)]);
    ran(&stage.run(named(dir.path(), "tiny")), "by name, without the setting");
    let refused = stage.run(guest_with(&write::tiny(), PYTORCH));
    refused.failed(&["takes no models of the encoding pytorch from guests (--nn-load-bytes is"]);
}

fn a_component_runs_resnet_as_openvino_does(on: On) {
    let folder = assets().join("fixtures/resnet");
    let path = folder.to_str().expect("text");
    let input = tempfile::tempdir().expect("a directory");
    // Where the guest looks for its input.
    std::fs::copy(folder.join("kitten.tensor"), input.path().join("tensor.bgr")).expect("copied");
    let given = input.path().to_str().expect("text");
    let guest = fixtures().join("guests/bin/classification-component.wasm");
    let guest = Task::module(&std::fs::read(guest).expect("a guest")).set("name", "");
    let guest = guest.env("FULL", "1").env("INPUT", "x").env("REPEAT", "3");
    let stage = Stage::new(on);
    let _worker = stage.worker(&[("dirs", &format!("{path}:{given}"))]);
    let (fixture, graph) = (format!("--dir={given}::fixture"), format!("nn-graph=pytorch::{path}"));
    let task = guest.args(&["-S", &graph, &fixture]).inputs(&["name", "resnet"]);
    let result = stage.run(task);
    let output = result.stdout().lines().find_map(|line| line.strip_prefix("output: "));
    let output = output.unwrap_or_else(|| panic!("{result:?}"));
    let found: Vec<f64> =
        output.split(' ').map(|number| number.parse().expect("a number")).collect();
    let expected = std::fs::read(folder.join("expected.json")).expect("OpenVINO's answer");
    let expected: Value = serde_json::from_slice(&expected).expect("JSON");
    let expected = expected["output"].as_array().expect("a list");
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        let expected = expected.as_f64().expect("a number");
        assert!((found - expected).abs() < 1e-5, "{found}, not {expected}");
    }
    assert_eq!(result.0["backends"], json!(["torch"]));
}

fn silero_keeps_its_state_in_a_core_module(on: On) {
    let folder = assets().join("fixtures/real/voice");
    let path = folder.to_str().expect("text");
    let graph = format!("nn,nn-graph=pytorch::{path}");
    let stage = Stage::new(on);
    let _worker = stage.worker(&[("dirs", path)]);
    let task = Task::wat("nn-silero").args(&["-S", &graph]).inputs(&["voice"]);
    // Each task begins with the state that the file has, so that all hear the same.
    let first = stage.run(task.clone());
    let thousandths: u32 = first.stdout().trim().parse().expect("a number");
    assert!(thousandths < 100, "silence is no speech: {thousandths}");
    for _ in 0..3 {
        let again = stage.run(task.clone());
        assert_eq!(again.stdout(), first.stdout());
        assert_eq!(again.0["reused"]["graphs_reused"], 1);
    }
}

fn an_endless_inference_of_libtorch_is_stopped_and_the_next_task_runs(on: On) {
    let dir = graphs();
    let dirs = dir.path().to_str().expect("text");
    let stage = Stage::new(on);
    let _worker = stage.worker(&[("dirs", dirs), ("executors", "1"), ("queue", "1")]);
    // It is loaded by then, so that what is stopped is the inference.
    ran(&stage.run(named(dir.path(), "tiny")), "before");
    let id = stage.running(named(dir.path(), "endless"));
    stage.stop(&id);
    stage.result(&id).failed(&["stopped"]);
    assert_eq!(stage.results_in_the_end(&id), 1);
    ran(&stage.run(named(dir.path(), "tiny")), "after");
    // A time limit ends it, too.
    let graph = format!("nn,nn-graph=pytorch::{}", dir.path().join("endless").display());
    let limited = Task::wat("nn-tiny").args(&["-S", &graph, "-W", "timeout=100ms"]);
    stage.run(limited.inputs(&["endless"])).failed(&["timeout", "100ms"]);
}

#[test]
fn without_its_library_a_task_and_the_doctor_say_where_it_was_looked_for() {
    let dir = graphs();
    let dirs = dir.path().to_str().expect("text");
    let stage = Stage::new(On::Embedded);
    let settings = [("dirs", dirs), ("torch-lib", "/no/such/libproplet_torch.so")];
    let _worker = stage.worker(&settings);
    let refused = stage.run(named(dir.path(), "tiny"));
    refused.failed(&["`/no/such/libproplet_torch.so`", "no other place was looked at"]);
    let doctor = crate::support::program()
        .args(["doctor", "--json", "--watch=100ms"])
        .envs(stage.environment(stage.address, &settings).variables())
        .output()
        .expect("the program starts");
    let report: Value = serde_json::from_slice(&doctor.stdout).expect("JSON");
    let findings = report["findings"].as_array().expect("a list");
    let torch = findings.iter().find(|finding| finding["check"] == "torch").expect("a line");
    assert_eq!(torch["verdict"], "failed", "{torch}");
}

/// What `proplet inspect` tells of a model whose types only a run knows.
#[test]
fn a_torchscript_model_is_inspected() {
    let dir = graphs();
    let model = dir.path().join("tiny/model.pt");
    let told = proplet(&["inspect", model.to_str().expect("text")], b"", &[]);
    assert_eq!(told.code, Some(0), "{}", told.stderr);
    assert!(told.text().contains("`x` tensor [...]"), "{}", told.text());
}
