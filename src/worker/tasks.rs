//! The hands of the [`ledger`](crate::ledger): what it decides is carried out
//! here, and what happens is told to it.

use super::admission::{AdmissionAnswer, AdmissionThread, Admitted};
use super::{Worker, oversize};
use crate::deploy::DeployEvent;
use crate::digest::Digest;
use crate::executor::{Submission, TaskEnd};
use crate::journal::{Arrival, Journal, Run, Step, fingerprint};
use crate::ledger::{
    After, Ledger, LedgerEffect, LedgerEvent, LedgerNotice, Now, Publication, Start,
};
use crate::manager::Departure;
use crate::mqtt::{Ack, PublishError};
use crate::protocol::Malformed;
use crate::queue::Admission;
use crate::task::{Failure, Life, Outcome, Rejection, Round, TaskId, TaskRequest, milliseconds};
use std::collections::VecDeque;
use tokio::task::JoinSet;
use tracing::{debug, error, info, warn};

/// A result, and whether the broker has it.
pub(super) type Delivered = (Departure, Result<(), PublishError>);

/// The ledger, and what its effects need.
pub(super) struct Tasks {
    ledger: Ledger<Ack>,
    /// What is still to be done; empty between two events.
    effects: VecDeque<LedgerEffect<Ack>>,
    journal: Option<Journal<After<Ack>>>,
    /// Records whose [`After`] has not come back.
    unsettled: usize,
    /// Whether a task may run while its record is on the way to the disk.
    early: bool,
    admission: AdmissionThread,
    pub(super) deliveries: JoinSet<Delivered>,
}

/// Records that may be on their way to the disk while a task starts beside them.
/// On a disk that fails, each is a result that is held in memory.
const EARLY: usize = 16;

impl Tasks {
    pub(super) fn new(
        ledger: Ledger<Ack>,
        journal: Option<Journal<After<Ack>>>,
        early: bool,
        admission: AdmissionThread,
    ) -> Tasks {
        let (effects, deliveries) = (VecDeque::new(), JoinSet::new());
        Tasks { ledger, effects, journal, unsettled: 0, early, admission, deliveries }
    }

    /// How a task that runs once is queued: it need not wait for its record to be
    /// on the disk. Its result does, because the journal writes in order; and the
    /// broker sends the message again if the process dies before. A task that could
    /// end this process has to wait, or it would never be charged with that.
    fn admission_of_a_run(&self) -> Admission {
        if self.early && self.unsettled <= EARLY { Admission::Early } else { Admission::Held }
    }

    /// Whether what is left undone is done by the next process.
    pub(super) fn survive(&self) -> bool {
        self.journal.is_some()
    }

    /// Whether every step so far is where it can't be lost.
    pub(super) fn settled(&self) -> bool {
        self.unsettled == 0
    }

    /// Whether a latent task of this id is being prepared.
    pub(super) fn prepares(&self, id: &TaskId) -> bool {
        self.ledger.prepares(id)
    }

    /// Has a deployed task read back.
    pub(super) fn load(&self, run: Run, id: TaskId) {
        self.admission.load(run, id);
    }

    /// The process has been asked to end: however it does, no running task is
    /// the cause.
    pub(super) fn exonerate(&self) {
        if let Some(journal) = &self.journal {
            journal.running().close();
        }
    }

    /// Nothing follows.
    pub(super) fn close(self) {
        if let Some(journal) = self.journal {
            journal.close();
        }
    }
}

impl Worker {
    /// Tells the ledger, and does what it says.
    pub(super) fn on(&mut self, event: LedgerEvent<Ack>) {
        let now = Now::read();
        self.tasks.ledger.on(event, now, &mut self.tasks.effects);
        while let Some(effect) = self.tasks.effects.pop_front() {
            if let Some(answer) = self.carry_out(effect) {
                self.tasks.ledger.on(answer, now, &mut self.tasks.effects);
            }
        }
        self.depart();
    }

    /// Has something written that nothing waits for.
    pub(super) fn note(&self, step: Step) {
        if let Some(journal) = &self.tasks.journal {
            journal.note(step);
        }
    }

