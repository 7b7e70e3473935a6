//! Medians, and how far to trust them.

use std::fs;
use std::time::Duration;

/// Times of the same thing.
pub struct Samples(Vec<f64>);

impl Samples {
    pub const fn new() -> Samples {
        Samples(Vec::new())
    }

    /// Adds one, kept in milliseconds.
    pub fn add(&mut self, took: Duration) {
        self.0.push(took.as_secs_f64() * 1e3);
    }

    /// Adds a number as it is.
    pub fn add_number(&mut self, number: f64) {
        self.0.push(number);
    }

    /// The value below which this part of all values is.
    pub fn quantile(&self, part: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().saturating_sub(1);
        sorted.get((last as f64 * part).round() as usize).copied().unwrap_or(f64::NAN)
    }

    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// The middle half's width, as a part of the median.
    pub fn spread(&self) -> f64 {
        (self.quantile(0.75) - self.quantile(0.25)) / self.median()
    }
}

/// Runs of one thing in a row, in a round of the alternation.
pub struct Block {
    /// Those before, which do not count.
    pub warm_up: usize,
    /// Those that count.
    pub runs: usize,
}

impl Block {
    /// Adds what the runs that count take.
    pub fn measure(
        &self,
        samples: &mut Samples,
        mut run: impl FnMut() -> anyhow::Result<Duration>,
    ) -> anyhow::Result<()> {
        for _ in 0..self.warm_up {
            run()?;
        }
        for _ in 0..self.runs {
            samples.add(run()?);
        }
        Ok(())
    }
}

/// Processor time that other machines took, as the kernel counts it.
pub struct Steal {
    stolen: u64,
    total: u64,
}

impl Steal {
    /// So far; none where there is no `/proc/stat`.
    pub fn now() -> Option<Steal> {
        let stat = fs::read_to_string("/proc/stat").ok()?;
        let times: Vec<u64> =
            stat.lines().next()?.split_whitespace().skip(1).flat_map(str::parse).collect();
        Some(Steal { stolen: *times.get(7)?, total: times.iter().sum() })
    }

    /// The part of all time since `before` that was stolen.
    pub fn since(&self, before: &Steal) -> f64 {
        let total = self.total.saturating_sub(before.total).max(1);
        self.stolen.saturating_sub(before.stolen) as f64 / total as f64
    }
}

/// Processes that wanted to run during the last minute.
pub fn load() -> Option<f64> {
    fs::read_to_string("/proc/loadavg").ok()?.split_whitespace().next()?.parse().ok()
}
