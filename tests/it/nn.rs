//! wasi-nn with OpenVINO and real models, from the message to the result.

use crate::support::{
    Answered, Bench, Call, Guest, On, Stage, Task, Worker, assets, fixtures, in_one_process_too,
    over_both_brokers, proplet,
};
use proplet::nn::{Nn, NnConfig, OpenVinoConfig, SearchEnv};
use proplet::task::Outcome;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

over_both_brokers!(
    the_classification_equals_openvinos_own_answer,
    the_types_of_files_are_those_of_magikas_own_program,
    files_in_batches_have_the_same_types,
    a_warm_task_compiles_nothing_and_loads_nothing,
    two_hundred_tasks_at_once_load_one_graph,
    a_graph_is_loaded_by_name_from_the_tasks_arguments,
    a_graph_is_loaded_by_name_from_the_workers_setting,
    a_component_classifies_on_the_graphs_of_modules,
    deployed_guests_of_both_kinds_infer_on_the_graphs_of_their_start,
    graphs_append_and_each_goes_by_its_folders_name,
    every_hint_gives_the_same_answer,
    a_long_inference_is_stopped_at_once,
    a_long_inference_runs_into_its_timeout,
    without_openvino_the_worker_runs_and_the_error_says_where_it_looked,
    a_library_that_is_named_and_not_there_is_no_reason_to_look_on,
);

in_one_process_too!(
    the_classification_equals_openvinos_own_answer,
    the_types_of_files_are_those_of_magikas_own_program,
    files_in_batches_have_the_same_types,
    a_warm_task_compiles_nothing_and_loads_nothing,
    two_hundred_tasks_at_once_load_one_graph,
    a_graph_is_loaded_by_name_from_the_tasks_arguments,
    a_graph_is_loaded_by_name_from_the_workers_setting,
    a_component_classifies_on_the_graphs_of_modules,
    deployed_guests_of_both_kinds_infer_on_the_graphs_of_their_start,
    graphs_append_and_each_goes_by_its_folders_name,
    a_long_inference_is_stopped_at_once,
    a_long_inference_runs_into_its_timeout,
);

/// A worker whose tasks may open the fixtures and the models.
fn with_worker(on: On, settings: &[(&str, &str)]) -> (Stage, Worker) {
    let stage = Stage::new(on);
    let dirs = format!("{}:{}", fixtures().display(), models().display());
    let settings = [&[("dirs", dirs.as_str())], settings].concat();
    let worker = stage.worker(&settings);
    (stage, worker)
}

fn models() -> std::path::PathBuf {
    assets().join("fixtures")
}

fn model(name: &str) -> String {
    models().join(name).to_str().expect("text").to_owned()
}

/// The guide's task.
fn classification() -> Task {
    let dir = format!("--dir={}::fixture", model("mobilenet"));
    Task::guest("classification").args(&["-S", "nn", &dir])
}

/// A guest in text format with the model `tiny` by name.
fn with_tiny(guest: &str) -> Task {
    Task::wat(guest).args(&["-S", "nn,nn-graph=openvino::models/tiny"])
}

fn expected() -> Value {
    let path = models().join("mobilenet/expected.json");
    serde_json::from_slice(&std::fs::read(path).expect("the expected answer")).expect("JSON")
}

/// All 1001 values of a guest that ran with `FULL=1`, and the five lines of
/// the guide before them.
#[track_caller]
fn equals_the_reference(printed: &str, expected: &Value) {
    let line = printed.lines().find_map(|line| line.strip_prefix("output: "));
    let values: Vec<f64> = line
        .unwrap_or_else(|| panic!("no output in: {printed}"))
        .split(' ')
        .map(|value| value.parse().expect("a number"))
        .collect();
    let reference: Vec<f64> = expected["output_f32"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|value| value.as_f64().expect("a number"))
        .collect();
    assert_eq!(values.len(), reference.len());
    let worst = values.iter().zip(&reference).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    println!("largest difference to the reference: {worst:e}");
    assert!(worst < 1e-5, "{worst}");
    // The largest of them is four orders above what may differ.
    assert!(reference.iter().copied().fold(0.0, f64::max) > 0.1);
}

