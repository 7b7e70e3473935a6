//! What is known of each task id, and what follows from what happens: a state
//! machine without I/O, locks or clocks. [`Ledger::on`] takes a [`LedgerEvent`] and
//! gives [`LedgerEffect`]s, which the worker carries out in their order.
//!
//! ```text
//!            start, for a new run            Admitted             Submitted
//!  (unknown) ────────────────────▶ admitting ────────▶ submitting ─────────▶ accepted
//!      ▲                             │                    │                   │    │
//!      │                             │ refused, stop      │ queue full   Ended│    │CutShort
//!      │                             ▼                    ▼                   ▼    ▼
//!      │                           ended ◀────────────────┴───────────────────┘ (next process)
//!      │                             │ Delivered
//!      └──── too many, too large ─── remembered
//! ```
//!
//! - *admitting*: what the task may have is looked up beside the event loop. It
//!   is not recorded yet, and its message not acknowledged.
//! - *accepted*: queued or running. Once its record is on the disk the message
//!   is acknowledged and the task may run.
//! - *ended*: it has a result, which is published once it is on the disk.
//!   A latent task that was prepared has none: it is handed over to
//!   [`deploy`](crate::deploy), and known here no more.
//!   A daemon has one as soon as it is accepted, as of a run of its own, and a
//!   second one if it ends by itself; so has an HTTP server once it listens.
//! - *remembered*: the broker has the result; some later starts get it again,
//!   see [`repeats`].
//!
//! An id has at most one run that has not ended, and at most one that has: a
//! start of an id that has ended may be a new run, and the older result is then
//! forgotten as soon as it has been delivered.
//!
//! Without a journal each [`LedgerEffect::Record`] is answered by [`LedgerEvent::Durable`]
//! at once, and the machine is the same, but for the end: what has not ended
//! then is answered instead of left to the next process.

mod daemons;
mod ended;
mod ends;
mod events;
mod history;
mod notice;
mod recovery;
pub mod repeats;
mod starts;
mod unacknowledged;

#[cfg(test)]
mod tests;

pub use events::{After, LedgerEffect, LedgerEvent, Now, Publication, Start};
pub use notice::LedgerNotice;

use crate::journal::{Fingerprint, Run, Step};
use crate::mqtt::Receipt;
use crate::task::{Failure, Life, ManagerState, Rejection, TaskId};
use ended::EndedTasks;
use std::collections::{HashMap, VecDeque};
use std::time::Instant;
use unacknowledged::{Receipts, Role};

/// A run that has not ended.
#[derive(Debug)]
struct Active<A> {
    run: Run,
    /// All of its arrival but the id.
    fingerprint: Fingerprint,
    state: Option<ManagerState>,
    arrived: Option<Instant>,
    acknowledged: bool,
    /// The success of a latent task is a deployment.
    life: Life,
    /// A daemon was started so often in a row without having lasted.
    starts: u32,
    /// A stop came: a latent task is not deployed any more, and the end of a
    /// daemon needs no word.
    stopped: bool,
    stage: Stage<A>,
}

#[derive(Debug)]
enum Stage<A> {
    /// Neither recorded nor acknowledged.
    Admitting {
        ack: A,
        /// Of later starts of this id, which are not forgotten before it is safe.
        more: Vec<A>,
    },
    /// Queued or running.
    Accepted,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Ledger<A> {
    proplet_id: String,
    result_limit: usize,
    /// Whether what is left undone is done by the next process.
    journaled: bool,
    draining: bool,
    next: Run,
    active: HashMap<TaskId, Active<A>>,
    /// How many of them wait for their admission, unacknowledged.
    admitting: usize,
    ended: EndedTasks,
    receipts: Receipts,
}

type Effects<A> = VecDeque<LedgerEffect<A>>;

impl<A> Ledger<A> {
    /// Of a worker with this id, whose results have at most `result_limit`
    /// bytes. `journaled`: there is a journal.
    pub fn new(proplet_id: &str, result_limit: usize, journaled: bool) -> Ledger<A> {
        Ledger {
            proplet_id: proplet_id.to_owned(),
            result_limit,
            journaled,
            draining: false,
            next: Run(0),
            active: HashMap::new(),
            admitting: 0,
            ended: EndedTasks::default(),
            receipts: Receipts::default(),
        }
    }

    /// Something has happened; what is to be done is appended to `effects`.
    pub fn on(&mut self, event: LedgerEvent<A>, now: Now, effects: &mut Effects<A>) {
        match event {
            LedgerEvent::Recovered(recovered) => self.recovered(recovered, now, effects),
            LedgerEvent::Start(start) => self.start(start, now, effects),
            LedgerEvent::Stop { id, ack } => self.stop(&id, ack, now, effects),
            LedgerEvent::Admitted { run, id, verdict } => {
                self.admitted(run, &id, verdict, now, effects);
            }
            LedgerEvent::Submitted { run, id, request, verdict } => {
                self.submitted(run, &id, request, verdict, now, effects);
            }
            LedgerEvent::Durable(then) => self.durable(then, now, effects),
            LedgerEvent::Ended { id, outcome } => self.task_ended(id, outcome, now, effects),
            LedgerEvent::Serves { id, port } => self.serves(id, port, now, effects),
            LedgerEvent::CutShort(id) => {
                if let Some(active) = self.active.remove(&id)
                    && active.life.goes_on()
                {
                    // It is not its doing.
                    effects.push_back(LedgerEffect::Note(Step::Died { run: active.run, times: 0 }));
                }
                effects.push_back(LedgerEffect::Notice(LedgerNotice::CutShort(id)));
            }
            LedgerEvent::Lasted(id) => self.lasted(&id, effects),
            LedgerEvent::Delivered { run, id } => {
                effects.push_back(LedgerEffect::Note(Step::Delivered(run)));
                for forgotten in self.ended.delivered(&id, run) {
                    effects.push_back(LedgerEffect::Note(Step::Forgotten(forgotten)));
                }
            }
            LedgerEvent::Undeliverable { run, id, instead } => {
                self.undeliverable(run, id, &instead, now, effects);
            }
            LedgerEvent::Acknowledged(receipt) => self.acknowledged(receipt, effects),
            LedgerEvent::Draining => self.drain(now, effects),
        }
    }

