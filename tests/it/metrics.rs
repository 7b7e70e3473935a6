//! The worker as its operator sees it: health, metrics, reports, the log.

use crate::support::{
    Habit, On, Process, Ran, RoundServices, Route, Stage, Task, in_one_process_or_two, program,
    proplet, until,
};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

in_one_process_or_two!(
    a_worker_tells_how_it_is_and_what_it_did,
    #[cfg(feature = "openvino")]
    inferences_are_counted_by_graph,
    the_manager_hears_of_the_worker_and_of_its_tasks,
    a_monitored_task_is_reported_at_its_end_however_short_it_was,
    a_monitored_task_is_reported_at_its_own_interval_and_with_what_it_asks_for,
    no_level_of_the_log_shows_the_key_and_lines_of_a_task_have_its_id,
);

/// Where a worker says that it answers.
fn address(process: &Process) -> String {
    let line = process.logs("serving /health");
    let address = line.split("address=").nth(1).expect("an address");
    address.split_whitespace().next().expect("an address").to_owned()
}

fn get(address: &str, path: &str) -> (u16, String) {
    let config = ureq::Agent::config_builder().http_status_as_error(false).build();
    let agent: ureq::Agent = config.into();
    let mut response = agent.get(format!("http://{address}{path}")).call().expect("an answer");
    let body = response.body_mut().read_to_string().expect("text");
    (response.status().as_u16(), body)
}

/// What the container's health check runs.
fn health(address: &str, more: &[&str]) -> Ran {
    let port = address.rsplit(':').next().expect("a port");
    let port = format!("--metrics-port={port}");
    proplet(&[&["health", port.as_str()], more].concat(), b"", &[])
}

const SERVED: [(&str, &str); 2] = [("metrics-enabled", "true"), ("metrics-port", "0")];

fn a_worker_tells_how_it_is_and_what_it_did(on: On) {
    let stage = Stage::new(on);
    let process = stage.process(&[&SERVED[..], &[("executors", "1")]].concat());
    let address = address(&process);
    assert_eq!(health(&address, &[]).text(), "ok\n");
    assert_eq!(health(&address, &["--ready"]).text(), "ready\n");
    let another = health(&address, &["--client-id=somebody"]);
    assert_eq!(another.code, Some(1));
    assert!(another.stderr.contains("and not somebody"), "{}", another.stderr);
    for _ in 0..2 {
        stage.run(Task::wat("hello")).succeeded("hello\n");
    }
    stage.run(Task::wat("trap-unreachable"));
    stage.run(Task::wat("hello").args(&["--no-such-flag"]));
    stage.run(Task::bare().set("file", "!!"));
    let (code, metrics) = get(&address, "/metrics");
    assert_eq!(code, 200);
    for line in [
        "proplet_tasks_total{outcome=\"completed\"} 2",
        "proplet_tasks_total{outcome=\"trap\"} 1",
        "proplet_tasks_refused_total{reason=\"argument\"} 1",
        "proplet_tasks_refused_total{reason=\"malformed\"} 1",
        "proplet_task_phase_seconds_count{phase=\"ran\"} 3",
        "proplet_module_cache_hits_total 1",
        "proplet_modules_compiled_total 2",
        "proplet_connected 1",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} is not in\n{metrics}");
    }
    assert_eq!(get(&address, "/").0, 404);
}

#[test]
fn updates_of_rounds_and_what_was_fetched_for_them_are_counted() {
    let stage = Stage::new(On::Embedded);
    let services = RoundServices::start(9);
    services.data(&stage.worker_id, json!([{ "x": [1], "y": 1 }]));
    let given = services.settings();
    let given = given.iter().map(|(name, url)| (*name, url.as_str()));
    let settings: Vec<_> = SERVED.into_iter().chain([("executors", "1")]).chain(given).collect();
    let process = stage.process(&settings);
    let address = address(&process);
    let answers = [vec![], vec![Habit::Status(400, "stale")], vec![Habit::Cut]];
    for habits in answers {
        services.answers(Route::Update, &habits);
        stage.run(Task::wat("update").env("ROUND_ID", "r"));
    }
    stage.run(Task::wat("hello").env("ROUND_ID", "r"));
    let host = services.url().replace("http://", "");
    let size = get(&host, &format!("/datasets/{}", stage.worker_id)).1.len();
    let metrics = get(&address, "/metrics").1;
    for line in [
        "proplet_round_updates_total{fate=\"accepted\"} 1".to_owned(),
        "proplet_round_updates_total{fate=\"refused\"} 1".to_owned(),
        "proplet_round_updates_total{fate=\"unknown\"} 1".to_owned(),
        "proplet_round_updates_total{fate=\"published\"} 0".to_owned(),
        "proplet_round_updates_total{fate=\"none\"} 1".to_owned(),
        format!("proplet_round_data_bytes_total {}", 4 * size),
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} is not in\n{metrics}");
    }
}

