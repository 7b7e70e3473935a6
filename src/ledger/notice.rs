//! What the log says of tasks.

use crate::journal::{Loss, Run};
use crate::task::{Rejection, TaskId};
use tracing::{debug, error, info, warn};

/// Something that whoever operates the worker may want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LedgerNotice {
    /// A task is on the disk, and will run.
    Accepted(TaskId),
    /// A task was not accepted.
    Refused {
        /// Which one.
        id: TaskId,
        /// Why.
        rejection: Rejection,
    },
    /// A start of a task that is queued or running is ignored.
    Underway {
        /// Which one.
        id: TaskId,
        /// Whether it asks for the same.
        same: bool,
    },
    /// A start gets the result of a run that has ended.
    Replayed {
        /// Which task.
        id: TaskId,
        /// Which run.
        run: Run,
    },
    /// A start whose answer is on its way already.
    OnItsWay(TaskId),
    /// A queued or running task is stopped.
    Stopping(TaskId),
    /// A task is stopped that was not admitted yet.
    Withdrawn(TaskId),
    /// There is no such task.
    NothingToStop(TaskId),
    /// A task was ended for the next process to run it again.
    CutShort(TaskId),
    /// A start is left to the next process.
    LeftToNext(TaskId),
    /// The last process has left something.
    TakingOver {
        /// Tasks without a result.
        tasks: usize,
        /// Results that the broker does not have.
        results: usize,
    },
    /// A task that was running when the last process died runs again.
    RunningAgain {
        /// Which one.
        id: TaskId,
        /// How often the process died while it ran alone.
        deaths: u32,
    },
    /// It does not.
    NotRunAgain {
        /// Which one.
        id: TaskId,
        /// Why.
        why: String,
    },
    /// A daemon of an earlier process is started.
    DaemonAgain {
        /// Which one.
        id: TaskId,
        /// How often in a row by now.
        times: u32,
    },
    /// A daemon has ended after a stop.
    DaemonStopped(TaskId),
    /// Something could not be read from the journal.
    Lost(Loss),
    /// The executor speaks of a task that it was not given: a fault of ours.
    NeverBegun(TaskId),
}

impl LedgerNotice {
    /// Writes it to the log.
    pub fn log(&self) {
        match self {
            LedgerNotice::Accepted(id) => info!(task = %id, "task accepted"),
            LedgerNotice::Refused { id, rejection } => {
                warn!(task = %id, "task refused: {rejection}")
            }
            LedgerNotice::Underway { id, same: true } => {
                debug!(task = %id, "the task is queued or running already");
            }
            LedgerNotice::Underway { id, same: false } => warn!(
                task = %id,
                "a start with other content for a task that is queued or running was ignored"
            ),
            LedgerNotice::Replayed { id, run } => info!(
                task = %id,
                run = run.0,
                "a repeated start: publishing the task's result again, marked as replayed"
            ),
            LedgerNotice::OnItsWay(id) => {
                info!(task = %id, "a repeated start: the task's result is on its way");
            }
            LedgerNotice::Stopping(id) | LedgerNotice::Withdrawn(id) => {
                info!(task = %id, "stopping the task");
            }
            LedgerNotice::NothingToStop(id) => {
                info!(task = %id, "a stop for a task that is neither queued nor running");
            }
            LedgerNotice::CutShort(id) => {
                info!(task = %id, "cut short: the next process runs the task again");
            }
            LedgerNotice::LeftToNext(id) => {
                debug!(task = %id, "shutting down: a start is left to the next process");
            }
            LedgerNotice::TakingOver { tasks, results } => {
                info!(tasks, results, "taking over what the last process left");
            }
            LedgerNotice::RunningAgain { id, deaths } => {
                info!(task = %id, deaths, "running the task again");
            }
            LedgerNotice::DaemonAgain { id, times } => {
                info!(task = %id, times, "starting the daemon of an earlier process again");
            }
            LedgerNotice::DaemonStopped(id) => info!(task = %id, "the daemon has stopped"),
            LedgerNotice::NotRunAgain { id, why } => {
                warn!(task = %id, "the task is not run again: {why}");
            }
            LedgerNotice::Lost(loss) => error!("the journal is damaged: {loss}"),
            LedgerNotice::NeverBegun(id) => {
                error!(task = %id, "internal error: a task ended that had not begun");
            }
        }
    }
}
