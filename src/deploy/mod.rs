//! Latent tasks that are deployed, and their invocations: a state machine
//! without I/O, locks or clocks. [`Deployments::on`] takes a [`DeployEvent`] and
//! gives [`DeployEffect`]s, which the worker carries out in their order.
//!
//! ```text
//! a task:         (unknown) ── reserve ──▶ preparing ── Deployed ──▶ deployed
//!                     ▲                        │ NotDeployed            │ Stop, or another one
//!                     └────────────────────────┴────────────────────────┘
//! an invocation:  Invoke ──▶ waiting ── Loaded ──▶ submitted ── Ended ──▶ answered
//!                               │                      │
//!                               └── Stop, Due, … ──────┴──▶ answered, and ended if it runs
//! ```
//!
//! A latent start is a run like any other to the [`ledger`](crate::ledger),
//! with its place in the queue and its suspicion after a crash; what it runs
//! prepares the task, and its success is the deployment. Until then the one
//! before it takes the invocations, so a replacement leaves no gap.
//!
//! - *deployed*: the record of its start is kept in the journal. What an
//!   invocation needs of it is read back when the first one comes, and stays in
//!   memory as long as there is room.
//! - *waiting*: the task is being prepared or read back.
//!
//! When the runtime has another process, what was prepared or invoked in the one
//! before is prepared there: one task after the other, the one used last first,
//! beside what runs. One with which a process was lost is left out until it is
//! invoked again.
//!
//! An invocation that was taken has one answer, whatever happens: its outcome,
//! or an error when its time is over, its task is stopped or the worker ends.
//! One whose `invocation_id` was taken before, by the last process too, is
//! passed over: its answer is there or on its way, or the manager has given up
//! on it. One that was refused (`has not been precompiled`, `busy`) was not
//! taken, and may come again.

mod answers;
mod deployments;
mod events;
mod invocation_keys;
mod notice;

#[cfg(test)]
mod tests;

pub use events::{DeployEffect, DeployEvent, LoadError};
pub use notice::DeployNotice;

use crate::journal::{Fingerprint, InvocationKey, Run, Step};
use crate::protocol::Invoke;
use crate::task::{Failure, Rejection, TaskId, TaskSpec, Weight};
use deployments::{Again, DeploymentStore};
use invocation_keys::SeenInvocations;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

/// How much there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeployBounds {
    /// Tasks that are deployed or being prepared.
    pub deployments: usize,
    /// Bytes that those take up, code that several share counted once.
    pub bytes: usize,
    /// Bytes of them that stay in memory between invocations; none if they
    /// can't be read back.
    pub memory: Option<usize>,
    /// Invocations that wait until their task is there.
    pub waiting: usize,
    /// Bytes of those.
    pub waiting_bytes: usize,
    /// The time from an invocation to its answer, whatever happens.
    pub answer_within: Duration,
    /// Bytes of an answer.
    pub answer_size: usize,
}

/// An invocation that has no answer yet.
#[derive(Debug)]
struct Invocation {
    invocation_id: String,
    task: TaskId,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// Until its task is there: what is asked for, and its bytes.
    Waiting(Box<Invoke>, usize),
    /// Queued or running.
    Submitted,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Deployments {
    proplet_id: String,
    bounds: DeployBounds,
    held: DeploymentStore,
    invocations: BTreeMap<NonZeroU64, Invocation>,
    /// Of each task those that wait, in the order of arrival.
    waiting: HashMap<TaskId, Vec<NonZeroU64>>,
    /// How many of them, and their bytes.
    waits: (usize, usize),
    /// When each must have its answer: the same time after it came.
    deadlines: VecDeque<(Instant, NonZeroU64)>,
    seen: SeenInvocations,
    next: NonZeroU64,
    preparing: Preparing,
    draining: bool,
}

/// What is to be prepared again in the runtime's new process.
#[derive(Debug, Default)]
struct Preparing {
    next: VecDeque<TaskId>,
    /// What is read back for that, or being prepared.
    now: Option<TaskId>,
    /// Of the last one.
    number: u64,
}

/// As many as there is compiled code in the runtime's memory: those in front would go
/// again.
const MOST_PREPARED: usize = 1024;

type Effects = VecDeque<DeployEffect>;

impl Deployments {
    /// Of a worker with this id.
    pub fn new(proplet_id: &str, bounds: DeployBounds) -> Deployments {
        Deployments {
            proplet_id: proplet_id.to_owned(),
            bounds,
            held: DeploymentStore::new(bounds),
            invocations: BTreeMap::new(),
            waiting: HashMap::new(),
            waits: (0, 0),
            deadlines: VecDeque::new(),
            seen: SeenInvocations::default(),
            next: NonZeroU64::MIN,
            preparing: Preparing::default(),
            draining: false,
        }
    }

