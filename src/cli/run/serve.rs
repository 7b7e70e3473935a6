//! A guest that is an HTTP server.

use crate::cancel::{Cancel, Reason};
use crate::cli::signals;
use crate::runtime::{Door, Runtime};
use crate::task::{Failure, Outcome, TaskSpec};
use crate::worker;
use anyhow::{Context as _, anyhow};
use std::sync::Arc;

/// Serves until this program is interrupted.
pub(super) fn serve(runtime: &Runtime, spec: &TaskSpec) -> anyhow::Result<Outcome> {
    let serving = spec.grant().serving.as_ref().context("a guest that may not serve")?;
    let listener = worker::listen(serving.bind).map_err(|e| anyhow!(e))?;
    let address = listener.local_addr().context("the address of the server")?;
    let tokio = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let tokio = tokio.context("starting the server's threads")?;
    let _entered = tokio.enter();
    let cancel = Arc::<Cancel>::default();
    let interrupted = signals::interrupted()?;
    let ends = cancel.clone();
    tokio.spawn(async move {
        interrupted.await;
        ends.cancel(Reason::Stopped);
    });
    eprintln!("Serving HTTP on http://{address}/");
    let door = Door { listener, served: Box::new(|_| {}), stuck: Box::new(|| {}) };
    let mut outcome = runtime.serve(spec, door, &cancel);
    if outcome.verdict == Err(Failure::Stopped) {
        outcome.verdict = Ok(());
    }
    Ok(outcome)
}
