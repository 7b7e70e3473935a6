//! A single-flight cache with a budget: callers that ask for the same key at the
//! same time share one computation, and the least recently used values are
//! evicted.
//!
//! ```text
//! look_up ─▶ there ─────────────────────────────────────▶ Found
//!         ─▶ being made ─▶ wait ─┬─ landed ─────────────▶ Found
//!         │                      ├─ dropped: look again
//!         │                      └─ the task is to end ─▶ its reason
//!         └▶ neither ───────────────────────────────────▶ Claimed: make it, then land
//! ```
//!
//! The caller that claims a key computes its value, on any thread:
//! [`Flight::land`] stores it and hands it to all waiting callers. A flight that
//! is dropped, also by a panic, leaves nothing behind, and the next waiting
//! caller claims the key. So a failure is cached if it lands as a value, and is
//! not if it is given ([`Flight::give`]) or if its flight is dropped. A caller
//! that has another thread compute the value waits for it with [`Flight::join`];
//! [`Flight::when_deserted`] tells that thread when nobody waits any more.
//!
//! A key may have several values, where it is a hash that only finds candidates:
//! the caller tells which one it means, outside the lock. Nothing here polls: the
//! [`Cancel`] of a task that is to end wakes its waiting thread.

mod flight;

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::cancel::{Cancel, Reason};

pub use flight::{Flight, Waiter};
use flight::{Making, Slot};

/// What a cache may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheLimits {
    /// Total weight of the values, in bytes. A value that exceeds it by itself is
    /// handed to the waiting callers and not stored.
    pub bytes: u64,
    /// Number of values.
    pub entries: usize,
    /// Number of values that are computed at the same time.
    pub flights: usize,
}

/// What a cache did so far and holds now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Look-ups that found a value, or another caller computing it.
    pub hits: u64,
    /// Values that were evicted.
    pub evicted: u64,
    /// Total weight of the values, in bytes.
    pub bytes: u64,
    /// Number of values.
    pub entries: u64,
}

/// What a look-up comes to.
pub enum LookUp<K: Copy + Eq + Hash, V: Clone> {
    /// The value was there, or another caller has made it meanwhile.
    Found(V),
    /// It is to be made by this caller.
    Claimed(Flight<K, V>),
}

/// A value that a cache holds, for whoever asks what is in it.
#[derive(Debug)]
pub struct CacheEntry<K, V> {
    /// Its key.
    pub key: K,
    /// The value.
    pub value: V,
    /// Bytes.
    pub weight: u64,
    /// Look-ups that found it.
    pub hits: u64,
    /// The time since the last of them, or since it was made.
    pub idle: Duration,
}

/// A value, and its identity among those of its key.
struct CachedValue<V> {
    id: u64,
    /// Its place in the order of use, and when that was.
    used: u64,
    at: Instant,
    hits: u64,
    weight: u64,
    value: V,
}

struct State<K, V> {
    /// The values of each key.
    entries: HashMap<K, Vec<CachedValue<V>>>,
    /// Their places in the order of use.
    order: BTreeMap<u64, K>,
    flights: HashMap<K, Making<V>>,
    /// The last number that was given to an entry or a use.
    count: u64,
    stats: CacheStats,
}

struct Inner<K, V> {
    limits: CacheLimits,
    state: Mutex<State<K, V>>,
    /// A flight has ended, or a task that waits is to end.
    changed: Condvar,
}

/// The cache; clones share it. See the module's documentation.
pub struct Cache<K, V>(Arc<Inner<K, V>>);

impl<K, V> Clone for Cache<K, V> {
    fn clone(&self) -> Cache<K, V> {
        Cache(self.0.clone())
    }
}

