//! `proplet inspect`: a model told to whoever writes a guest for it.

#[cfg(feature = "openvino")]
use crate::support::{assets, fixtures};
use crate::support::{proplet, wat};
use serde_json::Value;
#[cfg(feature = "openvino")]
use serde_json::json;

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

#[test]
fn a_guest_is_told_with_what_it_needs_and_what_the_worker_lacks_for_it() {
    let folder = tempfile::tempdir().expect("a directory");
    let file = |name: &str| {
        let path = folder.path().join(format!("{name}.wasm"));
        std::fs::write(&path, wat(name)).expect("written");
        path.to_str().expect("text").to_owned()
    };
    let ran = proplet(&["inspect", &file("cat")], b"", &[]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    for part in [
        "guest     module (",
        "import    wasi_snapshot_preview1.fd_read: func(i32, i32, i32, i32) -> i32",
        "export    _start: func()",
        "memory    0.1 MiB at the start",
        "needs     `--dir HOST[::GUEST]`",
        "lacks     nothing",
    ] {
        assert!(ran.text().contains(part), "{part}: {}", ran.text());
    }
    let ran = proplet(&["inspect", &file("missing-import")], b"", &[]);
    assert!(ran.text().contains("lacks     `env.no_such_function`: "), "{}", ran.text());
    let large = file("memory-large");
    let ran = proplet(&["inspect", "--json", &large], b"", &[("PROPLET_TASK_MEMORY", "1MiB")]);
    let told: Value = serde_json::from_str(ran.text()).expect("JSON");
    assert_eq!(told["kind"], "module");
    let lacks = told["lacks"][0].as_str().expect("text");
    assert!(lacks.contains("a task may have 1.0 MiB (--task-memory)"), "{told}");
    let ran = proplet(&["inspect", "-"], &wat("component-socket"), &[]);
    for part in ["guest     component", "wasi:sockets/", "lacks     the network"] {
        assert!(ran.text().contains(part), "{part}: {}", ran.text());
    }
    let ran = proplet(&["inspect", "-"], b"no guest", &[]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("not a WebAssembly binary"), "{}", ran.stderr);
}
