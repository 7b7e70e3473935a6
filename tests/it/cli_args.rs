//! Every row of PROTOCOL.md's table of `cli_args`, through a worker.

use crate::support::{Answered, On, Stage, Task, Worker, over_both_brokers};
use serde_json::json;

over_both_brokers!(
    wasi_nn_is_switched_on_in_every_way_that_wasmtime_knows,
    the_last_switch_of_wasi_nn_wins,
    a_graph_asks_for_wasi_nn_and_needs_its_encoding,
    a_directory_is_given_in_every_way_that_wasmtime_knows,
    a_directory_outside_the_roots_is_refused,
    a_writable_root_can_be_written_to_and_others_can_not,
    without_a_directory_a_task_gets_those_of_the_setting,
    without_the_setting_a_task_gets_the_working_directory_to_read,
    variables_are_set_and_never_inherited,
    a_named_function_is_called_with_positional_values,
    a_tasks_name_is_a_label_or_an_export,
    limits_are_tightened,
    limits_are_never_loosened,
    durations_are_read_in_all_units,
    integers_are_read_as_wasmtime_reads_them,
    what_all_tasks_share_can_not_be_set_for_one,
    what_would_reach_the_host_is_refused,
    settings_of_the_engine_are_accepted_without_effect,
    what_is_unknown_is_named,
);

fn with_worker(on: On, settings: &[(&str, &str)]) -> (Stage, Worker) {
    let stage = Stage::new(on);
    let settings = [&[("executors", "1")], settings].concat();
    let worker = stage.worker(&settings);
    (stage, worker)
}

fn args<'a>(stage: &'a Stage, guest: &'a str) -> impl Fn(&[&str]) -> Answered + 'a {
    |args| stage.run(Task::wat(guest).args(args))
}

/// A guest that asks wasi-nn for a graph that is not there: what comes shows
/// whether wasi-nn is on.
const ASKS: &str = "nn-unknown-graph-name";

#[track_caller]
fn is_on(result: &Answered) {
    #[cfg(any(feature = "openvino", feature = "onnx"))]
    result.succeeded("errno 8\n");
    #[cfg(not(any(feature = "openvino", feature = "onnx")))]
    result.failed(&["this build has no wasi-nn backend", "cargo build --features openvino"]);
}

#[track_caller]
fn is_off(result: &Answered) {
    result.failed(&["imports wasi-nn, which the task forbids: take `-S nn=n` out of its cli_args"]);
}

fn ready() {
    #[cfg(feature = "openvino")]
    crate::support::assets();
}

fn wasi_nn_is_switched_on_in_every_way_that_wasmtime_knows(on: On) {
    ready();
    let (stage, _worker) = with_worker(on, &[]);
    let run = args(&stage, ASKS);
    let ways: &[&[&str]] = &[
        &["-S", "nn"],
        &["-Snn"],
        &["-S", "nn=y"],
        &["-S", "nn=yes"],
        &["-S", "nn=true"],
        &["-Snn=y"],
        &["--wasi", "nn"],
        &["--wasi=nn"],
        &["--wasi", "nn=y"],
        &["-S", "cli,nn"],
        &["-S", "preview2=n,nn"],
        &["--wasi-modules=experimental-wasi-nn"],
        &["--wasi-modules", "experimental-wasi-nn"],
        &["--wasi-modules=default,experimental-wasi-nn"],
    ];
    for way in ways {
        let result = run(way);
        println!("{way:?}: {}", result.0["error"]);
        is_on(&result);
    }
    // Importing it is asking for it: the manager may have lost the arguments.
    is_on(&stage.run(Task::wat(ASKS)));
    #[cfg(feature = "openvino")]
    is_on(&run(&["-S", "nn-graph=openvino::models/tiny"]));
    for way in ["nn=n", "nn=no", "nn=false"] {
        is_off(&run(&["-S", way]));
    }
}

