//! The graphs that all tasks share: each model is compiled once, as long as
//! its bytes are the same, and kept within a budget.
//!
//! Two models are one when their bytes are equal, all of them: a lookup finds
//! candidates by a fingerprint of a few bytes at places that no guest knows,
//! then compares. It copies nothing. While a model is compiled, other tasks
//! that ask for it wait, and look again when it is there; a task that is
//! stopped stops waiting. (A compile itself can't be interrupted: the task
//! that runs it ends behind it, and what it made is kept for the next one.)
//!
//! This is not the `moka` cache, although that knows borrowed keys, weights
//! and single flight: its waiters can't be cancelled, its eviction is
//! deferred and its memory is given back at some later operation, while a
//! compiled model can be the largest thing in the process.

use std::cmp::Reverse;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use wasmtime_wasi_nn::wit::{ExecutionTarget, GraphEncoding};

use super::backends::{Backend, Encoding, Served};
use super::graph::{SharedGraph, Taken};
use super::refusal::{Errno, Halt, Refusal};
use super::source::Source;
use super::stored::StoredGraph;
use crate::cancel::Cancel;
use crate::disk::DiskCache;

/// How soon a task that waits for another's compile notices its own end.
const WAIT: Duration = Duration::from_millis(20);

/// How a graph was come by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// It was there, or another task compiled it meanwhile.
    Reused,
    /// This call compiled it, or took it over from an earlier process.
    Compiled,
}

/// What the cache did so far and holds now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct GraphStats {
    pub(super) compiled: u64,
    pub(super) hits: u64,
    pub(super) evicted: u64,
    pub(super) bytes: u64,
    pub(super) entries: u64,
}

#[derive(Default)]
struct State {
    entries: Vec<Arc<SharedGraph>>,
    bytes: u64,
    /// Fingerprints of what is being compiled.
    flights: Vec<u64>,
    stats: GraphStats,
}

/// The cache. See the module's documentation.
pub(super) struct Graphs {
    budget: u64,
    flights: usize,
    secret: RandomState,
    clock: AtomicU64,
    state: Mutex<State>,
    landed: Condvar,
}

impl Graphs {
    /// A cache of `budget` bytes that compiles `flights` models at a time.
    pub(super) fn new(budget: u64, flights: usize) -> Graphs {
        Graphs {
            budget,
            flights: flights.max(1),
            secret: RandomState::new(),
            clock: AtomicU64::new(0),
            state: Mutex::default(),
            landed: Condvar::new(),
        }
    }

    /// The graph of these bytes: the one that is there, or a new one by the
    /// first backend that takes them. With `disk`, an earlier process may have
    /// compiled it.
    pub(super) fn load(
        &self,
        served: Served<'_>,
        target: ExecutionTarget,
        parts: &[&[u8]],
        disk: Option<&Arc<DiskCache>>,
        cancel: &Cancel,
    ) -> Result<(Arc<SharedGraph>, Found), Halt> {
        let id = served.encoding.id;
        let fingerprint = self.fingerprint(id, target, parts);
        let _flight = loop {
            let candidates = self.lock().candidates(fingerprint);
            // Not under the lock: comparing takes milliseconds.
            if let Some(graph) = candidates.iter().find(|e| e.source().is(id, target, parts)) {
                self.touch(graph);
                self.lock().stats.hits += 1;
                return Ok((graph.clone(), Found::Reused));
            }
            if let Some(reason) = cancel.reason() {
                return Err(Halt::Cancelled(reason));
            }
            let mut state = self.lock();
            if state.flights.contains(&fingerprint) || state.flights.len() >= self.flights {
                drop(self.landed.wait_timeout(state, WAIT));
                continue;
            }
            let landed = |e: &Arc<SharedGraph>| !candidates.iter().any(|c| Arc::ptr_eq(c, e));
            if state.candidates(fingerprint).iter().any(landed) {
                continue;
            }
            state.flights.push(fingerprint);
            break Flight { graphs: self, fingerprint };
        };
        let made = Made::by_the_first(served, target, parts, disk, cancel)?;
        let graph = Arc::new(SharedGraph::new(made.taken, made.source, fingerprint)?);
        if made.compiled {
            self.lock().stats.compiled += 1;
        }
        self.insert(&graph);
        if let Some(new) = made.new {
            new.keep(&graph);
        }
        Ok((graph, Found::Compiled))
    }