#[test]
fn the_status_tells_what_runs_waits_and_has_ended_and_nothing_of_a_tasks_own() {
    const SECRET: &str = "s3cret-of-the-task";
    let stage = Stage::new(On::Embedded);
    let process = stage.process(&[&SERVED[..], &[("executors", "1")]].concat());
    let address = address(&process);
    let quick = stage.start(Task::wat("stderr-then-trap").env("KEY", SECRET).inputs(&[SECRET]));
    stage.result(&quick);
    stage.run(Task::wat("hello").args(&["--no-such-flag"]));
    let running = stage.start(Task::wat("loop-forever").env("KEY", SECRET));
    let waiting = stage.start(Task::wat("hello"));
    let status =
        until("the task runs, the other waits, and the runtime has told of both codes", || {
            let (code, body) = get(&address, "/status");
            assert_eq!(code, 200);
            assert!(!body.contains(SECRET) && !body.contains("about to fail"), "{body}");
            let status: Value = serde_json::from_str(&body).expect("JSON");
            let work = &status["work"];
            let code = status["caches"]["code"].as_array().map_or(0, Vec::len);
            let runs = work["running_tasks"][0]["phase"] == "running";
            (runs && work["queued"] == 1 && code >= 2).then_some(status)
        });
    let work = &status["work"];
    assert_eq!(
        (&status["schema"], &status["state"], &status["ready"]),
        (&json!(1), &json!("serving"), &json!(true))
    );
    assert_eq!(work["running_tasks"][0]["id"], running.as_str(), "{status:#}");
    assert_eq!(work["waiting_tasks"][0]["id"], waiting.as_str(), "{status:#}");
    assert_eq!(work["connection"]["connected"], true);
    let recent: Vec<_> = work["recent"].as_array().expect("a list").iter().collect();
    let outcome = |id: &str| recent.iter().find(|r| r["id"] == id).map(|r| r["outcome"].clone());
    assert_eq!(outcome(&quick), Some(json!("trap")), "{status:#}");
    assert!(recent.iter().any(|ended| ended["outcome"] == "refused: argument"), "{status:#}");
    assert_eq!(status["limits"]["executors"], "1", "{status:#}");
    let code = status["caches"]["code"].as_array().expect("a list");
    assert!(code.iter().all(|code| code["digest"].as_str().is_some_and(|d| d.len() == 64)));
    assert!(status["caches"]["code_bytes"].as_u64() > Some(0), "{status:#}");
    assert!(status["runtime"]["pid"].as_u64() > Some(0), "{status:#}");
    let port = address.rsplit(':').next().expect("a port");
    let port = format!("--metrics-port={port}");
    let shown = proplet(&["status", &port], b"", &[]);
    assert_eq!(shown.code, Some(0), "{}", shown.stderr);
    for expected in [": serving", "1 running, 1 waiting", "1 trap", &format!("{running} running")] {
        assert!(shown.text().contains(expected), "{expected} is not in\n{}", shown.text());
    }
    let raw = proplet(&["status", "--json", &port], b"", &[]);
    let raw: Value = serde_json::from_str(raw.text()).expect("JSON");
    assert_eq!(raw["proplet_id"], stage.worker_id.as_str());
    stage.stop(&running);
    stage.result(&running);
    stage.result(&waiting).succeeded("hello\n");
}

