//! The graphs that all tasks share: each model is compiled once, as long as
//! its bytes are the same, and kept within a budget.
//!
//! Two models are one when their bytes are equal, all of them: a lookup finds
//! candidates by a fingerprint of a few bytes at places that no guest knows,
//! then compares. It copies nothing, and it does not read what the kernel says
//! is still a file's content that was compared before ([`Origin`]). While a model is compiled, other tasks
//! that ask for it wait; a task that is stopped stops waiting. (A compile itself
//! can't be interrupted by every backend: the task that runs it ends behind it,
//! and what it made is kept for the next one.) One that nobody waits for any more
//! is not begun again for a while, unless it comes to its end after all.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use wasmtime_wasi_nn::wit::ExecutionTarget;

use self::fingerprints::Fingerprints;
use super::backends::{Backend, Encoding, ServedEncoding};
use super::cooldown::{self, ModelPauses};
use super::graph::{SharedGraph, Taken};
use super::refusal::{Errno, Halt, Refusal};
use super::source::{Origin, Source};
use super::stored::StoredGraph;
use crate::cache::{Cache, CacheEntry, CacheLimits, CacheStats, Flight, LookUp, Waiter};
use crate::cancel::{Cancel, Waking};
use crate::digest::Digest;
use crate::disk::DiskCache;

mod fingerprints;

/// How a graph was come by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// It was there, or another task compiled it meanwhile.
    Reused,
    /// This call compiled it, or took it over from an earlier process.
    Compiled,
}

/// A graph that is kept for the next task.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct KeptGraph {
    /// The name that it was loaded by first; none if a guest handed it over.
    pub name: Option<String>,
    /// The directory that it was loaded from then.
    pub directory: Option<String>,
    /// The backend's name.
    pub backend: String,
    /// What it keeps alive, in bytes.
    pub bytes: u64,
    /// Loads that found it.
    pub hits: u64,
    /// The time since the last use.
    pub idle: Duration,
}

/// The cache. See the module's documentation.
pub(super) struct Graphs {
    cache: Cache<u64, Arc<SharedGraph>>,
    budget: u64,
    fingerprints: Fingerprints,
    compiled: AtomicU64,
    pauses: Arc<ModelPauses>,
}

impl Graphs {
    /// A cache of `budget` bytes that compiles `flights` models at a time.
    pub(super) fn new(budget: u64, flights: usize) -> Graphs {
        let limits = CacheLimits { bytes: budget, entries: usize::MAX, flights };
        Graphs {
            cache: Cache::new(limits),
            budget,
            fingerprints: Fingerprints::default(),
            compiled: AtomicU64::new(0),
            pauses: Arc::default(),
        }
    }

    /// The same, which does not compile what pauses here.
    pub(super) fn pausing(self, pauses: Arc<ModelPauses>) -> Graphs {
        Graphs { pauses, ..self }
    }

    /// The graph of these bytes: the one that is there, or a new one by the
    /// first backend that takes them. With `disk`, an earlier process may have
    /// compiled it.
    pub(super) fn load(
        &self,
        served: ServedEncoding<'_>,
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
        served: ServedEncoding<'_>,
        target: ExecutionTarget,
        (parts, origins): (&[&[u8]], &[Option<Origin>]),
        disk: Option<&Arc<DiskCache>>,
        cancel: &Cancel,
    ) -> Result<(Arc<SharedGraph>, Found), Halt> {
        let id = served.encoding.id;
        let fingerprint = self.fingerprints.of(id, target, parts, origins);
        let is = |graph: &Arc<SharedGraph>| graph.source().is(id, target, parts, origins);
        let flight = match self.cache.look_up(fingerprint, is, cancel).map_err(Halt::Cancelled)? {
            LookUp::Found(graph) => return Ok((graph, Found::Reused)),
            LookUp::Claimed(flight) => flight,
        };
        let model = cooldown::identity(served.encoding, target, parts);
        if let Some(refusal) = self.pauses.refusal(&model) {
            return Err(refusal.into());
        }
        let compiling = Compiling::begin(flight, model, &self.pauses, cancel)?;
        let made = Made::by_the_first(served, target, parts, disk, cancel)?;
        let graph = Arc::new(SharedGraph::new(made.taken, made.source, fingerprint)?);
        self.compiled.fetch_add(u64::from(made.compiled), Ordering::Relaxed);
        if graph.weight() > self.budget {
            // Those who asked for it keep it.
            tracing::debug!(weight = graph.weight(), "a graph is larger than the cache");
        }
        compiling.land(&graph);
        self.pauses.compiled(model);
        if let Some(new) = made.new {
            new.keep(&graph);
        }
        Ok((graph, Found::Compiled))
    }

    /// The graphs that were used last, at most so many.
    pub(super) fn kept(&self, most: usize) -> Vec<KeptGraph> {
        let entries = self.cache.entries(most).into_iter();
        let kept = entries.map(|CacheEntry { value: graph, weight, hits, idle, .. }| {
            let (name, dir) = graph.place().cloned().unzip();
            KeptGraph {
                name,
                directory: dir.map(|dir| dir.display().to_string()),
                backend: graph.backend.to_owned(),
                bytes: weight,
                hits,
                idle,
            }
        });
        kept.collect()
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
}

/// A model that is being compiled. The task that does so waits for it like others,
/// and leaves it when it is to end: a backend that can't be interrupted goes on
/// then for those who still wait, or for nobody.
struct Compiling<'a> {
    flight: Option<Flight<u64, Arc<SharedGraph>>>,
    place: Place,
    _leaves: Waking<'a>,
}

/// A task's place among those who wait, until it leaves.
type Place = Arc<Mutex<Option<Waiter<u64, Arc<SharedGraph>>>>>;

impl<'a> Compiling<'a> {
    /// # Errors
    ///
    /// The task is to end.
    fn begin(
        flight: Flight<u64, Arc<SharedGraph>>,
        model: Digest,
        pauses: &Arc<ModelPauses>,
        cancel: &'a Cancel,
    ) -> Result<Compiling<'a>, Halt> {
        let (pauses, since) = (pauses.clone(), Instant::now());
        flight.when_deserted(move || {
            pauses.deserted(model, since);
            // It may come to its end after all.
            false
        });
        let place = Place::new(Mutex::new(Some(flight.join())));
        let leaves = {
            let place = place.clone();
            cancel.wakes(move || leave(&place))
        };
        let compiling = Compiling { flight: Some(flight), place, _leaves: leaves };
        // It may have come before there was anyone to wake.
        cancel.reason().map_or(Ok(compiling), |reason| Err(Halt::Cancelled(reason)))
    }

    fn land(mut self, graph: &Arc<SharedGraph>) {
        if let Some(flight) = self.flight.take() {
            flight.land(graph.clone(), graph.weight());
        }
    }
}

impl Drop for Compiling<'_> {
    fn drop(&mut self) {
        // First, so that a compile that has ended is left by nobody; and the place here,
        // since the waker goes under the lock of the task's `Cancel`.
        drop(self.flight.take());
        leave(&self.place);
    }
}

fn leave(place: &Place) {
    // It is taken in one step.
    let waiter = place.lock().unwrap_or_else(PoisonError::into_inner).take();
    drop(waiter);
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
        served: ServedEncoding<'_>,
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

#[cfg(test)]
mod tests;
