//! The bounded pool that runs tasks: a few threads behind a bounded queue.
//!
//! Each admitted task ends in exactly one message on the results channel, by
//! the type of its `Reply`: one that is dropped unsent reports a fault of
//! ours. A result is sent under the lock that ends the task in the queue, so
//! that a task of the same id that is admitted afterwards reports afterwards.
//!
//! A waiting task that memory has no room for is known by its id and run alone;
//! the thread that takes it reads it back, outside the lock.

use crate::cancel::{Cancel, Reason};
use crate::journal::Run;
use crate::queue::{Admission, Bounds, Queue, QueueRefusal, Stopped};
use crate::task::{Failure, Monitoring, Outcome, Rejection, TaskId, TaskSpec, Weight};
use crate::usage::{self, Thread, ThreadUsage};
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

/// How a task is read back that waited on the disk; what fails is its error.
pub type Recall = dyn Fn(Run, &Cancel) -> Result<TaskSpec, Failure> + Send + Sync;

/// A task for the pool.
#[derive(Debug)]
pub struct Task {
    id: TaskId,
    run: Run,
    weight: Weight,
    spec: Option<TaskSpec>,
}

impl Task {
    /// One that is in memory.
    pub fn whole(run: Run, spec: TaskSpec) -> Task {
        Task { id: spec.id().clone(), run, weight: spec.weight(), spec: Some(spec) }
    }

    /// One that is on the disk alone, and what it takes up there.
    pub fn stored(run: Run, id: TaskId, weight: Weight) -> Task {
        Task { id, run, weight, spec: None }
    }
}

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
    id: TaskId,
    cancel: Arc<Cancel>,
    began: Arc<OnceLock<Began>>,
}

impl Handle {
    /// What the task has used so far, if that is asked for and it has begun;
    /// `now` tells what its thread has.
    fn spent(&self, now: impl FnOnce(&Began) -> Option<ThreadUsage>) -> Option<Spent> {
        let began = self.began.get()?;
        let monitoring = began.monitoring?;
        let uptime = began.at.elapsed();
        let thread = began.usage.and_then(|before| Some(now(began)?.since(&before)));
        let files = monitoring.files.then(usage::open_files).flatten();
        Some(Spent { monitoring, uptime, thread, memory: self.cancel.memory(), files })
    }
}

/// When a task began to run, and on which thread.
struct Began {
    at: Instant,
    thread: Option<Thread>,
    /// How its use is asked for, if it is.
    monitoring: Option<Monitoring>,
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
    /// Files open in the process, if asked for and where the system tells.
    pub files: Option<u32>,
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
    run: Run,
    /// None: on the disk.
    spec: Option<TaskSpec>,
    reply: Reply,
    admitted: Instant,
}

struct Pool {
    queue: Mutex<Queue<Job, Handle>>,
    /// A task was admitted, or draining began.
    changed: Condvar,
    run: Box<RunTask>,
    recall: Box<Recall>,
    drained: watch::Sender<bool>,
    results: UnboundedSender<Ended>,
    bounds: Bounds,
}

/// What becomes of the tasks that wait when the pool drains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leftover {
    /// Each reports that the worker shuts down.
    Report,
    /// They don't report: someone else knows of them.
    Leave,
}

