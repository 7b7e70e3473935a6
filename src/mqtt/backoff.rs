//! How long to wait between two attempts to connect.

use std::time::Duration;

/// How long to wait before the next attempt: a random part of a ceiling that
/// doubles with each failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The first ceiling.
    pub first: Duration,
    /// The last ceiling.
    pub cap: Duration,
    /// A connection that lasted this long makes the next failure the first.
    pub stable: Duration,
}

impl Default for Backoff {
    fn default() -> Backoff {
        Backoff {
            first: Duration::from_secs(1),
            cap: Duration::from_secs(60),
            stable: Duration::from_secs(30),
        }
    }
}

impl Backoff {
    /// The wait after so many failures: workers that lost the same broker must
    /// not come back in the same instant. Never less than a tenth of the
    /// ceiling, or a refusal that is quick would make a busy loop.
    pub(super) fn delay(&self, failures: u32) -> Duration {
        let ceiling = self.first.saturating_mul(1 << failures.min(16)).min(self.cap);
        ceiling.mul_f64(0.1 + 0.9 * fastrand::f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_back_off_grows_to_its_cap_and_is_never_nothing() {
        let backoff = Backoff::default();
        for failures in 0..100 {
            let ceiling = Duration::from_secs(1 << failures.min(6)).min(backoff.cap);
            for _ in 0..50 {
                let delay = backoff.delay(failures);
                assert!(delay <= ceiling && delay >= ceiling / 10, "{failures}: {delay:?}");
            }
        }
    }
}