    /// Carries an effect out; gives what happens at once because of it.
    fn carry_out(&mut self, effect: LedgerEffect<Ack>) -> Option<LedgerEvent<Ack>> {
        match effect {
            LedgerEffect::Record { step, then } => match &self.tasks.journal {
                Some(journal) => {
                    self.tasks.unsettled += 1;
                    journal.record(step, then);
                }
                None => return Some(LedgerEvent::Durable(then)),
            },
            // The manager may not have its result yet.
            LedgerEffect::Note(Step::Forgotten(run)) if self.manager.keeps(run) => {}
            LedgerEffect::Note(step) => self.note(step),
            LedgerEffect::Acknowledge(ack) => self.link.ack(ack),
            LedgerEffect::Admit { run, request } => self.tasks.admission.admit(run, request),
            LedgerEffect::Submit { run, request, spec } => {
                let id = request.id.clone();
                let verdict = match spec.life() {
                    Life::Daemon | Life::Server => self.submit_daemon(Submission::whole(run, spec)),
                    Life::Latent => {
                        self.executor.submit(Submission::whole(run, spec), Admission::Held)
                    }
                    Life::Once => {
                        // An update that was sent can't be taken back: the mark of its run
                        // is of use only once that is recorded.
                        let admission = match Round::of(&spec) {
                            Some(_) => Admission::Held,
                            None => self.tasks.admission_of_a_run(),
                        };
                        self.executor.submit(Submission::whole(run, spec), admission)
                    }
                };
                return Some(LedgerEvent::Submitted { run, id, request: Some(request), verdict });
            }
            LedgerEffect::Resubmit { run, id, weight, admission } => {
                let task = Submission::stored(run, id.clone(), weight);
                let verdict = self.executor.submit(task, admission);
                return Some(LedgerEvent::Submitted { run, id, request: None, verdict });
            }
            LedgerEffect::StartAgain { run, id, weight, wait, port } => {
                if let Some(port) = port {
                    self.servers.again(&id, port);
                }
                self.daemons.wait(&id, wait);
                let task = Submission::stored(run, id.clone(), weight);
                let verdict = self.daemons.pool.submit(task, Admission::Again);
                return Some(LedgerEvent::Submitted { run, id, request: None, verdict });
            }
            LedgerEffect::Serve { run, id } => {
                let verdict = self.submit_server(run, &id);
                return Some(LedgerEvent::Submitted { run, id, request: None, verdict });
            }
            // Each is with one of them.
            LedgerEffect::Release(id) => {
                self.executor.release(&id);
                self.daemons.pool.release(&id);
            }
            // One that has ended meanwhile is about to say so.
            LedgerEffect::Stop(id) if self.close_server(&id) => {}
            LedgerEffect::Stop(id) => {
                let _known = self.executor.stop(&id) || self.daemons.pool.stop(&id);
            }
            LedgerEffect::Publish(publication) => self.manager.publish(publication),
            LedgerEffect::Deploy { run, id, fingerprint } => {
                self.on_deploy(DeployEvent::Deployed { run, id, fingerprint });
            }
            LedgerEffect::NotDeployed(id) => self.on_deploy(DeployEvent::NotDeployed(id)),
            LedgerEffect::Superseded(id) => self.supersede(&id),
            LedgerEffect::Notice(notice) => {
                self.count(&notice);
                let flood = matches!(notice, LedgerNotice::Refused { .. });
                if !flood || self.quota.may_write("task refused") {
                    notice.log();
                }
            }
        }
        None
    }

    fn count(&mut self, notice: &LedgerNotice) {
        match notice {
            LedgerNotice::Accepted(_) => self.status.metrics.accepted(),
            LedgerNotice::Refused { id, rejection } => {
                self.status.metrics.refused(rejection);
                self.record.refused(id, rejection);
            }
            LedgerNotice::Withdrawn(id) => {
                let outcome = Outcome::failed(Failure::Stopped);
                self.status.metrics.ended(&outcome);
                self.record.ended(id, &outcome);
            }
            _ => {}
        }
    }

    /// A step is on the disk.
    pub(super) fn on_durable(&mut self, then: After<Ack>) {
        self.tasks.unsettled -= 1;
        self.on(LedgerEvent::Durable(then));
    }

    pub(super) fn start(&mut self, request: TaskRequest, duplicate: bool, ack: Ack) {
        let fingerprint = fingerprint(&request);
        let arrival = Arrival { id: request.id.clone(), fingerprint, state: request.state };
        if !self.tasks.ledger.is_active(&arrival.id) {
            if request.latent && self.is_deployed(&arrival) {
                return self.link.ack(ack);
            }
            if !request.latent {
                // The id is that of another kind of task now.
                self.on_deploy(DeployEvent::Stop(arrival.id.clone()));
            }
        }
        let receipt = ack.receipt();
        self.on(LedgerEvent::Start(Start {
            arrival,
            content: Ok(request),
            duplicate,
            receipt,
            ack,
        }));
    }

