//! What needs a backend that misbehaves.

use super::*;
use crate::task::{Binary, Entry, Failure, Grant, Limits, ModuleSource, TaskId};
use std::time::Duration;

/// A guest that loads the model `xml` from its own memory.
fn loads(xml: &str) -> TaskSpec {
    let length = u8::try_from(xml.len()).expect("a short model");
    let text = format!(
        r#"(module
            (import "wasi_ephemeral_nn" "load"
              (func $load (param i32 i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (data (i32.const 1024) "{xml}")
            (data (i32.const 64) "\00\04\00\00\{length:02x}\00\00\00\00\00\00\00\00\00\00\00")
            (func (export "_start")
              (if (call $load (i32.const 64) (i32.const 2) (i32.const 0) (i32.const 0) (i32.const 8))
                (then unreachable))))"#
    );
    let module = wat::parse_str(text).expect("a module");
    let grant = Grant {
        args: vec!["test".into()],
        env: vec![],
        dirs: vec![],
        entry: Entry::Label(String::new()),
        nn: Some(vec![]),
        limits: Limits {
            timeout: Some(Duration::from_secs(60)),
            memory: Some(1 << 20),
            output: 100,
        },
    };
    TaskSpec::new(TaskId::new("t").expect("an id"), ModuleSource::Bytes(Binary::new(module)), grant)
}

/// HAZARDS.md case 40, and every other panic on a guest's behalf.
#[test]
fn a_panic_on_a_guests_behalf_is_its_tasks_error() {
    let config = RuntimeConfig {
        module_cache: 1 << 20,
        disk: None,
        compilers: 1,
        module_size: 1 << 20,
        stdio: Stdio::Captured,
        pool: Some(Pool { instances: 1, memory: 1 << 20 }),
    };
    let runtime = Runtime::new(&config, Nn::fake()).expect("a runtime");
    // More often than there are slots: each store was dropped.
    for _ in 0..5 {
        let outcome = runtime.run(&loads("<net>panic</net>"), &Arc::default());
        let Err(Failure::Internal(text)) = outcome.verdict else { panic!("{:?}", outcome.verdict) };
        assert_eq!(text, "panic while the task ran: a model that panics");
    }
    assert_eq!(runtime.run(&loads("<net/>"), &Arc::default()).verdict, Ok(()));
}
