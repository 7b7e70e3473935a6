//! What waiting tasks take up.

use crate::digest::Digest;
use crate::task::Weight;
use std::collections::HashMap;

/// What some tasks take up together.
#[derive(Debug, Default)]
pub struct Load {
    bytes: usize,
    /// Their modules: how many of them have each, and its bytes.
    modules: HashMap<Digest, (usize, usize)>,
}

impl Load {
    /// Bytes, a module counted once.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes with one task more.
    pub fn with(&self, weight: Weight) -> usize {
        let module = weight.module.filter(|(module, _)| !self.modules.contains_key(module));
        self.bytes.saturating_add(weight.own).saturating_add(module.map_or(0, |(_, bytes)| bytes))
    }

    /// One task more.
    pub fn add(&mut self, weight: Weight) {
        self.bytes = self.with(weight);
        if let Some((module, bytes)) = weight.module {
            self.modules.entry(module).or_insert((0, bytes)).0 += 1;
        }
    }

    /// One less, which was added.
    pub fn remove(&mut self, weight: Weight) {
        self.bytes = self.bytes.saturating_sub(weight.own);
        if let Some((module, _)) = weight.module
            && let Some((count, bytes)) = self.modules.get_mut(&module)
        {
            *count -= 1;
            if *count == 0 {
                self.bytes = self.bytes.saturating_sub(*bytes);
                self.modules.remove(&module);
            }
        }
    }
}
