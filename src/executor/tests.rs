use super::*;
use crate::task::{Binary, EntryPoint, Grant, Limits, ModuleSource};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::Instant;

fn spec(id: &str, label: &str) -> TaskSpec {
    let limits = Limits { timeout: None, run: None, memory: None, output: 0 };
    let grant = Grant {
        args: vec![],
        env: vec![],
        dirs: vec![],
        entry: EntryPoint::Label(label.into()),
        nn: None,
        serving: None,
        notes: vec![],
        limits,
    };
    let module = ModuleSource::Bytes(Binary::new([]));
    TaskSpec::new(self::id(id), module, grant)
}

fn id(id: &str) -> TaskId {
    TaskId::new(id).expect("an id")
}

fn task(id: &str, label: &str) -> Submission {
    Submission::whole(Run(0), spec(id, label))
}

fn done() -> Outcome {
    Outcome { verdict: Ok(()), ..Outcome::failed(Failure::Stopped) }
}

/// What no cancellation ends, until the test lets it.
#[derive(Clone, Default)]
struct Stuck(Arc<(Mutex<bool>, Condvar)>);

impl Stuck {
    fn wait(&self) {
        let (released, changed) = &*self.0;
        let released = released.lock().expect("no panic");
        drop(changed.wait_while(released, |released| !*released).expect("no panic"));
    }

    fn release(&self) {
        *self.0.0.lock().expect("no panic") = true;
        self.0.1.notify_all();
    }
}

/// A pool whose tasks run until they are cancelled, but those labelled
/// `quick` or `panic`.
fn pool(executors: usize, capacity: usize) -> (Executor, UnboundedReceiver<TaskEnd>) {
    let run = |turn: &Turn<'_>| match &turn.spec.grant().entry {
        EntryPoint::Label(label) if label == "quick" => done().into(),
        EntryPoint::Label(label) if label == "panic" => panic!("as asked"),
        _ => {
            let end = Instant::now() + Duration::from_secs(60);
            let reason = turn.cancel.wait_until(end).expect_err("the test cancels it");
            Outcome::failed(reason.into()).into()
        }
    };
    let bounds = QueueBounds { tasks: capacity, bytes: 1 << 20, memory: Some(64 << 10) };
    let recall = |run: Run, _: &Cancel| match run {
        Run(0) => Ok(spec("stored", "quick")),
        Run(1) => Err(Failure::Recall("damaged".into())),
        _ => panic!("as asked"),
    };
    let threads =
        PoolThreads { executors, stack: 1 << 20, large: 0, apart: false, invocations: false };
    Executor::start(threads, bounds, Box::new(recall), Box::new(run)).expect("a pool")
}

async fn next(results: &mut UnboundedReceiver<TaskEnd>) -> (String, Result<(), Failure>) {
    let ended = tokio::time::timeout(Duration::from_secs(60), results.recv());
    let ended = ended.await.expect("a result in time").expect("an open channel");
    (ended.id.to_string(), ended.outcome.verdict)
}

