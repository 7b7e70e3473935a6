//! Small guests through a real linker, against the fake backend.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use wasmtime::{Config, Engine, Linker, Module, Store};

use crate::cancel::{Cancel, Reason};
use crate::nn::abi::test_support::{Ran, nn};
use crate::nn::backends::fake::{Fake, WEIGHT};
use crate::nn::refusal::{Errno, Halt};
use crate::nn::{LoadBytes, NO_BACKEND, Nn, NnConfig, NnCtx, NnLimits, add_to_linker};
use crate::task::GraphDir;

/// A guest whose memory holds, at fixed places:
/// the XML at 1024, two builders at 1100 (that, and 4 bytes at 1200), a tensor at 1300 (shape `[4]` at 1350, u8, `1 2 3 4` at 1200),
/// results from 2000 on.
const IMPORTS: &str = r#"
    (import "wasi_ephemeral_nn" "load" (func $load (param i32 i32 i32 i32 i32) (result i32)))
    (import "wasi_ephemeral_nn" "load_by_name" (func $load_by_name (param i32 i32 i32) (result i32)))
    (import "wasi_ephemeral_nn" "init_execution_context" (func $init (param i32 i32) (result i32)))
    (import "wasi_ephemeral_nn" "set_input" (func $set_input (param i32 i32 i32) (result i32)))
    (import "wasi_ephemeral_nn" "compute" (func $compute (param i32) (result i32)))
    (import "wasi_ephemeral_nn" "get_output" (func $get_output (param i32 i32 i32 i32 i32) (result i32)))"#;

const DATA: &str = r#"
    (data (i32.const 1108) "\b0\04\00\00\04\00\00\00")
    (data (i32.const 1200) "\01\02\03\04")
    (data (i32.const 1300) "\46\05\00\00\01\00\00\00\03\00\00\00\b0\04\00\00\04\00\00\00")
    (data (i32.const 1350) "\04\00\00\00")"#;

/// Loads the graph, makes a context of it, both 0.
const READY: &str = "
    (call $want (i32.const 0) (call $load (i32.const 1100) (i32.const 2) (i32.const 0) (i32.const 0) (i32.const 2000)))
    (call $want (i32.const 0) (call $init (i32.const 0) (i32.const 2004)))";

/// Sets the input `1 2 3 4`.
const SET: &str =
    "(call $want (i32.const 0) (call $set_input (i32.const 0) (i32.const 0) (i32.const 1300)))";

/// A guest with `$want`, which traps with another number than it was told.
fn guest(xml: &str, memory: &str, body: &str) -> String {
    let length = u8::try_from(xml.len()).expect("a short model");
    format!(
        r#"(module {IMPORTS} {memory} {DATA} (data (i32.const 1024) "{xml}")
            (data (i32.const 1100) "\00\04\00\00\{length:02x}\00\00\00")
            (func $want (param i32 i32) (if (i32.ne (local.get 0) (local.get 1)) (then unreachable)))
            (func (export "run") {body}))"#
    )
}

fn run_module(nn: Option<NnCtx>, text: &str) -> Ran {
    let engine =
        Engine::new(Config::new().wasm_threads(true).shared_memory(true)).expect("an engine");
    let module = Module::new(&engine, wat::parse_str(text).expect("text")).expect("a module");
    let mut linker = Linker::<Option<NnCtx>>::new(&engine);
    add_to_linker(&mut linker, Option::as_mut).expect("linked");
    let mut store = Store::new(&engine, nn);
    let instance = linker.instantiate(&mut store, &module).expect("an instance");
    let run = instance.get_typed_func::<(), ()>(&mut store, "run").expect("an export");
    let result = run.call(&mut store, ());
    Ran::new(result, store.data().as_ref())
}

