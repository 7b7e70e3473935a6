//! What needs a backend that misbehaves.

use super::*;
use crate::cancel::{Doing, Reason, TaskChange};
use crate::nn::fake::Stuck;
use crate::sources::Fetcher;
use crate::task::{
    Binary, EntryPoint, Failure, Grant, GraphDir, Limits, ModuleSource, Preopen, TaskId,
};
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::mpsc;
use std::time::Duration;

/// A limit that no test comes to.
pub(super) const LONG: Duration = Duration::from_secs(60);

/// A task of the module `text`, in the text format.
fn task(text: &str, timeout: Duration) -> TaskSpec {
    let limits = Limits { timeout: Some(timeout), run: None, memory: Some(1 << 20), output: 100 };
    limited(ModuleSource::Bytes(binary(text)), limits)
}

pub(super) fn binary(text: &str) -> Binary {
    Binary::new(wat::parse_str(text).expect("a module"))
}

fn limited(module: ModuleSource, limits: Limits) -> TaskSpec {
    granted(module, vec![], limits)
}

pub(super) fn granted(module: ModuleSource, dirs: Vec<Preopen>, limits: Limits) -> TaskSpec {
    let grant = Grant {
        args: vec!["test".into()],
        env: vec![],
        dirs,
        entry: EntryPoint::Label(String::new()),
        nn: Some(vec![]),
        limits,
        serving: None,
        notes: vec![],
    };
    TaskSpec::new(TaskId::new("t").expect("an id"), module, grant)
}

/// A guest that loads the model `xml` from its own memory, then does `then`.
fn loads(xml: &str, then: &str) -> String {
    let length = u8::try_from(xml.len()).expect("a short model");
    format!(
        r#"(module
            (import "wasi_ephemeral_nn" "load"
              (func $load (param i32 i32 i32 i32 i32) (result i32)))
            (import "wasi_ephemeral_nn" "init_execution_context"
              (func $context (param i32 i32) (result i32)))
            (import "wasi_ephemeral_nn" "set_input"
              (func $input (param i32 i32 i32) (result i32)))
            (import "wasi_ephemeral_nn" "compute" (func $compute (param i32) (result i32)))
            (memory (export "memory") 1)
            (data (i32.const 1024) "{xml}")
            (data (i32.const 64) "\00\04\00\00\{length:02x}\00\00\00\00\00\00\00\00\00\00\00")
            ;; A tensor of four bytes: its dimensions, their count, the type, the data.
            (data (i32.const 128) "\04\00\00\00")
            (data (i32.const 160) "\80\00\00\00\01\00\00\00\03\00\00\00\c0\00\00\00\04\00\00\00")
            (func $ok (param i32) (if (local.get 0) (then unreachable)))
            (func (export "_start")
              (call $ok
                (call $load (i32.const 64) (i32.const 2) (i32.const 0) (i32.const 0) (i32.const 8)))
              {then}))"#
    )
}

/// Computes with the graph that was loaded.
const COMPUTE: &str = "
    (call $ok (call $context (i32.load (i32.const 8)) (i32.const 12)))
    (call $ok (call $input (i32.load (i32.const 12)) (i32.const 0) (i32.const 160)))
    (call $ok (call $compute (i32.load (i32.const 12))))";

const LOOPS: &str = r#"(module (func (export "_start") (loop $l (br $l))))"#;

pub(super) fn runtime(nn: Nn) -> Runtime {
    runtime_with(nn, InstancePool { instances: 2, memory: 1 << 20 })
}

pub(super) fn runtime_with(nn: Nn, pool: InstancePool) -> Runtime {
    pooled(nn, Some(pool))
}

fn pooled(nn: Nn, pool: Option<InstancePool>) -> Runtime {
    let fetcher = Fetcher::new(1 << 20, None, None);
    let config = RuntimeConfig {
        module_cache: 1 << 20,
        file_cache: 1 << 20,
        disk: None,
        compilers: 1,
        compile_apart: None,
        fetch: Arc::new(move |spec, cancel| fetcher.code(spec, cancel)),
        stdio: Stdio::Captured,
        pool,
        requests: Requests { at_once: 1, nice: 0, memory: 0 },
        outbound: None,
    };
    Runtime::new(&config, nn).expect("a runtime")
}

