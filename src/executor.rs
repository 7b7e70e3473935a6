//! The bounded pool that runs tasks: a few threads behind a bounded queue.
//!
//! Each admitted task ends in exactly one message on the results channel, by
//! the type of its `Reply`: one that is dropped unsent reports a fault of
//! ours. A result is sent under the lock that ends the task in the queue, so
//! that a task of the same id that is admitted afterwards reports afterwards.

use crate::cancel::{Cancel, Reason};
use crate::queue::{Admission, Known, Queue, Refusal, Stopped};
use crate::task::{
    Failure, ModuleSource, Monitoring, Outcome, Rejection, TaskId, TaskSpec, Weight,
};
use crate::usage::{Thread, ThreadUsage};
use anyhow::Context as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tracing::info_span;

/// How a task is run: [`crate::runtime::Runtime::run`], or a test's own.
pub type RunTask = dyn Fn(&TaskSpec, &Arc<Cancel>) -> Outcome + Send + Sync;

/// The end of a task.
#[derive(Debug)]
pub struct Ended {
    /// Which one.
    pub id: TaskId,
    /// What came of it.
    pub outcome: Outcome,
    /// What it used, if that is asked for and it has run.
    pub spent: Option<Spent>,
}

/// The sending half of a task's one result.
struct Reply {
    id: TaskId,
    results: UnboundedSender<Ended>,
    sent: bool,
}

impl Reply {
    fn send(mut self, outcome: Outcome, spent: Option<Spent>) {
        self.sent = true;
        // Who dropped the receiver wants no more results.
        self.results.send(Ended { id: self.id.clone(), outcome, spent }).ok();
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if !self.sent {
            let failure = Failure::Internal("the task was lost before it could report".into());
            let outcome = Outcome::failed(failure);
            self.results.send(Ended { id: self.id.clone(), outcome, spent: None }).ok();
        }
    }
}

/// What a running task is known by.
#[derive(Clone)]
struct Handle {
    spec: Arc<TaskSpec>,
    cancel: Arc<Cancel>,
    began: Arc<OnceLock<Began>>,
}

impl Handle {
    /// What the task has used so far, if that is asked for and it has begun;
    /// `usage` tells what its thread has.
    fn spent(&self, usage: impl FnOnce(&Began) -> Option<ThreadUsage>) -> Option<Spent> {
        let monitoring = self.spec.monitoring()?;
        let began = self.began.get()?;
        let uptime = began.at.elapsed();
        let thread = began.usage.and_then(|before| Some(usage(began)?.since(&before)));
        Some(Spent { monitoring, uptime, thread, memory: self.cancel.memory() })
    }
}

/// When a task began to run, and on which thread.
struct Began {
    at: Instant,
    thread: Option<Thread>,
    /// What the thread had used before, if the task's use is asked for.
    usage: Option<ThreadUsage>,
}

/// What a task whose use of the machine is asked for has used so far.
#[derive(Clone, Debug)]
pub struct Spent {
    /// How it is asked for.
    pub monitoring: Monitoring,
    /// For how long it runs, or ran.
    pub uptime: Duration,
    /// Of its thread, where the system tells.
    pub thread: Option<ThreadUsage>,
    /// Bytes of its guest's linear memories, which never shrink.
    pub memory: u64,
}

/// A task that runs.
#[derive(Debug)]
pub struct Running {
    /// Which one.
    pub id: TaskId,
    /// For how long.
    pub uptime: Duration,
    /// The thread that it runs on, where the system tells.
    pub thread: Option<Thread>,
    /// Bytes of its guest's linear memories.
    pub memory: u64,
}

struct Job {
    handle: Handle,
    reply: Reply,
    admitted: Instant,
}

struct Shared {
    queue: Mutex<Queue<Job, Handle>>,
    /// A task was admitted, or draining began.
    changed: Condvar,
    run: Box<RunTask>,
    drained: watch::Sender<bool>,
    results: UnboundedSender<Ended>,
    bounds: Bounds,
}

/// How much may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Tasks.
    pub tasks: usize,
    /// Bytes that they hold; a module that several of them share counts once.
    pub bytes: usize,
}

/// What becomes of the tasks that wait when the pool drains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leftover {
    /// Each reports that the worker shuts down.
    Report,
    /// They don't report: someone else knows of them.
    Leave,
}