    pub(super) fn malformed_start(
        &mut self,
        malformed: Malformed,
        payload: &[u8],
        duplicate: bool,
        ack: Ack,
    ) {
        let Some(id) = malformed.id else {
            self.status.metrics.malformed();
            warn!("a start message was dropped: {}", malformed.reason);
            return self.link.ack(ack);
        };
        let arrival = Arrival { id, fingerprint: Digest::of(payload), state: None };
        let content = Err(Rejection::Malformed(malformed.reason));
        let receipt = ack.receipt();
        self.on(LedgerEvent::Start(Start { arrival, content, duplicate, receipt, ack }));
    }

    pub(super) fn on_answer(&mut self, answer: AdmissionAnswer) {
        match answer {
            AdmissionAnswer::Admitted(admitted) => self.on_admitted(admitted),
            AdmissionAnswer::Loaded(loaded) => self.on_loaded(loaded),
        }
    }

    fn on_admitted(&mut self, Admitted { run, id, verdict }: Admitted) {
        let verdict = verdict.and_then(|(request, spec)| {
            // One that was stopped meanwhile takes no place.
            if spec.life() == Life::Latent && self.tasks.prepares(&id) {
                self.reserve(&id, &spec)?;
            }
            Ok((request, spec))
        });
        self.on(LedgerEvent::Admitted { run, id, verdict });
    }

    pub(super) fn on_ended(&mut self, ended: TaskEnd) {
        if ended.id.invocation().is_some() {
            return self.on_invocation_ended(ended);
        }
        let Some(ended) = self.serve_if_server(ended) else { return };
        let Some(TaskEnd { id, outcome, spent }) = self.publish_update(ended) else { return };
        self.report_end(&id, spent);
        let took = outcome.timings;
        match &outcome.verdict {
            Ok(()) => info!(
                task = %id,
                queued_ms = milliseconds(took.queued),
                compiled_ms = milliseconds(took.compiled),
                loaded_ms = milliseconds(took.loaded),
                ran_ms = milliseconds(took.ran),
                inferences = took.inferences,
                inferred_ms = milliseconds(took.inferred),
                "task completed"
            ),
            Err(Failure::ShuttingDown) if self.tasks.survive() => {
                return self.on(LedgerEvent::CutShort(id));
            }
            Err(_) => {
                if self.quota.may_write("task failed") {
                    let error = outcome.error().unwrap_or_default();
                    warn!(task = %id, ran_ms = milliseconds(took.ran), "task failed: {error}");
                }
            }
        }
        self.status.metrics.ended(&outcome);
        self.record.ended(&id, &outcome);
        self.on(LedgerEvent::Ended { id, outcome });
    }

    /// The one way out for results.
    pub(super) fn publish(&mut self, departure: Departure) {
        let result = departure.publication.result.clone();
        let delivery = self.link.publish(&self.topics.results(), result);
        let outgoing = self.status.metrics.outgoing();
        self.tasks.deliveries.spawn(async move {
            let _outgoing = outgoing;
            (departure, delivery.await)
        });
    }

    /// The broker has a result, or will never have it.
    pub(super) fn on_delivery(&mut self, (departure, delivered): Delivered) {
        let publication = departure.publication.clone();
        if self.manager.delivered(departure, delivered.is_ok()) {
            self.confirm(&publication);
        }
        let Publication { run, id, result, replay, .. } = publication;
        match delivered {
            Ok(()) => self.on(LedgerEvent::Delivered { run, id }),
            Err(e @ (PublishError::TooLarge { .. } | PublishError::Rejected { .. })) => {
                error!(task = %id, "{e}");
                if replay {
                    // A shorter one would differ from what the broker has had.
                    return self.on(LedgerEvent::Delivered { run, id });
                }
                if let Some(instead) = oversize::smaller(&result, &e) {
                    self.on(LedgerEvent::Undeliverable { run, id, instead });
                }
            }
            Err(e) if self.tasks.survive() => {
                debug!(task = %id, "{e}: the next process publishes the result");
            }
            Err(e) => error!(task = %id, "the result was lost: {e}"),
        }
    }
}
