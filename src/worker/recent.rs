//! Tasks that have ended, with their results: a message that comes again is
//! answered with the result that its task had. Pure state, bounded.

use crate::digest::Digest;
use crate::journal::{Arrival, Fingerprint, Run};
use crate::task::{ModuleSource, TaskId, TaskRequest, WeakBinary};
use bytes::Bytes;
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// An identical message within this time is the same one come twice. Without
/// the flag that says so a later one is meant: somebody starts the task again.
const REPEAT: Duration = Duration::from_secs(60);
/// The same for one that was refused: who asks again, because there was no
/// room or a folder was missing, is to get a new answer before long.
const REFUSED: Duration = Duration::from_secs(10);
/// Results that are remembered. A broker repeats what it has in flight for a
/// client, which is 20 messages, or 100.
const RESULTS: usize = 4096;
/// Bytes of results that are remembered.
const BYTES: usize = 32 << 20;

/// A task that has ended.
pub(super) struct Entry {
    pub(super) run: Run,
    /// Its message.
    pub(super) arrival: Arrival,
    /// When that came, by the clock that never jumps; none if that was too long
    /// ago.
    pub(super) at: Option<Instant>,
    pub(super) result: Bytes,
}

/// What a message repeats.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Repeat {
    /// A task whose result is on its way.
    Unsent,
    /// A task whose result the broker has.
    Sent(Run, Bytes),
}

#[derive(Default)]
pub(super) struct Recent {
    entries: HashMap<TaskId, (Entry, bool)>,
    /// Those that were delivered, oldest first, with some that are gone.
    delivered: VecDeque<(TaskId, Run)>,
    bytes: usize,
}

impl Recent {
    /// A task has ended. Gives an earlier run of it that nobody needs any more.
    pub(super) fn insert(&mut self, entry: Entry) -> Option<Run> {
        let id = entry.arrival.id.clone();
        let (before, delivered) = self.entries.insert(id, (entry, false))?;
        if delivered {
            self.bytes -= before.result.len();
        }
        // One that is on its way is needed until it has arrived.
        delivered.then_some(before.run)
    }

    /// The message of this run, if the task has not been run again.
    pub(super) fn arrival(&self, id: &TaskId, run: Run) -> Option<(Arrival, Option<Instant>)> {
        let (entry, _) = self.entries.get(id).filter(|(entry, _)| entry.run == run)?;
        Some((entry.arrival.clone(), entry.at))
    }

    /// The broker has the result of this run. Gives the runs that are
    /// forgotten for it.
    pub(super) fn delivered(&mut self, id: &TaskId, run: Run) -> Vec<Run> {
        match self.entries.get_mut(id) {
            Some((entry, delivered)) if entry.run == run => {
                if !std::mem::replace(delivered, true) {
                    self.bytes += entry.result.len();
                    self.delivered.push_back((id.clone(), run));
                }
            }
            _ => return vec![run],
        }
        let mut forgotten = Vec::new();
        while (self.bytes > BYTES || self.delivered.len() > RESULTS)
            && let Some((id, run)) = self.delivered.pop_front()
        {
            if self.entries.get(&id).is_some_and(|(entry, _)| entry.run == run)
                && let Some((entry, _)) = self.entries.remove(&id)
            {
                self.bytes -= entry.result.len();
                forgotten.push(run);
            }
        }
        forgotten
    }

    /// What a message repeats, if it does. `duplicate`: the broker says that
    /// it has sent it before.
    pub(super) fn repeats(
        &self,
        id: &TaskId,
        fingerprint: &Fingerprint,
        duplicate: bool,
        now: Instant,
    ) -> Option<Repeat> {
        let (entry, delivered) = self.entries.get(id)?;
        let window = if entry.arrival.refused { REFUSED } else { REPEAT };
        let soon = entry.at.is_some_and(|at| now.saturating_duration_since(at) < window);
        // A repeated message with other content is one that never got through.
        if entry.arrival.fingerprint != *fingerprint || !(duplicate || soon) {
            return None;
        }
        Some(if *delivered {
            Repeat::Sent(entry.run, entry.result.clone())
        } else {
            Repeat::Unsent
        })
    }
}

