//! The pool's inside: its threads, and what they share.

use super::watch::{Turn as TurnNumber, Watch};
use super::{Ended, Ran, Recall, RunTask, Running, Spent, Threads, Turn};
use crate::cancel::{Cancel, Doing};
use crate::journal::Run;
use crate::queue::{Admission, Bounds, Queue, Taker};
use crate::task::{Failure, Monitoring, Outcome, TaskId, TaskSpec, Weight};
use crate::usage::{self, Thread, ThreadUsage};
use anyhow::Context as _;
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch as tokio_watch;
use tracing::{info_span, warn};

/// Crashes of a process with a task that ran alone in it, at which the task
/// fails.
const CRASHES: u32 = 2;

/// The sending half of a task's one result.
pub(super) struct Reply {
    id: TaskId,
    results: UnboundedSender<Ended>,
    sent: bool,
}

impl Reply {
    pub(super) fn new(id: TaskId, results: UnboundedSender<Ended>) -> Reply {
        Reply { id, results, sent: false }
    }

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

/// A task that waits.
pub(super) struct Job {
    run: Run,
    weight: Weight,
    /// None: on the disk.
    spec: Option<TaskSpec>,
    reply: Reply,
    admitted: Instant,
    /// Crashes with it alone.
    crashes: u32,
    /// It was taken back from a process that crashed.
    suspect: bool,
}

impl Job {
    pub(super) fn new(run: Run, weight: Weight, spec: Option<TaskSpec>, reply: Reply) -> Job {
        let admitted = Instant::now();
        Job { run, weight, spec, reply, admitted, crashes: 0, suspect: false }
    }

    /// Ends without having run.
    pub(super) fn end(self, outcome: Outcome) {
        self.reply.send(outcome, None);
    }

    pub(super) fn is_invocation(&self) -> bool {
        self.reply.id.invocation().is_some()
    }