impl Shared {
    // The queue changes state in steps that can't panic half way.
    fn queue(&self) -> MutexGuard<'_, Queue<Job, Handle>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What became of a task that was handed in.
#[derive(Debug, PartialEq, Eq)]
pub enum Submission {
    /// It will report.
    Admitted,
    /// A task of this id is queued or running, with the same content or not:
    /// this one is ignored and will not report.
    Duplicate {
        /// Whether it is the same task once more.
        same: bool,
    },
    /// It was refused and will not report.
    Refused(Rejection),
}

/// The pool. Its threads end once it has drained.
pub struct Executor {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    drained: watch::Receiver<bool>,
}

impl Executor {
    /// Starts `executors` threads with `stack` bytes of stack each, for which
    /// no more than `bounds` wait. Guests' files and clocks use the Tokio
    /// runtime that this is called in.
    pub fn start(
        executors: usize,
        bounds: Bounds,
        stack: usize,
        run: Box<RunTask>,
    ) -> anyhow::Result<(Executor, UnboundedReceiver<Ended>)> {
        let (results, receiver) = unbounded_channel();
        let (drained_sender, drained) = watch::channel(false);
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue::new(bounds.tasks, bounds.bytes)),
            changed: Condvar::new(),
            run,
            drained: drained_sender,
            results,
            bounds,
        });
        let tokio = tokio::runtime::Handle::current();
        let threads = (0..executors).map(|n| {
            let (shared, tokio) = (shared.clone(), tokio.clone());
            std::thread::Builder::new()
                .name(format!("executor-{n}"))
                .stack_size(stack)
                .spawn(move || {
                    let _entered = tokio.enter();
                    work(&shared);
                })
                .with_context(|| format!("starting executor thread {n} of {executors}"))
        });
        let threads = threads.collect::<anyhow::Result<_>>()?;
        Ok((Executor { shared, threads, drained }, receiver))
    }

    /// Queues a task. Never waits. One that is held runs after
    /// [`Executor::release`] only.
    pub fn submit(&self, spec: TaskSpec, admission: Admission) -> Submission {
        let id = spec.id().clone();
        let weight = weight(&spec);
        let handle = Handle { spec: Arc::new(spec), cancel: Arc::default(), began: Arc::default() };
        let reply = Reply { id: id.clone(), results: self.shared.results.clone(), sent: false };
        let job = Job { handle, reply, admitted: Instant::now() };
        let mut queue = self.shared.queue();
        let Err((refusal, mut job)) = queue.admit(&id, job, weight, admission) else {
            self.shared.changed.notify_one();
            return Submission::Admitted;
        };
        // Whoever handed it in answers for it.
        job.reply.sent = true;
        match refusal {
            Refusal::Duplicate => {
                let known = match queue.get(&id) {
                    Some(Known::Queued(job)) => job.handle.spec.clone(),
                    Some(Known::Running(handle)) => handle.spec.clone(),
                    // Refused as one that is there, under the same lock.
                    None => unreachable!("{id} is queued or running"),
                };
                drop(queue);
                Submission::Duplicate { same: known == job.handle.spec }
            }
            Refusal::Draining => Submission::Refused(Rejection::ShuttingDown),
            Refusal::Full { running, queued } => {
                let limit = self.shared.bounds.tasks;
                Submission::Refused(Rejection::Busy { running, queued, limit })
            }
            Refusal::Heavy { running, queued, bytes } => {
                let limit = self.shared.bounds.bytes;
                Submission::Refused(Rejection::BusyBytes { running, queued, bytes, limit })
            }
        }
    }

    /// Lets a held task run; one that has been stopped or drained meanwhile is
    /// gone.
    pub fn release(&self, id: &TaskId) {
        if self.shared.queue().release(id) {
            self.shared.changed.notify_one();
        }
    }

    /// Ends a task: a queued one reports at once, a running one as soon as it
    /// notices. Returns whether there was one.
    pub fn stop(&self, id: &TaskId) -> bool {
        let stopped = self.shared.queue().stop(id);
        match stopped {
            Stopped::Queued(job) => job.reply.send(Outcome::failed(Failure::Stopped), None),
            Stopped::Running(handle) => handle.cancel.cancel(Reason::Stopped),
            Stopped::Unknown => return false,
        }
        true
    }

    /// Admits nothing more; running tasks go on.
    pub fn drain(&self, leftover: Leftover) {
        let mut queue = self.shared.queue();
        for mut job in queue.drain() {
            match leftover {
                Leftover::Report => {
                    job.reply.send(Outcome::failed(Failure::ShuttingDown), None);
                }
                Leftover::Leave => job.reply.sent = true,
            }
        }
        self.shared.drained.send_replace(queue.is_drained());
        drop(queue);
        self.shared.changed.notify_all();
    }

    /// Ends the tasks that still run.
    pub fn cancel_running(&self) {
        let running: Vec<_> = self.shared.queue().running().cloned().collect();
        for handle in running {
            handle.cancel.cancel(Reason::ShuttingDown);
        }
    }

    /// Waits until [`Executor::drain`] was called and no task runs any more.
    pub async fn drained(&self) {
        // The sender lives as long as we do.
        self.drained.clone().wait_for(|drained| *drained).await.ok();
    }

    /// Lets go of the threads whose tasks do not end, and tells which tasks
    /// those are: they will not report any more than anyone listens.
    pub fn abandon(&mut self) -> Vec<TaskId> {
        let queue = self.shared.queue();
        let stuck: Vec<_> = queue.running().map(|handle| handle.spec.id().clone()).collect();
        drop(queue);
        if !stuck.is_empty() {
            self.threads.clear();
        }
        stuck
    }

    /// The tasks that run and whose use of the machine is asked for.
    pub fn monitored(&self) -> Vec<(TaskId, Spent)> {
        let running: Vec<_> = self.shared.queue().running().cloned().collect();
        let spent = |handle: Handle| {
            let spent = handle.spent(|began| began.thread.as_ref()?.usage())?;
            Some((handle.spec.id().clone(), spent))
        };
        running.into_iter().filter_map(spent).collect()
    }

    /// The other tasks that run.
    pub fn running(&self) -> Vec<Running> {
        let running = |handle: &Handle| {
            if handle.spec.monitoring().is_some() {
                return None;
            }
            let began = handle.began.get()?;
            let (uptime, thread) = (began.at.elapsed(), began.thread.clone());
            let memory = handle.cancel.memory();
            Some(Running { id: handle.spec.id().clone(), uptime, thread, memory })
        };
        self.shared.queue().running().filter_map(running).collect()
    }

    /// Tasks waiting and running.
    pub fn load(&self) -> (usize, usize) {
        self.shared.queue().len()
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        self.drain(Leftover::Report);
        self.cancel_running();
        for thread in self.threads.drain(..) {
            // What panicked in it has been reported by the panic hook.
            thread.join().ok();
        }
    }
}

