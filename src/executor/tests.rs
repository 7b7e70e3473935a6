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
    TaskSpec::new(TaskId::new(id).expect("an id"), module, grant)
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
    let bounds = Bounds { tasks: capacity, bytes: 1 << 20 };
    Executor::start(executors, bounds, 1 << 20, Box::new(run)).expect("a pool")
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
    pool.submit(spec("a", "long"), Admission::Ready);
    until_running(&pool, 1).await;
    pool.submit(spec("b", "long"), Admission::Ready);
    let id = |id| TaskId::new(id).expect("an id");
    assert!(pool.stop(&id("b")));
    assert_eq!(next(&mut results).await, ("b".into(), Err(Failure::Stopped)));
    assert!(pool.stop(&id("a")));
    assert_eq!(next(&mut results).await, ("a".into(), Err(Failure::Stopped)));
    assert!(!pool.stop(&id("a")));
    assert!(results.try_recv().is_err());
}

#[tokio::test]
async fn a_repeated_start_is_ignored_until_the_task_has_ended() {
    let (pool, mut results) = pool(1, 8);
    assert_eq!(pool.submit(spec("a", "long"), Admission::Ready), Submission::Admitted);
    assert_eq!(
        pool.submit(spec("a", "long"), Admission::Ready),
        Submission::Duplicate { same: true }
    );
    assert_eq!(
        pool.submit(spec("a", "quick"), Admission::Ready),
        Submission::Duplicate { same: false }
    );
    pool.stop(&TaskId::new("a").expect("an id"));
    assert_eq!(next(&mut results).await, ("a".into(), Err(Failure::Stopped)));
    assert_eq!(pool.submit(spec("a", "quick"), Admission::Ready), Submission::Admitted);
    assert_eq!(next(&mut results).await, ("a".into(), Ok(())));
}

#[tokio::test]
async fn a_full_queue_refuses_with_its_numbers() {
    let (pool, _results) = pool(1, 1);
    pool.submit(spec("a", "long"), Admission::Ready);
    until_running(&pool, 1).await;
    pool.submit(spec("b", "long"), Admission::Ready);
    let busy = Rejection::Busy { running: 1, queued: 1, limit: 1 };
    assert_eq!(pool.submit(spec("c", "long"), Admission::Ready), Submission::Refused(busy));
}

#[tokio::test]
async fn draining_reports_every_task() {
    let (pool, mut results) = pool(1, 8);
    pool.submit(spec("a", "long"), Admission::Ready);
    until_running(&pool, 1).await;
    pool.submit(spec("b", "quick"), Admission::Ready);
    pool.drain(Leftover::Report);
    assert_eq!(next(&mut results).await, ("b".into(), Err(Failure::ShuttingDown)));
    assert_eq!(
        pool.submit(spec("c", "quick"), Admission::Ready),
        Submission::Refused(Rejection::ShuttingDown)
    );
    pool.cancel_running();
    assert_eq!(next(&mut results).await, ("a".into(), Err(Failure::ShuttingDown)));
    pool.drained().await;
}

#[tokio::test]
async fn what_is_left_to_another_does_not_report() {
    let (pool, mut results) = pool(1, 8);
    pool.submit(spec("a", "long"), Admission::Ready);
    until_running(&pool, 1).await;
    pool.submit(spec("b", "quick"), Admission::Ready);
    pool.drain(Leftover::Leave);
    pool.cancel_running();
    assert_eq!(next(&mut results).await, ("a".into(), Err(Failure::ShuttingDown)));
    pool.drained().await;
    assert!(results.try_recv().is_err());
}

#[tokio::test]
async fn a_panic_costs_one_task() {
    let (pool, mut results) = pool(1, 8);
    pool.submit(spec("a", "panic"), Admission::Ready);
    pool.submit(spec("b", "quick"), Admission::Ready);
    assert!(matches!(next(&mut results).await.1, Err(Failure::Internal(_))));
    assert_eq!(next(&mut results).await, ("b".into(), Ok(())));
}