fn the_last_switch_of_wasi_nn_wins(on: On) {
    ready();
    let (stage, _worker) = with_worker(on, &[]);
    let run = args(&stage, ASKS);
    is_off(&run(&["-S", "nn", "-S", "nn=n"]));
    is_on(&run(&["-S", "nn=n", "-S", "nn"]));
    is_off(&run(&["-S", "nn,nn=n"]));
    is_on(&run(&["-S", "nn=n,nn=y"]));
    run(&["-S", "nn=maybe"]).failed(&["nn", "maybe"]);
}

fn a_graph_asks_for_wasi_nn_and_needs_its_encoding(on: On) {
    let (stage, _worker) = with_worker(on, &[]);
    let run = args(&stage, "hello");
    run(&["-S", "nn=n,nn-graph=openvino::models/tiny"]).failed(&["nn-graph", "`-S nn=n` forbids"]);
    run(&["-S", "nn,nn-graph=models/tiny"]).failed(&["nn-graph", "models/tiny"]);
    run(&["-S", "nn,nn-graph=openvino::/etc"]).failed(&["/etc", "outside the allowed"]);
    run(&["-S", "nn,nn-graph=openvino::models/none"]).failed(&["models/none", "does not exist"]);
}

fn a_directory_is_given_in_every_way_that_wasmtime_knows(on: On) {
    let (stage, _worker) = with_worker(on, &[]);
    let fixtures = crate::support::fixtures();
    let absolute = format!("--dir={}/files::d", fixtures.display());
    let ways: &[&[&str]] = &[
        &["--dir", "files"],
        &["--dir=files"],
        &["--dir", "files::d"],
        &["--dir=files::d"],
        &["--dir=./files::d"],
        &["--dir=guests/../files"],
        &["--mapdir", "d::files"],
        &["--mapdir=d::files"],
        &[&absolute],
    ];
    let expected = std::fs::read_to_string(fixtures.join("files/rain.csv")).expect("a file");
    for way in ways {
        let result = stage.run(Task::wat("cat").args(way).inputs(&["rain.csv"]));
        println!("{way:?}: {}", result.0["error"]);
        result.succeeded(&expected);
    }
    stage.run(Task::wat("cat").args(&["--dir=none"])).failed(&["none", "does not exist"]);
    stage
        .run(Task::wat("cat").args(&["--dir=files/rain.csv"]))
        .failed(&["files/rain.csv", "not a directory"]);
}

fn a_directory_outside_the_roots_is_refused(on: On) {
    let outside = tempfile::tempdir().expect("a directory");
    let inside = tempfile::tempdir().expect("a directory");
    std::os::unix::fs::symlink(outside.path(), inside.path().join("out")).expect("linked");
    let root = inside.path().to_str().expect("text");
    let (stage, _worker) = with_worker(on, &[("dirs", root)]);
    let run = args(&stage, "hello");
    run(&["--dir", root]).succeeded("hello\n");
    let link = format!("{root}/out");
    let up = format!("{root}/..");
    for dir in ["/etc", "/", ".", "files", &link, &up, outside.path().to_str().expect("text")] {
        let result = run(&["--dir", dir]);
        result.failed(&[dir, "outside the allowed directories", root, "PROPLET_DIRS"]);
    }
}

fn a_writable_root_can_be_written_to_and_others_can_not(on: On) {
    let dirs = [(); 2].map(|()| tempfile::tempdir().expect("a directory"));
    let [read, write] = dirs.each_ref().map(|dir| dir.path().to_str().expect("text"));
    let (stage, _worker) = with_worker(on, &[("dirs", &format!("{read}:{write}:rw"))]);
    let run = |dir: &str| {
        let dir = format!("--dir={dir}::d");
        stage.run(Task::wat("write-file").args(&[&dir]).inputs(&["new"]))
    };
    run(write).succeeded("ok\n");
    assert_eq!(std::fs::read(dirs[1].path().join("new")).expect("there"), b"written\n");
    run(read).failed(&["exited with code 1", "errno"]);
    assert!(!dirs[0].path().join("new").exists());
}

