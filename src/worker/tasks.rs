//! What becomes of a task, from its message to its delivered result.
//!
//! Each step goes through the journal, if there is one, and what follows it
//! ([`After`]) happens when it is on the disk. Without one that is at once.

use super::recent::{Entry, Modules, Recent, Repeat};
use super::{Phase, Worker, oversize};
use crate::digest::Digest;
use crate::executor::{Ended, Task};
use crate::journal::{Arrival, Finished, Journal, Recovered, Run, Step, Waiting, fingerprint};
use crate::mqtt::{Ack, PublishError};
use crate::protocol::{Malformed, TaskResult};
use crate::queue::Admission;
use crate::task::{Failure, Outcome, Rejection, TaskId, TaskRequest};
use bytes::Bytes;
use std::collections::HashMap;
use std::time::{Instant, SystemTime};
use tokio::task::JoinSet;
use tracing::{debug, error, info, warn};

/// Deaths of the process in the middle of a task, after which it is not run
/// again.
const DEATHS: u32 = 3;

/// What follows a step once it can't be lost.
pub(super) enum After {
    /// The broker may forget the message.
    Ack(Ack),
    /// That, and the task may run.
    Release(TaskId, Ack),
    /// The result goes out, and the broker may forget the message that it
    /// answers at once.
    Publish { run: Run, id: TaskId, result: Bytes, ack: Option<Ack> },
}

/// A task that is queued or running.
struct Active {
    run: Run,
    arrival: Arrival,
    at: Option<Instant>,
}

/// What the worker knows of its tasks.
pub(super) struct Tasks {
    journal: Option<Journal<After>>,
    /// Steps whose [`After`] has not come back.
    unsettled: usize,
    next: Run,
    active: HashMap<TaskId, Active>,
    recent: Recent,
    modules: Modules,
    pub(super) deliveries: JoinSet<(Run, TaskId, Bytes, Result<(), PublishError>)>,
}

impl Tasks {
    pub(super) fn new(journal: Option<Journal<After>>, next: Run) -> Tasks {
        Tasks {
            journal,
            unsettled: 0,
            next,
            active: HashMap::new(),
            recent: Recent::default(),
            modules: Modules::default(),
            deliveries: JoinSet::new(),
        }
    }

    /// Whether what is left undone is done by the next process.
    pub(super) fn survive(&self) -> bool {
        self.journal.is_some()
    }

    /// Whether every step so far is where it can't be lost.
    pub(super) fn settled(&self) -> bool {
        self.unsettled == 0
    }

    /// Nothing follows.
    pub(super) fn close(self) {
        if let Some(journal) = self.journal {
            journal.close();
        }
    }

    fn new_run(&mut self) -> Run {
        let run = self.next;
        self.next = Run(run.0 + 1);
        run
    }

    fn note(&self, step: Step) {
        if let Some(journal) = &self.journal {
            journal.note(step);
        }
    }

    fn forget(&self, runs: impl IntoIterator<Item = Run>) {
        runs.into_iter().for_each(|run| self.note(Step::Forgotten(run)));
    }
}

impl Worker {
    fn record(&mut self, step: Step, then: After) {
        match &self.tasks.journal {
            Some(journal) => {
                self.tasks.unsettled += 1;
                journal.record(step, then);
            }
            None => self.after(then),
        }
    }

    /// A step is on the disk.
    pub(super) fn on_durable(&mut self, then: After) {
        self.tasks.unsettled -= 1;
        self.after(then);
    }

    fn after(&mut self, then: After) {
        match then {
            After::Ack(ack) => self.link.ack(ack),
            After::Release(id, ack) => {
                info!(task = %id, "task accepted");
                self.link.ack(ack);
                self.executor.release(&id);
            }
            After::Publish { run, id, result, ack } => {
                if let Some(ack) = ack {
                    self.link.ack(ack);
                }
                self.publish(run, id, result);
            }
        }
    }

    pub(super) fn start(&mut self, mut request: TaskRequest, duplicate: bool, ack: Ack) {
        if self.tasks.survive() && self.phase != Phase::Serving {
            // Unacknowledged, it stays with the broker for the next process.
            return debug!(task = %request.id, "shutting down: a start is left to the next process");
        }
        let id = request.id.clone();
        self.tasks.modules.share(&mut request);
        let fingerprint = fingerprint(&request);
        if let Some(active) = self.tasks.active.get(&id) {
            if active.arrival.fingerprint == fingerprint {
                debug!(task = %id, duplicate, "the task is queued or running already");
            } else {
                warn!(
                    task = %id,
                    "a start with other content for a task that is queued or running was ignored"
                );
            }
            // Not before the start itself is safe.
            return self.record(Step::Nothing, After::Ack(ack));
        }
        let Some(ack) = self.answer_repeat(&id, &fingerprint, duplicate, ack) else { return };
        let arrival =
            Arrival { id: id.clone(), fingerprint, at: Some(SystemTime::now()), refused: false };
        let spec = match self.policy.admit(request.clone()) {
            Ok(spec) => spec,
            Err(rejection) => {
                self.status.metrics.refused(&rejection);
                return self.refuse(arrival, &rejection, ack);
            }
        };
        let run = self.tasks.new_run();
        match self.executor.submit(Task::whole(run, spec), Admission::Held) {
            Ok(()) => {
                let active = Active { run, arrival: arrival.clone(), at: Some(Instant::now()) };
                self.tasks.active.insert(id.clone(), active);
                let step = Step::Accepted { run, arrival, request };
                self.record(step, After::Release(id, ack));
            }
            Err(rejection) => {
                self.status.metrics.refused(&rejection);
                self.refuse(arrival, &rejection, ack);
            }
        }
    }

