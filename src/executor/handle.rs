//! A task that runs, for whoever ends it or looks at what it uses.

use super::job::Reply;
use super::watch::TurnNumber;
use super::{ListedTask, RemoteRun, RunningTask, Spent};
use crate::cancel::{Cancel, Doing};
use crate::queue::Taker;
use crate::task::{Monitoring, TaskId};
use crate::usage::{self, Thread, ThreadUsage};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// When a task began to run, and on which thread.
pub(super) struct Began {
    pub(super) at: Instant,
    thread: Option<Thread>,
    /// Where it runs, if it is not on this thread.
    elsewhere: Option<Box<dyn RemoteRun>>,
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
    pub(super) thread: u64,
    pub(super) taker: Taker,
    /// Taken by whoever ends the task.
    pub(super) reply: Arc<Mutex<Option<Reply>>>,
    pub(super) began: Arc<Mutex<Option<Began>>>,
    pub(super) admitted: Instant,
}

impl Handle {
    pub(super) fn begin(&self, thread: Option<Thread>, monitoring: Option<Monitoring>) {
        let usage = monitoring.and_then(|_| Thread::own_usage());
        let at = Instant::now();
        *held(&self.began) = Some(Began { at, thread, elsewhere: None, monitoring, usage });
    }

    pub(super) fn runs_at(&self, place: Box<dyn RemoteRun>, monitoring: Option<Monitoring>) {
        let thread = place.thread();
        if let Some(began) = held(&self.began).as_mut() {
            began.usage = monitoring.and_then(|_| thread.usage());
            (began.thread, began.elsewhere) = (Some(thread), Some(place));
        }
    }

    /// Bytes of the guest's linear memories.
    fn memory(&self, began: &Began) -> u64 {
        let elsewhere = began.elsewhere.as_ref().and_then(|place| place.memory());
        elsewhere.unwrap_or_else(|| self.cancel.memory())
    }

    /// What the task is doing.
    pub(super) fn doing(&self) -> Doing {
        let began = held(&self.began);
        let elsewhere = began.as_ref().and_then(|began| began.elsewhere.as_ref()?.doing());
        elsewhere.unwrap_or_else(|| self.cancel.doing())
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
        Some(Spent { monitoring, uptime, thread, memory: self.memory(began), files })
    }

    /// Of a task on this thread.
    pub(super) fn used_here(&self) -> Option<ThreadUsage> {
        let before = held(&self.began).as_ref()?.usage?;
        Some(Thread::own_usage()?.since(&before))
    }

    pub(super) fn listed(&self) -> ListedTask {
        // Each takes the lock, which a temporary would hold until the end of the expression.
        let uptime = held(&self.began).as_ref().map(|began| began.at.elapsed());
        let doing = Some(self.doing());
        ListedTask { id: self.id.clone(), age: self.admitted.elapsed(), uptime, doing }
    }

    /// What is told of a task whose use is not asked for.
    pub(super) fn running(&self) -> Option<RunningTask> {
        let began = held(&self.began);
        let began = began.as_ref().filter(|began| began.monitoring.is_none())?;
        let (uptime, thread) = (began.at.elapsed(), began.thread.clone());
        Some(RunningTask { id: self.id.clone(), uptime, thread, memory: self.memory(began) })
    }
}

// Each of them changes in steps that can't panic half way.
pub(super) fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
