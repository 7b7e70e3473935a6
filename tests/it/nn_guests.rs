//! Every guest of `fixtures/guests/wat/nn-*.wat`: what it gets from the host,
//! what its task reports, and that the next task finds nothing amiss
//! (ARCHITECTURE.md, cases 27 to 37).

use crate::support::{Answered, On, Stage, Task, Worker, assets, fixtures, over_both_brokers};
use std::collections::BTreeSet;

over_both_brokers!(
    a_bad_pointer_ends_the_task_and_is_named,
    what_does_not_fit_is_an_errno_and_a_sentence,
    bytes_that_are_no_model_are_an_errno_and_a_sentence,
    encodings_and_targets_that_are_not_served_are_an_errno_and_a_sentence,
    outputs_are_never_stale,
    loops_meet_their_quotas,
    a_model_over_the_limit_is_too_large,
    a_guest_may_go_on_after_an_errno_and_its_task_tells_of_it,
    what_works_works,
);

const INVALID_ARGUMENT: &str = "errno 1\n";
const INVALID_ENCODING: &str = "errno 2\n";
const UNSUPPORTED_OPERATION: &str = "errno 6\n";
const TOO_LARGE: &str = "errno 7\n";
const NOT_FOUND: &str = "errno 8\n";

struct Bad {
    stage: Stage,
    _worker: Worker,
}

fn with_worker(on: On, settings: &[(&str, &str)]) -> Bad {
    assets();
    let stage = Stage::new(on);
    let worker = stage.worker(&[&[("executors", "1")], settings].concat());
    Bad { stage, _worker: worker }
}

impl Bad {
    /// Runs the guest, then the well-behaved one, which must not notice.
    fn run(&self, guest: &str, inputs: &[&str]) -> Answered {
        let args = ["-S", "nn,nn-graph=openvino::models/tiny"];
        let result = self.stage.run(Task::wat(guest).args(&args).inputs(inputs));
        let error = result.0["error"].as_str().unwrap_or_default().replace('\n', " | ");
        println!(
            "{guest} {inputs:?}: {:?} {error} {:?}",
            result.0["results"],
            result.diagnostics()
        );
        self.stage.run(Task::wat("nn-tiny").args(&args)).succeeded("2\n0\n6\n4\n");
        result
    }

    /// The guest prints `stdout` and ends well; its task's first diagnostic has `sentence`.
    #[track_caller]
    fn copes(&self, guest: &str, inputs: &[&str], stdout: &str, sentence: &str) {
        let result = self.run(guest, inputs);
        result.succeeded(stdout);
        let diagnostics = result.diagnostics();
        let first = diagnostics.first().map(String::as_str).unwrap_or_default();
        assert!(first.contains(sentence), "`{sentence}` is not in {diagnostics:?}");
    }
}

/// Case 27.
fn a_bad_pointer_ends_the_task_and_is_named(on: On) {
    let bad = with_worker(on, &[]);
    let cases = [
        ("nn-bad-pointer-builder", "`load`: a builder"),
        ("nn-bad-pointer-get-output", "`get_output`: the output buffer"),
        ("nn-bad-pointer-handle", "`load_by_name`: the place of the result"),
        ("nn-bad-pointer-load", "`load`: the array of builders"),
        ("nn-bad-pointer-name", "`load_by_name`: the graph's name"),
        ("nn-bad-pointer-set-input", "`set_input`: the tensor's data"),
        ("nn-ignores-bad-pointer", "`load`: the array of builders"),
    ];
    for (guest, expected) in cases {
        let result = bad.run(guest, &[]);
        result.failed(&[expected, "outside the guest's memory"]);
        assert_eq!(result.0["results"], result.error(), "{guest}");
        let id = result.0["task_id"].as_str().expect("an id");
        assert_eq!(bad.stage.results_in_the_end(id), 1, "{guest}");
    }
    bad.run("nn-bad-utf8-name", &[]).failed(&["`load_by_name`", "not UTF-8"]);
}

