//! A value that is being made: who makes it, and who waits for it.

use std::hash::Hash;
use std::sync::{Arc, OnceLock};

use super::Inner;
use crate::cancel::{Cancel, Reason};

/// A value that is being made: empty until it has landed.
pub(super) type Slot<V> = Arc<OnceLock<V>>;

/// Tells the maker of a value that nobody waits for it, and says whether it
/// gives up.
type Deserted = Box<dyn Fn() -> bool + Send>;

/// A key whose value is being made.
pub(super) struct Making<V> {
    pub(super) slot: Slot<V>,
    pub(super) waiting: usize,
    pub(super) deserted: Option<Deserted>,
}

/// The right to make the value of a key, which nobody else has meanwhile.
/// Dropped, it leaves that to the next who waits.
#[must_use = "others wait for the value"]
pub struct Flight<K: Copy + Eq + Hash, V: Clone> {
    pub(super) inner: Arc<Inner<K, V>>,
    pub(super) key: K,
    pub(super) slot: Slot<V>,
}

impl<K: Copy + Eq + Hash, V: Clone> Flight<K, V> {
    /// Gives the value to all who wait, and keeps it as `weight` bytes, unless
    /// it was given up.
    pub fn land(self, value: V, weight: u64) {
        let mut state = self.inner.lock();
        // Set here alone, so it is not set yet.
        self.slot.set(value.clone()).ok();
        let evicted = match state.making(&self.key, &self.slot) {
            Some(_) => state.insert(self.key, value, weight, &self.inner.limits),
            None => Vec::new(),
        };
        drop(state);
        drop(self);
        // After the lock, and after those who wait: it may be slow to free.
        drop(evicted);
    }

    /// Gives the value to all who wait, and does not keep it.
    pub fn give(self, value: V) {
        self.slot.set(value).ok();
    }

    /// A place among those who wait, for a caller that has the value made on
    /// another thread.
    pub fn join(&self) -> Waiter<K, V> {
        if let Some(making) = self.inner.lock().making(&self.key, &self.slot) {
            making.waiting += 1;
        }
        Waiter { inner: self.inner.clone(), key: self.key, slot: self.slot.clone() }
    }

    /// Has `deserted` called when the last of those who wait has ended without
    /// the value. If it is true, the value is given up: it is not kept, and
    /// whoever looks for it next claims it. It is called under the cache's lock,
    /// so that nobody comes meanwhile, and must neither wait nor use the cache.
    pub fn when_deserted(&self, deserted: impl Fn() -> bool + Send + 'static) {
        if let Some(making) = self.inner.lock().making(&self.key, &self.slot) {
            making.deserted = Some(Box::new(deserted));
        }
    }
}

impl<K: Copy + Eq + Hash, V: Clone> Drop for Flight<K, V> {
    fn drop(&mut self) {
        let ended = self.inner.lock().end(&self.key, &self.slot);
        self.inner.changed.notify_all();
        // After the lock.
        drop(ended);
    }
}

/// One of those who wait for a value that is being made.
#[must_use = "dropped, it does not wait"]
pub struct Waiter<K: Copy + Eq + Hash, V: Clone> {
    pub(super) inner: Arc<Inner<K, V>>,
    pub(super) key: K,
    pub(super) slot: Slot<V>,
}

impl<K, V> Waiter<K, V>
where
    K: Copy + Eq + Hash + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// Waits for the value; there is none if its flight was dropped.
    ///
    /// # Errors
    ///
    /// The reason for which the task is to end, if it would have to wait.
    pub fn wait(self, cancel: &Cancel) -> Result<Option<V>, Reason> {
        self.inner.wait(cancel, |state| match self.slot.get() {
            Some(value) => Some(Some(value.clone())),
            None => state.making(&self.key, &self.slot).is_none().then_some(None),
        })
    }
}

impl<K: Copy + Eq + Hash, V: Clone> Drop for Waiter<K, V> {
    fn drop(&mut self) {
        let mut state = self.inner.lock();
        let Some(making) = state.making(&self.key, &self.slot) else { return };
        making.waiting -= 1;
        let alone = making.waiting == 0 && self.slot.get().is_none();
        if alone && making.deserted.as_ref().is_some_and(|deserted| deserted()) {
            let ended = state.end(&self.key, &self.slot);
            self.inner.changed.notify_all();
            drop(state);
            // After the lock.
            drop(ended);
        }
    }
}