fn without_a_directory_a_task_gets_those_of_the_setting(on: On) {
    let first = tempfile::tempdir().expect("a directory");
    let second = tempfile::tempdir().expect("a directory");
    for dir in [&first, &second] {
        let text = dir.path().to_str().expect("text");
        std::fs::write(dir.path().join("name"), text).expect("written");
    }
    let [a, b] = [&first, &second].map(|dir| dir.path().to_str().expect("text"));
    // One that is missing is passed over, with a warning in the log.
    let (stage, _worker) = with_worker(on, &[("dirs", &format!("{a}:/missing/for/good:{b}:rw"))]);
    // The guest reads below the first directory that it has.
    stage.run(Task::wat("cat").inputs(&["name"])).succeeded(a);
    stage.run(Task::wat("cat").args(&["--dir", b]).inputs(&["name"])).succeeded(b);
    stage.run(Task::wat("write-file").inputs(&["name"])).failed(&["errno"]);
}

fn without_the_setting_a_task_gets_the_working_directory_to_read(on: On) {
    let (stage, _worker) = with_worker(on, &[]);
    let expected = std::fs::read_to_string(crate::support::fixtures().join("files/rain.csv"));
    let read = Task::wat("cat").inputs(&["files/rain.csv"]);
    stage.run(read).succeeded(&expected.expect("a file"));
    stage.run(Task::wat("write-file").inputs(&["new"])).failed(&["errno"]);
    assert!(!crate::support::fixtures().join("new").exists());
}

fn variables_are_set_and_never_inherited(on: On) {
    let (stage, _worker) = with_worker(on, &[]);
    let run = args(&stage, "echo-env");
    // Which worker it is on is all that a guest is told unasked.
    let own = format!("PROPLET_ID={}\n", stage.worker_id);
    run(&[]).succeeded(&own);
    let set = run(&["--env", "A=1", "--env=B=2=3", "--env", "C="]);
    set.succeeded(&format!("A=1\nB=2=3\nC=\n{own}"));
    for name in ["PATH", "PROPLET_CLIENT_KEY", "NOT_SET_ANYWHERE"] {
        run(&["--env", name]).failed(&[&format!("--env {name}"), "worker's own environment"]);
    }
    run(&["-S", "inherit-env"]).failed(&["inherit-env"]);
    // The task's own reaches the guest, and the flag wins.
    let task = Task::wat("echo-env").env("A", "task").env("LD_LIBRARY_PATH", "/x");
    let result = stage.run(task.clone().args(&["--env", "A=flag"]));
    result.succeeded(&format!("A=flag\nLD_LIBRARY_PATH=/x\n{own}"));
    // What the shell-out worker inherited was the task's own.
    let inherited = stage.run(task.args(&["--env", "A"]));
    inherited.succeeded(&format!("A=task\nLD_LIBRARY_PATH=/x\n{own}"));
    // What a workflow's earlier tasks gave.
    let parents = json!({ "task-1": "4\n", "task-2": { "n": [1, 2.5] } });
    let task = Task::wat("echo-env").set("parent_results", parents.clone());
    stage.run(task).succeeded(&format!("PARENT_RESULTS={parents}\n{own}"));
}

fn a_named_function_is_called_with_positional_values(on: On) {
    let (stage, _worker) = with_worker(on, &[]);
    let invoke = |name: &str, inputs: &[&str]| {
        stage.run(Task::wat("reactor").args(&["--invoke", name]).inputs(inputs))
    };
    invoke("add", &["2", "-3"]).succeeded("-1\n");
    invoke("add64", &["9223372036854775807", "1"]).succeeded("-9223372036854775808\n");
    invoke("addf32", &["0.5", "0.25"]).succeeded("0.75\n");
    invoke("addf64", &["1e3", "0.5"]).succeeded("1000.5\n");
    invoke("divmod", &["7", "2"]).succeeded("3\n1\n");
    invoke("initialized", &[]).succeeded("1\n");
    invoke("fail", &[]).failed(&["unreachable"]);
    invoke("quit", &[]).failed(&["exited with code 7"]);
    invoke("add", &["1"]).failed(&["`add`", "2 values", "1 inputs"]);
    invoke("add", &["1", "x"]).failed(&["`x`", "i32"]);
    invoke("nope", &[]).failed(&["`--invoke nope`", "`add`"]);
    let equals = Task::wat("reactor").args(&["--invoke=add"]).inputs(&["1", "1"]);
    stage.run(equals).succeeded("2\n");
}

