//! Code that was fetched for deployed tasks, so that their invocations run what
//! was prepared, and fetch nothing: in memory by task, and on the disk by its digest,
//! with what each address came to last.
//!
//! A task that is not deployed does not ask here: only who was asked for an address
//! knows whether something else is there now.

use crate::digest::Digest;
use crate::disk::DiskCache;
use crate::task::{Binary, TaskId};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes of it in memory. What goes is on the disk, or fetched again by the next
/// invocation.
const BYTES: usize = 64 << 20;

/// What was fetched last of each task.
#[derive(Default)]
pub(super) struct LastFetched(Mutex<VecDeque<(String, Binary)>>);

/// What addresses came to last, in a folder of its own or none. Clones share it.
#[derive(Clone, Default)]
pub(super) struct LastFetchedOnDisk(Option<Arc<DiskCache>>);

impl LastFetchedOnDisk {
    pub(super) fn new(disk: Option<Arc<DiskCache>>) -> LastFetchedOnDisk {
        LastFetchedOnDisk(disk)
    }

    /// What was at this address when it was fetched last.
    pub(super) fn get(&self, address: &str) -> Option<Binary> {
        let disk = self.0.as_ref()?;
        let digest = disk.get(&place_of(address))?.try_into().ok()?;
        let digest = Digest::from_bytes(digest);
        let binary = Binary::new(disk.get(&digest)?);
        (binary.digest() == digest).then_some(binary)
    }

    /// Has what was fetched from this address written.
    pub(super) fn put(&self, address: &str, binary: &Binary) {
        let Some(disk) = &self.0 else { return };
        let place = place_of(address);
        // What is not written, as there is too much to write, must not leave what the
        // address came to before.
        disk.remove(&place);
        let (digest, code) = (binary.digest(), binary.clone());
        disk.keep(digest, move || Ok(code.to_vec()));
        disk.keep(place, move || Ok(digest.as_bytes().to_vec()));
    }
}

impl LastFetched {
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

/// Under which it is written what an address came to.
fn place_of(address: &str) -> Digest {
    Digest::of_list([b"what an address came to".as_slice(), address.as_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_an_address_came_to_last_is_on_the_disk_by_its_digest() {
        let folder = tempfile::tempdir().expect("a folder");
        let open = || Arc::new(DiskCache::open(folder.path(), 10_000).expect("a folder"));
        let (old, new) = (Binary::new(vec![1; 4000]), Binary::new(vec![2; 4000]));
        let files = || std::fs::read_dir(folder.path()).expect("a folder").count();
        let put = |address: &str, binary: &Binary| {
            let disk = open();
            let kept = LastFetchedOnDisk::new(Some(disk.clone()));
            kept.put(address, binary);
            let end = std::time::Instant::now() + Duration::from_secs(60);
            while kept.get(address).as_ref() != Some(binary) {
                assert!(std::time::Instant::now() < end, "it is not written");
                std::thread::sleep(Duration::from_millis(1));
            }
            disk.close(Duration::from_secs(60));
            files()
        };
        assert!(LastFetchedOnDisk::default().get("a").is_none());
        assert_eq!(put("a", &old), 2);
        // One image of two names is there once.
        assert_eq!(put("b", &old), 3);
        assert_eq!(put("a", &new), 4);
        let kept = LastFetchedOnDisk::new(Some(open()));
        assert!(kept.get("b") == Some(old));
        assert!(kept.get("c").is_none());
        std::fs::write(folder.path().join(new.digest().to_string()), b"x").expect("written");
        assert!(kept.get("a").is_none(), "damaged");
        // What is used least recently makes room.
        put("d", &Binary::new(vec![4; 9000]));
        assert!(LastFetchedOnDisk::new(Some(open())).get("b").is_none());
    }

    #[test]
    fn the_code_of_the_task_that_was_used_least_recently_goes_first() {
        let has = |kept: &LastFetched, id: &TaskId, byte: u8| {
            kept.get(id).is_some_and(|binary| binary[0] == byte)
        };
        let id = |name: &str| TaskId::new(name).expect("an id");
        let kept = LastFetched::default();
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
