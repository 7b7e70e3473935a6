//! The manager's side of a result: when it leaves, and whether it arrived.
//!
//! The broker's acknowledgement says nothing about the manager. That publishes a
//! start first and stores the task as Running afterwards, the whole record, so
//! a result that is quick is overwritten; and it hears nothing after its
//! connection was lost. So results are
//!
//! ```text
//! held       until 5 ms after their start came
//! repeated   2 s and 10 s after the broker has them, if they were quick
//! confirmed  where the manager can be asked: 15 s later, and again if it has none
//! ```
//!
//! and the manager is asked whether it hears this worker at all.
//!
//! Tasks of federated rounds ([`Rounds`]) have services of their own, which are asked
//! over HTTP, too.
//!
//! What is due when is pure state, by the time that is handed in; only
//! [`ManagerClient`] and [`Rounds`] do I/O, and nothing here knows the broker.

mod agent;
mod answer;
mod client;
mod confirm;
mod liveness;
mod results;
mod rounds;

pub use answer::{Decision, ManagerTask, Resolution, TaskAnswer, decide};
pub use client::{Ask, Asker, ManagerClient, ManagerPlace, ManagerReply};
pub use confirm::{Concluded, Confirmations, NextStep, Question};
pub use liveness::{Change, Complaint, DEAF, Heard, Hearing};
pub use results::{Action, Departure, Results, Timing};
pub use rounds::{HostPort, MissingData, RoundServices, RoundTimes, Rounds, Service, place};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC};

/// What stands for itself in a path (RFC 3986, section 2.3).
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