fn a_tasks_name_is_a_label_or_an_export(on: On) {
    let (stage, _worker) = with_worker(on, &[]);
    let named = |name: &str, args: &[&str]| {
        stage.run(Task::wat("named-export").set("name", name).args(args))
    };
    named("anything", &[]).succeeded("_start\n");
    named("", &[]).succeeded("_start\n");
    named("classify", &[]).succeeded("classify\n");
    named("_start", &["--invoke", "classify"]).succeeded("classify\n");
    stage.run(Task::wat("default-export")).succeeded("default\n");
    // A label is no export of another kind.
    stage.run(Task::wat("hello").set("name", "memory")).succeeded("hello\n");
}

fn limits_are_tightened(on: On) {
    let (stage, _worker) = with_worker(on, &[("task-memory", "64MiB")]);
    let result = args(&stage, "loop-forever")(&["-W", "timeout=100ms"]);
    result.failed(&["timeout", "100ms"]);
    let pages = |args: &[&str]| -> u64 {
        let result = stage.run(Task::wat("memory-bomb").args(args));
        result.stdout().trim().trim_start_matches("pages ").parse().expect("a number")
    };
    let worker = pages(&[]);
    assert!((1..=1024).contains(&worker), "{worker}");
    let tighter = pages(&["-W", "max-memory-size=16777216"]);
    assert!((1..=256).contains(&tighter), "{tighter}");
    assert_eq!(pages(&["--wasm", "max-memory-size=16777216"]), tighter);
}

fn limits_are_never_loosened(on: On) {
    let (stage, worker) = with_worker(on, &[("task-timeout", "100ms")]);
    let result = stage.run(Task::wat("loop-forever").args(&["-W", "timeout=1000"]));
    result.failed(&["timeout", "100ms"]);
    stage.run(Task::wat("loop-forever")).failed(&["timeout", "100ms"]);
    drop(worker);
    // These are to come to their end.
    let (stage, _worker) = with_worker(on, &[("task-memory", "16MiB")]);
    let result = stage.run(Task::wat("memory-bomb").args(&["-W", "max-memory-size=1073741824"]));
    let pages: u64 = result.stdout().trim().trim_start_matches("pages ").parse().expect("a number");
    assert!(pages <= 256, "{pages}");
    let large = stage.run(Task::wat("memory-large"));
    large.failed(&["a memory of 1024.0 MiB from its start: a task may have 16.0 MiB"]);
}

fn durations_are_read_in_all_units(on: On) {
    let (stage, _worker) = with_worker(on, &[]);
    let run = args(&stage, "loop-forever");
    for duration in ["1", "1s", "120ms", "120000us", "120000000ns"] {
        run(&["-W", &format!("timeout={duration}")]).failed(&["timeout"]);
    }
    for duration in ["0", "5parsecs", "", "-1", "ms"] {
        run(&["-W", &format!("timeout={duration}")]).failed(&["timeout", duration]);
    }
}

fn integers_are_read_as_wasmtime_reads_them(on: On) {
    let (stage, _worker) = with_worker(on, &[]);
    let run = args(&stage, "memory-bomb");
    let pages = run(&["-W", "max-memory-size=0x100_0000"]).stdout().to_owned();
    assert_eq!(run(&["-W", "max-memory-size=16_777_216"]).stdout(), pages);
    assert_eq!(run(&["-W", "max-memory-size=16777216"]).stdout(), pages);
    run(&["-W", "max-memory-size=much"]).failed(&["max-memory-size", "much"]);
}

