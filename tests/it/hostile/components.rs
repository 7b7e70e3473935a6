//! Components that mean harm: what there is in them and not in core modules.

use super::{dir, mount};
use crate::support::{Bench, fault, stdout, trap};
use proplet::task::{Failure, Outcome};
use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::time::Duration;

/// The sentence that says why a component never ran.
#[track_caller]
fn refused(outcome: Outcome) -> String {
    match outcome.verdict {
        Err(Failure::Module(text)) => text,
        other => panic!("not refused: {other:?}"),
    }
}

fn component(text: &str) -> Vec<u8> {
    wat::parse_str(text).expect("a component")
}

/// The bench runs the next task as if nothing had happened.
#[track_caller]
fn well(bench: &Bench) {
    assert_eq!(stdout(&bench.wat("component-hello").run()), "hello\n");
    assert_eq!(stdout(&bench.wat("hello").run()), "hello\n");
}

/// Cases 10 to 12.
#[test]
fn a_component_that_never_ends_runs_into_its_timeout() {
    let limit = Duration::from_millis(200);
    let bench = Bench::new().timeout(limit);
    let guests = [
        "component-loop-forever",
        "component-start-loops",
        "component-post-return-loops",
        "component-sleep-forever",
        "component-poll",
    ];
    for guest in guests {
        // With an argument it polls for ever.
        let outcome = bench.wat(guest).inputs(&["forever"]).run();
        assert_eq!(outcome.verdict, Err(Failure::Timeout(limit)), "{guest}");
    }
    well(&Bench::new());
}

#[test]
fn a_poll_ends_with_the_first_of_its_pollables() {
    let outcome = Bench::new().wat("component-poll").run();
    assert_eq!(stdout(&outcome), "");
}

/// Cases 15 and 19.
#[test]
fn traps_of_components_are_named_and_located() {
    let bench = Bench::new();
    let cases = [
        ("component-trap", "unreachable"),
        ("component-recursion", "call stack exhausted"),
        ("component-post-return-traps", "unreachable"),
    ];
    for (guest, expected) in cases {
        let outcome = bench.wat(guest).run();
        let text = trap(&outcome);
        assert!(text.contains(expected) && text.contains("\n  at "), "{guest}: {text}");
        assert_eq!(outcome.exit_code, None, "{guest}");
    }
    well(&bench);
}

/// Case 13: the bench allows 64 MiB, which each of both could have.
#[test]
fn the_memories_of_a_component_share_one_limit() {
    stdout(&Bench::new().wat("component-memories").run());
}

/// Case 14. As often as it takes for a leak to use up the pool.
#[test]
fn a_flood_of_handles_is_an_error_that_says_so() {
    let bench = Bench::new();
    for _ in 0..20 {
        let outcome = bench.wat("component-handles").run();
        let text = fault(&outcome);
        assert!(text.contains("more than 256 files, directories and streams"), "{text}");
        let outcome = bench.wat("component-own-handles").run();
        let text = fault(&outcome);
        assert!(text.contains("handle limit exceeded"), "{text}");
    }
    well(&bench);
}

#[test]
fn a_giant_list_is_refused_before_the_host_makes_it() {
    let bench = Bench::new();
    let outcome = bench.wat("component-giant-list").run();
    let text = fault(&outcome);
    assert!(text.contains("too much data is being copied"), "{text}");
    let outcome = bench.wat("component-list-out-of-bounds").run();
    let text = fault(&outcome);
    assert!(text.contains("out of bounds"), "{text}");
    well(&bench);
}

#[test]
fn no_more_is_written_at_once_than_a_stream_permits() {
    let bench = Bench::new();
    let outcome = bench.wat("component-write").run();
    assert_eq!((&outcome.verdict, outcome.exit_code), (&Ok(()), Some(0)));
    assert!(outcome.stdout.dropped > 0, "all of it came");
    let outcome = bench.wat("component-write").inputs(&["one more"]).run();
    let text = fault(&outcome);
    assert!(text.contains("`check-write` tells how many"), "{text}");
}

