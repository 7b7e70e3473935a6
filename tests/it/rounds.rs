//! Federated rounds: what a task is given, where its update goes, and what is said
//! when that fails.

use crate::support::{
    Answered, Call, Habit, Listener, On, RoundServices, Route, Stage, Task, Worker,
    over_both_brokers, proplet,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proplet::manager::RoundTimes;
use serde_json::{Value, json};
use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;

over_both_brokers!(
    a_round_of_three_workers_makes_a_new_model,
    without_a_coordinator_an_update_goes_out_on_the_rounds_topic,
);

/// The settings of a worker with one executor.
fn settings<'a>(
    services: &'a [(&'static str, String)],
    more: &[(&'a str, &'a str)],
) -> Vec<(&'a str, &'a str)> {
    let services = services.iter().map(|(name, url)| (*name, url.as_str()));
    services.chain([("executors", "1")]).chain(more.iter().copied()).collect()
}

/// A client that prints an update, and needs no data.
fn client() -> Task {
    Task::wat("update").env("ROUND_ID", "r").set("name", "fl-round-r-w")
}

/// One that learns.
fn learner(worker: &str) -> Task {
    let module = std::fs::read(crate::support::fixtures().join("guests/bin/logistic.wasm"));
    Task::module(&module.expect("a guest"))
        .set("name", format!("fl-round-r-{worker}"))
        .set("proplet_id", worker)
        .env("ROUND_ID", "r")
        .env("MODEL_URI", "fl/models/global_model_v0")
        .env("HYPERPARAMS", r#"{"epochs": 40, "lr": 0.5}"#)
}

/// A worker's samples: the label is whether the first value is larger than the
/// second.
fn samples(seed: u64) -> Value {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..30)
        .map(|_| {
            let [a, b, c] = [(); 3].map(|()| random.f64());
            json!({ "x": [a, b, c], "y": u8::from(a > b) })
        })
        .collect()
}

fn predicts(model: &Value, sample: &Value) -> bool {
    let sum: f64 = (0..3)
        .map(|n| model["w"][n].as_f64().expect("a weight") * sample["x"][n].as_f64().expect("x"))
        .sum();
    let label = sample["y"].as_u64() == Some(1);
    (sum + model["b"].as_f64().expect("a bias") > 0.0) == label
}

fn a_round_of_three_workers_makes_a_new_model(on: On) {
    let stage = Stage::new(on);
    let services = RoundServices::start(3);
    let given = services.settings();
    let names: Vec<String> = (0..3).map(|n| format!("{}-{n}", stage.worker_id)).collect();
    let workers: Vec<_> =
        names.iter().map(|name| stage.worker(&settings(&given, &[("client-id", name)]))).collect();
    for (name, seed) in names.iter().zip(0..) {
        services.data(name, samples(seed));
    }
    let ids: Vec<_> = names.iter().map(|name| stage.start(learner(name))).collect();
    for (id, name) in ids.iter().zip(&names) {
        let Answered(result) = stage.result(id);
        assert!(result["error"].is_null(), "{result:#}");
        let envelope = &result["results"];
        assert_eq!(envelope["task_id"], **id);
        assert_eq!(envelope["round_id"], "r");
        assert_eq!(envelope["proplet_id"], **name);
        assert_eq!(envelope["num_samples"], 1);
        assert_eq!(envelope["format"], "f32-delta");
        assert_eq!(envelope["metrics"], json!({}));
        assert_eq!(envelope["update"], "accepted");
        let update = STANDARD.decode(envelope["update_b64"].as_str().expect("text"));
        let update: Value = serde_json::from_slice(&update.expect("base64")).expect("JSON");
        assert!(services.updates().contains(&update), "{update}");
        assert_eq!(update["proplet_id"], **name);
        assert_eq!(update["num_samples"], 30);
    }
    assert_eq!(services.updates().len(), 3);
    let model = services.model(1).expect("the model's new version");
    let all: Vec<Value> =
        (0..3).flat_map(|n| samples(n).as_array().cloned().expect("a list")).collect();
    let right = all.iter().filter(|sample| predicts(&model, sample)).count();
    assert!(right >= 81, "{right} of 90 by {model}");
    drop(workers);
}