    /// Notes that the graph was used just now.
    pub(super) fn touch(&self, graph: &SharedGraph) {
        graph.use_at(self.clock.fetch_add(1, Ordering::Relaxed));
    }

    /// What it did so far and holds now.
    pub(super) fn stats(&self) -> GraphStats {
        let state = self.lock();
        GraphStats { bytes: state.bytes, entries: state.entries.len() as u64, ..state.stats }
    }

    /// Counts a use of a graph that was found without [`Graphs::load`].
    pub(super) fn hit(&self, graph: &SharedGraph) {
        self.touch(graph);
        self.lock().stats.hits += 1;
    }

    fn insert(&self, graph: &Arc<SharedGraph>) {
        self.touch(graph);
        let mut state = self.lock();
        if graph.weight() > self.budget {
            // Its task alone keeps it.
            tracing::debug!(weight = graph.weight(), "a graph is larger than the cache");
            return;
        }
        let mut evicted = Vec::new();
        while state.bytes + graph.weight() > self.budget {
            let entries = state.entries.iter().enumerate();
            let oldest = entries.min_by_key(|(_, e)| e.used());
            let Some((oldest, _)) = oldest else { break };
            let old = state.entries.swap_remove(oldest);
            state.bytes -= old.weight();
            state.stats.evicted += 1;
            evicted.push(old);
        }
        state.bytes += graph.weight();
        state.entries.push(graph.clone());
        drop(state);
        // `evicted` is dropped after the lock: native memory is slow to free.
    }

    /// A number for these bytes that a guest can't choose: of the lengths and
    /// of some words at secret places. It only finds candidates.
    fn fingerprint(
        &self,
        encoding: GraphEncoding,
        target: ExecutionTarget,
        parts: &[&[u8]],
    ) -> u64 {
        const WORD: usize = 8;
        const WORDS: usize = 256;
        let mut hasher = self.secret.build_hasher();
        hasher.write_u8(encoding as u8);
        hasher.write_u8(target as u8);
        for part in parts {
            hasher.write_usize(part.len());
            let Some(last) = part.len().checked_sub(WORD) else {
                hasher.write(part);
                continue;
            };
            hasher.write(&part[last..]);
            let mut place = self.secret.hash_one(part.len());
            for _ in 0..WORDS {
                place = splitmix(place);
                let at = (place % (last as u64 + 1)) as usize;
                hasher.write(&part[at..at + WORD]);
            }
        }
        hasher.finish()
    }

    // Whoever panicked left the state whole: each change is one step.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A model as a backend has taken it.
struct Made {
    taken: Taken,
    source: Source,
    /// It was not on the disk.
    compiled: bool,
    /// Where it is to be put there.
    new: Option<StoredGraph>,
}

impl Made {
    /// Asks the backends in their order. What none takes is refused with what
    /// each says, and with the errno of the last, which takes what others don't.
    fn by_the_first(
        served: Served<'_>,
        target: ExecutionTarget,
        parts: &[&[u8]],
        disk: Option<&Arc<DiskCache>>,
        cancel: &Cancel,
    ) -> Result<Made, Halt> {
        let mut passed: Vec<String> = Vec::new();
        let mut last = None;
        let several = served.backends.len() > 1;
        for backend in served.backends {
            match Made::by(backend, served.encoding, target, parts, disk, cancel) {
                Ok(mut made) => {
                    made.taken.passed = passed.join("; ");
                    made.taken.several = several;
                    return Ok(made);
                }
                Err(refusal) => {
                    // Also why what was interrupted failed.
                    if let Some(reason) = cancel.reason() {
                        return Err(Halt::Cancelled(reason));
                    }
                    last = Some(refusal.errno);
                    if !passed.contains(&refusal.text) {
                        passed.push(refusal.text);
                    }
                }
            }
        }
        let errno = last.unwrap_or(Errno::InvalidEncoding);
        Err(Refusal::new(errno, passed.join("; ")).into())
    }

