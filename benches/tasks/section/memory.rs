//! What tasks in flight on one graph cost in memory.

use crate::broker::Broker;
use crate::manager::{Manager, Start};
use crate::place::{Place, task};
use crate::report::{Report, Target};
use crate::worker::Worker;
use anyhow::ensure;
use std::time::{Duration, Instant};

const MANY: usize = 8;

/// Runs MobileNet once, then sleeps for 31 years with its context open.
const HOLDS: &str = r#"(module
  (import "wasi_snapshot_preview1" "poll_oneoff"
    (func $poll_oneoff (param i32 i32 i32 i32) (result i32)))
  (import "wasi_ephemeral_nn" "load_by_name"
    (func $load_by_name (param i32 i32 i32) (result i32)))
  (import "wasi_ephemeral_nn" "init_execution_context"
    (func $init_execution_context (param i32 i32) (result i32)))
  (import "wasi_ephemeral_nn" "set_input"
    (func $set_input (param i32 i32 i32) (result i32)))
  (import "wasi_ephemeral_nn" "compute" (func $compute (param i32) (result i32)))
  (memory (export "memory") 11)
  (data (i32.const 112) "mobilenet")
  (data (i32.const 224) "\01\00\00\00\03\00\00\00\e0\00\00\00\e0\00\00\00")
  (func $must (param i32) (if (local.get 0) (then unreachable)))
  (func (export "_start")
    (call $must (call $load_by_name (i32.const 112) (i32.const 9) (i32.const 128)))
    (call $must (call $init_execution_context (i32.load (i32.const 128)) (i32.const 132)))
    (i32.store (i32.const 192) (i32.const 224))
    (i32.store (i32.const 196) (i32.const 4))
    (i32.store (i32.const 200) (i32.const 1))
    (i32.store (i32.const 204) (i32.const 65536))
    (i32.store (i32.const 208) (i32.const 602112))
    (memory.fill (i32.const 65536) (i32.const 1) (i32.const 602112))
    (call $must (call $set_input (i32.load (i32.const 132)) (i32.const 0) (i32.const 192)))
    (call $must (call $compute (i32.load (i32.const 132))))
    (i32.store (i32.const 272) (i32.const 1))
    (i64.store (i32.const 280) (i64.const 1000000000000000000))
    (drop (call $poll_oneoff (i32.const 256) (i32.const 320) (i32.const 1) (i32.const 352)))))"#;

pub fn measure(place: &Place, report: &mut Report) -> anyhow::Result<()> {
    let graph = format!("nn,nn-graph=openvino::{}", place.mobilenet.display());
    let start = Start::new(&task(wat::parse_str(HOLDS)?, &["-S", &graph]))?;
    let one = in_flight(place, &start, 1)?;
    let many = in_flight(place, &start, MANY)?;
    report.say("resident_1_in_flight_mib", one, "MiB");
    report.say("resident_8_in_flight_mib", many, "MiB");
    // The guests' own memory, which the target leaves out, is still in it.
    report.hold("resident_8_over_1", many / one, "", Target::AtMost(1.5));
    Ok(())
}

fn in_flight(place: &Place, start: &Start, tasks: usize) -> anyhow::Result<f64> {
    let broker = Broker::start(place)?;
    let mut manager = Manager::connect(broker.address)?;
    let worker = Worker::start(place, broker.address, &[("executors", &MANY.to_string())])?;
    manager.hear()?;
    let began = Instant::now();
    for _ in 0..tasks {
        manager.send(start);
    }
    let inferences = "proplet_inference_seconds_count{graph=\"mobilenet\",backend=\"openvino\"}";
    while worker.metric(inferences)? < tasks as f64 {
        ensure!(began.elapsed() < Duration::from_secs(30), "{tasks} tasks did not come to rest");
    }
    worker.resident_of_all()
}
