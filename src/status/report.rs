//! What `GET /status` tells: plain data, written as JSON. No secrets, and
//! nothing that a task was given or has written: neither its arguments, its
//! environment, its output nor its errors' texts. Its id is the manager's.
//!
//! Times are in seconds unless the name says `_ms`, sizes in bytes. Lists are
//! bounded: the numbers beside them count all. Fields are added in later
//! versions; one that changes its meaning changes `schema`.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// The version of this schema.
pub(crate) const SCHEMA: u32 = 1;

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    /// [`SCHEMA`].
    pub(crate) schema: u32,
    /// The worker, by its client id.
    pub(crate) proplet_id: String,
    /// Of the program.
    pub(crate) version: String,
    /// Since the start.
    pub(crate) uptime: f64,
    /// `connecting`, `serving`, `draining`, or `stuck`: its loop does not answer.
    pub(crate) state: String,
    /// Whether it takes tasks.
    pub(crate) ready: bool,
    /// What it lacks for that, a sentence each.
    pub(crate) missing: Vec<String>,
    /// What is wrong although it takes them.
    pub(crate) note: Option<String>,
    /// The broker's address; no credentials.
    pub(crate) broker: String,
    /// Of the settings that bound tasks and caches, by their names.
    pub(crate) limits: BTreeMap<String, String>,
    /// What the loop tells; none if it did not in time.
    pub(crate) work: Option<LoopReport>,
    /// The runtime's process, or the runtime in this one.
    pub(crate) runtime: RuntimeReport,
    /// What is kept for the next task, as the runtime told last.
    pub(crate) caches: Option<CachesReport>,
    /// None with `--stateless`.
    pub(crate) journal: Option<JournalReport>,
}

/// What the loop tells.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct LoopReport {
    /// To the broker.
    pub(crate) connection: ConnectionReport,
    /// Tasks and invocations that wait.
    pub(crate) queued: usize,
    /// Tasks and invocations that run.
    pub(crate) running: usize,
    /// The first of those that wait, in the order of their turns.
    pub(crate) waiting_tasks: Vec<TaskReport>,
    /// Those that run.
    pub(crate) running_tasks: Vec<TaskReport>,
    /// Daemons, those that wait to be started again included.
    pub(crate) daemons: Vec<TaskReport>,
    /// What ended last, the last one first.
    pub(crate) recent: Vec<EndReport>,
    /// Latent tasks that are deployed.
    pub(crate) deployments: usize,
    /// Some of them.
    pub(crate) deployed_tasks: Vec<DeployedReport>,
    /// Invocations without an answer so far.
    pub(crate) invocations: usize,
    /// Results that the broker has not acknowledged.
    pub(crate) outbox: usize,
}

/// To the broker.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct ConnectionReport {
    /// Connected and subscribed.
    pub(crate) connected: bool,
    /// Since it was made or lost; none before the first.
    pub(crate) since: Option<f64>,
    /// How often it was made.
    pub(crate) made: u64,
    /// Why it was lost or not made the last time.
    pub(crate) last_failure: Option<String>,
}

/// A task that waits or runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct TaskReport {
    /// The manager's id; of an invocation its task's, with its number.
    pub(crate) id: String,
    /// Since it was admitted.
    pub(crate) age: f64,
    /// Since it began to run.
    pub(crate) running: Option<f64>,
    /// `waiting`, `preparing`, `compiling`, `loading`, `running` or `computing`.
    pub(crate) phase: String,
    /// The graph that is loaded or computed.
    pub(crate) graph: Option<String>,
}

/// A task that has ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct EndReport {
    /// As in [`TaskReport`].
    pub(crate) id: String,
    /// `completed`, or what `proplet_tasks_total` counts it as; `refused: ` and
    /// what `proplet_tasks_refused_total` counts it as.
    pub(crate) outcome: String,
    /// Since its end.
    pub(crate) ago: f64,
    /// Where its time went.
    pub(crate) queued_ms: f64,
    /// As in results.
    pub(crate) compiled_ms: f64,
    /// As in results.
    pub(crate) loaded_ms: f64,
    /// As in results.
    pub(crate) ran_ms: f64,
    /// As in results.
    pub(crate) inferred_ms: f64,
    /// As in results.
    pub(crate) inferences: u32,
}

/// A latent task that is deployed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct DeployedReport {
    /// The manager's id.
    pub(crate) id: String,
    /// Whether its next invocation finds in memory what it needs.
    pub(crate) in_memory: bool,
}

/// What runs guests and models.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct RuntimeReport {
    /// `process` or `none`, as the setting has it.
    pub(crate) isolation: String,
    /// The number of the process that tasks run in.
    pub(crate) pid: Option<u32>,
    /// Since it was started.
    pub(crate) age: Option<f64>,
    /// Crashes since the worker's start.
    pub(crate) crashes: u64,
    /// Threads that are stuck in a task that was given up.
    pub(crate) stuck_threads: usize,
}

/// What is kept for the next task.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct CachesReport {
    /// Of all compiled code.
    pub(crate) code_bytes: u64,
    /// What was used last, the last first.
    pub(crate) code: Vec<CodeReport>,
    /// Of all graphs.
    pub(crate) graph_bytes: u64,
    /// What was used last, the last first.
    pub(crate) graphs: Vec<GraphReport>,
}

/// Compiled code.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct CodeReport {
    /// Of the binary.
    pub(crate) digest: String,
    /// `module`, `component`, or `refused`: it does not compile.
    pub(crate) kind: String,
    /// In memory.
    pub(crate) bytes: u64,
    /// Tasks that found it.
    pub(crate) hits: u64,
    /// Since the last use.
    pub(crate) last_used: f64,
}

/// A compiled graph.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct GraphReport {
    /// The name that it was loaded by first.
    pub(crate) name: Option<String>,
    /// The directory that it came from, or `supplied by a guest`.
    pub(crate) source: String,
    /// The backend's name.
    pub(crate) backend: String,
    /// In memory.
    pub(crate) bytes: u64,
    /// Loads that found it.
    pub(crate) hits: u64,
    /// Since the last use.
    pub(crate) last_used: f64,
}

/// The journal.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct JournalReport {
    /// Of its file, without modules.
    pub(crate) bytes: u64,
    /// Transactions since the start.
    pub(crate) writes: u64,
    /// How long they took, on average.
    pub(crate) mean_write_ms: f64,
    /// How long the last one took.
    pub(crate) last_write_ms: f64,
}

/// In seconds, to the millisecond.
pub(crate) fn seconds(time: Duration) -> f64 {
    time.as_millis() as f64 / 1e3
}
