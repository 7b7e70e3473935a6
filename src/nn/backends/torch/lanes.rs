//! The threads that libtorch computes on, for all tasks: as many as there may be
//! inferences at a time, each with its share of the processors.
//!
//! libtorch has a pool of workers for each thread that calls it, so that tasks
//! which called it themselves would each bring a pool along. A task waits here
//! until a thread is free. One that is to end while it waits goes at once; one
//! whose work has begun waits for libtorch to notice.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicI32, AtomicU8, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crate::cancel::Cancel;
use crate::nn::refusal::{Halt, Refusal};

/// libtorch reads code and follows types by recursion. It is taken as it is
/// touched.
const STACK: usize = 256 << 20;

type Job = Box<dyn FnOnce() + Send>;

/// See the module's documentation.
pub(super) struct Lanes {
    jobs: Sender<Job>,
}

const WAITS: u8 = 0;
const RUNS: u8 = 1;
const LEFT: u8 = 2;

/// What libtorch looks at to know whether it is to end.
#[derive(Default)]
pub(super) struct Flag(AtomicI32);

impl Flag {
    pub(super) fn as_ptr(&self) -> *const i32 {
        self.0.as_ptr()
    }
}

impl Lanes {
    /// `count` threads, each of which calls `prepare` first.
    ///
    /// # Errors
    ///
    /// One sentence: there are no threads, or they could not be prepared.
    pub(super) fn new(
        count: usize,
        prepare: impl Fn() -> Result<(), String> + Send + Clone + 'static,
    ) -> Result<Lanes, String> {
        let (jobs, waiting) = mpsc::channel::<Job>();
        let waiting = Arc::new(Mutex::new(waiting));
        let (ready, prepared) = mpsc::channel();
        for _ in 0..count {
            let (waiting, prepare, ready) = (waiting.clone(), prepare.clone(), ready.clone());
            let thread = thread::Builder::new().name("torch".into()).stack_size(STACK);
            let spawned = thread.spawn(move || {
                // Who asked may be gone.
                ready.send(prepare()).ok();
                while let Some(job) = next(&waiting) {
                    job();
                }
            });
            spawned.map_err(|error| format!("no thread for libtorch: {error}"))?;
        }
        for _ in 0..count {
            prepared.recv().map_err(|_| "a thread for libtorch has ended".to_owned())??;
        }
        Ok(Lanes { jobs })
    }

    /// Runs `work` on one of the threads. It gets the flag that is set when the
    /// task is to end.
    ///
    /// # Errors
    ///
    /// It panicked, or the task is to end.
    pub(super) fn run<R: Send + 'static>(
        &self,
        cancel: &Cancel,
        work: impl FnOnce(&Flag) -> R + Send + 'static,
    ) -> Result<R, Halt> {
        let (state, flag) = (Arc::new(AtomicU8::new(WAITS)), Arc::new(Flag::default()));
        let (done, ended) = mpsc::channel();
        let interrupt = {
            let (state, flag, done) = (state.clone(), flag.clone(), done.clone());
            move || {
                flag.0.store(1, Ordering::SeqCst);
                let left = state.compare_exchange(WAITS, LEFT, Ordering::SeqCst, Ordering::SeqCst);
                if left.is_ok() {
                    // Who waits for it hears of it below.
                    done.send(None).ok();
                }
            }
        };
        let job: Job = Box::new(move || {
            let begun = state.compare_exchange(WAITS, RUNS, Ordering::SeqCst, Ordering::SeqCst);
            if begun.is_ok() {
                let result = catch_unwind(AssertUnwindSafe(|| work(&flag)));
                // Who waited may be gone.
                done.send(Some(result)).ok();
            }
        });
        let waited = cancel.interruptible(interrupt, || {
            self.jobs.send(job).ok();
            ended.recv()
        });
        match waited.map_err(Halt::Cancelled)? {
            Ok(Some(Ok(result))) => match cancel.reason() {
                Some(reason) => Err(Halt::Cancelled(reason)),
                None => Ok(result),
            },
            Ok(Some(Err(panic))) => Err(panicked(&*panic).into()),
            Ok(None) => {
                Err(Halt::Cancelled(cancel.reason().expect("it was interrupted for a reason")))
            }
            Err(_) => Err(Refusal::runtime("a thread of libtorch's has ended by itself").into()),
        }
    }
}

// A receiver is whole whoever panicked; jobs catch their own panics.
fn next(waiting: &Mutex<Receiver<Job>>) -> Option<Job> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

fn panicked(panic: &(dyn Any + Send)) -> Refusal {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no reason given");
    Refusal::runtime(format!("the call of libtorch panicked: {text}"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cancel::Reason;

    const LONG: Duration = Duration::from_secs(60);

    fn lanes(count: usize) -> Lanes {
        Lanes::new(count, || Ok(())).expect("threads")
    }

    #[test]
    fn a_work_gives_its_result_and_a_panic_is_its_own() {
        let lanes = lanes(1);
        let cancel = Cancel::default();
        assert_eq!(lanes.run(&cancel, |_| 7), Ok(7));
        let panicked: Result<(), _> = lanes.run(&cancel, |_| panic!("on purpose"));
        let text = "the call of libtorch panicked: on purpose";
        assert_eq!(panicked, Err(Refusal::runtime(text).into()));
        assert_eq!(lanes.run(&cancel, |_| 8), Ok(8));
    }

    #[test]
    fn what_can_not_be_prepared_is_said() {
        let failed = Lanes::new(2, || Err("not here".to_owned())).err();
        assert_eq!(failed.as_deref(), Some("not here"));
    }

    #[test]
    fn what_waits_for_a_thread_ends_at_once_and_what_runs_sees_the_flag() {
        let lanes = lanes(1);
        let cancels = [Arc::new(Cancel::default()), Arc::new(Cancel::default())];
        let (begun, begins) = mpsc::channel();
        thread::scope(|scope| {
            let cancel = cancels[0].clone();
            let lanes = &lanes;
            let running = scope.spawn(move || {
                lanes.run(&cancel, move |flag| {
                    begun.send(()).ok();
                    while flag.0.load(Ordering::SeqCst) == 0 {
                        thread::yield_now();
                    }
                })
            });
            begins.recv_timeout(LONG).expect("it begins");
            let cancel = cancels[1].clone();
            let waiting = scope.spawn(move || lanes.run(&cancel, |_| panic!("it was left")));
            cancels[1].cancel(Reason::Stopped);
            assert_eq!(waiting.join().expect("no panic"), Err(Halt::Cancelled(Reason::Stopped)));
            cancels[0].cancel(Reason::Stopped);
            assert_eq!(running.join().expect("no panic"), Err(Halt::Cancelled(Reason::Stopped)));
        });
        assert_eq!(lanes.run(&Cancel::default(), |_| 9), Ok(9));
    }
}
