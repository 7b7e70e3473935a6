//! The answer to an invocation of a latent task.

use serde::{Deserialize, Serialize};

use super::control::to_json;
use super::output::Output;
use super::result::{Reused, TaskResult, TimingsMs, error_text};
use crate::task::{Captured, TaskId};

/// What came of an invocation of a latent task. The manager reads as far as
/// `error`; the rest is as in a [`TaskResult`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct InvokeResult {
    /// The invocation.
    pub invocation_id: String,
    /// The task.
    pub task_id: String,
    /// The worker, by its client id.
    pub proplet_id: String,
    /// What the guest wrote to standard output. A string always, because the
    /// manager refuses anything else: what is not UTF-8 is the JSON of
    /// `{"base64": "…"}`.
    pub results: String,
    /// Why the invocation failed.
    pub error: Option<String>,
    exit_code: Option<i32>,
    stderr: Output,
    timings: TimingsMs,
    reused: Reused,
    backends: Vec<String>,
    diagnostics: Vec<String>,
}

impl InvokeResult {
    /// Of an invocation that ended so.
    pub fn new(invocation_id: &str, result: TaskResult) -> InvokeResult {
        InvokeResult {
            invocation_id: invocation_id.to_owned(),
            task_id: result.task_id,
            proplet_id: result.proplet_id,
            results: match result.results {
                Output::Text(text) => text,
                // Bytes and values can't fail.
                other => serde_json::to_string(&other).expect("an output is valid JSON"),
            },
            error: result.error,
            exit_code: result.exit_code,
            stderr: result.stderr,
            timings: result.timings,
            reused: result.reused,
            backends: result.backends,
            diagnostics: result.diagnostics,
        }
    }

    /// Of an invocation that was refused; its task may be unreadable.
    pub fn refused(
        invocation_id: &str,
        task: Option<&TaskId>,
        proplet_id: &str,
        reason: &str,
    ) -> InvokeResult {
        let result = TaskResult {
            task_id: task.map(|id| id.as_str().to_owned()).unwrap_or_default(),
            proplet_id: proplet_id.to_owned(),
            error: Some(error_text(reason, &Captured::default(), &[])),
            ..TaskResult::empty()
        };
        InvokeResult::new(invocation_id, result)
    }

    /// The answer in place of this message, which can't be sent: without all
    /// that can be large. None if it is no answer.
    pub fn without_output(message: &[u8], error: &str) -> Option<Vec<u8>> {
        #[derive(Deserialize)]
        struct Ids {
            invocation_id: String,
            task_id: String,
            proplet_id: String,
        }
        let Ids { invocation_id, task_id, proplet_id } = serde_json::from_slice(message).ok()?;
        let error = Some(error.to_owned());
        let result = TaskResult { task_id, proplet_id, error, ..TaskResult::empty() };
        Some(InvokeResult::new(&invocation_id, result).encode())
    }

    /// The message.
    pub fn encode(&self) -> Vec<u8> {
        to_json(self)
    }

    /// The message of an invocation that ended so, of at most `limit` bytes,
    /// which are [`LEAST_RESULT`](super::LEAST_RESULT) or more.
    pub fn encode_within(invocation_id: &str, result: TaskResult, limit: usize) -> Vec<u8> {
        /// The id's name, and the quotes around bytes within a string.
        const AROUND: usize = 64;
        let whole = InvokeResult::new(invocation_id, result.clone()).encode();
        if whole.len() <= limit {
            return whole;
        }
        let id = to_json(&invocation_id).len();
        let cut = result.cut_to(limit.saturating_sub(id + AROUND));
        InvokeResult::new(invocation_id, cut).encode()
    }
}
