//! How fast the journal is written, and how large it is: numbers that its thread
//! leaves for whoever looks.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds in seconds: a sync of a good disk takes a millisecond, one of a
/// card a hundred.
pub const JOURNAL_BUCKETS: [f64; 10] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.5];

/// Transactions of the journal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JournalLevels {
    /// Bytes of its file.
    pub bytes: u64,
    /// Of all transactions together, failed ones included.
    pub total: Duration,
    /// Of the last one.
    pub last: Duration,
    /// How many took up to each bound of [`JOURNAL_BUCKETS`] and more than the
    /// one before it, then how many took longer than the last.
    pub counts: [u64; JOURNAL_BUCKETS.len() + 1],
}

/// Where its thread leaves them.
#[derive(Clone, Debug)]
pub struct Pace(Arc<Numbers>);

#[derive(Debug)]
struct Numbers {
    file: PathBuf,
    bytes: AtomicU64,
    nanoseconds: AtomicU64,
    last: AtomicU64,
    counts: [AtomicU64; JOURNAL_BUCKETS.len() + 1],
}

impl Pace {
    /// Of a journal in this file.
    pub(super) fn new(file: PathBuf) -> Pace {
        let pace = Pace(Arc::new(Numbers {
            file,
            bytes: AtomicU64::default(),
            nanoseconds: AtomicU64::default(),
            last: AtomicU64::default(),
            counts: Default::default(),
        }));
        pace.measure();
        pace
    }

    /// A transaction has taken so long.
    pub(super) fn took(&self, time: Duration) {
        let bucket = JOURNAL_BUCKETS.partition_point(|bound| *bound < time.as_secs_f64());
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.0.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.0.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
        self.0.last.store(nanoseconds, Ordering::Relaxed);
        self.measure();
    }

    fn measure(&self) {
        if let Ok(file) = std::fs::metadata(&self.0.file) {
            self.0.bytes.store(file.len(), Ordering::Relaxed);
        }
    }

    /// As they are now.
    pub fn levels(&self) -> JournalLevels {
        let time =
            |nanoseconds: &AtomicU64| Duration::from_nanos(nanoseconds.load(Ordering::Relaxed));
        JournalLevels {
            bytes: self.0.bytes.load(Ordering::Relaxed),
            total: time(&self.0.nanoseconds),
            last: time(&self.0.last),
            counts: self.0.counts.each_ref().map(|count| count.load(Ordering::Relaxed)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transactions_are_counted_by_how_long_they_took() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("journal");
        std::fs::write(&file, [0; 100]).expect("written");
        let pace = Pace::new(file.clone());
        assert_eq!(pace.levels(), JournalLevels { bytes: 100, ..JournalLevels::default() });
        std::fs::write(&file, [0; 200]).expect("written");
        for millis in [1, 2, 10_000] {
            pace.took(Duration::from_millis(millis));
        }
        let levels = pace.levels();
        assert_eq!((levels.bytes, levels.last), (200, Duration::from_secs(10)));
        assert_eq!(levels.total, Duration::from_millis(10_003));
        assert_eq!((levels.counts[1], levels.counts[2], levels.counts[10]), (1, 1, 1));
    }
}
