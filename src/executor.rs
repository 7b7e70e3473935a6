//! The bounded pool that runs tasks: a few threads behind a bounded queue.
//!
//! Each admitted task ends in exactly one message on the results channel, by
//! the type of its `Reply`: one that is dropped unsent reports a fault of
//! ours. A result is sent under the lock that ends the task in the queue, so
//! that a task of the same id that is admitted afterwards reports afterwards.
//!
//! A waiting task that memory has no room for is known by its id and run alone;
//! the thread that takes it reads it back, outside the lock.
//!
//! A task that does not end although it is to, because native code can't be
//! interrupted, is given up: its result is sent without it, its thread is left
//! behind, and another one takes that one's place. As many may be left behind
//! as there are executors.
//!
//! A task whose module is large, and not known to be compiled, is for threads
//! beside the executors: their tasks never wait for a long compile.
//!
//! What crashed the process that it ran in runs again, alone, on a thread of its
//! own beside the others, and fails at its second crash alone.

mod handle;
mod job;
mod pool;
mod watch;

use crate::cancel::{Cancel, Doing, Reason};
use crate::journal::Run;
use crate::queue::{Admission, QueueBounds, QueueRefusal, Stopped};
use crate::task::{Failure, Monitoring, Outcome, Rejection, TaskId, TaskSpec, Weight};
use crate::usage::{Thread, ThreadUsage};
use handle::Handle;
use job::{Job, Reply};
use pool::Pool;
use std::any::Any;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::watch as tokio_watch;

/// How a task is run: [`crate::runtime::Runtime::run`], a process that does, or
/// a test's own.
pub type RunTask = dyn Fn(&Turn<'_>) -> TurnEnd + Send + Sync;

/// How a task is read back that waited on the disk; what fails is its error.
pub type Recall = dyn Fn(Run, &Cancel) -> Result<TaskSpec, Failure> + Send + Sync;

/// A task's turn.
pub struct Turn<'a> {
    /// What is to run.
    pub spec: &'a TaskSpec,
    /// Which run of the task it is.
    pub run: Run,
    /// By which it is ended.
    pub cancel: &'a Arc<Cancel>,
    /// It is suspected of a crash, so nothing may run in a process with it.
    pub alone: bool,
    handle: &'a Handle,
    weight: Weight,
    pool: &'a Pool,
}

impl Turn<'_> {
    /// The same turn, with this in place of what was to run.
    pub fn with<'a>(&'a self, spec: &'a TaskSpec) -> Turn<'a> {
        Turn { spec, ..*self }
    }

    /// It runs there and not on the executor's own thread.
    pub fn runs_at(&self, place: impl RemoteRun + 'static) {
        self.handle.runs_at(Box::new(place), self.spec.monitoring());
    }

    /// Its code has been compiled, and the task's own limit for its guest counts
    /// from now on.
    pub fn guest_began(&self) {
        self.pool.compiled(self.weight);
        if let Some(limit) = self.spec.grant().limits.run {
            self.pool.watch.limit(self.handle.turn, limit);
        }
    }
}

/// Where a task runs that does not on its executor's thread.
pub trait RemoteRun: Send + Sync {
    /// The thread.
    fn thread(&self) -> Thread;
    /// Bytes of the guest's linear memories; none once it has ended.
    fn memory(&self) -> Option<u64>;
    /// What the task is doing; none once it has ended.
    fn doing(&self) -> Option<Doing>;
}

/// What came of a turn.
#[derive(Debug)]
pub struct TurnEnd {
    /// The task's end, or that of the process that it ran in.
    pub end: Result<Outcome, Crash>,
    /// What its thread used, if that was another one than the executor's and
    /// it is asked for.
    pub used: Option<ThreadUsage>,
    /// What is dropped once the end has been reported.
    pub remains: Option<Box<dyn Any>>,
}

impl TurnEnd {
    /// Of which nothing remains.
    pub fn new(end: Result<Outcome, Crash>, used: Option<ThreadUsage>) -> TurnEnd {
        TurnEnd { end, used, remains: None }
    }
}

impl From<Outcome> for TurnEnd {
    fn from(outcome: Outcome) -> TurnEnd {
        TurnEnd::new(Ok(outcome), None)
    }
}