/// Cases 28, 29 and 30.
fn what_does_not_fit_is_an_errno_and_a_sentence(on: On) {
    let bad = with_worker(on, &[]);
    let cases = [
        ("nn-dims-mismatch", "the tensor for input 0 has 12 bytes"),
        ("nn-dims-huge", "the tensor for input 0 has 0 bytes"),
        ("nn-dims-overflow", "more bytes than 64 bits count"),
        ("nn-wrong-rank", "has the shape [4], but the model's input is"),
        ("nn-wrong-type", "the tensor for input 0 is i32"),
        ("nn-unknown-type", "99 is not a tensor type"),
        ("nn-huge-rank", "1000 dimensions"),
    ];
    for (guest, sentence) in cases {
        bad.copes(guest, &[], INVALID_ARGUMENT, sentence);
    }
    let twice = "errno 1\nerrno 1\n";
    bad.copes("nn-wrong-index", &[], twice, "there is no input 5: the model has 1");
    let fourfold = "errno 1\nerrno 1\nerrno 1\nerrno 1\n";
    bad.copes("nn-wrong-handle", &[], fourfold, "there is no graph");
    bad.copes("nn-unknown-graph-name", &[], NOT_FOUND, "there is no graph");
}

/// Cases 32 and 33.
fn bytes_that_are_no_model_are_an_errno_and_a_sentence(on: On) {
    let bad = with_worker(on, &[]);
    let sentence = bad.run("nn-load-garbage-xml", &[]);
    sentence.stdout();
    assert_eq!(sentence.diagnostics().len(), 1);
    let many = bad.run("nn-load-garbage-xml", &["500"]);
    assert_eq!(many.stdout(), sentence.stdout());
    // As many as are kept, and one that counts the rest.
    assert_eq!(many.diagnostics().len(), 33);
    let short = bad.run("nn-short-weights", &[]);
    assert!(short.stdout().starts_with("errno ") && short.stdout() != "errno 0\n");
    assert!(short.diagnostics()[0].contains("weights"), "{:?}", short.diagnostics());
    for depth in ["1000", "100000"] {
        let bomb = bad.run("nn-xml-bomb", &[depth]);
        assert!(bomb.stdout().starts_with("errno ") && bomb.stdout() != "errno 0\n");
        assert!(bomb.diagnostics()[0].contains("nests deeper"), "{:?}", bomb.diagnostics());
    }
    for builders in ["0", "1", "3"] {
        bad.copes("nn-one-builder", &[builders], INVALID_ARGUMENT, "takes two builders");
    }
    bad.copes("nn-swapped-builders", &[], INVALID_ARGUMENT, "wrong order");
}

/// Cases 31 and 34.
fn encodings_and_targets_that_are_not_served_are_an_errno_and_a_sentence(on: On) {
    let bad = with_worker(on, &[]);
    bad.copes("nn-tpu", &[], UNSUPPORTED_OPERATION, "TPU");
    bad.copes("nn-tpu", &["9"], INVALID_ARGUMENT, "9 is not an execution target");
    // The builders of another encoding.
    for number in ["1", "2", "4"] {
        bad.copes("nn-unknown-encoding", &[number], INVALID_ARGUMENT, "takes one builder");
    }
    let (errno, sentence) = if cfg!(feature = "pytorch") {
        (UNSUPPORTED_OPERATION, "takes no models of the encoding pytorch from guests")
    } else {
        (INVALID_ENCODING, "the encoding pytorch is not served here: this build has openvino")
    };
    bad.copes("nn-unknown-encoding", &["3"], errno, sentence);
    bad.copes("nn-unknown-encoding", &[], INVALID_ENCODING, "9 is not an encoding");
    bad.copes("nn-onnx-as-openvino", &[], INVALID_ENCODING, "is not OpenVINO's XML");
}

/// Case 37.
fn outputs_are_never_stale(on: On) {
    let bad = with_worker(on, &[]);
    for (guest, expected) in
        [("nn-get-output-before-compute", "untouched\n"), ("nn-small-buffer", "untouched\n")]
    {
        // A request that an earlier task has used holds an old output.
        let result = bad.run(guest, &[]);
        let printed = result.stdout();
        assert!(printed.ends_with(expected) && !printed.starts_with("errno 0\n"), "{printed}");
        assert_eq!(result.diagnostics().len(), 1);
    }
    assert!(bad.run("nn-small-buffer", &[]).stdout().starts_with(TOO_LARGE));
    let result = bad.run("nn-compute-without-input", &[]);
    assert!(result.stdout().starts_with("errno ") && result.stdout() != "errno 0\n");
    assert!(result.diagnostics()[0].contains("input"), "{:?}", result.diagnostics());
}

