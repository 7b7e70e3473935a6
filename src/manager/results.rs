//! Results on their way out: held for a moment, and published again.
//!
//! ```text
//! publish ─▶ held ─▶ Action::Publish ─▶ (delivered) ─▶ waiting ─▶ ready ─▶ Action::Repeat
//!                                                         ▲                    │
//!                                                         └──── once more ─────┘
//! ```
//!
//! What is held always leaves. A repeat is a favour: it is dropped when its
//! task is started again, stopped or has another result, and let go where there
//! are too many.

use crate::ledger::Publication;
use crate::task::TaskId;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

/// A result that leaves this long after its start, or later, comes after the
/// manager's own writes.
const QUICK: Duration = Duration::from_secs(2);
/// Repeats within a second. A manager with SQLite stores some tens of results a
/// second, one with badger some hundreds.
const RATE: usize = 500;
/// Repeats that are due and wait because of the rate: those of a second.
const READY: usize = RATE;
/// Repeats that the connection has not written yet. More would only wait there.
const UNWRITTEN: usize = 20;
/// Results that the connection has and the broker does not. More would only
/// wait there, where each costs more than here.
const UNDELIVERED: usize = 256;
/// Bytes of results that are held, and again of those that are to be repeated.
/// Most of these the worker remembers anyway, and they are shared.
const BYTES: usize = 32 << 20;

/// When results leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timing {
    /// No result leaves sooner after its start came.
    pub hold: Duration,
    /// When one that was quick is published again, after it was delivered;
    /// growing, and empty for never.
    pub repeat: Vec<Duration>,
}

/// A result that leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Departure {
    /// Tells those of one result apart.
    number: u64,
    /// The result.
    pub publication: Publication,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// To be published until the broker has it; [`Results::delivered`] is to
    /// follow.
    Publish(Departure),
    /// To be published once more, now or never; [`Results::written`] is to
    /// follow.
    Repeat(Departure),
}

/// When something is due; the number keeps the order of what is due at once.
type DueKey = (Instant, u64);

/// The last publication of a task's results: until it is delivered, and while
/// it may be repeated.
#[derive(Debug)]
struct Last {
    number: u64,
    /// Whether the manager may overwrite it.
    quick: bool,
    /// When its next repeat is due; none until it is delivered.
    due: Option<Instant>,
}

#[derive(Debug)]
struct PendingRepeat {
    departure: Departure,
    delivered: Instant,
    /// Repeats that were due before.
    before: usize,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Results {
    timing: Timing,
    next: u64,
    held: BTreeMap<DueKey, Departure>,
    held_bytes: usize,
    /// Those that have left and are not decided.
    undelivered: usize,
    last: HashMap<TaskId, Last>,
    waiting: BTreeMap<DueKey, PendingRepeat>,
    ready: BTreeMap<DueKey, PendingRepeat>,
    repeat_bytes: usize,
    unwritten: usize,
    /// When the repeats of the last second left.
    left: VecDeque<Instant>,
    let_go: u64,
    closing: bool,
}

impl Results {
    /// With nothing in it.
    pub fn new(timing: Timing) -> Results {
        Results {
            timing,
            next: 0,
            held: BTreeMap::new(),
            held_bytes: 0,
            undelivered: 0,
            last: HashMap::new(),
            waiting: BTreeMap::new(),
            ready: BTreeMap::new(),
            repeat_bytes: 0,
            unwritten: 0,
            left: VecDeque::new(),
            let_go: 0,
            closing: false,
        }
    }

    /// A result is to be published.
    pub fn publish(&mut self, publication: Publication, now: Instant) {
        let number = self.next;
        self.next += 1;
        let arrived = publication.arrived;
        let leaves = arrived.map_or(now, |arrived| now.max(arrived + self.timing.hold));
        let quick = arrived.is_some_and(|arrived| leaves < arrived + QUICK);
        self.supersede(&publication.id);
        self.last.insert(publication.id.clone(), Last { number, quick, due: None });
        self.held_bytes += publication.result.len();
        self.held.insert((leaves, number), Departure { number, publication });
    }

    /// The task was started again or stopped, or will have another result: the
    /// manager must not hear the old one by the worker's own doing after that.
    pub fn supersede(&mut self, id: &TaskId) {
        if let Some(Last { number, due: Some(due), .. }) = self.last.remove(id) {
            let key = (due, number);
            let repeat = self.waiting.remove(&key).or_else(|| self.ready.remove(&key));
            self.repeat_bytes -= repeat.map_or(0, |repeat| repeat.size());
        }
    }

