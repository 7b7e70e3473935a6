//! What happens to deployments and invocations, and what is to be done.

use super::DeployNotice;
use crate::journal::{Deployed, Fingerprint, InvocationKey, Run, Step};
use crate::protocol::Invoke;
use crate::task::{Outcome, Rejection, TaskId, TaskSpec, Weight};
use bytes::Bytes;
use std::num::NonZeroU64;
use std::sync::Arc;

/// What happens.
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "it is moved once; a box would be an allocation for each invocation"
)]
pub enum DeployEvent {
    /// What the last process left. The first event, if there is a journal.
    Recovered {
        /// Deployed tasks, oldest first.
        deployed: Vec<Deployed>,
        /// Those that are to be prepared.
        preparing: Vec<(TaskId, Weight)>,
        /// Invocations that came, oldest first.
        invoked: Vec<InvocationKey>,
    },
    /// A task for which a place was reserved is prepared.
    Deployed {
        /// The run that prepared it.
        run: Run,
        /// The task.
        id: TaskId,
        /// Its message, without the state.
        fingerprint: Fingerprint,
    },
    /// A task is not prepared any more, and will not be deployed.
    NotDeployed(TaskId),
    /// A stop message.
    Stop(TaskId),
    /// An invoke message.
    Invoke {
        /// What it asks for, which a guest can be given.
        invoke: Invoke,
        /// The task is being prepared.
        preparing: bool,
    },
    /// The answer to [`DeployEffect::Load`].
    Loaded {
        /// The run.
        run: Run,
        /// Its task.
        id: TaskId,
        /// What is granted to it now.
        verdict: Result<TaskSpec, LoadError>,
    },
    /// The answer to [`DeployEffect::Submit`].
    Submitted {
        /// The invocation.
        number: NonZeroU64,
        /// Whether the queue has taken it.
        verdict: Result<(), Rejection>,
    },
    /// An invocation has ended.
    Ended {
        /// Which one.
        number: NonZeroU64,
        /// What came of it.
        outcome: Outcome,
    },
    /// The runtime has another process, in which nothing is prepared.
    Renewed,
    /// The answer to [`DeployEffect::Prepare`].
    Prepared {
        /// Its number.
        number: u64,
        /// The task.
        id: TaskId,
        /// It was not lost with its process, and has ended in time.
        ended: bool,
    },
    /// The time of [`Deployments::due`](super::Deployments::due) has come.
    Due,
    /// The worker ends: nothing more is taken.
    Draining,
}

/// Why a deployed task can't be invoked just now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoadError {
    /// What it was is gone.
    Lost(String),
    /// It may be possible later.
    Failed(String),
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum DeployEffect {
    /// To be written to the journal when there is time.
    Note(Step),
    /// To be written beside the journal before the message is acknowledged.
    Mark(InvocationKey),
    /// To be read back: what is granted to a deployed task.
    Load {
        /// The run.
        run: Run,
        /// Its task.
        id: TaskId,
    },
    /// To be queued.
    Submit {
        /// The invocation.
        number: NonZeroU64,
        /// The run that prepared its task.
        run: Run,
        /// What is to run.
        spec: TaskSpec,
    },
    /// A deployed task is to be prepared in the process that the runtime has now, in
    /// place of whatever is being prepared.
    Prepare {
        /// For the answer.
        number: u64,
        /// What prepares it.
        spec: Arc<TaskSpec>,
    },
    /// A queued or running invocation is to end.
    Cancel(TaskId),
    /// To be published.
    Answer {
        /// The invocation's task.
        task: TaskId,
        /// The message.
        answer: Bytes,
        /// Whether it is without an error.
        success: bool,
    },
    /// Somebody may want to know.
    Notice(DeployNotice),
}