fn run_in(nn: &Nn, xml: &str, body: &str) -> Ran {
    let context = nn.context(&[], Arc::default()).expect("a context");
    run_module(Some(context), &guest(xml, r#"(memory (export "memory") 1)"#, body))
}

fn run(body: &str) -> Ran {
    run_in(&nn(&Fake::default(), NnLimits::default()), "<net/>", body)
}

#[test]
fn a_guest_infers() {
    let read = "(call $want (i32.const 0) (call $compute (i32.const 0)))
        (call $want (i32.const 0) (call $get_output (i32.const 0) (i32.const 0) (i32.const 2100) (i32.const 100) (i32.const 2008)))
        (call $want (i32.const 4) (i32.load (i32.const 2008)))
        (call $want (i32.const 0x08060402) (i32.load (i32.const 2100)))";
    let ran = run(&format!("{READY} {SET} {read}"));
    let report = ran.report.clone();
    assert_eq!(ran.refusals(), [""; 0]);
    assert_eq!((report.graphs_loaded, report.graphs_reused, report.inferences), (1, 0, 1));
}

#[test]
fn bad_pointers_end_the_task() {
    // ARCHITECTURE.md, case 27, each pointer of each call; the guest ignores the errno.
    let cases = [
        (
            "(drop (call $load (i32.const 0xfffffff8) (i32.const 2) (i32.const 0) (i32.const 0) (i32.const 2000)))",
            "`load`: the array of builders (16 bytes at 0xfffffff8) lies outside the guest's memory",
        ),
        (
            "(drop (call $load (i32.const 0) (i32.const -1) (i32.const 0) (i32.const 0) (i32.const 2000)))",
            "`load`: the array of builders (34359738360 bytes at 0x0) lies outside",
        ),
        (
            "(i32.store (i32.const 1108) (i32.const 65535))
             (drop (call $load (i32.const 1100) (i32.const 2) (i32.const 0) (i32.const 0) (i32.const 2000)))",
            "`load`: a builder (4 bytes at 0xffff) lies outside",
        ),
        (
            "(drop (call $load (i32.const 1100) (i32.const 2) (i32.const 0) (i32.const 0) (i32.const 65533)))",
            "`load`: the place of the result (4 bytes at 0xfffd) lies outside",
        ),
        (
            "(drop (call $load_by_name (i32.const 65530) (i32.const 7) (i32.const 2000)))",
            "`load_by_name`: the graph's name (7 bytes at 0xfffa) lies outside",
        ),
        (
            "(i32.store8 (i32.const 3000) (i32.const 255))
             (drop (call $load_by_name (i32.const 3000) (i32.const 1) (i32.const 2000)))",
            "`load_by_name`: the graph's name is not UTF-8",
        ),
        (
            "(drop (call $init (i32.const 0) (i32.const -4)))",
            "`init_execution_context`: the place of the result (4 bytes at 0xfffffffc) lies outside",
        ),
        (
            "(drop (call $set_input (i32.const 0) (i32.const 0) (i32.const 65517)))",
            "`set_input`: the tensor (20 bytes at 0xffed) lies outside",
        ),
        (
            "(i32.store (i32.const 1304) (i32.const -1))
             (drop (call $set_input (i32.const 0) (i32.const 0) (i32.const 1300)))",
            "`set_input`: the tensor's shape (17179869180 bytes at 0x546) lies outside",
        ),
        (
            "(i32.store (i32.const 1312) (i32.const 0xfffffff0)) (i32.store (i32.const 1316) (i32.const 602112))
             (drop (call $set_input (i32.const 0) (i32.const 0) (i32.const 1300)))",
            "`set_input`: the tensor's data (602112 bytes at 0xfffffff0) lies outside the guest's memory",
        ),
        (
            "(drop (call $get_output (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 65536) (i32.const 2000)))",
            "`get_output`: the output buffer (65536 bytes at 0x1) lies outside",
        ),
        (
            "(drop (call $get_output (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 4) (i32.const 65536)))",
            "`get_output`: the place of the result (4 bytes at 0x10000) lies outside",
        ),
    ];
    for (body, text) in cases {
        let trap = run(&format!("{READY} {body}")).trap();
        assert!(trap.contains(text), "{trap}");
    }
}

#[test]
fn what_a_guest_gets_wrong_is_an_errno_and_a_sentence() {
    // ARCHITECTURE.md, cases 28 to 31 and 37.
    let cases = [
        (
            "1",
            "(call $set_input (i32.const 0) (i32.const 7) (i32.const 1300))",
            "there is no input 7: the model has 1",
        ),
        (
            "1",
            "(call $set_input (i32.const 9) (i32.const 0) (i32.const 1300))",
            "there is no execution context 9: the task has made 1",
        ),
        (
            "1",
            "(call $init (i32.const 5) (i32.const 2000))",
            "there is no graph 5: the task has loaded 1",
        ),
        ("1", "(call $compute (i32.const -1))", "there is no execution context 4294967295"),
        ("6", "(call $compute (i32.const 0))", "input 0 (`in` u8 [4]) is not set"),
        (
            "6",
            "(call $get_output (i32.const 0) (i32.const 0) (i32.const 2100) (i32.const 4) (i32.const 2000))",
            "output 0 has not been computed since the inputs were set",
        ),
        (
            "1",
            "(call $get_output (i32.const 0) (i32.const 1) (i32.const 2100) (i32.const 4) (i32.const 2000))",
            "there is no output 1: the model has 1",
        ),
        (
            "2",
            "(call $load (i32.const 1100) (i32.const 2) (i32.const 1) (i32.const 0) (i32.const 2000))",
            "the encoding onnx is not served here: this build has openvino",
        ),
        (
            "2",
            "(call $load (i32.const 1100) (i32.const 2) (i32.const 5) (i32.const 0) (i32.const 2000))",
            "the encoding autodetect is not served here",
        ),
        (
            "2",
            "(call $load (i32.const 1100) (i32.const 2) (i32.const 77) (i32.const 0) (i32.const 2000))",
            "77 is not an encoding of wasi-nn",
        ),
        (
            "1",
            "(call $load (i32.const 1100) (i32.const 2) (i32.const 0) (i32.const 3) (i32.const 2000))",
            "3 is not an execution target of wasi-nn",
        ),
        (
            "1",
            "(call $load (i32.const 1100) (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 2000))",
            "takes two builders",
        ),
        (
            "1",
            "(call $load (i32.const 1100) (i32.const 17) (i32.const 0) (i32.const 0) (i32.const 2000))",
            "17 builders are more than any encoding takes",
        ),
        (
            "8",
            "(call $load_by_name (i32.const 1024) (i32.const 4) (i32.const 2000))",
            "there is no graph `<net`: the task has no graphs",
        ),
    ];
    for (errno, call, text) in cases {
        let said = run(&format!("{READY} (call $want (i32.const {errno}) {call})")).refusals();
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].contains(text), "{said:?}");
    }
}

