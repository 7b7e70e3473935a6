//! Calls of a component's exported functions, by the task's name and by
//! `--invoke`, with values as WAVE texts.

use crate::support::{Bench, fixtures, proplet, stdout};
use proplet::task::Outcome;

fn typed() -> Vec<u8> {
    std::fs::read(fixtures().join("guests/bin/typed.wasm")).expect("a guest")
}

fn named(bench: &Bench, name: &str, inputs: &[&str]) -> Outcome {
    bench.guest(typed()).named(name).inputs(inputs).run()
}

fn invoked(bench: &Bench, call: &str, inputs: &[&str]) -> Outcome {
    bench.guest(typed()).cli_args(&["--invoke", call]).inputs(inputs).run()
}

fn error(outcome: &Outcome) -> String {
    outcome.verdict.as_ref().expect_err("a failure").to_string()
}

#[test]
fn a_function_of_each_type_is_called_with_texts_and_gives_one() {
    let bench = Bench::new();
    let item = r#"{name: "a", at: {x: 1, y: -2}, style: {dashed}, note: some("n")}"#;
    let calls: [(&str, &[&str], &str); 13] = [
        ("greet", &[r#""W\u{f6}rld""#], "\"Hello, Wörld!\"\n"),
        ("divide", &["7", "2"], "ok(3)\n"),
        ("divide", &["7", "0"], "err(\"7 can\\'t be divided by 0\")\n"),
        ("swap", &[r#"("a", 'b')"#], "('b', \"a\")\n"),
        ("sum", &["[1, -2, 9_]"], ""),
        ("sum", &["[1, -2, 4000000000]"], "3999999999\n"),
        ("say", &[r#""a line""#], "a line\n"),
        ("move-by", &["[{x: 1, y: 2}]", "{y: 1, x: 10}"], "[{x: 11, y: 3}]\n"),
        ("area", &["polygon([{x: 0, y: 0}, {x: 2, y: 0}, {x: 0, y: 2}])"], "ok(2)\n"),
        ("area", &["empty"], "ok(0)\n"),
        ("first", &[&format!("[{item}]")], &format!("some({item})\n")),
        ("toggle", &["{bold}"], "{dashed}\n"),
        ("next", &["minute"], "second\n"),
    ];
    for (name, inputs, expected) in calls {
        for outcome in [named(&bench, name, inputs), invoked(&bench, name, inputs)] {
            if expected.is_empty() {
                assert!(error(&outcome).contains("is not written as WAVE"), "{}", error(&outcome));
                continue;
            }
            assert_eq!(stdout(&outcome), expected, "{name}");
            assert_eq!(outcome.diagnostics, [""; 0], "{name}");
        }
    }
}

#[test]
fn an_interface_and_a_call_that_is_written_out_say_which_function_is_meant() {
    let bench = Bench::new();
    for name in ["proplet:typed/clocks#label", "proplet:typed/clocks@0.1.0#label"] {
        assert_eq!(stdout(&named(&bench, name, &["2", "minute"])), "\"2 Unit::Minute\"\n");
        assert_eq!(stdout(&invoked(&bench, name, &["2", "minute"])), "\"2 Unit::Minute\"\n");
    }
    assert_eq!(stdout(&invoked(&bench, r#"greet("a (b)")"#, &[])), "\"Hello, a (b)!\"\n");
    assert_eq!(stdout(&invoked(&bench, "divide( 8, 2 )", &[])), "ok(4)\n");
    let written = "proplet:typed/clocks#label(2, minute)";
    assert_eq!(stdout(&invoked(&bench, written, &[])), "\"2 Unit::Minute\"\n");
    let both = error(&invoked(&bench, "divide(8, 2)", &["1"]));
    assert!(both.contains("written out, and the task has 1 inputs, too"), "{both}");
    let one = error(&invoked(&bench, "divide(8)", &[]));
    assert!(one.contains("1 values are given, and it takes 2"), "{one}");
}

#[test]
fn a_call_that_fits_no_function_is_told_what_there_is() {
    let bench = Bench::new();
    let unknown = error(&invoked(&bench, "nope", &[]));
    for expected in [
        "`--invoke nope`: the component exports no such function",
        "`greet: func(name: string) -> string`",
        "`proplet:typed/shapes@0.1.0#move-by: func(points: list<record { x: s32, y: s32 }>",
    ] {
        assert!(unknown.contains(expected), "{expected}: {unknown}");
    }
    let several = error(&invoked(&bench, "label", &[]));
    assert!(several.contains("several interfaces have that function"), "{several}");
    // A name is a label where it is no function's; this component is no command.
    let outcome = named(&bench, "nope", &[]);
    assert!(error(&outcome).contains("is not a command"), "{}", error(&outcome));
    assert!(
        outcome.diagnostics[0].contains("`nope` is not a function"),
        "{:?}",
        outcome.diagnostics
    );
    let outcome = bench.wat("component-hello").named("my-task").run();
    assert_eq!(stdout(&outcome), "hello\n");
    assert!(outcome.diagnostics[0].contains("ran as a command"), "{:?}", outcome.diagnostics);
    // What managers write there, and what could be no function's name.
    for label in ["_start", "fl-round-1-x", "my task", "guest.wasm"] {
        let outcome = bench.wat("component-hello").named(label).run();
        assert_eq!(outcome.diagnostics, [""; 0], "{label}");
    }
}

#[test]
fn a_value_that_does_not_fit_is_told_with_its_place_and_what_was_expected() {
    let bench = Bench::new();
    let cases: [(&str, &[&str], &str); 8] = [
        (
            "move-by",
            &["[{x: 1, y: 2}, {x: 1, y: \"a\"}]", "{x: 0, y: 0}"],
            "input 1 (`points`) at `[1].y`: expected s32, found `\"a\"`",
        ),
        ("move-by", &["[]", "{x: 0}"], "input 2 (`by`): expected a field `y: s32`, found `{x: 0}`"),
        ("move-by", &["[]", "{x: 0, y: 0, z: 0}"], "expected no field `z`"),
        ("divide", &["-1", "2"], "input 1 (`a`): expected u32, found `-1`"),
        ("divide", &["1"], "takes 2 values, and the task has 1 inputs"),
        ("greet", &["world"], "expected string (a string stands in double quotes), found `world`"),
        ("greet", &["hello world"], "is not written as WAVE"),
        ("toggle", &["{thin}"], "expected flags { bold, dashed }, found `{thin}`"),
    ];
    for (name, inputs, expected) in cases {
        let told = error(&named(&bench, name, inputs));
        assert!(told.contains(expected), "{expected}: {told}");
        assert!(told.contains("; it is `"), "the signature: {told}");
    }
}

#[test]
fn deep_and_giant_texts_are_refused() {
    let bench = Bench::new();
    let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
    let told = error(&named(&bench, "sum", &[&deep]));
    assert!(told.contains("nesting too deep"), "{told}");
    let giant = format!("[{}1]", "1,".repeat(600_000));
    let told = error(&named(&bench, "sum", &[&giant]));
    assert!(told.contains("more than the 1048576 that a call may have"), "{told}");
    // What is left out of a record costs as much as what is given.
    let fields: String = (0..2000).map(|n| format!("(field \"f{n}\" (option u8))")).collect();
    let wide = format!(
        r#"(component
            (core module $M (memory (export "m") 1) (func (export "f") (param i32 i32))
              (func (export "r") (param i32 i32 i32 i32) (result i32) unreachable))
            (core instance $m (instantiate $M))
            (alias core export $m "m" (core memory $memory))
            (alias core export $m "r" (core func $realloc))
            (type $record (record {fields}))
            (export $wide "wide" (type $record))
            (func (export "f") (param "all" (list $wide))
              (canon lift (core func $m "f") (memory $memory) (realloc $realloc))))"#
    );
    let guest = bench.guest(wat::parse_str(wide).expect("text"));
    let all = format!("[{}{{:}}]", "{:},".repeat(1000));
    let told = error(&guest.named("f").inputs(&[&all]).run());
    assert!(told.contains("the values of a call may take 64 MiB"), "{told}");
}

#[test]
fn a_function_that_traps_fails_and_a_long_value_is_cut_like_output() {
    let bench = Bench::new();
    let failed = named(&bench, "fail", &[]);
    assert!(error(&failed).contains("unreachable"), "{}", error(&failed));
    let long = named(&bench, "repeat", &["\"0123456789\"", "1000000"]);
    assert_eq!(long.verdict, Ok(()));
    assert!(long.stdout.dropped > 0);
    assert!(long.stdout.bytes.starts_with(b"\"0123") && long.stdout.bytes.ends_with(b"6789\"\n"));
}

#[test]
fn a_function_is_called_by_hand() {
    let guest = fixtures().join("guests/bin/typed.wasm");
    let guest = guest.to_str().expect("text");
    let ran = proplet(&["run", "--invoke", "divide(9, 3)", guest], b"", &[]);
    assert_eq!((ran.code, ran.text()), (Some(0), "ok(3)\n"), "{}", ran.stderr);
    let ran = proplet(&["run", "--invoke", "greet", guest, "\"you\""], b"", &[]);
    assert_eq!((ran.code, ran.text()), (Some(0), "\"Hello, you!\"\n"), "{}", ran.stderr);
}
