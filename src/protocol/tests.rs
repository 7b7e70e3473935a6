use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::task::{
    Binary, Captured, Failure, ManagerState, ModuleSource, Outcome, Reuse, Round, RoundEnd, TaskId,
    TaskRequest, Timings, UpdateFate,
};

const ME: &str = "worker-1";
const LIMIT: usize = 1 << 20;

fn start(message: &Value) -> Result<Option<TaskRequest>, Malformed> {
    decode_start(message.to_string().as_bytes(), ME, LIMIT)
}

fn accepted(message: &Value) -> TaskRequest {
    start(message).expect("the message is well formed").expect("the message is for this worker")
}

fn refused(message: &Value) -> Malformed {
    start(message).expect_err("the message is malformed")
}

fn bytes(module: &[u8]) -> Option<ModuleSource> {
    Some(ModuleSource::Bytes(Binary::new(module)))
}

#[test]
fn the_topics_are_those_of_the_channel() {
    let topics = Topics::new("d", "c");
    assert_eq!(topics.start(), "m/d/c/c/control/manager/start");
    assert_eq!(topics.stop(), "m/d/c/c/control/manager/stop");
    assert_eq!(topics.invoke(), "m/d/c/c/control/manager/invoke");
    assert_eq!(topics.results(), "m/d/c/c/control/proplet/results");
    assert_eq!(topics.invoke_results(), "m/d/c/c/control/proplet/invoke_results");
    assert_eq!(topics.create(), "m/d/c/c/control/proplet/create");
    assert_eq!(topics.alive(), "m/d/c/c/control/proplet/alive");
    assert_eq!(topics.metrics(), "m/d/c/c/control/proplet/metrics");
    assert_eq!(topics.task_metrics(), "m/d/c/c/control/proplet/task_metrics");
}

#[test]
fn a_start_as_the_manager_sends_it_is_read() {
    let task = accepted(&json!({
        "id": "5b3a", "name": "classify", "state": 0, "file": "AGFzbQ==",
        "cli_args": ["-S", "nn", "--dir=/fixture"], "inputs": ["1", "2"],
        "env": {"A": "b"}, "daemon": false, "broadcast": false, "latent": true,
        "encrypted": false, "proplet_id": ME, "start_time": "0001-01-01T00:00:00Z",
        "monitoring_profile": {"enabled": true, "interval": 10_000_000_000_u64},
        "metadata": {"x": [1, {"y": null}]}, "parent_results": null, "mode": "infer",
    }));
    assert_eq!(task.id.as_str(), "5b3a");
    assert_eq!(task.name, "classify");
    assert_eq!(task.module, bytes(b"\0asm"));
    assert_eq!(task.cli_args, ["-S", "nn", "--dir=/fixture"]);
    assert_eq!(task.inputs, ["1", "2"]);
    assert_eq!(task.env, BTreeMap::from([("A".to_owned(), "b".to_owned())]));
    assert_eq!((task.daemon, task.latent, task.encrypted), (false, true, false));
}

#[test]
fn null_and_absent_fields_are_empty_ones() {
    let task = accepted(&json!({
        "id": "a", "name": null, "file": null, "image_url": null, "inputs": null,
        "cli_args": null, "env": null, "daemon": null, "proplet_id": null,
    }));
    assert_eq!(task, accepted(&json!({"id": "a"})));
    assert_eq!(task.module, None);
    assert!(task.inputs.is_empty() && task.cli_args.is_empty() && task.env.is_empty());
}

#[test]
fn a_message_without_an_address_is_for_every_worker_whatever_broadcast_says() {
    for message in [
        json!({"id": "a", "broadcast": false}),
        json!({"id": "a", "proplet_id": "", "broadcast": false}),
        json!({"id": "a", "proplet_id": ME, "broadcast": true}),
    ] {
        assert!(start(&message).expect("well formed").is_some(), "{message}");
    }
}