impl Pool {
    // The queue changes state in steps that can't panic half way.
    fn queue(&self) -> MutexGuard<'_, Queue<Job, Handle>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The pool. Its threads end once it has drained.
pub struct Executor {
    shared: Arc<Pool>,
    threads: Vec<JoinHandle<()>>,
    drained: watch::Receiver<bool>,
}

impl Executor {
    /// Starts `executors` threads with `stack` bytes of stack each, for which
    /// no more than `bounds` wait. `recall` is for tasks that are not in
    /// memory. Guests' files and clocks use the Tokio runtime that this is
    /// called in.
    pub fn start(
        executors: usize,
        bounds: Bounds,
        stack: usize,
        recall: Box<Recall>,
        run: Box<RunTask>,
    ) -> anyhow::Result<(Executor, UnboundedReceiver<Ended>)> {
        let (results, receiver) = unbounded_channel();
        let (drained_sender, drained) = watch::channel(false);
        let shared = Arc::new(Pool {
            queue: Mutex::new(Queue::new(bounds)),
            changed: Condvar::new(),
            run,
            recall,
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

    /// Queues a task whose id is neither queued nor running. Never waits. One
    /// that is held runs after [`Executor::release`] only.
    ///
    /// # Errors
    ///
    /// It was refused, and will not report.
    pub fn submit(&self, task: Task, admission: Admission) -> Result<(), Rejection> {
        let Task { id, run, weight, spec } = task;
        let whole = spec.is_some();
        let results = self.shared.results.clone();
        let job = |in_memory| {
            let spec = spec.filter(|_| in_memory);
            let reply = Reply { id: id.clone(), results, sent: false };
            Job { run, spec, reply, admitted: Instant::now() }
        };
        let admitted = self.shared.queue().admit(&id, weight, whole, admission, job);
        let bounds = self.shared.bounds;
        admitted.map_err(|refusal| match refusal {
            QueueRefusal::Draining => Rejection::ShuttingDown,
            QueueRefusal::Full { running, queued } => {
                Rejection::Busy { running, queued, limit: bounds.tasks }
            }
            QueueRefusal::Heavy { running, queued, bytes } => {
                let limit = bounds.bytes;
                match bounds.memory {
                    Some(_) => Rejection::BusyBytes { running, queued, bytes, limit },
                    None => Rejection::BusyMemory { running, queued, bytes, limit },
                }
            }
        })?;
        self.shared.changed.notify_one();
        Ok(())
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
        let stuck: Vec<_> = queue.running().map(|handle| handle.id.clone()).collect();
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
            Some((handle.id.clone(), spent))
        };
        running.into_iter().filter_map(spent).collect()
    }

    /// The other tasks that run.
    pub fn running(&self) -> Vec<Running> {
        let running = |handle: &Handle| {
            let began = handle.began.get().filter(|began| began.monitoring.is_none())?;
            let (uptime, thread) = (began.at.elapsed(), began.thread.clone());
            let memory = handle.cancel.memory();
            Some(Running { id: handle.id.clone(), uptime, thread, memory })
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

fn work(shared: &Pool) {
    let thread = Thread::current();
    while let Some((job, handle)) = next(shared) {
        let queued = job.admitted.elapsed();
        // So that each line of the log tells which task it is about.
        let _task = info_span!("task", task = %handle.id).entered();
        // The runtime catches what a guest causes; this is for what is left,
        // so that a fault of ours costs one task and not the thread.
        let ended = catch_unwind(AssertUnwindSafe(|| {
            let spec = match job.spec {
                Some(spec) => spec,
                None => match (shared.recall)(job.run, &handle.cancel) {
                    Ok(spec) => spec,
                    Err(failure) => return Outcome::failed(failure),
                },
            };
            let monitoring = spec.monitoring();
            let usage = monitoring.and_then(|_| Thread::own_usage());
            let began = Began { at: Instant::now(), thread: thread.clone(), monitoring, usage };
            // Set here alone, so it is not set yet.
            handle.began.set(began).ok();
            (shared.run)(&spec, &handle.cancel)
        }));
        let mut outcome = ended.unwrap_or_else(|_| {
            Outcome::failed(Failure::Internal("panic outside the guest; see the log".into()))
        });
        outcome.timings.queued = queued;
        let spent = handle.spent(|_| Thread::own_usage());
        let mut queue = shared.queue();
        if queue.finish(&handle.id) {
            shared.changed.notify_all();
        }
        job.reply.send(outcome, spent);
        if queue.is_drained() {
            shared.drained.send_replace(true);
        }
    }
}

fn next(shared: &Pool) -> Option<(Job, Handle)> {
    let handle = |job: &Job| Handle {
        id: job.reply.id.clone(),
        cancel: Arc::default(),
        began: Arc::default(),
    };
    let mut queue = shared.queue();
    loop {
        if let Some(taken) = queue.take(handle) {
            return Some(taken);
        }
        if queue.is_draining() {
            return None;
        }
        queue = shared.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
    }
}

#[cfg(test)]
mod tests;
