//! How many inferences there were and how long they took, by graph and by the
//! backend that ran them.
//!
//! A graph is looked up when it is loaded, so that an inference touches
//! nothing but its own counters. There is a bounded number of them whatever
//! tasks load: models that guests hand over share one set, and so do the
//! graphs beyond [`MAX_NAMES`] names.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::backends::Backend;
use crate::task::GraphDir;

/// Graphs with counters of their own. Whoever may write `-S nn-graph` and into
/// a writable root can make any number of names.
const MAX_NAMES: usize = 100;
/// The name for models that guests hand over as bytes.
const BYTES: &str = "bytes";
/// The name for the graphs for which there are too many names.
const OTHER: &str = "other";

/// Upper bounds in seconds: a small model takes a tenth of a millisecond, a
/// large one seconds. What takes longer is counted behind the last.
pub const INFERENCE_BUCKETS: [f64; 14] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];

/// How long the inferences of a graph took, failed ones included.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct InferenceTimes {
    /// The graph's name; `bytes` for what guests handed over, `other` for what
    /// has one name too many.
    pub graph: String,
    /// The backend's name.
    pub backend: String,
    /// All of them together.
    pub total: Duration,
    /// How many took up to each bound of [`INFERENCE_BUCKETS`] and more than
    /// the one before it, then how many took longer than the last.
    pub counts: [u64; INFERENCE_BUCKETS.len() + 1],
}

/// By graph, then by backend.
type Series = BTreeMap<String, BTreeMap<&'static str, Arc<Counters>>>;

/// The inferences of the process.
pub(super) struct Inferences {
    graphs: Mutex<Series>,
    total: Arc<AtomicU64>,
}

#[derive(Default)]
struct Counters {
    nanoseconds: AtomicU64,
    counts: [AtomicU64; INFERENCE_BUCKETS.len() + 1],
}

/// Where the inferences of one graph are counted.
#[derive(Clone)]
pub(super) struct Observer {
    graph: Arc<Counters>,
    total: Arc<AtomicU64>,
}

impl Inferences {
    /// With counters at zero for bytes and for what is configured: a series
    /// that begins with 1 has no rate.
    pub(super) fn new(configured: &[GraphDir], backends: &[Box<dyn Backend>]) -> Inferences {
        let inferences = Inferences { graphs: Mutex::default(), total: Arc::default() };
        for backend in backends {
            drop(inferences.of_bytes(backend.name()));
            let serves =
                |dir: &GraphDir| backend.encodings().iter().any(|e| e.name == dir.encoding);
            for dir in configured.iter().filter(|dir| serves(dir)) {
                drop(inferences.of_name(&dir.name, backend.name()));
            }
        }
        inferences
    }

    /// For a model that a guest handed over.
    pub(super) fn of_bytes(&self, backend: &'static str) -> Observer {
        self.of(BYTES, backend)
    }

    /// For a graph that was loaded by its name.
    pub(super) fn of_name(&self, name: &str, backend: &'static str) -> Observer {
        let graphs = self.graphs();
        let names = graphs.keys().filter(|known| ![BYTES, OTHER].contains(&known.as_str())).count();
        let own = graphs.contains_key(name) || names < MAX_NAMES;
        drop(graphs);
        self.of(if own { name } else { OTHER }, backend)
    }

    /// By graph, in the order of their names.
    pub(super) fn times(&self) -> Vec<InferenceTimes> {
        let graphs = self.graphs();
        let series = graphs.iter().flat_map(|(graph, backends)| {
            backends.iter().map(move |(backend, counters)| (graph, *backend, counters))
        });
        let times = |(graph, backend, counters): (&String, &str, &Arc<Counters>)| InferenceTimes {
            graph: graph.clone(),
            backend: backend.to_owned(),
            total: Duration::from_nanos(counters.nanoseconds.load(Ordering::Relaxed)),
            counts: counters.counts.each_ref().map(|count| count.load(Ordering::Relaxed)),
        };
        series.map(times).collect()
    }

    /// All inferences.
    pub(super) fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    fn of(&self, graph: &str, backend: &'static str) -> Observer {
        let mut graphs = self.graphs();
        let graph = graphs.entry(graph.to_owned()).or_default().entry(backend).or_default().clone();
        drop(graphs);
        Observer { graph, total: self.total.clone() }
    }

    // Entries are added whole.
    fn graphs(&self) -> MutexGuard<'_, Series> {
        self.graphs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer {
    /// An inference has ended.
    pub(super) fn observe(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = INFERENCE_BUCKETS.partition_point(|bound| *bound < seconds);
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.graph.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.graph.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
        self.total.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::super::backends::fake::{Fake, Serves};
    use super::*;

    fn counts(inferences: &Inferences) -> Vec<(String, u64)> {
        let times = inferences.times().into_iter();
        times.map(|times| (times.graph, times.counts.iter().sum())).collect()
    }

    #[test]
    fn what_is_configured_is_there_before_it_is_used() {
        let encoding = "openvino".to_owned();
        let dir = GraphDir { encoding, name: "net".into(), dir: "/models/net".into() };
        let backends: [Box<dyn Backend>; 2] = [
            Box::new(Fake::serving(Serves::Both)),
            Box::new(Fake::serving(Serves::Onnx).named("other")),
        ];
        let times = Inferences::new(&[dir], &backends).times();
        let series: Vec<_> = times.iter().map(|of| (&*of.graph, &*of.backend)).collect();
        assert_eq!(series, [("bytes", "fake"), ("bytes", "other"), ("net", "fake")]);
    }

    #[test]
    fn any_number_of_names_has_a_bounded_number_of_counters() {
        let inferences = Inferences::new(&[], &[]);
        for n in 0..10 * MAX_NAMES {
            inferences.of_name(&format!("graph-{n}"), "fake").observe(Duration::from_millis(1));
        }
        inferences.of_name("graph-1", "fake").observe(Duration::from_millis(1));
        let counts = counts(&inferences);
        assert_eq!(counts.len(), MAX_NAMES + 1, "and the others");
        for expected in [("graph-1".to_owned(), 2), ("other".to_owned(), 900)] {
            assert!(counts.contains(&expected), "{expected:?}: {counts:?}");
        }
        assert_eq!(inferences.total(), 1001);
    }

    #[test]
    fn an_inference_counts_up_to_its_bound() {
        let inferences = Inferences::new(&[], &[]);
        let observer = inferences.of_bytes("fake");
        for micros in [100, 101, 40_000_000] {
            observer.observe(Duration::from_micros(micros));
        }
        let times = &inferences.times()[0];
        assert_eq!((times.counts[0], times.counts[1], times.counts[14]), (1, 1, 1));
        assert_eq!(times.total, Duration::from_micros(40_000_201));
    }
}