    /// It does not report: someone else knows of it.
    pub(super) fn leave(mut self) {
        self.reply.sent = true;
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

/// What a running task is known by.
#[derive(Clone)]
pub(super) struct Handle {
    pub(super) id: TaskId,
    pub(super) turn: TurnNumber,
    pub(super) cancel: Arc<Cancel>,
    /// The number of its thread, and what that one takes.
    thread: u64,
    taker: Taker,
    /// Taken by whoever ends the task.
    reply: Arc<Mutex<Option<Reply>>>,
    began: Arc<Mutex<Option<Began>>>,
    admitted: Instant,
}

impl Handle {
    fn begin(&self, thread: Option<Thread>, monitoring: Option<Monitoring>) {
        let usage = monitoring.and_then(|_| Thread::own_usage());
        *held(&self.began) = Some(Began { at: Instant::now(), thread, monitoring, usage });
    }

    pub(super) fn runs_on(&self, thread: Thread, monitoring: Option<Monitoring>) {
        let usage = monitoring.and_then(|_| thread.usage());
        if let Some(began) = held(&self.began).as_mut() {
            (began.thread, began.usage) = (Some(thread), usage);
        }
    }

    /// What the task has used so far, if that is asked for and it has begun;
    /// `used` if that is known of its thread.
    pub(super) fn spent(&self, used: Option<ThreadUsage>) -> Option<Spent> {
        let began = held(&self.began);
        let began = began.as_ref()?;
        let monitoring = began.monitoring?;
        let uptime = began.at.elapsed();
        let now = || Some(began.thread.as_ref()?.usage()?.since(&began.usage?));
        let thread = used.or_else(now);
        let files = monitoring.files.then(usage::open_files).flatten();
        Some(Spent { monitoring, uptime, thread, memory: self.cancel.memory(), files })
    }

    /// Of a task on this thread.
    fn used_here(&self) -> Option<ThreadUsage> {
        let before = held(&self.began).as_ref()?.usage?;
        Some(Thread::own_usage()?.since(&before))
    }

    /// What is told of a task whose use is not asked for.
    pub(super) fn running(&self) -> Option<Running> {
        let began = held(&self.began);
        let began = began.as_ref().filter(|began| began.monitoring.is_none())?;
        let (uptime, thread) = (began.at.elapsed(), began.thread.clone());
        Some(Running { id: self.id.clone(), uptime, thread, memory: self.cancel.memory() })
    }
}

/// The threads that there are.
#[derive(Default)]
struct Crew {
    next: u64,
    /// Those that run, but for those that are left behind.
    threads: HashSet<u64>,
    /// Threads that are stuck in a task that was given up.
    behind: usize,
    /// Executors without a thread, because too many are left behind.
    missing: Vec<Taker>,
}

/// What the pool's threads share.
pub(super) struct Pool {
    queue: Mutex<Queue<Job, Handle>>,
    /// A task was admitted, or draining began.
    changed: Condvar,
    /// The same, of tasks that run alone in a process of their own.
    changed_alone: Condvar,
    /// The same, of invocations.
    changed_invocations: Condvar,
    threads: Threads,
    crew: Mutex<Crew>,
    /// A thread has ended, or was left behind.
    fewer: Condvar,
    pub(super) watch: Arc<Watch>,
    turns: AtomicU64,
    run: Box<RunTask>,
    recall: Box<Recall>,
    drained: tokio_watch::Sender<bool>,
    pub(super) results: UnboundedSender<Ended>,
    pub(super) bounds: Bounds,
    tokio: tokio::runtime::Handle,
}

/// Whether a thread goes on with the next task.
#[derive(PartialEq)]
enum Then {
    Next,
    /// It was left behind, and another one has its place.
    End,
}

impl Pool {
    pub(super) fn new(
        threads: Threads,
        bounds: Bounds,
        recall: Box<Recall>,
        run: Box<RunTask>,
        drained: tokio_watch::Sender<bool>,
        results: UnboundedSender<Ended>,
    ) -> Pool {
        Pool {
            queue: Mutex::new(Queue::new(bounds)),
            changed: Condvar::new(),
            changed_alone: Condvar::new(),
            changed_invocations: Condvar::new(),
            threads,
            crew: Mutex::default(),
            fewer: Condvar::new(),
            watch: Arc::default(),
            turns: AtomicU64::new(0),
            run,
            recall,
            drained,
            results,
            bounds,
            tokio: tokio::runtime::Handle::current(),
        }
    }

    /// Starts the threads.
    pub(super) fn start(self: &Arc<Pool>) -> anyhow::Result<()> {
        let pool = self.clone();
        std::thread::Builder::new()
            .name("watch".into())
            .spawn(move || pool.watch.run(|turn| pool.give_up(turn)))
            .context("starting the thread that watches tasks")?;
        let mut crew = held(&self.crew);
        let taker = if self.threads.apart { Taker::Company } else { Taker::Any };
        let Threads { executors, apart, invocations, .. } = self.threads;
        let alone = apart.then_some(Taker::Alone);
        let invocations = invocations.then_some(Taker::Invocations { apart });
        for taker in std::iter::repeat_n(taker, executors).chain(alone).chain(invocations) {
            self.start_thread(&mut crew, taker)
                .with_context(|| format!("starting the threads of {executors} executors"))?;
        }
        Ok(())
    }

    fn start_thread(self: &Arc<Pool>, crew: &mut Crew, taker: Taker) -> std::io::Result<()> {
        let number = crew.next;
        let name = match taker {
            Taker::Alone => "executor-alone".to_owned(),
            Taker::Invocations { .. } => "executor-invoke".to_owned(),
            Taker::Any | Taker::Company => format!("executor-{number}"),
        };
        let pool = self.clone();
        let work = move || {
            let _entered = pool.tokio.enter();
            let _listed = Listed { pool: &pool, number };
            let thread = Thread::current();
            while let Some((job, handle)) = pool.next(number, taker) {
                if pool.turn(job, &handle, thread.as_ref()) == Then::End {
                    return;
                }
            }
        };
        // So that it does not end before it is listed.
        crew.threads.insert(number);
        let started =
            std::thread::Builder::new().name(name).stack_size(self.threads.stack).spawn(work);
        match started {
            Ok(_) => crew.next += 1,
            Err(_) => drop(crew.threads.remove(&number)),
        }
        started.map(drop)
    }

    /// Waits until the threads have ended, but for those that are left behind.
    pub(super) fn join(&self) {
        let crew = held(&self.crew);
        let ended = self.fewer.wait_while(crew, |crew| !crew.threads.is_empty());
        drop(ended.unwrap_or_else(PoisonError::into_inner));
        self.watch.close();
    }

    // The queue changes state in steps that can't panic half way.
    pub(super) fn queue(&self) -> MutexGuard<'_, Queue<Job, Handle>> {
        held(&self.queue)
    }

    pub(super) fn admitted(&self, admission: Admission, invocation: bool) {
        match admission {
            Admission::Alone if self.threads.apart => self.changed_alone.notify_one(),
            _ => {
                self.changed.notify_one();
                if invocation {
                    self.changed_invocations.notify_one();
                }
            }
        }
    }

    pub(super) fn wake_all(&self) {
        self.changed.notify_all();
        self.changed_alone.notify_all();
        self.changed_invocations.notify_all();
    }

    pub(super) fn tell_if_drained(&self, queue: &Queue<Job, Handle>) {
        if queue.is_drained() {
            self.drained.send_replace(true);
        }
    }

    pub(super) fn unavailable(&self) -> Option<String> {
        let missing = held(&self.crew).missing.len();
        (missing >= self.threads.executors).then(|| {
            format!(
                "all {missing} executors are stuck in native code that nothing can interrupt; \
                 restart the worker, or run it with --isolation=process"
            )
        })
    }

    fn next(&self, thread: u64, taker: Taker) -> Option<(Job, Handle)> {
        let handle = |job: &Job| {
            let turn = self.turns.fetch_add(1, Ordering::Relaxed);
            let watch = self.watch.clone();
            Handle {
                id: job.reply.id.clone(),
                turn,
                cancel: Arc::new(Cancel::told(move |reason| watch.cancelled(turn, reason))),
                thread,
                taker,
                reply: Arc::default(),
                began: Arc::default(),
                admitted: job.admitted,
            }
        };
        let mut queue = self.queue();
        loop {
            if let Some(taken) = queue.take(taker, handle) {
                return Some(taken);
            }
            if queue.is_draining() {
                return None;
            }
            let changed = match taker {
                Taker::Alone => &self.changed_alone,
                Taker::Invocations { .. } => &self.changed_invocations,
                Taker::Any | Taker::Company => &self.changed,
            };
            queue = changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Runs a task.
    fn turn(self: &Arc<Pool>, job: Job, handle: &Handle, thread: Option<&Thread>) -> Then {
        let Job { run, weight, mut spec, reply, admitted, crashes, suspect } = job;
        *held(&handle.reply) = Some(reply);
        let queued = admitted.elapsed();
        // So that each line of the log tells which task it is about.
        let _task = info_span!("task", task = %handle.id).entered();
        self.watch.begin(handle.turn, &handle.cancel);
        // The runtime catches what a guest causes; this is for what is left,
        // so that a fault of ours costs one task and not the thread.
        let ran = catch_unwind(AssertUnwindSafe(|| {
            if spec.is_none() {
                match (self.recall)(run, &handle.cancel) {
                    Ok(recalled) => spec = Some(recalled),
                    Err(failure) => return Outcome::failed(failure).into(),
                }
            }
            let spec = spec.as_ref().expect("in memory, or just read back");
            if let Some(limit) = spec.grant().limits.timeout {
                self.watch.limit(handle.turn, limit);
            }
            handle.begin(thread.cloned(), spec.monitoring());
            let alone = handle.taker == Taker::Alone;
            (self.run)(&Turn { spec, cancel: &handle.cancel, alone, handle, pool: self })
        }));
        let Ran { end, used } = ran.unwrap_or_else(|_| {
            Outcome::failed(Failure::Internal("panic outside the guest; see the log".into())).into()
        });
        self.watch.end(handle.turn);
        let used = used.or_else(|| if end.is_ok() { handle.used_here() } else { None });
        let spent = handle.spent(used);
        let mut queue = self.queue();
        let Some(reply) = held(&handle.reply).take() else {
            drop(queue);
            return self.came_back();
        };
        let outcome = match end {
            Ok(outcome) => outcome,
            Err(crash) => {
                let crashes = crashes + u32::from(crash.alone);
                match handle.cancel.reason() {
                    Some(reason) => Outcome::failed(reason.into()),
                    None if crashes >= CRASHES => Outcome::failed(Failure::Crash(crash.how)),
                    None => {
                        warn!("{}: the task runs again, alone", crash.how);
                        let job =
                            Job { run, weight, spec, reply, admitted, crashes, suspect: true };
                        match queue.suspect(&handle.id, weight, job) {
                            Ok(()) => self.admitted(Admission::Alone, false),
                            Err(job) => job.end(Outcome::failed(Failure::ShuttingDown)),
                        }
                        self.tell_if_drained(&queue);
                        return Then::Next;
                    }
                }
            }
        };
        let mut outcome = outcome;
        outcome.timings.queued = queued;
        if suspect && outcome.verdict.is_ok() {
            tracing::info!("the task has run alone without a crash");
        }
        if queue.finish(&handle.id) {
            self.wake_all();
        } else if matches!(handle.taker, Taker::Invocations { .. }) {
            // What waits to be alone is for another thread.
            self.changed.notify_one();
        }
        reply.send(outcome, spent);
        self.tell_if_drained(&queue);
        Then::Next
    }

    /// A task was given up, and has ended after all.
    fn came_back(self: &Arc<Pool>) -> Then {
        let mut crew = held(&self.crew);
        crew.behind = crew.behind.saturating_sub(1);
        if let Some(taker) = crew.missing.pop() {
            self.replace(&mut crew, taker);
        }
        Then::End
    }

    /// A task does not end although it is to: its result is sent without it.
    fn give_up(self: &Arc<Pool>, turn: TurnNumber) {
        let mut queue = self.queue();
        let Some(handle) = queue.running().find(|handle| handle.turn == turn).cloned() else {
            return;
        };
        let Some(reply) = held(&handle.reply).take() else { return };
        let Some(reason) = handle.cancel.reason() else { return };
        let doing = handle.cancel.doing();
        let failure = match Failure::from(reason) {
            Failure::ShuttingDown => Failure::Stuck(doing.to_string()),
            failure => failure,
        };
        warn!(task = %handle.id, "the task does not end, while {doing}: its thread is left behind");
        let mut outcome = Outcome::failed(failure);
        outcome.timings.queued =
            held(&handle.began).as_ref().map_or_else(Default::default, |began| {
                began.at.saturating_duration_since(handle.admitted)
            });
        if doing != Doing::Preparing {
            outcome.diagnostics.push(format!("the task did not end by itself, while {doing}"));
        }
        let alone = queue.finish(&handle.id);
        reply.send(outcome, handle.spent(None));
        self.tell_if_drained(&queue);
        drop(queue);
        if alone {
            self.wake_all();
        }
        let mut crew = held(&self.crew);
        // It is not waited for any more.
        crew.threads.remove(&handle.thread);
        self.fewer.notify_all();
        crew.behind += 1;
        if crew.behind <= self.threads.executors {
            self.replace(&mut crew, handle.taker);
        } else {
            crew.missing.push(handle.taker);
        }
    }

    fn replace(self: &Arc<Pool>, crew: &mut Crew, taker: Taker) {
        if let Err(e) = self.start_thread(crew, taker) {
            warn!("no thread in place of one that is left behind: {e}");
            crew.missing.push(taker);
        }
    }
}

/// Takes a thread from the list when it ends, by a panic too.
struct Listed<'a> {
    pool: &'a Pool,
    number: u64,
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        held(&self.pool.crew).threads.remove(&self.number);
        self.pool.fewer.notify_all();
    }
}

// Each of them changes in steps that can't panic half way.
fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
