//! How many lines of a kind the log gets: a flood of tasks that are refused or
//! fail is no flood of lines. What was left out is told once a minute.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tracing::warn;

/// Lines of a kind in each [`SPAN`].
const LINES: u32 = 200;
const SPAN: Duration = Duration::from_secs(60);

/// See the module's documentation.
pub(super) struct LogQuota {
    since: Instant,
    /// Of each kind the lines that were written, and those that were not.
    kinds: BTreeMap<&'static str, (u32, u64)>,
}

impl LogQuota {
    pub(super) fn new(now: Instant) -> LogQuota {
        LogQuota { since: now, kinds: BTreeMap::new() }
    }

    /// Whether a line of this kind may be written.
    pub(super) fn may_write(&mut self, kind: &'static str) -> bool {
        let (written, left_out) = self.kinds.entry(kind).or_default();
        if *written < LINES {
            *written += 1;
            return true;
        }
        *left_out += 1;
        false
    }

    /// Begins anew once a minute, and tells what was left out.
    pub(super) fn tick(&mut self, now: Instant) {
        for (kind, lines) in self.turn(now) {
            warn!(lines, kind, "lines of the log were left out in the last minute");
        }
    }

    fn turn(&mut self, now: Instant) -> Vec<(&'static str, u64)> {
        if now.saturating_duration_since(self.since) < SPAN {
            return Vec::new();
        }
        self.since = now;
        let kinds = std::mem::take(&mut self.kinds).into_iter();
        kinds
            .map(|(kind, (_, left_out))| (kind, left_out))
            .filter(|(_, lines)| *lines > 0)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_one_kind_is_cut_and_told_once_a_minute() {
        let begun = Instant::now();
        let mut quota = LogQuota::new(begun);
        let written = (0..LINES + 7).filter(|_| quota.may_write("task refused")).count();
        assert_eq!(written, LINES as usize);
        assert!(quota.may_write("task failed"), "another kind has its own");
        assert!(quota.turn(begun + SPAN / 2).is_empty(), "not before");
        assert_eq!(quota.turn(begun + SPAN), [("task refused", 7)]);
        assert!(quota.may_write("task refused"));
        assert!(quota.turn(begun + SPAN * 2).is_empty(), "nothing was left out");
    }
}
