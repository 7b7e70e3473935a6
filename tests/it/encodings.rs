//! TensorFlow Lite and TensorFlow, from the message to the result, also where
//! the process that runs models is confined.

use crate::support::{Answered, On, Stage, Task, assets, fixtures, over_both_brokers};
use std::fmt::Write as _;
use std::fs;

over_both_brokers!(models_of_tensorflow_run_by_bytes_and_by_name_in_each_isolation);

/// Of `y = relu(x + [1, 2, 3, 4])` for `[1, -5, 3, 0]`.
const ANSWER: &str = "2\n0\n6\n4\n";

/// The name of the encoding, its number, its file, and the model in it, which is
/// one of the fuzz targets', too.
const ENCODINGS: [(&str, u32, &str, &str); 2] = [
    ("tensorflowlite", 4, "model.tflite", "tflite/tiny"),
    ("tensorflow", 2, "model.pb", "tensorflow/add"),
];

fn model(place: &str) -> Vec<u8> {
    let path = fixtures().join("../fuzz/corpus").join(place);
    fs::read(&path).unwrap_or_else(|e| panic!("reading {}: {e}", path.display()))
}

/// The guest that has its ONNX model in its memory, with another one there.
fn guest_with(model: &[u8], encoding: u32) -> Task {
    let path = fixtures().join("guests/wat/nn-self-test-onnx.wat");
    let text = fs::read_to_string(&path).expect("a guest");
    let mut bytes = String::new();
    for byte in model {
        write!(bytes, "\\{byte:02x}").expect("a string grows");
    }
    let length = "(i32.store (i32.const 516) (i32.const 117))";
    let load = "(i32.const 512) (i32.const 1) (i32.const 1)";
    assert!(text.contains(length) && text.contains(load), "the guest is another one");
    // Of two parts of memory in one place the last one counts.
    let end = text.rfind(')').expect("the end of the module");
    let text = format!("{}\n(data (i32.const 1024) \"{bytes}\"))", &text[..end])
        .replace(length, &length.replace("117", &model.len().to_string()))
        .replace(load, &format!("(i32.const 512) (i32.const 1) (i32.const {encoding})"));
    Task::module(&wat::parse_str(text).expect("a module"))
}

#[track_caller]
fn ran(result: &Answered, how: &str) {
    println!("{how}");
    result.succeeded(ANSWER);
    assert_eq!(result.0["backends"], serde_json::json!(["openvino"]), "{how}");
}

fn models_of_tensorflow_run_by_bytes_and_by_name_in_each_isolation(on: On) {
    assets();
    let dir = tempfile::tempdir().expect("a directory");
    let dirs = dir.path().to_str().expect("text");
    for (encoding, _, file, place) in ENCODINGS {
        fs::create_dir(dir.path().join(encoding)).expect("made");
        fs::write(dir.path().join(encoding).join(file), model(place)).expect("written");
    }
    let stage = Stage::new(on);
    let isolations: &[&str] =
        if cfg!(target_os = "linux") { &["process", "none"] } else { &["none"] };
    for &isolation in isolations {
        let worker = stage.worker(&[("dirs", dirs), ("isolation", isolation)]);
        for (encoding, number, _, place) in ENCODINGS {
            let named = format!("nn,nn-graph={encoding}::{dirs}/{encoding}");
            let task = Task::wat("nn-tiny").args(&["-S", &named]).inputs(&[encoding]);
            ran(&stage.run(task), &format!("{encoding} by name, isolation {isolation}"));
            let task = guest_with(&model(place), number);
            ran(&stage.run(task), &format!("{encoding} by bytes, isolation {isolation}"));
            // The next one finds nothing amiss.
            let refused = stage.run(guest_with(b"no model", number));
            refused.failed(&["(8 bytes, beginning with", "exited with code 3"]);
        }
        drop(worker);
    }
}