    /// Publishes the result once more if this message repeats one whose task
    /// has ended; else gives the right to acknowledge back.
    fn answer_repeat(
        &mut self,
        id: &TaskId,
        fingerprint: &Digest,
        duplicate: bool,
        ack: Ack,
    ) -> Option<Ack> {
        match self.tasks.recent.repeats(id, fingerprint, duplicate, Instant::now()) {
            None => return Some(ack),
            Some(Repeat::Unsent) => {
                debug!(task = %id, "a repeated start: the result is on its way");
                self.record(Step::Nothing, After::Ack(ack));
            }
            Some(Repeat::Sent(run, result)) => {
                info!(task = %id, "a repeated start: publishing the task's result again");
                let ack = Some(ack);
                self.record(Step::Nothing, After::Publish { run, id: id.clone(), result, ack });
            }
        }
        None
    }

    pub(super) fn malformed_start(
        &mut self,
        malformed: &Malformed,
        payload: &[u8],
        duplicate: bool,
        ack: Ack,
    ) {
        self.status.metrics.malformed();
        let Some(id) = malformed.id.clone() else {
            warn!("a start message was dropped: {malformed}");
            return self.link.ack(ack);
        };
        let rejection = Rejection::Argument(format!("malformed start message: {malformed}"));
        let fingerprint = Digest::of(payload);
        let Some(ack) = self.answer_repeat(&id, &fingerprint, duplicate, ack) else { return };
        let at = Some(SystemTime::now());
        self.refuse(Arrival { id, fingerprint, at, refused: true }, &rejection, ack);
    }

    /// Answers a start that does not become a task. While another one of the
    /// same id is queued or running, that one's result is the answer.
    fn refuse(&mut self, arrival: Arrival, rejection: &Rejection, ack: Ack) {
        warn!(task = %arrival.id, "task refused: {rejection}");
        if self.tasks.active.contains_key(&arrival.id) {
            return self.record(Step::Nothing, After::Ack(ack));
        }
        let result = TaskResult::refused(&arrival.id, &self.id, &rejection.to_string());
        let run = self.tasks.new_run();
        let arrival = Arrival { refused: true, ..arrival };
        self.finish(run, arrival, Some(Instant::now()), &result, Some(ack));
    }

    /// Has a result recorded, remembered and then published.
    fn finish(
        &mut self,
        run: Run,
        arrival: Arrival,
        at: Option<Instant>,
        result: &TaskResult,
        ack: Option<Ack>,
    ) {
        let id = arrival.id.clone();
        let result = Bytes::from(result.encode_within(self.result_limit));
        let entry = Entry { run, arrival: arrival.clone(), at, result: result.clone() };
        let before = self.tasks.recent.insert(entry);
        self.tasks.forget(before);
        let step = Step::Finished { run, arrival, result: result.clone() };
        self.record(step, After::Publish { run, id, result, ack });
    }

    pub(super) fn stop(&mut self, id: &TaskId, ack: Ack) {
        // A restart between the stop and its result must not run the task.
        let step = match self.tasks.active.get(id) {
            Some(active) => Step::Stopped(active.run),
            None => Step::Nothing,
        };
        self.record(step, After::Ack(ack));
        if self.executor.stop(id) {
            info!(task = %id, "stopping the task");
        } else {
            debug!(task = %id, "a stop for a task that is neither queued nor running");
        }
    }

    pub(super) fn on_ended(&mut self, Ended { id, outcome, spent }: Ended) {
        self.report_end(&id, spent);
        let took = outcome.timings;
        let Some(active) = self.tasks.active.remove(&id) else {
            return error!(task = %id, "internal error: a task ended that had not begun");
        };
        match &outcome.verdict {
            Ok(()) => info!(
                task = %id,
                queued = ?took.queued,
                compiled = ?took.compiled,
                loaded = ?took.loaded,
                ran = ?took.ran,
                "task completed"
            ),
            Err(Failure::ShuttingDown) if self.tasks.survive() => {
                return info!(task = %id, "cut short: the next process runs the task again");
            }
            Err(failure) => warn!(task = %id, ran = ?took.ran, "task failed: {failure}"),
        }
        self.status.metrics.ended(&outcome);
        let result = TaskResult::new(&id, &self.id, outcome);
        self.finish(active.run, active.arrival, active.at, &result, None);
    }

