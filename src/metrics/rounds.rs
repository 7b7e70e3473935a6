//! What is told of federated rounds.

use crate::task::{RoundEnd, UpdateFate};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::{Registry, Unit};

/// See the module's documentation.
#[derive(Debug)]
pub struct RoundMetrics {
    updates: Family<ByFate, Counter>,
    fetched: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByFate {
    fate: &'static str,
}

impl RoundMetrics {
    pub(super) fn new(registry: &mut Registry) -> RoundMetrics {
        let (updates, fetched) = (Family::default(), Counter::default());
        registry.register(
            "proplet_round_updates",
            "Updates of federated rounds, by what became of them",
            Family::clone(&updates),
        );
        registry.register_with_unit(
            "proplet_round_data",
            "Models and data sets fetched for federated rounds",
            Unit::Bytes,
            fetched.clone(),
        );
        let metrics = RoundMetrics { updates, fetched };
        // A series that begins with 1 has no rate.
        let all = [UpdateFate::None, UpdateFate::Accepted, UpdateFate::Published];
        for fate in all.into_iter().chain([UpdateFate::Refused, UpdateFate::Unknown]) {
            drop(metrics.updates.get_or_create(&ByFate { fate: fate.name() }));
        }
        metrics
    }

    /// A task of a round has ended.
    pub fn ended(&self, end: &RoundEnd) {
        self.fetched.inc_by(end.fetched);
        self.updates.get_or_create(&ByFate { fate: end.update.name() }).inc();
    }
}
