//! Results that a broker takes: cut to a size, which is that of the encoded
//! message, because JSON writes one byte as up to six.
//!
//! Four parts can be large: both outputs, the error and the diagnostics. They
//! share the room so that the smaller ones stay whole; of each larger one the
//! first and the last part stay, with a line between them that counts the rest.

use std::io;

use serde::Serialize;

use super::cause;
use super::output::Output;
use super::result::TaskResult;
use super::rounds::UPDATE;
use crate::task::{gap, gap_in};

/// The least limit that every result can be cut to: room for its ids, numbers
/// and what stands for the rest.
pub const LEAST_RESULT: usize = 16 << 10;

/// The most bytes of a line that counts what was left out, encoded or not.
const GAP: usize = 64;
/// The most bytes around a cause that results tell.
const CAUSE: usize = 16;
/// `{"base64":""}`
const BASE64: usize = 13;

impl TaskResult {
    /// The message, of at most `limit` bytes, which are [`LEAST_RESULT`] or
    /// more.
    pub fn encode_within(&self, limit: usize) -> Vec<u8> {
        let whole = self.encode();
        if whole.len() <= limit { whole } else { self.clone().cut_to(limit).encode() }
    }

    /// The result with its large parts cut, so that its message has at most
    /// `limit` bytes, which are [`LEAST_RESULT`] or more.
    pub fn cut_to(self, limit: usize) -> TaskResult {
        // On the wire the results tell the cause once more.
        let told = self.error.as_ref().map_or(0, |error| {
            cost(&cause::add(&self.results, error)).saturating_sub(cost(&self.results))
        });
        let costs = [
            cost(&self.results),
            cost(&self.stderr),
            cost(&self.error) + told,
            cost(&self.diagnostics),
        ];
        let rest = cost(&self) + told - costs.iter().sum::<usize>();
        let [results, stderr, mut error, diagnostics] = share(limit.saturating_sub(rest), costs);
        if error < costs[2] {
            error = (error / 2).saturating_sub(CAUSE);
        }
        TaskResult {
            results: self.results.cut_to(results),
            stderr: self.stderr.cut_to(stderr),
            error: self.error.map(|text| cut_text(text, error)),
            diagnostics: cut_list(self.diagnostics, diagnostics),
            ..self
        }
    }
}

impl Output {
    fn cut_to(self, limit: usize) -> Output {
        match self {
            Output::Text(text) => Output::Text(cut_text(text, limit)),
            Output::Bytes(bytes) => Output::Bytes(cut_bytes(bytes, limit)),
            Output::Json(value) if cost(&value) <= limit => Output::Json(value),
            // Half an update is none.
            Output::Json(serde_json::Value::Object(mut object))
                if object.get(UPDATE).is_some_and(|update| update != "") =>
            {
                object.insert(UPDATE.into(), "".into());
                let left_out = "the update is larger than a result may be (--result-size)";
                object.insert("left_out".into(), left_out.into());
                Output::Json(object.into()).cut_to(limit)
            }
            Output::Json(value) => Output::Text(cut_text(value.to_string(), limit)),
        }
    }
}

