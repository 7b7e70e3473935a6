//! What is not compiled again for a while, and why: its compile failed, or took
//! long until nobody waited for it any more.

use crate::digest::Digest;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// For how long it is not compiled again.
pub(crate) const PAUSE: Duration = Duration::from_secs(60);
/// A compile that was ended sooner has cost next to nothing, and may begin again
/// at once.
pub(crate) const SHORT: Duration = Duration::from_secs(1);
/// Digests that are remembered; the oldest goes first.
const MAX_DIGESTS: usize = 4096;

/// The digests, each with the time until which it pauses and why.
pub(crate) struct Pauses<R>(Mutex<HashMap<Digest, (Instant, R)>>);

impl<R> Default for Pauses<R> {
    fn default() -> Pauses<R> {
        Pauses(Mutex::default())
    }
}

impl<R: Clone> Pauses<R> {
    /// Begins the pause of what has this digest.
    pub(crate) fn pause(&self, digest: Digest, reason: R, now: Instant) {
        self.pause_for(digest, PAUSE, reason, now);
    }

    /// The same for another time, which takes the place of the one before; none
    /// ends it.
    pub(crate) fn pause_for(&self, digest: Digest, time: Duration, reason: R, now: Instant) {
        let mut digests = self.lock();
        digests.retain(|_, (until, _)| *until > now);
        if digests.len() >= MAX_DIGESTS {
            let oldest = digests.iter().min_by_key(|(_, (until, _))| *until);
            if let Some(oldest) = oldest.map(|(digest, _)| *digest) {
                digests.remove(&oldest);
            }
        }
        digests.insert(digest, (now + time, reason));
    }

    /// For how long it is still not compiled, and why, if it is not.
    pub(crate) fn reason(&self, digest: &Digest, now: Instant) -> Option<(Duration, R)> {
        let digests = self.lock();
        let (until, reason) = digests.get(digest)?;
        left(*until, now).map(|left| (left, reason.clone()))
    }

    /// All of them, each with the time that is left of it.
    pub(crate) fn all(&self, now: Instant) -> Vec<(Digest, Duration, R)> {
        let digests = self.lock();
        let all = digests.iter().filter_map(|(digest, (until, reason))| {
            Some((*digest, left(*until, now)?, reason.clone()))
        });
        all.collect()
    }

    // Entries come and go whole.
    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, (Instant, R)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn left(until: Instant, now: Instant) -> Option<Duration> {
    until.checked_duration_since(now).filter(|left| !left.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_pauses_for_its_time() {
        let pauses = Pauses::default();
        let (digest, begin) = (Digest::of(b"a"), Instant::now());
        pauses.pause(digest, "why", begin);
        let nanosecond = Duration::from_nanos(1);
        let last = begin + PAUSE - nanosecond;
        assert_eq!(pauses.reason(&digest, last), Some((nanosecond, "why")));
        assert_eq!(pauses.all(last), [(digest, nanosecond, "why")]);
        assert_eq!(pauses.reason(&digest, begin + PAUSE), None);
        assert_eq!(pauses.all(begin + PAUSE), []);
        assert_eq!(pauses.reason(&Digest::of(b"b"), begin), None);
        pauses.pause_for(digest, Duration::ZERO, "no more", begin);
        assert_eq!(pauses.reason(&digest, begin), None);
    }

    #[test]
    fn the_oldest_goes_and_what_is_over_goes_before_it() {
        let pauses = Pauses::default();
        let begin = Instant::now();
        let digest = |n: usize| Digest::of(&n.to_le_bytes());
        let at = |n: usize| begin + Duration::from_millis(n as u64);
        for n in 0..=MAX_DIGESTS {
            pauses.pause(digest(n), "why", at(n));
        }
        assert_eq!(pauses.lock().len(), MAX_DIGESTS);
        assert!(pauses.reason(&digest(0), begin).is_none());
        assert!(pauses.reason(&digest(1), begin).is_some());
        pauses.pause(digest(0), "why", at(2) + PAUSE);
        assert_eq!(pauses.lock().len(), MAX_DIGESTS - 1, "two were over");
    }
}
