//! Compiling in processes of their own: what takes too long or too much is
//! ended, and nobody else waits for it.

use crate::hostile::compile_bomb;
use crate::support::{Bench, On, PATIENCE, Stage, Task, stdout, wat};
use proplet::cancel::{Cancel, Reason};
use proplet::task::{Failure, Outcome};
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

const ENOUGH: u64 = 2 << 30;

/// `code` with a section that makes it another one and `size` bytes larger.
fn padded(code: &[u8], number: u8, size: usize) -> Vec<u8> {
    let mut section = vec![1, b'n', number];
    section.resize(size, 0);
    let mut padded = [code, &[0]].concat();
    // The length, in groups of seven bits.
    let mut length = section.len();
    while length >= 0x80 {
        padded.push(0x80 | (length & 0x7f) as u8);
        length >>= 7;
    }
    padded.push(length as u8);
    padded.extend(section);
    padded
}

/// What a module does that takes a compiler for minutes.
fn bomb(number: u8) -> Vec<u8> {
    padded(&compile_bomb(), number, 600 << 10)
}

fn module_error(outcome: &Outcome) -> &str {
    match &outcome.verdict {
        Err(Failure::Module(sentence)) => sentence,
        other => panic!("no error of the module's: {other:?}"),
    }
}

/// The processes that a thread has started: the one that calls, or the only one
/// of a process.
fn children(thread: &str) -> Vec<u32> {
    let list = fs::read_to_string(format!("/proc/{thread}/children")).unwrap_or_default();
    list.split_whitespace().map(|child| child.parse().expect("a number")).collect()
}

#[track_caller]
fn until(what: &str, condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "{what} did not come");
        std::thread::yield_now();
    }
}

#[test]
fn what_a_process_compiles_runs_and_what_it_refuses_is_said() {
    let bench = Bench::compiling_apart(ENOUGH);
    let first = bench.wat("hello").run();
    assert!(!first.reuse.module);
    assert_eq!(stdout(&first), stdout(&bench.wat("hello").run()));
    assert_eq!(bench.runtime.modules_compiled(), 1);
    let cut = wat("hello");
    let refused = bench.guest(cut[..cut.len() / 2].to_vec()).run();
    assert!(module_error(&refused).starts_with("the module does not compile: "), "{refused:?}");
    // Larger than what the quick lane takes.
    let large = padded(&wat("hello"), 0, 2 << 20);
    stdout(&bench.guest(large).run());
}

/// ARCHITECTURE.md, case 66.
#[test]
fn a_module_that_takes_more_memory_than_a_compile_may_is_its_tasks_error() {
    let bench = Bench::compiling_apart(48 << 20);
    let refused = bench.guest(bomb(0)).run();
    let sentence = module_error(&refused);
    assert!(sentence.contains("more than 48 MiB of memory"), "{sentence}");
    let again = bench.guest(bomb(0)).run();
    assert!(module_error(&again).contains("it is not tried again for 60 s"));
    assert_eq!(bench.runtime.modules_compiled(), 1);
    stdout(&bench.wat("hello").run());
}

/// ARCHITECTURE.md, case 64, as far as it is a module.
#[test]
fn a_compile_is_ended_with_the_last_task_that_waits_and_not_begun_again_for_a_while() {
    let bench = Bench::compiling_apart(ENOUGH);
    let servers = children("thread-self");
    let compiles =
        || servers.iter().flat_map(|server| children(&format!("{server}/task/{server}"))).count();
    let bench = bench.timeout(Duration::from_millis(1500));
    let cancel = Arc::<Cancel>::default();
    std::thread::scope(|scope| {
        let stopped = scope.spawn(|| bench.guest(bomb(0)).run_with(&cancel));
        until("the compile", || compiles() > 0);
        // One of two that wait.
        cancel.cancel(Reason::Stopped);
        let late = bench.guest(bomb(0)).run();
        assert_eq!(stopped.join().expect("no panic").verdict, Err(Failure::Stopped));
        assert!(matches!(late.verdict, Err(Failure::Timeout(_))), "{late:?}");
    });
    until("the compile's end", || compiles() == 0);
    let again = bench.guest(bomb(0)).run();
    assert!(module_error(&again).contains("it is not begun again for 60 s"), "{again:?}");
    stdout(&bench.wat("hello").run());
}

/// ARCHITECTURE.md, case 65, in the runtime.
#[test]
fn three_large_modules_keep_no_small_one_waiting() {
    let bench = Bench::compiling_apart(ENOUGH);
    let cancel = Arc::<Cancel>::default();
    std::thread::scope(|scope| {
        let run = |number| {
            let (bench, cancel) = (&bench, &cancel);
            scope.spawn(move || bench.guest(bomb(number)).run_with(cancel))
        };
        let large: Vec<_> = (0..3).map(run).collect();
        // As many as there are compilers for them.
        until("the compiles", || bench.runtime.modules_compiled() >= 2);
        for number in 0..4 {
            stdout(&bench.guest(padded(&wat("hello"), number, 10)).run());
        }
        assert!(!large.iter().any(|task| task.is_finished()), "they compile still");
        cancel.cancel(Reason::Stopped);
        for task in large {
            assert_eq!(task.join().expect("no panic").verdict, Err(Failure::Stopped));
        }
    });
}

/// What is small and takes long is no reason to wait either.
#[test]
fn small_modules_that_compile_for_long_make_room_for_others() {
    let bench = Bench::compiling_apart(ENOUGH);
    let cancel = Arc::<Cancel>::default();
    std::thread::scope(|scope| {
        let small: Vec<_> = (0..4)
            .map(|number| {
                let (bench, cancel) = (&bench, &cancel);
                let bomb = padded(&compile_bomb(), number, 10);
                scope.spawn(move || bench.guest(bomb).run_with(cancel))
            })
            .collect();
        until("the compiles", || bench.runtime.modules_compiled() >= 2);
        stdout(&bench.wat("hello").run());
        assert!(!small.iter().any(|task| task.is_finished()), "they compile still");
        cancel.cancel(Reason::Stopped);
        for task in small {
            assert_eq!(task.join().expect("no panic").verdict, Err(Failure::Stopped));
        }
    });
}

/// ARCHITECTURE.md, case 65.
#[test]
fn large_modules_that_compile_keep_no_small_one_of_a_worker_waiting() {
    for on in [On::Embedded, On::OneProcess] {
        let stage = Stage::new(on);
        let _worker = stage.worker(&[("executors", "1")]);
        let large: Vec<_> = (0..3).map(|n| stage.start(Task::module(&bomb(n)))).collect();
        for number in 0..4 {
            let small = padded(&wat("hello"), number, 10);
            stage.run(Task::module(&small)).succeeded("hello\n");
        }
        let ended = |id: &String| stage.seen().iter().any(|seen| seen.json["task_id"] == **id);
        assert!(!large.iter().any(ended), "they compile still");
        large.iter().for_each(|id| stage.stop(id));
        for id in &large {
            stage.result(id).failed(&["stopped"]);
        }
    }
}