fn the_classification_equals_openvinos_own_answer(on: On) {
    let (stage, _worker) = with_worker(on, &[]);
    let result = stage.run(classification().env("FULL", "1"));
    let printed = result.stdout();
    let expected = expected();
    equals_the_reference(printed, &expected);
    for part in [
        "Read graph XML",
        "Read graph weights, size in bytes: 13956432",
        "Loaded graph into wasi-nn with ID:",
        "Created wasi-nn execution context with ID:",
        "Read input tensor, size in bytes: 602112",
        "Executed graph inference",
        "Found results, sorted top 5: [InferenceResult(",
    ] {
        assert!(printed.contains(part), "`{part}` is not in: {printed}");
    }
    let top = printed.lines().find(|line| line.contains("sorted top 5")).expect("the top five");
    let classes: Vec<_> = top
        .split("InferenceResult(")
        .skip(1)
        .map(|rest| rest.split(',').next().expect("a class").parse::<u64>().expect("a number"))
        .collect();
    let reference = expected["top5_f32"].as_array().expect("a list");
    assert_eq!(
        classes,
        reference.iter().map(|pair| pair[0].as_u64().expect("a class")).collect::<Vec<_>>()
    );
    assert_eq!(result.diagnostics(), [] as [&str; 0]);
}

/// Labels and scores by path, as the reference program prints them.
fn reference(paths: &[String]) -> BTreeMap<String, (String, f64)> {
    let program = models().join("magika/magika");
    let output = Command::new(&program)
        .arg("--jsonl")
        .args(paths)
        .current_dir(fixtures())
        .output()
        .unwrap_or_else(|e| panic!("running {}: {e}", program.display()));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let answer = |line: &str| {
        let json: Value = serde_json::from_str(line).expect("JSON");
        let value = &json["result"]["value"];
        let label = value["dl"]["label"].as_str().expect("a label").to_owned();
        // Where they differ the model did not decide.
        assert_eq!(label, value["output"]["label"], "{line}");
        let path = json["path"].as_str().expect("a path").to_owned();
        (path, (label, value["score"].as_f64().expect("a score")))
    };
    String::from_utf8(output.stdout).expect("text").lines().map(answer).collect()
}

fn sample_files() -> Vec<String> {
    let entries = std::fs::read_dir(fixtures().join("files")).expect("a folder");
    let mut paths: Vec<_> = entries
        .map(|entry| format!("files/{}", entry.expect("an entry").file_name().display()))
        .collect();
    paths.sort_unstable();
    paths
}

fn file_types(paths: &[String]) -> Task {
    let dir = format!("--dir={}::magika", model("magika"));
    let inputs: Vec<_> = paths.iter().map(String::as_str).collect();
    let args = ["-S", "nn", "--dir=files", &dir];
    Task::guest("file-type").args(&args).inputs(&inputs).env("JSON", "1")
}

#[track_caller]
fn types_are_those_of_the_reference(result: &Answered, paths: &[String]) {
    let reference = reference(paths);
    assert!(paths.len() >= 20, "{} files are too few", paths.len());
    let kinds: std::collections::BTreeSet<_> = reference.values().map(|(label, _)| label).collect();
    assert!(kinds.len() >= 10, "{kinds:?}");
    let mut seen = 0;
    for line in result.stdout().lines() {
        let answer: Value = serde_json::from_str(line).expect("JSON");
        let path = answer["path"].as_str().expect("a path");
        let (label, score) = &reference[path];
        assert_eq!(answer["label"], *label, "{path}");
        let difference = answer["score"].as_f64().expect("a score") - score;
        assert!(difference.abs() < 0.002, "{path}: {line}, but the reference has {score}");
        seen += 1;
    }
    assert_eq!(seen, paths.len());
}

fn the_types_of_files_are_those_of_magikas_own_program(on: On) {
    let (stage, _worker) = with_worker(on, &[]);
    let paths = sample_files();
    types_are_those_of_the_reference(&stage.run(file_types(&paths)), &paths);
}

fn files_in_batches_have_the_same_types(on: On) {
    let (stage, _worker) = with_worker(on, &[]);
    let paths = sample_files();
    let result = stage.run(file_types(&paths).env("BATCH", "16"));
    types_are_those_of_the_reference(&result, &paths);
}

fn reused(result: &Answered) -> (bool, u64, u64) {
    let reused = &result.0["reused"];
    let number = |name: &str| reused[name].as_u64().expect("a number");
    (reused["module"] == true, number("graphs_reused"), number("graphs_loaded"))
}

