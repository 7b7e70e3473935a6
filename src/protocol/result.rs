//! The result of a task, as it goes to the manager.
//!
//! The manager reads a few fields and ignores the rest, so a result carries
//! all that a person wants to know: where the time went, what was reused, what
//! the guest wrote to stderr, what wasi-nn refused.

use serde::{Deserialize, Serialize};

use super::cause;
use super::control::to_json;
use super::output::Output;
use super::rounds;
use crate::task::{Captured, Outcome, Reuse, TaskId, Timings, milliseconds};

/// Lines of stderr, and of diagnostics, that an `error` repeats.
const ERROR_LINES: usize = 20;
/// Bytes of stderr, and of diagnostics, that an `error` repeats.
const ERROR_BYTES: usize = 4096;

/// What came of a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskResult {
    /// The task.
    pub task_id: String,
    /// The worker, by its client id.
    #[serde(default)]
    pub proplet_id: String,
    /// What the guest wrote to standard output, of a task of a federated round in an
    /// object. In the message of a failure the cause is added to it.
    #[serde(default)]
    pub results: Output,
    /// Why the task failed; `None` means that it completed, and the text is
    /// never empty.
    #[serde(default)]
    pub error: Option<String>,
    /// The guest's exit code, if it came to one.
    #[serde(default)]
    pub exit_code: Option<i32>,
    /// What the guest wrote to standard error.
    #[serde(default)]
    pub stderr: Output,
    /// Where the time went.
    #[serde(default)]
    pub timings: TimingsMs,
    /// What was found ready.
    #[serde(default)]
    pub reused: Reused,
    /// The wasi-nn backends that its graphs ran on, by name.
    #[serde(default)]
    pub backends: Vec<String>,
    /// What was granted otherwise than it may have been meant, then what wasi-nn
    /// refused and why, also when the guest coped.
    #[serde(default)]
    pub diagnostics: Vec<String>,
}

impl TaskResult {
    /// How an encoded result ends that has been published before.
    pub const REPLAYED: &[u8] = b",\"replayed\":true}";

    /// The result of a task that ran, or should have.
    pub fn new(id: &TaskId, proplet_id: &str, outcome: Outcome) -> TaskResult {
        let error = outcome.error();
        let error = error.map(|error| error_text(&error, &outcome.stderr, &outcome.diagnostics));
        let results = match &outcome.round {
            Some(end) => Output::Json(rounds::envelope(id, proplet_id, end, &outcome.stdout)),
            None => outcome.stdout.into(),
        };
        TaskResult {
            task_id: id.as_str().to_owned(),
            proplet_id: proplet_id.to_owned(),
            results,
            error,
            exit_code: outcome.exit_code,
            stderr: outcome.stderr.into(),
            timings: outcome.timings.into(),
            reused: outcome.reuse.into(),
            backends: outcome.backends,
            diagnostics: outcome.diagnostics,
        }
    }

    /// The result of a daemon that runs, or of a server that listens at `port`.
    pub fn running(id: &TaskId, proplet_id: &str, port: Option<u16>) -> TaskResult {
        let text = port.map(|port| format!("started at port {port}")).unwrap_or_default();
        TaskResult {
            task_id: id.as_str().to_owned(),
            proplet_id: proplet_id.to_owned(),
            results: Captured { bytes: text.into_bytes(), dropped: 0 }.into(),
            ..TaskResult::empty()
        }
    }

    /// The result of a task that was refused, with the reason.
    pub fn refused(id: &TaskId, proplet_id: &str, reason: &str) -> TaskResult {
        TaskResult {
            task_id: id.as_str().to_owned(),
            proplet_id: proplet_id.to_owned(),
            error: Some(error_text(reason, &Captured::default(), &[])),
            ..TaskResult::empty()
        }
    }

    /// Of nothing.
    pub(super) fn empty() -> TaskResult {
        TaskResult {
            task_id: String::new(),
            proplet_id: String::new(),
            results: Output::default(),
            error: None,
            exit_code: None,
            stderr: Output::default(),
            timings: TimingsMs::default(),
            reused: Reused::default(),
            backends: Vec::new(),
            diagnostics: Vec::new(),
        }
    }

    /// The same task's result with an error in place of all that can be large:
    /// for one that can't be sent.
    pub fn without_output(self, error: String) -> TaskResult {
        let (results, stderr) = (Output::default(), Output::default());
        TaskResult { results, stderr, error: Some(error), diagnostics: Vec::new(), ..self }
    }

