//! What the service manager is told (`Type=notify` of systemd): that the worker
//! has started, what it does, that it ends. Without one, nothing is told.

use super::state::WorkerState;
use sd_notify::NotifyState;

/// The worker has started: its configuration is good, its journal is open and
/// tasks can be run. That there is a broker is not awaited: the worker does.
pub(crate) fn started() {
    tell(&[NotifyState::Ready, NotifyState::Status("connecting to the broker")]);
}

/// It reads its configuration again.
pub(crate) fn reloading() {
    let mut states = vec![NotifyState::Reloading];
    states.extend(NotifyState::monotonic_usec_now().ok());
    tell(&states);
}

/// It has.
pub(crate) fn reloaded() {
    tell(&[NotifyState::Ready]);
}

/// What it does now.
pub(super) fn does(state: WorkerState) {
    match state {
        WorkerState::Connecting => tell(&[NotifyState::Status("connecting to the broker")]),
        WorkerState::Serving => tell(&[NotifyState::Status("serving")]),
        WorkerState::Draining => {
            tell(&[NotifyState::Stopping, NotifyState::Status("finishing tasks")])
        }
    }
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(states) {
        tracing::warn!("the service manager can't be notified: {e}");
    }
}