fn a_warm_task_compiles_nothing_and_loads_nothing(on: On) {
    let (stage, _worker) = with_worker(on, &[]);
    let cold = stage.run(classification());
    assert_eq!(reused(&cold), (false, 0, 1));
    for _ in 0..3 {
        let warm = stage.run(classification());
        assert_eq!(warm.stdout(), cold.stdout());
        assert_eq!(reused(&warm), (true, 1, 0));
    }
}

/// The same counted by the runtime itself.
#[test]
fn a_module_is_compiled_once_and_a_graph_loaded_once() {
    let bench = bench().root(models(), false);
    let dir = format!("--dir={}::fixture", model("mobilenet"));
    let module = std::fs::read(fixtures().join("guests/bin/classification.wasm")).expect("a guest");
    let run = || -> Outcome {
        let task: Guest<'_> = bench.guest(module.clone());
        task.cli_args(&["-S", "nn", &dir]).run()
    };
    for _ in 0..3 {
        crate::support::stdout(&run());
    }
    let stats = bench.runtime.nn().stats();
    assert_eq!((stats.graphs_compiled, stats.cache_hits, stats.inferences), (1, 2, 3));
    assert_eq!(bench.runtime.modules_compiled(), 1);
}

fn bench() -> Bench {
    let program = assets().join("debug/proplet");
    let search = SearchEnv::from_lookup(Some(program), |_| None);
    let config = NnConfig {
        openvino: searched(search),
        cache_bytes: 1 << 30,
        model_bytes: 1 << 30,
        ..NnConfig::default()
    };
    Bench::with_nn(Nn::new(config))
}

/// OpenVINO, as a search in these places finds it.
fn searched(search: SearchEnv) -> OpenVinoConfig {
    OpenVinoConfig { search, ..OpenVinoConfig::default() }
}

fn two_hundred_tasks_at_once_load_one_graph(on: On) {
    const TASKS: usize = 200;
    let (stage, _worker) = with_worker(on, &[("executors", "4"), ("queue", "200")]);
    let dir = format!("--dir={}::magika", model("magika"));
    let task = Task::guest("file-type")
        .args(&["-S", "nn", "--dir=files", &dir])
        .inputs(&["files/rain.csv"])
        .env("JSON", "1");
    let ids: Vec<_> = (0..TASKS).map(|_| stage.start(task.clone())).collect();
    let results: Vec<_> = ids.iter().map(|id| stage.result(id)).collect();
    let first = results[0].stdout();
    assert!(first.contains("\"label\":\"csv\""), "{first}");
    for result in &results {
        assert_eq!(result.stdout(), first);
    }
    let loaded: u64 = results.iter().map(|result| reused(result).2).sum();
    let shared: u64 = results.iter().map(|result| reused(result).1).sum();
    let compiled = results.iter().filter(|result| !reused(result).0).count();
    assert_eq!((loaded, shared, compiled), (1, TASKS as u64 - 1, 1));
}

fn a_graph_is_loaded_by_name_from_the_tasks_arguments(on: On) {
    let (stage, _worker) = with_worker(on, &[]);
    let graph = format!("nn-graph=openvino::{}", model("mobilenet"));
    let dir = format!("--dir={}::fixture", model("mobilenet"));
    let by_name = || Task::guest("by-name").args(&["-S", "nn", "-S", &graph, &dir]);
    let cold = stage.run(by_name().env("FULL", "1"));
    equals_the_reference(cold.stdout(), &expected());
    assert_eq!(reused(&cold), (false, 0, 1));
    assert_eq!(reused(&stage.run(by_name())), (true, 1, 0));
    // The same model from bytes is the same graph.
    assert_eq!(reused(&stage.run(classification())), (false, 1, 0));
    let other = by_name().inputs(&["another"]);
    stage.run(other).failed(&["`another`", "mobilenet"]);
    let without = Task::guest("by-name").args(&["-S", "nn", &dir]);
    stage.run(without).failed(&["`mobilenet`", "nn-graph=ENCODING::DIR"]);
}

