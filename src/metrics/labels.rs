//! The fixed lists from which labels take their values.

use crate::mqtt::FailureKind;
use crate::task::{Failure, Rejection};

pub(super) const OUTCOMES: [&str; 18] = [
    "completed",
    "module",
    "graph",
    "directory",
    "recall",
    "port",
    "trap",
    "fault",
    "exit",
    "timeout",
    "stopped",
    "shutting_down",
    "fatal",
    "crash",
    "restarts",
    "stuck",
    "internal",
    "round",
];
pub(super) const REASONS: [&str; 7] =
    ["argument", "unsupported", "module", "directory", "busy", "shutting_down", "malformed"];
pub(super) const PHASES: [&str; 4] = ["queued", "compiled", "loaded", "ran"];
pub(super) const KINDS: [FailureKind; 11] = [
    FailureKind::Dns,
    FailureKind::Unreachable,
    FailureKind::Timeout,
    FailureKind::Tls,
    FailureKind::Credentials,
    FailureKind::Unavailable,
    FailureKind::Subscription,
    FailureKind::Dropped,
    FailureKind::Closed,
    FailureKind::TakenOver,
    FailureKind::Protocol,
];

/// How a task ended, in a word.
pub fn outcome_label(verdict: &Result<(), Failure>) -> &'static str {
    match verdict {
        Ok(()) => "completed",
        Err(Failure::Module(_)) => "module",
        Err(Failure::Graph(_)) => "graph",
        Err(Failure::Directory(_)) => "directory",
        Err(Failure::Recall(_)) => "recall",
        Err(Failure::Port(_)) => "port",
        Err(Failure::Trap(_)) => "trap",
        Err(Failure::Fault(_)) => "fault",
        Err(Failure::Exit(_)) => "exit",
        Err(Failure::Timeout(_)) => "timeout",
        Err(Failure::Stopped) => "stopped",
        Err(Failure::ShuttingDown) => "shutting_down",
        Err(Failure::Fatal(_)) => "fatal",
        Err(Failure::Crash(_)) => "crash",
        Err(Failure::Restarts { .. }) => "restarts",
        Err(Failure::Stuck(_)) => "stuck",
        Err(Failure::Serves | Failure::Internal(_)) => "internal",
        Err(Failure::Round(_)) => "round",
    }
}

/// Why a task was not accepted, in a word.
pub fn rejection_label(rejection: &Rejection) -> &'static str {
    match rejection {
        Rejection::Malformed(_) => "malformed",
        Rejection::Argument(_) => "argument",
        Rejection::Unsupported(_) => "unsupported",
        Rejection::Module(_) => "module",
        Rejection::Directory(_) => "directory",
        Rejection::Busy { .. }
        | Rejection::BusyBytes { .. }
        | Rejection::BusyMemory { .. }
        | Rejection::Deployments { .. }
        | Rejection::Daemons { .. }
        | Rejection::DeploymentBytes { .. }
        | Rejection::Admission { .. } => "busy",
        Rejection::ShuttingDown => "shutting_down",
    }
}

pub(super) fn kind(kind: FailureKind) -> &'static str {
    match kind {
        FailureKind::Dns => "dns",
        FailureKind::Unreachable => "unreachable",
        FailureKind::Timeout => "timeout",
        FailureKind::Tls => "tls",
        FailureKind::Credentials => "credentials",
        FailureKind::Unavailable => "unavailable",
        FailureKind::Subscription => "subscription",
        FailureKind::Dropped => "dropped",
        FailureKind::Closed => "closed",
        FailureKind::TakenOver => "taken_over",
        FailureKind::Protocol => "protocol",
    }
}
