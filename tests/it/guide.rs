//! The guide's task as the manager sends it, which keeps neither `cli_args` nor
//! `env` of what its phase 5 types; and phases 5 and 6 as they are typed, against
//! the stand-in for the manager.

use crate::manager::{Habits, Manager, Store};
use crate::support::{On, Stage, Task, Worker, assets, fixtures, over_both_brokers};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::path::Path;

over_both_brokers!(
    the_guides_task_runs_although_the_manager_loses_its_arguments,
    a_fixture_beside_the_working_directory_is_found_by_its_name,
    phases_5_and_6_end_with_the_classes_although_the_manager_drops_the_arguments,
    arguments_that_the_manager_keeps_lead_there_too,
);

/// A folder with what the guide's task reads.
fn fixture(dir: &Path) {
    std::fs::create_dir_all(dir).expect("made");
    for name in ["model.xml", "model.bin", "tensor.bgr"] {
        let from = assets().join("fixtures/mobilenet").join(name);
        std::fs::copy(&from, dir.join(name)).unwrap_or_else(|e| panic!("copying {name}: {e}"));
    }
}

/// ARCHITECTURE.md, case 76, with the layout of Propeller's compose file: the working
/// directory holds config.toml with the worker's key, and the fixture.
fn the_guides_task_runs_although_the_manager_loses_its_arguments(on: On) {
    let stage = Stage::new(on);
    let home = tempfile::tempdir().expect("a directory");
    fixture(&home.path().join("fixture"));
    std::fs::write(home.path().join("config.toml"), stage.provisioned()).expect("written");
    let _worker = stage.worker_in(home.path(), &[("config-file", "config.toml")]);
    let result = stage.run(Task::guest("classification"));
    assert!(result.stdout().contains("Found results, sorted top 5: [InferenceResult("));
    assert_eq!(result.diagnostics(), [] as [&str; 0]);
    // The first directory that the guest has is the fixture's.
    let key = Task::wat("cat").inputs(&["../config.toml"]);
    stage.run(key).failed(&["errno"]);
}

fn a_fixture_beside_the_working_directory_is_found_by_its_name(on: On) {
    let stage = Stage::new(on);
    let (home, elsewhere) = (tempfile::tempdir(), tempfile::tempdir());
    let (home, elsewhere) = (home.expect("a directory"), elsewhere.expect("a directory"));
    let dir = elsewhere.path().join("fixture");
    fixture(&dir);
    let dirs = format!("/missing/fixture:{}", dir.display());
    let _worker = stage.worker_in(home.path(), &[("dirs", &dirs)]);
    let result = stage.run(Task::guest("classification"));
    assert!(result.stdout().contains("sorted top 5"));
}

fn classification() -> Vec<u8> {
    std::fs::read(fixtures().join("guests/bin/classification.wasm")).expect("built")
}

/// A manager, and a worker as Propeller's compose file starts it.
fn with_worker(stage: &Stage, home: &Path, store: Store) -> (Manager, Worker) {
    let manager = stage.manager(Habits { store, ..Habits::default() });
    std::fs::write(home.join("config.toml"), stage.provisioned()).expect("written");
    let worker = stage.worker_in(home, &[("config-file", "config.toml")]);
    manager.worker_alive(&stage.worker_id);
    (manager, worker)
}

/// Starts the task and watches it as in the sixth phase.
#[track_caller]
fn completes(manager: &Manager, stage: &Stage, id: &str) {
    manager.start_task(id);
    let task = manager.task_until(id, |task| task["state"].as_u64() >= Some(3));
    assert_eq!(task["state"], 3, "{task:#}");
    assert_eq!(task["proplet_id"], stage.worker_id);
    let printed = task["results"].as_str().expect("text");
    for line in [
        "Read graph XML, first 50 characters: <?xml version=\"1.0\"",
        "Read graph weights, size in bytes: 13956432",
        "Loaded graph into wasi-nn with ID: ",
        "Created wasi-nn execution context with ID: ",
        "Read input tensor, size in bytes: 602112",
        "Executed graph inference",
        "Found results, sorted top 5: [InferenceResult(",
    ] {
        assert!(printed.contains(line), "`{line}` is not in: {printed}");
    }
    let expected = std::fs::read(assets().join("fixtures/mobilenet/expected.json"));
    let expected: Value = serde_json::from_slice(&expected.expect("there")).expect("JSON");
    let best = &expected["top5"][0][0];
    assert!(printed.contains(&format!("top 5: [InferenceResult({best}, ")), "{best}: {printed}");
}

fn phases_5_and_6_end_with_the_classes_although_the_manager_drops_the_arguments(on: On) {
    let (stage, home) = (Stage::new(on), tempfile::tempdir().expect("a directory"));
    fixture(&home.path().join("fixture"));
    for store in [Store::Badger, Store::Sqlite] {
        let (manager, _worker) = with_worker(&stage, home.path(), store);
        // propeller-cli tasks create wasi-nn-inference
        let id = manager.create(&json!({ "name": "wasi-nn-inference" }));
        // curl -X PUT http://localhost:7070/tasks/$TASK_ID -d …
        let update = json!({
            "name": "wasi-nn-inference",
            "file": STANDARD.encode(classification()),
            "cli_args": ["-S", "nn", "--dir=fixture"],
            "env": { "LD_LIBRARY_PATH": "/usr/local/lib" },
            "daemon": false,
        });
        manager.json("PUT", &format!("/tasks/{id}"), Some(&update)).ok(200);
        // curl -s http://localhost:7070/tasks/$TASK_ID | jq '.name, .state'
        let task = manager.task(&id);
        assert_eq!((&task["name"], &task["state"]), (&json!("wasi-nn-inference"), &json!(0)));
        assert_eq!((&task["cli_args"], task.get("env")), (&json!(null), None));
        // propeller-cli tasks start $TASK_ID
        completes(&manager, &stage, &id);
    }
}

fn arguments_that_the_manager_keeps_lead_there_too(on: On) {
    let (stage, home) = (Stage::new(on), tempfile::tempdir().expect("a directory"));
    fixture(&home.path().join("fixture"));
    let (manager, _worker) = with_worker(&stage, home.path(), Store::Badger);
    // propeller-cli tasks create wasi-nn-demo --cli-args=-S,nn,--dir=fixture
    let args = ["-S", "nn", "--dir=fixture"];
    let id = manager.create(&json!({ "name": "wasi-nn-demo", "cli_args": args }));
    // propeller-cli tasks upload $TASK_ID wasi-nn-example.wasm
    manager.upload(&id, "wasi-nn-example.wasm", &classification()).ok(200);
    assert_eq!(manager.task(&id)["cli_args"], json!(args));
    completes(&manager, &stage, &id);
}
