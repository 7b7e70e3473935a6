//! Counters, gauges and histograms of the worker, in the text format of
//! OpenMetrics.
//!
//! What happens is counted as it happens, through the methods of [`Metrics`];
//! what is (caches, memory) is asked of its owner when somebody looks (`collectors`). Labels
//! take their values from fixed lists (of graphs, from a bounded number of names),
//! so that no task can make the number of series grow.

mod collectors;
mod deployments;
mod labels;
mod levels;
mod manager;
mod propeller;
mod rounds;
mod servers;

use self::collectors::{AskedJournal, AskedRuntime};
use self::labels::{KINDS, OUTCOMES, PHASES, REASONS, kind};
use self::propeller::PropellerMetrics;
use crate::journal::JournalLevels;
use crate::mqtt::FailureKind;
use crate::task::{Outcome, Rejection, Timings};
use crate::version;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use std::fmt;
use std::time::Duration;

pub use deployments::DeploymentMetrics;
pub use labels::{outcome_label, rejection_label};
pub use levels::RuntimeLevels;
pub use manager::ManagerMetrics;
pub use rounds::RoundMetrics;

/// The media type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Upper bounds in seconds. A cached task takes a few milliseconds, a large
/// model some seconds to compile, and a task five minutes by default.
const BUCKETS: [f64; 16] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 100.0,
    300.0,
];

