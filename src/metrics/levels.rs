//! What the runtime tells of itself when it is asked.

use crate::nn::{InferenceTimes, KeptGraph, NnStats};
use crate::runtime::{KeptCode, Served};
use crate::task::TaskId;

/// What the runtime's caches hold and what it has done, at the moment.
#[derive(Clone, Debug, Default)]
pub struct RuntimeLevels {
    /// Modules compiled since the start.
    pub modules_compiled: u64,
    /// Bytes of compiled modules, if they are counted.
    pub module_bytes: u64,
    /// wasi-nn's own counters.
    pub nn: NnStats,
    /// By graph.
    pub inferences: Vec<InferenceTimes>,
    /// The number of the process that tasks run in, if it is another one.
    pub process: Option<u32>,
    /// Bytes of code that were fetched.
    pub fetched_bytes: u64,
    /// Compiled code that is kept, what was used last first.
    pub code: Vec<KeptCode>,
    /// Graphs that are kept, likewise.
    pub graphs: Vec<KeptGraph>,
    /// By HTTP server, whose number is bounded.
    pub servers: Vec<(TaskId, Served)>,
}