impl<K, V> Cache<K, V>
where
    K: Copy + Eq + Hash + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// An empty cache.
    pub fn new(limits: CacheLimits) -> Cache<K, V> {
        let limits = CacheLimits { flights: limits.flights.max(1), ..limits };
        let state = State {
            entries: HashMap::new(),
            order: BTreeMap::new(),
            flights: HashMap::new(),
            count: 0,
            stats: CacheStats::default(),
        };
        Cache(Arc::new(Inner { limits, state: Mutex::new(state), changed: Condvar::new() }))
    }

    /// The value of this key for which `is` holds, or the right to make it.
    /// Waits for whoever makes a value of this key, and while as many values are
    /// being made as may be. `is` is not called under the lock.
    ///
    /// # Errors
    ///
    /// The reason for which the task is to end, if it would have to wait or to
    /// make the value.
    pub fn look_up(
        &self,
        key: K,
        is: impl Fn(&V) -> bool,
        cancel: &Cancel,
    ) -> Result<LookUp<K, V>, Reason> {
        let mut seen = 0;
        loop {
            let (candidates, newest) = self.0.lock().candidates(&key, seen);
            if let Some((id, value)) = candidates.into_iter().find(|(_, value)| is(value)) {
                self.0.lock().hit(&key, id);
                return Ok(LookUp::Found(value));
            }
            seen = newest;
            if let Some(reason) = cancel.reason() {
                return Err(reason);
            }
            let next = self.0.wait(cancel, |state| {
                if state.newest(&key) > seen {
                    return Some(Next::Look);
                }
                if let Some(making) = state.flights.get_mut(&key) {
                    making.waiting += 1;
                    return Some(Next::Wait(making.slot.clone()));
                }
                let free = state.flights.len() < self.0.limits.flights;
                free.then(|| Next::Make(state.claim(key)))
            })?;
            let inner = self.0.clone();
            match next {
                Next::Look => {}
                Next::Make(slot) => return Ok(LookUp::Claimed(Flight { inner, key, slot })),
                // It need not have been kept.
                Next::Wait(slot) => {
                    if let Some(value) = (Waiter { inner, key, slot }).wait(cancel)?
                        && is(&value)
                    {
                        self.0.lock().stats.hits += 1;
                        return Ok(LookUp::Found(value));
                    }
                }
            }
        }
    }

    /// Counts a use of this value of a key, which the caller has had from here
    /// before; it may be gone meanwhile.
    pub fn used(&self, key: K, is: impl Fn(&V) -> bool) {
        let mut state = self.0.lock();
        let entries = state.entries.get(&key).into_iter().flatten();
        let id = entries.into_iter().find(|entry| is(&entry.value)).map_or(0, |entry| entry.id);
        state.hit(&key, id);
    }

    /// Whether a value of this key is being made.
    pub fn is_in_flight(&self, key: &K) -> bool {
        self.0.lock().flights.contains_key(key)
    }

    /// What it did so far and holds now.
    pub fn stats(&self) -> CacheStats {
        self.0.lock().stats
    }

    /// The values, at most so many: those that were used last, the last first.
    pub fn entries(&self, most: usize) -> Vec<CacheEntry<K, V>> {
        let state = self.0.lock();
        let last = state.order.iter().rev().take(most);
        let entries = last.filter_map(|(used, key)| {
            let found = state.entries.get(key)?.iter().find(|entry| entry.used == *used)?;
            let CachedValue { value, weight, hits, at, .. } = found;
            let (value, idle) = (value.clone(), at.elapsed());
            Some(CacheEntry { key: *key, value, weight: *weight, hits: *hits, idle })
        });
        entries.collect()
    }
}

/// What a look-up does that has found nothing yet.
enum Next<V> {
    Look,
    Wait(Slot<V>),
    Make(Slot<V>),
}

impl<K, V> Inner<K, V> {
    // Whoever panicked left the state whole: nothing is called halfway.
    fn lock(&self) -> MutexGuard<'_, State<K, V>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has all who wait look again. Under the lock, so that nobody has looked
    /// and does not wait yet.
    fn wake(&self) {
        let _state = self.lock();
        self.changed.notify_all();
    }
}

