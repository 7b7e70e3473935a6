//! Tasks that have ended, with their results, as far as they are remembered.

pub(super) use super::history::Remembered;
use super::repeats::{Repeat, repeats};
use crate::journal::{Arrival, Run, Step};
use crate::mqtt::Receipt;
use crate::task::{ManagerState, TaskId};
use bytes::Bytes;
use std::collections::{HashMap, VecDeque};
use std::time::Instant;

/// Delivered results that are remembered. A broker repeats what it has in flight for a
/// client, which is 20 messages, or 100.
const RESULTS: usize = 4096;
/// Bytes of delivered results that are remembered.
const BYTES: usize = 32 << 20;

/// The last run of each task that has ended.
#[derive(Debug, Default)]
pub(super) struct EndedTasks {
    runs: HashMap<TaskId, Remembered>,
    /// Those that were delivered, oldest first, with some that are gone.
    delivered: VecDeque<(TaskId, Run)>,
    bytes: usize,
}

impl EndedTasks {
    /// A task has ended. Gives an earlier run of it that nobody needs any more.
    pub(super) fn insert(&mut self, id: TaskId, ended: Remembered) -> Option<Run> {
        let run = ended.run;
        let before = self.runs.insert(id, ended)?;
        if before.delivered {
            self.bytes -= before.result.len();
        }
        // One that is on its way is needed until it has arrived.
        (before.delivered && before.run != run).then_some(before.run)
    }

    /// The broker has the result of this run. Gives the runs that are
    /// forgotten for it.
    pub(super) fn delivered(&mut self, id: &TaskId, run: Run) -> Vec<Run> {
        match self.runs.get_mut(id) {
            Some(ended) if ended.run == run => {
                if !std::mem::replace(&mut ended.delivered, true) {
                    self.bytes += ended.result.len();
                    self.delivered.push_back((id.clone(), run));
                }
            }
            _ => return vec![run],
        }
        let mut forgotten = Vec::new();
        while (self.bytes > BYTES || self.delivered.len() > RESULTS)
            && let Some((id, run)) = self.delivered.pop_front()
        {
            if self.runs.get(&id).is_some_and(|ended| ended.run == run)
                && let Some(ended) = self.runs.remove(&id)
            {
                self.bytes -= ended.result.len();
                forgotten.push(run);
            }
        }
        forgotten
    }

    /// Whether a run of this task is remembered.
    pub(super) fn knows(&self, id: &TaskId) -> bool {
        self.runs.contains_key(id)
    }

    /// The run that a start repeats, if it repeats one.
    pub(super) fn repeats(
        &self,
        start: &Arrival,
        duplicate: bool,
        now: Instant,
    ) -> Option<(Run, Repeat)> {
        let ended = self.runs.get(&start.id)?;
        Some((ended.run, repeats(ended, start, duplicate, now)?))
    }

    /// The result for a start that repeats the run; none if it is on its way
    /// already.
    pub(super) fn answer(
        &mut self,
        start: &Arrival,
        repeat: Repeat,
        receipt: Option<Receipt>,
    ) -> Option<Bytes> {
        let ended = self.runs.get_mut(&start.id)?;
        if repeat == Repeat::Answer {
            ended.answered = receipt.map(|receipt| (start.state, receipt));
            ended.replayed |= start.state == Some(ManagerState::Running);
        }
        ended.delivered.then(|| ended.result.clone())
    }

    /// Takes the result away from later starts; gives its run.
    pub(super) fn stop(&mut self, id: &TaskId) -> Option<Run> {
        let ended = self.runs.get_mut(id)?;
        (!std::mem::replace(&mut ended.stopped, true)).then_some(ended.run)
    }

    /// The run whose result can't be delivered, with another one.
    pub(super) fn replace(
        &self,
        id: &TaskId,
        run: Run,
        success: bool,
        result: Bytes,
    ) -> Option<Remembered> {
        let ended = self.runs.get(id).filter(|ended| ended.run == run && !ended.delivered)?;
        Some(Remembered { result, success, ..ended.clone() })
    }

    /// The broker has the acknowledgement of the message that began this run.
    pub(super) fn acknowledged(&mut self, id: &TaskId, run: Run) -> Option<Step> {
        let ended = self.runs.get_mut(id).filter(|ended| ended.run == run)?;
        ended.acknowledged = true;
        Some(Step::Acknowledged(run))
    }

    /// The broker has the acknowledgement of a start that the run's result answered.
    pub(super) fn answer_acknowledged(
        &mut self,
        id: &TaskId,
        run: Run,
        receipt: Receipt,
    ) -> Option<Step> {
        let ended = self.runs.get_mut(id).filter(|ended| ended.run == run)?;
        ended.answered = ended.answered.filter(|(_, last)| *last != receipt);
        // Before that the start itself could come again.
        ended.replayed.then_some(Step::Replayed(run))
    }
}
