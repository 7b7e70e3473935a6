//! The graphs that all tasks share: each model is compiled once, as long as
//! its bytes are the same, and kept within a budget.
//!
//! Two models are one when their bytes are equal, all of them: a lookup finds
//! candidates by a fingerprint of a few bytes at places that no guest knows,
//! then compares. It copies nothing, and it does not read what the kernel says
//! is still a file's content that was compared before ([`Origin`]). While a model is compiled, other tasks
//! that ask for it wait; a task that is stopped stops waiting. (A compile itself
//! can't be interrupted by every backend: the task that runs it ends behind it,
//! and what it made is kept for the next one.)

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use wasmtime_wasi_nn::wit::{ExecutionTarget, GraphEncoding};

use super::backends::{Backend, Encoding, Served};
use super::graph::{SharedGraph, Taken};
use super::refusal::{Errno, Halt, Refusal};
use super::source::{Origin, Source};
use super::stored::StoredGraph;
use crate::cache::{Cache, CacheLimits, CacheStats, LookUp};
use crate::cancel::Cancel;
use crate::disk::DiskCache;

/// How a graph was come by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// It was there, or another task compiled it meanwhile.
    Reused,
    /// This call compiled it, or took it over from an earlier process.
    Compiled,
}

/// The cache. See the module's documentation.
pub(super) struct Graphs {
    cache: Cache<u64, Arc<SharedGraph>>,
    budget: u64,
    secret: RandomState,
    compiled: AtomicU64,
    /// Fingerprints of parts whose origin is known.
    known: Mutex<HashMap<u64, u64>>,
}

/// Of these fingerprints, before they are forgotten.
const MAX_KNOWN: usize = 1024;
/// Bytes around those whose origin is known, up to which it is used.
const MAX_AROUND: usize = 64 << 10;

