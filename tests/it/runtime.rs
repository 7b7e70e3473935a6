//! One guest, one outcome: what a guest does, and what its task reports.

use crate::support::{Bench, fault, stdout, trap, wat};
use proplet::cancel::{Cancel, Reason};
use proplet::digest::Digest;
use proplet::disk::DiskCache;
use proplet::task::{Failure, Outcome};
use std::sync::Arc;
use std::time::{Duration, Instant};

#[test]
fn a_command_gets_its_arguments_and_its_environment() {
    let bench = Bench::new();
    let outcome = bench.wat("echo-args").inputs(&["a", "b c"]).run();
    assert_eq!(stdout(&outcome), "test.wasm\na\nb c\n");
    let outcome = bench.wat("echo-env").env("A", "1").cli_args(&["--env", "B=2=3"]).run();
    assert_eq!(stdout(&outcome), "A=1\nB=2=3\n");
}

#[test]
fn standard_input_is_closed() {
    assert_eq!(stdout(&Bench::new().wat("echo-stdin").run()), "");
}

#[test]
fn the_default_function_is_found_as_wasmtime_finds_it() {
    let bench = Bench::new();
    assert_eq!(stdout(&bench.wat("default-export").run()), "default\n");
    assert_eq!(stdout(&bench.wat("named-export").run()), "_start\n");
}

#[test]
fn a_task_named_like_an_export_runs_that_export() {
    let bench = Bench::new();
    assert_eq!(stdout(&bench.wat("named-export").named("classify").run()), "classify\n");
    assert_eq!(stdout(&bench.wat("named-export").named("other").run()), "_start\n");
    let outcome = bench.wat("named-export").named("x").cli_args(&["--invoke", "classify"]).run();
    assert_eq!(stdout(&outcome), "classify\n");
}

#[test]
fn an_invoked_function_gets_positional_values_after_initialize() {
    let bench = Bench::new();
    let invoke = |name: &str, inputs: &[&str]| {
        bench.wat("reactor").cli_args(&["--invoke", name]).inputs(inputs).run()
    };
    assert_eq!(stdout(&invoke("add", &["2", "-3"])), "-1\n");
    assert_eq!(stdout(&invoke("add64", &["9223372036854775807", "1"])), "-9223372036854775808\n");
    assert_eq!(stdout(&invoke("addf32", &["0.5", "0.25"])), "0.75\n");
    assert_eq!(stdout(&invoke("addf64", &["1e3", "0.5"])), "1000.5\n");
    assert_eq!(stdout(&invoke("divmod", &["7", "2"])), "3\n1\n");
    assert_eq!(stdout(&invoke("initialized", &[])), "1\n");
}

#[test]
fn values_that_do_not_fit_a_function_are_refused() {
    let bench = Bench::new();
    let error = |inputs: &[&str]| {
        let task = bench.wat("reactor").cli_args(&["--invoke", "add"]).inputs(inputs);
        task.run().verdict.expect_err("refused").to_string()
    };
    assert!(error(&["1"]).contains("takes 2 values (i32, i32), and the task has 1"));
    assert!(error(&["1", "x"]).contains("`x`"));
    assert!(error(&["1", "4294967296"]).contains("`4294967296`"));
}

#[test]
fn a_missing_export_is_named_with_those_that_are_there() {
    let bench = Bench::new();
    let outcome = bench.wat("reactor").cli_args(&["--invoke", "nope"]).run();
    let error = outcome.verdict.expect_err("no such export").to_string();
    assert!(error.contains("`--invoke nope`") && error.contains("`add`"), "{error}");
    let error = bench.wat("missing-export").run().verdict.expect_err("no default").to_string();
    assert!(error.contains("_start") && error.contains("--invoke"), "{error}");
}

#[test]
fn exit_codes_are_the_guests() {
    let bench = Bench::new();
    let exit = |code: &str| bench.wat("exit").inputs(&[code]).run();
    let outcome = exit("0");
    assert_eq!((&outcome.verdict, outcome.exit_code), (&Ok(()), Some(0)));
    for code in [1, 125] {
        let outcome = exit(&code.to_string());
        assert_eq!(outcome.verdict, Err(Failure::Exit(code)));
        assert_eq!(outcome.exit_code, Some(code));
        assert_eq!(outcome.stdout.bytes, b"exiting\n");
    }
    // Preview 1 has no such codes.
    for code in ["126", "255"] {
        assert!(fault(&exit(code)).contains("outside of [0..126)"));
    }
}

#[test]
fn traps_are_named_and_located() {
    let bench = Bench::new();
    let cases = [
        ("trap-unreachable", "unreachable"),
        ("trap-div-zero", "divide by zero"),
        ("trap-oob", "out of bounds memory access"),
        ("trap-overflow", "overflow"),
        ("trap-bad-call", "indirect call type mismatch"),
        ("recursion", "call stack exhausted"),
        ("start-traps", "unreachable"),
    ];
    for (guest, expected) in cases {
        let outcome = bench.wat(guest).run();
        let text = trap(&outcome);
        assert!(text.contains(expected) && text.contains("\n  at "), "{guest}: {text}");
        assert_eq!(outcome.exit_code, None, "{guest}");
    }
}