fn without_a_coordinator_an_update_goes_out_on_the_rounds_topic(on: On) {
    let stage = Stage::new(on);
    let topic = format!("fl/rounds/r/updates/{}", stage.worker_id);
    let listener = Listener::on(&stage, &topic);
    let mut worker = stage.worker(&[("executors", "1")]);
    let Answered(result) = stage.run(client());
    assert_eq!(result["results"]["update"], "published", "{result:#}");
    assert!(result["error"].is_null(), "{result:#}");
    stage.until("the update comes", || !listener.heard().is_empty());
    worker.shut_down();
    worker.ended();
    // The coordinator has no time for it, three times.
    let services = RoundServices::start(1);
    services.answers(
        Route::Update,
        &[Habit::Status(503, "busy"), Habit::Status(429, ""), Habit::Status(500, "")],
    );
    let given = services.settings();
    let _worker = stage.worker(&settings(&given[..1], &[]));
    let Answered(result) = stage.run(client());
    assert_eq!(result["results"]["update"], "published", "{result:#}");
    let note = result["results"]["note"].as_str().expect("a note");
    assert!(note.contains("round's topic") && note.contains("500"), "{note}");
    stage.until("the update comes", || listener.heard().len() == 2);
    assert_eq!((services.posts(), services.updates().len()), (3, 0));
    for (heard, payload) in listener.heard() {
        assert_eq!(heard, topic);
        let update: Value = serde_json::from_slice(&payload).expect("JSON");
        assert_eq!(update["update"], json!({ "w": [1, 2] }));
    }
}

#[test]
fn what_can_not_be_had_fails_the_task_with_the_cause() {
    let stage = Stage::new(On::Embedded);
    let services = RoundServices::start(1);
    let given = services.settings();
    let _worker = stage.worker(&settings(&given, &[("round-data-size", "1KiB")]));
    let large = json!({ "w": vec![0; 600] }).to_string().into_bytes();
    let elsewhere = format!("{}/models/0", services.url());
    let cases: [(Route, Vec<Habit>, &str); 7] = [
        (Route::Model, vec![Habit::Status(404, "no such model")], "404 no such model"),
        (Route::Model, vec![Habit::Status(500, ""); 3], "answers with 500"),
        (Route::Model, vec![Habit::Body(large)], "over the limit of 1024 (--round-data-size)"),
        (Route::Model, vec![Habit::Body(b"{\"w\":".to_vec())], "no JSON"),
        (Route::Model, vec![Habit::Redirect(elsewhere)], "a redirect is not followed"),
        (Route::Model, vec![Habit::Cut; 3], "no answer from"),
        // It has none.
        (Route::Data, vec![], "404 dataset not found"),
    ];
    for (route, habits, expected) in cases {
        services.answers(route, &habits);
        let Answered(result) = stage.run(client().env("MODEL_URI", "m_v0"));
        Answered(result.clone()).failed(&[expected, "can't be fetched"]);
        assert_eq!(result["results"]["update"], "none", "{result:#}");
    }
    assert_eq!(services.posts(), 0);
    // What comes at the third time is had.
    services.data(&stage.worker_id, json!([]));
    services.answers(Route::Model, &[Habit::Status(500, ""), Habit::Cut]);
    let Answered(result) = stage.run(client().env("MODEL_URI", "m_v0"));
    assert_eq!(result["results"]["update"], "accepted", "{result:#}");
    assert_eq!(services.updates().len(), 1);
}

/// A worker whose services have little time for an answer.
fn hasty(stage: &Stage, settings: &[(&str, &str)]) -> Worker {
    stage.worker_with(settings, |config| {
        config.rounds.services.times = RoundTimes {
            fetch: Duration::from_millis(300),
            update: Duration::from_millis(300),
            waits: [Duration::from_millis(10); 2],
        };
    })
}

#[test]
fn a_slow_service_is_named_with_the_time_that_it_had() {
    let stage = Stage::new(On::Embedded);
    let services = RoundServices::start(9);
    services.data(&stage.worker_id, json!([]));
    let given = services.settings();
    let _worker = hasty(&stage, &settings(&given, &[]));
    services.answers(Route::Model, &vec![Habit::Hold; 3]);
    let result = stage.run(client().env("MODEL_URI", "m_v0"));
    result.failed(&["MODEL_DATA can't be fetched", "/models/0 did not answer within 300ms"]);
    let asked = services.requests().iter().filter(|r| r.contains("/models/")).count();
    assert_eq!((asked, services.posts()), (3, 0));
    // It is asked again where that changes nothing, and is not sent to twice.
    services.answers(Route::Update, &[Habit::Hold]);
    let result = stage.run(client());
    result.failed(&["/update did not answer within 300ms", "is not sent again"]);
    assert_eq!(result.0["results"]["update"], "unknown");
    services.release();
    stage.settle();
    assert_eq!((services.posts(), services.updates().len()), (1, 1));
}