/// The process that a task ran in ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crash {
    /// How, and what the task was doing.
    pub how: String,
    /// No other task ran in it, and it was this one's doing.
    pub alone: bool,
}

/// The threads of a pool.
#[derive(Clone, Copy, Debug)]
pub struct PoolThreads {
    /// How many tasks run at the same time.
    pub executors: usize,
    /// Bytes of stack of each.
    pub stack: usize,
    /// How many tasks beside them whose modules are large and not compiled.
    pub large: usize,
    /// What has to run alone has a process of its own, and so a thread.
    pub apart: bool,
    /// Whether one more runs invocations of deployed tasks alone, so that tasks
    /// which hold all executors hold up none.
    pub invocations: bool,
}

/// A task for the pool.
#[derive(Debug)]
pub struct Submission {
    id: TaskId,
    run: Run,
    weight: Weight,
    spec: Option<TaskSpec>,
}

impl Submission {
    /// One that is in memory.
    pub fn whole(run: Run, spec: TaskSpec) -> Submission {
        Submission { id: spec.id().clone(), run, weight: spec.weight(), spec: Some(spec) }
    }

    /// One that is on the disk alone, and what it takes up there.
    pub fn stored(run: Run, id: TaskId, weight: Weight) -> Submission {
        Submission { id, run, weight, spec: None }
    }
}

/// The end of a task.
#[derive(Debug)]
pub struct TaskEnd {
    /// Which one.
    pub id: TaskId,
    /// What came of it.
    pub outcome: Outcome,
    /// What it used, if that is asked for and it has run.
    pub spent: Option<Spent>,
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
pub struct RunningTask {
    /// Which one.
    pub id: TaskId,
    /// For how long.
    pub uptime: Duration,
    /// The thread that it runs on, where the system tells.
    pub thread: Option<Thread>,
    /// Bytes of its guest's linear memories.
    pub memory: u64,
}

/// What becomes of the tasks that wait when the pool drains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leftover {
    /// Each reports that the worker shuts down.
    Report,
    /// They don't report: someone else knows of them, but for invocations, which
    /// do.
    Leave,
}

/// A task that waits or runs.
#[derive(Clone, Debug)]
pub struct ListedTask {
    /// Which one.
    pub id: TaskId,
    /// The time since it was admitted.
    pub age: Duration,
    /// The time since it began to run, if it has.
    pub uptime: Option<Duration>,
    /// What it is doing, if it runs.
    pub doing: Option<Doing>,
}

/// What a pool has to do.
#[derive(Clone, Debug, Default)]
pub struct PoolTasks {
    /// What waits, in the order of its turns.
    pub waiting: Vec<ListedTask>,
    /// What runs.
    pub running: Vec<ListedTask>,
}

/// The pool. Its threads end once it has drained.
pub struct Executor {
    shared: Arc<Pool>,
    drained: tokio_watch::Receiver<bool>,
}

impl Executor {
    /// Starts the threads, for which no more than `bounds` wait. `recall` is for
    /// tasks that are not in memory. Guests' files and clocks use the Tokio
    /// runtime that this is called in.
    ///
    /// # Errors
    ///
    /// There are no more threads to be had.
    pub fn start(
        threads: PoolThreads,
        bounds: QueueBounds,
        recall: Box<Recall>,
        run: Box<RunTask>,
    ) -> anyhow::Result<(Executor, UnboundedReceiver<TaskEnd>)> {
        let (results, receiver) = unbounded_channel();
        let (drained_sender, drained) = tokio_watch::channel(false);
        let shared = Arc::new(Pool::new(threads, bounds, recall, run, drained_sender, results));
        shared.start()?;
        Ok((Executor { shared, drained }, receiver))
    }

