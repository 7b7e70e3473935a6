//! The worker's answers over HTTP: `/health`, `/ready`, `/status`, `/metrics`.
//!
//! ```text
//! GET /health   200 while the process lives and its loop turns, else 503
//! GET /ready    200 while it is connected, subscribed and takes tasks, else 503
//! GET /status   what it does and holds, as JSON: see `report`
//! GET /metrics  OpenMetrics for who asks for it, else Prometheus' text
//! ```
//!
//! It only looks: nothing can be changed through it, and nothing that it shows
//! is a secret.

mod ask;
mod health;
mod prometheus;
pub(crate) mod report;
mod server;
pub(crate) mod service;
mod state;

pub(crate) use ask::{ask, ask_status};
pub(crate) use health::{Health, WorkerState};
pub(crate) use server::serve;

use crate::metrics::Metrics;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

/// How long the worker's loop may take to tell what it does.
const TELL: Duration = Duration::from_secs(2);

/// What the answers are made of.
pub(crate) struct Status {
    /// The worker, by its client id.
    pub(crate) proplet_id: String,
    pub(crate) health: Health,
    pub(crate) metrics: Metrics,
    pub(crate) sources: Sources,
}

/// Asks the worker's loop what it does.
pub(crate) type AskWork = UnboundedSender<oneshot::Sender<report::LoopReport>>;

/// What `/status` is made of.
pub(crate) struct Sources {
    /// What does not change.
    pub(crate) fixed: RwLock<report::Report>,
    /// The loop.
    pub(crate) work: AskWork,
    /// The runtime and its caches.
    pub(crate) runtime: Box<AskRuntime>,
    /// The journal, if there is one.
    pub(crate) journal: Box<dyn Fn() -> Option<report::JournalReport> + Send + Sync>,
}

/// Tells how the runtime is and what it keeps, or told last; may wait for it.
pub(crate) type AskRuntime =
    dyn Fn() -> (report::RuntimeReport, report::CachesReport) + Send + Sync;

impl Status {
    /// What it lacks to take tasks.
    fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        match self.health.state() {
            WorkerState::Serving => {}
            WorkerState::Connecting => missing.push(match self.health.failure() {
                Some(failure) => format!("there is no connection to the broker: {failure}"),
                None => "there is no connection to the broker so far".into(),
            }),
            WorkerState::Draining => {
                missing.push("the worker is shutting down and takes no new tasks".into());
            }
        }
        missing.extend(self.health.unavailable());
        missing.extend(self.health.stuck().map(stuck));
        missing
    }

    /// The configuration has changed.
    pub(crate) fn set_fixed(&self, fixed: report::Report) {
        *self.sources.fixed.write().unwrap_or_else(PoisonError::into_inner) = fixed;
    }

    // It is replaced in one step.
    fn fixed(&self) -> report::Report {
        self.sources.fixed.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn report(self: &Arc<Status>) -> report::Report {
        let (asker, answer) = oneshot::channel();
        let asked = self.sources.work.send(asker).is_ok();
        let status = self.clone();
        let runtime = tokio::task::spawn_blocking(move || (status.sources.runtime)());
        let work = tokio::time::timeout(TELL, answer).await.ok().and_then(Result::ok);
        let (runtime, caches) = runtime.await.unwrap_or_default();
        let missing = self.missing();
        let state = match self.health.state() {
            _ if asked && work.is_none() => "stuck",
            WorkerState::Connecting => "connecting",
            WorkerState::Serving => "serving",
            WorkerState::Draining => "draining",
        };
        report::Report {
            schema: report::SCHEMA,
            proplet_id: self.proplet_id.clone(),
            uptime: report::seconds(self.health.uptime()),
            state: state.into(),
            ready: missing.is_empty(),
            missing,
            note: self.health.note(),
            work,
            runtime,
            caches: Some(caches),
            journal: (self.sources.journal)(),
            ..self.fixed()
        }
    }
}

fn stuck(idle: Duration) -> String {
    format!("the worker's loop has not turned for {} s", idle.as_secs())
}
