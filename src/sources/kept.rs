//! Code that was fetched for deployed tasks, so that their invocations run what
//! was prepared, and fetch nothing.

use crate::task::{Binary, TaskId};
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes of it. What goes is fetched again by the next invocation.
const BYTES: usize = 64 << 20;

/// What was fetched last of each task.
#[derive(Default)]
pub(super) struct Kept(Mutex<VecDeque<(String, Binary)>>);

impl Kept {
    /// What was fetched for this task, or for the one that this is an
    /// invocation of.
    pub(super) fn get(&self, id: &TaskId) -> Option<Binary> {
        let mut kept = self.lock();
        let at = kept.iter().position(|(of, _)| of == id.as_str())?;
        let found = kept.remove(at)?;
        let binary = found.1.clone();
        kept.push_back(found);
        Some(binary)
    }

    /// Keeps it in place of what was fetched before.
    pub(super) fn put(&self, id: &TaskId, binary: Binary) {
        let mut kept = self.lock();
        kept.retain(|(of, _)| of != id.as_str());
        kept.push_back((id.as_str().to_owned(), binary));
        while kept.iter().map(|(_, binary)| binary.len()).sum::<usize>() > BYTES {
            kept.pop_front();
        }
    }

    // Entries come and go whole.
    fn lock(&self) -> MutexGuard<'_, VecDeque<(String, Binary)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_of_the_task_that_was_used_least_recently_goes_first() {
        let has = |kept: &Kept, id: &TaskId, byte: u8| {
            kept.get(id).is_some_and(|binary| binary[0] == byte)
        };
        let id = |name: &str| TaskId::new(name).expect("an id");
        let kept = Kept::default();
        let binary = |byte: u8| Binary::new(vec![byte; BYTES / 2]);
        kept.put(&id("a"), binary(1));
        kept.put(&id("b"), binary(2));
        let invocation = id("a").with_invocation(std::num::NonZeroU64::MIN);
        assert!(has(&kept, &invocation, 1));
        kept.put(&id("c"), binary(3));
        assert!(kept.get(&id("b")).is_none());
        kept.put(&id("c"), binary(4));
        assert!(has(&kept, &id("c"), 4));
        assert!(has(&kept, &id("a"), 1));
        kept.put(&id("d"), Binary::new(vec![0; BYTES + 1]));
        assert!(kept.get(&id("d")).is_none(), "it is larger than all that is kept");
    }
}
