//! Components: commands of WASI 0.2.

use crate::support::{Bench, PATIENCE, stdout, wat};
use proplet::digest::Digest;
use proplet::disk::DiskCache;
use proplet::task::Failure;
use std::sync::Arc;
use std::time::Instant;

#[test]
fn a_command_component_runs_and_its_output_is_kept() {
    let outcome = Bench::new().wat("component-hello").run();
    assert_eq!(stdout(&outcome), "hello\n");
    assert_eq!(outcome.exit_code, Some(0));
}

#[test]
fn what_a_command_component_returns_is_its_exit_code() {
    let bench = Bench::new();
    let exit = |how: &str| bench.wat("component-exit").inputs(&[how]).run();
    for how in ["ok", "exit-ok"] {
        let outcome = exit(how);
        assert_eq!((&outcome.verdict, outcome.exit_code), (&Ok(()), Some(0)), "{how}");
    }
    for how in ["error", "exit-error"] {
        let outcome = exit(how);
        assert_eq!(outcome.verdict, Err(Failure::Exit(1)), "{how}");
        assert_eq!(outcome.exit_code, Some(1), "{how}");
    }
}

#[test]
fn a_component_that_is_no_command_is_told_what_it_exports() {
    let component = b"\0asm\x0d\0\x01\0".to_vec();
    let error = Bench::new().guest(component).run().verdict.expect_err("no command").to_string();
    assert!(error.contains("`wasi:cli/run@0.2`, but no function at all"), "{error}");
}

#[test]
fn a_component_is_compiled_once_and_found_on_the_disk_by_the_next_process() {
    let folder = tempfile::tempdir().expect("a directory");
    let disk = || Arc::new(DiskCache::open(folder.path(), 64 << 20).expect("a folder"));
    let first = disk();
    let bench = Bench::on_disk(first.clone());
    for reused in [false, true] {
        let outcome = bench.wat("component-hello").run();
        assert_eq!((stdout(&outcome), outcome.reuse.module), ("hello\n", reused));
    }
    assert_eq!(bench.runtime.modules_compiled(), 1);
    let digest = Digest::of(&wat("component-hello"));
    let end = Instant::now() + PATIENCE;
    while first.get(&digest).is_none() {
        assert!(Instant::now() < end, "the component is not kept");
        std::thread::yield_now();
    }
    let next = Bench::on_disk(disk());
    assert_eq!(stdout(&next.wat("component-hello").run()), "hello\n");
    assert_eq!(next.runtime.modules_compiled(), 0);
}
