//! Small components through a real linker, against the fake backend.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use wasmtime::component::{Component, Linker};
use wasmtime::{Engine, Store};

use crate::cancel::{Cancel, Reason};
use crate::nn::abi::test_support::{Ran, nn};
use crate::nn::backends::fake::{Fake, WEIGHT};
use crate::nn::context::resources::{MAX_ERRORS, MAX_TENSORS};
use crate::nn::{Nn, NnCtx, NnLimits, add_to_component_linker};

/// The guest: what it imports, and the functions of a body.
const GUEST: &str = include_str!("guest.wat");

/// Makes a graph `$g` and a context `$c` of it.
const READY: &str = "(local.set $g (call $graph)) (local.set $c (call $context (local.get $g)))";

/// Computes with the input `1 2 3 4`.
const INFER: &str = "(call $infer (local.get $c) (call $tensor))";

fn run_component(nn: Option<NnCtx>, xml: &str, body: &str) -> Ran {
    let length = format!("\\{:02x}", xml.len());
    let text = GUEST.replace("XML", xml).replace("\\LENGTH", &length).replace("BODY", body);
    let engine = Engine::default();
    let component =
        Component::new(&engine, wat::parse_str(text).expect("text")).expect("a component");
    let mut linker = Linker::<Option<NnCtx>>::new(&engine);
    add_to_component_linker(&mut linker, |nn| nn).expect("linked");
    let mut store = Store::new(&engine, nn);
    let instance = linker.instantiate(&mut store, &component).expect("an instance");
    let run = instance.get_typed_func::<(), ()>(&mut store, "run").expect("an export");
    let result = run.call(&mut store, ());
    Ran::new(result, store.data().as_ref())
}

fn run_in(nn: &Nn, xml: &str, body: &str) -> Ran {
    run_component(Some(nn.context(&[], Arc::default()).expect("a context")), xml, body)
}

fn run(body: &str) -> Ran {
    run_in(&nn(&Fake::default(), NnLimits::default()), "<net/>", body)
}

#[test]
fn a_component_infers_with_named_tensors() {
    let read = "(call $want (i32.const 1) (i32.load (i32.const 2008)))
        ;; The output's name, then the handle.
        (call $want (i32.const 3) (i32.load (i32.add (call $ok) (i32.const 4))))
        (call $want (i32.const 0x6f) (i32.load8_u (i32.load (call $ok))))
        (local.set $t (i32.load (i32.add (call $ok) (i32.const 8))))
        (call $want (i32.const 4) (call $tensor.ty (local.get $t)))
        (call $tensor.dimensions (local.get $t) (i32.const 2100))
        (call $want (i32.const 1) (i32.load (i32.const 2104)))
        (call $want (i32.const 4) (i32.load (i32.load (i32.const 2100))))
        (call $tensor.data (local.get $t) (i32.const 2100))
        (call $want (i32.const 4) (i32.load (i32.const 2104)))
        (call $want (i32.const 0x08060402) (i32.load (i32.load (i32.const 2100))))";
    let ran = run(&format!("{READY} {INFER} {read}"));
    let report = ran.report.clone();
    assert_eq!(ran.refusals(), [""; 0]);
    assert_eq!((report.graphs_loaded, report.graphs_reused, report.inferences), (1, 0, 1));
}

#[test]
fn an_input_is_also_found_by_its_index() {
    let ran = run(&format!(
        "{READY} (i32.store8 (i32.const 1450) (i32.const 0x30)) (i32.store (i32.const 1404) (i32.const 1))
         {INFER} (drop (call $ok))"
    ));
    assert_eq!(ran.refusals(), [""; 0]);
}

#[test]
fn what_a_component_gets_wrong_is_an_error_and_a_sentence() {
    // ARCHITECTURE.md, cases 28 to 31.
    let load = |encoding: u32, builders: u32| {
        format!(
            "(call $load (i32.const 1100) (i32.const {builders}) (i32.const {encoding}) (i32.const 0) (i32.const 2000))"
        )
    };
    let tensor = |shape: u32, ty: u32, bytes: u32| {
        format!(
            "(i32.store (i32.const 1300) (i32.const {shape}))
             (call $infer (local.get $c) (call $tensor.new (i32.const 1300) (i32.const 1) (i32.const {ty}) (i32.const 1200) (i32.const {bytes})))"
        )
    };
    let cases = [
        (1, load(1, 2), "`load`: the encoding onnx is not served here: this build has openvino"),
        (1, load(5, 2), "`load`: the encoding ggml is not served here"),
        (1, load(6, 2), "`load`: the encoding autodetect is not served here"),
        (0, load(0, 1), "takes two builders"),
        (0, load(0, 17), "17 builders are more than any encoding takes"),
        (
            6,
            "(call $load-by-name (i32.const 1024) (i32.const 4) (i32.const 2000))".to_owned(),
            "there is no graph `<net`: the task has no graphs",
        ),
        (
            4,
            "(call $compute (local.get $c) (i32.const 1400) (i32.const 0) (i32.const 2000))".to_owned(),
            "`compute`: input 0 (`in` u8 [4]) is not set",
        ),
        (0, tensor(5, 4, 4), "has 4 bytes, but its shape [5] of u8 says 5 bytes"),
        (0, tensor(0x8000_0000, 2, 0), "has 0 bytes"),
        (0, tensor(1, 5, 4), "is i32, but the model's input is `in` u8 [4]"),
        (
            0,
            format!("(i32.store8 (i32.const 1450) (i32.const 0x6f)) {INFER}"),
            "there is no input `on`: the model's inputs are `in` u8 [4]",
        ),
        (
            0,
            "(call $infer (local.get $c) (call $tensor.new (i32.const 1200) (i32.const 9) (i32.const 4) (i32.const 1200) (i32.const 4)))"
                .to_owned(),
            "the tensor has 9 dimensions, more than 8",
        ),
    ];
    for (code, call, text) in cases {
        let said = run(&format!("{READY} {call} (call $refused (i32.const {code}))")).refusals();
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].contains(text), "{said:?}");
    }
}

