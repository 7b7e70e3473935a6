//! What happens to tasks, and what is to be done about it.

use super::LedgerNotice;
use crate::journal::{Arrival, Fingerprint, Recovered, Run, Step};
use crate::mqtt::Receipt;
use crate::protocol::TaskResult;
use crate::queue::Admission;
use crate::task::{Outcome, Rejection, TaskId, TaskRequest, TaskSpec, Weight};
use bytes::Bytes;
use std::time::{Duration, Instant, SystemTime};

/// The time of an event.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// By the clock that never jumps.
    pub instant: Instant,
    /// By the wall clock, for what is compared after a restart.
    pub wall: SystemTime,
}

impl Now {
    /// The clocks of this machine.
    pub fn read() -> Now {
        Now { instant: Instant::now(), wall: SystemTime::now() }
    }

    /// A time of the wall clock by the other one; none if that was before it
    /// began.
    pub(super) fn instant_of(self, at: SystemTime) -> Option<Instant> {
        // In the future: the clock was set back meanwhile.
        let age = self.wall.duration_since(at).unwrap_or_default();
        self.instant.checked_sub(age)
    }
}

/// A start message; `A` is the right to acknowledge it.
#[derive(Debug)]
pub struct Start<A> {
    /// Which task, and what identifies the message.
    pub arrival: Arrival,
    /// What it asks for, or why that can't be read.
    pub content: Result<TaskRequest, Rejection>,
    /// The broker says that it has sent it before.
    pub duplicate: bool,
    /// By which the ledger hears of the acknowledgement's arrival; none for a
    /// message that has no acknowledgement.
    pub receipt: Option<Receipt>,
    /// The right to acknowledge it.
    pub ack: A,
}

/// What happens.
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "it is moved once or twice; a box would be an allocation for each task"
)]
pub enum LedgerEvent<A> {
    /// What the last process left. The first event, if there is a journal.
    Recovered(Recovered),
    /// A start message.
    Start(Start<A>),
    /// A stop message.
    Stop {
        /// For which task.
        id: TaskId,
        /// The right to acknowledge it.
        ack: A,
    },
    /// The answer to [`LedgerEffect::Admit`].
    Admitted {
        /// The run.
        run: Run,
        /// Its task.
        id: TaskId,
        /// What was asked for, and what is granted.
        verdict: Result<(TaskRequest, TaskSpec), Rejection>,
    },
    /// The answer to [`LedgerEffect::Submit`], [`LedgerEffect::Resubmit`],
    /// [`LedgerEffect::StartAgain`] and [`LedgerEffect::Serve`], before any other event.
    Submitted {
        /// The run.
        run: Run,
        /// Its task.
        id: TaskId,
        /// What was asked for; none of what is on the disk already.
        request: Option<TaskRequest>,
        /// Whether the queue has taken it.
        verdict: Result<(), Rejection>,
    },
    /// What was to follow a record, which is on the disk.
    Durable(After<A>),
    /// A task has ended.
    Ended {
        /// Which one.
        id: TaskId,
        /// What came of it.
        outcome: Outcome,
    },
    /// A running task is an HTTP server, and listens at this port.
    Serves {
        /// Which one.
        id: TaskId,
        /// Where.
        port: u16,
    },
    /// A task was ended before its time, for the next process to run it again.
    CutShort(TaskId),
    /// A daemon has run for as long as it takes to trust it.
    Lasted(TaskId),
    /// The broker has the result of a run, or a replay of it is given up.
    Delivered {
        /// The run.
        run: Run,
        /// Its task.
        id: TaskId,
    },
    /// The broker will never have the result of a run, but perhaps this one.
    Undeliverable {
        /// The run.
        run: Run,
        /// Its task.
        id: TaskId,
        /// What is to be published instead.
        instead: TaskResult,
    },
    /// The broker has the acknowledgements of a connection's messages up to and
    /// including this one.
    Acknowledged(Receipt),
    /// The worker ends: nothing more is accepted.
    Draining,
}

/// What is to be done.
#[derive(Debug, PartialEq)]
#[allow(
    clippy::large_enum_variant,
    reason = "it is moved once or twice; a box would be an allocation for each task"
)]
pub enum LedgerEffect<A> {
    /// To be written to the journal; `then` comes back as [`LedgerEvent::Durable`].
    Record {
        /// What.
        step: Step,
        /// What follows.
        then: After<A>,
    },
    /// To be written when there is time.
    Note(Step),
    /// The broker may forget a message.
    Acknowledge(A),
    /// To be looked up beside the event loop: what the task may have.
    Admit {
        /// The run.
        run: Run,
        /// What is asked for.
        request: TaskRequest,
    },
    /// To be queued, and held until [`LedgerEffect::Release`].
    Submit {
        /// The run.
        run: Run,
        /// What was asked for, to be handed back.
        request: TaskRequest,
        /// What was granted.
        spec: TaskSpec,
    },
    /// To be queued: a run of an earlier process, which is on the disk.
    Resubmit {
        /// The run.
        run: Run,
        /// Its task.
        id: TaskId,
        /// What it takes up.
        weight: Weight,
        /// How.
        admission: Admission,
    },
    /// A daemon of an earlier process is to be started, after a wait.
    StartAgain {
        /// The run.
        run: Run,
        /// Its task.
        id: TaskId,
        /// What it takes up.
        weight: Weight,
        /// How long.
        wait: Duration,
        /// Of an HTTP server: where it listened.
        port: Option<u16>,
    },
    /// An HTTP server is to serve.
    Serve {
        /// The run.
        run: Run,
        /// Its task.
        id: TaskId,
    },
    /// A task that was submitted as held may run.
    Release(TaskId),
    /// A queued or running task is to end.
    Stop(TaskId),
    /// A result is to be sent.
    Publish(Publication),
    /// A latent task is prepared: it takes invocations from now on.
    Deploy {
        /// The run that has prepared it.
        run: Run,
        /// The task.
        id: TaskId,
        /// Its message, without the state.
        fingerprint: Fingerprint,
    },
    /// A latent task was not prepared after all; the manager hears why.
    NotDeployed(TaskId),
    /// What was published for this task is over: the manager must not hear it
    /// by the worker's own initiative any more.
    Superseded(TaskId),
    /// Somebody may want to know.
    Notice(LedgerNotice),
}

/// What follows a record once it can't be lost.
#[derive(Debug, PartialEq)]
pub enum After<A> {
    /// The broker may forget the message.
    Acknowledge(A),
    /// That, and the task may run.
    Release {
        /// The run.
        run: Run,
        /// Its task.
        id: TaskId,
        /// The right to acknowledge its message.
        ack: A,
    },
    /// A result goes out, and the broker may forget the message that it
    /// answers at once.
    Publish {
        /// The result.
        publication: Publication,
        /// The right to acknowledge that message.
        ack: Option<A>,
    },
}

/// A result on its way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    /// The run that it is of.
    pub run: Run,
    /// Its task.
    pub id: TaskId,
    /// The message.
    pub result: Bytes,
    /// When the start came that it answers; none if that was before this
    /// process.
    pub arrived: Option<Instant>,
    /// The broker has had this result before; this one says so.
    pub replay: bool,
}