/// Case 36.
fn loops_meet_their_quotas(on: On) {
    let bad = with_worker(on, &[]);
    // The one by name has loaded its graph once before it loops.
    let cases = [
        ("nn-load-loop", &["100000"][..], "loaded 64\nerrno 7\n"),
        ("nn-load-by-name-loop", &["tiny", "100000"], "loaded 63\nerrno 7\n"),
        ("nn-load-distinct", &["100"], "loaded 64\nerrno 7\n"),
        ("nn-context-loop", &["tiny", "100000"], "contexts 1024\nerrno 7\n"),
    ];
    for (guest, inputs, expected) in cases {
        let result = bad.run(guest, inputs);
        result.succeeded(expected);
        assert!(result.diagnostics()[0].contains("limit"), "{:?}", result.diagnostics());
    }
}

/// Case 35.
fn a_model_over_the_limit_is_too_large(on: On) {
    let bad = with_worker(on, &[("model-size", "2000")]);
    bad.copes("nn-load-bytes", &[], "errno 0\nerrno 0\n", "");
    let bad = with_worker(on, &[("model-size", "1400")]);
    let args = ["-S", "nn"];
    let result = bad.stage.run(Task::wat("nn-load-bytes").args(&args));
    assert!(result.stdout().starts_with(TOO_LARGE), "{}", result.stdout());
    assert!(result.diagnostics()[0].contains("1400"), "{:?}", result.diagnostics());
    let args = ["-S", "nn,nn-graph=openvino::models/tiny"];
    bad.stage.run(Task::wat("nn-tiny").args(&args)).failed(&["tiny", "1400"]);
}

fn a_guest_may_go_on_after_an_errno_and_its_task_tells_of_it(on: On) {
    let bad = with_worker(on, &[]);
    let copes = bad.run("nn-ignores-errno", &[]);
    copes.succeeded("ok\n");
    assert!(copes.diagnostics().len() > 1, "{:?}", copes.diagnostics());
    let fails = bad.run("nn-fails-after-errno", &[]);
    let reason = fails.diagnostics()[0].clone();
    assert!(reason.starts_with("wasi-nn: `load`: "), "{reason}");
    fails.failed(&["exited with code 1", "giving up", &reason]);
    let shared = bad.run("nn-shared-memory", &[]);
    match shared.0["error"].as_str() {
        None => shared.succeeded(UNSUPPORTED_OPERATION),
        Some(error) => assert!(error.contains("shared"), "{error}"),
    }
}

fn what_works_works(on: On) {
    let bad = with_worker(on, &[]);
    bad.run("nn-tiny", &[]).succeeded("2\n0\n6\n4\n");
    bad.run("nn-load-bytes", &[]).succeeded("errno 0\nerrno 0\n");
    bad.run("nn-load-loop", &["10"]).succeeded("loaded 10\nerrno 0\n");
}

/// Those that are tried here, in `nn.rs`, in `torch.rs`, or by the doctor.
#[test]
fn every_guest_that_uses_wasi_nn_is_tried() {
    let doctor = include_str!("../../src/doctor/inference.rs");
    let (here, nn, torch) =
        (include_str!("nn_guests.rs"), include_str!("nn.rs"), include_str!("torch.rs"));
    let tests = [here, nn, torch, doctor].concat();
    let guests: BTreeSet<_> = std::fs::read_dir(fixtures().join("guests/wat"))
        .expect("a folder")
        .filter_map(|entry| {
            entry.ok()?.file_name().to_str()?.strip_suffix(".wat").map(str::to_owned)
        })
        .filter(|name| name.starts_with("nn-"))
        .collect();
    assert!(guests.len() > 30);
    for guest in guests {
        assert!(tests.contains(&format!("\"{guest}\"")), "{guest} is in no test");
    }
}
