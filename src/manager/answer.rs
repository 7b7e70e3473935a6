//! What the manager's answer to `GET /tasks/{id}` says of a result.
//!
//! An answer may hold a module's head, inputs and megabytes of results, and the
//! fields that matter stand on both sides of these. So it is read as a stream
//! that keeps nothing else, and no further than the decision needs.

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use std::fmt;
use std::io::Read;
use std::time::{Duration, SystemTime};

/// How much later than a result the `start_time` of its own start can be: the
/// manager sets it with a write that follows the start's publication, in
/// seconds when it has much to do.
const LATE: i64 = 10;
/// Bytes that are read of an answer that is no task.
const REFUSAL: u64 = 4 << 10;
/// Bytes that are read of a task at most. Brokers that Propeller is used with
/// carry results of a megabyte or two.
const TASK: u64 = 16 << 20;

/// A task as the manager has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Task {
    /// 0 to 6; from 3 on it has an end.
    state: u64,
    /// Seconds since 1970; before that if it never was started.
    start_time: Option<i64>,
    proplet_id: String,
}

/// An answer, as far as it matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The task, and the manager's clock in seconds since 1970.
    Task(Task, i64),
    /// 400, 404, or 500 with `task not found`: there is no such task.
    NoTask,
    /// Nothing that says anything of the task, with the reason.
    Failed(String),
}

/// What follows from an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The manager has missed the result.
    PublishAgain,
    /// Nothing more is to be done.
    Over(Over),
    /// Nothing is known, with the reason.
    AskAgain(String),
}

/// Why a result needs no confirmation any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// The manager has an end of the task.
    Ended,
    /// It has started the task again since.
    StartedAgain,
    /// It has given the task to another worker.
    Elsewhere,
    /// It does not know the task.
    Unknown,
    /// It was asked for the last time.
    GivenUp,
    /// There were too many.
    LetGo,
    /// A start, a stop or another result came to this worker.
    Replaced,
}

/// Whether a result that left `age` ago has to be published again. `worker` is
/// this one's id.
pub fn decide(answer: &Answer, worker: &str, age: Duration) -> Decision {
    let (task, now) = match answer {
        Answer::Task(task, now) => (task, now),
        Answer::NoTask => return Decision::Over(Over::Unknown),
        Answer::Failed(reason) => return Decision::AskAgain(reason.clone()),
    };
    if task.state > 2 {
        return Decision::Over(Over::Ended);
    }
    if !task.proplet_id.is_empty() && task.proplet_id != worker {
        return Decision::Over(Over::Elsewhere);
    }
    // By the manager's clock, which need not be ours.
    let left = now.saturating_sub_unsigned(age.as_secs());
    match task.start_time {
        None => Decision::AskAgain("the manager's answer has no `start_time`".into()),
        Some(start) if start > left.saturating_add(LATE) => Decision::Over(Over::StartedAgain),
        Some(_) => Decision::PublishAgain,
    }
}

/// Reads an answer with this status and this `Date`.
pub(super) fn read(status: u16, date: Option<&str>, body: impl Read) -> Answer {
    let failed = |reason: String| Answer::Failed(reason);
    match status {
        200 => {}
        400 | 404 => return Answer::NoTask,
        401 | 403 => {
            return failed(format!(
                "the manager, or the proxy before it, refuses the question ({status}): check \
                 PROPLET_MANAGER_TOKEN"
            ));
        }
        300..400 => {
            return failed(format!(
                "the answer is a redirect ({status}), which is not followed, so that the token goes \
                 nowhere else: name the place itself with PROPLET_MANAGER_URL"
            ));
        }
        _ => {
            let mut text = Vec::new();
            // What can't be read says nothing.
            body.take(REFUSAL).read_to_end(&mut text).ok();
            let text = String::from_utf8_lossy(&text);
            return match status {
                500 if text.contains("task not found") => Answer::NoTask,
                _ => failed(format!("the manager answers with {status}: {}", shown(&text))),
            };
        }
    }
    let now = date.and_then(|date| httpdate::parse_http_date(date).ok());
    let Some(now) = now else {
        return failed("the manager's answer has no `Date`".into());
    };
    let mut fields = Fields::default();
    let read = std::io::BufReader::with_capacity(16 << 10, body.take(TASK));
    let mut json = serde_json::Deserializer::from_reader(read);
    let parsed = fields.deserialize(&mut json);
    // An error that comes after the last field is none: there reading stops.
    match (fields.task(), parsed) {
        (Some(task), _) => Answer::Task(task, seconds(now)),
        (None, Err(e)) => failed(format!("the manager's answer can't be read: {e}")),
        (None, Ok(())) => failed("the manager's answer has no `state`".into()),
    }
}