    /// Queues a task whose id is neither queued nor running. Never waits. One
    /// that is held runs after [`Executor::release`] only.
    ///
    /// # Errors
    ///
    /// It was refused, and will not report.
    pub fn submit(&self, task: Submission, admission: Admission) -> Result<(), Rejection> {
        let Submission { id, run, weight, spec } = task;
        let whole = spec.is_some();
        let results = self.shared.results.clone();
        let job = |in_memory| {
            let spec = spec.filter(|_| in_memory);
            let reply = Reply::new(id.clone(), results);
            Job::new(run, weight, spec, reply)
        };
        let admitted = self.shared.queue().admit(&id, weight, whole, admission, job);
        let bounds = self.shared.bounds;
        let taker = admitted.map_err(|refusal| match refusal {
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
        self.shared.wake(taker);
        Ok(())
    }

    /// Lets a held task run; one that has been stopped or drained meanwhile is
    /// gone.
    pub fn release(&self, id: &TaskId) {
        let taker = self.shared.queue().release(id);
        self.shared.wake(taker);
    }

    /// Ends a task: a queued one reports at once, a running one as soon as it
    /// notices. Returns whether there was one.
    pub fn stop(&self, id: &TaskId) -> bool {
        let stopped = self.shared.queue().stop(id);
        match stopped {
            Stopped::Queued(job) => job.end(Outcome::failed(Failure::Stopped)),
            Stopped::Running(handle) => handle.cancel.cancel(Reason::Stopped),
            Stopped::Unknown => return false,
        }
        true
    }

    /// Admits nothing more; running tasks go on.
    pub fn drain(&self, leftover: Leftover) {
        let mut queue = self.shared.queue();
        for job in queue.drain() {
            match leftover {
                Leftover::Leave if !job.is_invocation() => job.leave(),
                Leftover::Leave | Leftover::Report => {
                    job.end(Outcome::failed(Failure::ShuttingDown));
                }
            }
        }
        self.shared.tell_if_drained(&queue);
        drop(queue);
        self.shared.wake_all();
    }

    /// Ends the tasks that still run.
    pub fn cancel_running(&self) {
        self.cancel_running_but(&[]);
    }

    /// The same, but for these.
    pub fn cancel_running_but(&self, these: &[TaskId]) {
        let mut running: Vec<_> = self.shared.queue().running().cloned().collect();
        running.retain(|handle| !these.contains(&handle.id));
        for handle in running {
            handle.cancel.cancel(Reason::ShuttingDown);
        }
    }

    /// Waits until [`Executor::drain`] was called and no task runs any more.
    pub async fn drained(&self) {
        // The sender lives as long as we do.
        self.drained.clone().wait_for(|drained| *drained).await.ok();
    }

    /// The tasks that run and whose use of the machine is asked for.
    pub fn monitored(&self) -> Vec<(TaskId, Spent)> {
        let running: Vec<_> = self.shared.queue().running().cloned().collect();
        let spent = |handle: Handle| Some((handle.id.clone(), handle.spent(None)?));
        running.into_iter().filter_map(spent).collect()
    }

    /// The other tasks that run.
    pub fn running(&self) -> Vec<RunningTask> {
        self.shared.queue().running().filter_map(Handle::running).collect()
    }

    /// What waits and what runs, at most so many of each: the first in the queue,
    /// and whatever runs.
    pub fn listed(&self, most: usize) -> PoolTasks {
        let queue = self.shared.queue();
        let waiting = queue.waiting().take(most).map(|(id, job)| job.listed(id.clone()));
        let waiting = waiting.collect();
        let running: Vec<_> = queue.running().take(most).cloned().collect();
        drop(queue);
        // What each is doing may be asked of another process.
        PoolTasks { waiting, running: running.iter().map(Handle::listed).collect() }
    }

    /// Tasks that wait for an inference.
    pub fn computing(&self) -> usize {
        let running: Vec<_> = self.shared.queue().running().cloned().collect();
        let computes = |handle: &&Handle| matches!(handle.doing(), Doing::Computing(_));
        running.iter().filter(computes).count()
    }

    /// The threads that are stuck in a task that was given up, asked later.
    pub fn ask_left_behind(&self) -> impl Fn() -> usize + Send + Sync + 'static {
        let shared = Arc::downgrade(&self.shared);
        move || shared.upgrade().map_or(0, |shared| shared.left_behind())
    }

    /// Tasks waiting and running.
    pub fn load(&self) -> (usize, usize) {
        self.shared.queue().len()
    }

    /// Why no task can be taken, if none can.
    pub fn unavailable(&self) -> Option<String> {
        self.shared.unavailable()
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        self.drain(Leftover::Report);
        self.cancel_running();
        self.shared.join();
    }
}

#[cfg(test)]
mod tests;
