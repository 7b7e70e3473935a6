use super::super::Runtime;
use super::super::tests::{LONG, binary, granted, runtime};
use super::linux::{fill, hash};
use crate::cancel::{Cancel, Reason};
use crate::nn::Nn;
use crate::task::{Failure, Limits, ModuleSource, Preopen, TaskSpec};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Arc, mpsc};

/// Imports of every function that the guests here call.
const IMPORTS: &str = r#"
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (import "wasi_snapshot_preview1" "fd_readdir"
      (func $list (param i32 i32 i32 i64 i32) (result i32)))
    (import "wasi_snapshot_preview1" "path_open"
      (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
    (import "wasi_unstable" "path_open"
      (func $old_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "path_rename"
      (func $rename (param i32 i32 i32 i32 i32 i32) (result i32)))
    (import "wasi_unstable" "path_symlink"
      (func $old_symlink (param i32 i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "path_filestat_get"
      (func $stat (param i32 i32 i32 i32 i32) (result i32)))"#;

/// A guest whose first directory, descriptor 3, is `dir`.
fn guest(dir: &Path, data: &str, body: &str) -> TaskSpec {
    let module = binary(&format!(
        r#"(module {IMPORTS}
            (memory (export "memory") 1)
            (data (i32.const 64) "{data}")
            (func $is (param i32 i32) (if (i32.ne (local.get 0) (local.get 1)) (then unreachable)))
            (func (export "_start") {body}))"#
    ));
    let host = dir.canonicalize().expect("it is there");
    let dirs = vec![Preopen { host, guest: "/".into(), writable: true }];
    let limits = Limits { timeout: None, run: None, memory: None, output: 100 };
    granted(ModuleSource::Bytes(module), dirs, limits)
}

/// Runs it on a thread of its own, which may not come back.
fn start(task: TaskSpec, cancel: &Arc<Cancel>) -> mpsc::Receiver<Result<(), Failure>> {
    let runtime: Runtime = runtime(Nn::fake());
    let (ended, ends) = mpsc::channel();
    let cancel = cancel.clone();
    std::thread::spawn(move || ended.send(runtime.run(&task, &cancel).verdict));
    ends
}

#[test]
fn a_listing_ends_with_its_task() {
    let dir = tempfile::tempdir().expect("a folder");
    for n in 0..20_000 {
        File::create(dir.path().join(format!("{n:060}"))).expect("made");
    }
    // All entries lie before the place that is asked for. Between calls in a
    // row no epoch is looked at, and the last call would be an exit.
    let list = "(drop (call $list (i32.const 3) (i32.const 256) (i32.const 64) \
                (i64.const 0x100000000) (i32.const 8)))";
    let begin = "(call $is (call $open (i32.const 3) (i32.const 0) (i32.const 64) (i32.const 5) \
                 (i32.const 1) (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 0)) \
                 (i32.const 0))";
    let body = format!("{begin} {} (call $exit (i32.const 7))", list.repeat(500));
    let cancel = Arc::default();
    let ends = start(guest(dir.path(), "begun", &body), &cancel);
    let begun = dir.path().join("begun");
    while !begun.exists() {
        assert_eq!(ends.try_recv(), Err(mpsc::TryRecvError::Empty));
        std::thread::yield_now();
    }
    cancel.cancel(Reason::Stopped);
    assert_eq!(ends.recv_timeout(LONG), Ok(Err(Failure::Stopped)));
}

#[test]
fn a_listing_is_whole_whatever_the_buffer() {
    let dir = tempfile::tempdir().expect("a folder");
    for n in 0..300 {
        File::create(dir.path().join("x".repeat(1 + n % 200) + &n.to_string())).expect("made");
    }
    fs::create_dir(dir.path().join("folder")).expect("made");
    std::os::unix::fs::symlink("nowhere", dir.path().join("link")).expect("made");
    let socket = dir.path().join("socket");
    let _socket = std::os::unix::net::UnixListener::bind(socket).expect("made");
    let kind = |file: &fs::FileType| match (file.is_dir(), file.is_symlink(), file.is_file()) {
        (true, ..) => 3,
        (_, true, _) => 7,
        (.., true) => 4,
        _ => 6,
    };
    let mut expected: BTreeMap<_, _> = fs::read_dir(dir.path())
        .expect("listed")
        .map(|entry| {
            let entry = entry.expect("an entry");
            let of = fs::symlink_metadata(entry.path()).expect("it is there");
            let name = entry.file_name().into_string().expect("text");
            (name, (hash(of.dev(), of.ino()), kind(&of.file_type())))
        })
        .collect();
    let own = fs::metadata(dir.path()).expect("it is there");
    for name in [".", ".."] {
        expected.insert(name.to_owned(), (hash(own.dev(), own.ino()), 3));
    }
    let opened = File::open(dir.path()).expect("opened");
    for size in [300, 1000, 4096, 1 << 20] {
        let (mut found, mut cookie, mut buffer) = (BTreeMap::new(), 0, vec![0; size]);
        loop {
            let filled = fill(&opened, cookie, &mut buffer, &Cancel::default());
            let filled = filled.expect("not cancelled").expect("listed");
            let mut rest = &buffer[..filled];
            // As a guest reads it: an entry that was cut comes again.
            while let Some((head, names)) = rest.split_first_chunk::<24>() {
                let number =
                    |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("8"));
                let length = (number(16) & 0xffff_ffff) as usize;
                let Some((name, more)) = names.split_at_checked(length) else { break };
                let name = String::from_utf8(name.to_vec()).expect("text");
                assert_eq!(found.insert(name, (number(8), head[20])), None);
                (cookie, rest) = (number(0), more);
            }
            if filled < size {
                break;
            }
        }
        assert_eq!(found, expected, "in buffers of {size} bytes");
    }
}

#[test]
fn what_a_directory_says_of_a_file_is_what_the_file_says() {
    let dir = tempfile::tempdir().expect("a folder");
    File::create(dir.path().join("file")).expect("made");
    // In the directory that was granted and in one that was opened.
    let list = |fd: &str| {
        format!(
            "(call $is (call $list {fd} (i32.const 1024) (i32.const 100) (i64.const 2) \
             (i32.const 8)) (i32.const 0))
             (call $is (i64.ne (i64.load (i32.const 520)) (i64.load (i32.const 1032))) \
             (i32.const 0))
             (call $is (i32.load (i32.const 8)) (i32.const 28))"
        )
    };
    let body = "
        (call $is (call $open (i32.const 3) (i32.const 0) (i32.const 68) (i32.const 1)
          (i32.const 2) (i64.const 0x4000) (i64.const 0) (i32.const 0) (i32.const 12))
          (i32.const 0))
        (call $is (call $stat (i32.const 3) (i32.const 0) (i32.const 64) (i32.const 4)
          (i32.const 512)) (i32.const 0))"
        .to_owned()
        + &list("(i32.const 3)")
        + &list("(i32.load (i32.const 12))")
        + "
        (call $is (call $list (i32.const 99) (i32.const 1024) (i32.const 100) (i64.const 2)
          (i32.const 8)) (i32.const 8))
        (call $is (call $list (i32.const 3) (i32.const 65000) (i32.const 1000) (i64.const 2)
          (i32.const 8)) (i32.const 21))";
    let ends = start(guest(dir.path(), "file.", &body), &Arc::default());
    assert_eq!(ends.recv_timeout(LONG), Ok(Ok(())));
}

#[test]
fn a_path_that_no_system_takes_is_not_looked_at() {
    let dir = tempfile::tempdir().expect("a folder");
    // It is no text, which is told of a path that is looked at.
    let open = "(i32.const 3) (i32.const 0) (i32.const 64) (i32.const 4097) (i32.const 0) \
                (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 8)";
    let body = format!(
        "(call $is (call $open {open}) (i32.const 37))
        (call $is (call $old_open {open}) (i32.const 37))
        (call $is (call $open {}) (i32.const 25))
        (call $is (call $rename (i32.const 3) (i32.const 60) (i32.const 1) (i32.const 3)
          (i32.const 64) (i32.const 5000)) (i32.const 37))
        (call $is (call $old_symlink (i32.const 64) (i32.const 5000) (i32.const 3)
          (i32.const 60) (i32.const 1)) (i32.const 37))
        (call $is (call $stat (i32.const 3) (i32.const 0) (i32.const 64) (i32.const -1)
          (i32.const 8)) (i32.const 37))",
        open.replace("4097", "4096")
    );
    let ends = start(guest(dir.path(), "\\ff", &body), &Arc::default());
    assert_eq!(ends.recv_timeout(LONG), Ok(Ok(())));
}

/// ARCHITECTURE.md, case 71.
#[test]
fn a_fifo_in_a_granted_directory_blocks_no_thread() {
    let dir = tempfile::tempdir().expect("a folder");
    let fifo = dir.path().join("fifo");
    mknodat(CWD, &fifo, FileType::Fifo, Mode::RWXU, 0).expect("made");
    std::os::unix::fs::symlink("fifo", dir.path().join("link")).expect("made");
    // By its name, and by a link that is followed.
    let open = |follow: u32, path: u32| {
        format!(
            "(call $is (call $open (i32.const 3) (i32.const {follow}) (i32.const {path}) \
             (i32.const 4) (i32.const 0) (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 8)) \
             (i32.const 58))"
        )
    };
    let body = open(0, 64) + &open(1, 68);
    let ends = start(guest(dir.path(), "fifolink", &body), &Arc::default());
    assert_eq!(ends.recv_timeout(LONG / 2), Ok(Ok(())));
}