    /// The message, once more: an encoded result as the answer to a start that
    /// repeats an earlier one.
    pub fn replayed(encoded: &[u8]) -> Vec<u8> {
        let mut replayed = Vec::with_capacity(encoded.len() + TaskResult::REPLAYED.len());
        replayed.extend_from_slice(encoded.strip_suffix(b"}").unwrap_or(encoded));
        replayed.extend_from_slice(TaskResult::REPLAYED);
        replayed
    }

    /// The message.
    pub fn encode(&self) -> Vec<u8> {
        match &self.error {
            None => to_json(self),
            Some(error) => {
                to_json(&TaskResult { results: cause::add(&self.results, error), ..self.clone() })
            }
        }
    }

    /// Why the task failed, without what `stderr` and `diagnostics` say anyway.
    pub fn failure(&self) -> Option<&str> {
        let error = self.error.as_deref()?;
        let written = match &self.stderr {
            Output::Text(text) => text.as_bytes(),
            Output::Bytes(bytes) => bytes,
            Output::Json(_) => return Some(error),
        };
        Some(error.strip_suffix(&appendix(written, &self.diagnostics)).unwrap_or(error))
    }

    /// Reads a result of this worker or of any other: all but `task_id` may be
    /// missing.
    pub fn decode(payload: &[u8]) -> Result<TaskResult, serde_json::Error> {
        let mut result: TaskResult = serde_json::from_slice(payload)?;
        if let Some(error) = &result.error {
            result.results = cause::remove(result.results, error);
        }
        Ok(result)
    }
}

/// The failure, then what helps to understand it. The manager shows only this.
pub(super) fn error_text(failure: &str, stderr: &Captured, diagnostics: &[String]) -> String {
    let mut text = match failure.trim() {
        // An empty error would mean success to the manager.
        "" => "the task failed without saying why".to_owned(),
        failure => failure.to_owned(),
    };
    text.push_str(&appendix(&stderr.bytes, diagnostics));
    text
}

/// What an `error` repeats of the guest's stderr and of the diagnostics.
fn appendix(stderr: &[u8], diagnostics: &[String]) -> String {
    let mut text = String::new();
    let written = String::from_utf8_lossy(stderr);
    for (title, lines) in [
        ("stderr of the guest", written.trim_end()),
        ("diagnostics", diagnostics.join("\n").trim_end()),
    ] {
        if !lines.is_empty() {
            let (tail, cut) = last_lines(lines);
            let cut = if cut { " (its end)" } else { "" };
            text.push_str(&format!("\n{title}{cut}:\n{tail}"));
        }
    }
    text
}

/// The last lines within the limits, and whether any were left out.
fn last_lines(text: &str) -> (&str, bool) {
    let start =
        text.rmatch_indices('\n').nth(ERROR_LINES - 1).map_or(0, |(newline, _)| newline + 1);
    let floor = text.len().saturating_sub(ERROR_BYTES);
    let start = text.ceil_char_boundary(start.max(floor));
    (&text[start..], start > 0)
}

/// [`Timings`] in milliseconds, to the microsecond.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TimingsMs {
    /// From admission to an executor's hand.
    pub queued: f64,
    /// Fetching and compiling the module.
    pub compiled: f64,
    /// Loading graphs.
    pub loaded: f64,
    /// The rest of the guest's time.
    pub ran: f64,
    /// The part of it that inferences took.
    pub inferred: f64,
    /// How many inferences there were, failed ones included: no time, but told
    /// beside theirs.
    pub inferences: u32,
}

impl From<Timings> for TimingsMs {
    fn from(timings: Timings) -> TimingsMs {
        TimingsMs {
            queued: milliseconds(timings.queued),
            compiled: milliseconds(timings.compiled),
            loaded: milliseconds(timings.loaded),
            ran: milliseconds(timings.ran),
            inferred: milliseconds(timings.inferred),
            inferences: timings.inferences,
        }
    }
}

/// [`Reuse`] on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Reused {
    /// The module was in memory, compiled.
    pub module: bool,
    /// Graphs that were in the cache.
    pub graphs_reused: u32,
    /// Graphs that had to be loaded: compiled, or from the disk.
    pub graphs_loaded: u32,
}

impl From<Reuse> for Reused {
    fn from(reuse: Reuse) -> Reused {
        Reused {
            module: reuse.module,
            graphs_reused: reuse.graphs_reused,
            graphs_loaded: reuse.graphs_loaded,
        }
    }
}