    fn by(
        backend: &dyn Backend,
        encoding: &Encoding,
        target: ExecutionTarget,
        parts: &[&[u8]],
        disk: Option<&Arc<DiskCache>>,
        cancel: &Cancel,
    ) -> Result<Made, Refusal> {
        backend.open().map_err(Refusal::runtime)?;
        backend.check(encoding.id, target, parts)?;
        let source = Source::new(encoding.id, target, parts);
        let stored = disk.and_then(|disk| StoredGraph::of(disk, backend, encoding, &source));
        let found = stored.as_ref().and_then(|stored| stored.find(backend, &source));
        let (compiled, new, graph) = match found {
            Some(graph) => (false, None, graph),
            None => (true, stored, backend.compile(&source, cancel)?),
        };
        let taken = Taken {
            compiled: graph,
            backend: backend.name(),
            passed: String::new(),
            several: false,
        };
        Ok(Made { taken, source, compiled, new })
    }
}

impl State {
    /// What may be the model, the one used last first: models that differ in
    /// few bytes are all candidates, and each comparison takes its time.
    fn candidates(&self, fingerprint: u64) -> Vec<Arc<SharedGraph>> {
        let same = self.entries.iter().filter(|e| e.fingerprint() == fingerprint);
        let mut candidates: Vec<_> = same.cloned().collect();
        candidates.sort_by_key(|e| Reverse(e.used()));
        candidates
    }
}

/// The next number of Vigna's SplitMix64.
fn splitmix(seed: u64) -> u64 {
    let x = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Says that a model is being compiled, until it is dropped, by a panic too.
struct Flight<'a> {
    graphs: &'a Graphs,
    fingerprint: u64,
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.graphs.lock().flights.retain(|&flight| flight != self.fingerprint);
        self.graphs.landed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Barrier, mpsc};
    use std::thread;

    use super::super::backends::fake::{Fake, MODEL, WEIGHT};
    use super::*;
    use crate::cancel::Reason;

    fn load(graphs: &Graphs, fake: &Fake, xml: &[u8]) -> Result<(Arc<SharedGraph>, Found), Halt> {
        graphs.load(
            fake.served(),
            ExecutionTarget::Cpu,
            &[xml, b"weights"],
            None,
            &Cancel::default(),
        )
    }

    fn model(n: usize) -> Vec<u8> {
        format!("<net id='{n}'/>").into_bytes()
    }

