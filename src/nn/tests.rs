//! Several encodings and several backends.

use std::path::Path;
use std::sync::Arc;

use super::backends::fake::{Fake, MODEL, Serves};
use super::*;
use crate::cancel::{Cancel, Reason};
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
    assert_eq!(libraries[0].1.clone().err().as_deref(), Some("the fake library is missing"));
    assert_eq!(libraries[1].1.clone().map(|library| library.backend), Ok("fake"));
    let named = [directory(dir.path(), "onnx")];
    let mut task = nn.context(&named, Arc::default()).expect("what it needs is there");
    assert_eq!(task.load(ONNX, 0, &[b"another"]), Ok(0));
    assert_eq!(refused(task.load(IR, 0, &[MODEL, b""])), "the fake library is missing");
    assert_eq!(task.report().diagnostics, ["`load`: the fake library is missing"]);
    assert_eq!((nn.serves("onnx"), nn.serves("openvino")), (true, false));
}

/// Two backends for ONNX, of which the first takes what is not `bad`.
fn two_for_onnx() -> Nn {
    nn(vec![
        Fake::serving(Serves::Both).named("first"),
        Fake::serving(Serves::Onnx).lenient().named("second"),
    ])
}

#[test]
fn what_the_first_backend_does_not_take_is_the_next_ones() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("model.onnx"), "a bad file").expect("written");
    let nn = two_for_onnx();
    assert_eq!(nn.encodings(), ["openvino", "onnx"]);
    let named = [directory(dir.path(), "onnx")];
    let mut task = nn.context(&named, Arc::default()).expect("the second takes it");
    assert_eq!(task.load(ONNX, 0, &[b"a good one"]), Ok(0));
    assert_eq!(task.load(ONNX, 0, &[b"a bad one"]), Ok(1));
    assert_eq!(task.load(ONNX, 0, &[b"another bad one"]), Ok(2));
    assert_eq!(task.load(IR, 0, &[MODEL, b""]), Ok(3));
    let report = task.report();
    assert_eq!(report.backends, ["second", "first"]);
    // One sentence a kind, and none where there is no choice.
    assert_eq!(
        report.diagnostics,
        [
            "graph `onnx` runs on second, since the first backend can't compile this",
            "the model runs on first",
            "the model runs on second, since the first backend can't compile this",
        ]
    );
    // What is found compiled says the same.
    let mut task = nn.context(&named, Arc::default()).expect("it is there");
    assert_eq!(task.load_by_name("onnx"), Ok(0));
    let report = task.report();
    assert_eq!((report.graphs_reused, report.backends), (1, vec!["second"]));
    assert!(report.diagnostics[0].contains("since the first"), "{:?}", report.diagnostics);
}

#[test]
fn a_backend_that_is_missing_is_passed_over() {
    let missing = Fake::missing().also(Serves::Onnx).named("first");
    let nn = nn(vec![missing, Fake::serving(Serves::Onnx).named("second")]);
    let mut task = nn.context(&[], Arc::default()).expect("one is there");
    assert_eq!(task.load(ONNX, 0, &[b"one"]), Ok(0));
    let report = task.report();
    assert_eq!(report.diagnostics, ["the model runs on second, since the fake library is missing"]);
}

#[test]
fn what_no_backend_takes_is_refused_with_what_each_says() {
    let nn = nn(vec![
        Fake::serving(Serves::Both).named("first"),
        Fake::serving(Serves::Onnx).named("second"),
    ]);
    let mut task = nn.context(&[], Arc::default()).expect("a context");
    assert_eq!(
        refused(task.load(ONNX, 0, &[b"a bad one"])),
        "the first backend can't compile this; the second backend can't compile this"
    );
    // What both say is said once.
    assert_eq!(refused(task.load(ONNX, 0, &[b"", b""])), "ONNX takes 1 builder, not 2");
    assert!(task.report().backends.is_empty());
}

#[test]
fn a_task_that_ends_while_one_backend_fails_asks_no_other() {
    let second = Fake::serving(Serves::Onnx).lenient();
    let first = Fake::serving(Serves::Onnx);
    let nn = nn(vec![first.clone(), second.clone()]);
    let cancel = Arc::new(Cancel::default());
    let mut task = nn.context(&[], cancel.clone()).expect("a context");
    let held = first.hold();
    let loaded = std::thread::scope(|scope| {
        let load = scope.spawn(|| task.load(ONNX, 0, &[b"a bad one"]));
        first.until_compiling();
        cancel.cancel(Reason::Stopped);
        drop(held);
        load.join().expect("no panic")
    });
    assert_eq!(loaded, Err(Halt::Cancelled(Reason::Stopped)));
    assert_eq!(second.compiled(), 0);
}

#[test]
fn inferences_are_counted_for_the_backend_that_runs_them() {
    let nn = two_for_onnx();
    let mut task = nn.context(&[], Arc::default()).expect("a context");
    for model in [&b"a good one"[..], b"a bad one", b"a bad one"] {
        let graph = task.load(ONNX, 0, &[model]).expect("loaded");
        let context = task.init_execution_context(graph).expect("a context");
        task.set_input(context, 0, 3, &[4], &[1, 2, 3, 4]).expect("it fits");
        task.compute(context).expect("computed");
    }
    let times = nn.inference_times().into_iter();
    let counts: Vec<_> =
        times.map(|of| (of.graph, of.backend, of.counts.iter().sum::<u64>())).collect();
    let bytes = |backend: &str, count| ("bytes".to_owned(), backend.to_owned(), count);
    assert_eq!(counts, [bytes("first", 1), bytes("second", 2)]);
}

/// In a build without it, a backend can't be pinned: the setting says so.
#[cfg(feature = "openvino")]
#[test]
fn a_pinned_backend_is_the_only_one() {
    let config = NnConfig { backend: Some(BackendName::OpenVino), ..NnConfig::default() };
    let nn = Nn::new(config);
    let names: Vec<_> = nn.libraries().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["openvino"]);
    let refused = nn.shared.served("pytorch").err().expect("no backend has it");
    assert!(refused.text.contains("one backend is openvino (--nn-backend)"), "{refused}");
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