    /// The task does not end, and the worker does not wait for it any longer.
    pub(super) fn give_up(&mut self, id: TaskId) {
        error!(task = %id, "the task does not end: giving it up");
        let outcome = Outcome::failed(Failure::ShuttingDown);
        self.on_ended(Ended { id, outcome, spent: None });
    }

    fn publish(&mut self, run: Run, id: TaskId, result: Bytes) {
        let delivery = self.link.publish(&self.topics.results(), result.clone());
        let outgoing = self.status.metrics.outgoing();
        self.tasks.deliveries.spawn(async move {
            let _outgoing = outgoing;
            (run, id, result, delivery.await)
        });
    }

    /// The broker has a result, or will never have it.
    pub(super) fn on_delivery(
        &mut self,
        (run, id, result, delivered): (Run, TaskId, Bytes, Result<(), PublishError>),
    ) {
        match delivered {
            Ok(()) => {
                self.tasks.note(Step::Delivered(run));
                let forgotten = self.tasks.recent.delivered(&id, run);
                self.tasks.forget(forgotten);
            }
            // The task must not stay Running for want of a smaller answer.
            Err(e @ (PublishError::TooLarge { .. } | PublishError::Rejected { .. })) => {
                error!(task = %id, "{e}");
                let Some(short) = oversize::smaller(&result, &e) else { return };
                // The broker never had the one that this one replaces.
                let unknown = || {
                    (
                        Arrival {
                            id: id.clone(),
                            fingerprint: Digest::of(&result),
                            at: None,
                            refused: true,
                        },
                        None,
                    )
                };
                let (arrival, at) = self.tasks.recent.arrival(&id, run).unwrap_or_else(unknown);
                self.finish(run, arrival, at, &short, None);
            }
            Err(e) if self.tasks.survive() => {
                debug!(task = %id, "{e}: the next process publishes the result");
            }
            Err(e) => error!(task = %id, "the result was lost: {e}"),
        }
    }

    /// Takes over what the last process left.
    pub(super) fn recover(&mut self, recovered: Recovered) {
        let Recovered { waiting, finished, losses, .. } = recovered;
        let unsent = finished.iter().filter(|finished| !finished.delivered).count();
        if !waiting.is_empty() || unsent > 0 {
            info!(
                tasks = waiting.len(),
                results = unsent,
                "taking over what the last process left"
            );
        }
        for Finished { run, arrival, result, delivered } in finished {
            let at = arrival.at.and_then(instant);
            let entry = Entry { run, arrival: arrival.clone(), at, result: result.clone() };
            let before = self.tasks.recent.insert(entry);
            self.tasks.forget(before);
            if delivered {
                let forgotten = self.tasks.recent.delivered(&arrival.id, run);
                self.tasks.forget(forgotten);
            } else {
                self.publish(run, arrival.id, result);
            }
        }
        for loss in losses {
            error!("the journal is damaged: {loss}");
            if let Some(id) = loss.unanswered() {
                let result = TaskResult::refused(id, &self.id, &loss.to_string());
                let arrival = Arrival {
                    id: id.clone(),
                    fingerprint: Digest::of(&[]),
                    at: None,
                    refused: true,
                };
                let run = self.tasks.new_run();
                self.finish(run, arrival, None, &result, None);
            }
        }
        waiting.into_iter().for_each(|waiting| self.resume(waiting));
    }

    fn resume(&mut self, waiting: Waiting) {
        let Waiting { run, arrival, stopped, deaths, weight } = waiting;
        let id = arrival.id.clone();
        let at = arrival.at.and_then(instant);
        let refused = if stopped {
            Failure::Stopped.to_string()
        } else if deaths >= DEATHS {
            Failure::Fatal(deaths).to_string()
        } else {
            let task = Task::stored(run, id.clone(), weight);
            match self.executor.submit(task, Admission::Again) {
                Ok(()) => {
                    info!(task = %id, deaths, "running the task again");
                    self.tasks.active.insert(id, Active { run, arrival, at });
                    return;
                }
                Err(rejection) => rejection.to_string(),
            }
        };
        warn!(task = %id, "the task is not run again: {refused}");
        let result = TaskResult::refused(&id, &self.id, &refused);
        self.finish(run, arrival, at, &result, None);
    }
}

/// A time of the wall clock by the clock that never jumps; none if that was
/// before it began.
fn instant(at: SystemTime) -> Option<Instant> {
    // In the future: the clock was set back meanwhile.
    let age = SystemTime::now().duration_since(at).unwrap_or_default();
    Instant::now().checked_sub(age)
}
