//! How far `proplet submit --count` has come: one line on stderr that is written
//! over, if that is a terminal.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

/// Time between two lines.
const INTERVAL: Duration = Duration::from_millis(100);
/// Characters of the bar.
const WIDTH: u64 = 32;

/// See the module's documentation.
pub(super) struct Progress {
    total: u64,
    done: u64,
    failed: u64,
    started: Instant,
    shown: Option<Instant>,
    terminal: bool,
}

impl Progress {
    /// Nothing is done of so many tasks.
    pub(super) fn new(total: u64) -> Progress {
        let terminal = io::stderr().is_terminal();
        Progress { total, done: 0, failed: 0, started: Instant::now(), shown: None, terminal }
    }

    /// One more is done; so many have failed.
    pub(super) fn advance(&mut self, failed: u64) {
        self.done += 1;
        self.failed = failed;
        let now = Instant::now();
        if self.terminal && self.shown.is_none_or(|shown| now - shown >= INTERVAL) {
            self.shown = Some(now);
            write(&self.line(now - self.started));
        }
    }

    /// Removes the line.
    pub(super) fn clear(&self) {
        if self.shown.is_some() {
            write("");
        }
    }

    fn line(&self, elapsed: Duration) -> String {
        let full = (WIDTH * self.done / self.total.max(1)) as usize;
        let bar = "#".repeat(full) + &"-".repeat(WIDTH as usize - full);
        let rate = self.done as f64 / elapsed.as_secs_f64().max(0.001);
        let left = (self.total - self.done) as f64 / rate.max(0.001);
        let mut line = format!("{bar} {}/{}  {rate:.1}/s  {left:.0} s left", self.done, self.total);
        if self.failed > 0 {
            line += &format!("  {} failed", self.failed);
        }
        line
    }
}

/// Writes over the line. Whether it can be seen matters to nothing.
fn write(line: &str) {
    let mut stderr = io::stderr().lock();
    write!(stderr, "\r{line}\x1b[K").and_then(|()| stderr.flush()).ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_and_how_fast() {
        let mut progress = Progress::new(4);
        progress.terminal = false;
        progress.advance(0);
        assert_eq!(
            progress.line(Duration::from_secs(2)),
            "########------------------------ 1/4  0.5/s  6 s left"
        );
        for failed in [0, 1, 2] {
            progress.advance(failed);
        }
        assert_eq!(
            progress.line(Duration::from_secs(2)),
            "################################ 4/4  2.0/s  0 s left  2 failed"
        );
        assert!(Progress::new(0).line(Duration::ZERO).contains("0/0"));
    }
}