async fn until_running(pool: &Executor, running: usize) {
    while pool.load().1 < running {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn stop_ends_a_queued_and_a_running_task_once_each() {
    let (pool, mut results) = pool(1, 8);
    pool.submit(task("a", "long"), Admission::Ready).expect("room");
    until_running(&pool, 1).await;
    pool.submit(task("b", "long"), Admission::Ready).expect("room");
    assert!(pool.stop(&id("b")));
    assert_eq!(next(&mut results).await, ("b".into(), Err(Failure::Stopped)));
    assert!(pool.stop(&id("a")));
    assert_eq!(next(&mut results).await, ("a".into(), Err(Failure::Stopped)));
    assert!(!pool.stop(&id("a")));
    assert!(results.try_recv().is_err());
}

#[tokio::test]
async fn a_full_queue_refuses_with_its_numbers() {
    let (pool, _results) = pool(1, 1);
    pool.submit(task("a", "long"), Admission::Ready).expect("room");
    until_running(&pool, 1).await;
    pool.submit(task("b", "long"), Admission::Ready).expect("room");
    let busy = Rejection::Busy { running: 1, queued: 1, limit: 1 };
    assert_eq!(pool.submit(task("c", "long"), Admission::Ready), Err(busy));
}

#[tokio::test]
async fn draining_reports_every_task() {
    let (pool, mut results) = pool(1, 8);
    pool.submit(task("a", "long"), Admission::Ready).expect("room");
    until_running(&pool, 1).await;
    pool.submit(task("b", "quick"), Admission::Ready).expect("room");
    pool.drain(Leftover::Report);
    assert_eq!(next(&mut results).await, ("b".into(), Err(Failure::ShuttingDown)));
    assert_eq!(pool.submit(task("c", "quick"), Admission::Ready), Err(Rejection::ShuttingDown));
    pool.cancel_running();
    assert_eq!(next(&mut results).await, ("a".into(), Err(Failure::ShuttingDown)));
    pool.drained().await;
}

#[tokio::test]
async fn what_is_left_to_another_does_not_report() {
    let (pool, mut results) = pool(1, 8);
    pool.submit(task("a", "long"), Admission::Ready).expect("room");
    until_running(&pool, 1).await;
    pool.submit(task("b", "quick"), Admission::Ready).expect("room");
    pool.drain(Leftover::Leave);
    pool.cancel_running();
    assert_eq!(next(&mut results).await, ("a".into(), Err(Failure::ShuttingDown)));
    pool.drained().await;
    assert!(results.try_recv().is_err());
}

#[tokio::test]
async fn a_panic_costs_one_task() {
    let (pool, mut results) = pool(1, 8);
    pool.submit(task("a", "panic"), Admission::Ready).expect("room");
    pool.submit(task("b", "quick"), Admission::Ready).expect("room");
    assert!(matches!(next(&mut results).await.1, Err(Failure::Internal(_))));
    assert_eq!(next(&mut results).await, ("b".into(), Ok(())));
}

#[tokio::test]
async fn what_waits_on_the_disk_is_read_back_when_its_turn_comes() {
    let (pool, mut results) = pool(1, 8);
    let stored = |run, name| Submission::stored(Run(run), id(name), Weight::default());
    for (run, name) in [(0, "a"), (1, "b"), (2, "c"), (0, "d")] {
        pool.submit(stored(run, name), Admission::Again).expect("room");
    }
    assert_eq!(next(&mut results).await, ("a".into(), Ok(())));
    let damaged = Failure::Recall("damaged".into());
    assert_eq!(next(&mut results).await, ("b".into(), Err(damaged)));
    assert!(matches!(next(&mut results).await, (name, Err(Failure::Internal(_))) if name == "c"));
    assert_eq!(next(&mut results).await, ("d".into(), Ok(())));
}

#[tokio::test]
async fn a_task_that_memory_has_no_room_for_is_read_back() {
    let (pool, mut results) = pool(1, 8);
    pool.submit(task("a", "long"), Admission::Ready).expect("room");
    until_running(&pool, 1).await;
    // The first fits, the second does not: what is read back is quick.
    pool.submit(task("b", "long"), Admission::Ready).expect("room");
    let mut large = spec("c", "long").grant().clone();
    large.args = vec!["x".repeat(64 << 10)];
    let large = TaskSpec::new(id("c"), ModuleSource::Bytes(Binary::new([])), large);
    pool.submit(Submission::whole(Run(0), large), Admission::Ready).expect("room");
    pool.stop(&id("a"));
    assert_eq!(next(&mut results).await, ("a".into(), Err(Failure::Stopped)));
    until_running(&pool, 1).await;
    pool.stop(&id("b"));
    assert_eq!(next(&mut results).await, ("b".into(), Err(Failure::Stopped)));
    assert_eq!(next(&mut results).await, ("c".into(), Ok(())));
}

#[tokio::test]
async fn a_suspect_runs_alone_and_the_others_after_it() {
    let (pool, mut results) = pool(2, 8);
    pool.submit(task("before", "long"), Admission::Again).expect("room");
    until_running(&pool, 1).await;
    pool.submit(task("suspect", "long"), Admission::Alone).expect("room");
    for id in ["b", "c"] {
        pool.submit(task(id, "long"), Admission::Again).expect("room");
    }
    assert_eq!(pool.load(), (3, 1));
    pool.stop(&id("before"));
    assert_eq!(next(&mut results).await.0, "before");
    until_running(&pool, 1).await;
    assert_eq!(pool.load(), (2, 1));
    pool.stop(&id("suspect"));
    assert_eq!(next(&mut results).await.0, "suspect");
    // Both threads go on.
    until_running(&pool, 2).await;
    assert_eq!(pool.load(), (0, 2));
}

/// A pool whose tasks are `quick` or `stuck` in native code, and what lets
/// those go.
fn stuck_pool(executors: usize) -> (Executor, UnboundedReceiver<TaskEnd>, Stuck) {
    let stuck = Stuck::default();
    let held = stuck.clone();
    let run = move |turn: &Turn<'_>| {
        if turn.spec.grant().entry == EntryPoint::Label("stuck".into()) {
            held.wait();
        }
        done().into()
    };
    let bounds = QueueBounds { tasks: 8, bytes: 1 << 20, memory: None };
    let recall = |_: Run, _: &Cancel| unreachable!("all is in memory");
    let threads =
        PoolThreads { executors, stack: 1 << 20, large: 0, apart: false, invocations: false };
    let (pool, results) =
        Executor::start(threads, bounds, Box::new(recall), Box::new(run)).expect("a pool");
    (pool, results, stuck)
}

/// ARCHITECTURE.md, case 60.
#[tokio::test]
async fn what_does_not_end_is_given_up_and_its_thread_replaced() {
    let (pool, mut results, stuck) = stuck_pool(1);
    pool.submit(task("a", "stuck"), Admission::Ready).expect("room");
    until_running(&pool, 1).await;
    assert!(pool.stop(&id("a")));
    assert_eq!(next(&mut results).await, ("a".into(), Err(Failure::Stopped)));
    pool.submit(task("b", "quick"), Admission::Ready).expect("room");
    assert_eq!(next(&mut results).await, ("b".into(), Ok(())));
    let mut limited = spec("c", "stuck").grant().clone();
    limited.limits.timeout = Some(Duration::from_millis(10));
    let limited = TaskSpec::new(id("c"), ModuleSource::Bytes(Binary::new([])), limited);
    stuck.release();
    // It ends after all, and nothing more comes of it.
    pool.submit(Submission::whole(Run(0), limited), Admission::Ready).expect("room");
    assert_eq!(next(&mut results).await, ("c".into(), Ok(())));
    drop(pool);
    assert!(results.try_recv().is_err());
}

#[tokio::test]
async fn what_is_over_its_time_in_native_code_is_given_up() {
    let (pool, mut results, stuck) = stuck_pool(1);
    let mut limited = spec("a", "stuck").grant().clone();
    let limit = Duration::from_millis(10);
    limited.limits.timeout = Some(limit);
    let limited = TaskSpec::new(id("a"), ModuleSource::Bytes(Binary::new([])), limited);
    pool.submit(Submission::whole(Run(0), limited), Admission::Ready).expect("room");
    assert_eq!(next(&mut results).await, ("a".into(), Err(Failure::Timeout(limit))));
    stuck.release();
}

/// ARCHITECTURE.md, case 62.
#[tokio::test]
async fn as_many_threads_are_left_behind_as_there_are_executors() {
    let (pool, mut results, stuck) = stuck_pool(1);
    for name in ["a", "b"] {
        assert_eq!(pool.unavailable(), None);
        pool.submit(task(name, "stuck"), Admission::Ready).expect("room");
        until_running(&pool, 1).await;
        assert!(pool.stop(&id(name)));
        assert_eq!(next(&mut results).await, (name.into(), Err(Failure::Stopped)));
    }
    while pool.unavailable().is_none() {
        tokio::task::yield_now().await;
    }
    pool.submit(task("c", "quick"), Admission::Ready).expect("room");
    stuck.release();
    assert_eq!(next(&mut results).await, ("c".into(), Ok(())));
    assert_eq!(pool.unavailable(), None);
}

/// ARCHITECTURE.md, case 61.
#[tokio::test]
async fn what_does_not_end_with_the_worker_is_not_run_again() {
    let (pool, mut results, stuck) = stuck_pool(1);
    pool.submit(task("a", "stuck"), Admission::Ready).expect("room");
    until_running(&pool, 1).await;
    pool.drain(Leftover::Leave);
    pool.cancel_running();
    let (name, verdict) = next(&mut results).await;
    assert!(name == "a" && matches!(verdict, Err(Failure::Stuck(_))), "{verdict:?}");
    pool.drained().await;
    drop(pool);
    stuck.release();
}

/// A pool with a process of its own for suspects, and in which `crash-N`
/// crashes the process for the first N times, `honest` after it with it.
fn crashing_pool() -> (Executor, UnboundedReceiver<TaskEnd>) {
    let runs = AtomicU32::new(0);
    let run = move |turn: &Turn<'_>| {
        let EntryPoint::Label(label) = &turn.spec.grant().entry else {
            unreachable!("labels alone")
        };
        let end = match label.strip_prefix("crash-") {
            Some(times) if runs.fetch_add(1, Ordering::Relaxed) < times.parse().expect("times") => {
                Err(Crash { how: "SIGSEGV".into(), alone: turn.alone })
            }
            _ => Ok(done()),
        };
        TurnEnd::new(end, None)
    };
    let bounds = QueueBounds { tasks: 8, bytes: 1 << 20, memory: None };
    let recall = |_: Run, _: &Cancel| unreachable!("all is in memory");
    let threads =
        PoolThreads { executors: 1, stack: 1 << 20, large: 0, apart: true, invocations: false };
    Executor::start(threads, bounds, Box::new(recall), Box::new(run)).expect("a pool")
}

#[tokio::test]
async fn what_crashes_runs_again_alone_and_fails_at_its_second_crash_there() {
    let (pool, mut results) = crashing_pool();
    pool.submit(task("a", "crash-2"), Admission::Ready).expect("room");
    assert_eq!(next(&mut results).await, ("a".into(), Ok(())), "once in company, once alone");
    let (pool, mut results) = crashing_pool();
    pool.submit(task("a", "crash-9"), Admission::Ready).expect("room");
    let crash = Failure::Crash("SIGSEGV".into());
    assert_eq!(next(&mut results).await, ("a".into(), Err(crash)));
    pool.submit(task("a", "honest"), Admission::Ready).expect("room");
    assert_eq!(next(&mut results).await, ("a".into(), Ok(())));
    pool.drain(Leftover::Report);
    pool.drained().await;
}