impl<K: Send + 'static, V: Send + Sync + 'static> Inner<K, V> {
    /// Waits until `ready` gives something, or the task is to end.
    fn wait<R>(
        self: &Arc<Self>,
        cancel: &Cancel,
        mut ready: impl FnMut(&mut State<K, V>) -> Option<R>,
    ) -> Result<R, Reason> {
        let mut waking = None;
        let mut state = self.lock();
        loop {
            if let Some(ready) = ready(&mut state) {
                return Ok(ready);
            }
            if let Some(reason) = cancel.reason() {
                return Err(reason);
            }
            state = if waking.is_none() {
                drop(state);
                let inner = self.clone();
                waking = Some(cancel.wakes(move || inner.wake()));
                // Both may have come before there was anyone to wake.
                self.lock()
            } else {
                self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
            };
        }
    }
}

impl<K: Copy + Eq + Hash, V: Clone> State<K, V> {
    fn claim(&mut self, key: K) -> Slot<V> {
        let slot = Slot::default();
        let making = Making { slot: slot.clone(), waiting: 0, deserted: None };
        self.flights.insert(key, making);
        slot
    }

    /// This flight, unless its key has none or a later one.
    fn making(&mut self, key: &K, slot: &Slot<V>) -> Option<&mut Making<V>> {
        self.flights.get_mut(key).filter(|making| Arc::ptr_eq(&making.slot, slot))
    }

    fn end(&mut self, key: &K, slot: &Slot<V>) -> Option<Making<V>> {
        self.making(key, slot)?;
        self.flights.remove(key)
    }

    fn next(&mut self) -> u64 {
        self.count += 1;
        self.count
    }

    /// The values of a key that are newer than this one, the one used last
    /// first, and the newest of all: comparing takes time, and each is looked at
    /// once.
    fn candidates(&self, key: &K, seen: u64) -> (Vec<(u64, V)>, u64) {
        let Some(entries) = self.entries.get(key) else { return (Vec::new(), seen) };
        let mut new: Vec<_> = entries.iter().filter(|entry| entry.id > seen).collect();
        new.sort_unstable_by_key(|entry| std::cmp::Reverse(entry.used));
        let values = new.iter().map(|entry| (entry.id, entry.value.clone())).collect();
        (values, self.newest(key).max(seen))
    }

    fn newest(&self, key: &K) -> u64 {
        let entries = self.entries.get(key).into_iter().flatten();
        entries.map(|entry| entry.id).max().unwrap_or(0)
    }

    /// Notes a use, also of a value that is gone meanwhile.
    fn hit(&mut self, key: &K, id: u64) {
        self.stats.hits += 1;
        let now = self.next();
        let entries = self.entries.get_mut(key).into_iter().flatten();
        if let Some(entry) = entries.into_iter().find(|entry| entry.id == id) {
            self.order.remove(&entry.used);
            self.order.insert(now, *key);
            (entry.used, entry.at) = (now, Instant::now());
            entry.hits += 1;
        }
    }

    /// Keeps a value; gives those that went for it.
    fn insert(&mut self, key: K, value: V, weight: u64, limits: &CacheLimits) -> Vec<V> {
        if weight > limits.bytes || limits.entries == 0 {
            return Vec::new();
        }
        let mut evicted = Vec::new();
        while (self.stats.bytes + weight > limits.bytes || self.order.len() >= limits.entries)
            && let Some((used, key)) = self.order.pop_first()
        {
            evicted.extend(self.remove(&key, used));
            self.stats.evicted += 1;
        }
        let now = self.next();
        self.order.insert(now, key);
        self.entries.entry(key).or_default().push(CachedValue {
            id: now,
            used: now,
            at: Instant::now(),
            hits: 0,
            weight,
            value,
        });
        self.stats.bytes += weight;
        self.stats.entries = self.order.len() as u64;
        evicted
    }

    fn remove(&mut self, key: &K, used: u64) -> Option<V> {
        let entries = self.entries.get_mut(key)?;
        let place = entries.iter().position(|entry| entry.used == used)?;
        let entry = entries.swap_remove(place);
        if entries.is_empty() {
            self.entries.remove(key);
        }
        self.stats.bytes -= entry.weight;
        Some(entry.value)
    }
}

#[cfg(test)]
mod tests;