/// ARCHITECTURE.md, case 40, and every other panic on a guest's behalf.
#[test]
fn a_panic_on_a_guests_behalf_is_its_tasks_error() {
    let runtime = runtime(Nn::fake());
    // More often than there are slots: each store was dropped.
    for _ in 0..5 {
        let outcome = runtime.run(&task(&loads("<net>panic</net>", ""), LONG), &Arc::default());
        let Err(Failure::Internal(text)) = outcome.verdict else { panic!("{:?}", outcome.verdict) };
        assert_eq!(text, "panic while the task ran: a model that panics");
    }
    assert_eq!(runtime.run(&task(&loads("<net/>", ""), LONG), &Arc::default()).verdict, Ok(()));
}

/// The module `text` as it is, and with so much in a custom section that it is
/// large code.
fn small_and_large(text: &str) -> [ModuleSource; 2] {
    let small = wat::parse_str(text).expect("a module");
    // Of 1 MiB less its name, the length in LEB128.
    let section = [&[0, 0x80, 0x80, 0x40, 1, b'x'], &[0; (1 << 20) - 2][..]].concat();
    let large = [&small[..], &section].concat();
    [small, large].map(|binary| ModuleSource::Bytes(Binary::new(binary)))
}

/// Which takes as long as the code, or longer.
#[test]
fn a_tasks_graphs_are_loaded_while_its_code_is_compiled() {
    let runtime = runtime(Nn::fake());
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("model.xml"), "<net/>").expect("a model");
    std::fs::write(folder.path().join("model.bin"), "").expect("no weights");
    let dir = folder.path().canonicalize().expect("a path");
    let graph = GraphDir { encoding: "openvino".into(), dir, name: "net".into() };
    let spec = |module: ModuleSource| {
        let plain = task(LOOPS, LONG);
        let grant = Grant { nn: Some(vec![graph.clone()]), ..plain.grant().clone() };
        TaskSpec::new(TaskId::new("t").expect("an id"), module, grant)
    };
    // Without its code there is nothing that would load it afterwards.
    let broken = ModuleSource::Bytes(Binary::new(b"\0asm\x01\0\0\0broken".to_vec()));
    let outcome = runtime.run(&spec(broken), &Arc::default());
    assert!(matches!(outcome.verdict, Err(Failure::Module(_))), "{:?}", outcome.verdict);
    assert_eq!(runtime.nn().stats().graphs_compiled, 1);
    // And who runs counts each once.
    let text = r#"(module (func (export "_start")))"#;
    let outcome = runtime.run(&spec(ModuleSource::Bytes(binary(text))), &Arc::default());
    assert_eq!(outcome.verdict, Ok(()));
    assert_eq!((outcome.reuse.graphs_loaded, outcome.reuse.graphs_reused), (0, 1));
}

#[test]
fn each_instance_begins_with_its_codes_data() {
    let runtime = runtime(Nn::fake());
    let text = r#"(module
        (memory 3)
        (data (i32.const 65534) "abc")
        (func $is (param i32 i32)
          (if (i32.ne (i32.load8_u (local.get 0)) (local.get 1)) (then unreachable)))
        (func (export "_start")
          (call $is (i32.const 65534) (i32.const 97))
          (call $is (i32.const 65536) (i32.const 99))
          (call $is (i32.const 131072) (i32.const 0))
          (i32.store8 (i32.const 65534) (i32.const 1))
          (i32.store8 (i32.const 65536) (i32.const 1))
          (i32.store8 (i32.const 131072) (i32.const 1))))"#;
    let limits = Limits { timeout: Some(LONG), run: None, memory: Some(1 << 20), output: 100 };
    let tasks = small_and_large(text).map(|module| limited(module, limits.clone()));
    // In turns, and more often than there are slots.
    for task in tasks.iter().cycle().take(10) {
        assert_eq!(runtime.run(task, &Arc::default()).verdict, Ok(()));
    }
}

#[test]
fn code_of_any_size_is_interrupted() {
    let runtime = runtime(Nn::fake());
    let limit = Duration::from_millis(20);
    let limits = Limits { timeout: None, run: Some(limit), memory: Some(1 << 20), output: 100 };
    for module in small_and_large(LOOPS) {
        let outcome = runtime.run(&limited(module, limits.clone()), &Arc::default());
        assert_eq!(outcome.verdict, Err(Failure::Timeout(limit)));
    }
}

