use super::*;
use crate::task::{Binary, Entry, Grant, Limits, ModuleSource};

fn spec(id: &str, label: &str) -> TaskSpec {
    let limits = Limits { timeout: None, run: None, memory: None, output: 0 };
    let grant = Grant {
        args: vec![],
        env: vec![],
        dirs: vec![],
        entry: Entry::Label(label.into()),
        nn: None,
        notes: vec![],
        limits,
    };
    let module = ModuleSource::Bytes(Binary::new([]));
    TaskSpec::new(self::id(id), module, grant)
}

fn id(id: &str) -> TaskId {
    TaskId::new(id).expect("an id")
}

fn task(id: &str, label: &str) -> Task {
    Task::whole(Run(0), spec(id, label))
}

fn done() -> Outcome {
    Outcome { verdict: Ok(()), ..Outcome::failed(Failure::Stopped) }
}

/// A pool whose tasks run until they are cancelled, but those labelled
/// `quick` or `panic`.
fn pool(executors: usize, capacity: usize) -> (Executor, UnboundedReceiver<Ended>) {
    let run = |spec: &TaskSpec, cancel: &Arc<Cancel>| match &spec.grant().entry {
        Entry::Label(label) if label == "quick" => done(),
        Entry::Label(label) if label == "panic" => panic!("as asked"),
        _ => {
            let end = Instant::now() + Duration::from_secs(60);
            let reason = cancel.wait_until(end).expect_err("the test cancels it");
            Outcome::failed(reason.into())
        }
    };
    let bounds = Bounds { tasks: capacity, bytes: 1 << 20, memory: Some(1 << 10) };
    let recall = |run: Run, _: &Cancel| match run {
        Run(0) => Ok(spec("stored", "quick")),
        Run(1) => Err(Failure::Recall("damaged".into())),
        _ => panic!("as asked"),
    };
    Executor::start(executors, bounds, 1 << 20, Box::new(recall), Box::new(run)).expect("a pool")
}

async fn next(results: &mut UnboundedReceiver<Ended>) -> (String, Result<(), Failure>) {
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
    let stored = |run, name| Task::stored(Run(run), id(name), Weight::default());
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
    large.args = vec!["x".repeat(1 << 10)];
    let large = TaskSpec::new(id("c"), ModuleSource::Bytes(Binary::new([])), large);
    pool.submit(Task::whole(Run(0), large), Admission::Ready).expect("room");
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
