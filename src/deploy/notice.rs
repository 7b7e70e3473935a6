//! What the log says of deployments and invocations.

use crate::task::TaskId;
use tracing::{debug, error, info, warn};

/// Something that whoever operates the worker may want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeployNotice {
    /// So many deployments of an earlier process.
    TakingOver(usize),
    /// A task takes invocations.
    Deployed(TaskId),
    /// Another one took them before.
    Replaced(TaskId),
    /// The one before goes on, because the new one could not be prepared.
    NotReplaced(TaskId),
    /// A task was stopped.
    Removed(TaskId),
    /// What was deployed is gone, and why.
    Lost(TaskId, String),
    /// An invocation came again.
    SameInvocation(TaskId),
    /// An invocation was not taken.
    Refused {
        /// Of which task.
        id: TaskId,
        /// Why.
        reason: String,
    },
}

impl DeployNotice {
    /// Writes it to the log.
    pub fn log(&self) {
        match self {
            DeployNotice::TakingOver(tasks) => info!(tasks, "taking over deployed tasks"),
            DeployNotice::Deployed(id) => info!(task = %id, "task deployed: it takes invocations"),
            DeployNotice::Replaced(id) => {
                info!(task = %id, "task deployed in place of the one before it");
            }
            DeployNotice::NotReplaced(id) => {
                warn!(task = %id, "the deployment before the one that failed goes on");
            }
            DeployNotice::Removed(id) => info!(task = %id, "the deployment is removed"),
            DeployNotice::Lost(id, reason) => {
                error!(task = %id, "the deployment is lost: {reason}")
            }
            DeployNotice::SameInvocation(id) => {
                debug!(task = %id, "an invocation that was taken before is passed over");
            }
            DeployNotice::Refused { id, reason } => {
                warn!(task = %id, "invocation refused: {reason}")
            }
        }
    }
}
