//! What became of results on their way to the manager.

use crate::manager::Resolution;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Counters of results, and whether the manager hears the worker.
#[derive(Debug, Default)]
pub struct ManagerMetrics {
    repeated: Counter,
    let_go: Counter,
    waiting: Gauge,
    over: Family<ByHow, Counter>,
    published_again: Counter,
    unanswered: Counter,
    deaf: Gauge,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByHow {
    how: &'static str,
}

const OVER: [Resolution; 7] = [
    Resolution::Ended,
    Resolution::StartedAgain,
    Resolution::Elsewhere,
    Resolution::Unknown,
    Resolution::GivenUp,
    Resolution::LetGo,
    Resolution::Replaced,
];

fn how(over: Resolution) -> &'static str {
    match over {
        Resolution::Ended => "ended",
        Resolution::StartedAgain => "started_again",
        Resolution::Elsewhere => "elsewhere",
        Resolution::Unknown => "unknown",
        Resolution::GivenUp => "given_up",
        Resolution::LetGo => "let_go",
        Resolution::Replaced => "replaced",
    }
}

impl ManagerMetrics {
    /// All at zero, and registered.
    pub(super) fn new(registry: &mut Registry) -> ManagerMetrics {
        let metrics = ManagerMetrics::default();
        for over in OVER {
            drop(metrics.over.get_or_create(&ByHow { how: how(over) }));
        }
        registry.register(
            "proplet_results_repeated",
            "Results that were published once more, because they were quick",
            metrics.repeated.clone(),
        );
        registry.register(
            "proplet_results_repeats_dropped",
            "Repeats that were not published: too many, too large, or without a connection",
            metrics.let_go.clone(),
        );
        registry.register(
            "proplet_results_unconfirmed",
            "Results that the manager is still to be asked about",
            metrics.waiting.clone(),
        );
        registry.register(
            "proplet_results_confirmations",
            "Results that the manager need not be asked about any more, by how (ended: it has them)",
            metrics.over.clone(),
        );
        registry.register(
            "proplet_results_missed",
            "Results that were published again, because the manager had missed them",
            metrics.published_again.clone(),
        );
        registry.register(
            "proplet_manager_questions_failed",
            "Questions to the manager without an answer that says anything",
            metrics.unanswered.clone(),
        );
        registry.register(
            "proplet_manager_deaf",
            "Whether the manager has not heard this worker for a minute, although the broker has",
            metrics.deaf.clone(),
        );
        metrics
    }

    /// A result was published once more.
    pub fn repeated(&self) {
        self.repeated.inc();
    }

    /// So many repeats were not.
    pub fn let_go(&self, count: u64) {
        self.let_go.inc_by(count);
    }

    /// Results that wait for the manager's answer, now.
    pub fn waiting(&self, count: usize) {
        self.waiting.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// A result needs no confirmation any more.
    pub fn over(&self, over: Resolution) {
        self.over.get_or_create(&ByHow { how: how(over) }).inc();
    }

    /// The manager had missed a result.
    pub fn missed(&self) {
        self.published_again.inc();
    }

    /// The manager did not answer, or nothing that says anything.
    pub fn unanswered(&self) {
        self.unanswered.inc();
    }

    /// Whether the manager does not hear this worker.
    pub fn deaf(&self, deaf: bool) {
        self.deaf.set(deaf.into());
    }
}