#[test]
fn lists_and_names_outside_the_memory_end_the_task() {
    // ARCHITECTURE.md, case 27: the canonical ABI's own checks, and ours where a
    // list is read late.
    let cases = [
        ("(call $load (i32.const 0xfffffff8) (i32.const 2) (i32.const 0) (i32.const 0) (i32.const 2000))", "out of bounds"),
        (
            "(i32.store (i32.const 1108) (i32.const 262143))
             (call $load (i32.const 1100) (i32.const 2) (i32.const 0) (i32.const 0) (i32.const 2000))",
            "out of bounds",
        ),
        ("(call $load (i32.const 1100) (i32.const 2) (i32.const 77) (i32.const 0) (i32.const 2000))", "discriminant"),
        (
            "(i32.store8 (i32.const 1450) (i32.const 255)) (call $load-by-name (i32.const 1450) (i32.const 2) (i32.const 2000))",
            "utf-8",
        ),
        (
            "(drop (call $tensor.new (i32.const 1300) (i32.const 1) (i32.const 4) (i32.const 262141) (i32.const 4)))",
            "out of bounds",
        ),
        ("(call $infer (call $context (call $graph)) (i32.const 77))", "unknown handle index 77"),
        (
            "(call $compute (call $context (call $graph)) (i32.const 1400) (i32.const 0x7fffffff) (i32.const 2000))",
            "out of bounds",
        ),
    ];
    for (body, text) in cases {
        let trap = run(body).trap();
        assert!(trap.contains(text), "{trap}");
    }
}

#[test]
fn a_list_of_one_tensor_again_and_again_ends_the_task() {
    let body = format!(
        "{READY} (local.set $t (call $tensor))
         (i32.store (i32.const 1408) (local.get $t)) (memory.copy (i32.const 1412) (i32.const 1400) (i32.const 12))
         (call $compute (local.get $c) (i32.const 1400) (i32.const 2) (i32.const 2000))"
    );
    let trap = run(&body).trap();
    assert!(trap.contains("unknown handle index"), "{trap}");
}

#[test]
fn loops_meet_quotas_and_what_is_dropped_makes_room() {
    // ARCHITECTURE.md, case 36.
    let limits = NnLimits { graphs: 2, contexts: 2, ..NnLimits::default() };
    let load =
        "(call $load (i32.const 1100) (i32.const 2) (i32.const 0) (i32.const 0) (i32.const 2000))";
    let init = "(call $init (local.get $g) (i32.const 2000))";
    let body = format!(
        "{READY} (drop (call $graph)) {load} (call $refused (i32.const 5))
         (drop (call $context (local.get $g))) {init} (call $refused (i32.const 5))
         (call $context.drop (local.get $c)) (local.set $c (call $context (local.get $g)))
         (call $graph.drop (local.get $g)) (drop (call $graph))
         {INFER} (drop (call $ok))"
    );
    let fake = Fake::default();
    let said = run_in(&nn(&fake, limits), "<net/>", &body).refusals();
    assert_eq!(
        said,
        [
            "`load`: the task has loaded 2 graphs, its limit",
            "`init_execution_context`: the task has 2 execution contexts, its limit"
        ]
    );
    let graphs = NnLimits { graph_bytes: WEIGHT - 1, ..NnLimits::default() };
    let said =
        run_in(&nn(&fake, graphs), "<net/>", &format!("{load} (call $refused (i32.const 5))"))
            .refusals();
    assert!(said[0].contains("graphs would take 1000 bytes"), "{said:?}");
}

