//! Several encodings and several backends.

use std::path::Path;
use std::sync::Arc;

use super::backends::fake::{Fake, MODEL, Serves};
use super::*;
use crate::version;

const IR: u32 = 0;
const ONNX: u32 = 1;

fn nn(backends: Vec<Fake>) -> Nn {
    let config = NnConfig { cache_bytes: 1 << 20, model_bytes: 1 << 20, ..NnConfig::default() };
    let boxed = |backend| Box::new(backend) as Box<dyn Backend>;
    Nn::with_backends(config, backends.into_iter().map(boxed).collect())
}

fn directory(dir: &Path, encoding: &str) -> GraphDir {
    GraphDir { encoding: encoding.into(), dir: dir.to_owned(), name: encoding.into() }
}

fn refused(result: Result<u32, Halt>) -> String {
    result.expect_err("refused").sentence()
}

#[test]
fn a_backend_serves_several_encodings_each_with_parts_of_its_own() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("model.onnx"), "one file").expect("written");
    let fake = Fake::serving(Serves::Both);
    let nn = nn(vec![fake.clone()]);
    assert_eq!(nn.encodings(), ["openvino", "onnx"]);
    let named = [directory(dir.path(), "onnx")];
    let mut task = nn.context(&named, Arc::default()).expect("the one file of its encoding");
    assert_eq!(task.load_by_name("onnx"), Ok(0));
    assert_eq!(task.load(IR, 0, &[MODEL, b""]), Ok(1));
    // The same bytes as in the directory are the same graph.
    assert_eq!((task.load(ONNX, 0, &[b"one file"]), fake.compiled()), (Ok(2), 2));
    let parts = refused(task.load(ONNX, 0, &[MODEL, b""]));
    assert_eq!(parts, "ONNX takes 1 builder, not 2");
    let parts = refused(task.load(IR, 0, &[MODEL]));
    assert!(parts.contains("two builders"), "{parts}");
    let error = nn.context(&[directory(dir.path(), "openvino")], Arc::default()).err();
    let error = error.expect("it holds a graph of another encoding");
    assert!(error.ends_with("holds `model.xml` and `model.bin`)"), "{error}");
}

#[test]
fn a_backend_that_does_not_open_hides_no_other() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("model.onnx"), "one file").expect("written");
    let nn = nn(vec![Fake::missing(), Fake::serving(Serves::Onnx)]);
    let libraries = nn.libraries();
    assert_eq!(libraries[0].clone().err().as_deref(), Some("the fake library is missing"));
    assert_eq!(libraries[1].clone().map(|library| library.backend), Ok("fake"));
    let named = [directory(dir.path(), "onnx")];
    let mut task = nn.context(&named, Arc::default()).expect("what it needs is there");
    assert_eq!(task.load(ONNX, 0, &[b"another"]), Ok(0));
    assert_eq!(refused(task.load(IR, 0, &[MODEL, b""])), "the fake library is missing");
    assert_eq!(task.report().diagnostics, ["`load`: the fake library is missing"]);
    let error = nn.context(&[directory(dir.path(), "openvino")], Arc::default()).err();
    assert_eq!(error.as_deref(), Some("the fake library is missing"));
}

#[test]
fn without_any_library_a_task_is_told_at_once() {
    let error = nn(vec![Fake::missing()]).context(&[], Arc::default()).err();
    assert_eq!(error.as_deref(), Some("the fake library is missing"));
}

/// `build.rs` writes them down before there is a program that could be asked.
#[test]
fn the_backends_of_this_build_are_those_that_its_version_names() {
    let nn = Nn::new(NnConfig::default());
    let names: Vec<_> = nn.shared.backends.iter().map(|backend| backend.name()).collect();
    let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    assert_eq!(version::BACKENDS, names);
}