#[test]
fn a_coordinator_that_nobody_reaches_leaves_the_update_to_the_topic() {
    let stage = Stage::new(On::Embedded);
    let listener = Listener::on(&stage, &format!("fl/rounds/r/updates/{}", stage.worker_id));
    // Nobody listens at a port that was given back.
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|l| l.local_addr());
    let url = format!("http://{}", free.expect("a port"));
    let _worker = hasty(&stage, &[("executors", "1"), ("coordinator-url", &url)]);
    let Answered(result) = stage.run(client());
    assert_eq!(result["results"]["update"], "published", "{result:#}");
    let note = result["results"]["note"].as_str().expect("a note");
    assert!(note.contains("round's topic") && note.contains("no way to"), "{note}");
    stage.until("the update comes", || listener.heard().len() == 1);
}

#[test]
fn a_timeout_reaches_fetches_and_the_update() {
    let stage = Stage::new(On::Embedded);
    let services = RoundServices::start(9);
    services.data(&stage.worker_id, json!([]));
    let given = services.settings();
    let mut worker = stage.worker(&settings(&given, &[("task-timeout", "500ms")]));
    services.answers(Route::Data, &[Habit::Hold]);
    let result = stage.run(client());
    result.failed(&["timeout"]);
    assert_eq!(result.0["results"]["update"], "none");
    worker.shut_down();
    worker.ended();
    services.release();
    // Time enough for the guest.
    let _worker = stage.worker(&settings(&given, &[("task-timeout", "5s")]));
    services.answers(Route::Update, &[Habit::Hold]);
    let result = stage.run(client());
    result.failed(&["timeout", "is not sent again", "the task was ended meanwhile"]);
    assert_eq!(result.0["results"]["update"], "unknown");
    services.release();
    stage.settle();
    assert_eq!((services.posts(), services.updates().len()), (1, 1));
}

#[test]
fn a_drain_reaches_fetches_and_the_update() {
    let stage = Stage::new(On::Embedded);
    let services = RoundServices::start(9);
    services.data(&stage.worker_id, json!([]));
    let given = services.settings();
    let settings = settings(&given, &[("drain-timeout", "0s")]);
    let cases = [(Route::Data, "none", &["shutting down"][..])];
    let sent = (Route::Update, "unknown", &["shutting down", "is not sent again"][..]);
    for (route, fate, errors) in cases.into_iter().chain([sent]) {
        let before = services.requests().len();
        let mut worker = stage.worker(&settings);
        services.answers(route, &[Habit::Hold]);
        let id = stage.start(client());
        let wanted = if route == Route::Data { 1 } else { 2 };
        stage.until("it is asked", || services.requests().len() == before + wanted);
        worker.shut_down();
        let result = stage.result(&id);
        result.failed(errors);
        assert_eq!(result.0["results"]["update"], fate, "{result:?}");
        worker.ended();
    }
    services.release();
    stage.until("the coordinator counts it", || services.updates().len() == 1);
    assert_eq!(services.posts(), 1);
}

#[test]
fn services_are_trusted_by_a_file_of_their_authority() {
    let stage = Stage::new(On::Embedded);
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str| folder.path().join(name);
    let services = RoundServices::start_with_tls(9, &file("ca.pem"));
    let _other = RoundServices::start_with_tls(9, &file("other.pem"));
    services.data(&stage.worker_id, json!([]));
    let given = services.settings();
    for (name, is_right) in [("other.pem", false), ("ca.pem", true)] {
        let path = file(name);
        let ca = path.to_str().expect("text");
        let mut worker = hasty(&stage, &settings(&given, &[("round-ca-cert", ca)]));
        let result = stage.run(client());
        match is_right {
            true => assert_eq!(result.0["results"]["update"], "accepted", "{result:?}"),
            false => result.failed(&["DATASET_DATA can't be fetched", "no way to https://"]),
        }
        worker.shut_down();
        worker.ended();
    }
    assert_eq!(services.updates().len(), 1);
}

