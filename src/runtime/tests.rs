//! What needs a backend that misbehaves.

use super::*;
use crate::cancel::Reason;
use crate::nn::fake::Stuck;
use crate::task::{Binary, Entry, Failure, Grant, Limits, ModuleSource, TaskId};
use std::time::Duration;

/// A limit that no test comes to.
const LONG: Duration = Duration::from_secs(60);

/// A task of the module `text`, in the text format.
fn task(text: &str, timeout: Duration) -> TaskSpec {
    let module = wat::parse_str(text).expect("a module");
    let grant = Grant {
        args: vec!["test".into()],
        env: vec![],
        dirs: vec![],
        entry: Entry::Label(String::new()),
        nn: Some(vec![]),
        limits: Limits { timeout: Some(timeout), memory: Some(1 << 20), output: 100 },
    };
    TaskSpec::new(TaskId::new("t").expect("an id"), ModuleSource::Bytes(Binary::new(module)), grant)
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

fn runtime(nn: Nn) -> Runtime {
    let config = RuntimeConfig {
        module_cache: 1 << 20,
        disk: None,
        compilers: 1,
        module_size: 1 << 20,
        stdio: Stdio::Captured,
        pool: Some(Pool { instances: 2, memory: 1 << 20 }),
    };
    Runtime::new(&config, nn).expect("a runtime")
}

/// HAZARDS.md case 40, and every other panic on a guest's behalf.
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
            let (ended, ends) = std::sync::mpsc::channel();
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
