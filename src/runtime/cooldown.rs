//! Code that is not compiled again for a while, and why: its compile failed, or
//! took long until nobody waited for it any more.

use crate::digest::Digest;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// For how long it is not compiled again.
pub(super) const PAUSE: Duration = Duration::from_secs(60);
/// Digests that are remembered; the oldest goes first.
const MAX_DIGESTS: usize = 4096;

/// The digests, each with the time until which it pauses and the sentence for
/// its tasks.
#[derive(Default)]
pub(super) struct Pauses(Mutex<HashMap<Digest, (Instant, Arc<str>)>>);

impl Pauses {
    /// Begins the pause of this code.
    pub(super) fn pause(&self, digest: Digest, reason: Arc<str>, now: Instant) {
        let mut digests = self.lock();
        digests.retain(|_, (until, _)| *until > now);
        if digests.len() >= MAX_DIGESTS {
            let oldest = digests.iter().min_by_key(|(_, (until, _))| *until);
            if let Some(oldest) = oldest.map(|(digest, _)| *digest) {
                digests.remove(&oldest);
            }
        }
        digests.insert(digest, (now + PAUSE, reason));
    }

    /// Why this code is not compiled now, if it is not.
    pub(super) fn reason(&self, digest: &Digest, now: Instant) -> Option<Arc<str>> {
        let digests = self.lock();
        let (until, reason) = digests.get(digest)?;
        (*until > now).then(|| reason.clone())
    }

    // Entries come and go whole.
    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, (Instant, Arc<str>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_pauses_for_its_time() {
        let pauses = Pauses::default();
        let (digest, begin) = (Digest::of(b"a"), Instant::now());
        pauses.pause(digest, "why".into(), begin);
        let last = begin + PAUSE - Duration::from_nanos(1);
        assert_eq!(pauses.reason(&digest, last).as_deref(), Some("why"));
        assert_eq!(pauses.reason(&digest, begin + PAUSE), None);
        assert_eq!(pauses.reason(&Digest::of(b"b"), begin), None);
    }

    #[test]
    fn the_oldest_goes_and_what_is_over_goes_before_it() {
        let pauses = Pauses::default();
        let begin = Instant::now();
        let digest = |n: usize| Digest::of(&n.to_le_bytes());
        let at = |n: usize| begin + Duration::from_millis(n as u64);
        for n in 0..=MAX_DIGESTS {
            pauses.pause(digest(n), "why".into(), at(n));
        }
        assert_eq!(pauses.lock().len(), MAX_DIGESTS);
        assert!(pauses.reason(&digest(0), begin).is_none());
        assert!(pauses.reason(&digest(1), begin).is_some());
        pauses.pause(digest(0), "why".into(), at(2) + PAUSE);
        assert_eq!(pauses.lock().len(), MAX_DIGESTS - 1, "two were over");
    }
}