fn what_all_tasks_share_can_not_be_set_for_one(on: On) {
    let (stage, _worker) = with_worker(on, &[]);
    let run = args(&stage, "hello");
    run(&["-W", "fuel=1000"]).failed(&["fuel", "`-W timeout=DURATION`"]);
    let stack = proplet::runtime::MAX_WASM_STACK;
    run(&["-W", &format!("max-wasm-stack={stack}")]).succeeded("hello\n");
    // PROTOCOL.md: accepted if it is not below the worker's.
    run(&["-W", &format!("max-wasm-stack={}", 4 * stack)]).succeeded("hello\n");
    run(&["-W", "max-wasm-stack=1000"]).failed(&["max-wasm-stack=1000"]);
}

fn what_would_reach_the_host_is_refused(on: On) {
    let (stage, _worker) = with_worker(on, &[]);
    let run = args(&stage, "hello");
    let options = [
        "inherit-env",
        "inherit-network",
        "tcp",
        "udp",
        "tls",
        "allow-ip-name-lookup",
        "listenfd",
        "tcplisten=127.0.0.1:80",
    ];
    for option in options {
        let name = option.split('=').next().expect("a name");
        run(&["-S", option]).failed(&[name, "reach the host"]);
    }
    run(&["-S", "tcp=n,udp=n,inherit-network=n"]).succeeded("hello\n");
}

fn settings_of_the_engine_are_accepted_without_effect(on: On) {
    let (stage, _worker) = with_worker(on, &[]);
    let run = args(&stage, "hello");
    let ways: &[&[&str]] = &[
        &["-O", "opt-level=2"],
        &["-Oopt-level=s,dynamic-memory-guard-size=4"],
        &["--optimize", "opt-level=2"],
        &["-C", "cache=n"],
        &["-C", "compiler=cranelift,parallel-compilation=n"],
        &["--codegen=cranelift-debug-verifier"],
        &["-D", "debug-info"],
        &["--debug=log-to-files"],
    ];
    for way in ways {
        let result = run(way);
        println!("{way:?}: {}", result.0["error"]);
        result.succeeded("hello\n");
    }
}

/// Over the embedded broker alone: the log is the program's own.
#[test]
fn settings_of_the_engine_are_mentioned_in_the_log_at_debug_level() {
    let stage = Stage::new(On::Embedded);
    let worker = stage.process(&[("log-level", "debug")]);
    stage.run(Task::wat("hello").args(&["-O", "opt-level=2"])).succeeded("hello\n");
    let line = worker.logs("opt-level=2");
    assert!(line.contains("DEBUG"), "{line}");
}

fn what_is_unknown_is_named(on: On) {
    let (stage, _worker) = with_worker(on, &[]);
    let run = args(&stage, "hello");
    let cases: &[(&[&str], &str)] = &[
        (&["--dirs=x"], "--dirs"),
        (&["-X", "y"], "-X"),
        (&["-S", "nnn"], "nnn"),
        (&["-W", "time=1"], "time"),
        (&["--fuel", "100"], "--fuel"),
        (&["guest.wasm"], "guest.wasm"),
        (&["run"], "run"),
        (&["--"], "--"),
        (&["--", "a"], "a"),
        (&["--dir"], "--dir"),
        (&["--env"], "--env"),
        (&["-S"], "-S"),
        (&["-S", ""], "-S"),
        (&["--invoke"], "--invoke"),
        (&[""], "argument"),
    ];
    for (args, expected) in cases {
        let result = run(args);
        println!("{args:?}: {}", result.0["error"]);
        if *args != ["--"] {
            result.failed(&[expected]);
        }
    }
    run(&["-S", "help"]).failed(&["-S help"]);
    run(&["--help"]).failed(&["--help"]);
}