fn weight(spec: &TaskSpec) -> Weight {
    let module = match spec.module() {
        ModuleSource::Bytes(binary) => Some((binary.digest(), binary.len())),
        ModuleSource::Url(_) => None,
    };
    Weight { own: spec.bytes(), module }
}

fn work(shared: &Shared) {
    let thread = Thread::current();
    while let Some(job) = next(shared) {
        let queued = job.admitted.elapsed();
        let usage = job.handle.spec.monitoring().and_then(|_| Thread::own_usage());
        let began = Began { at: Instant::now(), thread: thread.clone(), usage };
        // Set here alone, so it is not set yet.
        job.handle.began.set(began).ok();
        // So that each line of the log tells which task it is about.
        let _task = info_span!("task", task = %job.handle.spec.id()).entered();
        // The runtime catches what a guest causes; this is for what is left,
        // so that a fault of ours costs one task and not the thread.
        let ended =
            catch_unwind(AssertUnwindSafe(|| (shared.run)(&job.handle.spec, &job.handle.cancel)));
        let mut outcome = ended.unwrap_or_else(|_| {
            Outcome::failed(Failure::Internal("panic outside the guest; see the log".into()))
        });
        outcome.timings.queued = queued;
        let spent = job.handle.spent(|_| Thread::own_usage());
        let mut queue = shared.queue();
        queue.finish(job.handle.spec.id());
        job.reply.send(outcome, spent);
        if queue.is_drained() {
            shared.drained.send_replace(true);
        }
    }
}

fn next(shared: &Shared) -> Option<Job> {
    let mut queue = shared.queue();
    loop {
        if let Some(job) = queue.take(|job| job.handle.clone()) {
            return Some(job);
        }
        if queue.is_draining() {
            return None;
        }
        queue = shared.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
    }
}

#[cfg(test)]
mod tests;