/// The length of a value's JSON.
fn cost(value: &impl Serialize) -> usize {
    struct Counter(usize);
    impl io::Write for Counter {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut counter = Counter(0);
    serde_json::to_writer(&mut counter, value).expect("strings and numbers are valid JSON");
    counter.0
}

/// The length of a character in a JSON string, as `serde_json` writes it.
fn cost_of_char(c: char) -> usize {
    match c {
        '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
        '\0'..'\u{20}' => 6,
        _ => c.len_utf8(),
    }
}

/// Divides `room` so that no part is cut while a larger one could be.
fn share(mut room: usize, costs: [usize; 4]) -> [usize; 4] {
    let mut order = [0, 1, 2, 3];
    order.sort_by_key(|&part| costs[part]);
    let mut shares = costs;
    for (before, part) in order.into_iter().enumerate() {
        shares[part] = costs[part].min(room / (costs.len() - before));
        room -= shares[part];
    }
    shares
}

/// Cuts a string to `limit` bytes of JSON, its quotes included.
fn cut_text(text: String, limit: usize) -> String {
    if cost(&text) <= limit {
        return text;
    }
    let half = limit.saturating_sub(2 + GAP) / 2;
    let head: usize = within(half, text.chars()).map(char::len_utf8).sum();
    let tail: usize = within(half, text.chars().rev()).map(char::len_utf8).sum();
    let tail = text.len() - tail;
    [&text[..head], &gap_for(&text.as_bytes()[head..tail]), &text[tail..]].concat()
}

/// The first of these characters, as many as `room` holds.
fn within(mut room: usize, chars: impl Iterator<Item = char>) -> impl Iterator<Item = char> {
    chars.map_while(move |c| {
        room = room.checked_sub(cost_of_char(c))?;
        Some(c)
    })
}

/// Cuts bytes to `limit` bytes of JSON that holds them as base64.
fn cut_bytes(bytes: Vec<u8>, limit: usize) -> Vec<u8> {
    let room = limit.saturating_sub(BASE64) / 4 * 3;
    if bytes.len() <= room {
        return bytes;
    }
    let half = room.saturating_sub(GAP) / 2;
    let (head, tail) = (half, bytes.len() - half);
    [&bytes[..head], gap_for(&bytes[head..tail]).as_bytes(), &bytes[tail..]].concat()
}

/// Cuts a list to `limit` bytes of JSON.
fn cut_list(lines: Vec<String>, limit: usize) -> Vec<String> {
    if cost(&lines) <= limit {
        return lines;
    }
    let lines: Vec<String> = lines.into_iter().map(|line| cut_text(line, limit / 4)).collect();
    let half = limit.saturating_sub(2 + GAP) / 2;
    let within = |lines: &mut dyn Iterator<Item = &String>| {
        let mut room = half;
        lines
            .map_while(|line| {
                room = room.checked_sub(cost(line) + 1)?;
                Some(line)
            })
            .count()
    };
    let head = within(&mut lines.iter());
    let tail = lines.len() - within(&mut lines[head..].iter().rev());
    let gap = format!("[… {} lines not kept …]", tail - head);
    let gap = (tail > head).then_some(gap);
    lines[..head].iter().cloned().chain(gap).chain(lines[tail..].iter().cloned()).collect()
}

/// The line that counts these bytes and, if there is one among them, those that
/// such a line counts already.
fn gap_for(cut: &[u8]) -> String {
    let cut_bytes = cut.len() as u64;
    match gap_in(cut) {
        Some(earlier) => gap((cut_bytes - gap(earlier).len() as u64).saturating_add(earlier)),
        None => gap(cut_bytes),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::task::{Captured, Failure, Outcome, TaskId};

    fn result(stdout: Vec<u8>, stderr: Vec<u8>, diagnostics: Vec<String>) -> TaskResult {
        let captured = |bytes| Captured { bytes, dropped: 0 };
        let outcome = Outcome {
            stdout: captured(stdout),
            stderr: captured(stderr),
            diagnostics,
            ..Outcome::failed(Failure::Trap("a trap".into()))
        };
        TaskResult::new(&TaskId::new("id").expect("an id"), "worker", outcome)
    }

    #[test]
    fn control_characters_that_json_writes_as_six_bytes_are_cut_by_what_they_cost() {
        let limit = 900 << 10;
        let escapes = vec![1; 256 << 10];
        let whole = result(escapes.clone(), escapes, vec![]);
        assert!(whole.encode().len() > 3_000_000);
        let cut = TaskResult::decode(&whole.encode_within(limit)).expect("a result");
        let Output::Text(text) = &cut.results else { panic!("text stays text") };
        let kept = text.chars().filter(|c| *c == '\u{1}').count();
        assert_eq!(gap_in(text.as_bytes()), Some((256 << 10) - kept as u64));
        assert!(text.starts_with('\u{1}') && text.ends_with('\u{1}'));
        let size = cut.encode().len();
        assert!(size <= limit && size > limit - 1000, "{size}: the room is used");
        assert_eq!(cut.error, whole.error, "what is small stays whole");
    }

    #[test]
    fn a_cause_that_is_told_twice_is_counted_twice() {
        let id = TaskId::new("id").expect("an id");
        let whole = TaskResult::refused(&id, "worker", &"a reason that goes on ".repeat(1000));
        assert!(whole.encode().len() > 40_000);
        let cut = whole.encode_within(LEAST_RESULT);
        assert!(cut.len() <= LEAST_RESULT && cut.len() > LEAST_RESULT - 1000, "{}", cut.len());
    }

    #[test]
    fn what_was_cut_before_is_counted_once() {
        let text = ["a".repeat(50_000), gap(7_000), "z".repeat(50_000)].concat();
        let Output::Text(cut) = Output::Text(text).cut_to(10_000) else { panic!("text") };
        let kept = cut.chars().filter(|c| matches!(c, 'a' | 'z')).count() as u64;
        assert_eq!(gap_in(cut.as_bytes()), Some(107_000 - kept));
        assert_eq!(cut.matches("bytes not kept").count(), 1);
    }

    #[test]
    fn the_smaller_parts_stay_whole() {
        assert_eq!(share(100, [10, 200, 20, 300]), [10, 35, 20, 35]);
        assert_eq!(share(100, [10, 20, 30, 40]), [10, 20, 30, 40]);
        assert_eq!(share(3, [10, 20, 30, 40]), [0, 1, 1, 1]);
    }

    /// Bytes of each cost, whole characters and broken ones.
    fn output() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            proptest::collection::vec(any::<u8>(), 1..20),
            any::<char>().prop_map(|c| c.to_string().into_bytes()),
            "[\\x00-\\x1f\"\\\\a]{1,20}".prop_map(String::into_bytes),
            Just(gap(12).into_bytes()),
        ];
        (proptest::collection::vec(piece, 0..40), 1..150_usize)
            .prop_map(|(pieces, times)| pieces.concat().repeat(times))
    }

    fn diagnostics() -> impl Strategy<Value = Vec<String>> {
        let line = ("\\PC{0,20}|[\\x00-\\x1f]{0,20}", 1..200_usize);
        proptest::collection::vec(line.prop_map(|(text, times)| text.repeat(times)), 0..33)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_result_fits_and_one_that_fitted_is_unchanged(
            stdout in output(),
            stderr in output(),
            diagnostics in diagnostics(),
            succeeded: bool,
            limit in LEAST_RESULT..(64 << 10),
        ) {
            let whole = result(stdout, stderr, diagnostics);
            let whole = TaskResult { error: whole.error.filter(|_| !succeeded), ..whole };
            let encoded = whole.encode();
            let within = whole.encode_within(limit);
            prop_assert!(within.len() <= limit, "{} of {limit}", within.len());
            if encoded.len() <= limit {
                prop_assert_eq!(encoded, within);
                return Ok(());
            }
            let cut = TaskResult::decode(&within).expect("a result");
            prop_assert_eq!(cut.error.is_some(), !succeeded);
            prop_assert!(cut.error.is_none_or(|error| error.contains("a trap")));
            if let (Output::Text(whole), Output::Text(cut)) = (&whole.results, &cut.results)
                && whole != cut
            {
                let (head, _) = cut.split_once("\n[… ").expect("a gap");
                let (_, tail) = cut.rsplit_once("…]\n").expect("a gap");
                prop_assert!(whole.starts_with(head) && whole.ends_with(tail));
            }
        }

        #[test]
        fn a_character_costs_what_json_makes_of_it(c: char) {
            prop_assert_eq!(cost_of_char(c) + 2, cost(&c.to_string()));
        }
    }
}
