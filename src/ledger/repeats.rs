//! Which start of a task that has ended is a new run, and which one gets the
//! result that is remembered once more. For tasks that run once.
//!
//! | the start | gets |
//! |---|---|
//! | is the very message that began the remembered run | its result, a failure's too |
//! | state 3 to 6: the manager has an end | a new run |
//! | state 2: the manager has missed the result | the result of a success with the same content, once; else a new run |
//! | state 0, 1, any other or none | the same, for 60 s after the success and any number of times |
//!
//! It is that very message if the broker marks it as sent before, its content is
//! the same, the state included, and the broker is not known to have its
//! acknowledgement. The mark alone says nothing: a broker sets it on a message
//! that was never taken from a half-open connection, too.
//!
//! A stop of a task that has ended takes its result away from later starts, not
//! from that very message. A start that has got a result again is known like
//! the one that began the run: if it comes once more, it gets the same.

use super::history::Remembered;
use crate::journal::Arrival;
use crate::task::ManagerState::{
    Completed, Failed, Interrupted, Other, Pending, Running, Scheduled, Skipped,
};
use std::time::{Duration, Instant};

/// How long a success answers a start that says nothing of its own time.
pub(super) const RECENT: Duration = Duration::from_secs(60);

/// Why a start gets a result again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// It is the very message that began the run.
    SameMessage,
    /// It asks for what has been done.
    Answer,
}

/// What a start repeats of this run; none: it is a new run. `duplicate`: the
/// broker says that it has sent the message before.
pub(super) fn repeats(
    run: &Remembered,
    start: &Arrival,
    duplicate: bool,
    now: Instant,
) -> Option<Repeat> {
    if run.fingerprint != start.fingerprint {
        return None;
    }
    if duplicate && run.state == start.state && !run.acknowledged {
        return Some(Repeat::SameMessage);
    }
    if duplicate && run.answered.is_some_and(|(state, _)| state == start.state) {
        return Some(Repeat::Answer);
    }
    let recent = || run.ended.is_some_and(|at| now.saturating_duration_since(at) < RECENT);
    let again = match start.state {
        Some(Completed | Failed | Skipped | Interrupted) => false,
        Some(Running) => !run.replayed,
        Some(Pending | Scheduled | Other(_)) | None => recent(),
    };
    (again && run.success && !run.stopped).then_some(Repeat::Answer)
}