/// What `promtool check metrics` looks for, as far as it concerns us, over the
/// page of a worker that has a journal and has run something.
#[test]
fn the_page_is_one_that_prometheus_and_propellers_dashboards_read() {
    let stage = Stage::new(On::Embedded);
    let state = tempfile::tempdir().expect("a directory");
    let state = state.path().to_str().expect("text");
    let settings = [("stateless", "false"), ("state-dir", state), ("executors", "3")];
    let process = stage.process(&[&SERVED[..], &settings].concat());
    let address = address(&process);
    stage.run(Task::wat("hello")).succeeded("hello\n");
    stage.run(Task::wat("trap-unreachable"));
    stage.run(Task::wat("hello").args(&["--no-such-flag"]));
    let (_, page) = get(&address, "/metrics");
    let (mut helped, mut typed) = (BTreeSet::new(), BTreeMap::new());
    for line in page.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|l| l.split_once(' ')) {
            assert!(!help.is_empty() && helped.insert(name), "{line}");
        } else if let Some((name, kind)) =
            line.strip_prefix("# TYPE ").and_then(|l| l.split_once(' '))
        {
            assert!(helped.contains(name), "no help before {line}");
            assert!(typed.insert(name, kind).is_none(), "twice: {line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            assert!(kind == "histogram" || !name.ends_with("_count"), "{line}");
        } else {
            let name = line.split(['{', ' ']).next().expect("a name");
            let of = ["_bucket", "_sum", "_count"].iter().find_map(|s| name.strip_suffix(s));
            let known = typed.contains_key(name)
                || of.is_some_and(|of| typed.get(of) == Some(&"histogram"));
            assert!(known, "no type before {line}");
            let value = line.rsplit(' ').next().expect("a value");
            assert!(value.parse::<f64>().is_ok(), "{line}");
        }
    }
    for name in [
        "proplet_tasks_started_total 3",
        "proplet_tasks_completed_total 1",
        "proplet_tasks_failed_total 2",
        "proplet_tasks_running 0",
        "proplet_cpu_usage_ratio ",
        "proplet_cpu_user_seconds ",
        "proplet_cpu_system_seconds ",
        "proplet_memory_rss_bytes ",
        "proplet_mqtt_reconnects_total 0",
        "proplet_wasm_fetch_bytes_total 0",
        "proplet_executors 3",
        "proplet_queue_capacity ",
        "proplet_inferences_running 0",
        "proplet_journal_bytes ",
        "proplet_journal_write_seconds_count ",
    ] {
        assert!(page.lines().any(|line| line.starts_with(name)), "{name} is not in\n{page}");
    }
}

/// A name that the operator gave, one that the task gave, and a model that the
/// guest brought along.
#[cfg(feature = "openvino")]
fn inferences_are_counted_by_graph(on: On) {
    crate::support::assets();
    let stage = Stage::new(on);
    let folder = tempfile::tempdir().expect("a folder");
    let own = folder.path().join("own");
    std::fs::create_dir(&own).expect("a folder");
    for file in ["model.xml", "model.bin"] {
        let from = crate::support::fixtures().join("models/tiny").join(file);
        std::fs::copy(from, own.join(file)).expect("copied");
    }
    let dirs = format!("models:{}", folder.path().display());
    let settings = [("nn-graphs", "openvino::models/tiny"), ("dirs", &dirs)];
    let process = stage.process(&[&SERVED[..], &settings].concat());
    let address = address(&process);
    let zero = "proplet_inference_seconds_count{graph=\"tiny\",backend=\"openvino\"} 0";
    assert!(get(&address, "/metrics").1.lines().any(|line| line == zero), "before its first use");
    for _ in 0..2 {
        stage.run(Task::wat("nn-tiny").args(&["-S", "nn"])).succeeded("2\n0\n6\n4\n");
    }
    let graph = format!("nn,nn-graph=openvino::{}", own.display());
    let by_own_name = Task::wat("nn-tiny").inputs(&["own"]).args(&["-S", &graph]);
    stage.run(by_own_name).succeeded("2\n0\n6\n4\n");
    stage.run(Task::wat("nn-self-test").args(&["-S", "nn"])).succeeded("2\n0\n6\n4\n");
    let (_, metrics) = get(&address, "/metrics");
    for (graph, count) in [("tiny", 2), ("own", 1), ("bytes", 1)] {
        let line = format!(
            "proplet_inference_seconds_count{{graph=\"{graph}\",backend=\"openvino\"}} {count}"
        );
        assert!(metrics.lines().any(|found| found == line), "{line} is not in\n{metrics}");
    }
}

