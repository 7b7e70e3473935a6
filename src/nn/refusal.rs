//! How a call of a guest comes to nothing: an errno for the guest with a
//! sentence for the task's report, or the end of the task.

use std::fmt;

use crate::cancel::Reason;

/// `nn_errno` of wasi-nn's WITX.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Errno {
    /// An argument is out of range or does not fit the graph.
    InvalidArgument = 1,
    /// The encoding is unknown, or not that of the bytes.
    InvalidEncoding = 2,
    /// The module exports no memory.
    MissingMemory = 3,
    /// The backend failed.
    RuntimeError = 5,
    /// Not served, or not in this state.
    UnsupportedOperation = 6,
    /// Over a limit, or over the guest's buffer.
    TooLarge = 7,
    /// No graph of that name.
    NotFound = 8,
}

/// What the guest is told (a number) and what the task's report says (a
/// sentence without its full stop).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) errno: Errno,
    pub(super) text: String,
}

impl Refusal {
    pub(super) fn new(errno: Errno, text: impl Into<String>) -> Refusal {
        Refusal { errno, text: text.into() }
    }

    /// An argument that does not fit.
    pub(super) fn argument(text: impl Into<String>) -> Refusal {
        Refusal::new(Errno::InvalidArgument, text)
    }

    /// Something over a limit.
    pub(super) fn too_large(text: impl Into<String>) -> Refusal {
        Refusal::new(Errno::TooLarge, text)
    }

    /// A failure of the backend's own.
    pub(super) fn runtime(text: impl Into<String>) -> Refusal {
        Refusal::new(Errno::RuntimeError, text)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Why a call came to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Halt {
    /// The guest gets an errno and may go on.
    Refused(Refusal),
    /// The task is to end.
    Cancelled(Reason),
}

impl Halt {
    /// What a user is told where no guest is there to be told an errno.
    pub(super) fn sentence(self) -> String {
        match self {
            Halt::Refused(refusal) => refusal.text,
            Halt::Cancelled(_) => "the task ended while its graphs were loaded".to_owned(),
        }
    }
}

impl From<Refusal> for Halt {
    fn from(refusal: Refusal) -> Halt {
        Halt::Refused(refusal)
    }
}