/// The fields that matter, as they are found.
#[derive(Default)]
struct Fields {
    state: Option<u64>,
    start_time: Option<Option<i64>>,
    proplet_id: Option<String>,
    whole: bool,
}

impl Fields {
    /// Whether the rest can't change the decision.
    fn enough(&self) -> bool {
        let running = self.start_time.is_some() && self.proplet_id.is_some();
        self.state.is_some_and(|state| state > 2 || running)
    }

    fn task(self) -> Option<Task> {
        // A worker's id that is not there is the empty one, once all was read.
        (self.whole || self.enough()).then_some(Task {
            state: self.state?,
            start_time: self.start_time.flatten(),
            proplet_id: self.proplet_id.unwrap_or_default(),
        })
    }
}

impl<'de> DeserializeSeed<'de> for &mut Fields {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for &mut Fields {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a task")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "state" => self.state = Some(map.next_value()?),
                "start_time" => {
                    let time: String = map.next_value()?;
                    self.start_time = Some(timestamp(&time));
                }
                "proplet_id" => self.proplet_id = Some(map.next_value()?),
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
            if self.enough() {
                return Err(A::Error::custom("read far enough"));
            }
        }
        self.whole = true;
        Ok(())
    }
}

/// Reads RFC 3339, which is how Go writes a time, as seconds since 1970. The
/// year 1, which is Go's for never, is before all others.
pub(super) fn timestamp(text: &str) -> Option<i64> {
    if text.starts_with("0001-01-01T") {
        return Some(i64::MIN);
    }
    let (local, offset) = match text.strip_suffix('Z') {
        Some(local) => (local, 0),
        None => {
            let (local, offset) = text.split_at_checked(text.len().checked_sub(6)?)?;
            let (hours, minutes) = offset.get(1..)?.split_once(':')?;
            let seconds = hours.parse::<i64>().ok()? * 3600 + minutes.parse::<i64>().ok()? * 60;
            match offset.as_bytes()[0] {
                b'+' => (local, seconds),
                b'-' => (local, -seconds),
                _ => return None,
            }
        }
    };
    let time = humantime::parse_rfc3339(&format!("{local}Z")).ok()?;
    Some(seconds(time) - offset)
}