#[test]
fn a_worker_without_a_broker_is_well_but_not_ready() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let nowhere = free.local_addr().expect("its address");
    drop(free);
    let stage = Stage::new(On::Embedded);
    let environment = stage.environment(nowhere, &SERVED);
    let mut command = program();
    command.arg("worker").envs(environment.variables()).current_dir(environment.working_dir());
    let process = Process::spawn(&mut command);
    let address = address(&process);
    assert_eq!(health(&address, &[]).code, Some(0));
    let ready = health(&address, &["--ready"]);
    assert_eq!(ready.code, Some(1));
    assert!(ready.stderr.contains("no connection to the broker"), "{}", ready.stderr);
    assert_eq!(get(&address, "/ready").0, 503);
}

#[test]
fn a_port_that_is_taken_costs_a_warning() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("its address").port().to_string();
    let stage = Stage::new(On::Embedded);
    let process = stage.process(&[("metrics-enabled", "true"), ("metrics-port", &port)]);
    assert!(process.logs("can't be listened on").contains("--metrics-port"));
    stage.run(Task::wat("hello")).succeeded("hello\n");
}

fn the_manager_hears_of_the_worker_and_of_its_tasks(on: On) {
    let stage = Stage::new(on);
    let _worker = stage.worker(&[("enable-monitoring", "true"), ("metrics-interval", "1s")]);
    let id = stage.start(Task::wat("loop-forever"));
    let report = |topic: &'static str| {
        stage.wait(topic, |seen| {
            seen.iter().find(|seen| seen.topic == topic).map(|seen| seen.json.clone())
        })
    };
    let metrics = report("metrics");
    assert_eq!(metrics["proplet_id"], stage.worker_id.as_str());
    assert!(metrics["memory_metrics"]["rss_bytes"].as_u64() > Some(1 << 20), "{metrics}");
    assert!(metrics["cpu_metrics"]["user_seconds"].is_f64(), "{metrics}");
    assert!(metrics["timestamp"].as_str().is_some_and(|text| text.ends_with('Z')), "{metrics}");
    if cfg!(target_os = "linux") {
        let task = report("task_metrics");
        assert_eq!(task["task_id"], id.as_str());
        assert!(task["metrics"]["cpu_percent"].as_f64() > Some(1.0), "{task}");
        assert_eq!(task["metrics"]["memory_bytes"], 64 << 10, "{task}");
        assert_eq!(task["aggregated"], Value::Null);
    }
    stage.stop(&id);
    stage.result(&id);
}

/// A profile that asks for all that there is, every `seconds`.
fn profile(seconds: u64) -> Value {
    json!({
        "enabled": true, "export_to_mqtt": true, "interval": seconds * 1_000_000_000,
        "collect_cpu": true, "collect_memory": true, "collect_disk_io": true,
        "collect_threads": true, "collect_file_descriptors": true,
        "retain_history": true, "history_size": 100,
    })
}

/// The reports on a task, in order, once there is one of its end.
fn reports_to_the_end(stage: &Stage, id: &str) -> Vec<Value> {
    stage.wait("the report of the end", |seen| {
        let of_task = seen.iter().filter(|seen| seen.topic == "task_metrics");
        let of_task = of_task.filter(|seen| seen.json["task_id"] == id);
        let reports: Vec<_> = of_task.map(|seen| seen.json.clone()).collect();
        reports.iter().any(|report| report["aggregated"].is_object()).then_some(reports)
    })
}

