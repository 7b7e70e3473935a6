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

use crate::journal::Run;
use crate::task::TaskId;
use bytes::Bytes;
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

/// A result that is published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    /// Tells the publications of one result apart.
    number: u64,
    /// The run that it is of.
    pub run: Run,
    /// The task.
    pub id: TaskId,
    /// The message.
    pub payload: Bytes,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// To be published until the broker has it; [`Results::delivered`] is to
    /// follow.
    Publish(Publication),
    /// To be published once more, now or never; [`Results::written`] is to
    /// follow.
    Repeat(Publication),
}

/// When something is due; the number keeps the order of what is due at once.
type Due = (Instant, u64);

/// The last publication of a task's results, as far as it may be repeated.
#[derive(Debug)]
struct Last {
    number: u64,
    /// When its next repeat is due; none until it is delivered.
    due: Option<Instant>,
}

#[derive(Debug)]
struct Repeat {
    publication: Publication,
    delivered: Instant,
    /// Repeats that were due before.
    before: usize,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Results {
    timing: Timing,
    next: u64,
    held: BTreeMap<Due, Publication>,
    held_bytes: usize,
    last: HashMap<TaskId, Last>,
    waiting: BTreeMap<Due, Repeat>,
    ready: BTreeMap<Due, Repeat>,
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

    /// A result is to be published. `arrived`: when the start came that it
    /// answers; none if that was before this process.
    pub fn publish(
        &mut self,
        run: Run,
        id: TaskId,
        payload: Bytes,
        arrived: Option<Instant>,
        now: Instant,
    ) {
        let number = self.next;
        self.next += 1;
        let leaves = arrived.map_or(now, |arrived| now.max(arrived + self.timing.hold));
        let quick = arrived.is_some_and(|arrived| leaves < arrived + QUICK);
        self.drop_repeats(&id);
        if quick && !self.timing.repeat.is_empty() && !self.closing {
            self.last.insert(id.clone(), Last { number, due: None });
        }
        self.held_bytes += payload.len();
        self.held.insert((leaves, number), Publication { number, run, id, payload });
    }

    /// The task was started again or stopped, or will have another result: the
    /// manager must not hear the old one after that.
    pub fn drop_repeats(&mut self, id: &TaskId) {
        if let Some(Last { number, due: Some(due) }) = self.last.remove(id) {
            let key = (due, number);
            let repeat = self.waiting.remove(&key).or_else(|| self.ready.remove(&key));
            self.repeat_bytes -= repeat.map_or(0, |repeat| repeat.publication.payload.len());
        }
    }

    /// The broker has it.
    pub fn delivered(&mut self, publication: Publication, now: Instant) {
        let last = self.last.get(&publication.id);
        if last.is_some_and(|last| last.number == publication.number) {
            self.repeat_bytes += publication.payload.len();
            self.schedule(Repeat { publication, delivered: now, before: 0 });
        }
        while self.repeat_bytes > BYTES
            && let Some((_, repeat)) = self.ready.pop_first().or_else(|| self.waiting.pop_first())
        {
            self.let_go += (self.timing.repeat.len() - repeat.before) as u64;
            self.finish(&repeat);
        }
    }

    /// The broker will not have it.
    pub fn undelivered(&mut self, publication: &Publication) {
        if self.last.get(&publication.id).is_some_and(|last| last.number == publication.number) {
            self.last.remove(&publication.id);
        }
    }

    /// A repeat is out of the connection's hands: sent, or dropped with it.
    pub fn written(&mut self) {
        self.unwritten = self.unwritten.saturating_sub(1);
    }

    /// What is to be done now, one after the other.
    pub fn next(&mut self, now: Instant) -> Option<Action> {
        if let Some(first) = self.held.first_entry()
            && (first.key().0 <= now || self.held_bytes > BYTES || self.closing)
        {
            let publication = first.remove();
            self.held_bytes -= publication.payload.len();
            return Some(Action::Publish(publication));
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
            self.schedule(Repeat { before: repeat.before + 1, ..repeat });
        }
        while self.left.front().is_some_and(|left| *left + Duration::from_secs(1) <= now) {
            self.left.pop_front();
        }
        if self.left.len() >= RATE || self.unwritten >= UNWRITTEN {
            return None;
        }
        let (_, repeat) = self.ready.pop_first()?;
        let publication = repeat.publication.clone();
        self.schedule(Repeat { before: repeat.before + 1, ..repeat });
        self.left.push_back(now);
        self.unwritten += 1;
        Some(Action::Repeat(publication))
    }

    /// When [`Results::next`] has something again, as far as that depends on
    /// the time alone.
    pub fn due(&self) -> Option<Instant> {
        let held = self.held.keys().next().map(|(due, _)| *due);
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
        self.last.clear();
        self.waiting.clear();
        self.ready.clear();
        self.repeat_bytes = 0;
    }

    /// Repeats that were let go since this was last asked.
    pub fn take_let_go(&mut self) -> u64 {
        std::mem::take(&mut self.let_go)
    }

    /// Sets when the next repeat is due, if there is one.
    fn schedule(&mut self, repeat: Repeat) {
        let publication = &repeat.publication;
        let (Some(after), Some(last)) =
            (self.timing.repeat.get(repeat.before), self.last.get_mut(&publication.id))
        else {
            return self.finish(&repeat);
        };
        let due = repeat.delivered + *after;
        last.due = Some(due);
        self.waiting.insert((due, publication.number), repeat);
    }

    fn finish(&mut self, repeat: &Repeat) {
        self.repeat_bytes -= repeat.publication.payload.len();
        self.last.remove(&repeat.publication.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MILLI: Duration = Duration::from_millis(1);
    const SECOND: Duration = Duration::from_secs(1);

    fn timing() -> Timing {
        Timing { hold: 5 * MILLI, repeat: vec![2 * SECOND, 10 * SECOND] }
    }

    fn id(id: &str) -> TaskId {
        TaskId::new(id).expect("an id")
    }

    /// What is to be done up to this time, and when.
    fn until(results: &mut Results, from: Instant, to: Instant) -> Vec<(Duration, Action)> {
        let mut done = Vec::new();
        let mut now = from;
        loop {
            while let Some(action) = results.next(now) {
                match &action {
                    Action::Publish(publication) => results.delivered(publication.clone(), now),
                    Action::Repeat(_) => results.written(),
                }
                done.push((now - from, action));
            }
            match results.due().filter(|due| *due <= to) {
                Some(due) => now = now.max(due),
                None => return done,
            }
        }
    }

    fn times(done: &[(Duration, Action)]) -> Vec<Duration> {
        done.iter().map(|(at, _)| *at).collect()
    }

    #[test]
    fn a_quick_result_is_held_and_published_again_twice_the_same() {
        let (mut results, start) = (Results::new(timing()), Instant::now());
        results.publish(Run(1), id("a"), "result".into(), Some(start), start + MILLI);
        let done = until(&mut results, start, start + 100 * SECOND);
        assert_eq!(times(&done), [5 * MILLI, 5 * MILLI + 2 * SECOND, 5 * MILLI + 10 * SECOND]);
        let publication = match &done[0].1 {
            Action::Publish(publication) => publication,
            Action::Repeat(_) => panic!("a repeat first"),
        };
        assert_eq!(publication.payload, "result");
        assert_eq!(done[1].1, Action::Repeat(publication.clone()));
        assert_eq!(done[2].1, Action::Repeat(publication.clone()));
        assert_eq!(results.due(), None);
    }

    #[test]
    fn a_slow_result_leaves_at_once_and_is_not_repeated() {
        let (mut results, start) = (Results::new(timing()), Instant::now());
        let now = start + QUICK;
        results.publish(Run(1), id("slow"), "r".into(), Some(start), now);
        results.publish(Run(2), id("of an earlier process"), "r".into(), None, now);
        assert_eq!(times(&until(&mut results, now, now + 100 * SECOND)), [Duration::ZERO; 2]);
        results.publish(Run(3), id("almost slow"), "r".into(), Some(start), now - MILLI);
        assert_eq!(until(&mut results, now - MILLI, now + 100 * SECOND).len(), 3);
    }

    #[test]
    fn nothing_is_held_or_repeated_where_that_is_not_wanted() {
        let now = Instant::now();
        let mut results = Results::new(Timing { hold: Duration::ZERO, repeat: vec![] });
        results.publish(Run(1), id("a"), "r".into(), Some(now), now);
        assert_eq!(times(&until(&mut results, now, now + 100 * SECOND)), [Duration::ZERO]);
    }

    #[test]
    fn a_task_that_is_started_again_stopped_or_ended_again_is_not_repeated() {
        let start = Instant::now();
        for when in [3 * MILLI, SECOND, 5 * SECOND] {
            let mut results = Results::new(timing());
            results.publish(Run(1), id("a"), "old".into(), Some(start), start);
            let before = until(&mut results, start, start + when).len();
            results.drop_repeats(&id("a"));
            let after = until(&mut results, start + when, start + 100 * SECOND);
            // A result that is held leaves all the same.
            assert_eq!(before + after.len(), if when > 2 * SECOND { 2 } else { 1 }, "{when:?}");
        }
        let mut results = Results::new(timing());
        results.publish(Run(1), id("a"), "old".into(), Some(start), start);
        until(&mut results, start, start + SECOND);
        let now = start + SECOND;
        results.publish(Run(2), id("a"), "new".into(), Some(now), now);
        let done = until(&mut results, now, now + 100 * SECOND);
        assert_eq!(done.len(), 3);
        assert!(done.iter().all(|(_, Action::Publish(p) | Action::Repeat(p))| p.run == Run(2)));
    }

    #[test]
    fn only_the_last_publication_of_a_result_is_repeated() {
        let (mut results, start) = (Results::new(timing()), Instant::now());
        results.publish(Run(1), id("a"), "r".into(), Some(start), start);
        let Some(Action::Publish(first)) = results.next(start + 5 * MILLI) else { panic!() };
        // The same result, for a start that came again before it was delivered.
        results.publish(Run(1), id("a"), "r".into(), Some(start), start + 6 * MILLI);
        results.delivered(first, start + 7 * MILLI);
        assert_eq!(until(&mut results, start + 7 * MILLI, start + 100 * SECOND).len(), 3);
    }

    #[test]
    fn of_more_than_500_repeats_a_second_the_oldest_are_let_go() {
        let (mut results, start) = (Results::new(timing()), Instant::now());
        for n in 0..3_000_u64 {
            let task = id(&n.to_string());
            results.publish(Run(n), task, "r".into(), Some(start), start);
        }
        let done = until(&mut results, start, start + 100 * SECOND);
        let repeats: Vec<_> = times(&done).split_off(3_000);
        for (at, later) in repeats.iter().zip(&repeats[RATE..]) {
            assert!(*later - *at >= SECOND, "{at:?} {later:?}");
        }
        // Of each of the two rounds: those of the moment, and those that waited.
        assert_eq!(repeats.len(), 2 * READY);
        assert_eq!(results.take_let_go(), 2 * 3_000 - 2 * READY as u64);
        assert_eq!(results.take_let_go(), 0);
    }

    #[test]
    fn a_connection_that_does_not_write_holds_up_repeats_alone() {
        let (mut results, start) = (Results::new(timing()), Instant::now());
        for n in 0..100 {
            results.publish(Run(n), id(&n.to_string()), "r".into(), None, start);
        }
        for n in 100..200 {
            results.publish(Run(n), id(&n.to_string()), "r".into(), Some(start), start);
        }
        assert_eq!(until(&mut results, start, start + SECOND).len(), 200);
        let now = start + 3 * SECOND;
        let unwritten = std::iter::from_fn(|| results.next(now)).count();
        assert_eq!(unwritten, UNWRITTEN);
        assert!(results.due().is_some_and(|due| due > now));
        results.publish(Run(200), id("200"), "r".into(), None, now);
        assert!(matches!(results.next(now), Some(Action::Publish(_))));
        results.written();
        assert!(matches!(results.next(now), Some(Action::Repeat(_))));
    }

    #[test]
    fn the_bytes_that_are_held_and_repeated_are_bounded() {
        let (mut results, start) = (Results::new(timing()), Instant::now());
        let large = Bytes::from(vec![0; BYTES / 4 + 1]);
        for n in 0..4 {
            results.publish(Run(n), id(&n.to_string()), large.clone(), Some(start), start);
        }
        // The first one leaves too early rather than not at all.
        let Some(Action::Publish(first)) = results.next(start) else { panic!("all are held") };
        assert_eq!((first.run, results.next(start)), (Run(0), None));
        results.delivered(first, start);
        assert_eq!(until(&mut results, start, start + 100 * SECOND).len(), 3 + 2 * 3);
        assert_eq!((results.repeat_bytes, results.take_let_go()), (0, 2));
    }

    #[test]
    fn at_the_end_all_leave_and_none_is_repeated() {
        let (mut results, start) = (Results::new(timing()), Instant::now());
        results.publish(Run(1), id("a"), "r".into(), Some(start), start);
        until(&mut results, start, start + SECOND);
        let now = start + SECOND;
        results.publish(Run(2), id("b"), "r".into(), Some(now), now);
        results.close();
        results.publish(Run(3), id("c"), "r".into(), Some(now), now);
        assert_eq!(times(&until(&mut results, now, now + 100 * SECOND)), [Duration::ZERO; 2]);
        assert_eq!(results.due(), None);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Publish { task: usize, age: u64 },
        Started(usize),
        Deliver,
        Written,
        Pass(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (0..4_usize, 0..3_000_u64).prop_map(|(task, age)| Step::Publish { task, age }),
            1 => (0..4_usize).prop_map(Step::Started),
            3 => Just(Step::Deliver),
            2 => Just(Step::Written),
            4 => (0..4_000_u64).prop_map(Step::Pass),
        ]
    }

    proptest! {
        /// Whatever comes in whatever order: each result is published once, in
        /// time, and repeated only as the last word on its task.
        #[test]
        fn each_result_leaves_once_and_repeats_are_its_own(
            steps in prop::collection::vec(step(), 0..200),
        ) {
            let mut results = Results::new(timing());
            let start = Instant::now();
            // Far from the clock's beginning, so that starts can lie before.
            let mut now = start + 10 * SECOND;
            let mut run = 0;
            let mut expected: HashMap<u64, (usize, Instant)> = HashMap::new();
            let mut under_way = VecDeque::new();
            // By task: its last run, when that was delivered, and its repeats.
            let mut last: HashMap<usize, (u64, Option<Instant>, usize)> = HashMap::new();
            for step in steps.into_iter().chain([Step::Pass(100_000)]) {
                match step {
                    Step::Publish { task, age } => {
                        run += 1;
                        let arrived = now - age as u32 * MILLI;
                        let result = Bytes::from(run.to_string());
                        results.publish(Run(run), id(&task.to_string()), result, Some(arrived), now);
                        expected.insert(run, (task, now.max(arrived + 5 * MILLI)));
                        last.insert(task, (run, None, 0));
                    }
                    Step::Started(task) => {
                        results.drop_repeats(&id(&task.to_string()));
                        last.remove(&task);
                    }
                    Step::Deliver => {
                        if let Some((run, task, publication)) = under_way.pop_front() {
                            results.delivered(publication, now);
                            if let Some((last, at, _)) = last.get_mut(&task)
                                && *last == run
                            {
                                *at = Some(now);
                            }
                        }
                    }
                    Step::Written => results.written(),
                    Step::Pass(millis) => {
                        let end = now + millis as u32 * MILLI;
                        loop {
                            while let Some(action) = results.next(now) {
                                let (Action::Publish(p) | Action::Repeat(p)) = &action;
                                prop_assert_eq!(&p.payload, &Bytes::from(p.run.0.to_string()));
                                if matches!(action, Action::Publish(_)) {
                                    let (task, leaves) = expected.remove(&p.run.0).expect("once");
                                    prop_assert_eq!(now, leaves);
                                    under_way.push_back((p.run.0, task, p.clone()));
                                    continue;
                                }
                                let task: usize = p.id.as_str().parse().expect("a number");
                                let (run, at, repeats) = last.get_mut(&task).expect("not dropped");
                                prop_assert_eq!(*run, p.run.0);
                                prop_assert!(now >= at.expect("delivered") + timing().repeat[*repeats]);
                                *repeats += 1;
                            }
                            match results.due().filter(|due| *due <= end) {
                                Some(due) => now = now.max(due),
                                None => break,
                            }
                        }
                        now = end;
                    }
                }
            }
            prop_assert!(expected.is_empty(), "{:?} never left", expected);
            prop_assert_eq!(results.held_bytes, 0);
            let bytes = |repeats: &BTreeMap<Due, Repeat>| {
                repeats.values().map(|repeat| repeat.publication.payload.len()).sum::<usize>()
            };
            prop_assert_eq!(results.repeat_bytes, bytes(&results.waiting) + bytes(&results.ready));
            // Only those that nobody has delivered or written are left.
            prop_assert!(results.last.len() <= under_way.len() + results.ready.len());
        }
    }
}