/// Seconds since 1970.
pub(super) fn seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// The first words of what somebody else wrote, on one line.
fn shown(text: &str) -> String {
    let words: String = text.trim().chars().take(200).collect();
    words.escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    const DATE: &str = "Tue, 24 Nov 2026 23:52:30 GMT";
    const AGE: Duration = Duration::from_secs(15);

    fn running(field: &str, value: &str) -> String {
        let mut task = serde_json::json!({
            "id": "b9ccc61c-6c17-4bfd-bc53-755bfe801859", "name": "add", "state": 2,
            "inputs": ["1", "2"], "proplet_id": "wrk", "results": { "state": 9 },
            "start_time": "2026-11-24T23:52:15.999Z", "finish_time": "0001-01-01T00:00:00Z",
        });
        if !field.is_empty() {
            task[field] = serde_json::from_str(value).expect("JSON");
        }
        task.to_string()
    }

    fn asked(status: u16, body: &str) -> Decision {
        decide(&read(status, Some(DATE), Cursor::new(body.to_owned())), "wrk", AGE)
    }

    fn again(decision: &Decision) -> bool {
        matches!(decision, Decision::AskAgain(_))
    }

    #[test]
    fn a_task_that_shows_no_end_has_missed_its_result() {
        for state in ["0", "1", "2"] {
            assert_eq!(asked(200, &running("state", state)), Decision::PublishAgain, "{state}");
        }
        assert_eq!(asked(200, &running("proplet_id", "\"\"")), Decision::PublishAgain);
        let never = running("start_time", "\"0001-01-01T00:00:00Z\"");
        assert_eq!(asked(200, &never), Decision::PublishAgain);
    }

    #[test]
    fn a_start_time_may_be_ten_seconds_later_by_the_managers_clock() {
        // The result left at 23:52:15 by it.
        for (time, expected) in [
            ("2026-11-24T23:52:25.999999999Z", Decision::PublishAgain),
            ("2026-11-24T23:52:26Z", Decision::Over(Over::StartedAgain)),
            ("2026-11-25T01:52:25.5+02:00", Decision::PublishAgain),
            ("2026-11-24T18:52:26.5-05:00", Decision::Over(Over::StartedAgain)),
        ] {
            assert_eq!(
                asked(200, &running("start_time", &format!("{time:?}"))),
                expected,
                "{time}"
            );
        }
    }

    #[test]
    fn any_end_will_do() {
        for state in ["3", "4", "5", "6", "7"] {
            let over = Decision::Over(Over::Ended);
            assert_eq!(asked(200, &running("state", state)), over, "{state}");
        }
    }

    #[test]
    fn what_another_worker_has_is_not_ours() {
        let other = running("proplet_id", "\"other\"");
        assert_eq!(asked(200, &other), Decision::Over(Over::Elsewhere));
    }

    #[test]
    fn an_unknown_task_is_over() {
        let unknown = Decision::Over(Over::Unknown);
        assert_eq!(asked(400, "{\"error\":\"invalid query parameters\"}"), unknown);
        assert_eq!(asked(404, "{\"error\":\"not found\"}"), unknown);
        assert_eq!(asked(500, "{\"error\":\"task not found\"}"), unknown);
    }

    #[test]
    fn what_says_nothing_of_the_task_is_asked_again() {
        for (status, body) in [
            (401, ""),
            (403, ""),
            (301, ""),
            (500, "{\"error\":\"Transaction Conflict\"}"),
            (502, "<html>"),
            (200, ""),
            (200, "<html>"),
            (200, "[]"),
            (200, "{\"state\": \"two\"}"),
            (200, "{\"state\": -1}"),
            (200, "{\"state\": 2, \"proplet_id\": \"wrk\"}"),
            (200, "{\"start_time\": \"2026-11-24T23:52:15Z\"}"),
            (200, "{\"state\": 2, \"start_time\": \"2026-11-24T23:52:15Z\""),
            (204, ""),
        ] {
            assert!(again(&asked(status, body)), "{status} {body}: {:?}", asked(status, body));
        }
        let unclear = running("start_time", "\"yesterday\"");
        assert!(again(&asked(200, &unclear)));
        let undated = read(200, None, Cursor::new(running("", "")));
        assert!(again(&decide(&undated, "wrk", AGE)));
    }

    /// Counts what is read of a body without an end.
    struct Endless<'a>(&'a [u8], u64);

    impl Read for Endless<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let n = if self.0.is_empty() {
                buffer.fill(b'x');
                buffer.len()
            } else {
                self.0.read(buffer)?
            };
            self.1 += n as u64;
            Ok(n)
        }
    }

    #[test]
    fn an_answer_is_read_no_further_than_it_matters() {
        let mut ended = Endless(b"{\"id\":\"a\",\"state\":3,\"results\":\"", 0);
        assert_eq!(
            decide(&read(200, Some(DATE), &mut ended), "wrk", AGE),
            Decision::Over(Over::Ended)
        );
        assert!(ended.1 <= 64 << 10, "{}", ended.1);
        let mut running = Endless(b"{\"id\":\"a\",\"state\":2,\"results\":\"", 0);
        assert!(again(&decide(&read(200, Some(DATE), &mut running), "wrk", AGE)));
        assert!(running.1 <= TASK, "{}", running.1);
        let mut refused = Endless(b"", 0);
        assert!(again(&decide(&read(500, Some(DATE), &mut refused), "wrk", AGE)));
        assert!(refused.1 <= REFUSAL, "{}", refused.1);
        // Old results of a megabyte before the fields that matter.
        let long = format!(
            "{{\"state\":2,\"results\":\"{}\",\"start_time\":\"2026-11-24T23:52:15Z\"}}",
            "x".repeat(1 << 20)
        );
        assert_eq!(asked(200, &long), Decision::PublishAgain);
    }

    #[test]
    fn a_recorded_answer_is_understood() {
        let recorded = r#"{"id": "e4b2f029-8749-4098-827d-2334fd95dbaf", "name": "_start",
            "kind": "standard", "state": 2, "cli_args": [], "daemon": false, "encrypted": false,
            "proplet_id": "wrk", "start_time": "2026-11-24T23:52:04.452402005Z",
            "finish_time": "0001-01-01T00:00:00Z", "created_at": "2026-11-24T23:52:04.45072488Z",
            "updated_at": "2026-11-24T23:52:04.452402065Z", "next_run": "0001-01-01T00:00:00Z",
            "priority": 50, "file": "AGFzbQEAAA<REDACTED>EAAQABbA=="}"#;
        assert_eq!(asked(200, recorded), Decision::PublishAgain);
    }
}
