//! A few threads that compile, so that a task that waits for its module can
//! be ended, and modules that take long leave the executors to others.
//!
//! A compile itself can't be interrupted: one whose tasks have all ended runs
//! on, and its module is there for the next.

use crate::cancel::{Cancel, Reason};
use anyhow::Context as _;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

/// How long a cancelled task may go on waiting.
const CANCEL_CHECK: Duration = Duration::from_millis(10);

/// Cranelift recurses over what it compiles.
const STACK: usize = 16 << 20;

type Job = Box<dyn FnOnce() + Send>;

/// The threads. They end with it, after what they have begun.
pub(super) struct Compiler {
    jobs: mpsc::Sender<Job>,
}

impl Compiler {
    /// Starts `threads` threads.
    pub(super) fn start(threads: usize) -> anyhow::Result<Compiler> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        for n in 0..threads {
            let queue = queue.clone();
            std::thread::Builder::new()
                .name(format!("compiler-{n}"))
                .stack_size(STACK)
                .spawn(move || {
                    while let Ok(job) = next(&queue) {
                        job();
                    }
                })
                .with_context(|| format!("starting compiler thread {n} of {threads}"))?;
        }
        Ok(Compiler { jobs })
    }

    /// Has `job` done when a thread is free.
    pub(super) fn submit(&self, job: impl FnOnce() + Send + 'static) {
        // The threads take jobs as long as there is one who sends them.
        self.jobs.send(Box::new(job)).ok();
    }
}

fn next(queue: &Mutex<mpsc::Receiver<Job>>) -> Result<Job, mpsc::RecvError> {
    queue.lock().unwrap_or_else(PoisonError::into_inner).recv()
}

/// Something that will be there once.
pub(super) struct Promise<T> {
    value: Mutex<Option<T>>,
    kept: Condvar,
}

impl<T: Clone> Promise<T> {
    /// Not kept yet.
    pub(super) fn new() -> Promise<T> {
        Promise { value: Mutex::new(None), kept: Condvar::new() }
    }

    /// Keeps it: those who wait go on.
    pub(super) fn keep(&self, value: T) {
        *self.lock() = Some(value);
        self.kept.notify_all();
    }

    /// Waits for it, or for the reason not to.
    pub(super) fn wait(&self, cancel: &Cancel) -> Result<T, Reason> {
        let mut value = self.lock();
        loop {
            if let Some(value) = &*value {
                return Ok(value.clone());
            }
            if let Some(reason) = cancel.reason() {
                return Err(reason);
            }
            (value, _) =
                self.kept.wait_timeout(value, CANCEL_CHECK).unwrap_or_else(PoisonError::into_inner);
        }
    }

    // It is set in one step.
    fn lock(&self) -> MutexGuard<'_, Option<T>> {
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
