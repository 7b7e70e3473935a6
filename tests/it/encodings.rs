//! TensorFlow Lite and TensorFlow, from the message to the result, also where
//! the process that runs models is confined.

use crate::support::{Answered, On, Stage, Task, assets, fixtures, guest_with, over_both_brokers};
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
