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
pub struct ManagerTask {
    /// 0 to 6; from 3 on it has an end.
    state: u64,
    /// Seconds since 1970; before that if it never was started.
    start_time: Option<i64>,
    proplet_id: String,
}

/// An answer, as far as it matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TaskAnswer {
    /// The task, and the manager's clock in seconds since 1970.
    Task(ManagerTask, i64),
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
    Over(Resolution),
    /// Nothing is known, with the reason.
    AskAgain(String),
}

/// Why a result needs no confirmation any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
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
pub fn decide(answer: &TaskAnswer, worker: &str, age: Duration) -> Decision {
    let (task, now) = match answer {
        TaskAnswer::Task(task, now) => (task, now),
        TaskAnswer::NoTask => return Decision::Over(Resolution::Unknown),
        TaskAnswer::Failed(reason) => return Decision::AskAgain(reason.clone()),
    };
    if task.state > 2 {
        return Decision::Over(Resolution::Ended);
    }
    if !task.proplet_id.is_empty() && task.proplet_id != worker {
        return Decision::Over(Resolution::Elsewhere);
    }
    // By the manager's clock, which need not be ours.
    let left = now.saturating_sub_unsigned(age.as_secs());
    match task.start_time {
        None => Decision::AskAgain("the manager's answer has no `start_time`".into()),
        Some(start) if start > left.saturating_add(LATE) => {
            Decision::Over(Resolution::StartedAgain)
        }
        Some(_) => Decision::PublishAgain,
    }
}

/// Reads an answer with this status and this `Date`.
pub(super) fn read(status: u16, date: Option<&str>, body: impl Read) -> TaskAnswer {
    let failed = |reason: String| TaskAnswer::Failed(reason);
    match status {
        200 => {}
        400 | 404 => return TaskAnswer::NoTask,
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
                500 if text.contains("task not found") => TaskAnswer::NoTask,
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
    // An error after the last field does not count: reading stops there.
    match (fields.task(), parsed) {
        (Some(task), _) => TaskAnswer::Task(task, seconds(now)),
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

    fn task(self) -> Option<ManagerTask> {
        // A worker's id that is not there is the empty one, once all was read.
        (self.whole || self.enough()).then_some(ManagerTask {
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
mod tests;
