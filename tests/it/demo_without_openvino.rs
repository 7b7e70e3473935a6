//! `proplet demo` of a build without OpenVINO: the rows whose models are ONNX.

use super::support::{assets, fixtures};
use serde_json::{Value, json};
use std::process::{Command, Stdio};

fn demo(arguments: &[&str]) -> String {
    // Otherwise the demo would have it fetched itself, and tell so.
    assets();
    let mut command = Command::new(env!("CARGO_BIN_EXE_proplet"));
    command.current_dir(fixtures().parent().expect("the repository"));
    let output = command.arg("demo").args(arguments).stdin(Stdio::null()).output();
    let output = output.expect("the program runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn the_rust_engine_answers_what_it_can_and_the_rest_is_said_to_be_left_out() {
    let all: Value = serde_json::from_str(&demo(&["--json"])).expect("JSON alone");
    let tasks = all["tasks"].as_array().expect("tasks");
    for (task, title, says) in [
        (&tasks[0], "photos", "tiger cat "),
        (&tasks[1], "speech", "somebody speaks from 0.8 to 2.1 s, "),
        (&tasks[2], "line of text", "\u{201c}A line of text, read inside a sandbox: "),
    ] {
        assert_eq!((&task["task"], &task["backend"]), (&json!(title), &json!("rten")), "{task:#}");
        let said = task["answers"][0]["says"].as_str().unwrap_or_default();
        assert!(said.starts_with(says), "{task:#}");
    }
    assert_eq!(tasks.len(), 3, "{all:#}");
    assert_eq!(all["left_out"], json!(["faces", "file types", "the guide's task"]));
}

#[test]
fn the_table_says_what_is_left_out_and_how_to_have_it() {
    let text = demo(&[]);
    let (_, rest) = text.split_once("Left out, since it needs OpenVINO on Linux: ").expect("said");
    assert!(rest.starts_with("faces, file types, the guide's task.\n"), "{rest}");
    assert!(rest.contains("`cargo run --features openvino -- demo` has all"), "{rest}");
    assert!(!rest.contains("classification.wasm"), "{rest}");
}