#[test]
fn what_is_no_module_is_recognised() {
    let bench = Bench::new();
    let component = b"\0asm\x0d\0\x01\0".to_vec();
    let truncated = wat("hello")[..40].to_vec();
    let cases = [
        (b"(module)".to_vec(), "it is text"),
        (b"<!DOCTYPE html>".to_vec(), "HTML"),
        (b"\x7fELF\x02\x01\xff".to_vec(), "starts with [7f, 45, 4c, 46]"),
        (vec![], "empty"),
        (component, "component"),
        (truncated, "does not compile"),
    ];
    for (module, expected) in cases {
        let error = bench.guest(module).run().verdict.expect_err("no module").to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

#[test]
fn a_missing_import_is_named() {
    let bench = Bench::new();
    let error = bench.wat("missing-import").run().verdict.expect_err("missing").to_string();
    assert!(error.contains("no_such_function") && error.contains("`env`"), "{error}");
}

#[test]
fn a_guest_that_uses_wasi_nn_although_its_task_forbids_it_is_told_so() {
    let task = |args: &[&str]| Bench::new().wat("nn-tiny").cli_args(args).run();
    let error = task(&["-S", "nn=n"]).verdict.expect_err("forbidden").to_string();
    assert!(error.contains("imports wasi-nn") && error.contains("`-S nn=n`"), "{error}");
}

#[test]
fn a_flood_is_cut_and_counted_and_the_task_succeeds() {
    let outcome = Bench::new().wat("stdout-flood").inputs(&["1000000"]).run();
    let text = stdout(&outcome);
    assert!(text.len() < 66_000, "{}", text.len());
    assert_eq!(outcome.stdout.dropped, 1_000_010 - (64 << 10));
    assert!(text.starts_with("begin") && text.ends_with("end\n"));
}

#[test]
fn bytes_that_are_no_text_are_kept() {
    let outcome = Bench::new().wat("stdout-binary").run();
    let expected = b"a\0\x1b[31m\xff\xfe\xc3\r\n";
    assert_eq!((outcome.verdict, outcome.stdout.bytes.as_slice()), (Ok(()), expected.as_slice()));
}

#[test]
fn standard_error_is_captured_beside_a_trap() {
    let outcome = Bench::new().wat("stderr-then-trap").run();
    trap(&outcome);
    assert!(!outcome.stderr.bytes.is_empty());
}

#[test]
fn what_never_ends_runs_into_its_timeout() {
    let limit = Duration::from_millis(100);
    let bench = Bench::new().timeout(limit);
    let guests =
        ["loop-forever", "start-loops", "host-call-loop", "sleep-forever", "sleep-absolute"];
    for guest in guests {
        assert_eq!(bench.wat(guest).run().verdict, Err(Failure::Timeout(limit)), "{guest}");
    }
}

#[test]
fn a_task_can_be_stopped_while_it_computes_and_while_it_sleeps() {
    let bench = Bench::new();
    for guest in ["loop-forever", "sleep-forever", "sleep-absolute"] {
        let cancel = Arc::new(Cancel::default());
        std::thread::scope(|scope| {
            let task = bench.wat(guest);
            let running = scope.spawn(|| task.run_with(&cancel));
            cancel.cancel(Reason::Stopped);
            let outcome: Outcome = running.join().expect("no panic");
            assert_eq!(outcome.verdict, Err(Failure::Stopped), "{guest}");
        });
    }
}

#[test]
fn a_short_sleep_ends_by_itself() {
    assert_eq!(stdout(&Bench::new().wat("sleep").inputs(&["20"]).run()), "slept\n");
}

#[test]
fn memory_is_limited_over_all_memories() {
    let bench = Bench::new();
    let text = bench.wat("memory-bomb").run();
    let pages: u64 = stdout(&text).trim().trim_start_matches("pages ").parse().expect("a number");
    assert!((900..=1024).contains(&pages), "{pages}");
    for guest in ["memory-large", "many-memories", "many-tables"] {
        let error = bench.wat(guest).run().verdict.expect_err("over the limit").to_string();
        let told = ["limit", "exceed", "a task may have"].iter().any(|part| error.contains(part));
        assert!(told, "{guest}: {error}");
    }
    stdout(&bench.wat("table-bomb").run());
}

#[test]
fn a_module_is_compiled_once_for_tasks_that_come_together() {
    let bench = Bench::new();
    let module = wat("hello");
    std::thread::scope(|scope| {
        for _ in 0..8 {
            let task = bench.guest(module.clone());
            scope.spawn(move || stdout(&task.run()).to_owned());
        }
    });
    assert_eq!(bench.runtime.modules_compiled(), 1);
    assert!(bench.guest(module).run().reuse.module);
}

#[test]
fn a_module_that_does_not_compile_is_remembered() {
    let bench = Bench::new();
    let module = wat("hello")[..40].to_vec();
    let first = bench.guest(module.clone()).run();
    let second = bench.guest(module).run();
    assert_eq!(first.verdict, second.verdict);
    assert_eq!(bench.runtime.modules_compiled(), 1);
}

#[test]
fn a_guest_reads_its_directory_and_nothing_else() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("in.txt"), "inside").expect("written");
    std::os::unix::fs::symlink("/etc", dir.path().join("out")).expect("linked");
    let bench = Bench::new().root(dir.path(), false);
    let dir_arg = format!("--dir={}::d", dir.path().display());
    let cat = |path: &str| bench.wat("cat").cli_args(&[&dir_arg]).inputs(&[path]).run();
    assert_eq!(stdout(&cat("in.txt")), "inside");
    for path in ["../etc/passwd", "/etc/passwd", "out/passwd", "out/../in.txt"] {
        assert_eq!(cat(path).verdict, Err(Failure::Exit(1)), "{path}");
    }
}

