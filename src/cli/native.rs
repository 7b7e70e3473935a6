//! What native libraries write to standard error: each line becomes a line of
//! the log, escaped as all of it is, and no more of them than somebody can read.

use anyhow::Context as _;
use std::fs::File;
use std::io::{self, PipeReader, Read};
use std::os::fd::{AsFd as _, AsRawFd};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};
use tracing::warn;

/// The most lines in a [`SPAN`]; what is over is counted.
const LINES: usize = 100;
const SPAN: Duration = Duration::from_secs(1);

/// The most bytes of a line.
const LONGEST: usize = 1000;

/// How long the last lines may take at the end.
const LAST: Duration = Duration::from_secs(1);

/// Standard error, which is the log's alone until this is dropped.
pub(super) struct CapturedStderr {
    real: Arc<File>,
    lines: Option<PipeReader>,
    ended: Option<Receiver<()>>,
}

/// Leads what is written to standard error elsewhere. [`CapturedStderr::listen`] has
/// to follow: until then it waits in a pipe.
pub(super) fn capture() -> anyhow::Result<CapturedStderr> {
    let real = io::stderr().as_fd().try_clone_to_owned();
    let real = File::from(real.context("keeping standard error for the log")?);
    let (lines, writer) = io::pipe().context("a pipe for standard error")?;
    replace(&writer).context("leading standard error into the log")?;
    Ok(CapturedStderr { real: Arc::new(real), lines: Some(lines), ended: None })
}

/// Makes standard error what this is.
fn replace(by: &impl AsRawFd) -> io::Result<()> {
    // SAFETY: both are open descriptors, of which the second, standard error,
    // belongs to the whole process: who writes to it has no other claim than
    // that it is there.
    #[allow(unsafe_code, reason = "the standard library does not redirect its own")]
    let done = unsafe { libc::dup2(by.as_raw_fd(), libc::STDERR_FILENO) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

impl CapturedStderr {
    /// Where the log goes.
    pub(super) fn real(&self) -> Arc<File> {
        self.real.clone()
    }

    /// Starts to put the lines into the log.
    pub(super) fn listen(&mut self) -> anyhow::Result<()> {
        let Some(lines) = self.lines.take() else { return Ok(()) };
        let (end, ended) = mpsc::channel();
        let read = move || {
            log_lines(lines, Instant::now);
            // Who waits for it may be gone.
            end.send(()).ok();
        };
        let thread = thread::Builder::new().name("stderr".into());
        thread.spawn(read).context("a thread for standard error")?;
        self.ended = Some(ended);
        Ok(())
    }
}

impl Drop for CapturedStderr {
    fn drop(&mut self) {
        if replace(&*self.real).is_ok() {
            // No writer is left, but for processes that have it from this one.
            self.ended.take().map(|ended| ended.recv_timeout(LAST).ok());
        }
    }
}

/// Logs each line, and how many were left out.
fn log_lines(mut from: impl Read, now: impl Fn() -> Instant) {
    let (mut line, mut cut) = (Vec::new(), 0usize);
    let (mut since, mut logged, mut left) = (now(), 0usize, 0usize);
    let mut chunk = [0; 4096];
    loop {
        let count = match from.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        for &byte in &chunk[..count] {
            if byte != b'\n' {
                if line.len() < LONGEST {
                    line.push(byte);
                } else {
                    cut += 1;
                }
                continue;
            }
            if now().duration_since(since) >= SPAN {
                tell_left(left);
                (since, logged, left) = (now(), 0, 0);
            }
            if logged < LINES {
                tell(&line, cut);
                logged += 1;
            } else {
                left += 1;
            }
            line.clear();
            cut = 0;
        }
    }
    tell_left(left);
    if !line.is_empty() {
        tell(&line, cut);
    }
}

fn tell(line: &[u8], cut: usize) {
    let text = String::from_utf8_lossy(line);
    match cut {
        0 => warn!("a library says: {text}"),
        cut => warn!("a library says: {text} ({cut} bytes more)"),
    }
}

fn tell_left(lines: usize) {
    if lines > 0 {
        warn!("libraries said {lines} lines more");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::logging;
    use crate::cli::logging::tests::logged;
    use crate::config::{LogConfig, LogFormat};
    use std::cell::Cell;
    use std::io::Write as _;
    use std::process::Command;

    #[test]
    fn a_line_of_a_library_is_a_line_of_the_log() {
        let said = b"[libprotobuf \x1b[2J\rERROR]\nwithout an end".as_slice();
        let text = logged(false, || log_lines(said, Instant::now));
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.contains(r"a library says: [libprotobuf \u{1b}[2J\rERROR]"), "{text}");
        assert!(text.contains("says: without an end"), "{text}");
        let long = [&[b'a'; LONGEST + 5], &b"\n"[..]].concat();
        let text = logged(false, || log_lines(&long[..], Instant::now));
        assert!(text.contains("a (5 bytes more)"), "{text}");
    }

    #[test]
    fn a_flood_of_lines_is_cut_and_counted() {
        let flood = "line\n".repeat(LINES + 7);
        let begun = Instant::now();
        let text = logged(false, || log_lines(flood.as_bytes(), || begun));
        assert_eq!(text.matches("says: line").count(), LINES);
        assert!(text.contains("libraries said 7 lines more"), "{text}");
        // Some time later there is room again.
        let lines = Cell::new(0);
        let now = || begun + SPAN * lines.replace(lines.get() + 1);
        let text = logged(false, || log_lines(flood.as_bytes(), now));
        assert_eq!(text.matches("says: line").count(), LINES + 7);
    }

    #[test]
    fn what_is_written_to_standard_error_and_a_panic_are_lines_of_the_log() {
        let this = std::env::current_exe().expect("the test program");
        let own = thread::current().name().expect("a test has a name").to_owned();
        let (module, _) = own.rsplit_once("::").expect("it is in a module");
        let output = Command::new(this)
            .args(["--exact", &format!("{module}::a_process_with_a_log"), "--ignored"])
            .arg("--nocapture")
            .output()
            .expect("the test program runs");
        let said = String::from_utf8(output.stderr).expect("text");
        assert!(!said.contains('\x1b'), "{said:?}");
        let line = |part: &str| said.lines().find(|line| line.contains(part)).unwrap_or_default();
        assert!(line("a library says").ends_with(r"says: \u{1b}[31mevil"), "{said}");
        let panic = line("panicked");
        assert!(panic.contains("ERROR") && panic.contains(r"on \u{1b}[2J\npurpose"), "{said}");
        assert!(panic.contains("rten-1") && panic.contains("native.rs"), "{said}");
        assert!(said.ends_with("at the end\n"), "{said}");
    }

    #[test]
    #[ignore = "the test above runs it, in a process of its own"]
    fn a_process_with_a_log() {
        let config = LogConfig { directives: "info".into(), format: LogFormat::Text };
        let mut captured = capture().expect("captured");
        logging::start(&config, Some(&captured)).expect("a log");
        captured.listen().expect("a thread");
        io::stderr().write_all(b"\x1b[31mevil\n").expect("written");
        let thread = thread::Builder::new().name("rten-1".into());
        let panics = thread.spawn(|| panic!("on {}purpose", "\x1b[2J\n")).expect("a thread");
        assert!(panics.join().is_err());
        drop(captured);
        io::stderr().write_all(b"at the end\n").expect("written");
    }
}
