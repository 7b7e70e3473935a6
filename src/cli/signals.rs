//! What the user says from outside: Ctrl-C, or SIGTERM.

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};

/// Exit code after a signal, as a shell reports an interrupt.
pub(super) const INTERRUPTED: u8 = 130;

/// Listens from now on; the future is ready at the first signal.
pub(super) fn interrupted() -> anyhow::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}