fn a_graph_is_loaded_by_name_from_the_workers_setting(on: On) {
    let graphs = format!("openvino::{},openvino::models/tiny", model("mobilenet"));
    let (stage, _worker) = with_worker(on, &[("nn-graphs", &graphs)]);
    let dir = format!("--dir={}::fixture", model("mobilenet"));
    let result = stage.run(Task::guest("by-name").args(&["-S", "nn", &dir]).env("FULL", "1"));
    equals_the_reference(result.stdout(), &expected());
    let tiny = stage.run(Task::wat("nn-tiny").args(&["-S", "nn"]));
    tiny.succeeded("2\n0\n6\n4\n");
    // Preloaded at the start, or just now by the first task: never twice.
    assert_eq!(reused(&stage.run(Task::wat("nn-tiny").args(&["-S", "nn"]))), (true, 1, 0));
}

fn a_component_classifies_on_the_graphs_of_modules(on: On) {
    let (stage, _worker) = with_worker(on, &[]);
    let graph = format!("nn-graph=openvino::{}", model("mobilenet"));
    let dir = format!("--dir={}::fixture", model("mobilenet"));
    let component = |inputs: &[&str]| {
        let task = Task::guest("classification-component").args(&["-S", "nn", "-S", &graph, &dir]);
        stage.run(task.inputs(inputs).env("FULL", "1").set("name", ""))
    };
    // One compile for guests of both kinds, by bytes and by name.
    assert_eq!(reused(&stage.run(classification())), (false, 0, 1));
    let by_bytes = component(&[]);
    equals_the_reference(by_bytes.stdout(), &expected());
    assert_eq!(reused(&by_bytes).2, 0);
    let by_name = component(&["name", "mobilenet"]);
    equals_the_reference(by_name.stdout(), &expected());
    assert_eq!(reused(&by_name), (true, 1, 0));
    let unknown = component(&["name", "another"]);
    assert!(unknown.diagnostics().iter().any(|said| said.contains("`another`")));
    unknown.failed(&["exited with code 1"]);
}

fn deployed_guests_of_both_kinds_infer_on_the_graphs_of_their_start(on: On) {
    let (stage, _worker) = with_worker(on, &[]);
    let graph = format!("nn-graph=openvino::{}", model("mobilenet"));
    let dir = format!("--dir={}::fixture", model("mobilenet"));
    let deploy = |guest: &str| {
        let task = Task::guest(guest).args(&["-S", "nn", "-S", &graph, &dir]).env("FULL", "1");
        stage.start(task.set("name", "").set("latent", true))
    };
    let guests = [("by-name", vec![]), ("classification-component", vec!["name", "mobilenet"])];
    for (guest, inputs) in guests {
        let id = deploy(guest);
        // It was loaded when the task was prepared.
        for _ in 0..2 {
            let answer = stage.call(Call::of(&id).inputs(&inputs));
            equals_the_reference(answer.stdout(), &expected());
            assert_eq!(reused(&answer), (true, 1, 0), "{guest}");
        }
    }
}

fn graphs_append_and_each_goes_by_its_folders_name(on: On) {
    let (stage, _worker) = with_worker(on, &[]);
    let mobilenet = format!("nn-graph=openvino::{}", model("mobilenet"));
    let tiny = "nn-graph=openvino::models/tiny";
    for args in [
        vec!["-S", "nn", "-S", tiny, "-S", &mobilenet],
        vec!["-S", &mobilenet, "-S", tiny, "-S", "nn"],
        vec!["-S", &format!("nn,{tiny},{mobilenet}")],
    ] {
        stage.run(Task::wat("nn-tiny").args(&args)).succeeded("2\n0\n6\n4\n");
    }
    let args = ["-S", "nn", "-S", &mobilenet];
    stage.run(Task::wat("nn-tiny").args(&args)).failed(&["`tiny`", "mobilenet"]);
    let pytorch = if cfg!(feature = "pytorch") { "model.pt" } else { "openvino" };
    for (encoding, expected) in
        [("onnx", "model.onnx"), ("pytorch", pytorch), ("openvnio", "openvino")]
    {
        let graph = format!("nn,nn-graph={encoding}::models/tiny");
        let result = stage.run(Task::wat("nn-tiny").args(&["-S", &graph]));
        result.failed(&[encoding, expected]);
    }
    let empty = format!("nn,nn-graph=openvino::{}", fixtures().join("files").display());
    stage.run(Task::wat("hello").args(&["-S", &empty])).failed(&["files", "model.xml"]);
}

