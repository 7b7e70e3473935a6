//! From the end of a task to its result.

use super::ended::Remembered;
use super::{After, Effects, Ledger, LedgerEffect, LedgerNotice, Now, Publication, Stage, record};
use crate::digest::Digest;
use crate::journal::{Arrival, Ending, Run, Step};
use crate::protocol::TaskResult;
use crate::task::{Failure, Life, Outcome, TaskId};
use bytes::Bytes;
use std::time::Instant;

impl<A> Ledger<A> {
    /// Ends a task that has not run.
    pub(super) fn fail(&mut self, id: &TaskId, reason: &str, now: Now, effects: &mut Effects<A>) {
        let Some(active) = self.active.remove(id) else { return };
        if active.life == Life::Latent {
            effects.push_back(LedgerEffect::NotDeployed(id.clone()));
        }
        let (ack, more) = match active.stage {
            Stage::Admitting { ack, more } => {
                self.admitting -= 1;
                (Some(ack), more)
            }
            Stage::Accepted => (None, Vec::new()),
        };
        let result = self.encode(&TaskResult::refused(id, &self.proplet_id, reason));
        let ended = Remembered {
            run: active.run,
            fingerprint: active.fingerprint,
            state: active.state,
            acknowledged: active.acknowledged,
            ..Remembered::new(false, result, now.instant)
        };
        self.finish(id.clone(), ended, active.arrived, ack, now, effects);
        for ack in more {
            record(effects, Step::Nothing, After::Acknowledge(ack));
        }
    }

    pub(super) fn encode(&self, result: &TaskResult) -> Bytes {
        // It may be published again, with a mark.
        let limit = self.result_limit.saturating_sub(TaskResult::REPLAYED.len());
        result.encode_within(limit).into()
    }

    /// Has a result recorded, remembered and then published.
    pub(super) fn finish(
        &mut self,
        id: TaskId,
        ended: Remembered,
        arrived: Option<Instant>,
        ack: Option<A>,
        now: Now,
        effects: &mut Effects<A>,
    ) {
        let Remembered { run, fingerprint, state, success, .. } = ended;
        let result = ended.result.clone();
        if let Some(before) = self.ended.insert(id.clone(), ended) {
            effects.push_back(LedgerEffect::Note(Step::Forgotten(before)));
        }
        let arrival = Arrival { id: id.clone(), fingerprint, state };
        let ending = Ending { at: Some(now.wall), success };
        let step = Step::Finished { run, arrival, ending, result: result.clone() };
        let publication = Publication { run, id, result, arrived, replay: false };
        record(effects, step, After::Publish { publication, ack });
    }

    pub(super) fn task_ended(
        &mut self,
        id: TaskId,
        outcome: Outcome,
        now: Now,
        effects: &mut Effects<A>,
    ) {
        let Some(active) = self.active.remove(&id) else {
            return effects.push_back(LedgerEffect::Notice(LedgerNotice::NeverBegun(id)));
        };
        if active.life.goes_on() && active.stopped {
            effects.push_back(LedgerEffect::Note(Step::Forgotten(active.run)));
            return effects.push_back(LedgerEffect::Notice(LedgerNotice::DaemonStopped(id)));
        }
        let latent = active.life == Life::Latent;
        let too_late = latent && active.stopped && outcome.verdict.is_ok();
        let outcome = if too_late { Outcome::failed(Failure::Stopped) } else { outcome };
        let success = outcome.verdict.is_ok();
        if latent && success {
            let (run, fingerprint) = (active.run, active.fingerprint);
            effects.push_back(LedgerEffect::Note(Step::Deployed(run)));
            return effects.push_back(LedgerEffect::Deploy { run, id, fingerprint });
        }
        if latent {
            effects.push_back(LedgerEffect::NotDeployed(id.clone()));
        }
        let result = self.encode(&TaskResult::new(&id, &self.proplet_id, outcome));
        let ended = Remembered {
            run: active.run,
            fingerprint: active.fingerprint,
            state: active.state,
            acknowledged: active.acknowledged,
            ..Remembered::new(success, result, now.instant)
        };
        self.finish(id, ended, active.arrived, None, now, effects);
    }

    /// A task must not stay Running for want of a smaller answer.
    pub(super) fn undeliverable(
        &mut self,
        run: Run,
        id: TaskId,
        instead: &TaskResult,
        now: Now,
        effects: &mut Effects<A>,
    ) {
        let (success, result) = (instead.error.is_none(), self.encode(instead));
        // The broker never had the one that this one replaces.
        if let Some(ended) = self.ended.replace(&id, run, success, result.clone()) {
            return self.finish(id, ended, None, None, now, effects);
        }
        // The task has been run again meanwhile.
        let arrival = Arrival { id: id.clone(), fingerprint: Digest::of(&result), state: None };
        let ending = Ending { at: Some(now.wall), success };
        let step = Step::Finished { run, arrival, ending, result: result.clone() };
        let publication = Publication { run, id, result, arrived: None, replay: false };
        record(effects, step, After::Publish { publication, ack: None });
    }
}