    /// Whether a latent task of this id is being prepared.
    pub fn prepares(&self, id: &TaskId) -> bool {
        self.active.get(id).is_some_and(|active| active.life == Life::Latent)
    }

    /// Whether a task of this id is queued or running.
    pub fn is_active(&self, id: &TaskId) -> bool {
        self.active.contains_key(id)
    }

    fn new_run(&mut self) -> Run {
        let run = self.next;
        self.next = Run(run.0 + 1);
        run
    }

    fn stop(&mut self, id: &TaskId, ack: A, now: Now, effects: &mut Effects<A>) {
        let Some(active) = self.active.get_mut(id) else {
            effects.push_back(LedgerEffect::Notice(LedgerNotice::NothingToStop(id.clone())));
            effects.push_back(LedgerEffect::Superseded(id.clone()));
            // Later starts must not get the result, in the next process either.
            let step = self.ended.stop(id).map_or(Step::Nothing, Step::Stopped);
            return record(effects, step, After::Acknowledge(ack));
        };
        active.stopped = true;
        let (run, admitting) = (active.run, matches!(active.stage, Stage::Admitting { .. }));
        if admitting {
            self.fail(id, &Failure::Stopped.to_string(), now, effects);
            effects.push_back(LedgerEffect::Notice(LedgerNotice::Withdrawn(id.clone())));
            record(effects, Step::Nothing, After::Acknowledge(ack));
        } else {
            // A restart between the stop and its result must not run the task.
            record(effects, Step::Stopped(run), After::Acknowledge(ack));
            effects.push_back(LedgerEffect::Stop(id.clone()));
            effects.push_back(LedgerEffect::Notice(LedgerNotice::Stopping(id.clone())));
        }
    }

    fn durable(&mut self, then: After<A>, now: Now, effects: &mut Effects<A>) {
        match then {
            After::Acknowledge(ack) => effects.push_back(LedgerEffect::Acknowledge(ack)),
            After::Release { run, id, ack } => {
                effects.push_back(LedgerEffect::Acknowledge(ack));
                // It may have ended meanwhile, and another run of this id may be waiting
                // for its own record.
                let active = self.active.get(&id).map(|active| active.run);
                if active.is_none_or(|active| active == run) {
                    effects.push_back(LedgerEffect::Notice(LedgerNotice::Accepted(id.clone())));
                }
                if active == Some(run) {
                    effects.push_back(LedgerEffect::Release(id.clone()));
                    if self.is_daemon(&id) {
                        self.say_that_it_runs(&id, None, now, effects);
                    }
                }
            }
            After::Publish { publication, ack } => {
                effects.extend(ack.map(LedgerEffect::Acknowledge));
                effects.push_back(LedgerEffect::Publish(publication));
            }
        }
    }

    fn acknowledged(&mut self, receipt: Receipt, effects: &mut Effects<A>) {
        while let Some((receipt, id, run, role)) = self.receipts.known(receipt) {
            let active = self.active.get_mut(&id).filter(|active| active.run == run);
            let step = match (role, active) {
                (Role::Start, Some(active)) => {
                    active.acknowledged = true;
                    Some(Step::Acknowledged(run))
                }
                (Role::Start, None) => self.ended.acknowledged(&id, run),
                (Role::Answer, _) => self.ended.answer_acknowledged(&id, run, receipt),
            };
            effects.extend(step.map(LedgerEffect::Note));
        }
    }

    fn drain(&mut self, now: Now, effects: &mut Effects<A>) {
        self.draining = true;
        let admitting = |active: &Active<A>| matches!(active.stage, Stage::Admitting { .. });
        let mut left: Vec<(Run, TaskId)> = self
            .active
            .iter()
            .filter(|(_, active)| admitting(active))
            .map(|(id, active)| (active.run, id.clone()))
            .collect();
        left.sort_unstable();
        for (_, id) in left {
            if self.journaled {
                // Either the broker still has its message or the journal has it.
                self.active.remove(&id);
                effects.push_back(LedgerEffect::Notice(LedgerNotice::LeftToNext(id)));
            } else {
                self.refuse(&id, Rejection::ShuttingDown, now, effects);
            }
        }
        self.admitting = 0;
    }
}

fn record<A>(effects: &mut Effects<A>, step: Step, then: After<A>) {
    effects.push_back(LedgerEffect::Record { step, then });
}