impl Graphs {
    /// A cache of `budget` bytes that compiles `flights` models at a time.
    pub(super) fn new(budget: u64, flights: usize) -> Graphs {
        let limits = CacheLimits { bytes: budget, entries: usize::MAX, flights };
        Graphs {
            cache: Cache::new(limits),
            budget,
            secret: RandomState::new(),
            compiled: AtomicU64::new(0),
            known: Mutex::default(),
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
        self.load_known(served, target, (parts, &[]), disk, cancel)
    }

    /// The same of parts whose origins are known: of each one that has one.
    pub(super) fn load_known(
        &self,
        served: Served<'_>,
        target: ExecutionTarget,
        (parts, origins): (&[&[u8]], &[Option<Origin>]),
        disk: Option<&Arc<DiskCache>>,
        cancel: &Cancel,
    ) -> Result<(Arc<SharedGraph>, Found), Halt> {
        let id = served.encoding.id;
        let fingerprint = self.fingerprint(id, target, parts, origins);
        let is = |graph: &Arc<SharedGraph>| graph.source().is(id, target, parts, origins);
        let flight = match self.cache.look_up(fingerprint, is, cancel).map_err(Halt::Cancelled)? {
            LookUp::Found(graph) => return Ok((graph, Found::Reused)),
            LookUp::Claimed(flight) => flight,
        };
        let made = Made::by_the_first(served, target, parts, disk, cancel)?;
        let graph = Arc::new(SharedGraph::new(made.taken, made.source, fingerprint)?);
        self.compiled.fetch_add(u64::from(made.compiled), Ordering::Relaxed);
        if graph.weight() > self.budget {
            // Those who asked for it keep it.
            tracing::debug!(weight = graph.weight(), "a graph is larger than the cache");
        }
        flight.land(graph.clone(), graph.weight());
        if let Some(new) = made.new {
            new.keep(&graph);
        }
        Ok((graph, Found::Compiled))
    }

    /// What the cache did so far and holds now.
    pub(super) fn stats(&self) -> CacheStats {
        self.cache.stats()
    }

    /// Models that were compiled, not found on the disk.
    pub(super) fn compiled(&self) -> u64 {
        self.compiled.load(Ordering::Relaxed)
    }

    /// Counts a use of a graph that was found without [`Graphs::load`].
    pub(super) fn hit(&self, graph: &Arc<SharedGraph>) {
        self.cache.used(graph.fingerprint(), |other| Arc::ptr_eq(other, graph));
    }

    /// A number for these bytes that a guest can't choose: of the lengths and
    /// of some words at secret places. It only finds candidates.
    fn fingerprint(
        &self,
        encoding: GraphEncoding,
        target: ExecutionTarget,
        parts: &[&[u8]],
        origins: &[Option<Origin>],
    ) -> u64 {
        let mut hasher = self.secret.build_hasher();
        hasher.write_u8(encoding as u8);
        hasher.write_u8(target as u8);
        for (number, part) in parts.iter().enumerate() {
            let origin = origins.get(number).and_then(Option::as_ref);
            hasher.write_u64(match origin {
                Some(origin) => self.known_fingerprint(part, origin),
                None => self.part_fingerprint(part),
            });
        }
        hasher.finish()
    }

    /// The same without a look at the bytes within the origin, each of which
    /// would be a page that the guest has not touched.
    fn known_fingerprint(&self, part: &[u8], origin: &Origin) -> u64 {
        let (before, after) = (&part[..origin.within.start], &part[origin.within.end..]);
        if before.len() + after.len() > MAX_AROUND {
            return self.part_fingerprint(part);
        }
        let key = self.secret.hash_one((origin, before, after));
        // Whole entries: a panic elsewhere does not matter.
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(fingerprint) = known().get(&key) {
            return *fingerprint;
        }
        let fingerprint = self.part_fingerprint(part);
        let mut known = known();
        if known.len() == MAX_KNOWN {
            known.clear();
        }
        known.insert(key, fingerprint);
        fingerprint
    }

    fn part_fingerprint(&self, part: &[u8]) -> u64 {
        const WORD: usize = 8;
        const WORDS: usize = 256;
        let mut hasher = self.secret.build_hasher();
        hasher.write_usize(part.len());
        let Some(last) = part.len().checked_sub(WORD) else {
            hasher.write(part);
            return hasher.finish();
        };
        hasher.write(&part[last..]);
        let mut place = self.secret.hash_one(part.len());
        for _ in 0..WORDS {
            place = splitmix(place);
            let at = (place % (last as u64 + 1)) as usize;
            hasher.write(&part[at..at + WORD]);
        }
        hasher.finish()
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

/// The next number of Vigna's SplitMix64.
fn splitmix(seed: u64) -> u64 {
    let x = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use std::sync::{Barrier, mpsc};
    use std::thread;
    use std::time::Duration;

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
    fn a_graph_is_found_by_the_origin_of_its_bytes() {
        let (graphs, fake) = (Graphs::new(1 << 20, 1), Fake::default());
        let weights = vec![7_u8; 100_000];
        let get = |weights: &[u8], content: Option<u64>| {
            let within = 4096..98_304;
            let origin = content.map(|content| Origin { content, from: 4096, within });
            let parts = (&[MODEL, weights][..], &[None, origin][..]);
            let cancel = Cancel::default();
            let got = graphs.load_known(fake.served(), ExecutionTarget::Cpu, parts, None, &cancel);
            got.expect("a graph").1
        };
        assert_eq!(get(&weights, None), Found::Compiled);
        // Compared once, and from then on found without a look: zeros are no
        // content's, and yet are taken for it.
        assert_eq!(get(&weights, Some(1)), Found::Reused);
        let mut unread = weights.clone();
        unread[4096..98_304].fill(0);
        assert_eq!(get(&unread, Some(1)), Found::Reused);
        // A byte outside makes another model of it, and so does another origin.
        unread[0] ^= 1;
        assert_eq!(get(&unread, Some(1)), Found::Compiled);
        assert_eq!(get(&vec![0; 100_000], Some(2)), Found::Compiled);
        assert_eq!(get(&weights, None), Found::Reused);
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
        assert_eq!(graphs.stats(), CacheStats::default());
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
            let parts: [&[u8]; 2] = [MODEL, b"weights"];
            let id = fake.served().encoding.id;
            let fingerprint = graphs.fingerprint(id, ExecutionTarget::Cpu, &parts, &[]);
            while !graphs.cache.is_in_flight(&fingerprint) {
                thread::yield_now();
            }
            let cancel = Arc::new(Cancel::default());
            let (ended, end) = mpsc::channel();
            let stop = cancel.clone();
            scope.spawn(move || {
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
