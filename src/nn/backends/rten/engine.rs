//! Where rten runs: on threads that may be left behind.
//!
//! Nothing can interrupt rten. So a task waits for it on its own thread, and
//! goes when it is told to; the work goes on to its end behind it, with the
//! pool of threads that it was given, which others no longer use. There is a
//! bounded number of such works: beyond it nothing new is begun. A panic is
//! caught where it happens.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use ::rten::ThreadPool;

use crate::cancel::Cancel;
use crate::nn::refusal::{Halt, Refusal};

/// The most works that are left behind at the same time.
pub(super) const MAX_LEFT_BEHIND: usize = 4;

/// Stack of a thread that loads and plans: rten recurses along the longest
/// chain of nodes. It is taken as it is touched.
const STACK: usize = 128 << 20;

type Job = Box<dyn FnOnce() + Send>;

/// See the module's documentation.
pub(super) struct Engine {
    threads: usize,
    /// The pool of what begins now; none if it was left behind.
    pool: Mutex<Option<Arc<ThreadPool>>>,
    /// Threads that wait for work.
    idle: Mutex<Vec<Sender<Job>>>,
    left: Arc<AtomicUsize>,
}

/// Whether a work goes on without its task.
#[derive(Default)]
struct Fate(AtomicU8);

const RUNS: u8 = 0;
const ENDED: u8 = 1;
const LEFT: u8 = 2;

impl Engine {
    /// One whose works share `threads` threads.
    pub(super) fn new(threads: usize) -> Engine {
        Engine { threads, pool: Mutex::default(), idle: Mutex::default(), left: Arc::default() }
    }

    /// Runs `work`, which computes on the pool that it is given.
    ///
    /// # Errors
    ///
    /// It panicked, too much was left behind, or the task is to end: then the
    /// work is left behind.
    pub(super) fn run<R: Send + 'static>(
        &self,
        cancel: &Cancel,
        work: impl FnOnce(&Arc<ThreadPool>) -> R + Send + 'static,
    ) -> Result<R, Halt> {
        if self.left_behind() >= MAX_LEFT_BEHIND {
            return Err(Refusal::runtime(format!(
                "rten still computes for {MAX_LEFT_BEHIND} tasks that have ended, and nothing can \
                 interrupt it: try again when one of them is done"
            ))
            .into());
        }
        let (pool, fate) = (self.pool(), Arc::new(Fate::default()));
        let (done, ended) = mpsc::channel();
        let interrupt = done.clone();
        let job: Job = {
            let (pool, fate, left) = (pool.clone(), fate.clone(), self.left.clone());
            Box::new(move || {
                let result = catch_unwind(AssertUnwindSafe(|| work(&pool)));
                // Before it is told, so that who hears of it finds its place free.
                drop(pool);
                if fate.0.swap(ENDED, Ordering::SeqCst) == LEFT {
                    left.fetch_sub(1, Ordering::SeqCst);
                }
                // Who waited may be gone.
                done.send(Some(result)).ok();
            })
        };
        let thread = self.thread()?;
        let called = cancel.interruptible(
            move || {
                interrupt.send(None).ok();
            },
            || {
                let begun = thread.send(job).is_ok();
                (begun, ended.recv())
            },
        );
        match called.map_err(Halt::Cancelled)? {
            (_, Ok(Some(result))) => {
                lock(&self.idle).push(thread);
                result.map_err(|panic| panicked(&*panic).into())
            }
            (true, Ok(None)) => {
                self.leave(&fate, &pool);
                let reason = cancel.reason().expect("it was interrupted for a reason");
                Err(Halt::Cancelled(reason))
            }
            (false, _) | (true, Err(_)) => {
                Err(Refusal::runtime("a thread of rten's has ended by itself").into())
            }
        }
    }

    /// Works that go on without their tasks.
    pub(super) fn left_behind(&self) -> usize {
        self.left.load(Ordering::SeqCst)
    }

    /// Works on the pool of what begins now.
    #[cfg(test)]
    pub(super) fn works(&self) -> usize {
        lock(&self.pool).as_ref().map_or(0, |pool| Arc::strong_count(pool) - 1)
    }

    fn leave(&self, fate: &Fate, pool: &Arc<ThreadPool>) {
        self.left.fetch_add(1, Ordering::SeqCst);
        let runs = fate.0.compare_exchange(RUNS, LEFT, Ordering::SeqCst, Ordering::SeqCst);
        if runs.is_err() {
            // It has ended at this moment.
            self.left.fetch_sub(1, Ordering::SeqCst);
            return;
        }
        let mut current = lock(&self.pool);
        if current.as_ref().is_some_and(|current| Arc::ptr_eq(current, pool)) {
            *current = None;
        }
    }

    fn pool(&self) -> Arc<ThreadPool> {
        let new = || Arc::new(ThreadPool::with_num_threads(self.threads));
        lock(&self.pool).get_or_insert_with(new).clone()
    }

    /// A thread that waits for work; it ends when its sender is dropped.
    fn thread(&self) -> Result<Sender<Job>, Refusal> {
        if let Some(idle) = lock(&self.idle).pop() {
            return Ok(idle);
        }
        let (sender, jobs): (_, Receiver<Job>) = mpsc::channel();
        let thread = thread::Builder::new().name("rten".into()).stack_size(STACK);
        let spawned = thread.spawn(move || jobs.into_iter().for_each(|job| job()));
        spawned.map_err(|error| Refusal::runtime(format!("no thread for rten: {error}")))?;
        Ok(sender)
    }
}