    /// The broker has it. Whether it is still the last word on its task.
    pub fn delivered(&mut self, departure: Departure, now: Instant) -> bool {
        self.decided();
        let Some(last) = self.last(&departure) else { return false };
        if !last.quick {
            self.last.remove(&departure.publication.id);
            return true;
        }
        let repeat = PendingRepeat { departure, delivered: now, before: 0 };
        self.repeat_bytes += repeat.size();
        self.schedule(repeat);
        while self.repeat_bytes > BYTES
            && let Some((_, repeat)) = self.ready.pop_first().or_else(|| self.waiting.pop_first())
        {
            self.let_go += (self.timing.repeat.len() - repeat.before) as u64;
            self.finish(&repeat);
        }
        true
    }

    /// The broker will not have it.
    pub fn undelivered(&mut self, departure: &Departure) {
        self.decided();
        if self.last(departure).is_some() {
            self.last.remove(&departure.publication.id);
        }
    }

    fn decided(&mut self) {
        self.undelivered = self.undelivered.saturating_sub(1);
    }

    /// Whether one may leave.
    fn open(&self) -> bool {
        self.undelivered < UNDELIVERED || self.closing
    }

    fn last(&self, departure: &Departure) -> Option<&Last> {
        let last = self.last.get(&departure.publication.id);
        last.filter(|last| last.number == departure.number)
    }

    /// A repeat is out of the connection's hands: sent, or dropped with it.
    pub fn written(&mut self) {
        self.unwritten = self.unwritten.saturating_sub(1);
    }

    /// What is to be done now, one after the other.
    pub fn next(&mut self, now: Instant) -> Option<Action> {
        if self.open()
            && let Some(first) = self.held.first_entry()
            && (first.key().0 <= now || self.held_bytes > BYTES || self.closing)
        {
            let departure = first.remove();
            self.undelivered += 1;
            self.held_bytes -= departure.publication.result.len();
            return Some(Action::Publish(departure));
        }
        while let Some(first) = self.waiting.first_entry()
            && first.key().0 <= now
        {
            let (due, repeat) = first.remove_entry();
            self.ready.insert(due, repeat);
        }
        while self.ready.len() > READY
            && let Some((_, repeat)) = self.ready.pop_first()
        {
            self.let_go += 1;
            self.schedule(PendingRepeat { before: repeat.before + 1, ..repeat });
        }
        while self.left.front().is_some_and(|left| *left + Duration::from_secs(1) <= now) {
            self.left.pop_front();
        }
        if self.left.len() >= RATE || self.unwritten >= UNWRITTEN {
            return None;
        }
        let (_, repeat) = self.ready.pop_first()?;
        let departure = repeat.departure.clone();
        self.schedule(PendingRepeat { before: repeat.before + 1, ..repeat });
        self.left.push_back(now);
        self.unwritten += 1;
        Some(Action::Repeat(departure))
    }

    /// When [`Results::next`] has something again, as far as that depends on
    /// the time alone.
    pub fn due(&self) -> Option<Instant> {
        let held = self.held.keys().next().filter(|_| self.open()).map(|(due, _)| *due);
        let waiting = self.waiting.keys().next().map(|(due, _)| *due);
        let ready = self.ready.keys().next().filter(|_| self.unwritten < UNWRITTEN);
        let ready = ready.map(|(due, _)| match self.left.front() {
            Some(left) if self.left.len() >= RATE => *left + Duration::from_secs(1),
            _ => *due,
        });
        [held, waiting, ready].into_iter().flatten().min()
    }

    /// The worker ends: what is held leaves at once, nothing is repeated.
    pub fn close(&mut self) {
        self.closing = true;
        self.timing.repeat.clear();
        self.last.retain(|_, last| last.due.is_none());
        self.waiting.clear();
        self.ready.clear();
        self.repeat_bytes = 0;
    }

    /// Repeats that were let go since this was last asked.
    pub fn take_let_go(&mut self) -> u64 {
        std::mem::take(&mut self.let_go)
    }

    /// Sets when the next repeat is due, if there is one.
    fn schedule(&mut self, repeat: PendingRepeat) {
        let Departure { number, publication } = &repeat.departure;
        let (Some(after), Some(last)) =
            (self.timing.repeat.get(repeat.before), self.last.get_mut(&publication.id))
        else {
            return self.finish(&repeat);
        };
        let due = repeat.delivered + *after;
        last.due = Some(due);
        self.waiting.insert((due, *number), repeat);
    }

    fn finish(&mut self, repeat: &PendingRepeat) {
        self.repeat_bytes -= repeat.size();
        self.last.remove(&repeat.departure.publication.id);
    }
}

impl PendingRepeat {
    fn size(&self) -> usize {
        self.departure.publication.result.len()
    }
}

#[cfg(test)]
mod tests;
