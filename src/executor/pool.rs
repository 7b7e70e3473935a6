//! The pool's inside: its threads, and what they share.

use super::handle::{Handle, held};
use super::job::Job;
use super::watch::{TurnNumber, Watch};
use super::{PoolThreads, Recall, RunTask, TaskEnd, Turn, TurnEnd};
use crate::cancel::{Cancel, Doing, TaskChange};
use crate::queue::{Queue, QueueBounds, Taker, Takers};
use crate::task::{Failure, Outcome, Weight};
use crate::usage::Thread;
use anyhow::Context as _;
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch as tokio_watch;
use tracing::{info_span, warn};

/// Crashes of a process with a task that ran alone in it, at which the task
/// fails.
const CRASHES: u32 = 2;
/// The same of processes that were lost with it, whoever was the cause: one that
/// is never the cause must come to an end, too.
const LOSSES: u32 = 8;

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
    /// A task was admitted, or draining began: for each kind of taker.
    quick: Condvar,
    large: Condvar,
    alone: Condvar,
    invocations: Condvar,
    threads: PoolThreads,
    crew: Mutex<Crew>,
    /// A thread has ended, or was left behind.
    fewer: Condvar,
    pub(super) watch: Arc<Watch>,
    turns: AtomicU64,
    run: Box<RunTask>,
    recall: Box<Recall>,
    drained: tokio_watch::Sender<bool>,
    pub(super) results: UnboundedSender<TaskEnd>,
    pub(super) bounds: QueueBounds,
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
        threads: PoolThreads,
        bounds: QueueBounds,
        recall: Box<Recall>,
        run: Box<RunTask>,
        drained: tokio_watch::Sender<bool>,
        results: UnboundedSender<TaskEnd>,
    ) -> Pool {
        let takers = Takers { alone: threads.apart, large: threads.large > 0 };
        Pool {
            queue: Mutex::new(Queue::new(bounds, takers)),
            quick: Condvar::new(),
            large: Condvar::new(),
            alone: Condvar::new(),
            invocations: Condvar::new(),
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
        let PoolThreads { executors, large, apart, invocations, .. } = self.threads;
        let quick = std::iter::repeat_n(Taker::Quick, executors);
        let large = std::iter::repeat_n(Taker::Large, large);
        let others = [(apart, Taker::Alone), (invocations, Taker::Invocations)];
        let others = others.into_iter().filter_map(|(there, taker)| there.then_some(taker));
        for taker in quick.chain(large).chain(others) {
            self.start_thread(&mut crew, taker)
                .with_context(|| format!("starting the threads of {executors} executors"))?;
        }
        Ok(())
    }

    fn start_thread(self: &Arc<Pool>, crew: &mut Crew, taker: Taker) -> std::io::Result<()> {
        let number = crew.next;
        let name = match taker {
            Taker::Alone => "executor-alone".to_owned(),
            Taker::Invocations => "executor-invoke".to_owned(),
            Taker::Large => format!("executor-large-{number}"),
            Taker::Quick => format!("executor-{number}"),
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

    /// A task may be taken.
    pub(super) fn wake(&self, taker: Option<Taker>) {
        let Some(taker) = taker else { return };
        self.changed(taker).notify_one();
        if taker == Taker::Invocations {
            // Executors take them, too.
            self.quick.notify_one();
        }
    }

    pub(super) fn wake_all(&self) {
        for taker in [Taker::Quick, Taker::Large, Taker::Alone, Taker::Invocations] {
            self.changed(taker).notify_all();
        }
    }

    fn changed(&self, taker: Taker) -> &Condvar {
        match taker {
            Taker::Quick => &self.quick,
            Taker::Large => &self.large,
            Taker::Alone => &self.alone,
            Taker::Invocations => &self.invocations,
        }
    }

    pub(super) fn tell_if_drained(&self, queue: &Queue<Job, Handle>) {
        if queue.is_drained() {
            self.drained.send_replace(true);
        }
    }

    pub(super) fn unavailable(&self) -> Option<String> {
        let crew = held(&self.crew);
        let missing = crew.missing.iter().filter(|taker| **taker == Taker::Quick).count();
        drop(crew);
        (missing >= self.threads.executors).then(|| {
            format!(
                "all {missing} executors are stuck in native code that nothing can interrupt; \
                 restart the worker, or run it without --isolation=none"
            )
        })
    }

    /// The module of such a task has been compiled.
    pub(super) fn compiled(&self, weight: Weight) {
        if self.queue().compiled(weight) {
            self.quick.notify_all();
        }
    }

    fn next(self: &Arc<Pool>, thread: u64, taker: Taker) -> Option<(Job, Handle)> {
        let handle = |job: &Job| {
            let turn = self.turns.fetch_add(1, Ordering::Relaxed);
            let watch = self.watch.clone();
            let cancelled = move |reason| watch.cancelled(turn, reason);
            // Who takes large modules has the others hear when one is compiled.
            let cancel = if taker == Taker::Large {
                let (pool, weight) = (Arc::downgrade(self), job.weight);
                Cancel::told_and_shown(cancelled, move |change| {
                    if change == TaskChange::Doing(&Doing::Running)
                        && let Some(pool) = pool.upgrade()
                    {
                        pool.compiled(weight);
                    }
                })
            } else {
                Cancel::told(cancelled)
            };
            Handle {
                id: job.reply.id().clone(),
                turn,
                cancel: Arc::new(cancel),
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
            let changed = self.changed(taker);
            queue = changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Runs a task.
    fn turn(self: &Arc<Pool>, job: Job, handle: &Handle, thread: Option<&Thread>) -> Then {
        let Job { run, weight, mut spec, reply, admitted, losses, crashes, suspect } = job;
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
            (self.run)(&Turn {
                spec,
                run,
                cancel: &handle.cancel,
                alone,
                handle,
                weight,
                pool: self,
            })
        }));
        let TurnEnd { end, used, remains: _remains } = ran.unwrap_or_else(|_| {
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
                queue.forget_compiled();
                let losses = losses + 1;
                let crashes = crashes + u32::from(crash.alone);
                match handle.cancel.reason() {
                    Some(reason) => Outcome::failed(reason.into()),
                    None if crashes >= CRASHES || losses >= LOSSES => {
                        Outcome::failed(Failure::Crash(crash.how))
                    }
                    None => {
                        warn!("{}: the task runs again, alone", crash.how);
                        let suspect = true;
                        let job =
                            Job { run, weight, spec, reply, admitted, losses, crashes, suspect };
                        match queue.suspect(&handle.id, weight, job) {
                            Ok(taker) => self.wake(Some(taker)),
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
        } else if matches!(handle.taker, Taker::Large | Taker::Invocations) {
            // A suspect may have waited for it, which this thread does not take.
            self.quick.notify_one();
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
        let doing = handle.doing();
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

    /// Threads that are stuck in a task that was given up.
    pub(super) fn left_behind(&self) -> usize {
        held(&self.crew).behind
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
