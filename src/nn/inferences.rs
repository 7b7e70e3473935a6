//! How many inferences there were and how long they took, by graph.
//!
//! A graph is looked up when it is loaded, so that an inference touches
//! nothing but its own series. The series are bounded whatever tasks load:
//! models that guests hand over share one, and so do the graphs beyond
//! [`MAX_NAMES`] names.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;

use crate::task::GraphDir;

/// Graphs with a series of their own. Whoever may write `-S nn-graph` and into
/// a writable root can make any number of names.
const MAX_NAMES: usize = 100;
/// The series of models that guests hand over as bytes.
const BYTES: &str = "bytes";
/// The series of the graphs for which there are too many names.
const OTHER: &str = "other";

/// Upper bounds in seconds: a small model takes a tenth of a millisecond, a
/// large one seconds.
const BUCKETS: [f64; 14] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];

/// The label of a series.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByGraph {
    graph: String,
}

/// Time of inferences by graph, failed ones included.
pub type InferenceTimes = Family<ByGraph, Histogram, fn() -> Histogram>;

/// The inferences of the process.
pub(super) struct Inferences {
    times: InferenceTimes,
    names: Mutex<HashSet<String>>,
    total: Arc<AtomicU64>,
}

/// Where the inferences of one graph are counted.
#[derive(Clone)]
pub(super) struct Observer {
    times: Histogram,
    total: Arc<AtomicU64>,
}

impl Inferences {
    /// With series at zero for bytes and for what is configured: one that
    /// begins with 1 has no rate.
    pub(super) fn new(configured: &[GraphDir]) -> Inferences {
        let inferences = Inferences {
            times: Family::new_with_constructor(|| Histogram::new(BUCKETS)),
            names: Mutex::default(),
            total: Arc::default(),
        };
        drop(inferences.of_bytes());
        for dir in configured {
            drop(inferences.of_name(&dir.name));
        }
        inferences
    }

    /// For a model that a guest handed over.
    pub(super) fn of_bytes(&self) -> Observer {
        self.labelled(BYTES)
    }

    /// For a graph that was loaded by its name.
    pub(super) fn of_name(&self, name: &str) -> Observer {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let own = names.contains(name) || names.len() < MAX_NAMES && names.insert(name.to_owned());
        drop(names);
        self.labelled(if own { name } else { OTHER })
    }

    /// All series.
    pub(super) fn times(&self) -> InferenceTimes {
        self.times.clone()
    }

    /// All inferences.
    pub(super) fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    fn labelled(&self, graph: &str) -> Observer {
        let times = self.times.get_or_create_owned(&ByGraph { graph: graph.to_owned() });
        Observer { times, total: self.total.clone() }
    }
}

impl Observer {
    /// An inference has ended.
    pub(super) fn observe(&self, took: Duration) {
        self.times.observe(took.as_secs_f64());
        self.total.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::encoding::text;
    use prometheus_client::registry::Registry;

    fn series(inferences: &Inferences) -> Vec<String> {
        let mut registry = Registry::default();
        registry.register("t", "Times", inferences.times());
        let mut text = String::new();
        text::encode(&mut text, &registry).expect("writing to a string");
        let counts = text.lines().filter_map(|line| line.strip_prefix("t_count"));
        counts.map(str::to_owned).collect()
    }

    #[test]
    fn what_is_configured_is_there_before_it_is_used() {
        let encoding = "openvino".to_owned();
        let dir = GraphDir { encoding, name: "net".into(), dir: "/models/net".into() };
        let mut series = series(&Inferences::new(&[dir]));
        series.sort();
        assert_eq!(series, ["{graph=\"bytes\"} 0", "{graph=\"net\"} 0"]);
    }

    #[test]
    fn any_number_of_names_makes_a_bounded_number_of_series() {
        let inferences = Inferences::new(&[]);
        for n in 0..10 * MAX_NAMES {
            inferences.of_name(&format!("graph-{n}")).observe(Duration::from_millis(1));
        }
        inferences.of_name("graph-1").observe(Duration::from_millis(1));
        let series = series(&inferences);
        assert_eq!(series.len(), MAX_NAMES + 2, "the others, and bytes");
        for expected in ["{graph=\"graph-1\"} 2", "{graph=\"other\"} 900", "{graph=\"bytes\"} 0"] {
            assert!(series.iter().any(|found| found == expected), "{expected}: {series:?}");
        }
        assert_eq!(inferences.total(), 1001);
    }
}