    #[test]
    fn many_threads_compile_a_model_once() {
        let (graphs, fake) = (Graphs::new(1 << 20, 2), Fake::slow(Duration::from_millis(30)));
        let start = Barrier::new(16);
        let found: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = (0..16)
                .map(|_| {
                    scope.spawn(|| {
                        start.wait();
                        load(&graphs, &fake, MODEL).expect("a graph")
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        });
        assert_eq!(fake.compiled(), 1);
        assert_eq!(found.iter().filter(|(_, found)| *found == Found::Compiled).count(), 1);
        assert!(found.iter().all(|(graph, _)| Arc::ptr_eq(graph, &found[0].0)));
        assert_eq!(graphs.stats().hits, 15);
    }

    #[test]
    fn a_difference_of_one_byte_is_another_model() {
        let (graphs, fake) = (Graphs::new(1 << 20, 1), Fake::default());
        let weights = vec![7u8; 100_000];
        let get = |weights: &[u8]| {
            let parts = [MODEL, weights];
            graphs
                .load(fake.served(), ExecutionTarget::Cpu, &parts, None, &Cancel::default())
                .expect("a graph")
        };
        let (first, _) = get(&weights);
        for at in [0, 1, 4_999, 50_001, 99_999] {
            let mut other = weights.clone();
            other[at] ^= 1;
            let (graph, found) = get(&other);
            assert_eq!(found, Found::Compiled);
            assert!(!Arc::ptr_eq(&first, &graph));
        }
        assert!(Arc::ptr_eq(&first, &get(&weights).0));
        let (_, found) = graphs
            .load(fake.served(), ExecutionTarget::Gpu, &[MODEL, &weights], None, &Cancel::default())
            .expect("a graph");
        assert_eq!(found, Found::Compiled, "another target is another graph");
    }

    #[test]
    fn the_least_recently_used_goes_first_and_at_once() {
        let (graphs, fake) = (Graphs::new(2 * WEIGHT, 1), Fake::default());
        let (first, _) = load(&graphs, &fake, &model(1)).expect("a graph");
        let second = {
            let (second, _) = load(&graphs, &fake, &model(2)).expect("a graph");
            Arc::downgrade(&second)
        };
        assert_eq!(load(&graphs, &fake, &model(1)).expect("a graph").1, Found::Reused);
        load(&graphs, &fake, &model(3)).expect("a graph");
        assert!(second.upgrade().is_none(), "evicted and freed");
        assert_eq!(load(&graphs, &fake, &model(1)).expect("a graph").1, Found::Reused);
        let stats = graphs.stats();
        assert_eq!((stats.entries, stats.bytes, stats.evicted), (2, 2 * WEIGHT, 1));
        drop(first);
    }

    #[test]
    fn a_model_over_the_budget_lives_as_long_as_its_task() {
        let (graphs, fake) = (Graphs::new(WEIGHT - 1, 1), Fake::default());
        let (graph, _) = load(&graphs, &fake, MODEL).expect("a graph");
        assert_eq!(graphs.stats().entries, 0);
        let graph = {
            let weak = Arc::downgrade(&graph);
            drop(graph);
            weak
        };
        assert!(graph.upgrade().is_none());
    }

    #[test]
    fn failures_are_not_remembered_and_keep_nothing() {
        let (graphs, fake) = (Graphs::new(1 << 20, 1), Fake::default());
        for _ in 0..3 {
            let Err(Halt::Refused(refusal)) = load(&graphs, &fake, b"<bad/>") else {
                panic!("a bad model was taken");
            };
            assert_eq!(refusal.text, "the fake backend can't compile this");
        }
        let state = graphs.lock();
        assert!(state.entries.is_empty() && state.flights.is_empty() && state.bytes == 0);
    }

    #[test]
    fn a_panic_while_a_model_is_compiled_is_its_tasks_alone() {
        // ARCHITECTURE.md, case 40.
        let (graphs, fake) = (Graphs::new(1 << 20, 1), Fake::default());
        let panicked = thread::scope(|scope| {
            scope.spawn(|| drop(load(&graphs, &fake, b"<panic/>"))).join().is_err()
        });
        assert!(panicked);
        assert!(load(&graphs, &fake, MODEL).is_ok());
    }

    #[test]
    fn a_task_that_is_stopped_does_not_wait_for_another_ones_compile() {
        let (graphs, fake) = (Graphs::new(1 << 20, 1), Fake::default());
        let (graphs, fake) = (&graphs, &fake);
        thread::scope(|scope| {
            let held = fake.hold();
            scope.spawn(|| load(graphs, fake, MODEL).map(drop));
            while graphs.lock().flights.is_empty() {
                thread::yield_now();
            }
            let cancel = Arc::new(Cancel::default());
            let (ended, end) = mpsc::channel();
            let stop = cancel.clone();
            scope.spawn(move || {
                let parts = [MODEL, b"weights"];
                let waited =
                    graphs.load(fake.served(), ExecutionTarget::Cpu, &parts, None, &cancel);
                // Nobody may wait for it any more.
                ended.send(waited.err()).ok();
            });
            stop.cancel(Reason::Stopped);
            let waited = end.recv_timeout(Duration::from_secs(60));
            // The threads end, whatever came.
            drop(held);
            assert_eq!(waited, Ok(Some(Halt::Cancelled(Reason::Stopped))));
        });
    }
}
