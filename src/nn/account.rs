//! What one task did with wasi-nn, and what it holds: its report, and the sums
//! that its quotas bound.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::config::NnLimits;
use super::graph::SharedGraph;
use super::refusal::Refusal;
use crate::cancel::Cancel;

/// The most diagnostics of a task, and the most bytes of one.
const MAX_DIAGNOSTICS: usize = 32;
const MAX_DIAGNOSTIC: usize = 4096;

/// What one task did with wasi-nn.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NnReport {
    /// What was refused and why, one full sentence each: the first 32.
    pub diagnostics: Vec<String>,
    /// Time spent in loading graphs, those of `-S nn-graph` included.
    pub loaded: Duration,
    /// Graphs that this task had to load: compiled, or from the disk.
    pub graphs_loaded: u32,
    /// Graphs that it found compiled.
    pub graphs_reused: u32,
    /// The backends that they are of, in the order of their first graph.
    pub backends: Vec<&'static str>,
    /// Inferences, failed ones included.
    pub inferences: u32,
    /// Time spent in inferences.
    pub inferred: Duration,
}

/// What the contexts and graphs of one task share.
pub(super) struct TaskAccount {
    pub(super) cancel: Arc<Cancel>,
    pub(super) limits: NnLimits,
    /// Requests that a graph keeps warm.
    pub(super) kept: usize,
    tally: Mutex<Tally>,
}

#[derive(Default)]
struct Tally {
    report: NnReport,
    unsaid: u64,
    contexts: u32,
    tensor_bytes: u64,
}

impl TaskAccount {
    pub(super) fn new(cancel: Arc<Cancel>, limits: NnLimits, kept: usize) -> TaskAccount {
        TaskAccount { cancel, limits, kept, tally: Mutex::default() }
    }

    /// Keeps a sentence for the task's report.
    pub(super) fn note(&self, mut sentence: String) {
        tracing::debug!("{sentence}");
        let mut tally = self.lock();
        if tally.report.diagnostics.len() == MAX_DIAGNOSTICS {
            tally.unsaid += 1;
            return;
        }
        if sentence.len() > MAX_DIAGNOSTIC {
            sentence.truncate(sentence.floor_char_boundary(MAX_DIAGNOSTIC));
            sentence.push_str("...");
        }
        tally.report.diagnostics.push(sentence);
    }

    /// Reports the backend of a graph that the task has loaded; `what` is that
    /// graph. Where it was one of several, the task's report says so.
    pub(super) fn loaded(&self, graph: &SharedGraph, what: &str) {
        let backend = graph.backend;
        self.report(|report| {
            if !report.backends.contains(&backend) {
                report.backends.push(backend);
            }
        });
        if !graph.several {
            return;
        }
        let since = if graph.passed.is_empty() { "" } else { ", since " };
        let sentence = format!("{what} runs on {backend}{since}{}", graph.passed);
        if !self.lock().report.diagnostics.contains(&sentence) {
            self.note(sentence);
        }
    }

    /// Changes the report.
    pub(super) fn report(&self, change: impl FnOnce(&mut NnReport)) {
        change(&mut self.lock().report);
    }

    /// The report so far.
    pub(super) fn so_far(&self) -> NnReport {
        let tally = self.lock();
        let mut report = tally.report.clone();
        if tally.unsaid > 0 {
            report.diagnostics.push(format!("{} more refusals were not kept", tally.unsaid));
        }
        report
    }

    /// Bytes of tensors that count as the task's now.
    #[cfg(test)]
    pub(super) fn tensor_bytes(&self) -> u64 {
        self.lock().tensor_bytes
    }

    /// Counts bytes as the task's until what is returned is dropped.
    pub(super) fn held(self: &Arc<TaskAccount>, bytes: u64) -> Result<HeldBytes, Refusal> {
        self.hold(&mut self.lock(), 0, bytes)?;
        Ok(HeldBytes { task: self.clone(), bytes })
    }

    /// Counts a context, whose tensors have so many bytes.
    pub(super) fn hold_context(&self, bytes: u64) -> Result<(), Refusal> {
        let mut tally = self.lock();
        if tally.contexts >= self.limits.contexts {
            return Err(Refusal::too_large(format!(
                "the task has {} execution contexts, its limit",
                tally.contexts
            )));
        }
        self.hold(&mut tally, 0, bytes)?;
        tally.contexts += 1;
        Ok(())
    }

    /// Counts an input of this size, instead of what it had before.
    pub(super) fn hold_input(&self, before: u64, bytes: u64) -> Result<(), Refusal> {
        self.hold(&mut self.lock(), before, bytes)
    }

    /// Counts a context no longer, and what it has come to.
    pub(super) fn give_context_back(&self, bytes: u64) {
        let mut tally = self.lock();
        tally.contexts = tally.contexts.saturating_sub(1);
        tally.tensor_bytes = tally.tensor_bytes.saturating_sub(bytes);
    }

    fn hold(&self, tally: &mut Tally, less: u64, more: u64) -> Result<(), Refusal> {
        let bytes = (tally.tensor_bytes - less).saturating_add(more);
        if bytes > self.limits.tensor_bytes {
            return Err(Refusal::too_large(format!(
                "the task's tensors would take {bytes} bytes, more than its limit of {}",
                self.limits.tensor_bytes
            )));
        }
        tally.tensor_bytes = bytes;
        Ok(())
    }

    // Plain numbers and sentences: whole whoever panicked.
    fn lock(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes of a tensor of the guest's, counted as the task's.
pub(super) struct HeldBytes {
    task: Arc<TaskAccount>,
    bytes: u64,
}

impl Drop for HeldBytes {
    fn drop(&mut self) {
        let mut tally = self.task.lock();
        tally.tensor_bytes = tally.tensor_bytes.saturating_sub(self.bytes);
    }
}

/// Adds the time of `call` to what `slot` points at.
pub(super) fn timed<R>(
    task: &TaskAccount,
    slot: fn(&mut NnReport) -> &mut Duration,
    call: impl FnOnce() -> R,
) -> R {
    let begun = Instant::now();
    let result = call();
    let took = begun.elapsed();
    task.report(|report| *slot(report) += took);
    result
}
