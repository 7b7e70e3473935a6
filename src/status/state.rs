//! What the worker does, as its loop tells.

/// What the worker does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WorkerState {
    /// It has no connection.
    Connecting,
    /// It is connected and subscribed.
    Serving,
    /// It takes no new tasks.
    Draining,
}