/// The modules of tasks that are there: equal ones are held once.
#[derive(Default)]
pub(super) struct Modules {
    held: HashMap<Digest, WeakBinary>,
    sweep_at: usize,
}

impl Modules {
    /// Gives a task the module that another one already holds.
    pub(super) fn share(&mut self, request: &mut TaskRequest) {
        let Some(ModuleSource::Bytes(binary)) = &mut request.module else { return };
        match self.held.get(&binary.digest()).and_then(WeakBinary::upgrade) {
            Some(held) => *binary = held,
            None => {
                self.held.insert(binary.digest(), binary.downgrade());
            }
        }
        if self.held.len() > self.sweep_at {
            self.held.retain(|_, held| held.upgrade().is_some());
            self.sweep_at = 2 * self.held.len() + 16;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(id: &str) -> TaskId {
        TaskId::new(id).expect("an id")
    }

    fn entry(name: &str, run: u64, content: &str, at: Option<Instant>, size: usize) -> Entry {
        let fingerprint = Digest::of(content.as_bytes());
        let arrival = Arrival { id: id(name), fingerprint, at: None, refused: false };
        Entry { run: Run(run), arrival, at, result: vec![0; size].into() }
    }

    #[test]
    fn only_a_repeated_message_gets_the_old_result() {
        let (now, same, other) = (Instant::now(), Digest::of(b"same"), Digest::of(b"other"));
        let mut recent = Recent::default();
        recent.insert(entry("a", 1, "same", Some(now), 3));
        assert_eq!(recent.repeats(&id("a"), &same, false, now), Some(Repeat::Unsent));
        assert_eq!(recent.delivered(&id("a"), Run(1)), []);
        let sent = Some(Repeat::Sent(Run(1), vec![0; 3].into()));
        assert_eq!(recent.repeats(&id("a"), &same, false, now), sent);
        let later = now + REPEAT;
        assert_eq!(recent.repeats(&id("a"), &same, true, later), sent);
        assert_eq!(recent.repeats(&id("a"), &same, false, later), None);
        assert_eq!(recent.repeats(&id("a"), &other, true, now), None);
        assert_eq!(recent.repeats(&id("b"), &same, true, now), None);
    }

    #[test]
    fn a_refused_task_may_be_asked_for_again_soon() {
        let (now, same) = (Instant::now(), Digest::of(b"same"));
        let mut recent = Recent::default();
        let mut refused = entry("a", 1, "same", Some(now), 3);
        refused.arrival.refused = true;
        recent.insert(refused);
        recent.delivered(&id("a"), Run(1));
        assert!(recent.repeats(&id("a"), &same, false, now).is_some());
        assert_eq!(recent.repeats(&id("a"), &same, false, now + REFUSED), None);
        assert!(recent.repeats(&id("a"), &same, true, now + REFUSED).is_some());
    }

    #[test]
    fn what_is_remembered_is_bounded_and_what_is_unsent_stays() {
        let mut recent = Recent::default();
        recent.insert(entry("unsent", 0, "", None, BYTES));
        let mut forgotten = Vec::new();
        for run in 1..=(RESULTS as u64 + 2) {
            let id = id(&run.to_string());
            recent.insert(entry(id.as_str(), run, "", None, 1));
            forgotten.extend(recent.delivered(&id, Run(run)));
        }
        assert_eq!(forgotten, [Run(1), Run(2)]);
        let large = RESULTS as u64 + 3;
        recent.insert(entry("large", large, "", None, BYTES));
        assert_eq!(recent.delivered(&id("large"), Run(large)).len(), RESULTS);
        assert_eq!(recent.entries.len(), 2);
        assert_eq!(recent.bytes, BYTES);
    }

    #[test]
    fn an_earlier_run_is_forgotten_once_it_is_delivered() {
        let mut recent = Recent::default();
        recent.insert(entry("a", 1, "", None, 1));
        assert_eq!(recent.insert(entry("a", 2, "", None, 1)), None);
        assert_eq!(recent.delivered(&id("a"), Run(1)), [Run(1)]);
        assert_eq!(recent.delivered(&id("a"), Run(2)), []);
        assert_eq!(recent.insert(entry("a", 3, "", None, 1)), Some(Run(2)));
        assert_eq!(recent.bytes, 0);
    }
}