#[test]
fn tensors_are_proven_before_anything_is_allocated() {
    let cases = [
        (
            "(i32.store (i32.const 1350) (i32.const 5))",
            "has 4 bytes, but its shape [5] of u8 says 5 bytes",
        ),
        (
            "(i32.store (i32.const 1316) (i32.const 0)) (i32.store (i32.const 1350) (i32.const 0x80000000))",
            "has 0 bytes",
        ),
        ("(i32.store (i32.const 1304) (i32.const 9))", "the tensor has 9 dimensions, more than 8"),
        ("(i32.store8 (i32.const 1308) (i32.const 6))", "6 is not a tensor type of wasi-nn"),
        (
            "(i32.store8 (i32.const 1308) (i32.const 4)) (i32.store (i32.const 1350) (i32.const 1))",
            "is i32, but the model's input is `in` u8 [4]",
        ),
    ];
    for (change, text) in cases {
        let set = "(call $want (i32.const 1) (call $set_input (i32.const 0) (i32.const 0) (i32.const 1300)))";
        let said = run(&format!("{READY} {change} {set}")).refusals();
        assert!(said.len() == 1 && said[0].contains(text), "{said:?}");
    }
}

#[test]
fn a_small_buffer_is_too_small_and_stale_outputs_are_not_shown() {
    let output = |size: u32, errno: u32| {
        format!(
            "(call $want (i32.const {errno}) (call $get_output (i32.const 0) (i32.const 0) (i32.const 2100) (i32.const {size}) (i32.const 2008)))"
        )
    };
    let (small, whole, stale) = (output(3, 7), output(4, 0), output(4, 6));
    let compute = "(call $want (i32.const 0) (call $compute (i32.const 0)))";
    let unchanged = "(call $want (i32.const 0) (i32.load (i32.const 2100)))";
    let said = run(&format!("{READY} {SET} {compute} {small} {unchanged} {whole} {SET} {stale}"))
        .refusals();
    assert_eq!(said.len(), 2);
    assert_eq!(said[0], "`get_output`: output 0 has 4 bytes, more than the guest's buffer of 3");
}

