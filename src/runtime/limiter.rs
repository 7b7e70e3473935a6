//! What one task may use: linear memory summed over the memories of its module
//! or component (the engine's own limit is for each of them), tables, and how
//! many of either.

use super::engine::{MAX_COMPONENT_TABLES, MAX_CORE_INSTANCES, MAX_MEMORIES, MAX_TABLE_ELEMENTS};
use crate::cancel::Cancel;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use wasmtime::ResourceLimiter;

/// A store's limiter: what is left of each budget.
pub(super) struct Limiter {
    memory: usize,
    memory_left: usize,
    /// What it would have come to with the last growth for which too little was left,
    /// and whether of what is shared.
    refused: Option<(usize, bool)>,
    table_left: usize,
    /// What it shares with others, and how much of that it has.
    shared: Option<(SharedMemory, usize)>,
    /// Who is told what is in use.
    task: Arc<Cancel>,
}

/// Bytes of linear memory that several stores have together. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct SharedMemory(Arc<AtomicUsize>);

impl SharedMemory {
    pub(super) fn new(bytes: u64) -> SharedMemory {
        SharedMemory(Arc::new(AtomicUsize::new(usize::try_from(bytes).unwrap_or(usize::MAX))))
    }

    fn take(&self, bytes: usize) -> bool {
        let take = |left: usize| left.checked_sub(bytes);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    fn give(&self, bytes: usize) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Drop for Limiter {
    fn drop(&mut self) {
        if let Some((shared, taken)) = &self.shared {
            shared.give(*taken);
        }
    }
}

impl Limiter {
    /// At most `memory` bytes of linear memory; as many as there are without.
    pub(super) fn new(memory: Option<u64>, task: Arc<Cancel>) -> Limiter {
        let memory =
            memory.map_or(usize::MAX, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
        Limiter {
            memory,
            memory_left: memory,
            refused: None,
            table_left: MAX_TABLE_ELEMENTS,
            shared: None,
            task,
        }
    }

    /// Takes its memory out of this, too, and gives it back when it is dropped.
    pub(super) fn sharing(self, shared: SharedMemory) -> Limiter {
        // Not by moving the fields: it has a drop of its own.
        let mut limiter = self;
        limiter.shared = Some((shared, 0));
        limiter
    }

    /// Takes what a growth needs that is within the limit.
    fn take_shared(&mut self, current: usize, desired: usize) -> bool {
        let Some((shared, taken)) = &mut self.shared else { return true };
        let more = desired.saturating_sub(current);
        let granted = shared.take(more);
        *taken += if granted { more } else { 0 };
        granted
    }

    /// Bytes of linear memory that the instance has come to.
    fn memory_taken(&self) -> usize {
        self.memory - self.memory_left
    }

    /// What is told of memory that the guest did not get.
    pub(super) fn refusal(&self) -> Option<String> {
        let (refused, shared) = self.refused?;
        let (refused, limit) = (mib(refused as u64), mib(self.memory as u64));
        if shared {
            return Some(format!(
                "memory: growth to {refused} refused: the requests of all HTTP servers have too \
                 little left of what they may have together, four times --task-memory"
            ));
        }
        Some(format!(
            "memory: growth to {refused} refused: the task may have {limit} \
             (--task-memory, or its own `-W max-memory-size`)"
        ))
    }
}

/// Bytes of memory as messages have them.
pub(super) fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// Takes `desired - current` out of `left` if it is there.
fn take(left: &mut usize, current: usize, desired: usize, maximum: Option<usize>) -> bool {
    // The engine asks before it looks at the declared maximum; a growth that
    // fails there must not use up the budget.
    if maximum.is_some_and(|maximum| desired > maximum) {
        return false;
    }
    match left.checked_sub(desired.saturating_sub(current)) {
        Some(rest) => {
            *left = rest;
            true
        }
        None => false,
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let taken = self.memory_taken();
        let mut granted = take(&mut self.memory_left, current, desired, maximum);
        let mut shared = false;
        if granted && !self.take_shared(current, desired) {
            self.memory_left += desired.saturating_sub(current);
            (granted, shared) = (false, true);
        }
        if !granted && maximum.is_none_or(|maximum| desired <= maximum) {
            let wanted = taken.saturating_add(desired.saturating_sub(current));
            self.refused = Some((wanted, shared));
        }
        self.task.set_memory(self.memory_taken() as u64);
        Ok(granted)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(take(&mut self.table_left, current, desired, maximum))
    }

    fn instances(&self) -> usize {
        MAX_CORE_INSTANCES as usize
    }

    fn tables(&self) -> usize {
        MAX_COMPONENT_TABLES as usize
    }

    fn memories(&self) -> usize {
        MAX_MEMORIES as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memories_share_one_budget() {
        let task = Arc::<Cancel>::default();
        let mut limiter = Limiter::new(Some(100), task.clone());
        assert!(limiter.memory_growing(0, 60, None).expect("an answer"));
        assert!(!limiter.memory_growing(0, 60, None).expect("an answer"));
        assert_eq!(task.memory(), 60);
        assert!(limiter.memory_growing(60, 100, None).expect("an answer"));
        assert_eq!(task.memory(), 100);
        assert!(!limiter.memory_growing(100, 101, None).expect("an answer"));
    }

    #[test]
    fn a_refused_growth_is_told_with_what_the_memories_would_have_come_to() {
        const MIB: usize = 1 << 20;
        let mut limiter = Limiter::new(Some(512 << 20), Arc::default());
        assert!(limiter.memory_growing(0, 200 * MIB, None).expect("an answer"));
        assert_eq!(limiter.refusal(), None);
        assert!(!limiter.memory_growing(0, 400 * MIB, None).expect("an answer"));
        let refusal = limiter.refusal().expect("it was refused");
        assert!(refusal.contains("growth to 600.0 MiB refused: the task may have 512.0 MiB"));
    }

    #[test]
    fn what_is_shared_is_given_back() {
        let shared = SharedMemory::new(100);
        let limiter = || Limiter::new(Some(80), Arc::default()).sharing(shared.clone());
        let (mut first, mut second) = (limiter(), limiter());
        assert!(first.memory_growing(0, 60, None).expect("an answer"));
        assert!(!second.memory_growing(0, 60, None).expect("an answer"));
        assert!(second.memory_growing(0, 40, None).expect("an answer"));
        drop(first);
        assert!(second.memory_growing(40, 80, None).expect("an answer"));
        drop(second);
        assert!(limiter().memory_growing(0, 80, None).expect("an answer"));
    }

    #[test]
    fn a_growth_past_the_declared_maximum_costs_nothing() {
        let mut limiter = Limiter::new(Some(100), Arc::default());
        assert!(!limiter.memory_growing(0, 90, Some(50)).expect("an answer"));
        assert_eq!(limiter.refusal(), None, "it is the module's own limit");
        assert!(limiter.memory_growing(0, 100, Some(100)).expect("an answer"));
    }

    #[test]
    fn without_a_limit_memory_is_the_modules_own_affair() {
        let mut limiter = Limiter::new(None, Arc::default());
        assert!(limiter.memory_growing(0, usize::MAX, None).expect("an answer"));
    }
}
