//! What was lost of the journal, in words.

use super::Loss;
use super::sequence::Sequence;
use crate::task::TaskId;
use std::fmt;

impl From<Sequence> for Loss {
    fn from(Sequence { steps, accepted }: Sequence) -> Loss {
        Loss::Newest { steps, accepted }
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Loss::Record(run) => write!(
                f,
                "the record of run {} is damaged: which task it was of is not known, and no result \
                 of it will follow",
                run.0
            ),
            Loss::Records(records) => write!(
                f,
                "{records} records are missing: which tasks they were of is not known, and no \
                 result of them will follow"
            ),
            Loss::Newest { steps, accepted } => write!(
                f,
                "its newest {steps} steps are missing, although they were on the disk: {accepted} \
                 tasks may have no result, others may run again"
            ),
            Loss::Result(id, true) => {
                write!(f, "the recorded result of task {id} is damaged; it had been delivered")
            }
            Loss::Result(id, false) => write!(
                f,
                "the recorded result of task {id} is damaged, and the broker had not acknowledged it"
            ),
        }
    }
}

impl Loss {
    /// The task that has no result yet because of it.
    pub fn unanswered(&self) -> Option<&TaskId> {
        match self {
            Loss::Result(id, false) => Some(id),
            Loss::Record(_) | Loss::Records(_) | Loss::Newest { .. } | Loss::Result(..) => None,
        }
    }
}
