//! What is told of a failure: its cause first, whoever refused what.

use crate::support::{Bench, Ran, proplet, wat};
use std::fs;
use std::path::Path;

fn mount(dir: &Path, guest: &str) -> String {
    format!("--dir={}::{guest}", dir.display())
}

/// The first line of why `guest` failed, with `dir` as `data`.
fn cause(dir: &Path, writable: bool, guest: &str, inputs: &[&str]) -> String {
    let bench = Bench::new().root(dir, writable);
    let outcome = bench.wat(guest).cli_args(&[&mount(dir, "data")]).inputs(inputs).run();
    let error = outcome.error().unwrap_or_else(|| panic!("{guest} succeeded"));
    error.lines().next().expect("a line").to_owned()
}

#[test]
fn a_file_that_is_not_there_is_named_with_where_it_was_looked_for() {
    let dir = tempfile::tempdir().expect("a directory");
    let there = dir.path().canonicalize().expect("a directory");
    for guest in ["cat", "component-open"] {
        let cause = cause(&there, false, guest, &["model.xml"]);
        let told = format!(
            "files: `data/model.xml` was not found in the directory `data` ({0}); the task has \
             `data` ({0}, read-only)",
            there.display()
        );
        assert!(cause.contains(&told), "{guest}: {cause}");
    }
}

#[test]
fn a_file_that_may_not_be_written_is_named_with_what_would_let_it() {
    let dir = tempfile::tempdir().expect("a directory");
    for (guest, path) in [("write-file", "out.txt"), ("symlink", "a")] {
        let cause = cause(dir.path(), false, guest, &[path, "b"]);
        assert!(
            cause.contains("may not be written: the directory `data` (")
                && cause.contains("is read-only for the task (`:rw`"),
            "{guest}: {cause}"
        );
    }
}

#[test]
fn a_path_that_leads_out_is_told_as_such() {
    let dir = tempfile::tempdir().expect("a directory");
    std::os::unix::fs::symlink("/etc", dir.path().join("link")).expect("linked");
    for guest in ["cat", "component-open"] {
        let out = cause(dir.path(), false, guest, &["../passwd"]);
        assert!(out.contains("the path leads out of the directory `data`"), "{guest}: {out}");
        let link = cause(dir.path(), false, guest, &["link/passwd"]);
        let told = "`link` is a link to `/etc`, which leads out of the directory `data`";
        assert!(link.contains(told), "{guest}: {link}");
    }
}

/// A guest that succeeds has coped, and one that fails for another reason has
/// only its own.
#[test]
fn what_a_guest_copes_with_is_not_told() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join("a"), "a").expect("written");
    let bench = Bench::new().root(dir.path(), false);
    let mounted = mount(dir.path(), "data");
    let outcome = bench.wat("cat").cli_args(&[&mounted]).inputs(&["a"]).run();
    assert_eq!((outcome.verdict, outcome.diagnostics), (Ok(()), vec![]));
    let outcome = bench.wat("trap-unreachable").cli_args(&[&mounted]).run();
    assert_eq!(outcome.diagnostics, Vec::<String>::new());
}

/// A C library looks a path up by itself, and asks the host for none that no
/// directory leads to.
#[test]
fn a_path_that_no_directory_leads_to_is_told_by_what_the_guest_says() {
    let said = "fopen: No such file or directory";
    let text = format!(
        r#"(module
        (import "wasi_snapshot_preview1" "fd_write"
            (func $write (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (memory (export "memory") 1)
        (data (i32.const 0) "\08\00\00\00\20\00\00\00{said}")
        (func (export "_start")
            (drop (call $write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 100)))
            (call $exit (i32.const 1))))"#
    );
    assert_eq!(said.len(), 0x20);
    let module = wat::parse_str(text).expect("a module");
    let error = Bench::new().guest(module).run().error().expect("it fails");
    let first = error.lines().next().expect("a line");
    assert!(
        first.starts_with(&format!("guest: {said}; files: the guest asked for no file"))
            && first.ends_with("the task has no directory (`--dir` gives it one)"),
        "{error}"
    );
}

/// `proplet run` with this guest.
fn run(folder: &Path, flags: &[&str], guest: &str, inputs: &[&str]) -> Ran {
    let path = folder.join(format!("{guest}.wasm"));
    fs::write(&path, wat(guest)).expect("written");
    let path = path.to_str().expect("text");
    proplet(&[&["run"], flags, &[path], inputs].concat(), b"", &[])
}

#[test]
fn who_runs_a_guest_by_hand_is_told_the_same() {
    let folder = tempfile::tempdir().expect("a directory");
    let mounted = mount(folder.path(), "data");
    for guest in ["cat", "component-open"] {
        let ran = run(folder.path(), &[&mounted], guest, &["no"]);
        assert!(ran.stderr.contains("`data/no` was not found in"), "{guest}: {}", ran.stderr);
    }
}
