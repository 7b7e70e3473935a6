//! Which large modules have been compiled.

use crate::digest::Digest;
use std::collections::{HashSet, VecDeque};

/// The most digests that are known.
const KNOWN: usize = 4096;

/// Large modules that have been compiled; the oldest go first.
#[derive(Default)]
pub(super) struct CompiledModules {
    digests: HashSet<Digest>,
    order: VecDeque<Digest>,
}

impl CompiledModules {
    pub(super) fn has(&self, digest: &Digest) -> bool {
        self.digests.contains(digest)
    }

    /// Returns whether it is new.
    pub(super) fn add(&mut self, digest: Digest) -> bool {
        let new = self.digests.insert(digest);
        if new {
            self.order.push_back(digest);
        }
        if self.order.len() > KNOWN
            && let Some(oldest) = self.order.pop_front()
        {
            self.digests.remove(&oldest);
        }
        new
    }
}
