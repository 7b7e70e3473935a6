//! What is told of deployed tasks and their invocations.

use super::ByOutcome;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// See the module's documentation.
#[derive(Debug)]
pub struct DeploymentMetrics {
    daemons: Gauge,
    deployments: Gauge,
    invocations: Family<ByOutcome, Counter>,
}

impl DeploymentMetrics {
    pub(super) fn new(registry: &mut Registry) -> DeploymentMetrics {
        let (daemons, deployments) = (Gauge::default(), Gauge::default());
        let invocations = Family::default();
        registry.register("proplet_daemons", "Daemons that run", daemons.clone());
        registry.register("proplet_deployments", "Latent tasks deployed", deployments.clone());
        registry.register(
            "proplet_invocations",
            "Invocations answered, by how",
            Family::clone(&invocations),
        );
        let metrics = DeploymentMetrics { daemons, deployments, invocations };
        // A series that begins with 1 has no rate.
        for outcome in ["completed", "failed"] {
            drop(metrics.invocations.get_or_create(&ByOutcome { outcome }));
        }
        metrics
    }

    /// So many daemons run now.
    pub fn daemons(&self, running: usize) {
        self.daemons.set(i64::try_from(running).unwrap_or(i64::MAX));
    }

    /// So many tasks are deployed now.
    pub fn deployed(&self, tasks: usize) {
        self.deployments.set(i64::try_from(tasks).unwrap_or(i64::MAX));
    }

    /// An invocation was answered.
    pub fn answered(&self, success: bool) {
        let outcome = if success { "completed" } else { "failed" };
        self.invocations.get_or_create(&ByOutcome { outcome }).inc();
    }
}
