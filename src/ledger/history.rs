//! What is remembered of a run that has ended.

use crate::digest::Digest;
use crate::journal::{Fingerprint, Run};
use crate::mqtt::Receipt;
use crate::task::ManagerState;
use bytes::Bytes;
use std::time::Instant;

/// A run that has ended.
#[derive(Clone, Debug)]
pub(super) struct Remembered {
    pub(super) run: Run,
    /// Of its message: the content without the state, and the state.
    pub(super) fingerprint: Fingerprint,
    pub(super) state: Option<ManagerState>,
    /// None if that was before the clock began.
    pub(super) ended: Option<Instant>,
    pub(super) success: bool,
    pub(super) result: Bytes,
    /// The broker has the result.
    pub(super) delivered: bool,
    /// The broker is known to have the acknowledgement of the message.
    pub(super) acknowledged: bool,
    /// A stop came after the end.
    pub(super) stopped: bool,
    /// It has answered a start with state 2.
    pub(super) replayed: bool,
    /// The start that it has answered last, by its state, while the broker is
    /// not known to have the acknowledgement of that.
    pub(super) answered: Option<(Option<ManagerState>, Receipt)>,
}

impl Remembered {
    /// A run that ended now, of a message that will not be recognised.
    pub(super) fn new(success: bool, result: Bytes, now: Instant) -> Remembered {
        Remembered {
            run: Run(0),
            fingerprint: Digest::of(&result),
            state: None,
            ended: Some(now),
            success,
            result,
            delivered: false,
            acknowledged: true,
            stopped: false,
            replayed: false,
            answered: None,
        }
    }
}
