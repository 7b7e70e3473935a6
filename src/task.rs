//! The plain data of a task, from what was asked to what came of it.
//!
//! [`TaskRequest`] is what a message or a command line said, [`TaskSpec`] what
//! the policy has proven and granted, [`Outcome`] what happened. Nothing here
//! does I/O or depends on another module of this crate but [`crate::digest`] and
//! [`crate::escape`].

mod binary;
mod cause;
mod monitoring;
mod outcome;
mod rejection;
mod request;
mod round;
pub(crate) mod serialization;
mod spec;
mod state;

pub use binary::{Binary, ModuleSource, WeakBinary, is_web_address};
pub use monitoring::Monitoring;
pub use outcome::{Captured, Failure, Outcome, Reuse, Timings, gap, gap_in};
pub use rejection::Rejection;
pub use request::TaskRequest;
pub use round::{Round, RoundEnd, UpdateFate};
pub use spec::{
    Bind, Code, EntryPoint, Grant, GraphDir, Life, Limits, Preopen, Serving, TaskSpec, Weight,
};
pub use state::ManagerState;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

/// The manager's name for a task: any non-empty string of at most
/// [`TaskId::MAX_LEN`] bytes. What runs for an invocation of a deployed task is
/// known by that task's name and a number of its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskId {
    name: Arc<str>,
    invocation: Option<NonZeroU64>,
}

impl TaskId {
    /// The longest id in bytes. The manager uses UUIDs (36 bytes).
    pub const MAX_LEN: usize = 256;

    /// Checks the length.
    pub fn new(id: &str) -> Result<TaskId, InvalidTaskId> {
        match id.len() {
            0 => Err(InvalidTaskId::Empty),
            n if n > TaskId::MAX_LEN => Err(InvalidTaskId::TooLong(n)),
            _ => Ok(TaskId { name: id.into(), invocation: None }),
        }
    }

    /// The id as the manager wrote it.
    pub fn as_str(&self) -> &str {
        &self.name
    }

    /// Of the invocation of this task that has this number.
    pub fn with_invocation(&self, number: NonZeroU64) -> TaskId {
        TaskId { name: self.name.clone(), invocation: Some(number) }
    }

    /// The number of the invocation, if this is the id of one.
    pub fn invocation(&self) -> Option<NonZeroU64> {
        self.invocation
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        match self.invocation {
            Some(number) => write!(f, " (invocation {number})"),
            None => Ok(()),
        }
    }
}

impl Serialize for TaskId {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.name)
    }
}

impl<'de> Deserialize<'de> for TaskId {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<TaskId, D::Error> {
        TaskId::new(&String::deserialize(from)?).map_err(de::Error::custom)
    }
}

/// Why a string is not a task's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTaskId {
    /// The id is the empty string.
    #[error("the task's `id` is empty")]
    Empty,
    /// The id is longer than [`TaskId::MAX_LEN`]; its length in bytes.
    #[error("the task's `id` has {0} bytes, more than {max}", max = TaskId::MAX_LEN)]
    TooLong(usize),
}

/// In milliseconds, to the microsecond. A division by 1000 gives the double nearest
/// to the three decimals, which JSON then prints as just these.
pub fn milliseconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1e3
}

/// A duration as a person writes it: `300ms`, `5s`, `1.5s`.
pub fn humantime(duration: Duration) -> String {
    if duration.subsec_nanos() == 0 {
        format!("{}s", duration.as_secs())
    } else if duration < Duration::from_secs(1) {
        format!("{}ms", duration.as_secs_f64() * 1e3)
    } else {
        format!("{}s", duration.as_secs_f64())
    }
}