    /// Takes a place for a task that is about to be prepared. `spec`: what was
    /// granted to it, if it can't be read back.
    ///
    /// # Errors
    ///
    /// There is none.
    pub fn reserve(
        &mut self,
        id: &TaskId,
        weight: Weight,
        spec: Option<TaskSpec>,
    ) -> Result<(), Rejection> {
        self.held.reserve(id, weight, spec)
    }

    /// Whether a task with this content is deployed.
    pub fn has(&self, id: &TaskId, fingerprint: &Fingerprint) -> bool {
        self.held.get(id).is_some_and(|deployment| deployment.fingerprint == *fingerprint)
    }

    /// How many tasks are deployed.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// The tasks that are deployed, at most so many, and whether each is in
    /// memory; in no order.
    pub fn listed(&self, most: usize) -> Vec<(TaskId, bool)> {
        self.held.listed(most)
    }

    /// Invocations that have no answer yet.
    pub fn invocations(&self) -> usize {
        self.invocations.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// When [`DeployEvent::Due`] is due.
    pub fn due(&self) -> Option<Instant> {
        self.deadlines.front().map(|(at, _)| *at)
    }

    /// Something has happened; what is to be done is appended to `effects`.
    pub fn on(&mut self, event: DeployEvent, now: Instant, effects: &mut Effects) {
        match event {
            DeployEvent::Recovered { deployed, preparing, invoked } => {
                self.seen.extend(invoked);
                for forgotten in self.held.recovered(deployed, preparing) {
                    effects.push_back(DeployEffect::Note(Step::Forgotten(forgotten)));
                }
                if !self.is_empty() {
                    effects.push_back(DeployEffect::Notice(DeployNotice::TakingOver(self.len())));
                }
            }
            DeployEvent::Deployed { run, id, fingerprint } => {
                self.deployed(run, id, fingerprint, effects);
            }
            DeployEvent::NotDeployed(id) => self.not_deployed(&id, effects),
            DeployEvent::Stop(id) => self.stop(&id, effects),
            DeployEvent::Invoke { invoke, preparing } => {
                self.invoke(invoke, preparing, now, effects)
            }
            DeployEvent::Loaded { run, id, verdict } => self.loaded(run, &id, verdict, effects),
            DeployEvent::Submitted { number, verdict: Err(rejection) } => {
                // It was taken, and is answered; the sender may ask again.
                if let Some(invocation) = self.remove(number) {
                    self.seen.forget(InvocationKey::of(&invocation.invocation_id));
                    self.refuse(&invocation, &rejection.to_string(), effects);
                }
            }
            DeployEvent::Submitted { verdict: Ok(()), .. } => {}
            DeployEvent::Ended { number, outcome } => {
                // Or it had its answer already.
                if let Some(invocation) = self.remove(number) {
                    self.answer(&invocation, outcome, effects);
                }
            }
            DeployEvent::Renewed => {
                self.preparing.next = self.held.warm(MOST_PREPARED);
                self.prepare_next(effects);
            }
            DeployEvent::Prepared { number, id, ended } => {
                if !ended {
                    self.held.cool(&id);
                    self.preparing.next.retain(|next| *next != id);
                }
                if number == self.preparing.number && self.preparing.now.as_ref() == Some(&id) {
                    self.prepare_next(effects);
                }
            }
            DeployEvent::Due => self.time_is_over(now, effects),
            DeployEvent::Draining => self.drain(effects),
        }
    }

    fn deployed(&mut self, run: Run, id: TaskId, fingerprint: Fingerprint, effects: &mut Effects) {
        if let Some(before) = self.held.deploy(run, &id, fingerprint) {
            effects.push_back(DeployEffect::Note(Step::Forgotten(before)));
            effects.push_back(DeployEffect::Notice(DeployNotice::Replaced(id.clone())));
        } else {
            effects.push_back(DeployEffect::Notice(DeployNotice::Deployed(id.clone())));
        }
        self.serve(&id, effects);
    }

    fn not_deployed(&mut self, id: &TaskId, effects: &mut Effects) {
        self.held.unreserve(id);
        if self.held.get(id).is_some() {
            return effects.push_back(DeployEffect::Notice(DeployNotice::NotReplaced(id.clone())));
        }
        self.refuse_waiting(id, &format!("{}: its start failed", unknown(id)), effects);
    }

    fn stop(&mut self, id: &TaskId, effects: &mut Effects) {
        if let Some(run) = self.held.remove(id) {
            effects.push_back(DeployEffect::Note(Step::Forgotten(run)));
            effects.push_back(DeployEffect::Notice(DeployNotice::Removed(id.clone())));
        }
        let of_task = |(number, invocation): (&NonZeroU64, &Invocation)| {
            (invocation.task == *id).then_some(*number)
        };
        let numbers: Vec<_> = self.invocations.iter().filter_map(of_task).collect();
        for number in numbers {
            self.end(number, Failure::Stopped, effects);
        }
    }

    fn invoke(&mut self, invoke: Invoke, preparing: bool, now: Instant, effects: &mut Effects) {
        let id = invoke.id.clone();
        let key = InvocationKey::of(&invoke.invocation_id);
        if self.seen.contains(key) {
            return effects.push_back(DeployEffect::Notice(DeployNotice::SameInvocation(id)));
        }
        let refusal = if self.draining {
            // The next process must not give it another answer.
            self.seen.insert(key);
            effects.push_back(DeployEffect::Mark(key));
            Some(Rejection::ShuttingDown.to_string())
        } else if self.held.get(&id).is_none() && !preparing {
            Some(format!(
                "{}: this worker has no deployment of it; start it as a latent task first",
                unknown(&id)
            ))
        } else {
            None
        };
        let number = self.next;
        let invocation = Invocation {
            invocation_id: invoke.invocation_id.clone(),
            task: id.clone(),
            stage: Stage::Submitted,
        };
        if let Some(reason) = refusal {
            return self.refuse(&invocation, &reason, effects);
        }
        let ready = self.held.spec(&id);
        if ready.is_none() && self.has_no_room(&invoke) {
            let (waiting, limit) = (self.waits.0, self.bounds.waiting);
            let reason = format!(
                "busy: {waiting} invocations wait until their tasks are there (limit {limit}); try \
                 again later"
            );
            return self.refuse(&invocation, &reason, effects);
        }
        self.next = self.next.saturating_add(1);
        self.seen.insert(key);
        effects.push_back(DeployEffect::Mark(key));
        self.deadlines.push_back((now + self.bounds.answer_within, number));
        let stage = match ready {
            Some((run, spec)) => {
                let spec = spec.invocation(number, invoke.inputs, invoke.env);
                effects.push_back(DeployEffect::Submit { number, run, spec });
                Stage::Submitted
            }
            None => {
                let bytes = size(&invoke);
                self.waits = (self.waits.0 + 1, self.waits.1 + bytes);
                self.waiting.entry(id.clone()).or_default().push(number);
                Stage::Waiting(Box::new(invoke), bytes)
            }
        };
        self.invocations.insert(number, Invocation { stage, ..invocation });
        self.serve(&id, effects);
    }

    fn has_no_room(&self, invoke: &Invoke) -> bool {
        let (count, bytes) = self.waits;
        count >= self.bounds.waiting
            || (count > 0 && bytes + size(invoke) > self.bounds.waiting_bytes)
    }

    /// Submits the invocations that wait for this task, or has it read back.
    fn serve(&mut self, id: &TaskId, effects: &mut Effects) {
        if !self.waiting.contains_key(id) {
            return;
        }
        let Some((run, spec)) = self.held.spec(id) else {
            if let Some(run) = self.held.load(id) {
                effects.push_back(DeployEffect::Load { run, id: id.clone() });
            }
            return;
        };
        for number in self.waiting.remove(id).unwrap_or_default() {
            let Some(invocation) = self.invocations.get_mut(&number) else { continue };
            let stage = std::mem::replace(&mut invocation.stage, Stage::Submitted);
            if let Stage::Waiting(invoke, bytes) = stage {
                self.waits = (self.waits.0 - 1, self.waits.1 - bytes);
                let spec = spec.invocation(number, invoke.inputs, invoke.env);
                effects.push_back(DeployEffect::Submit { number, run, spec });
            }
        }
    }

    fn loaded(
        &mut self,
        run: Run,
        id: &TaskId,
        verdict: Result<TaskSpec, LoadError>,
        effects: &mut Effects,
    ) {
        if !self.held.loads(id, run) {
            // It has been stopped, or replaced.
            return self.prepare_loaded(id, false, effects);
        }
        let is_there = verdict.is_ok();
        match verdict {
            Ok(spec) => {
                self.held.loaded(id, spec);
                self.serve(id, effects);
            }
            Err(LoadError::Failed(reason)) => {
                self.held.not_loaded(id);
                self.refuse_waiting(id, &reason, effects);
            }
            Err(LoadError::Lost(reason)) => {
                self.held.remove(id);
                effects.push_back(DeployEffect::Note(Step::Forgotten(run)));
                effects.push_back(DeployEffect::Notice(DeployNotice::Lost(
                    id.clone(),
                    reason.clone(),
                )));
                self.refuse_waiting(id, &format!("{}: {reason}", unknown(id)), effects);
            }
        }
        self.prepare_loaded(id, is_there, effects);
    }

    fn prepare_next(&mut self, effects: &mut Effects) {
        self.preparing.now = None;
        while let Some(id) = self.preparing.next.pop_front() {
            if self.prepares(&id, effects) {
                self.preparing.now = Some(id);
                return;
            }
        }
    }

    /// Has a deployed task prepared again, or read back for that.
    fn prepares(&mut self, id: &TaskId, effects: &mut Effects) -> bool {
        match self.held.again(id) {
            Again::Prepare(spec) => {
                self.preparing.number += 1;
                effects.push_back(DeployEffect::Prepare { number: self.preparing.number, spec });
            }
            Again::Load(run) => {
                // Whatever ends from now on was prepared for another process.
                self.preparing.number += 1;
                effects.extend(run.map(|run| DeployEffect::Load { run, id: id.clone() }));
            }
            Again::No => return false,
        }
        true
    }

    /// What was to be prepared was read back, or can't be.
    fn prepare_loaded(&mut self, id: &TaskId, is_there: bool, effects: &mut Effects) {
        let awaited = self.preparing.now.as_ref() == Some(id);
        if awaited && !(is_there && self.prepares(id, effects)) {
            self.prepare_next(effects);
        }
    }

    fn refuse_waiting(&mut self, id: &TaskId, reason: &str, effects: &mut Effects) {
        for number in self.waiting.remove(id).unwrap_or_default() {
            if let Some(invocation) = self.remove(number) {
                self.seen.forget(InvocationKey::of(&invocation.invocation_id));
                self.refuse(&invocation, reason, effects);
            }
        }
    }

    fn time_is_over(&mut self, now: Instant, effects: &mut Effects) {
        while let Some((_, number)) = self.deadlines.pop_front_if(|(at, _)| *at <= now) {
            self.end(number, Failure::Timeout(self.bounds.answer_within), effects);
        }
    }

    fn drain(&mut self, effects: &mut Effects) {
        self.draining = true;
        self.preparing = Preparing { number: self.preparing.number + 1, ..Preparing::default() };
        let waiting: Vec<_> = self.waiting.values().flatten().copied().collect();
        for number in waiting {
            self.end(number, Failure::ShuttingDown, effects);
        }
    }

    /// Answers an invocation before it has ended, and has it end.
    fn end(&mut self, number: NonZeroU64, failure: Failure, effects: &mut Effects) {
        let Some(invocation) = self.remove(number) else { return };
        if matches!(invocation.stage, Stage::Submitted) {
            effects.push_back(DeployEffect::Cancel(invocation.task.with_invocation(number)));
        }
        self.fail(&invocation, failure, effects);
    }

    fn remove(&mut self, number: NonZeroU64) -> Option<Invocation> {
        let invocation = self.invocations.remove(&number)?;
        if let Stage::Waiting(_, bytes) = &invocation.stage {
            self.waits = (self.waits.0 - 1, self.waits.1 - bytes);
            if let Some(waiting) = self.waiting.get_mut(&invocation.task) {
                waiting.retain(|waits| *waits != number);
                if waiting.is_empty() {
                    self.waiting.remove(&invocation.task);
                }
            }
        }
        // Those in front need no deadline any more: there are no more of them
        // than invocations of the last half minute.
        while let Some((_, first)) = self.deadlines.front()
            && !self.invocations.contains_key(first)
        {
            self.deadlines.pop_front();
        }
        Some(invocation)
    }
}

/// By these words the manager knows to deploy it again.
fn unknown(id: &TaskId) -> String {
    format!("the task {id} has not been precompiled")
}

/// Bytes of what is asked for.
fn size(invoke: &Invoke) -> usize {
    let inputs = invoke.inputs.iter().map(|input| input.len() + size_of::<String>());
    let env = invoke.env.iter().map(|(k, v)| k.len() + v.len() + 2 * size_of::<String>());
    size_of::<Invoke>() + inputs.sum::<usize>() + env.sum::<usize>()
}