#[test]
fn loops_meet_quotas() {
    // ARCHITECTURE.md, case 36.
    let limits = NnLimits { graphs: 3, contexts: 2, ..NnLimits::default() };
    let load =
        "(call $load (i32.const 1100) (i32.const 2) (i32.const 0) (i32.const 0) (i32.const 2000))";
    let again = format!(
        "{READY} (call $want (i32.const 0) {load}) (call $want (i32.const 0) {load}) (call $want (i32.const 7) {load})
         (call $want (i32.const 0) (call $init (i32.const 0) (i32.const 2000)))
         (call $want (i32.const 7) (call $init (i32.const 0) (i32.const 2000)))"
    );
    let fake = Fake::default();
    let said = run_in(&nn(&fake, limits), "<net/>", &again).refusals();
    assert_eq!(
        said,
        [
            "`load`: the task has loaded 3 graphs, its limit",
            "`init_execution_context`: the task has 2 execution contexts, its limit"
        ]
    );
    // One context is 8 bytes of tensors; open shapes count when they are set.
    let tensors = NnLimits { tensor_bytes: 15, ..NnLimits::default() };
    let two =
        format!("{READY} (call $want (i32.const 7) (call $init (i32.const 0) (i32.const 2000)))");
    let said = run_in(&nn(&fake, tensors), "<net/>", &two).refusals();
    assert!(
        said[0].ends_with("tensors would take 16 bytes, more than its limit of 15"),
        "{said:?}"
    );
    let open = NnLimits { tensor_bytes: 3, ..NnLimits::default() };
    let set =
        "(call $want (i32.const 7) (call $set_input (i32.const 0) (i32.const 0) (i32.const 1300)))";
    let said = run_in(&nn(&fake, open), "<net name='open'/>", &format!("{READY} {set}")).refusals();
    assert!(said[0].ends_with("tensors would take 4 bytes, more than its limit of 3"), "{said:?}");
    let graphs = NnLimits { graph_bytes: WEIGHT - 1, ..NnLimits::default() };
    let said = run_in(&nn(&fake, graphs), "<net/>", &format!("(call $want (i32.const 7) {load})"))
        .refusals();
    assert!(said[0].contains("graphs would take 1000 bytes"), "{said:?}");
}

#[test]
fn a_model_over_the_limit_is_too_large() {
    // ARCHITECTURE.md, case 35.
    let load = "(i32.store (i32.const 1112) (i32.const 95))
        (call $want (i32.const 7) (call $load (i32.const 1100) (i32.const 2) (i32.const 0) (i32.const 0) (i32.const 2000)))";
    let said = run(load).refusals();
    assert_eq!(said, ["`load`: the model has 101 bytes, more than this worker's limit of 100"]);
}

#[test]
fn refusals_are_kept_in_bounds() {
    let body = "(local $i i32) (loop $again (drop (call $compute (i32.const 1)))
        (br_if $again (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 100000))))";
    let said = run(body).refusals();
    assert_eq!(said.len(), 33);
    assert_eq!(said[32], "99968 more refusals were not kept");
}

#[test]
fn a_guest_without_a_memory_or_with_a_shared_one_is_told() {
    let fake = Fake::default();
    let text = format!(
        r#"(module {IMPORTS} (func (export "run")
            (if (i32.ne (i32.const 3) (call $compute (i32.const 0))) (then unreachable))))"#
    );
    let context = nn(&fake, NnLimits::default()).context(&[], Arc::default()).expect("a context");
    assert_eq!(
        run_module(Some(context), &text).refusals(),
        ["`compute`: the guest exports no memory of that name"]
    );
    let context = nn(&fake, NnLimits::default()).context(&[], Arc::default()).expect("a context");
    let body = "(call $want (i32.const 6) (call $compute (i32.const 0)))";
    let shared = guest("<net/>", r#"(memory (export "memory") 1 1 shared)"#, body);
    let said = run_module(Some(context), &shared).refusals();
    assert!(said[0].contains("shared between threads"), "{said:?}");
}