#[test]
fn a_native_cancellation_that_blocks_holds_up_no_other_task() {
    let stuck = Arc::new(Stuck::default());
    let runtime = runtime(Nn::stuck(stuck.clone()));
    std::thread::scope(|scope| {
        // Enough to come to the inference.
        let late = Duration::from_secs(2);
        let infers = task(&loads("<net>stuck</net>", COMPUTE), late);
        let infers = scope.spawn({
            let runtime = &runtime;
            move || runtime.run(&infers, &Arc::default()).verdict
        });
        stuck.until_cancelling();
        // The clock goes on: for one who is stopped, and for one whose time is over.
        let limit = Duration::from_millis(20);
        for reason in [Reason::Stopped, Reason::Timeout(limit)] {
            let cancel = Arc::default();
            let (ended, ends) = mpsc::channel();
            let (runtime, cancelled) = (&runtime, Arc::clone(&cancel));
            let timeout = if reason == Reason::Stopped { LONG } else { limit };
            scope.spawn(move || ended.send(runtime.run(&task(LOOPS, timeout), &cancelled).verdict));
            if reason == Reason::Stopped {
                cancel.cancel(reason);
            }
            let verdict = ends.recv_timeout(LONG / 2);
            if verdict.is_err() {
                stuck.release();
            }
            assert_eq!(verdict, Ok(Err(reason.into())));
        }
        assert!(!infers.is_finished(), "its cancellation still blocks");
        stuck.release();
        assert_eq!(infers.join().expect("no panic"), Err(Failure::Timeout(late)));
    });
}

/// Where `module` is served once, to whoever asks first, `late`.
fn served(module: Binary, late: Duration) -> String {
    let server = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/guest.wasm", server.local_addr().expect("an address"));
    std::thread::spawn(move || {
        let (mut client, _) = server.accept().expect("who asks");
        assert!(client.read(&mut [0; 4096]).expect("a request") > 0);
        std::thread::sleep(late);
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", module.len());
        // Who asked may have gone.
        client.write_all(head.as_bytes()).and_then(|()| client.write_all(&module)).ok();
    });
    url
}

