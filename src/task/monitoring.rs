//! What the manager wants to hear of a task's use of the machine.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What the manager wants to hear of a task's use of the machine: some of it
/// while the task runs, and all of it at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Monitoring {
    /// Time between two messages while it runs, at least [`Monitoring::SHORTEST`].
    pub interval: Duration,
    /// Processor time.
    pub cpu: bool,
    /// The guest's memory.
    pub memory: bool,
    /// Bytes read from and written to disks.
    pub disk: bool,
    /// The number of threads.
    pub threads: bool,
    /// The number of open files.
    pub files: bool,
}

impl Monitoring {
    /// The shortest interval, so that no task floods the broker.
    pub const SHORTEST: Duration = Duration::from_secs(1);
}
