//! Large reads: what guests get, and that nobody gets it who did not read it.

use super::super::tests::{LONG, binary, granted, runtime_with};
use super::super::{InstancePool, Runtime};
use super::contents::Contents;
use crate::cancel::{Cancel, Reason};
use crate::nn::Nn;
use crate::task::{
    Binary, EntryPoint, Failure, Grant, Limits, ModuleSource, Outcome, Preopen, TaskId, TaskSpec,
};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::{Duration, SystemTime};
use tempfile::TempDir;

/// Bytes of the file, which are no whole pages.
const LENGTH: usize = 200_001;
/// Where guests have it in their memory: beyond what they declare and what the
/// engine clears by itself, and not at the beginning of a page.
const AT: usize = (1 << 20) + 70_001;

/// Bytes none of which is zero.
fn bytes(salt: usize) -> Vec<u8> {
    (0..LENGTH).map(|n| ((n * 31 + n / 251 + salt) % 251 + 1) as u8).collect()
}

/// As the guests compute it.
fn hash(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(16_777_619))
}

/// A guest with a function for each thing that it may do.
fn module(pages: u32) -> Binary {
    let (all, part) = (hash(&bytes(0)), hash(&bytes(0)[4096..4096 + 100_000]));
    let changed = hash(&bytes(1));
    let doubled: Vec<u8> = bytes(0).iter().map(|byte| byte.wrapping_mul(2)).collect();
    let mut doubled_other = doubled.clone();
    doubled_other[LENGTH / 2] = 0;
    binary(&format!(
        r#"(module
        (import "wasi_snapshot_preview1" "path_open"
          (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_read"
          (func $fd_read (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_pread"
          (func $fd_pread (param i32 i32 i32 i64 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_tell" (func $fd_tell (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_seek"
          (func $fd_seek (param i32 i64 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (import "wasi_ephemeral_nn" "load"
          (func $load (param i32 i32 i32 i32 i32) (result i32)))
        (import "wasi_ephemeral_nn" "init_execution_context"
          (func $init_execution_context (param i32 i32) (result i32)))
        (import "wasi_ephemeral_nn" "set_input"
          (func $set_input (param i32 i32 i32) (result i32)))
        (import "wasi_ephemeral_nn" "compute" (func $compute (param i32) (result i32)))
        (import "wasi_ephemeral_nn" "get_output"
          (func $get_output (param i32 i32 i32 i32 i32) (result i32)))
        (memory (export "memory") {pages})
        (data (i32.const 64) "file")
        ;; Three models: a description and what was read.
        (data (i32.const 512) "<net/><net>panic</net><net>open</net>")
        (func $is (param i32 i32) (if (i32.ne (local.get 0) (local.get 1)) (then unreachable)))
        (func $hash (param $at i32) (param $length i32) (result i32)
          (local $hash i32)
          (local.set $hash (i32.const 0x811c9dc5))
          (block $end
            (loop $next
              (br_if $end (i32.eqz (local.get $length)))
              (local.set $hash (i32.mul (i32.const 16777619)
                (i32.xor (local.get $hash) (i32.load8_u (local.get $at)))))
              (local.set $at (i32.add (local.get $at) (i32.const 1)))
              (local.set $length (i32.sub (local.get $length) (i32.const 1)))
              (br $next)))
          (local.get $hash))
        (func $open (param $rights i64) (result i32)
          (call $is (i32.const 0) (call $path_open (i32.const 3) (i32.const 0) (i32.const 64)
            (i32.const 4) (i32.const 0) (local.get $rights) (i64.const 0) (i32.const 0)
            (i32.const 8)))
          (i32.load (i32.const 8)))
        (func $buffer (param $at i32) (param $length i32)
          ;; An empty one before it.
          (i64.store (i32.const 16) (i64.const 0))
          (i32.store (i32.const 24) (local.get $at))
          (i32.store (i32.const 28) (local.get $length)))
        (func $read (param $fd i32) (param $at i32) (param $length i32) (result i32)
          (call $buffer (local.get $at) (local.get $length))
          (call $is (i32.const 0) (call $fd_read (local.get $fd) (i32.const 16) (i32.const 2)
            (i32.const 40)))
          (i32.load (i32.const 40)))
        (func $grow (if (i32.lt_s (memory.grow (i32.const 32)) (i32.const 0))
          (then unreachable)))
        (func $stands (param $fd i32) (param $at i64)
          (call $is (i32.const 0) (call $fd_tell (local.get $fd) (i32.const 48)))
          (call $is (i32.const 1) (i64.eq (i64.load (i32.const 48)) (local.get $at))))
        (func $reads (export "reads") (local $fd i32)
          (call $grow)
          (local.set $fd (call $open (i64.const 2)))
          ;; The buffer is longer than the file.
          (call $is (i32.const {LENGTH})
            (call $read (local.get $fd) (i32.const {AT}) (i32.const 210000)))
          (call $stands (local.get $fd) (i64.const {LENGTH}))
          (call $is (i32.const {all}) (call $hash (i32.const {AT}) (i32.const {LENGTH})))
          (call $is (i32.const 0) (i32.load8_u (i32.const {before})))
          (call $is (i32.const 0) (i32.load8_u (i32.const {after})))
          (call $is (i32.const 0)
            (call $read (local.get $fd) (i32.const {AT}) (i32.const 210000))))
        (func (export "reads_changed")
          (call $grow)
          (call $is (i32.const {LENGTH})
            (call $read (call $open (i64.const 2)) (i32.const {AT}) (i32.const {LENGTH})))
          (call $is (i32.const {changed}) (call $hash (i32.const {AT}) (i32.const {LENGTH}))))
        (func (export "reads_part") (local $fd i32)
          (call $grow)
          (local.set $fd (call $open (i64.const 6)))
          (call $is (i32.const 0)
            (call $fd_seek (local.get $fd) (i64.const 17) (i32.const 0) (i32.const 48)))
          (call $buffer (i32.const 1310720) (i32.const 100000))
          (call $is (i32.const 0) (call $fd_pread (local.get $fd) (i32.const 16) (i32.const 2)
            (i64.const 4096) (i32.const 40)))
          (call $stands (local.get $fd) (i64.const 17))
          ;; wasmtime-wasi may give less than what is there.
          (if (i32.eq (i32.const 100000) (i32.load (i32.const 40)))
            (then (call $is (i32.const {part})
              (call $hash (i32.const 1310720) (i32.const 100000))))))
        (func (export "writes") (call $reads)
          (memory.fill (i32.const {AT}) (i32.const 0xff) (i32.const {LENGTH})))
        (func (export "overlaps") (local $fd i32)
          (call $reads)
          (call $is (i32.const {LENGTH})
            (call $read (call $open (i64.const 2)) (i32.const {overlapping}) (i32.const {LENGTH})))
          (call $is (i32.const {LENGTH})
            (call $read (call $open (i64.const 2)) (i32.const {elsewhere}) (i32.const {LENGTH})))
          (call $is (i32.const {all}) (call $hash (i32.const {elsewhere}) (i32.const {LENGTH})))
          (call $is (i32.const {all}) (call $hash (i32.const {overlapping}) (i32.const {LENGTH})))
          (call $is (i32.const {overlap}) (call $hash (i32.const {AT}) (i32.const 20000)))
          ;; Memory that comes later is empty, and what is mapped stays.
          (call $grow)
          (call $is (i32.const 0) (i32.load (i32.const {grown})))
          (i32.store (i32.const {grown}) (i32.const -1))
          (call $is (i32.const {all}) (call $hash (i32.const {elsewhere}) (i32.const {LENGTH}))))
        (func (export "forges")
          (call $grow)
          (call $buffer (i32.const {AT}) (i32.const {LENGTH}))
          ;; The number of bytes is written into what was read.
          (call $is (i32.const 0) (call $fd_read (call $open (i64.const 2)) (i32.const 16)
            (i32.const 2) (i32.const 1200000)))
          (call $is (i32.const {LENGTH}) (i32.load (i32.const 1200000))))
        (func (export "may_not")
          (call $grow)
          (call $buffer (i32.const {AT}) (i32.const {LENGTH}))
          (call $is (i32.const 8) (call $fd_read (call $open (i64.const 64)) (i32.const 16)
            (i32.const 2) (i32.const 40)))
          (call $is (i32.const 0) (i32.load8_u (i32.const {AT}))))
        (func $loads (param $description i32) (param $length i32)
          (i32.store (i32.const 80) (local.get $description))
          (i32.store (i32.const 84) (local.get $length))
          (i32.store (i32.const 88) (i32.const {AT}))
          (i32.store (i32.const 92) (i32.const {LENGTH}))
          (call $is (i32.const 0) (call $load (i32.const 80) (i32.const 2) (i32.const 0)
            (i32.const 0) (i32.const 8))))
        (func (export "loads") (call $reads) (call $loads (i32.const 512) (i32.const 6)))
        (func (export "loads_other") (call $reads)
          (i32.store8 (i32.const 1200000)
            (i32.xor (i32.const 1) (i32.load8_u (i32.const 1200000))))
          (call $loads (i32.const 512) (i32.const 6)))
        ;; The fake backend gives twice each byte.
        (func $doubles (param $hash i32)
          (call $loads (i32.const 534) (i32.const 15))
          (call $is (i32.const 0)
            (call $init_execution_context (i32.load (i32.const 8)) (i32.const 12)))
          (i32.store (i32.const 160) (i32.const {LENGTH}))
          (i32.store (i32.const 128) (i32.const 160))
          (i32.store (i32.const 132) (i32.const 1))
          (i32.store (i32.const 136) (i32.const 3))
          (i32.store (i32.const 140) (i32.const {AT}))
          (i32.store (i32.const 144) (i32.const {LENGTH}))
          (call $is (i32.const 0)
            (call $set_input (i32.load (i32.const 12)) (i32.const 0) (i32.const 128)))
          ;; What it does to its memory now changes nothing.
          (memory.fill (i32.const {AT}) (i32.const 0) (i32.const {LENGTH}))
          (call $is (i32.const 0) (call $compute (i32.load (i32.const 12))))
          (call $is (i32.const 0) (call $get_output (i32.load (i32.const 12)) (i32.const 0)
            (i32.const {AT}) (i32.const {LENGTH}) (i32.const 8)))
          (call $is (i32.const {LENGTH}) (i32.load (i32.const 8)))
          (call $is (local.get $hash) (call $hash (i32.const {AT}) (i32.const {LENGTH}))))
        (func (export "doubles") (call $reads) (call $doubles (i32.const {doubled})))
        (func (export "doubles_other") (call $reads)
          (i32.store8 (i32.const {middle}) (i32.const 0))
          (call $doubles (i32.const {doubled_other})))
        (func (export "traps") (call $reads) unreachable)
        (func (export "exits") (call $reads) (call $exit (i32.const 3)))
        (func (export "panics") (call $reads) (call $loads (i32.const 518) (i32.const 16)))
        (func (export "loops") (call $reads) (loop $for_ever (br $for_ever)))
        (func (export "scans") (local $at i32)
          (call $grow) (call $grow)
          (local.set $at (i32.const 1024))
          (loop $next
            (if (i64.ne (i64.const 0) (i64.load (local.get $at))) (then unreachable))
            (local.set $at (i32.add (local.get $at) (i32.const 8)))
            (br_if $next (i32.lt_u (local.get $at) (i32.mul (memory.size) (i32.const 65536)))))))"#,
        middle = AT + LENGTH / 2,
        doubled = hash(&doubled),
        doubled_other = hash(&doubled_other),
        before = AT - 1,
        after = AT + LENGTH,
        overlapping = AT + 5 * 4096,
        elsewhere = 1_600_000,
        overlap = hash(&bytes(0)[..20_000]),
        grown = 33 * 65536 + 8,
    ))
}

/// One slot, a file, and guests who read it.
struct Fixture {
    runtime: Arc<Runtime>,
    contents: Arc<Contents>,
    dir: TempDir,
    module: Binary,
}

impl Fixture {
    fn new() -> Fixture {
        let dir = tempfile::tempdir().expect("a folder");
        fs::write(dir.path().join("file"), bytes(0)).expect("written");
        let mut runtime = runtime_with(Nn::fake(), InstancePool { instances: 1, memory: 8 << 20 });
        // For it, the file has long been as it is.
        let later = || SystemTime::now() + Duration::from_secs(3600);
        let contents = Arc::new(Contents::with_clock(4 << 20, later));
        let stores = Arc::get_mut(&mut runtime.stores).expect("nobody else has them");
        stores.contents = Some(contents.clone());
        Fixture { runtime: Arc::new(runtime), contents, dir, module: module(1) }
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("file")
    }

    fn task(&self, function: &str) -> TaskSpec {
        let host = self.dir.path().canonicalize().expect("it is there");
        let dirs = vec![Preopen { host, guest: "/".into(), writable: true }];
        let limits = Limits { timeout: None, run: None, memory: Some(8 << 20), output: 100 };
        let module = ModuleSource::Bytes(self.module.clone());
        let spec = granted(module.clone(), dirs, limits);
        let entry = EntryPoint::Invoke(function.into());
        let grant = Grant { entry, ..spec.grant().clone() };
        TaskSpec::new(TaskId::new("t").expect("an id"), module, grant)
    }

    fn run(&self, function: &str) -> Outcome {
        self.runtime.run(&self.task(function), &Arc::default())
    }

    fn succeeds(&self, function: &str) -> Outcome {
        let outcome = self.run(function);
        assert_eq!(outcome.verdict, Ok(()), "{function}: {outcome:?}");
        outcome
    }

    /// Until the whole file is mapped by the next who reads it as `reads` does.
    fn warm(&self) {
        self.succeeds("reads");
        self.succeeds("reads");
        assert_eq!(self.contents.kept().0.len(), 1);
    }

    fn mapped(&self) -> u64 {
        self.contents.counts.mapped.load(Ordering::Relaxed)
    }

    /// Whether a content of this fixture's is mapped anywhere in this process.
    fn is_mapped_now(&self) -> bool {
        let maps = fs::read_to_string("/proc/self/maps").expect("what is mapped");
        let of = |id: &u64| maps.contains(&format!("memfd:proplet-content-{id} "));
        self.contents.kept().0.iter().any(of)
    }
}

#[test]
fn what_is_mapped_is_what_is_read() {
    let fixture = Fixture::new();
    fixture.warm();
    assert_eq!(fixture.mapped(), 0, "the first is only seen, and the second one's bytes are kept");
    for n in 1..=3 {
        fixture.succeeds("reads");
        assert_eq!(fixture.mapped(), n);
    }
    for n in 1..=4 {
        fixture.succeeds("reads_part");
        assert_eq!(fixture.mapped(), 3 + if n < 3 { 0 } else { n - 2 });
    }
    fixture.succeeds("scans");
}

#[test]
fn a_guest_writes_to_pages_of_its_own() {
    let fixture = Fixture::new();
    fixture.warm();
    fixture.succeeds("writes");
    fixture.succeeds("reads");
    assert_eq!(fixture.mapped(), 2);
    fixture.succeeds("scans");
}

#[test]
fn reads_that_overlap_and_a_memory_that_grows() {
    let fixture = Fixture::new();
    fixture.warm();
    for _ in 0..3 {
        fixture.succeeds("overlaps");
        fixture.succeeds("scans");
    }
    // The whole of it twice in the first two, and in the third also where it is
    // elsewhere in a page.
    assert_eq!(fixture.mapped(), 2 + 2 + 3);
}

/// ARCHITECTURE.md, case 98.
#[test]
fn however_a_task_ends_the_next_one_finds_nothing_of_its_file() {
    let fixture = Fixture::new();
    fixture.warm();
    let trap = |outcome: &Outcome| matches!(&outcome.verdict, Err(Failure::Trap(_)));
    let exit = |outcome: &Outcome| outcome.verdict == Err(Failure::Exit(3));
    let panic = |outcome: &Outcome| matches!(&outcome.verdict, Err(Failure::Internal(_)));
    let returns = |outcome: &Outcome| outcome.verdict == Ok(());
    type Ends<'a> = &'a dyn Fn(&Outcome) -> bool;
    let ways: [(&str, Ends<'_>); 5] = [
        ("reads", &returns),
        ("writes", &returns),
        ("traps", &trap),
        ("exits", &exit),
        ("panics", &panic),
    ];
    for (function, ends) in ways {
        let before = fixture.mapped();
        let outcome = fixture.run(function);
        assert!(ends(&outcome), "{function}: {:?}", outcome.verdict);
        assert_eq!(fixture.mapped(), before + 1, "{function}");
        assert!(!fixture.is_mapped_now(), "{function}");
        fixture.succeeds("scans");
    }
}

#[test]
fn a_task_that_is_ended_leaves_nothing_of_its_file() {
    let fixture = Fixture::new();
    fixture.warm();
    for reason in [Reason::Stopped, Reason::Timeout(LONG), Reason::ShuttingDown] {
        let cancel = Arc::new(Cancel::default());
        let (ended, ends) = mpsc::channel();
        let (runtime, task, cancelled) =
            (fixture.runtime.clone(), fixture.task("loops"), cancel.clone());
        let before = fixture.mapped();
        std::thread::spawn(move || ended.send(runtime.run(&task, &cancelled).verdict));
        while fixture.mapped() == before {
            assert_eq!(ends.try_recv(), Err(mpsc::TryRecvError::Empty));
            std::thread::yield_now();
        }
        assert!(fixture.is_mapped_now());
        cancel.cancel(reason);
        assert_eq!(ends.recv_timeout(LONG), Ok(Err(reason.into())));
        assert!(!fixture.is_mapped_now());
        fixture.succeeds("scans");
    }
}

#[test]
fn a_module_of_another_kind_finds_nothing_in_the_slot_either() {
    let fixture = Fixture::new();
    fixture.warm();
    fixture.succeeds("reads");
    assert_eq!(fixture.mapped(), 1);
    let other = Fixture { module: module(2), ..fixture };
    other.succeeds("scans");
}

#[test]
fn what_comes_with_the_module_is_not_mapped_over() {
    let mut fixture = Fixture::new();
    // All that is read lies in what the module declares.
    fixture.module = module(24);
    for _ in 0..4 {
        fixture.succeeds("reads");
    }
    assert_eq!(fixture.mapped(), 0);
    assert_eq!(fixture.contents.kept().1, 0);
}

#[test]
fn a_guest_forges_no_content_for_others() {
    let fixture = Fixture::new();
    for _ in 0..2 {
        fixture.succeeds("forges");
    }
    assert_eq!(fixture.contents.kept().0.len(), 1);
    fixture.succeeds("forges");
    fixture.succeeds("reads");
    assert_eq!(fixture.mapped(), 2);
}

#[test]
fn who_may_not_read_a_file_gets_nothing_of_it() {
    let fixture = Fixture::new();
    fixture.warm();
    fixture.succeeds("may_not");
    assert_eq!(fixture.mapped(), 0);
}

#[test]
fn a_file_that_has_changed_is_read_anew() {
    let fixture = Fixture::new();
    fixture.warm();
    fixture.succeeds("reads");
    let times = || {
        let stat = fs::metadata(fixture.file()).expect("it is there");
        (stat.mtime(), stat.mtime_nsec(), stat.ctime(), stat.ctime_nsec())
    };
    let before = times();
    // The clock of files may be slow, which is why what is new is not kept.
    while times() == before {
        fs::write(fixture.file(), bytes(1)).expect("written");
    }
    for n in 0..4 {
        fixture.succeeds("reads_changed");
        assert_eq!(fixture.mapped(), 1 + if n < 2 { 0 } else { n - 1 });
    }
}

#[test]
fn a_model_out_of_a_file_is_known_without_reading_it() {
    let fixture = Fixture::new();
    fixture.warm();
    let origins = || fixture.contents.counts.origins.load(Ordering::Relaxed);
    let graphs = |function: &str| {
        let reuse = fixture.succeeds(function).reuse;
        (reuse.graphs_loaded, reuse.graphs_reused)
    };
    assert_eq!(graphs("loads"), (1, 0));
    assert_eq!(graphs("loads"), (0, 1));
    assert_eq!(graphs("loads"), (0, 1));
    assert_eq!((fixture.mapped(), origins()), (3, 3));
    // One bit of it is another one, in a page that is the guest's own by then.
    assert_eq!(graphs("loads_other"), (1, 0));
    assert_eq!(graphs("loads_other"), (0, 1));
    assert_eq!((fixture.mapped(), origins()), (5, 3));
    assert_eq!(graphs("loads"), (0, 1));
    assert_eq!((fixture.mapped(), origins()), (6, 4));
}

#[test]
fn a_tensor_out_of_a_file_is_handed_over_without_reading_it() {
    let fixture = Fixture::new();
    fixture.warm();
    let shared = || fixture.contents.counts.shared.load(Ordering::Relaxed);
    for n in 1..=3 {
        fixture.succeeds("doubles");
        assert_eq!(shared(), n);
    }
    // A byte of it is another one.
    for _ in 0..2 {
        fixture.succeeds("doubles_other");
        assert_eq!(shared(), 3);
    }
    fixture.succeeds("doubles");
    assert_eq!(shared(), 4);
    fixture.succeeds("scans");
}
