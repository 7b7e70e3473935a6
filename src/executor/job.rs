//! A task that waits, and the one result that it owes.

use super::{ListedTask, Spent, TaskEnd};
use crate::journal::Run;
use crate::task::{Failure, Outcome, TaskId, TaskSpec, Weight};
use std::time::Instant;
use tokio::sync::mpsc::UnboundedSender;

/// The sending half of a task's one result.
pub(super) struct Reply {
    id: TaskId,
    results: UnboundedSender<TaskEnd>,
    sent: bool,
}

impl Reply {
    pub(super) fn new(id: TaskId, results: UnboundedSender<TaskEnd>) -> Reply {
        Reply { id, results, sent: false }
    }

    pub(super) fn id(&self) -> &TaskId {
        &self.id
    }

    pub(super) fn send(mut self, outcome: Outcome, spent: Option<Spent>) {
        self.sent = true;
        // Who dropped the receiver wants no more results.
        self.results.send(TaskEnd { id: self.id.clone(), outcome, spent }).ok();
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if !self.sent {
            let failure = Failure::Internal("the task was lost before it could report".into());
            let outcome = Outcome::failed(failure);
            self.results.send(TaskEnd { id: self.id.clone(), outcome, spent: None }).ok();
        }
    }
}

/// A task that waits.
pub(super) struct Job {
    pub(super) run: Run,
    pub(super) weight: Weight,
    /// None: on the disk.
    pub(super) spec: Option<TaskSpec>,
    pub(super) reply: Reply,
    pub(super) admitted: Instant,
    /// Processes that were lost with it, and those of which it is the cause.
    pub(super) losses: u32,
    pub(super) crashes: u32,
    /// It was taken back from a process that crashed.
    pub(super) suspect: bool,
}

impl Job {
    pub(super) fn new(run: Run, weight: Weight, spec: Option<TaskSpec>, reply: Reply) -> Job {
        let admitted = Instant::now();
        Job { run, weight, spec, reply, admitted, losses: 0, crashes: 0, suspect: false }
    }

    pub(super) fn listed(&self, id: TaskId) -> ListedTask {
        ListedTask { id, age: self.admitted.elapsed(), uptime: None, doing: None }
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
