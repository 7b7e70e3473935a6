//! Pipes, sockets and devices where files and directories are expected: opening
//! one may wait for ever. ARCHITECTURE.md, case 71.

use crate::support::{On, Stage, Task, over_both_brokers};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

over_both_brokers!(
    a_pipe_in_a_granted_directory_holds_up_no_thread,
    a_pipe_in_the_place_of_a_directory_is_refused,
    a_pipe_in_the_place_of_a_model_is_refused,
);

/// What it answers instead: not supported.
const NOTSUP: &str = "errno 58";

fn pipe(at: &Path) {
    let made = Command::new("mkfifo").arg(at).status().expect("mkfifo runs");
    assert!(made.success(), "mkfifo {}", at.display());
}

fn a_pipe_in_a_granted_directory_holds_up_no_thread(on: On) {
    let dir = tempfile::tempdir().expect("a directory");
    pipe(&dir.path().join("pipe"));
    std::os::unix::fs::symlink("pipe", dir.path().join("link")).expect("linked");
    let _socket = UnixListener::bind(dir.path().join("socket")).expect("bound");
    std::fs::write(dir.path().join("file"), "content\n").expect("written");
    let stage = Stage::new(on);
    let dirs = format!("{}:rw", dir.path().display());
    let _worker = stage.worker(&[("dirs", &dirs), ("executors", "1")]);
    for name in ["pipe", "link", "socket"] {
        for guest in ["cat", "write-file", "touch"] {
            let task = Task::wat(guest).inputs(&[name]);
            let result = stage.run(task);
            result.failed(&[NOTSUP]);
        }
    }
    stage.run(Task::wat("cat").inputs(&["file"])).succeeded("content\n");
    stage.run(Task::wat("touch").inputs(&["file"])).succeeded("ok\n");
    stage.run(Task::wat("write-file").inputs(&["new"])).succeeded("ok\n");
    stage.run(Task::wat("cat").inputs(&["missing"])).failed(&["errno 44"]);
}

fn a_pipe_in_the_place_of_a_directory_is_refused(on: On) {
    let dir = tempfile::tempdir().expect("a directory");
    let [inside, root] = ["inside", "root"].map(|name| dir.path().join(name));
    pipe(&inside);
    pipe(&root);
    let stage = Stage::new(on);
    let dirs = format!("{}:{}", root.display(), dir.path().display());
    let _worker = stage.worker(&[("dirs", &dirs), ("executors", "1")]);
    for pipe in [&inside, &root] {
        let asked = format!("--dir={}", pipe.display());
        stage.run(Task::wat("hello").args(&[&asked])).failed(&["it is not a directory"]);
        let graph = format!("nn-graph=openvino::{}", pipe.display());
        stage.run(Task::wat("hello").args(&["-S", &graph])).failed(&["it is not a directory"]);
    }
    stage.run(Task::wat("hello")).succeeded("hello\n");
}

fn a_pipe_in_the_place_of_a_model_is_refused(on: On) {
    #[cfg(feature = "openvino")]
    crate::support::assets();
    let dir = tempfile::tempdir().expect("a directory");
    pipe(&dir.path().join("model.xml"));
    std::fs::write(dir.path().join("model.bin"), "").expect("written");
    let stage = Stage::new(on);
    let text = dir.path().to_str().expect("text");
    let _worker = stage.worker(&[("dirs", text), ("executors", "1")]);
    let graph = format!("nn-graph=openvino::{text}");
    let result = stage.run(Task::wat("hello").args(&["-S", &graph]));
    #[cfg(feature = "openvino")]
    result.failed(&["model.xml` is not a file"]);
    #[cfg(all(feature = "onnx", not(feature = "openvino")))]
    result.failed(&["the encoding openvino is not served here"]);
    #[cfg(not(any(feature = "openvino", feature = "onnx")))]
    result.failed(&["no wasi-nn backend"]);
    stage.run(Task::wat("hello")).succeeded("hello\n");
}