/// What is said of those where `ROUND_ID` is nothing but a variable.
#[test]
fn what_does_not_run_once_is_no_part_of_a_round_and_says_so() {
    let stage = Stage::new(On::Embedded);
    let services = RoundServices::start(9);
    services.data(&stage.worker_id, json!([]));
    let given = services.settings();
    let _worker = stage.worker(&settings(&given, &[]));
    let told = |answer: &Answered| {
        let told: Vec<_> = answer.diagnostics();
        assert_eq!(told.iter().filter(|line| line.contains("`ROUND_ID`")).count(), 1, "{told:?}");
    };
    let latent = stage.start(client().env("MODEL_URI", "m_v0").set("latent", true));
    let answer = stage.call(Call::of(&latent));
    assert!(answer.stdout().starts_with(r#"{"round_id":"r""#), "{answer:?}");
    told(&answer);
    let latent = stage.start(Task::wat("echo-env").set("latent", true));
    let answer = stage.call(Call::of(&latent).env("ROUND_ID", "r"));
    assert!(!answer.stdout().contains("_DATA="), "{answer:?}");
    told(&answer);
    let daemon = stage.start(client().set("daemon", true));
    told(&stage.nth_result(&daemon, 2));
    assert_eq!(services.requests(), Vec::<String>::new());
}

#[test]
fn a_client_runs_without_its_data_where_that_is_wanted() {
    let stage = Stage::new(On::Embedded);
    let services = RoundServices::start(1);
    let given = services.settings();
    let _worker = stage.worker(&settings(&given, &[("round-missing-data", "run")]));
    let result = stage.run(client().env("MODEL_URI", "m_v7"));
    let told = result.diagnostics().join("\n");
    for part in ["MODEL_DATA can't be fetched", "DATASET_DATA can't be fetched", "404"] {
        assert!(told.contains(part), "{told}");
    }
    assert_eq!(result.0["results"]["update"], "accepted", "{:#}", result.0);
    assert!(services.requests().contains(&"GET /models/7".to_owned()));
}

#[test]
fn a_guest_has_its_data_and_a_task_of_no_round_has_none() {
    isolations().iter().for_each(|isolation| a_guest_has_its_data(isolation));
}

/// Where guests run.
fn isolations() -> &'static [&'static str] {
    if cfg!(target_os = "linux") { &["none", "process"] } else { &["none"] }
}

fn a_guest_has_its_data(isolation: &str) {
    let stage = Stage::new(On::Embedded);
    let services = RoundServices::start(1);
    services.data(&stage.worker_id, json!([{ "x": [1], "y": 1 }]));
    services.data("another", json!([]));
    let given = services.settings();
    let _worker = stage.worker(&settings(&given, &[("isolation", isolation)]));
    // Whoever it says it is: the data set is the worker's.
    let task = || Task::wat("echo-env").env("PROPLET_ID", "another").env("MODEL_URI", "m_v0");
    let Answered(result) = stage.run(task().env("ROUND_ID", "r"));
    let printed = STANDARD.decode(result["results"]["update_b64"].as_str().expect("text"));
    let printed = String::from_utf8(printed.expect("base64")).expect("text");
    assert!(printed.contains("MODEL_DATA={\"b\":0,\"w\":[0,0,0]}"), "{printed}");
    assert!(printed.contains("DATASET_DATA={") && printed.contains("\"size\":1"), "{printed}");
    // It prints no object.
    assert_eq!(result["results"]["update"], "none");
    assert!(result["error"].is_null(), "{result:#}");
    let note = result["results"]["note"].as_str().expect("a note");
    assert!(note.contains("not a JSON object") && note.contains("nothing was sent"), "{note}");
    let before = services.requests().len();
    let plain = stage.run(task());
    assert!(!plain.stdout().contains("_DATA="), "{plain:?}");
    stage.run(Task::wat("trap-unreachable").env("ROUND_ID", "r")).failed(&["unreachable"]);
    let posts = services.requests()[before..].iter().filter(|r| r.starts_with("POST")).count();
    assert_eq!(posts, 0);
    assert_eq!(services.requests()[before..], [format!("GET /datasets/{}", stage.worker_id)]);
}

#[test]
fn an_update_is_sent_once_whatever_the_coordinator_does() {
    let stage = Stage::new(On::Embedded);
    let services = RoundServices::start(9);
    let given = services.settings();
    let _worker = stage.worker(&settings(&given[..1], &[]));
    /// What the coordinator does, the update's fate, what the error says, and how many
    /// updates were sent and counted.
    type Case = (Vec<Habit>, &'static str, &'static str, (usize, usize));
    let cases: [Case; 5] = [
        (vec![], "accepted", "", (1, 1)),
        (vec![Habit::Status(429, ""), Habit::Status(503, "")], "accepted", "", (3, 1)),
        (vec![Habit::Status(400, "stale round")], "refused", "400 stale round", (1, 0)),
        (vec![Habit::Redirect(services.url())], "refused", "redirect", (1, 0)),
        // It was counted, and nobody hears of that.
        (vec![Habit::Cut], "unknown", "is not sent again", (1, 1)),
    ];
    for (habits, fate, error, (posts, counted)) in cases {
        let before = (services.posts(), services.updates().len());
        services.answers(Route::Update, &habits);
        let Answered(result) = stage.run(client());
        assert_eq!(result["results"]["update"], fate, "{result:#}");
        match error {
            "" => assert!(result["error"].is_null(), "{result:#}"),
            error => Answered(result.clone()).failed(&[error]),
        }
        let after = (services.posts() - before.0, services.updates().len() - before.1);
        assert_eq!(after, (posts, counted), "{fate}");
    }
}

#[test]
fn a_task_names_only_services_that_the_worker_knows() {
    let stage = Stage::new(On::Embedded);
    let services = RoundServices::start(1);
    let other = RoundServices::start(1);
    let given = services.settings();
    let host = other.url().replace("http://", "");
    let named = || client().env("MANAGER_COORDINATOR_URL", &other.url());
    let mut worker = stage.worker(&settings(&given[..1], &[]));
    stage.run(named()).failed(&["MANAGER_COORDINATOR_URL", &host, "--round-hosts"]);
    stage
        .run(client().env("DATA_STORE_URL", "http://169.254.169.254"))
        .failed(&["DATA_STORE_URL", "--round-hosts"]);
    stage
        .run(client().set("env", json!({ "ROUND_ID": "a/+" })))
        .failed(&["can't be a part of a topic"]);
    assert_eq!((services.posts(), other.posts()), (0, 0));
    worker.shut_down();
    worker.ended();
    let _worker = stage.worker(&settings(&given[..1], &[("round-hosts", &host)]));
    assert_eq!(stage.run(named()).0["results"]["update"], "accepted");
    assert_eq!((services.posts(), other.posts()), (0, 1));
}

#[test]
fn a_stop_reaches_fetches_and_the_update() {
    let stage = Stage::new(On::Embedded);
    let services = RoundServices::start(9);
    let given = services.settings();
    let _worker = stage.worker(&settings(&given, &[]));
    services.data(&stage.worker_id, json!([]));
    services.answers(Route::Data, &[Habit::Hold]);
    let id = stage.start(client());
    stage.until("the data set is asked for", || !services.requests().is_empty());
    stage.stop(&id);
    stage.result(&id).failed(&["stopped"]);
    services.answers(Route::Update, &[Habit::Hold]);
    let id = stage.start(client());
    stage.until("the update is sent", || services.posts() == 1);
    stage.stop(&id);
    let result = stage.result(&id);
    result.failed(&["stopped", "is not sent again"]);
    assert_eq!(result.0["results"]["update"], "unknown");
    services.release();
    stage.settle();
    assert_eq!((services.posts(), services.updates().len()), (1, 1));
}

#[test]
fn proplet_run_takes_part_in_a_round() {
    let services = RoundServices::start(9);
    let guest = "guests/wat/update.wat";
    let coordinator = services.url();
    let args = ["run", "--coordinator-url", &coordinator, "--env", "ROUND_ID=r", guest];
    let ran = proplet(&args, b"", &[]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.text().contains(r#""update":{"w":[1,2]}"#), "{}", ran.text());
    assert_eq!((services.posts(), services.updates().len()), (1, 1));
    // The variable that Propeller's own worker reads.
    services.answers(Route::Update, &[Habit::Status(400, "stale")]);
    let args = ["run", "--env", "ROUND_ID=r", guest];
    let ran = proplet(&args, b"", &[("MANAGER_COORDINATOR_URL", &coordinator)]);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains("refuses the update"), "{}", ran.stderr);
    let ran = proplet(&args, b"", &[]);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains("no coordinator is known"), "{}", ran.stderr);
    assert_eq!(services.posts(), 2);
}