#[test]
fn a_message_for_another_worker_is_none_of_ours_even_when_it_is_malformed() {
    for message in [
        json!({"id": "a", "proplet_id": "other"}),
        json!({"id": "a", "proplet_id": "other", "file": "!"}),
        json!({"id": "a", "proplet_id": "other", "name": 7}),
        json!({"id": 9, "proplet_id": "other"}),
    ] {
        assert_eq!(start(&message), Ok(None), "{message}");
    }
    assert_eq!(decode_stop(br#"{"id":"a","proplet_id":"other"}"#, ME), Ok(None));
    assert_eq!(decode_invoke(br#"{"id":"a","proplet_id":"other"}"#, ME), Ok(None));
}

#[test]
fn a_field_of_the_wrong_type_is_named_and_the_id_kept() {
    for (field, wrong) in [
        ("name", json!(1)),
        ("cli_args", json!("-S nn")),
        ("cli_args", json!(["-W", 1])),
        ("inputs", json!("a")),
        ("inputs", json!([[1]])),
        ("env", json!({"A": {}})),
        ("env", json!(["A=b"])),
        ("file", json!({"a": 1})),
        ("image_url", json!(false)),
        ("daemon", json!("yes")),
        ("proplet_id", json!(["worker-1"])),
    ] {
        let error = refused(&json!({"id": "a", field: wrong}));
        assert_eq!(error.id, TaskId::new("a").ok(), "{field}");
        assert!(error.reason.contains(&format!("`{field}`: ")), "{}", error.reason);
        assert!(error.reason.ends_with(|c: char| c.is_ascii_digit()), "{}", error.reason);
    }
}

#[test]
fn the_managers_state_of_the_task_is_read_and_never_a_reason_to_refuse() {
    for (state, read) in [
        (json!(0), Some(ManagerState::Pending)),
        (json!(2), Some(ManagerState::Running)),
        (json!(6), Some(ManagerState::Interrupted)),
        (json!(77), Some(ManagerState::Other(77))),
        (json!(null), None),
        (json!(256), None),
        (json!(-1), None),
        (json!(3.0), None),
        (json!("3"), None),
        (json!({"a": [3]}), None),
    ] {
        assert_eq!(accepted(&json!({"id": "a", "state": state})).state, read, "{state}");
    }
    assert_eq!(accepted(&json!({"id": "a"})).state, None);
}

#[test]
fn numbers_and_booleans_are_read_as_they_stand_in_the_message() {
    let message = br#"{
        "id": "a",
        "inputs": [10, -1.50, 1e400, 12345678901234567890123, true, "\u0041\"", " "],
        "env": {"N": 18446744073709551616, "B": false, "T": "x\ny"}
    }"#;
    let task = decode_start(message, ME, LIMIT).expect("well formed").expect("ours");
    let inputs = ["10", "-1.50", "1e400", "12345678901234567890123", "true", "A\"", " "];
    assert_eq!(task.inputs, inputs);
    let env = [("N", "18446744073709551616"), ("B", "false"), ("T", "x\ny")];
    assert_eq!(task.env, BTreeMap::from(env.map(|(k, v)| (k.to_owned(), v.to_owned()))));
}

#[test]
fn an_element_that_is_null_or_no_text_is_named() {
    for (message, words) in [
        (r#"{"id":"a","inputs":["x",null]}"#, "`inputs`: element 2 is null"),
        (r#"{"id":"a","inputs":[[]]}"#, "`inputs`: element 1 is a list"),
        (r#"{"id":"a","inputs":["\ud800"]}"#, "`inputs`: element 1 is a string with an escape"),
        (r#"{"id":"a","env":{"A":"x","B":null}}"#, "`env`: the value of \"B\" is null"),
        (r#"{"id":"a","env":{"A":{}}}"#, "`env`: the value of \"A\" is an object"),
        (r#"{"id":"a","cli_args":[null]}"#, "`cli_args`: invalid type: null"),
    ] {
        let error = decode_start(message.as_bytes(), ME, LIMIT).expect_err(message);
        assert_eq!(error.id, TaskId::new("a").ok(), "{message}");
        assert!(error.reason.contains(words), "{}", error.reason);
    }
}

#[test]
fn an_id_that_is_missing_empty_or_no_string_is_named() {
    for (message, words) in [
        (json!({"name": "x"}), "has no `id`"),
        (json!({"id": null}), "has no `id`"),
        (json!({"id": ""}), "`id` is empty"),
        (json!({"id": 5}), "`id`: invalid type: integer"),
        (json!({"id": "x".repeat(257)}), "`id` has 257 bytes"),
    ] {
        let error = refused(&message);
        assert_eq!(error.id, None, "{message}");
        assert!(error.reason.contains(words), "{}", error.reason);
    }
}

#[test]
fn what_is_no_json_object_has_no_id() {
    for payload in [
        "",
        "{",
        r#"{"id":"a","name":"#,
        r#"{"id":"a"} x"#,
        "[]",
        "null",
        "7",
        "\u{0}",
        r#"{"id":"a""file":"AA=="}"#,
    ] {
        let error = decode_start(payload.as_bytes(), ME, LIMIT).expect_err(payload);
        assert_eq!(error.id, None, "{payload}");
        assert!(!error.reason.is_empty());
    }
    assert!(decode_start(b"{\"id\":\"\xff\"}", ME, LIMIT).is_err());
}

#[test]
fn base64_is_read_with_line_breaks_spaces_and_without_padding() {
    for file in ["AGFzbQE=", "AGFzbQE", "AGFz\nbQE=\n", " AG Fz\r\n\tbQE= "] {
        assert_eq!(
            accepted(&json!({"id": "a", "file": file})).module,
            bytes(b"\0asm\x01"),
            "{file:?}"
        );
    }
    // As some encoders write it.
    let escaped = br#"{"id":"a","file":"\/\/8="}"#;
    let task = decode_start(escaped, ME, LIMIT).expect("well formed").expect("ours");
    assert_eq!(task.module, bytes(&[0xff, 0xff]));
}

#[test]
fn bad_base64_is_an_error_with_the_id_that_says_how_to_encode() {
    for (file, words) in [
        ("AGFz!bQ=", "invalid symbol 33 at offset 4"),
        ("AGFzb", "not valid base64"),
        ("AG=z", "not valid base64"),
        ("A===", "not valid base64"),
        ("====", "not valid base64"),
        ("AAB=", "invalid last symbol 66 at offset 2"),
        ("AGFz_-==", "invalid symbol 95 at offset 4"),
    ] {
        let error = refused(&json!({"id": "a", "file": file}));
        assert_eq!(error.id, TaskId::new("a").ok());
        assert!(error.reason.contains(words), "{file}: {}", error.reason);
        assert!(error.reason.contains("base64 -w 0"), "{}", error.reason);
    }
}

#[test]
fn an_empty_file_says_so_unless_there_is_a_url() {
    for file in ["", " \n"] {
        let error = refused(&json!({"id": "a", "file": file}));
        assert!(error.reason.contains("`file` is empty"), "{}", error.reason);
    }
    let task = accepted(&json!({"id": "a", "file": "", "image_url": "registry/x:1"}));
    assert_eq!(task.module, Some(ModuleSource::Url("registry/x:1".to_owned())));
}

#[test]
fn a_file_wins_over_a_url() {
    let task = accepted(&json!({"id": "a", "file": "AA==", "image_url": "http://h/m.wasm"}));
    assert_eq!(task.module, bytes(&[0]));
}

#[test]
fn a_module_over_the_limit_is_refused_by_its_length() {
    let message =
        |symbols: usize| json!({"id": "a", "file": "A".repeat(symbols)}).to_string().into_bytes();
    assert!(decode_start(&message(400), ME, 300).expect("fits").is_some());
    let error = decode_start(&message(404), ME, 300).expect_err("too large");
    assert_eq!(error.id, TaskId::new("a").ok());
    assert!(
        error.reason.contains("303 bytes") && error.reason.contains("limit of 300"),
        "{}",
        error.reason
    );
    // White space is no part of the module.
    let spaced = json!({"id": "a", "file": format!("{}{}", "A".repeat(400), "\n".repeat(400))});
    assert!(decode_start(spaced.to_string().as_bytes(), ME, 300).expect("fits").is_some());
}

#[test]
fn deep_nesting_is_neither_a_crash_nor_read() {
    // Where it is skipped, it costs a byte a level; where it is read, the
    // first bracket is the wrong type already.
    for field in ["x", "metadata", "inputs", "env", "id", "name"] {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let payload =
                format!("{{\"{field}\":{}1{}}}", open.repeat(1_000_000), close.repeat(1_000_000));
            assert!(decode_start(payload.as_bytes(), ME, LIMIT).is_err(), "{field}");
            let truncated = format!("{{\"{field}\":{}", open.repeat(1_000_000));
            assert!(decode_start(truncated.as_bytes(), ME, LIMIT).is_err(), "{field}");
        }
    }
}

#[test]
fn lists_and_maps_are_bounded() {
    let many: Vec<&str> = vec![""; 20_000];
    for field in ["inputs", "cli_args"] {
        let error = refused(&json!({"id": "a", field: many}));
        assert!(error.reason.contains(&format!("`{field}`: more than")), "{}", error.reason);
        assert_eq!(error.id, TaskId::new("a").ok());
    }
    let env: BTreeMap<String, &str> = (0..20_000).map(|n| (n.to_string(), "")).collect();
    assert!(refused(&json!({"id": "a", "env": env})).reason.contains("`env`: more than"));
}

#[test]
fn a_stop_that_was_written_is_read_by_its_addressee_alone() {
    let id = TaskId::new("a").expect("an id");
    for (to, reader, read) in
        [(None, ME, Some(id.clone())), (Some(ME), ME, Some(id.clone())), (Some("other"), ME, None)]
    {
        assert_eq!(decode_stop(&encode_stop(&id, to), reader), Ok(read), "{to:?}");
    }
}

fn alive(namespace: &str) -> Alive {
    let metadata = WorkerMetadata { os: "linux".into(), ..WorkerMetadata::default() };
    Alive::new(ME, namespace, metadata)
}

#[test]
fn who_is_alive_is_read_of_heartbeats() {
    assert_eq!(decode_sender(&alive("ns").encode()).as_deref(), Some(ME));
    assert_eq!(decode_sender(b"{}"), None);
    assert_eq!(decode_sender(b"x"), None);
}

#[test]
fn a_failure_is_told_without_what_stderr_and_diagnostics_say() {
    let id = TaskId::new("a").expect("an id");
    let outcome = Outcome {
        stderr: Captured { bytes: b"one\ntwo\n".to_vec(), dropped: 0 },
        diagnostics: vec!["no input".into()],
        ..Outcome::failed(Failure::Exit(3))
    };
    let result = TaskResult::new(&id, ME, outcome);
    let result = TaskResult::decode(&result.encode()).expect("a result");
    assert!(result.error.as_deref().is_some_and(|error| error.contains("two")), "{result:?}");
    assert_eq!(result.failure(), Some("guest: two\nthe guest exited with code 3"));
    // Another worker's.
    let other = TaskResult::decode(br#"{"task_id":"a","error":"x: y"}"#).expect("a result");
    assert_eq!(other.failure(), Some("x: y"));
}

#[test]
fn a_stop_needs_only_its_id() {
    let payload = br#"{"id":"a","name":7,"env":[],"broadcast":true}"#;
    assert_eq!(decode_stop(payload, ME), Ok(TaskId::new("a").ok()));
    assert!(decode_stop(b"{}", ME).is_err());
}

#[test]
fn an_invoke_is_read_and_its_own_id_kept_for_the_answer() {
    let payload =
        br#"{"id":"a","invocation_id":"i","inputs":null,"env":{"K":"v"},"proplet_id":"worker-1"}"#;
    let invoke = decode_invoke(payload, ME).expect("well formed").expect("ours");
    assert_eq!((invoke.id.as_str(), invoke.invocation_id.as_str()), ("a", "i"));
    assert!(invoke.inputs.is_empty());
    assert_eq!(invoke.env["K"], "v");
    let error =
        decode_invoke(br#"{"id":"a","invocation_id":"i","inputs":7}"#, ME).expect_err("wrong");
    assert_eq!((error.id, error.invocation_id), (TaskId::new("a").ok(), Some("i".to_owned())));
    let error = decode_invoke(br#"{"id":"a"}"#, ME).expect_err("no call");
    assert!(error.reason.contains("`invocation_id` is missing"));
}

fn outcome() -> Outcome {
    Outcome {
        verdict: Ok(()),
        exit_code: Some(0),
        stdout: Captured { bytes: b"hello\n".to_vec(), dropped: 0 },
        stderr: Captured::default(),
        timings: Timings {
            queued: Duration::from_nanos(12_345),
            compiled: Duration::from_millis(3),
            loaded: Duration::ZERO,
            ran: Duration::from_micros(7_012),
            inferred: Duration::from_micros(5_001),
            inferences: 2,
        },
        reuse: Reuse { module: true, graphs_reused: 1, graphs_loaded: 0 },
        backends: vec!["openvino".into()],
        diagnostics: Vec::new(),
        round: None,
    }
}

fn id() -> TaskId {
    TaskId::new("t").expect("a valid id")
}

/// Half an update is none, and a failure's cause stands beside it.
#[test]
fn the_result_of_a_round_is_an_object_that_is_left_without_its_update_rather_than_cut() {
    let spec = Round { id: "r".into(), samples: 3, format: "f32-delta".into() };
    let round = RoundEnd { update: UpdateFate::Accepted, ..spec.end() };
    let ended = |stdout: Vec<u8>, verdict| Outcome {
        verdict,
        stdout: Captured { bytes: stdout, dropped: 0 },
        round: Some(round.clone()),
        ..outcome()
    };
    let sent = TaskResult::new(&id(), ME, ended(b"{}".to_vec(), Ok(())));
    let read = |message: Vec<u8>| serde_json::from_slice::<Value>(&message).expect("JSON");
    assert_eq!(
        read(sent.encode())["results"],
        json!({
            "task_id": "t", "round_id": "r", "proplet_id": ME, "num_samples": 3, "update_b64": "e30=",
            "format": "f32-delta", "metrics": {}, "update": "accepted",
        })
    );
    let large = TaskResult::new(&id(), ME, ended(vec![b'x'; LEAST_RESULT], Ok(())));
    let cut = large.encode_within(LEAST_RESULT);
    assert!(cut.len() <= LEAST_RESULT, "{}", cut.len());
    let cut = &read(cut)["results"];
    assert_eq!((&cut["update_b64"], &cut["round_id"]), (&"".into(), &"r".into()));
    assert!(cut["left_out"].as_str().is_some_and(|text| text.contains("--result-size")), "{cut}");
    let failed = TaskResult::new(&id(), ME, ended(vec![], Err(Failure::Round("no model".into()))));
    let message = failed.encode();
    assert_eq!(read(message.clone())["results"]["error"], "no model");
    assert_eq!(TaskResult::decode(&message).expect("our own"), failed);
}

#[test]
fn a_result_says_what_the_manager_and_a_person_read() {
    let message = TaskResult::new(&id(), ME, outcome()).encode();
    let read: Value = serde_json::from_slice(&message).expect("JSON");
    assert_eq!(
        read,
        json!({
            "task_id": "t", "proplet_id": ME, "results": "hello\n", "error": null,
            "exit_code": 0, "stderr": "",
            "timings": {
                "queued": 0.012, "compiled": 3.0, "loaded": 0.0, "ran": 7.012,
                "inferred": 5.001, "inferences": 2,
            },
            "reused": {"module": true, "graphs_reused": 1, "graphs_loaded": 0},
            "backends": ["openvino"],
            "diagnostics": [],
        })
    );
}

#[test]
fn bytes_that_are_no_text_come_as_base64() {
    let mut outcome = outcome();
    outcome.stdout.bytes = vec![0, 0x1b, 0xff];
    outcome.stderr.bytes = b"nul \0 and escape \x1b[31m".to_vec();
    let message = TaskResult::new(&id(), ME, outcome).encode();
    let read: Value = serde_json::from_slice(&message).expect("JSON");
    assert_eq!(read["results"], json!({"base64": "ABv/"}));
    assert_eq!(read["stderr"], "nul \0 and escape \u{1b}[31m");
    let result = TaskResult::decode(&message).expect("our own message");
    assert_eq!(result.results.into_bytes(), [0, 0x1b, 0xff]);
}

#[test]
fn a_failures_results_tell_the_cause_where_the_managers_command_line_shows_it() {
    let results = |stdout: &[u8], stderr: &[u8]| {
        let mut outcome = outcome();
        outcome.verdict = Err(Failure::Trap("unreachable\n  at main".into()));
        outcome.stdout.bytes = stdout.to_vec();
        outcome.stderr.bytes = stderr.to_vec();
        let sent = TaskResult::new(&id(), ME, outcome);
        assert_eq!(TaskResult::decode(&sent.encode()).expect("our own message"), sent);
        let message: Value = serde_json::from_slice(&sent.encode()).expect("JSON");
        (message["results"].clone(), message["error"].clone())
    };
    let (alone, error) = results(b"", b"broken");
    assert_eq!(alone, "guest: broken\nunreachable\n  at main\nstderr of the guest:\nbroken");
    assert_eq!(alone, error);
    assert_eq!(results(b"half\n", b"").0, "half\nerror: unreachable\n");
    let (cut, error) = results(b"half", b"");
    assert_eq!(cut, "half\nerror: unreachable");
    assert_eq!(error, "unreachable\n  at main");
    assert_eq!(results(&[0xff], b"").0, json!({"base64": "/w==", "error": "unreachable"}));
    let refused = TaskResult::refused(&id(), ME, "no such directory");
    assert_eq!(TaskResult::decode(&refused.encode()).expect("our own message"), refused);
    let message: Value = serde_json::from_slice(&refused.encode()).expect("JSON");
    assert_eq!(message["results"], "no such directory");
}

#[test]
fn a_failure_ends_with_the_last_of_stderr_and_the_diagnostics() {
    let mut outcome = outcome();
    outcome.verdict = Err(Failure::Exit(3));
    outcome.stderr.bytes = (0..100).map(|n| format!("line {n}\n")).collect::<String>().into_bytes();
    outcome.diagnostics = vec!["`load`: the model is empty".to_owned()];
    let error = TaskResult::new(&id(), ME, outcome).error.expect("failed");
    let begins = "guest: line 99\nthe guest exited with code 3\n\
                  stderr of the guest (its end):\nline 80\n";
    assert!(error.starts_with(begins), "{error}");
    assert!(error.ends_with("line 99\ndiagnostics:\n`load`: the model is empty"), "{error}");
}

#[test]
fn the_part_of_stderr_in_an_error_is_bounded_and_cut_between_characters() {
    let mut outcome = outcome();
    outcome.verdict = Err(Failure::Stopped);
    outcome.stderr.bytes = "é".repeat(100_000).into_bytes();
    let error = TaskResult::new(&id(), ME, outcome).error.expect("failed");
    assert!(error.len() < 4500, "{}", error.len());
    assert!(error.ends_with("éé"));
}

#[test]
fn an_error_is_never_empty() {
    for reason in ["", "  "] {
        let result = TaskResult::refused(&id(), ME, reason);
        assert!(!result.error.expect("an error").trim().is_empty());
    }
}

#[test]
fn results_of_other_workers_are_read_too() {
    for (results, expected) in [
        (json!(null), ""),
        (json!("x"), "x"),
        (json!({"class": 1}), "{\"class\":1}"),
        (json!({"base64": 5}), "{\"base64\":5}"),
        (json!([1.5]), "[1.5]"),
    ] {
        let message = json!({"task_id": "t", "results": results, "more": 1}).to_string();
        let result = TaskResult::decode(message.as_bytes()).expect("a result");
        assert_eq!(result.error, None);
        assert_eq!(result.results.into_bytes(), expected.as_bytes());
    }
    assert!(TaskResult::decode(b"{}").is_err());
}

#[test]
fn the_small_messages_have_the_managers_fields() {
    let mut alive: Value = serde_json::from_slice(&alive("default").encode()).expect("JSON");
    assert_eq!(alive["metadata"].take()["os"], "linux");
    let expected =
        json!({"proplet_id": ME, "namespace": "default", "status": "alive", "metadata": null});
    assert_eq!(alive, expected);
    let invoke = InvokeResult::refused("i", Some(&id()), ME, "no");
    let invoke: Value = serde_json::from_slice(&invoke.encode()).expect("JSON");
    assert_eq!(invoke["results"], "");
    let discovery = Discovery {
        proplet_id: ME.into(),
        namespace: String::new(),
        metadata: WorkerMetadata { os: "linux".into(), ..WorkerMetadata::default() },
    };
    let discovery: Value = serde_json::from_slice(&discovery.encode()).expect("JSON");
    assert_eq!(discovery["metadata"]["os"], "linux");
    assert_eq!(discovery["metadata"]["total_memory_bytes"], 0);
    assert!(discovery["metadata"].get("location").is_none());
}

fn requests() -> impl Strategy<Value = TaskRequest> {
    let text = || proptest::collection::vec(any::<char>(), 0..8).prop_map(String::from_iter);
    let list = || proptest::collection::vec(text(), 0..4);
    let module = prop_oneof![
        Just(None),
        proptest::collection::vec(any::<u8>(), 1..64)
            .prop_map(|bytes| Some(ModuleSource::Bytes(Binary::new(bytes)))),
        "[a-z]{1,9}".prop_map(|url| Some(ModuleSource::Url(url))),
    ];
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<Option<u8>>());
    let env = proptest::collection::btree_map(text(), text(), 0..4);
    (("[a-z0-9-]{1,40}", text(), module), (list(), list(), env), flags).prop_map(
        |((id, name, module), (inputs, cli_args, env), (daemon, latent, encrypted, state))| {
            TaskRequest {
                id: TaskId::new(&id).expect("the pattern gives valid ids"),
                state: state.map(ManagerState::from),
                name,
                module,
                inputs,
                cli_args,
                env,
                parent_results: None,
                daemon,
                latent,
                encrypted,
                monitoring: None,
            }
        },
    )
}

proptest! {
    #[test]
    fn what_submit_writes_is_what_a_worker_reads(task in requests(), addressed: bool) {
        let message = encode_start(&task, addressed.then_some(ME));
        prop_assert_eq!(decode_start(&message, ME, LIMIT), Ok(Some(task.clone())));
        let others = decode_start(&message, "other", LIMIT);
        prop_assert_eq!(others, Ok((!addressed).then_some(task)));
    }

    #[test]
    fn no_mutation_of_a_message_panics(
        task in requests(),
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3_u8), 1..6),
    ) {
        let mut message = encode_start(&task, Some(ME));
        for (at, byte, edit) in edits {
            let at = at.index(message.len());
            match edit {
                0 => message[at] = byte,
                1 => message.insert(at, byte),
                _ => message.truncate(at + 1),
            }
        }
        for decoded in [
            decode_start(&message, ME, LIMIT).err(),
            decode_stop(&message, ME).err(),
            decode_invoke(&message, ME).err(),
        ].into_iter().flatten() {
            prop_assert!(!decoded.reason.is_empty());
        }
        drop(TaskResult::decode(&message));
    }

    #[test]
    fn a_result_survives_the_wire(
        stdout in proptest::collection::vec(any::<u8>(), 0..64),
        stderr in proptest::collection::vec(any::<u8>(), 0..64),
        failed: bool, code: Option<i32>, micros: [u32; 4],
    ) {
        let at = |n: usize| Duration::from_micros(u64::from(micros[n]));
        let outcome = Outcome {
            verdict: if failed { Err(Failure::Trap("unreachable".into())) } else { Ok(()) },
            exit_code: code,
            stdout: Captured { bytes: stdout.clone(), dropped: 0 },
            stderr: Captured { bytes: stderr, dropped: 0 },
            timings: Timings {
                queued: at(0), compiled: at(1), loaded: at(2), ran: at(3), ..Timings::default()
            },
            reuse: Reuse::default(),
            backends: vec!["rten".into()],
            diagnostics: Vec::new(),
            round: None,
        };
        let sent = TaskResult::new(&id(), ME, outcome);
        let read = TaskResult::decode(&sent.encode()).expect("our own message");
        prop_assert_eq!(&read, &sent);
        prop_assert_eq!(read.error.is_some(), failed);
        prop_assert_eq!(read.results.into_bytes(), stdout);
    }

    #[test]
    fn any_base64_of_any_bytes_is_read(module in proptest::collection::vec(any::<u8>(), 1..300), width in 1..90_usize, padded: bool) {
        use base64::Engine as _;
        let mut file = base64::engine::general_purpose::STANDARD.encode(&module);
        if !padded {
            file.truncate(file.trim_end_matches('=').len());
        }
        let lines: Vec<&str> = file.as_bytes().chunks(width).map(|line| std::str::from_utf8(line).expect("ASCII")).collect();
        let task = accepted(&json!({"id": "a", "file": lines.join("\r\n")}));
        prop_assert_eq!(task.module, bytes(&module));
    }
}

#[test]
fn the_results_of_parents_are_taken_as_they_stand() {
    let read = |parents: Value| {
        let message = json!({ "id": "a", "parent_results": parents }).to_string();
        let task = decode_start(message.as_bytes(), ME, LIMIT).expect("well formed");
        task.expect("ours").parent_results
    };
    let parents = json!({ "b": "text", "c": { "n": [1, 2.50, null] } });
    assert_eq!(read(parents.clone()), Some(parents.to_string()));
    for none in [json!(null), json!({}), json!([]), json!(7)] {
        assert_eq!(read(none), None);
    }
}
