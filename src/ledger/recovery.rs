//! What the last process left.

use super::ended::Remembered;
use super::{Active, Effects, Ledger, LedgerEffect, LedgerNotice, Now, Publication, Stage};
use crate::journal::{Arrival, Finished, Loss, Recovered, Step, Waiting};
use crate::protocol::TaskResult;
use crate::queue::Admission;
use crate::task::{Failure, TaskId};

/// Deaths of the process with a task that ran alone, after which it is not run
/// again.
const DEATHS: u32 = 3;

impl<A> Ledger<A> {
    /// Takes over what the last process left.
    pub(super) fn recovered(&mut self, recovered: Recovered, now: Now, effects: &mut Effects<A>) {
        let Recovered { waiting, finished, losses, next, .. } = recovered;
        self.next = next;
        let unsent = finished.iter().filter(|finished| !finished.delivered).count();
        if !waiting.is_empty() || unsent > 0 {
            let (tasks, results) = (waiting.len(), unsent);
            effects.push_back(LedgerEffect::Notice(LedgerNotice::TakingOver { tasks, results }));
        }
        for finished in finished {
            self.take_over(finished, now, effects);
        }
        for loss in losses {
            self.lost(loss, now, effects);
        }
        for waiting in waiting {
            self.resume(waiting, now, effects);
        }
    }

    fn take_over(&mut self, finished: Finished, now: Now, effects: &mut Effects<A>) {
        let Finished { run, arrival, ending, result, .. } = &finished;
        let (run, id, result) = (*run, arrival.id.clone(), result.clone());
        let ended = Remembered {
            run,
            fingerprint: arrival.fingerprint,
            state: arrival.state,
            ended: ending.at.and_then(|at| now.instant_of(at)),
            stopped: finished.stopped,
            acknowledged: finished.acknowledged,
            replayed: finished.replayed,
            ..Remembered::new(ending.success, result.clone(), now.instant)
        };
        let before = self.ended.insert(id.clone(), ended);
        effects.extend(before.map(|before| LedgerEffect::Note(Step::Forgotten(before))));
        if finished.delivered {
            for forgotten in self.ended.delivered(&id, run) {
                effects.push_back(LedgerEffect::Note(Step::Forgotten(forgotten)));
            }
        } else {
            let publication = Publication { run, id, result, arrived: None, replay: false };
            effects.push_back(LedgerEffect::Publish(publication));
        }
    }

    fn lost(&mut self, loss: Loss, now: Now, effects: &mut Effects<A>) {
        if let Some(id) = loss.unanswered() {
            let result = TaskResult::refused(id, &self.proplet_id, &loss.to_string());
            let (run, result) = (self.new_run(), self.encode(&result));
            let ended = Remembered { run, ..Remembered::new(false, result, now.instant) };
            self.finish(id.clone(), ended, None, None, now, effects);
        }
        effects.push_back(LedgerEffect::Notice(LedgerNotice::Lost(loss)));
    }

    /// Runs a task again that an earlier process has accepted.
    fn resume(&mut self, waiting: Waiting, now: Now, effects: &mut Effects<A>) {
        let Waiting { run, arrival, life, port, stopped, acknowledged, suspect, deaths, weight } =
            waiting;
        let Arrival { id, fingerprint, state } = arrival;
        if self.active.contains_key(&id) {
            // Two runs of one task never wait at the same time.
            return effects.push_back(LedgerEffect::Note(Step::Forgotten(run)));
        }
        let stage = Stage::Accepted;
        let arrived = None;
        let active = Active {
            run,
            fingerprint,
            state,
            arrived,
            acknowledged,
            life,
            starts: deaths,
            stopped,
            stage,
        };
        self.active.insert(id.clone(), active);
        if life.goes_on() {
            if let Some(wait) = self.start_again(&id, port, now, effects) {
                effects.push_back(LedgerEffect::StartAgain { run, id, weight, wait, port });
            }
            return;
        }
        if stopped {
            return self.not_run_again(&id, Failure::Stopped.to_string(), now, effects);
        }
        if deaths >= DEATHS {
            return self.not_run_again(&id, Failure::Fatal(deaths).to_string(), now, effects);
        }
        let admission = if suspect {
            // The others may be thousands, and are counted only.
            effects.push_back(LedgerEffect::Notice(LedgerNotice::RunningAgain {
                id: id.clone(),
                deaths,
            }));
            Admission::Alone
        } else {
            Admission::Again
        };
        effects.push_back(LedgerEffect::Resubmit { run, id, weight, admission });
    }

    pub(super) fn not_run_again(
        &mut self,
        id: &TaskId,
        why: String,
        now: Now,
        effects: &mut Effects<A>,
    ) {
        self.fail(id, &why, now, effects);
        effects.push_back(LedgerEffect::Notice(LedgerNotice::NotRunAgain { id: id.clone(), why }));
    }
}