#[test]
fn a_task_without_wasi_nn_ends_when_it_calls_it() {
    let body = "(drop (call $compute (i32.const 0)))";
    let ran = run_module(None, &guest("<net/>", r#"(memory (export "memory") 1)"#, body));
    assert!(ran.trap().contains("`compute`: the task has no wasi-nn; ask for it with `-S nn`"));
}

#[test]
fn a_failed_inference_is_told_and_its_request_not_used_again() {
    let fake = Fake::default();
    let nn = nn(&fake, NnLimits::default());
    let body = format!("{READY} {SET}
        (call $want (i32.const 5) (call $compute (i32.const 0)))
        (call $want (i32.const 6) (call $get_output (i32.const 0) (i32.const 0) (i32.const 2100) (i32.const 4) (i32.const 2008)))");
    for round in 1..3 {
        let said = run_in(&nn, "<net name='fails'/>", &body).refusals();
        assert_eq!(said[0], "`compute`: the fake backend can't infer this");
        assert_eq!(fake.requests(), round);
    }
}

#[test]
fn requests_stay_warm_but_not_those_with_a_state() {
    let fake = Fake::default();
    let nn = nn(&fake, NnLimits::default());
    for _ in 0..3 {
        run_in(&nn, "<net/>", &format!("{READY} {SET}")).refusals();
    }
    assert_eq!(fake.requests(), 1);
    let xml = "<net><layer type='ReadValue'/></net>";
    for round in 2..4 {
        run_in(&nn, xml, &format!("{READY} {SET}")).refusals();
        assert_eq!(fake.requests(), round);
    }
}

#[test]
fn a_stop_ends_an_inference_and_the_guest() {
    let fake = Fake::default();
    let nn = nn(&fake, NnLimits::default());
    let cancel = Arc::new(Cancel::default());
    let context = nn.context(&[], cancel.clone()).expect("a context");
    let xml = "<net name='endless'/>";
    let body = format!("{READY} {SET} (drop (call $compute (i32.const 0))) (loop $l (br $l))");
    let stop = thread::spawn(move || {
        while fake.requests() == 0 {
            thread::sleep(Duration::from_millis(1));
        }
        cancel.cancel(Reason::Stopped);
    });
    let trap =
        run_module(Some(context), &guest(xml, r#"(memory (export "memory") 1)"#, &body)).trap();
    stop.join().expect("no panic");
    assert!(trap.contains("`compute` was interrupted: the task was stopped"), "{trap}");
}

#[test]
fn a_worker_may_take_no_models_from_guests() {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(dir.path().join("model.xml"), "<net/>").expect("written");
    std::fs::write(dir.path().join("model.bin"), "").expect("written");
    let graph =
        GraphDir { encoding: "openvino".into(), dir: dir.path().to_owned(), name: "own".into() };
    let config = NnConfig {
        cache_bytes: 1 << 20,
        model_bytes: 100,
        load_bytes: LoadBytes::none(),
        ..NnConfig::default()
    };
    let fake = Fake::default();
    let nn = Nn::with_backends(config, vec![Box::new(fake.clone())]);
    let mut task = nn.context(&[graph], Arc::default()).expect("a context");
    assert_eq!(task.load_by_name("own"), Ok(0));
    // Also one whose graph is there already.
    for xml in [&b"<net/>"[..], b"<net><other/></net>"] {
        let Err(Halt::Refused(refusal)) = task.load(0, 0, &[xml, b""]) else { panic!("taken") };
        assert_eq!(refusal.errno, Errno::UnsupportedOperation);
        assert!(refusal.text.contains("--nn-load-bytes is false"), "{refusal}");
    }
    assert_eq!((fake.compiled(), task.report().diagnostics.len()), (1, 2));
}

#[test]
fn graphs_have_names() {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(dir.path().join("model.xml"), "<net/>").expect("written");
    std::fs::write(dir.path().join("model.bin"), "").expect("written");
    let graph = |name: &str, encoding: &str| GraphDir {
        encoding: encoding.to_owned(),
        dir: dir.path().to_owned(),
        name: name.to_owned(),
    };
    let config = NnConfig {
        cache_bytes: 1 << 20,
        model_bytes: 100,
        graphs: vec![graph("everyones", "openvino")],
        ..NnConfig::default()
    };
    let fake = Fake::default();
    let nn = Nn::with_backends(config, vec![Box::new(fake.clone())]);
    let mut preloaded = Vec::new();
    nn.preload(|graph, loaded| preloaded.push((graph.clone(), loaded)));
    assert_eq!(preloaded, [(graph("everyones", "openvino"), Ok(()))]);
    let mut task = nn.context(&[graph("mine", "openvino")], Arc::default()).expect("a context");
    assert_eq!((task.load_by_name("mine"), task.load_by_name("everyones")), (Ok(0), Ok(1)));
    assert_eq!(fake.compiled(), 1);
    assert!(task.load_by_name("other").is_err());
    let said = task.report().diagnostics;
    assert_eq!(said, ["`load_by_name`: there is no graph `other`: the task has everyones, mine"]);
    assert_eq!((task.report().graphs_reused, task.report().graphs_loaded), (2, 0));

    let error = nn.context(&[graph("x", "onnx")], Arc::default()).err().expect("no such backend");
    assert_eq!(error, "the encoding onnx is not served here: this build has openvino");
    let error = Nn::with_backends(NnConfig::default(), vec![]).context(&[], Arc::default());
    assert_eq!(error.err().as_deref(), Some(NO_BACKEND));
}