fn every_hint_gives_the_same_answer(on: On) {
    for hint in ["latency", "throughput", "auto"] {
        let (stage, _worker) = with_worker(on, &[("nn-hint", hint), ("executors", "2")]);
        let result = stage.run(classification().env("FULL", "1").env("REPEAT", "3"));
        equals_the_reference(result.stdout(), &expected());
    }
}

const FULL_WITH_ONE: [(&str, &str); 2] = [("executors", "1"), ("queue", "1")];

/// One inference of 1.3·10¹² operations: no test waits for its end.
fn slow(arguments: &[&str]) -> Task {
    let graph = format!("nn,nn-graph=openvino::{}", model("slow"));
    Task::wat("nn-tiny").args(&[&["-S", &graph], arguments].concat()).inputs(&["slow"])
}

/// Has the slow model compiled and a request made: from then on what such a
/// task does is its inference. Returns what this task reused.
fn load_slow(stage: &Stage) -> (bool, u64, u64) {
    let graph = format!("nn,nn-graph=openvino::{}", model("slow"));
    let task = Task::wat("nn-context-loop").args(&["-S", &graph]).inputs(&["slow", "1"]);
    let result = stage.run(task);
    result.succeeded("contexts 1\nerrno 0\n");
    reused(&result)
}

/// ARCHITECTURE.md, case 38.
fn a_long_inference_is_stopped_at_once(on: On) {
    let (stage, _worker) = with_worker(on, &FULL_WITH_ONE);
    assert_eq!(load_slow(&stage), (false, 0, 1));
    let id = stage.running(slow(&[]));
    let asked = Instant::now();
    stage.stop(&id);
    stage.result(&id).failed(&["stopped"]);
    println!("{on:?}: an inference stopped in {:?}", asked.elapsed());
    assert_eq!(stage.results_in_the_end(&id), 1);
    // Its graph is as good as before.
    assert_eq!(load_slow(&stage), (true, 1, 0));
    // One short inference after the other, too.
    let id = stage.running(with_tiny("nn-compute-loop"));
    let asked = Instant::now();
    stage.stop(&id);
    stage.result(&id).failed(&["stopped"]);
    println!("{on:?}: a loop of inferences stopped in {:?}", asked.elapsed());
    stage.run(with_tiny("nn-tiny")).succeeded("2\n0\n6\n4\n");
}

fn a_long_inference_runs_into_its_timeout(on: On) {
    let (stage, _worker) = with_worker(on, &FULL_WITH_ONE);
    load_slow(&stage);
    let asked = Instant::now();
    stage.run(slow(&["-W", "timeout=100ms"])).failed(&["timeout", "100ms"]);
    println!("{on:?}: an inference ran into its timeout after {:?}", asked.elapsed());
    load_slow(&stage);
    stage.run(with_tiny("nn-tiny")).succeeded("2\n0\n6\n4\n");
}

/// ARCHITECTURE.md, case 39.
fn without_openvino_the_worker_runs_and_the_error_says_where_it_looked(on: On) {
    let nowhere = tempfile::tempdir().expect("a directory");
    let library = nowhere.path().to_str().expect("text");
    let (stage, _worker) = with_worker(on, &[("openvino-lib", library), ("executors", "1")]);
    let id = stage.start(with_tiny("nn-tiny"));
    stage.result(&id).failed(&["OpenVINO", library]);
    assert_eq!(stage.results_in_the_end(&id), 1);
    stage.run(Task::wat("nn-self-test")).failed(&["OpenVINO", library]);
    // A guest that does not import it has no use for it.
    stage.run(Task::wat("hello").args(&["-S", "nn"])).succeeded("hello\n");
}

fn a_library_that_is_named_and_not_there_is_no_reason_to_look_on(on: On) {
    let (stage, _worker) = with_worker(on, &[("openvino-lib", "/no/such/libopenvino_c.so")]);
    stage.run(with_tiny("nn-tiny")).failed(&["/no/such/libopenvino_c.so", "no other place"]);
}