/// A guest that sleeps as long as this.
fn sleeps(time: Duration) -> Binary {
    let nanos: String = u64::try_from(time.as_nanos())
        .expect("a short time")
        .to_le_bytes()
        .map(|byte| format!("\\{byte:02x}"))
        .concat();
    // A subscription to a clock, the monotonic one, for a time from now.
    binary(&format!(
        r#"(module
            (import "wasi_snapshot_preview1" "poll_oneoff"
              (func $poll (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (data (i32.const 16) "\01")
            (data (i32.const 24) "{nanos}")
            (func (export "_start")
              (if (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128))
                (then unreachable))))"#
    ))
}

#[test]
fn one_deadline_covers_fetching_and_running() {
    let runtime = runtime(Nn::fake());
    let (limit, part) = (Duration::from_secs(1), Duration::from_millis(600));
    let limits = Limits { timeout: Some(limit), run: None, memory: None, output: 100 };
    let task = limited(ModuleSource::Url(served(sleeps(part), part)), limits);
    assert_eq!(runtime.run(&task, &Arc::default()).verdict, Err(Failure::Timeout(limit)));
}

/// As `wasmtime run -W timeout` counts.
#[test]
fn a_limit_of_the_run_counts_from_the_guests_start() {
    let runtime = runtime(Nn::fake());
    let (run, late) = (Duration::from_secs(1), Duration::from_millis(1200));
    let limits = Limits { timeout: Some(LONG), run: Some(run), memory: None, output: 100 };
    let quick = served(sleeps(Duration::from_millis(1)), late);
    let quick = limited(ModuleSource::Url(quick), limits.clone());
    assert_eq!(runtime.run(&quick, &Arc::default()).verdict, Ok(()));
    let loops = limited(ModuleSource::Bytes(binary(LOOPS)), limits);
    assert_eq!(runtime.run(&loops, &Arc::default()).verdict, Err(Failure::Timeout(run)));
}

#[test]
fn a_task_whose_server_never_answers_is_stopped() {
    let runtime = Arc::new(runtime(Nn::fake()));
    let server = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/guest.wasm", server.local_addr().expect("an address"));
    let limits = Limits { timeout: None, run: None, memory: None, output: 100 };
    let task = limited(ModuleSource::Url(url), limits);
    let cancel = Arc::new(Cancel::default());
    let (ended, ends) = mpsc::channel();
    let (running, cancelled) = (runtime.clone(), cancel.clone());
    std::thread::spawn(move || ended.send(running.run(&task, &cancelled).verdict));
    let _connection = server.accept().expect("who asks");
    cancel.cancel(Reason::Stopped);
    assert_eq!(ends.recv_timeout(LONG / 2), Ok(Err(Failure::Stopped)));
}

/// A component that loads the model `xml`, makes a context of it, and does
/// `then`: its exported function `run`, with the words of `guest.wat`.
fn component(xml: &str, then: &str, memory: Option<u64>, timeout: Duration) -> TaskSpec {
    let text = include_str!("../nn/abi/wit/guest.wat");
    let body = format!(
        "(local.set $g (call $graph)) (local.set $c (call $context (local.get $g))) {then}"
    );
    let length = format!("\\{:02x}", xml.len());
    let text = text.replace("XML", xml).replace("\\LENGTH", &length).replace("BODY", &body);
    let limits = Limits { timeout: Some(timeout), run: None, memory, output: 100 };
    let grant = Grant {
        args: vec!["test".into()],
        env: vec![],
        dirs: vec![],
        entry: EntryPoint::Invoke("run".into()),
        nn: Some(vec![]),
        limits,
        serving: None,
        notes: vec![],
    };
    let module = ModuleSource::Bytes(binary(&text));
    TaskSpec::new(TaskId::new("t").expect("an id"), module, grant)
}

/// Infers again and again: a guest that got an error would go on.
const INFERS: &str = "(loop $again (call $infer (local.get $c) (call $tensor)) (br $again))";

#[test]
fn a_component_is_stopped_while_it_infers() {
    let runtime = Arc::new(runtime(Nn::fake()));
    let task = component("<net name='endless'/>", INFERS, Some(1 << 20), LONG);
    let (inferring, infers) = mpsc::channel();
    let cancel = Arc::new(Cancel::shown(move |change| {
        if let TaskChange::Doing(Doing::Computing(_)) = change {
            inferring.send(()).ok();
        }
    }));
    std::thread::scope(|scope| {
        let verdict = scope.spawn(|| runtime.run(&task, &cancel).verdict);
        infers.recv_timeout(LONG).expect("it comes to the inference");
        cancel.cancel(Reason::Stopped);
        assert_eq!(verdict.join().expect("no panic"), Err(Failure::Stopped));
    });
    let next = component("<net/>", "", Some(1 << 20), LONG);
    assert_eq!(runtime.run(&next, &Arc::default()).verdict, Ok(()));
}

#[test]
fn a_components_inference_runs_into_its_timeout() {
    let runtime = runtime(Nn::fake());
    let late = Duration::from_secs(2);
    let task = component("<net name='endless'/>", INFERS, Some(1 << 20), late);
    let outcome = runtime.run(&task, &Arc::default());
    assert_eq!(outcome.verdict, Err(Failure::Timeout(late)));
    assert_eq!(runtime.nn().stats().inferences, 1, "it came to the inference");
}

/// The engine's own limit for what one call of the host's copies is 128 MiB.
#[test]
fn a_component_makes_a_tensor_of_more_than_128_mib() {
    let runtime = pooled(Nn::fake(), None);
    // 132 MiB of memory, and a tensor of 129 MiB of it.
    let large = "(drop (memory.grow (i32.const 2112)))
        (call $tensor.drop (call $tensor.new (i32.const 1300) (i32.const 1) (i32.const 4)
          (i32.const 262144) (i32.const 135266304)))";
    for memory in [None, Some(256 << 20)] {
        let outcome = runtime.run(&component("<net/>", large, memory, LONG), &Arc::default());
        assert_eq!(outcome.verdict, Ok(()), "{memory:?}");
    }
}
