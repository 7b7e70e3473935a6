//! How the runtimes stand: what they have done and hold. Asked of a process
//! when somebody looks, so that no task pays for it; what a process did since it
//! was asked last is not known once it has crashed.

use crate::nn::{InferenceTimes, KeptGraph, NnStats};
use crate::runtime::KeptCode;
use serde::{Deserialize, Serialize};

/// Entries of each cache that are told.
pub(super) const KEPT: usize = 100;

/// What a runtime has done and holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Levels {
    /// Modules compiled.
    pub modules_compiled: u64,
    /// Bytes of compiled code that are kept.
    pub module_bytes: u64,
    /// wasi-nn's counters.
    pub nn: NnStats,
    /// By graph.
    pub inferences: Vec<InferenceTimes>,
    /// Compiled code that is kept, what was used last first.
    pub code: Vec<KeptCode>,
    /// Graphs that are kept, likewise.
    pub graphs: Vec<KeptGraph>,
}

/// What is known of all processes for all tasks, one after the other.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Of those that are gone, then of the one that is there.
    before: Levels,
    now: Levels,
    asked: u64,
    answered: u64,
}

impl Tally {
    /// The number of the next question.
    pub(super) fn ask(&mut self) -> u64 {
        self.asked += 1;
        self.asked
    }

    /// The process has answered; returns whether this was asked.
    pub(super) fn answer(&mut self, question: u64, levels: Levels) -> bool {
        if question <= self.answered || question > self.asked {
            return false;
        }
        self.answered = question;
        self.now = levels;
        true
    }

    pub(super) fn has_answer(&self, question: u64) -> bool {
        self.answered >= question
    }

    /// The process is gone: what it has done counts, and it holds nothing.
    pub(super) fn fold(&mut self) {
        let mut sum = self.sum();
        sum.module_bytes = 0;
        (sum.nn.cached_bytes, sum.nn.cached_graphs) = (0, 0);
        (sum.code, sum.graphs) = (Vec::new(), Vec::new());
        (self.before, self.now) = (sum, Levels::default());
        // The next one has nothing to do with what this one answered.
        self.answered = self.asked;
    }

    /// All that was done, and what is held. A process may have made its numbers
    /// and names up, so neither overflow nor grow without end.
    pub(super) fn sum(&self) -> Levels {
        /// Graphs that are told apart.
        const SERIES: usize = 256;
        let (mut sum, before) = (self.now.clone(), &self.before);
        let add = |to: &mut u64, more: u64| *to = to.saturating_add(more);
        add(&mut sum.modules_compiled, before.modules_compiled);
        add(&mut sum.nn.graphs_compiled, before.nn.graphs_compiled);
        add(&mut sum.nn.cache_hits, before.nn.cache_hits);
        add(&mut sum.nn.evicted, before.nn.evicted);
        add(&mut sum.nn.inferences, before.nn.inferences);
        for earlier in &before.inferences {
            let same = |times: &&mut InferenceTimes| {
                times.graph == earlier.graph && times.backend == earlier.backend
            };
            match sum.inferences.iter_mut().find(same) {
                Some(times) => {
                    times.total = times.total.saturating_add(earlier.total);
                    for (count, more) in times.counts.iter_mut().zip(earlier.counts) {
                        add(count, more);
                    }
                }
                None => sum.inferences.push(earlier.clone()),
            }
        }
        sum.inferences.truncate(SERIES);
        sum.code.truncate(KEPT);
        sum.graphs.truncate(KEPT);
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::INFERENCE_BUCKETS;
    use std::time::Duration;

    fn levels(compiled: u64, graph: &str) -> Levels {
        let counts = [compiled; INFERENCE_BUCKETS.len() + 1];
        let total = Duration::from_secs(compiled);
        let times =
            InferenceTimes { graph: graph.into(), backend: "openvino".into(), total, counts };
        let nn = NnStats { graphs_compiled: compiled, cached_bytes: 9, ..NnStats::default() };
        let inferences = vec![times];
        Levels { modules_compiled: compiled, module_bytes: 7, nn, inferences, ..Levels::default() }
    }

    #[test]
    fn what_was_done_outlives_a_process_and_what_it_held_does_not() {
        let mut tally = Tally::default();
        let question = tally.ask();
        assert!(!tally.has_answer(question));
        assert!(tally.answer(question, levels(1, "a")) && tally.has_answer(question));
        tally.fold();
        let sum = tally.sum();
        assert_eq!((sum.modules_compiled, sum.module_bytes), (1, 0));
        assert_eq!((sum.nn.graphs_compiled, sum.nn.cached_bytes), (1, 0));
        let question = tally.ask();
        assert!(tally.answer(question, levels(2, "a")));
        let sum = tally.sum();
        assert_eq!((sum.modules_compiled, sum.module_bytes), (3, 7));
        assert_eq!((sum.inferences.len(), sum.inferences[0].counts[0]), (1, 3));
    }

    #[test]
    fn what_is_made_up_neither_overflows_nor_grows_without_end() {
        let mut tally = Tally::default();
        for graph in 0..1000 {
            let question = tally.ask();
            assert!(tally.answer(question, levels(u64::MAX, &graph.to_string())));
            tally.fold();
        }
        assert_eq!(tally.sum().modules_compiled, u64::MAX);
        assert_eq!(tally.sum().inferences.len(), 256);
    }

    #[test]
    fn what_was_not_asked_is_no_answer() {
        let mut tally = Tally::default();
        assert!(!tally.answer(1, levels(1, "a")));
        let (late, question) = (tally.ask(), tally.ask());
        assert!(!tally.answer(u64::MAX, levels(1, "a")));
        assert!(tally.answer(late, levels(1, "a")) && !tally.has_answer(question));
        assert!(!tally.answer(late, levels(1, "a")), "twice");
        assert!(tally.answer(question, levels(2, "a")));
        assert_eq!(tally.sum().modules_compiled, 2);
        let late = tally.ask();
        tally.fold();
        assert!(!tally.answer(late, levels(1, "a")), "of another process");
    }
}