/// The system's own folders are looked at too; where OpenVINO is installed
/// there, it is found and there is no error to look at.
#[test]
fn where_openvino_was_looked_for_is_listed_with_how_to_install_it() {
    let empty = tempfile::tempdir().expect("a directory");
    let search = SearchEnv {
        executable: Some(empty.path().join("bin/proplet")),
        variables: vec![("LD_LIBRARY_PATH", empty.path().join("ld").into())],
    };
    let nn = Nn::new(NnConfig { openvino: searched(search), ..NnConfig::default() });
    let mut libraries = nn.libraries().into_iter();
    match libraries.find(|(backend, _)| *backend == "openvino").expect("a backend").1 {
        Ok(library) => assert!(library.path.is_some_and(|path| path.starts_with("/"))),
        Err(error) => {
            for part in ["pip install openvino", "PROPLET_OPENVINO_LIB", "`proplet doctor` lists"] {
                assert!(error.contains(part), "`{part}` is not in: {error}");
            }
            let places = nn.openvino_places();
            for place in ["bin/openvino/libs", "ld"] {
                assert!(places.contains(&empty.path().join(place)), "{place}: {places:?}");
            }
        }
    }
}

#[test]
fn the_classification_runs_locally_as_on_a_worker() {
    let dir = format!("--dir={}::fixture", model("mobilenet"));
    let ran =
        proplet(&["run", &dir, "--env", "FULL=1", "guests/bin/classification.wasm"], b"", &[]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    equals_the_reference(ran.text(), &expected());
    let graph = format!("nn-graph=openvino::{}", model("mobilenet"));
    let ran = proplet(
        &["run", "-Snn", "-S", &graph, &dir, "guests/bin/by-name.wasm", "mobilenet"],
        b"",
        &[],
    );
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.text().contains("sorted top 5"), "{}", ran.text());
}

#[test]
fn a_guest_that_fails_locally_says_what_wasi_nn_refused() {
    assets();
    let dir = tempfile::tempdir().expect("a directory");
    for name in ["model.xml", "model.bin", "tensor.bgr"] {
        std::fs::write(dir.path().join(name), "no model").expect("written");
    }
    let dir = format!("--dir={}::fixture", dir.path().display());
    let ran = proplet(&["run", "-Snn", &dir, "guests/bin/classification.wasm"], b"", &[]);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains("is not OpenVINO's XML"), "{}", ran.stderr);
    let library = ("PROPLET_OPENVINO_LIB", "/no/such/libopenvino_c.so");
    let ran = proplet(&["run", "-Snn", &dir, "guests/bin/classification.wasm"], b"", &[library]);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains("/no/such/libopenvino_c.so"), "{}", ran.stderr);
}

/// No path but the program's own: the guide's `LD_LIBRARY_PATH` is not needed.
#[test]
fn openvino_is_found_beside_the_build_without_any_variable() {
    assert!(Path::new(&assets().join("openvino/libs")).is_dir());
    let output = crate::support::program()
        .args(["run", "-S", "nn,nn-graph=openvino::models/tiny"])
        .arg("-")
        .env_clear()
        .current_dir(fixtures())
        .stdin({
            let file = tempfile::NamedTempFile::new().expect("a file");
            std::fs::write(file.path(), crate::support::wat("nn-tiny")).expect("written");
            file.reopen().expect("opened")
        })
        .output()
        .expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(text, "2\n0\n6\n4\n", "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn settings_of_inference_hold_for_a_guest_that_is_run_by_hand() {
    assets();
    let tiny = "openvino::models/tiny";
    let guest = crate::support::wat("nn-tiny");
    let by_variable = proplet(&["run", "-"], &guest, &[("PROPLET_NN_GRAPHS", tiny)]);
    assert_eq!(by_variable.text(), "2\n0\n6\n4\n", "{}", by_variable.stderr);
    let graphs = format!("--nn-graphs={tiny}");
    let by_flag = proplet(&["run", &graphs, "--nn-hint=throughput", "-Snn", "-"], &guest, &[]);
    assert_eq!(by_flag.text(), "2\n0\n6\n4\n", "{}", by_flag.stderr);
    let dir = format!("--dir={}::fixture", model("mobilenet"));
    let own = ["run", "--nn-load-bytes=false", &dir, "guests/bin/classification.wasm"];
    let own = proplet(&own, b"", &[]);
    assert!(own.stderr.contains("--nn-load-bytes is false"), "{}", own.stderr);
    let wrong = proplet(&["run", "-"], &guest, &[("PROPLET_NN_PRECISION", "f17")]);
    assert_eq!(wrong.code, Some(1));
    assert!(wrong.stderr.contains("PROPLET_NN_PRECISION"), "{}", wrong.stderr);
}