fn panicked(panic: &(dyn Any + Send)) -> Refusal {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no reason given");
    Refusal::runtime(format!("rten panicked: {text}"))
}

// Each change is one step: whole whoever panicked.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::RecvTimeoutError;
    use std::time::Duration;

    use super::*;
    use crate::cancel::Reason;
    use crate::nn::refusal::Errno;

    const LONG: Duration = Duration::from_secs(60);

    /// A work that goes on until the sender is dropped, left behind.
    fn leave_one(engine: &Engine) -> (Sender<()>, Receiver<()>) {
        let (release, released) = mpsc::channel::<()>();
        let (begun, begins) = mpsc::channel();
        let (end, ended) = mpsc::channel();
        let cancel = Arc::new(Cancel::default());
        let stop = cancel.clone();
        let result = thread::scope(|scope| {
            let run = scope.spawn(|| {
                engine.run(&cancel, move |_| {
                    begun.send(()).ok();
                    released.recv().ok();
                    drop(end);
                })
            });
            begins.recv_timeout(LONG).expect("it begins");
            stop.cancel(Reason::Stopped);
            run.join().expect("no panic")
        });
        assert_eq!(result, Err(Halt::Cancelled(Reason::Stopped)));
        (release, ended)
    }

    #[test]
    fn a_work_gives_its_result_and_its_thread_is_used_again() {
        let engine = Engine::new(2);
        for n in 0..3 {
            assert_eq!(engine.run(&Cancel::default(), move |_| n), Ok(n));
        }
        assert_eq!(lock(&engine.idle).len(), 1);
    }

    #[test]
    fn a_panic_is_the_works_own_in_the_pool_too() {
        let engine = Engine::new(2);
        let direct: Result<(), _> = engine.run(&Cancel::default(), |_| panic!("on purpose"));
        let pooled: Result<(), _> =
            engine.run(&Cancel::default(), |pool| pool.run(|| panic!("on {}", "purpose")));
        for result in [direct, pooled] {
            let Err(Halt::Refused(refusal)) = result else { panic!("{result:?}") };
            assert_eq!(refusal, Refusal::runtime("rten panicked: on purpose"));
        }
        assert_eq!(engine.run(&Cancel::default(), |_| 1), Ok(1));
    }

    #[test]
    fn what_nothing_interrupts_is_left_behind_up_to_a_bound() {
        let engine = Engine::new(1);
        let mut left: Vec<_> = (0..MAX_LEFT_BEHIND - 1).map(|_| leave_one(&engine)).collect();
        // With a pool of its own, whose one thread is free.
        assert_eq!(engine.run(&Cancel::default(), |pool| pool.run(|| 7)), Ok(7));
        left.push(leave_one(&engine));
        assert_eq!(engine.left_behind(), MAX_LEFT_BEHIND);
        let Err(Halt::Refused(refusal)) = engine.run(&Cancel::default(), |_| ()) else {
            panic!("begun beside all that is left behind");
        };
        assert_eq!(refusal.errno, Errno::RuntimeError);
        assert!(refusal.text.contains("4 tasks that have ended"), "{refusal}");
        for (release, ended) in left {
            drop(release);
            assert_eq!(ended.recv_timeout(LONG), Err(RecvTimeoutError::Disconnected));
        }
        while engine.left_behind() > 0 {
            thread::yield_now();
        }
        assert_eq!(engine.run(&Cancel::default(), |_| 8), Ok(8));
    }

    #[test]
    fn what_is_to_end_already_is_not_begun() {
        let engine = Engine::new(1);
        let cancel = Cancel::default();
        cancel.cancel(Reason::Stopped);
        let result: Result<(), _> = engine.run(&cancel, |_| panic!("begun"));
        assert_eq!(result, Err(Halt::Cancelled(Reason::Stopped)));
        assert_eq!(engine.left_behind(), 0);
    }
}
