//! What a server has served, in numbers.

use hyper::StatusCode;
use serde::{Deserialize, Serialize};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The bounds of the histogram of times, in seconds.
pub const TIMES: [f64; 12] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// See the module's documentation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Served {
    /// Answers with a status of 1xx to 5xx.
    pub statuses: [u64; 5],
    /// Answers that took up to each of [`TIMES`], then all others.
    pub times: [u64; TIMES.len() + 1],
    /// How long all answers took together.
    pub total: Duration,
    /// Requests whose guests run or wait to.
    pub in_flight: u64,
}

impl Served {
    /// Counts what another process has served, too.
    pub fn add(&mut self, other: &Served) {
        for (count, more) in self.statuses.iter_mut().zip(other.statuses) {
            *count += more;
        }
        for (count, more) in self.times.iter_mut().zip(other.times) {
            *count += more;
        }
        self.total += other.total;
    }
}

/// They grow as requests end.
#[derive(Default)]
pub(super) struct Counters(Mutex<Served>);

impl Counters {
    /// An answer has ended.
    pub(super) fn over(&self, status: StatusCode, took: Duration) {
        let mut served = self.lock();
        let class = usize::from(status.as_u16() / 100).clamp(1, 5) - 1;
        served.statuses[class] += 1;
        let seconds = took.as_secs_f64();
        let bucket = TIMES.iter().position(|bound| seconds <= *bound).unwrap_or(TIMES.len());
        served.times[bucket] += 1;
        served.total += took;
    }

    /// So many guests run or wait to.
    pub(super) fn in_flight(&self, requests: usize) {
        self.lock().in_flight = requests as u64;
    }

    pub(super) fn read(&self) -> Served {
        self.lock().clone()
    }

    // Numbers, each changed in one step.
    fn lock(&self) -> MutexGuard<'_, Served> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