#[test]
fn writing_needs_a_writable_root() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir_arg = format!("--dir={}::d", dir.path().display());
    let write = |bench: &Bench| bench.wat("write-file").cli_args(&[&dir_arg]).inputs(&["x"]).run();
    let read_only = Bench::new().root(dir.path(), false);
    assert_eq!(write(&read_only).verdict, Err(Failure::Exit(1)));
    assert!(!dir.path().join("x").exists());
    let writable = Bench::new().root(dir.path(), true);
    stdout(&write(&writable));
    assert!(dir.path().join("x").exists());
}

#[test]
fn a_task_says_where_its_time_went() {
    let bench = Bench::new();
    let outcome = bench.wat("sleep").inputs(&["30"]).run();
    assert!(outcome.timings.compiled > Duration::ZERO);
    assert!(outcome.timings.ran >= Duration::from_millis(30));
}

/// ARCHITECTURE.md, case 52.
#[test]
fn what_was_compiled_is_there_after_a_restart_unless_it_is_damaged() {
    let dir = tempfile::tempdir().expect("a directory");
    let folder = dir.path().join("cache");
    let process = || {
        let disk = Arc::new(DiskCache::open(&folder, 1 << 20).expect("a cache"));
        let bench = Bench::on_disk(disk.clone());
        let outcome = bench.wat("hello").run();
        assert_eq!((outcome.verdict, outcome.stdout.bytes), (Ok(()), b"hello\n".to_vec()));
        let digest = Digest::of(&wat("hello"));
        let end = Instant::now() + Duration::from_secs(60);
        while disk.get(&digest).is_none() {
            assert!(Instant::now() < end, "the module is not kept");
            std::thread::yield_now();
        }
        (bench.runtime.modules_compiled(), folder.join(digest.to_string()))
    };
    let (compiled, file) = process();
    assert_eq!(compiled, 1);
    assert_eq!(process().0, 0);
    let mut bytes = std::fs::read(&file).expect("an entry");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, &bytes).expect("written");
    assert_eq!(process().0, 1, "not what is damaged");
    assert_eq!(process().0, 0, "but what was compiled again");
}

#[test]
fn a_guest_that_fails_for_want_of_memory_is_told_how_much_it_may_have() {
    let text = r#"(module (memory (export "memory") 1)
        (func (export "_start")
            (if (i32.eq (memory.grow (i32.const 65000)) (i32.const -1)) (then unreachable))))"#;
    let outcome = Bench::new().guest(wat::parse_str(text).expect("a module")).run();
    let error = outcome.error().expect("it fails");
    let cause = error.lines().next().expect("a line");
    assert!(
        cause.starts_with("memory: growth to 4062.6 MiB refused: the task may have "),
        "{error}"
    );
    assert!(error.contains("unreachable"), "{error}");
}

/// The engine clears the slots, but by the pages that it finds touched, and we
/// ask for larger ones.
#[test]
fn a_large_guest_finds_no_trace_of_another() {
    let text = r#"(module (memory (export "memory") 1)
        (func (export "_start") (local $at i32)
            (if (i32.eq (memory.grow (i32.const 300)) (i32.const -1)) (then unreachable))
            (loop $next
                (if (i64.ne (i64.load (local.get $at)) (i64.const 0)) (then unreachable))
                (local.set $at (i32.add (local.get $at) (i32.const 8)))
                (br_if $next (i32.lt_u (local.get $at) (i32.mul (i32.const 301) (i32.const 65536)))))
            (memory.fill (i32.const 0) (i32.const 255) (i32.mul (i32.const 301) (i32.const 65536)))))"#;
    let (bench, guest) = (Bench::new(), wat::parse_str(text).expect("a module"));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for round in 0..12 {
                    assert_eq!(bench.guest(guest.clone()).run().verdict, Ok(()), "{round}");
                }
            });
        }
    });
}
