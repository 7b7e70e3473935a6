//! What came of a task.

use super::round::RoundEnd;
use super::{humantime, serialization};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Why a task that was admitted failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Failure {
    /// The module could not be fetched, compiled or linked.
    #[error("{0}")]
    Module(String),
    /// A graph of `-S nn-graph` could not be loaded, or there is no backend.
    #[error("{0}")]
    Graph(String),
    /// It waited in the journal and can't be read back, or is not admitted any
    /// more.
    #[error("{0}")]
    Recall(String),
    /// A directory that was granted can't be opened.
    #[error("{0}")]
    Directory(String),
    /// The guest trapped; the kind in the words of the WebAssembly
    /// specification, then where.
    #[error("{0}")]
    Trap(String),
    /// The guest asked something of the host that ends it: a bad pointer, an
    /// exit code that WASI does not know.
    #[error("{0}")]
    Fault(String),
    /// The guest called `proc_exit` with a code other than 0.
    #[error("the guest exited with code {0}")]
    Exit(i32),
    /// The time limit passed.
    #[error("timeout: the task ran longer than {}", humantime(*.0))]
    Timeout(Duration),
    /// A `stop` came.
    #[error("stopped")]
    Stopped,
    /// It is an HTTP server, which goes on elsewhere: no result says so.
    #[error("the component is an HTTP server, and was run as if it were none")]
    Serves,
    /// An HTTP server can't listen where it is to.
    #[error("{0}")]
    Port(String),
    /// The worker ended first.
    #[error("shutting down: the worker ended before the task did")]
    ShuttingDown,
    /// The worker's process ended in the middle of it, this many times.
    #[error(
        "the worker died {0} times while it ran this task (killed, out of memory, or a crash of a native library), so it is not run again"
    )]
    Fatal(u32),
    /// The runtime's process crashed twice with this task alone in it: how the
    /// last time, and what the task was doing.
    #[error(
        "{0}: the runtime's process crashed with this task alone in it, so it is not run again"
    )]
    Crash(String),
    /// A daemon was started so often in a row and did not last.
    #[error(
        "{how}: the daemon was started {times} times in a row and never lasted a minute, so it is not started again"
    )]
    Restarts {
        /// How it ended the last time.
        how: String,
        /// How often it was started.
        times: u32,
    },
    /// It did not end when the worker did; what it was doing.
    #[error(
        "the worker ended, and the task did not end with it while {0}, which nothing can interrupt, so it is not run again"
    )]
    Stuck(String),
    /// A fault of this worker's own, which says so.
    #[error("internal error of the worker: {0}")]
    Internal(String),
    /// A task of a federated round could not be given its data, or its update was
    /// not taken for certain.
    #[error("{0}")]
    Round(String),
}

/// Where a task's time went. The first four phases do not overlap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timings {
    /// From admission to an executor's hand.
    pub queued: Duration,
    /// Fetching and compiling the module; next to nothing when it was cached.
    pub compiled: Duration,
    /// Loading graphs, those that the guest asked for included.
    pub loaded: Duration,
    /// The rest of the guest's time.
    pub ran: Duration,
    /// The part of it that inferences took.
    pub inferred: Duration,
    /// How many inferences there were, failed ones included.
    pub inferences: u32,
}

/// What a task found ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reuse {
    /// The module was in memory, compiled.
    pub module: bool,
    /// Graphs that this task loaded and that were in the cache.
    pub graphs_reused: u32,
    /// Graphs that this task had to load: compiled, or from the disk.
    pub graphs_loaded: u32,
}

/// One of a guest's output streams, as far as it was kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Captured {
    /// What was written; when `dropped` is not zero the first half and the
    /// last half of the limit, with a line between them that says so, and no
    /// character of a text cut in two.
    #[serde(with = "serialization::bytes")]
    pub bytes: Vec<u8>,
    /// Bytes between the halves that were not kept.
    pub dropped: u64,
}

const GAP: [&str; 2] = ["\n[… ", " bytes not kept …]\n"];

/// The line in place of this many bytes that were not kept.
pub fn gap(dropped: u64) -> String {
    format!("{}{dropped}{}", GAP[0], GAP[1])
}

/// What the first such line among these bytes counts.
pub fn gap_in(bytes: &[u8]) -> Option<u64> {
    let [before, behind] = GAP.map(str::as_bytes);
    let mut starts = bytes.windows(before.len()).enumerate().filter(|(_, bytes)| *bytes == before);
    starts.find_map(|(start, _)| {
        let rest = &bytes[start + before.len()..];
        // As many as the largest number has, and one more.
        let digits = rest.iter().take(20).take_while(|byte| byte.is_ascii_digit()).count();
        let (number, rest) = rest.split_at(digits);
        let number = std::str::from_utf8(number).ok()?.parse().ok()?;
        rest.starts_with(behind).then_some(number)
    })
}

/// What came of a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Success, or why not.
    pub verdict: Result<(), Failure>,
    /// The guest's exit code, if it came to one.
    pub exit_code: Option<i32>,
    /// Standard output.
    pub stdout: Captured,
    /// Standard error.
    pub stderr: Captured,
    /// Where the time went.
    pub timings: Timings,
    /// What was reused.
    pub reuse: Reuse,
    /// The wasi-nn backends that its graphs ran on, by name.
    pub backends: Vec<String>,
    /// What was granted otherwise than it may have been meant, then what wasi-nn
    /// refused and why, one full sentence each.
    pub diagnostics: Vec<String>,
    /// Of a task of a federated round. Only the worker knows of those.
    #[serde(skip)]
    pub round: Option<RoundEnd>,
}

impl Outcome {
    /// The outcome of a task whose guest never ran.
    pub fn failed(failure: Failure) -> Outcome {
        Outcome {
            verdict: Err(failure),
            exit_code: None,
            stdout: Captured::default(),
            stderr: Captured::default(),
            timings: Timings::default(),
            reuse: Reuse::default(),
            backends: Vec::new(),
            diagnostics: Vec::new(),
            round: None,
        }
    }
}
