//! The two kinds of sessions of a broker.

use serde::{Deserialize, Serialize};

/// Whether the broker is asked to forget this client when a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CleanSession {
    /// Only if it drops connections that ask for anything else, and has never
    /// accepted one.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// What a broker has granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SessionKind {
    /// It outlives the connection: messages that come meanwhile wait.
    Persistent,
    /// It ends with the connection: messages that come meanwhile are lost.
    Clean,
}
