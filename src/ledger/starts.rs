//! From a start message to an accepted task.

use super::repeats::Repeat;
use super::unacknowledged::Role;
use super::{
    Active, After, Effects, Ledger, LedgerEffect, LedgerNotice, Now, Publication, Stage, Start,
    record,
};
use crate::journal::{Arrival, Run, Step};
use crate::mqtt::Receipt;
use crate::protocol::TaskResult;
use crate::task::{Life, Rejection, TaskId, TaskRequest, TaskSpec};

/// Tasks that may wait for their admission. The broker sends fewer ahead of
/// their acknowledgements, but for a sender with QoS 0.
const ADMITTING: usize = 1024;

impl<A> Ledger<A> {
    pub(super) fn start(&mut self, start: Start<A>, now: Now, effects: &mut Effects<A>) {
        let Start { arrival, content, duplicate, receipt, ack } = start;
        let id = arrival.id.clone();
        if self.journaled && self.draining {
            // Unacknowledged, it stays with the broker for the next process.
            return effects.push_back(LedgerEffect::Notice(LedgerNotice::LeftToNext(id)));
        }
        if let Some(active) = self.active.get_mut(&id) {
            let same = active.fingerprint == arrival.fingerprint;
            if same && duplicate && active.state == arrival.state && !active.acknowledged {
                // The message that it was started by, once more.
                self.receipts.expect(receipt, &id, active.run, Role::Start);
            }
            effects.push_back(LedgerEffect::Notice(LedgerNotice::Underway { id, same }));
            // Not before the start itself is safe.
            if let Stage::Admitting { more, .. } = &mut active.stage
                && receipt.is_some()
            {
                return more.push(ack);
            }
            return record(effects, Step::Nothing, After::Acknowledge(ack));
        }
        if let Some((run, repeat)) = self.ended.repeats(&arrival, duplicate, now.instant) {
            return self.repeat(run, repeat, &arrival, receipt, ack, now, effects);
        }
        effects.push_back(LedgerEffect::Superseded(id.clone()));
        let run = self.new_run();
        self.receipts.expect(receipt, &id, run, Role::Start);
        let active = Active {
            run,
            fingerprint: arrival.fingerprint,
            state: arrival.state,
            arrived: Some(now.instant),
            acknowledged: receipt.is_none(),
            life: content.as_ref().map_or(Life::Once, TaskRequest::life),
            starts: 0,
            stopped: false,
            stage: Stage::Admitting { ack, more: Vec::new() },
        };
        self.active.insert(id.clone(), active);
        self.admitting += 1;
        let admitting = self.admitting;
        let content = content.and_then(|request| match () {
            () if self.draining => Err(Rejection::ShuttingDown),
            () if admitting > ADMITTING => Err(Rejection::Admission { waiting: admitting - 1 }),
            () => Ok(request),
        });
        match content {
            Ok(request) => {
                effects.push_back(LedgerEffect::Admit { run, request });
            }
            Err(rejection) => self.refuse(&id, rejection, now, effects),
        }
    }

    /// Answers a start with the result of a run that has ended.
    #[allow(clippy::too_many_arguments, reason = "each is another part of one message")]
    fn repeat(
        &mut self,
        run: Run,
        repeat: Repeat,
        arrival: &Arrival,
        receipt: Option<Receipt>,
        ack: A,
        now: Now,
        effects: &mut Effects<A>,
    ) {
        let id = &arrival.id;
        let role = match repeat {
            Repeat::SameMessage => Role::Start,
            Repeat::Answer => Role::Answer,
        };
        self.receipts.expect(receipt, id, run, role);
        let Some(result) = self.ended.answer(arrival, repeat, receipt) else {
            effects.push_back(LedgerEffect::Notice(LedgerNotice::OnItsWay(id.clone())));
            return record(effects, Step::Nothing, After::Acknowledge(ack));
        };
        effects.push_back(LedgerEffect::Notice(LedgerNotice::Replayed { id: id.clone(), run }));
        effects.push_back(LedgerEffect::Superseded(id.clone()));
        let publication = Publication {
            run,
            id: id.clone(),
            result: TaskResult::replayed(&result).into(),
            arrived: Some(now.instant),
            replay: true,
        };
        // Once the message is acknowledged nobody else knows that it is owed.
        let step = Step::Undelivered(run);
        record(effects, step, After::Publish { publication, ack: Some(ack) });
    }

    pub(super) fn admitted(
        &mut self,
        run: Run,
        id: &TaskId,
        verdict: Result<(TaskRequest, TaskSpec), Rejection>,
        now: Now,
        effects: &mut Effects<A>,
    ) {
        let active = self.active.get(id).filter(|active| active.run == run);
        if !active.is_some_and(|active| matches!(active.stage, Stage::Admitting { .. })) {
            // It has been stopped, or left to the next process.
            return;
        }
        match verdict {
            Err(rejection) => self.refuse(id, rejection, now, effects),
            Ok((request, spec)) => effects.push_back(LedgerEffect::Submit { run, request, spec }),
        }
    }

    pub(super) fn submitted(
        &mut self,
        run: Run,
        id: &TaskId,
        request: Option<TaskRequest>,
        verdict: Result<(), Rejection>,
        now: Now,
        effects: &mut Effects<A>,
    ) {
        if let Err(rejection) = verdict {
            return match request {
                Some(_) => self.refuse(id, rejection, now, effects),
                None => self.not_run_again(id, rejection.to_string(), now, effects),
            };
        }
        let Some(active) = self.active.get_mut(id).filter(|active| active.run == run) else {
            return;
        };
        let stage = std::mem::replace(&mut active.stage, Stage::Accepted);
        if let (Some(request), Stage::Admitting { ack, more }) = (request, stage) {
            self.admitting -= 1;
            let (fingerprint, state) = (active.fingerprint, active.state);
            let arrival = Arrival { id: id.clone(), fingerprint, state };
            let step = Step::Accepted { run, arrival, request };
            record(effects, step, After::Release { run, id: id.clone(), ack });
            for ack in more {
                record(effects, Step::Nothing, After::Acknowledge(ack));
            }
        }
    }

    /// Answers a start that does not become a task.
    pub(super) fn refuse(
        &mut self,
        id: &TaskId,
        rejection: Rejection,
        now: Now,
        effects: &mut Effects<A>,
    ) {
        self.fail(id, &rejection.to_string(), now, effects);
        effects
            .push_back(LedgerEffect::Notice(LedgerNotice::Refused { id: id.clone(), rejection }));
    }
}
