//! Why a guest failed, in its own words or those of who refused it something: what
//! a reader of one line has to know.

use super::{Failure, Outcome};
use crate::escape::escaped;

/// The most bytes of a message.
const MESSAGE: usize = 400;
/// How a diagnostic begins that tells what the guest was refused.
const REFUSALS: [&str; 3] = ["files: ", "wasi-nn: ", "memory: "];

impl Outcome {
    /// Why the task failed, none after a success: the cause in one line, where
    /// the guest told it or was refused something, then the failure.
    pub fn error(&self) -> Option<String> {
        let failure = self.verdict.as_ref().err()?;
        Some(match self.cause() {
            Some(cause) => format!("{cause}\n{failure}"),
            None => failure.to_string(),
        })
    }

    /// What the guest said last, marked as the guest's, and what it was refused
    /// last. None where something else ended the task.
    fn cause(&self) -> Option<String> {
        match self.verdict {
            Err(Failure::Trap(_) | Failure::Fault(_) | Failure::Exit(_)) => {}
            _ => return None,
        }
        let written = String::from_utf8_lossy(&self.stderr.bytes);
        let told = panic(&written).or_else(|| {
            let says = |line: &&str| !line.trim().is_empty() && !is_note(line);
            let last = written.lines().rfind(says)?;
            Some(format!("guest: {}", message(last)))
        });
        let refusals = self.diagnostics.iter().rev();
        let is_refusal = |line: &&str| REFUSALS.iter().any(|begin| line.starts_with(begin));
        let refused = refusals.map(String::as_str).find(is_refusal);
        match (told, refused.map(message)) {
            (Some(told), Some(refused)) => Some(format!("{told}; {refused}")),
            (told, refused) => told.or(refused),
        }
    }
}

/// The last panic of a guest in Rust or Go that this text tells of.
fn panic(written: &str) -> Option<String> {
    let lines: Vec<&str> = written.lines().collect();
    lines.iter().enumerate().rev().find_map(|(number, line)| {
        if let Some(reason) = line.strip_prefix("panic: ") {
            return Some(format!("guest panicked: {}", message(reason)));
        }
        let (_, place) = line.strip_prefix("thread '")?.split_once(" panicked at ")?;
        let (place, reason) = match place.strip_suffix(':') {
            Some(place) => {
                let reason = lines[number + 1..].iter();
                let reason: Vec<&str> = reason.take_while(|line| !is_note(line)).copied().collect();
                (place, reason.join(" "))
            }
            // Rust before 1.73.
            None => match place.strip_prefix('\'').and_then(|rest| rest.rsplit_once("', ")) {
                Some((reason, place)) => (place, reason.to_owned()),
                None => (place, String::new()),
            },
        };
        Some(match message(&reason) {
            reason if reason.is_empty() => format!("guest panicked at {}", message(place)),
            reason => format!("guest panicked at {}: {reason}", message(place)),
        })
    })
}

/// Whether Rust's runtime says with this line how to have it say more.
fn is_note(line: &str) -> bool {
    line.starts_with("note: ") || line.starts_with("stack backtrace:")
}

/// On one line, and not too long for one.
fn message(text: &str) -> String {
    let text = escaped(text.trim());
    match text.len() {
        0..=MESSAGE => text,
        _ => format!("{}…", &text[..text.floor_char_boundary(MESSAGE)]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::Captured;

    const TRAP: &str = "wasm trap: wasm `unreachable` instruction executed\n  at main";

    fn failed(failure: Failure, stderr: &str, diagnostics: &[&str]) -> String {
        let outcome = Outcome {
            stderr: Captured { bytes: stderr.as_bytes().to_vec(), dropped: 0 },
            diagnostics: diagnostics.iter().map(|&line| line.to_owned()).collect(),
            ..Outcome::failed(failure)
        };
        outcome.error().expect("it failed")
    }

    #[test]
    fn the_first_line_is_what_the_guest_said() {
        let cases = [
            (
                "loading\n\nthread 'main' (1) panicked at src/main.rs:6:55:\n\
                 called `Result::unwrap()` on an `Err` value: Os { code: 44 }\n\
                 note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace\n",
                "guest panicked at src/main.rs:6:55: called `Result::unwrap()` on an `Err` value: \
                 Os { code: 44 }",
            ),
            (
                "thread 'main' panicked at 'no \"x\", here', src/main.rs:2:5\nnote: run with …\n",
                "guest panicked at src/main.rs:2:5: no \"x\", here",
            ),
            (
                "thread 'main' panicked at src/lib.rs:1:1:\nleft: 1\nright: 2\n",
                "guest panicked at src/lib.rs:1:1: left: 1 right: 2",
            ),
            ("thread 'w' panicked at src/lib.rs:1:1:\n", "guest panicked at src/lib.rs:1:1"),
            (
                "panic: runtime error: index out of range\n[tinygo: panic at main.go:7:3]\n",
                "guest panicked: runtime error: index out of range",
            ),
            (
                "Assertion failed: n > 0 (main.c: main: 4)\n",
                "guest: Assertion failed: n > 0 (main.c: main: 4)",
            ),
            (
                "memory allocation of 629145600 bytes failed\n\
                 note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace\n",
                "guest: memory allocation of 629145600 bytes failed",
            ),
            ("one\ntwo\n\n  \n", "guest: two"),
            ("red \x1b[31m\u{202e}\r\n", "guest: red \\u{1b}[31m\\u{202e}"),
        ];
        for (written, expected) in cases {
            let error = failed(Failure::Trap(TRAP.into()), written, &[]);
            assert_eq!(error, format!("{expected}\n{TRAP}"));
            let error = failed(Failure::Exit(2), written, &[]);
            assert_eq!(error, format!("{expected}\nthe guest exited with code 2"));
        }
    }

    #[test]
    fn what_wasi_nn_refused_is_told_beside_it_or_alone() {
        let notes = ["`fixture` is given twice", "wasi-nn: load: first", "wasi-nn: load: last"];
        let trap = || Failure::Trap(TRAP.into());
        assert_eq!(failed(trap(), "", &notes), format!("wasi-nn: load: last\n{TRAP}"));
        assert_eq!(
            failed(trap(), "no graph\n", &notes),
            format!("guest: no graph; wasi-nn: load: last\n{TRAP}")
        );
        assert_eq!(failed(trap(), "", &notes[..1]), TRAP);
    }

    #[test]
    fn what_others_ended_is_not_blamed_on_the_guest() {
        for failure in [Failure::Stopped, Failure::Module("no module".into())] {
            let text = failure.to_string();
            assert_eq!(failed(failure, "progress: 3 of 4\n", &["wasi-nn: load: x"]), text);
        }
    }

    #[test]
    fn a_long_message_is_cut() {
        let error = failed(Failure::Exit(1), &"é".repeat(MESSAGE), &[]);
        let first = error.lines().next().expect("a line");
        assert!(first.len() <= "guest: …".len() + MESSAGE && first.ends_with("é…"), "{first}");
    }
}
