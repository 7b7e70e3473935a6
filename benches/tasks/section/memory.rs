//! What tasks in flight on one graph cost in memory.

use crate::broker::Broker;
use crate::manager::{Manager, Start};
use crate::place::{Place, task};
use crate::report::{Report, Target};
use crate::worker::Worker;
use anyhow::ensure;
use std::fs;
use std::time::{Duration, Instant};

const MANY: usize = 8;

/// Loads MobileNet as LOAD says, runs it once, and then does what THEN says.
const GUEST: &str = r#"(module
  (import "wasi_snapshot_preview1" "path_open"
    (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read"
    (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff"
    (func $poll_oneoff (param i32 i32 i32 i32) (result i32)))
  (import "wasi_ephemeral_nn" "load"
    (func $load (param i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_ephemeral_nn" "load_by_name"
    (func $load_by_name (param i32 i32 i32) (result i32)))
  (import "wasi_ephemeral_nn" "init_execution_context"
    (func $init_execution_context (param i32 i32) (result i32)))
  (import "wasi_ephemeral_nn" "set_input"
    (func $set_input (param i32 i32 i32) (result i32)))
  (import "wasi_ephemeral_nn" "compute" (func $compute (param i32) (result i32)))
  (memory (export "memory") 11)
  (data (i32.const 16) "model.xml")
  (data (i32.const 32) "model.bin")
  (data (i32.const 112) "mobilenet")
  (data (i32.const 224) "\01\00\00\00\03\00\00\00\e0\00\00\00\e0\00\00\00")
  (func $must (param i32) (if (local.get 0) (then unreachable)))
  (func $read (param $name i32) (param $to i32) (param $size i32)
    (call $must (call $path_open (i32.const 3) (i32.const 0) (local.get $name) (i32.const 9)
      (i32.const 0) (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 400)))
    (i32.store (i32.const 404) (local.get $to))
    (i32.store (i32.const 408) (local.get $size))
    (call $must (call $fd_read
      (i32.load (i32.const 400)) (i32.const 404) (i32.const 1) (i32.const 412)))
    (call $must (i32.sub (i32.load (i32.const 412)) (local.get $size))))
  (func (export "_start") (local $xml i32)
    LOAD
    (call $must (call $init_execution_context (i32.load (i32.const 128)) (i32.const 132)))
    (i32.store (i32.const 192) (i32.const 224))
    (i32.store (i32.const 196) (i32.const 4))
    (i32.store (i32.const 200) (i32.const 1))
    (i32.store (i32.const 204) (i32.const 65536))
    (i32.store (i32.const 208) (i32.const 602112))
    (memory.fill (i32.const 65536) (i32.const 1) (i32.const 602112))
    (call $must (call $set_input (i32.load (i32.const 132)) (i32.const 0) (i32.const 192)))
    (call $must (call $compute (i32.load (i32.const 132))))
    THEN))"#;

const BY_NAME: &str =
    "(call $must (call $load_by_name (i32.const 112) (i32.const 9) (i32.const 128)))";

/// Out of its directory. XML and BIN are the sizes of both files.
const BY_BYTES: &str = ";; Behind the memory that the module declares, as an allocator has it.
    (local.set $xml (i32.mul (memory.grow (i32.const 512)) (i32.const 65536)))
    (i32.store (i32.const 160) (local.get $xml))
    (i32.store (i32.const 164) (i32.const XML))
    (i32.store (i32.const 168) (i32.add (local.get $xml) (i32.const 0x800000)))
    (i32.store (i32.const 172) (i32.const BIN))
    (call $read (i32.const 16) (i32.load (i32.const 160)) (i32.const XML))
    (call $read (i32.const 32) (i32.load (i32.const 168)) (i32.const BIN))
    (call $must (call $load
      (i32.const 160) (i32.const 2) (i32.const 0) (i32.const 0) (i32.const 128)))";

/// For 31 years, with its context open.
const SLEEPS: &str = "(i32.store (i32.const 272) (i32.const 1))
    (i64.store (i32.const 280) (i64.const 1000000000000000000))
    (drop (call $poll_oneoff (i32.const 256) (i32.const 320) (i32.const 1) (i32.const 352)))";

pub fn measure(place: &Place, report: &mut Report) -> anyhow::Result<()> {
    let guest = |load, then, args: &[&str]| {
        let text = GUEST.replace("LOAD", load).replace("THEN", then);
        Start::new(&task(wat::parse_str(text)?, args))
    };
    let graph = format!("nn,nn-graph=openvino::{}", place.mobilenet.display());
    let by_name = Holders {
        before: Vec::new(),
        start: guest(BY_NAME, SLEEPS, &["-S", &graph])?,
        graph: "mobilenet",
        memory: Worker::resident_of_all,
    };
    let size = |name| anyhow::Ok(fs::metadata(place.mobilenet.join(name))?.len().to_string());
    let load = BY_BYTES.replace("XML", &size("model.xml")?).replace("BIN", &size("model.bin")?);
    let reads = |then| guest(&load, then, &["-S", "nn", &place.fixture()]);
    let by_bytes = Holders {
        // The worker keeps what guests read again.
        before: vec![reads("")?, reads("")?, reads("")?],
        start: reads(SLEEPS)?,
        graph: "bytes",
        memory: Worker::proportional_with_contents,
    };
    // The guests' own memory, which the first target leaves out, is still in it.
    for (holders, one, many, over, most) in [
        (by_name, "resident_1_in_flight_mib", "resident_8_in_flight_mib", "resident_8_over_1", 1.5),
        (
            by_bytes,
            "pss_1_in_flight_by_bytes_mib",
            "pss_8_in_flight_by_bytes_mib",
            "pss_8_over_1_by_bytes",
            1.15,
        ),
    ] {
        let (with_one, with_many) = (holders.in_flight(place, 1)?, holders.in_flight(place, MANY)?);
        report.say(one, with_one, "MiB");
        report.say(many, with_many, "MiB");
        report.hold(over, with_many / with_one, "", Target::AtMost(most));
    }
    Ok(())
}

/// Tasks that compute once and then hold all that they have.
struct Holders {
    /// Those that run to their end before them.
    before: Vec<Start>,
    start: Start,
    /// As the metrics name it.
    graph: &'static str,
    memory: fn(&Worker) -> anyhow::Result<f64>,
}

impl Holders {
    /// The memory of a worker that has this many of them.
    fn in_flight(&self, place: &Place, tasks: usize) -> anyhow::Result<f64> {
        let broker = Broker::start(place)?;
        let mut manager = Manager::connect(broker.address)?;
        let worker = Worker::start(place, broker.address, &[("executors", &MANY.to_string())])?;
        manager.hear()?;
        for task in &self.before {
            manager.run(task)?;
        }
        let began = Instant::now();
        for _ in 0..tasks {
            manager.send(&self.start);
        }
        let inferences = format!(
            "proplet_inference_seconds_count{{graph=\"{}\",backend=\"openvino\"}}",
            self.graph
        );
        while worker.metric(&inferences)? < (self.before.len() + tasks) as f64 {
            ensure!(
                began.elapsed() < Duration::from_secs(30),
                "{tasks} tasks did not come to rest"
            );
        }
        (self.memory)(&worker)
    }
}