fn a_monitored_task_is_reported_at_its_end_however_short_it_was(on: On) {
    let stage = Stage::new(on);
    let monitoring = [("enable-monitoring", "true"), ("executors", "1")];
    let _worker = stage.worker(&monitoring);
    let id = stage.start(Task::wat("hello").set("monitoring_profile", profile(0)));
    stage.result(&id).succeeded("hello\n");
    stage.run(Task::wat("hello").set("monitoring_profile", json!({ "enabled": true })));
    reports_to_the_end(&stage, &id);
    stage.settle();
    let seen = stage.seen();
    let reports: Vec<_> = seen.iter().filter(|seen| seen.topic == "task_metrics").collect();
    assert_eq!(reports.len(), 1, "{reports:#?}");
    let report = &reports[0].json;
    assert_eq!((&report["task_id"], &report["proplet_id"]), (&json!(id), &json!(stage.worker_id)));
    assert!(report["timestamp"].as_str().is_some_and(|text| text.ends_with('Z')), "{report}");
    assert_eq!(report["metrics"]["memory_bytes"], 64 << 10, "{report}");
    assert_eq!(report["metrics"]["uptime_seconds"], 0, "{report}");
    let whole = &report["aggregated"];
    assert_eq!(whole["sample_count"], 1, "{report}");
    if cfg!(target_os = "linux") {
        for field in ["cpu_percent", "memory_percent", "thread_count", "file_descriptor_count"] {
            assert!(report["metrics"][field].is_number(), "{field}: {report}");
        }
    }
    assert_eq!(
        (&whole["avg_memory_usage"], &whole["max_memory_usage"]),
        (&json!(65536), &json!(65536))
    );
    let mut fields = vec!["avg_memory_usage", "max_memory_usage", "sample_count"];
    if cfg!(target_os = "linux") {
        assert!(whole["avg_cpu_usage"].as_f64() > Some(0.0), "{report}");
        assert_eq!(whole["max_cpu_usage"], whole["avg_cpu_usage"]);
        fields.extend(["avg_cpu_usage", "max_cpu_usage", "total_disk_read", "total_disk_write"]);
    }
    for field in fields {
        assert!(whole[field].is_number(), "{field}: {report}");
    }
}

fn a_monitored_task_is_reported_at_its_own_interval_and_with_what_it_asks_for(on: On) {
    let stage = Stage::new(on);
    let monitoring =
        [("enable-monitoring", "true"), ("metrics-interval", "1h"), ("executors", "1")];
    let _worker = stage.worker(&monitoring);
    let mut profile = profile(1);
    profile["collect_memory"] = false.into();
    let id = stage.start(Task::wat("loop-forever").set("monitoring_profile", profile));
    stage.wait("two reports of a task that runs", |seen| {
        (seen.iter().filter(|seen| seen.topic == "task_metrics").count() >= 2).then_some(())
    });
    stage.stop(&id);
    stage.result(&id).failed(&["stopped"]);
    let reports = reports_to_the_end(&stage, &id);
    let (end, running) = reports.split_last().expect("reports");
    assert!(running.iter().all(|report| report["aggregated"].is_null()), "{reports:#?}");
    assert_eq!(end["aggregated"]["sample_count"], reports.len(), "{reports:#?}");
    if cfg!(target_os = "linux") {
        assert!(running[1]["metrics"]["cpu_percent"].as_f64() > Some(1.0), "{reports:#?}");
        assert!(end["aggregated"]["max_cpu_usage"].as_f64() > Some(1.0), "{end}");
    }
    for part in ["metrics", "aggregated"] {
        let fields = end[part].as_object().expect("an object").keys();
        assert!(fields.clone().all(|field| !field.contains("memory")), "{end}");
    }
}

fn no_level_of_the_log_shows_the_key_and_lines_of_a_task_have_its_id(on: On) {
    const KEY: &str = "k7-never-to-be-shown";
    let stage = Stage::new(on);
    let mut process = stage.process(&[
        ("client-key", KEY),
        ("log-level", "trace"),
        ("log-format", "json"),
        ("executors", "1"),
    ]);
    let id = stage.start(Task::wat("nn-unknown-encoding").args(&["-S", "nn"]));
    stage.result(&id);
    process.signal("TERM");
    process.ended();
    let lines = process.log();
    assert!(lines.len() > 5, "{lines:?}");
    let mut of_task = 0;
    for line in &lines {
        assert!(!line.contains(KEY), "{line}");
        let json: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"));
        let told = [&json["task"], &json["span"]["task"]];
        of_task += usize::from(told.iter().any(|told| **told == id.as_str()));
    }
    assert!(of_task >= 2, "{lines:#?}");
}
