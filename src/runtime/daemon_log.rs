//! What a daemon writes, as lines of the log: bounded in length and number, and
//! what is left out is counted.

use crate::task::TaskId;
use std::time::{Duration, Instant};
use tracing::{info, warn};

/// Bytes of a line; what is longer is cut.
const LENGTH: usize = 1024;
/// Lines in each [`WINDOW`].
const LINES: u32 = 200;
const WINDOW: Duration = Duration::from_secs(10);

/// One output stream of a daemon.
pub(super) struct Lines {
    task: TaskId,
    stream: &'static str,
    line: Vec<u8>,
    /// When the window began, and how many lines it had.
    window: (Instant, u32),
    left_out: u64,
}

impl Lines {
    /// Of this stream, `stdout` or `stderr`.
    pub(super) fn new(task: &TaskId, stream: &'static str) -> Lines {
        let window = (Instant::now(), 0);
        Lines { task: task.clone(), stream, line: Vec::new(), window, left_out: 0 }
    }

    /// Takes what was written, and logs the lines that end with it.
    pub(super) fn write(&mut self, bytes: &[u8]) {
        self.take(bytes, Instant::now(), &mut |task, stream, line| {
            info!(task = %task, stream, "{line}");
        });
    }

    fn take(
        &mut self,
        bytes: &[u8],
        now: Instant,
        log: &mut dyn FnMut(&TaskId, &'static str, &str),
    ) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let text = piece.strip_suffix(b"\n").unwrap_or(piece);
            let room = LENGTH.saturating_sub(self.line.len());
            self.line.extend_from_slice(&text[..text.len().min(room)]);
            if text.len() < piece.len() {
                let line = std::mem::take(&mut self.line);
                if self.may_log(now) {
                    log(&self.task, self.stream, &String::from_utf8_lossy(&line));
                }
            }
        }
    }

    fn may_log(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.window.0) >= WINDOW {
            self.say_what_was_left_out();
            self.window = (now, 0);
        }
        self.window.1 += 1;
        let may = self.window.1 <= LINES;
        self.left_out += u64::from(!may);
        may
    }

    fn say_what_was_left_out(&mut self) {
        let lines = std::mem::take(&mut self.left_out);
        if lines > 0 {
            warn!(task = %self.task, stream = self.stream, lines, "lines of the daemon were left out");
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        if !self.line.is_empty() {
            self.write(b"\n");
        }
        self.say_what_was_left_out();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_logged_when_they_end_cut_and_no_more_than_so_many() {
        let id = TaskId::new("a").expect("an id");
        let mut lines = Lines::new(&id, "stdout");
        let mut logged = Vec::new();
        let now = Instant::now();
        let mut write = |lines: &mut Lines, text: &[u8], now| {
            lines.take(text, now, &mut |_, _, line| logged.push(line.to_owned()));
            std::mem::take(&mut logged)
        };
        assert!(write(&mut lines, b"one ", now).is_empty());
        assert_eq!(write(&mut lines, b"line\nand\n\nmore", now), ["one line", "and", ""]);
        let long = [&[b'x'; 3000][..], b"\n"].concat();
        let cut = write(&mut lines, &long, now);
        assert_eq!(cut, [format!("more{}", "x".repeat(LENGTH - 4))]);
        let flood = "y\n".repeat(1000);
        assert_eq!(write(&mut lines, flood.as_bytes(), now).len(), LINES as usize - 4);
        assert_eq!(lines.left_out, 1000 - u64::from(LINES) + 4);
        // In time there is room again.
        assert_eq!(write(&mut lines, b"later\n", now + WINDOW), ["later"]);
        assert_eq!(lines.left_out, 0);
    }
}
