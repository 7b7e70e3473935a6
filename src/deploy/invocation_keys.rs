//! Invocations that were taken, so that none is taken twice.

use crate::journal::InvocationKey;
use std::collections::{HashSet, VecDeque};

/// How many are remembered: more than a broker has in flight for a client.
const REMEMBERED: usize = 4096;

/// The last ones.
#[derive(Debug, Default)]
pub(super) struct SeenInvocations {
    keys: HashSet<InvocationKey>,
    /// Oldest first, with some that are forgotten.
    order: VecDeque<InvocationKey>,
}

impl SeenInvocations {
    pub(super) fn contains(&self, key: InvocationKey) -> bool {
        self.keys.contains(&key)
    }

    pub(super) fn insert(&mut self, key: InvocationKey) {
        self.keys.insert(key);
        self.order.push_back(key);
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.keys.remove(&oldest);
        }
    }

    /// It was refused after all, and may come again.
    pub(super) fn forget(&mut self, key: InvocationKey) {
        self.keys.remove(&key);
        if let Some(at) = self.order.iter().rposition(|known| *known == key) {
            self.order.remove(at);
        }
    }

    pub(super) fn extend(&mut self, keys: Vec<InvocationKey>) {
        keys.into_iter().for_each(|key| self.insert(key));
    }
}
