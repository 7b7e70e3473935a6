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
fn a_command_component_has_clocks_random_numbers_and_a_closed_input() {
    let outcome = Bench::new().wat("component-world").run();
    assert_eq!((&outcome.verdict, outcome.exit_code), (&Ok(()), Some(0)));
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

/// Every `-S` option of `wasmtime run` is accepted or refused by its name.
#[test]
fn each_option_of_wasi_is_accepted_or_refused_by_name_for_a_component() {
    let bench = Bench::new();
    let accepted = [
        "cli",
        "cli-exit-with-code",
        "common",
        "preview2",
        "network-error-code",
        "max-resources=10",
        "hostcall-fuel=10",
        "max-random-size=10",
        "max-http-fields-size=10",
        "http-outgoing-body-buffer-chunks=1",
        "http-outgoing-body-chunk-size=1",
        "inherit-stdin",
        "inherit-stdout",
        "http",
        "http=n",
        "tcp=n,udp=n",
        "inherit-network=n,allow-ip-name-lookup=n",
        "p3=n",
    ];
    for option in accepted {
        let outcome = bench.wat("component-hello").cli_args(&["-S", option]).named("").run();
        assert_eq!(stdout(&outcome), "hello\n", "{option}");
    }
    let refused = [
        ("inherit-network", "grants no network"),
        ("tcp", "grants no network"),
        ("udp", "grants no network"),
        ("allow-ip-name-lookup", "grants no network"),
        ("tls", "grants no network"),
        ("inherit-env", "no inherited environment"),
        ("listenfd", "no descriptors"),
        ("tcplisten=127.0.0.1:80", "no descriptors"),
        ("threads", "a single thread"),
        ("p3", "WASI 0.3 is experimental"),
        ("config", "components find the packages"),
        ("keyvalue", "components find the packages"),
        ("config-var=a=b", "components find the packages"),
        ("keyvalue-in-memory-data=a=b", "components find the packages"),
        ("cwd=/", "no working directory"),
        ("inherit-stdout=n", "always kept"),
        ("sockets", "sockets"),
    ];
    for (option, why) in refused {
        let task = bench.wat("component-hello").cli_args(&["-S", option]).request;
        let said = bench.policy.admit(task).expect_err(option).to_string();
        let name = option.split('=').next().expect("a name");
        assert!(said.contains(name) && said.contains(why), "{option}: {said}");
    }
}
