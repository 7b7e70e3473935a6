//! From `stop` to the result: measured, and bounded far above what it takes.

use crate::support::{Bench, PATIENCE};
use proplet::cancel::{Cancel, Doing};
use proplet::executor::{Executor, PoolThreads, Submission, Turn};
use proplet::journal::Run;
use proplet::queue::{Admission, QueueBounds};
use proplet::runtime::THREAD_STACK;
use proplet::task::{Failure, TaskSpec};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

const ROUNDS: usize = 10;
/// On a machine that is busy with the other tests.
const BOUND: Duration = Duration::from_secs(3);

/// Starts the task, stops it once it does what is to be stopped; the times
/// until its result.
fn stop(bench: &Bench, task: impl Fn() -> TaskSpec, going: fn(&Doing) -> bool) -> Vec<Duration> {
    let io = tokio::runtime::Runtime::new().expect("a runtime");
    let _entered = io.enter();
    let runtime = bench.runtime.clone();
    let (begun, begins) = mpsc::channel::<Arc<Cancel>>();
    let run = Box::new(move |turn: &Turn<'_>| {
        begun.send(turn.cancel.clone()).expect("the test waits");
        runtime.run(turn.spec, turn.cancel).into()
    });
    let bounds = QueueBounds { tasks: 1, bytes: 1 << 20, memory: None };
    let recall = Box::new(|_, _: &_| unreachable!("all is in memory"));
    let threads = PoolThreads {
        executors: 1,
        stack: THREAD_STACK,
        large: 0,
        apart: false,
        invocations: false,
    };
    let (executor, mut results) = Executor::start(threads, bounds, recall, run).expect("threads");
    let times = (0..ROUNDS).map(|_| {
        let spec = task();
        let id = spec.id().clone();
        executor.submit(Submission::whole(Run(0), spec), Admission::Ready).expect("room");
        let cancel = begins.recv_timeout(PATIENCE).expect("it begins");
        let end = Instant::now() + PATIENCE;
        while !going(&cancel.doing()) {
            assert!(Instant::now() < end, "it is {}", cancel.doing());
            std::thread::sleep(Duration::from_millis(1));
        }
        let begun = Instant::now();
        assert!(executor.stop(&id));
        let ended = results.blocking_recv().expect("a result");
        let took = begun.elapsed();
        assert_eq!(ended.outcome.verdict, Err(Failure::Stopped));
        took
    });
    times.collect()
}

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let (median, most) = (times[times.len() / 2], times[times.len() - 1]);
    println!("stop of {what}: median {median:?}, at most {most:?} of {ROUNDS}");
    assert!(most < BOUND, "{what}: {times:?}");
}

#[test]
fn a_loop_and_a_sleep_end_soon_after_a_stop() {
    let bench = Bench::new();
    let guests = [
        "loop-forever",
        "sleep-forever",
        "host-call-loop",
        "component-loop-forever",
        "component-sleep-forever",
        "component-poll",
        "component-post-return-loops",
    ];
    for guest in guests {
        // With an argument some wait for ever.
        let task = || bench.wat(guest).inputs(&["forever"]).request;
        let task = || bench.policy.admit(task()).expect("admitted");
        report(guest, stop(&bench, task, |doing| *doing == Doing::Running));
    }
}

/// Case 38.
#[cfg(feature = "openvino")]
#[test]
fn a_long_inference_ends_soon_after_a_stop() {
    use proplet::nn::{Nn, NnConfig};

    let models = crate::support::assets().join("fixtures");
    let config = NnConfig { cache_bytes: 1 << 30, model_bytes: 1 << 30, ..super::nn::config() };
    let bench = Bench::with_nn(Nn::new(config)).root(&models, false);
    let graph = format!("nn,nn-graph=openvino::{}", models.join("slow").display());
    let task = || {
        let task = bench.wat("nn-tiny").cli_args(&["-S", &graph]).inputs(&["slow"]);
        bench.policy.admit(task.request).expect("admitted")
    };
    // The first task loads the graph.
    let first = bench.wat("hello").cli_args(&["-S", &graph]).run();
    crate::support::stdout(&first);
    let infers = |doing: &Doing| matches!(doing, Doing::Computing(_));
    report("an inference", stop(&bench, task, infers));
}