#[test]
fn a_component_has_no_network_and_is_told_so() {
    let bench = Bench::new();
    let outcome = bench.wat("component-socket").run();
    assert_eq!(outcome.verdict, Err(Failure::Exit(2)), "access-denied, and one");
    let said = outcome.diagnostics.iter().any(|text| text.contains("a task has no network"));
    assert!(said, "{:?}", outcome.diagnostics);
    assert!(bench.wat("component-hello").named("").run().diagnostics.is_empty());
}

#[test]
fn an_import_that_is_not_provided_is_named_with_what_is() {
    let bench = Bench::new();
    let imports = |name: &str| {
        let text = format!(r#"(component (import "{name}" (instance (export "f" (func)))))"#);
        refused(bench.guest(component(&text)).run())
    };
    let cases = [
        ("wasi:http/outgoing-handler@0.3.0", "`wasi:http/outgoing-handler@0.2."),
        ("wasi:cli/environment@0.3.0", "`wasi:cli/environment@0.2."),
        ("wasi:nn/graph@0.2.0-rc-2024-08-19", "`wasi:nn/graph@0.2.0-rc-2024-10-28`"),
        ("wasi:nn/tensor@0.2.0", "`wasi:nn/tensor@0.2.0-rc-2024-10-28`"),
        ("wasi:keyvalue/store@0.2.0-draft", "`wasi:cli`"),
        ("their:own/thing", "this worker provides"),
        // Of an interface that is there.
        ("wasi:cli/environment@0.2.0", "`f`"),
    ];
    for (name, expected) in cases {
        let text = imports(name);
        assert!(text.contains(name) && text.contains(expected), "{name}: {text}");
    }
    well(&bench);
}

/// Cases 5 and 6.
#[test]
fn what_is_no_whole_component_does_not_compile() {
    let bench = Bench::new();
    let whole = crate::support::wat("component-hello");
    for length in [9, 40, whole.len() / 2, whole.len() - 1] {
        let text = refused(bench.guest(whole[..length].to_vec()).run());
        assert!(text.contains("the component does not compile"), "{length}: {text}");
    }
    well(&bench);
}

/// Many instances of one module, one after the other.
fn instances(count: usize) -> Vec<u8> {
    let many = "(core instance (instantiate $m))".repeat(count);
    component(&format!("(component (core module $m) {many})"))
}

/// Components in components, each of which has two of the next.
fn nested(depth: usize) -> Vec<u8> {
    let mut text = "(core module $m) (core instance (instantiate $m))".to_owned();
    for _ in 0..depth {
        text = format!(
            "(component $c {text}) (instance (instantiate $c)) (instance (instantiate $c))"
        );
    }
    component(&format!("(component {text})"))
}

/// Case 14.
#[test]
fn a_component_of_thousands_of_instances_is_refused() {
    for bench in [Bench::new(), Bench::compiling_apart(1 << 30)] {
        // Of the nested ones there would be 10^12.
        for (what, guest) in [("in a row", instances(3000)), ("nested", nested(40))] {
            let text = refused(bench.guest(guest).run());
            assert!(text.contains("more than 256 modules instantiated"), "{what}: {text}");
        }
        well(&bench);
    }
}

#[test]
fn a_component_that_is_too_large_for_the_pool_is_told_why() {
    let cases = [
        ("(memory 1)", 17, "17 Wasm linear memories"),
        ("(table 1 funcref)", 65, "65 tables"),
        ("(memory 9000)", 1, "a memory of 562.5 MiB from its start: a task may have"),
    ];
    for bench in [Bench::new(), Bench::compiling_apart(1 << 30)] {
        for (what, count, expected) in cases {
            let many = "(core instance (instantiate $m))".repeat(count);
            let text = format!("(component (core module $m {what}) {many})");
            let text = refused(bench.guest(component(&text)).run());
            assert!(text.contains(expected), "{what}: {text}");
        }
        well(&bench);
    }
}

/// What the component's directory answers to opening `path`: 0, or one more than
/// the error's number.
fn opens(bench: &Bench, mounted: &str, path: &str) -> i32 {
    let outcome = bench.wat("component-open").cli_args(&[mounted]).inputs(&[path]).run();
    match outcome.verdict {
        Ok(()) => 0,
        Err(Failure::Exit(code)) => code,
        other => panic!("{path}: {other:?}"),
    }
}

/// Cases 21, 22 and 71.
#[test]
fn a_component_opens_files_and_folders_alone_and_those_of_its_directory() {
    const NAME_TOO_LONG: i32 = 19;
    const NO_ENTRY: i32 = 21;
    const UNSUPPORTED: i32 = 28;
    const NOT_PERMITTED: i32 = 32;
    let inside = dir();
    let path = |name: &str| inside.path().join(name);
    fs::write(path("file"), "content").expect("written");
    let made = Command::new("mkfifo").arg(path("fifo")).status().expect("mkfifo runs");
    assert!(made.success());
    let _socket = UnixListener::bind(path("socket")).expect("bound");
    symlink("fifo", path("link")).expect("linked");
    symlink("/etc/passwd", path("out")).expect("linked");
    let bench = Bench::new().root(inside.path(), false);
    let mounted = mount(inside.path(), "d");
    let long = "a/../".repeat(2000) + "file";
    let cases = [
        ("file", 0),
        ("missing", NO_ENTRY),
        ("fifo", UNSUPPORTED),
        ("link", UNSUPPORTED),
        ("socket", UNSUPPORTED),
        ("out", NOT_PERMITTED),
        ("../x", NOT_PERMITTED),
        (long.as_str(), NAME_TOO_LONG),
    ];
    for (path, expected) in cases {
        assert_eq!(opens(&bench, &mounted, path), expected, "{}", &path[..path.len().min(20)]);
    }
}

#[test]
fn a_component_lists_its_directory() {
    let inside = dir();
    for name in ["a", "b", "c"] {
        fs::write(inside.path().join(name), "").expect("written");
    }
    for name in ["d", "e"] {
        fs::create_dir(inside.path().join(name)).expect("made");
    }
    let bench = Bench::new().root(inside.path(), false);
    let mounted = mount(inside.path(), "d");
    let outcome = bench.wat("component-list").cli_args(&[&mounted]).run();
    assert_eq!(outcome.verdict, Err(Failure::Exit(23)));
}

/// Case 95: of a type, too, no more is read or told than is bounded.
#[test]
fn a_deep_type_is_told_in_bounds_or_refused() {
    let bench = Bench::new();
    let deep = |depth: usize| {
        let types: String =
            (0..depth).map(|n| format!("(type $t{} (list $t{n}))", n + 1)).collect();
        let text = format!(
            r#"(component (type $t0 (list u8)) {types}
                (core module $M (memory (export "m") 1)
                  (func (export "f") (param i32 i32))
                  (func (export "r") (param i32 i32 i32 i32) (result i32) i32.const 8))
                (core instance $m (instantiate $M))
                (alias core export $m "m" (core memory $memory))
                (alias core export $m "r" (core func $realloc))
                (func (export "f") (param "deep" $t{depth})
                  (canon lift (core func $m "f") (memory $memory) (realloc $realloc))))"#
        );
        bench.guest(component(&text)).named("f")
    };
    // The innermost value, and the outermost type.
    for (value, expected) in [("[[[\"a\"]]]", "found `\"a\"`"), ("5", "expected list<list<list<")] {
        let text = refused(deep(50).inputs(&[value]).run());
        assert!(text.contains(expected) && text.len() < 3000, "{text}");
    }
    assert_eq!(deep(50).inputs(&["[]"]).run().verdict, Ok(()));
    let text = refused(deep(5000).inputs(&["[]"]).run());
    assert!(text.contains("the component does not compile") && text.len() < 3000, "{text}");
    well(&bench);
}
