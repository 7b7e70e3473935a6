//! Each row of what an answer says.

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
        ("2026-11-24T23:52:26Z", Decision::Over(Resolution::StartedAgain)),
        ("2026-11-25T01:52:25.5+02:00", Decision::PublishAgain),
        ("2026-11-24T18:52:26.5-05:00", Decision::Over(Resolution::StartedAgain)),
    ] {
        assert_eq!(asked(200, &running("start_time", &format!("{time:?}"))), expected, "{time}");
    }
}

#[test]
fn any_end_will_do() {
    for state in ["3", "4", "5", "6", "7"] {
        let over = Decision::Over(Resolution::Ended);
        assert_eq!(asked(200, &running("state", state)), over, "{state}");
    }
}

#[test]
fn what_another_worker_has_is_not_ours() {
    let other = running("proplet_id", "\"other\"");
    assert_eq!(asked(200, &other), Decision::Over(Resolution::Elsewhere));
}

#[test]
fn an_unknown_task_is_over() {
    let unknown = Decision::Over(Resolution::Unknown);
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
        Decision::Over(Resolution::Ended)
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