/// The worker's metrics. Everything is cheap enough for each task.
pub struct Metrics {
    registry: Registry,
    tasks: Family<ByOutcome, Counter>,
    refused: Family<ByReason, Counter>,
    phases: Family<ByPhase, Histogram, fn() -> Histogram>,
    module_hits: Counter,
    connections: Counter,
    disconnections: Family<ByKind, Counter>,
    connected: Gauge,
    queued: Gauge,
    running: Gauge,
    outbox: Gauge,
    executors: Gauge,
    queue_capacity: Gauge,
    inferences_running: Gauge,
    propeller: PropellerMetrics,
    /// Of results on their way to the manager.
    pub manager: ManagerMetrics,
    /// Of deployed tasks.
    pub deployments: DeploymentMetrics,
    /// Of federated rounds.
    pub rounds: RoundMetrics,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByOutcome {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByReason {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByPhase {
    phase: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByKind {
    kind: &'static str,
}

impl Metrics {
    /// All at zero. `levels` is asked at each look.
    pub fn new(levels: impl Fn() -> RuntimeLevels + Send + Sync + 'static) -> Metrics {
        let mut registry = Registry::default();
        let manager = ManagerMetrics::new(&mut registry);
        let deployments = DeploymentMetrics::new(&mut registry);
        let rounds = RoundMetrics::new(&mut registry);
        let propeller = PropellerMetrics::new(&mut registry);
        let mut metrics = Metrics {
            registry,
            tasks: Family::default(),
            refused: Family::default(),
            phases: Family::new_with_constructor(|| Histogram::new(BUCKETS)),
            module_hits: Counter::default(),
            connections: Counter::default(),
            disconnections: Family::default(),
            connected: Gauge::default(),
            queued: Gauge::default(),
            running: Gauge::default(),
            outbox: Gauge::default(),
            executors: Gauge::default(),
            queue_capacity: Gauge::default(),
            inferences_running: Gauge::default(),
            propeller,
            manager,
            deployments,
            rounds,
        };
        metrics.register(levels);
        // A series that begins with 1 has no rate.
        for outcome in OUTCOMES {
            drop(metrics.tasks.get_or_create(&ByOutcome { outcome }));
        }
        for reason in REASONS {
            drop(metrics.refused.get_or_create(&ByReason { reason }));
        }
        for phase in PHASES {
            drop(metrics.phases.get_or_create(&ByPhase { phase }));
        }
        for kind in KINDS.map(kind) {
            drop(metrics.disconnections.get_or_create(&ByKind { kind }));
        }
        metrics
    }

    fn register(&mut self, levels: impl Fn() -> RuntimeLevels + Send + Sync + 'static) {
        let registry = &mut self.registry;
        let build = Info::new(vec![
            ("version", version::VERSION),
            ("commit", version::COMMIT),
            ("backends", version::BACKENDS),
            ("runtime", version::WASMTIME),
        ]);
        registry.register("proplet_build", "What this worker is", build);
        registry.register("proplet_tasks", "Tasks that ended, by how", self.tasks.clone());
        registry.register(
            "proplet_tasks_refused",
            "Tasks that were not accepted, by why",
            self.refused.clone(),
        );
        registry.register_with_unit(
            "proplet_task_phase",
            "Where the time of tasks went",
            Unit::Seconds,
            self.phases.clone(),
        );
        registry.register(
            "proplet_module_cache_hits",
            "Tasks whose module had been compiled already",
            self.module_hits.clone(),
        );
        registry.register("proplet_connections", "Connections made", self.connections.clone());
        registry.register(
            "proplet_connection_failures",
            "Connections lost or not made, by why",
            self.disconnections.clone(),
        );
        registry.register(
            "proplet_connected",
            "Whether the broker has confirmed the connection and the subscriptions",
            self.connected.clone(),
        );
        registry.register("proplet_tasks_queued", "Tasks that wait", self.queued.clone());
        registry.register("proplet_tasks_running", "Tasks that run", self.running.clone());
        registry.register(
            "proplet_outbox_messages",
            "Results that the broker has not acknowledged",
            self.outbox.clone(),
        );
        for (name, help, gauge) in [
            ("proplet_executors", "Tasks that may run at the same time", &self.executors),
            ("proplet_queue_capacity", "Tasks that may wait", &self.queue_capacity),
            ("proplet_inferences_running", "Inferences under way", &self.inferences_running),
        ] {
            registry.register(name, help, gauge.clone());
        }
        registry.register_collector(Box::new(AskedRuntime::new(levels)));
    }

    /// The same with a journal, which is asked at each look.
    pub fn with_journal(
        mut self,
        levels: impl Fn() -> JournalLevels + Send + Sync + 'static,
    ) -> Metrics {
        self.registry.register_collector(Box::new(AskedJournal(levels)));
        self
    }

    /// What may run and wait at the same time.
    pub fn capacity(&self, executors: usize, queue: usize) {
        self.executors.set(i64::try_from(executors).unwrap_or(i64::MAX));
        self.queue_capacity.set(i64::try_from(queue).unwrap_or(i64::MAX));
    }

    /// Inferences under way, now.
    pub fn inferring(&self, running: usize) {
        self.inferences_running.set(i64::try_from(running).unwrap_or(i64::MAX));
    }

    /// A task was accepted.
    pub fn accepted(&self) {
        self.propeller.started();
    }

    /// A task ended.
    pub fn ended(&self, ended: &Outcome) {
        let outcome = outcome_label(&ended.verdict);
        self.propeller.ended(ended.verdict.is_ok());
        self.tasks.get_or_create(&ByOutcome { outcome }).inc();
        if ended.reuse.module {
            self.module_hits.inc();
        }
        let Timings { queued, compiled, loaded, ran, .. } = ended.timings;
        for (phase, took) in PHASES.into_iter().zip([queued, compiled, loaded, ran]) {
            // What never began is no observation of a quick one.
            if took > Duration::ZERO {
                self.phases.get_or_create(&ByPhase { phase }).observe(took.as_secs_f64());
            }
        }
    }

    /// A task was not accepted.
    pub fn refused(&self, rejection: &Rejection) {
        self.refused.get_or_create(&ByReason { reason: rejection_label(rejection) }).inc();
        // For the manager it was started, and has failed.
        self.propeller.started();
        self.propeller.ended(false);
    }

    /// A start message could not be read.
    pub fn malformed(&self) {
        self.refused.get_or_create(&ByReason { reason: "malformed" }).inc();
    }

    /// Connected and subscribed.
    pub fn connected(&self) {
        if self.connections.inc() > 0 {
            self.propeller.reconnected();
        }
        self.connected.set(1);
    }

    /// Not connected, or no more.
    pub fn disconnected(&self, failure: FailureKind) {
        self.disconnections.get_or_create(&ByKind { kind: kind(failure) }).inc();
        self.connected.set(0);
    }

    /// Tasks that wait and that run, now.
    pub fn load(&self, queued: usize, running: usize) {
        self.queued.set(i64::try_from(queued).unwrap_or(i64::MAX));
        self.running.set(i64::try_from(running).unwrap_or(i64::MAX));
    }

    /// A message that counts as in the outbox until this is dropped.
    pub fn outgoing(&self) -> OutgoingGuard {
        self.outbox.inc();
        OutgoingGuard(self.outbox.clone())
    }

    /// Everything, in the text format.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::with_capacity(16 << 10);
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// See [`Metrics::outgoing`].
#[derive(Debug)]
pub struct OutgoingGuard(Gauge);

impl Drop for OutgoingGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests;
