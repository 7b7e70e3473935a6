//! Which results the manager is asked about, and when.
//!
//! ```text
//! left ─▶ 15 s ─▶ asked ─▶ over
//!                 │  ▲
//!                 ▼  └── nothing is known, or it was published again:
//!          30 s, 1, 2, 4, 8, 15, 15 min
//! ```
//!
//! Each question has the manager read the whole module, so there are few of
//! them at a time. A result's bytes are read back from the journal when they
//! are wanted; only without one they are held here.

use super::answer::{Decision, Resolution};
use crate::journal::Run;
use crate::task::TaskId;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

/// From a result's departure to the first question.
const FIRST: Duration = Duration::from_secs(15);
/// From one question to the next, in seconds.
const AGAIN: [u64; 7] = [30, 60, 120, 240, 480, 900, 900];
/// Questions within a second.
const RATE: usize = 10;
/// Results that wait.
const WAITING: usize = 10_000;
/// Bytes of results that are held here.
const HELD: usize = 32 << 20;
/// Bytes of results that the journal keeps for a confirmation.
const KEPT: usize = 128 << 20;

/// A question for the manager.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The run whose result it is about.
    pub run: Run,
    /// The task.
    pub id: TaskId,
    /// Since the result left.
    pub age: Duration,
}

/// A result that is not asked about any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Concluded {
    /// The run.
    pub run: Run,
    /// Why.
    pub why: Resolution,
    /// Nobody else needs its record in the journal: [`Confirmations::keep`] had
    /// been asked about it.
    pub forget: bool,
}

/// What an answer brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NextStep {
    /// The result is to be published again.
    PublishAgain {
        /// The task.
        id: TaskId,
        /// Its message; none if that is in the journal.
        payload: Option<Bytes>,
        /// This was the last question about it.
        last: Option<Concluded>,
    },
    /// The result is over.
    Over(Concluded),
    /// Nothing for now.
    Wait,
}

#[derive(Debug)]
struct Unconfirmed {
    run: Run,
    id: TaskId,
    /// How old the result was at `since`.
    age: Duration,
    since: Instant,
    due: Instant,
    /// Questions so far.
    asked: usize,
    size: usize,
    payload: Option<Bytes>,
    forget: bool,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Confirmations {
    next: u64,
    /// Oldest first.
    entries: BTreeMap<u64, Unconfirmed>,
    by_id: HashMap<TaskId, u64>,
    by_run: HashMap<Run, u64>,
    due: BTreeSet<(Instant, u64)>,
    bytes: usize,
    /// A question is under way.
    asking: bool,
    /// When the questions of the last second were asked.
    asked: VecDeque<Instant>,
}

impl Confirmations {
    /// A result of `size` bytes has left, `age` ago. `payload` is its message
    /// where it can't be read back. Gives what needs no confirmation any more.
    pub fn left(
        &mut self,
        run: Run,
        id: TaskId,
        age: Duration,
        size: usize,
        payload: Option<Bytes>,
        now: Instant,
    ) -> Vec<Concluded> {
        let mut over: Vec<_> = self.replaced(&id).into_iter().collect();
        let number = self.next;
        self.next += 1;
        let due = now + FIRST.saturating_sub(age);
        let most = if payload.is_some() { HELD } else { KEPT };
        self.bytes += size;
        self.by_id.insert(id.clone(), number);
        self.by_run.insert(run, number);
        self.due.insert((due, number));
        let entry =
            Unconfirmed { run, id, age, since: now, due, asked: 0, size, payload, forget: false };
        self.entries.insert(number, entry);
        while (self.entries.len() > WAITING || self.bytes > most)
            && let Some((&oldest, _)) = self.entries.first_key_value()
        {
            over.extend(self.remove(oldest, Resolution::LetGo));
        }
        over
    }

    /// The task was started again or stopped, or has another result.
    pub fn replaced(&mut self, id: &TaskId) -> Option<Concluded> {
        let number = *self.by_id.get(id)?;
        self.remove(number, Resolution::Replaced)
    }

    /// Whether the journal has to keep the record of this run. If so, the
    /// [`Concluded`] of the run says when it need not any longer.
    pub fn keep(&mut self, run: Run) -> bool {
        let entry = self.by_run.get(&run).and_then(|number| self.entries.get_mut(number));
        entry.map(|entry| entry.forget = true).is_some()
    }

    /// The next question, if it is time. One is asked at a time:
    /// [`Confirmations::answered`] is to follow.
    pub fn question(&mut self, now: Instant) -> Option<Question> {
        while self.asked.front().is_some_and(|asked| *asked + Duration::from_secs(1) <= now) {
            self.asked.pop_front();
        }
        if self.asking || self.asked.len() >= RATE {
            return None;
        }
        let &(due, number) = self.due.first().filter(|(due, _)| *due <= now)?;
        let entry = self.entries.get(&number)?;
        // Not again before there is an answer.
        self.due.remove(&(due, number));
        self.asking = true;
        self.asked.push_back(now);
        let age = entry.age + now.saturating_duration_since(entry.since);
        Some(Question { run: entry.run, id: entry.id.clone(), age })
    }

    /// When there is a question again, as far as that depends on the time
    /// alone.
    pub fn due(&self) -> Option<Instant> {
        let (due, _) = self.due.first().filter(|_| !self.asking)?;
        match self.asked.front() {
            Some(asked) if self.asked.len() >= RATE => {
                Some((*due).max(*asked + Duration::from_secs(1)))
            }
            _ => Some(*due),
        }
    }

    /// What was decided by the answer to the question about this run.
    pub fn answered(&mut self, run: Run, decision: &Decision, now: Instant) -> NextStep {
        self.asking = false;
        // Replaced or let go meanwhile.
        let Some(&number) = self.by_run.get(&run) else { return NextStep::Wait };
        let over = |over: Option<Concluded>| over.map_or(NextStep::Wait, NextStep::Over);
        if let Decision::Over(why) = decision {
            return over(self.remove(number, *why));
        }
        let Some(entry) = self.entries.get_mut(&number) else { return NextStep::Wait };
        let (id, payload) = (entry.id.clone(), entry.payload.clone());
        let last = match AGAIN.get(entry.asked) {
            Some(seconds) => {
                entry.asked += 1;
                entry.due = now + Duration::from_secs(*seconds);
                self.due.insert((entry.due, number));
                None
            }
            None => self.remove(number, Resolution::GivenUp),
        };
        match decision {
            Decision::PublishAgain => NextStep::PublishAgain { id, payload, last },
            Decision::AskAgain(_) | Decision::Over(_) => over(last),
        }
    }

    /// Results that wait.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn remove(&mut self, number: u64, why: Resolution) -> Option<Concluded> {
        let entry = self.entries.remove(&number)?;
        self.by_id.remove(&entry.id);
        self.by_run.remove(&entry.run);
        self.due.remove(&(entry.due, number));
        self.bytes -= entry.size;
        Some(Concluded { run: entry.run, why, forget: entry.forget })
    }
}

#[cfg(test)]
mod tests;