#[test]
fn tensors_count_until_they_are_dropped() {
    // A tensor is four bytes and a dimension of four.
    let limits = NnLimits { tensor_bytes: 15, ..NnLimits::default() };
    let fake = Fake::default();
    let loops = "(loop $again (call $tensor.drop (call $tensor))
        (br_if $again (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 10000))))";
    let ran = run_in(&nn(&fake, limits), "<net/>", loops);
    assert_eq!(ran.held, 0);
    assert_eq!(ran.refusals(), [""; 0]);
    let trap =
        run_in(&nn(&fake, limits), "<net/>", "(drop (call $tensor)) (drop (call $tensor))").trap();
    assert!(
        trap.contains(
            "`tensor`: the task's tensors would take 16 bytes, more than its limit of 15"
        ),
        "{trap}"
    );
    // A giant list is refused before any of it is copied.
    let trap = run_in(
        &nn(&fake, limits),
        "<net/>",
        "(drop (call $tensor.new (i32.const 0) (i32.const 65000) (i32.const 4) (i32.const 0) (i32.const 262144)))",
    )
    .trap();
    assert!(trap.contains("tensors would take 522144 bytes"), "{trap}");
    // What was handed to an inference is given back, whether it succeeds or not.
    let context = NnLimits { tensor_bytes: 8 + 8 + 8, ..NnLimits::default() };
    let ran = run_in(
        &nn(&fake, context),
        "<net/>",
        &format!(
            "{READY} (loop $again {INFER} (call $tensor.drop (i32.load (i32.add (call $ok) (i32.const 8))))
             (call $infer (local.get $c) (call $tensor.new (i32.const 1300) (i32.const 1) (i32.const 4) (i32.const 1200) (i32.const 3)))
             (call $refused (i32.const 0))
             (br_if $again (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 100))))"
        ),
    );
    assert_eq!(ran.held, 8, "the context's own tensors");
    assert_eq!(ran.report.inferences, 100);
}

#[test]
fn floods_of_tensors_and_errors_are_bounded() {
    let flood = |call: &str| format!("(loop $again {call} (br $again))");
    let fake = Fake::default();
    let trap =
        run_in(&nn(&fake, NnLimits::default()), "<net/>", &flood("(drop (call $tensor))")).trap();
    assert!(
        trap.contains(&format!("`tensor`: the task holds {MAX_TENSORS} tensors, its limit")),
        "{trap}"
    );
    let load =
        "(call $load (i32.const 1100) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 2000))";
    let trap = run_in(&nn(&fake, NnLimits::default()), "<net/>", &flood(load)).trap();
    assert!(
        trap.contains(&format!("`load`: the task holds {MAX_ERRORS} errors of wasi-nn, its limit")),
        "{trap}"
    );
}

#[test]
fn a_model_over_the_limit_is_too_large() {
    // ARCHITECTURE.md, case 35.
    let load = "(i32.store (i32.const 1112) (i32.const 95))
        (call $load (i32.const 1100) (i32.const 2) (i32.const 0) (i32.const 0) (i32.const 2000))
        (call $refused (i32.const 5))";
    let said = run(load).refusals();
    assert_eq!(said, ["`load`: the model has 101 bytes, more than this worker's limit of 100"]);
}

#[test]
fn a_failed_inference_is_an_error_and_its_request_not_used_again() {
    let fake = Fake::default();
    let nn = nn(&fake, NnLimits::default());
    let body = format!("{READY} {INFER} (call $refused (i32.const 3))");
    for round in 1..3 {
        let said = run_in(&nn, "<net name='fails'/>", &body).refusals();
        assert_eq!(said, ["`compute`: the fake backend can't infer this"]);
        assert_eq!(fake.requests(), round);
    }
}

#[test]
fn guests_of_both_kinds_share_a_graph() {
    let fake = Fake::default();
    let nn = nn(&fake, NnLimits::default());
    let ran = run_in(&nn, "<net/>", READY);
    assert_eq!((ran.report.graphs_loaded, ran.report.graphs_reused), (1, 0));
    let mut module = nn.context(&[], Arc::default()).expect("a context");
    assert_eq!(module.load(0, 0, &[b"<net/>", b"\x01\x02\x03\x04"]), Ok(0));
    assert_eq!((module.report().graphs_loaded, module.report().graphs_reused), (0, 1));
    assert_eq!(fake.compiled(), 1);
}

#[test]
fn a_component_without_wasi_nn_ends_when_it_calls_it() {
    let trap = run_component(None, "<net/>", "(drop (call $tensor))").trap();
    assert!(
        trap.contains("`[constructor]tensor`: the task has no wasi-nn; ask for it with `-S nn`"),
        "{trap}"
    );
}

#[test]
fn a_stop_ends_an_inference_and_the_component() {
    let fake = Fake::default();
    let nn = nn(&fake, NnLimits::default());
    let cancel = Arc::new(Cancel::default());
    let context = nn.context(&[], cancel.clone()).expect("a context");
    // The guest would swallow an error and go on for ever.
    let body = format!("{READY} (loop $l {INFER} (br $l))");
    let stop = thread::spawn(move || {
        while fake.requests() == 0 {
            thread::sleep(Duration::from_millis(1));
        }
        cancel.cancel(Reason::Stopped);
    });
    let trap = run_component(Some(context), "<net name='endless'/>", &body).trap();
    stop.join().expect("no panic");
    assert!(trap.contains("`compute` was interrupted: the task was stopped"), "{trap}");
}
