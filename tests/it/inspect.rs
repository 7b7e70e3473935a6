//! `proplet inspect`: a model told to whoever writes a guest for it.

use crate::support::proplet;
#[cfg(feature = "openvino")]
use crate::support::{assets, fixtures};
#[cfg(feature = "openvino")]
use serde_json::{Value, json};

#[cfg(feature = "openvino")]
#[test]
fn a_model_is_told_by_its_directory_and_by_its_file() {
    assets();
    let tiny = fixtures().join("models/tiny");
    for path in [tiny.clone(), tiny.join("model.xml")] {
        let path = path.to_str().expect("text");
        let ran = proplet(&["inspect", path], b"", &[]);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        let text = ran.text();
        for part in [
            "encoding  openvino",
            "input     0: `x` f32 [1,4]",
            "output    0: ",
            "openvino: compiled in",
            "CPU",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let ran = proplet(&["inspect", "--json", path], b"", &[]);
        let told: Value = serde_json::from_str(ran.text()).expect("JSON");
        assert_eq!(told["encoding"], "openvino");
        assert_eq!(told["inputs"], json!([{ "name": "x", "type": "f32", "shape": [1, 4] }]));
        assert!(told["memory"].as_u64().is_some_and(|bytes| bytes > 0), "{told}");
        assert_eq!(told["backends"][0]["backend"], "openvino");
        assert!(told["backends"][0]["compile_ms"].is_number(), "{told}");
    }
}

#[test]
fn what_is_no_model_is_an_error_that_says_what_is_known() {
    let folder = tempfile::tempdir().expect("a directory");
    let path = folder.path().to_str().expect("text");
    let ran = proplet(&["inspect", path], b"", &[]);
    assert_eq!(ran.code, Some(1));
    assert!(
        ran.stderr.contains("holds no model") && ran.stderr.contains("model.onnx"),
        "{}",
        ran.stderr
    );
    let file = folder.path().join("model.onnx");
    std::fs::write(&file, "no model").expect("written");
    let ran = proplet(&["inspect", file.to_str().expect("text")], b"", &[]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("is not an ONNX file"), "{}", ran.stderr);
}
