//! What a confined process can't reach, and that guests and models run in it
//! all the same. The test program is started once more and confines itself.

#[allow(
    unsafe_code,
    clippy::undocumented_unsafe_blocks,
    reason = "an attacker's own system calls; the standard library has none of them"
)]
#[path = "confinement/attack.rs"]
mod attack;

#[cfg(feature = "openvino")]
use crate::isolation::{guest_runs, runtimes};
#[cfg(feature = "openvino")]
use crate::support::{Bench, On, Stage, Task, assets, fixtures, stdout, wat};
use attack::{Victim, attempts};
#[cfg(feature = "openvino")]
use proplet::host::confine::GrantedRoot;
use proplet::host::confine::{self, Confinement};
#[cfg(feature = "openvino")]
use proplet::host::memory;
#[cfg(feature = "openvino")]
use proplet::nn::{Nn, NnConfig, NnLimits, OpenVinoConfig};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
#[cfg(feature = "openvino")]
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Starts the test `name` of this file, which is ignored otherwise, in a process
/// of its own.
fn start(name: &str, variables: &[(&str, String)]) -> Output {
    Command::new(std::env::current_exe().expect("this program"))
        .args(["--ignored", "--exact", "--nocapture", "--test-threads=1"])
        .arg(format!("confinement::{name}"))
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .output()
        .expect("this program starts")
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: another test starts this"))
}

#[track_caller]
fn succeeded(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{:?}\n{said}\n{errors}", output.status);
    assert!(said.contains("1 passed"), "it ran no test: {said}");
    said
}

#[test]
fn a_confined_process_reaches_nothing_of_the_worker_and_starts_nothing() {
    let state = tempfile::tempdir().expect("a directory");
    let secret = state.path().join("journal");
    std::fs::write(&secret, "secret").expect("written");
    let port = TcpListener::bind("127.0.0.1:0").expect("a port");
    let socket = state.path().join("socket");
    let _listener = UnixListener::bind(&socket).expect("a socket");
    let memory = String::from("secret").leak();
    let output = start(
        "everything_is_tried",
        &[
            ("VICTIM_PID", std::process::id().to_string()),
            ("VICTIM_SECRET", secret.display().to_string()),
            ("VICTIM_ELSEWHERE", state.path().display().to_string()),
            ("VICTIM_PORT", port.local_addr().expect("bound").port().to_string()),
            ("VICTIM_SOCKET", socket.display().to_string()),
            ("VICTIM_ADDRESS", memory.as_ptr().addr().to_string()),
        ],
    );
    succeeded(&output);
}

#[test]
#[ignore = "confines the process that it runs in; the test above starts it in one of its own"]
fn everything_is_tried() {
    let victim = Victim {
        pid: variable("VICTIM_PID").parse().expect("a number"),
        secret: variable("VICTIM_SECRET").into(),
        elsewhere: variable("VICTIM_ELSEWHERE").into(),
        port: variable("VICTIM_PORT").parse().expect("a number"),
        socket: variable("VICTIM_SOCKET").into(),
        address: variable("VICTIM_ADDRESS").parse().expect("a number"),
    };
    // All of it is possible before, or a failure after it would show nothing;
    // a user other than root may not read the memory of any process, and a
    // container's own filter may forbid more.
    let could: Vec<_> = attempts(&victim)
        .into_iter()
        .filter_map(|(attempt, result)| Some((attempt, result.ok()?)))
        .collect();
    println!("before: {could:?}");
    for needed in
        ["read the state", "read its command line", "signal it", "connect", "start a program"]
    {
        assert!(could.iter().any(|(attempt, _)| *attempt == needed), "{needed}: {could:?}");
    }
    let warnings = confine::apply(&Confinement::default()).expect("confined");
    assert_eq!(warnings, [] as [String; 0], "this test needs Landlock and seccomp");
    attack::needs().expect("threads, memory and its own entries");
    let can: Vec<_> = attempts(&victim).into_iter().filter(|(_, result)| result.is_ok()).collect();
    assert!(can.is_empty(), "{can:?}");
}

#[cfg(feature = "openvino")]
#[test]
fn guests_and_models_run_in_a_confined_process() {
    let output = tempfile::tempdir().expect("a directory");
    let models = assets().join("fixtures");
    let out = output.path().canonicalize().expect("a directory");
    let ran = start(
        "a_guest_and_a_model_run",
        &[("MODELS", models.display().to_string()), ("OUTPUT", out.display().to_string())],
    );
    succeeded(&ran);
    assert_eq!(std::fs::read(out.join("new")).expect("what the guest wrote"), b"written\n");
}

#[cfg(feature = "openvino")]
#[test]
#[ignore = "confines the process that it runs in; the test above starts it in one of its own"]
fn a_guest_and_a_model_run() {
    let (models, output) = (PathBuf::from(variable("MODELS")), PathBuf::from(variable("OUTPUT")));
    let root = |path: &Path, writable| GrantedRoot { path: path.to_owned(), writable };
    let openvino = models.parent().expect("the build folder").join("openvino/libs");
    let confinement = Confinement {
        roots: vec![root(&models, false), root(&output, true)],
        libraries: vec![openvino.clone()],
        ..Confinement::default()
    };
    let module = std::fs::read(fixtures().join("guests/bin/classification.wasm")).expect("built");
    let writer = wat("write-file");
    let warnings = confine::apply(&confinement).expect("confined");
    assert_eq!(warnings, [] as [String; 0]);
    let bench = bench(openvino).root(&models, false).root(&output, true);
    // It reads the model and its input through a preopen.
    let dir = format!("--dir={}::fixture", models.join("mobilenet").display());
    let classified = bench.guest(module).cli_args(&["-S", "nn", &dir]).run();
    assert!(stdout(&classified).contains("Found results, sorted top 5"));
    let dir = format!("--dir={}", output.display());
    let wrote = bench.guest(writer).cli_args(&[&dir]).inputs(&["new"]).run();
    assert_eq!(stdout(&wrote), "ok\n");
}

/// ARCHITECTURE.md, case 63.
#[cfg(feature = "openvino")]
#[test]
fn an_inference_that_takes_14_gigabytes_is_its_tasks_error_and_the_next_one_runs() {
    let folder = tempfile::tempdir().expect("a directory");
    huge_model(folder.path());
    let models = assets().join("fixtures");
    let folder = folder.path().canonicalize().expect("a directory");
    let variables =
        [("MODELS", models.display().to_string()), ("HUGE", folder.display().to_string())];
    succeeded(&start("a_model_takes_all_memory", &variables));
}

#[cfg(feature = "openvino")]
#[test]
#[ignore = "limits the process that it runs in; the test above starts it in one of its own"]
fn a_model_takes_all_memory() {
    let (models, folder) = (PathBuf::from(variable("MODELS")), PathBuf::from(variable("HUGE")));
    let openvino = models.parent().expect("the build folder").join("openvino/libs");
    let bench = bench(openvino).root(&folder, false).root(fixtures().join("models"), false);
    let run = |graph: &str| {
        let graph = format!("nn,nn-graph=openvino::{graph}");
        let name = graph.rsplit('/').next().expect("a name").to_owned();
        bench.wat("nn-tiny").cli_args(&["-S", &graph]).inputs(&[&name]).run()
    };
    memory::enforce(std::process::id(), 1 << 30).expect("limited");
    let huge = run(folder.join("huge").to_str().expect("text"));
    println!("{:?} {:?}", huge.verdict, huge.diagnostics);
    // In words of its own, which the backend hands on.
    assert!(format!("{huge:?}").contains("Failed to allocate 14400000000 bytes"), "{huge:?}");
    assert_eq!(stdout(&run("models/tiny")), "2\n0\n6\n4\n");
}

/// A model `huge` in `folder`: `x`, four numbers, 900 million times, and the
/// largest of each: 14.4 GB in between.
#[cfg(feature = "openvino")]
fn huge_model(folder: &Path) -> PathBuf {
    const ROWS: i64 = 900_000_000;
    let weights: Vec<u8> = [ROWS, 4, 0].into_iter().flat_map(i64::to_le_bytes).collect();
    let port = |id: u32, precision: &str, dims: &[i64]| {
        let dims: String = dims.iter().map(|dim| format!("<dim>{dim}</dim>")).collect();
        format!(r#"<port id="{id}" precision="{precision}">{dims}</port>"#)
    };
    let layer = |id: u32, kind: &str, data: &str, inputs: &[String], output: Option<String>| {
        let inputs = match inputs {
            [] => String::new(),
            inputs => format!("<input>{}</input>", inputs.concat()),
        };
        let output = output.map(|port| format!("<output>{port}</output>")).unwrap_or_default();
        format!(
            r#"<layer id="{id}" name="l{id}" type="{kind}" version="opset1"><data {data}/>{inputs}{output}</layer>"#
        )
    };
    let edge = |from: u32, port: u32, to: u32, at: u32| {
        format!(r#"<edge from-layer="{from}" from-port="{port}" to-layer="{to}" to-port="{at}"/>"#)
    };
    let (few, many) = ([1, 4], [ROWS, 4]);
    let constant = |id, count: i64, offset| {
        let data =
            format!(r#"element_type="i64" shape="{count}" offset="{offset}" size="{}""#, count * 8);
        layer(id, "Const", &data, &[], Some(port(0, "I64", &[count])))
    };
    let layers = [
        layer(
            0,
            "Parameter",
            r#"shape="1,4" element_type="f32""#,
            &[],
            Some(port(0, "FP32", &few)),
        ),
        constant(1, 2, 0),
        layer(
            2,
            "Broadcast",
            r#"mode="numpy""#,
            &[port(0, "FP32", &few), port(1, "I64", &[2])],
            Some(port(2, "FP32", &many)),
        ),
        constant(3, 1, 16),
        layer(
            4,
            "ReduceMax",
            r#"keep_dims="true""#,
            &[port(0, "FP32", &many), port(1, "I64", &[1])],
            Some(port(2, "FP32", &few)),
        ),
        layer(5, "Result", "", &[port(0, "FP32", &few)], None),
    ];
    let edges = [(0, 0, 2, 0), (1, 0, 2, 1), (2, 2, 4, 0), (3, 0, 4, 1), (4, 2, 5, 0)];
    let edges: String = edges.into_iter().map(|(a, b, c, d)| edge(a, b, c, d)).collect();
    let description = format!(
        r#"<?xml version="1.0"?><net name="huge" version="11"><layers>{}</layers><edges>{edges}</edges></net>"#,
        layers.concat()
    );
    let huge = folder.join("huge");
    std::fs::create_dir(&huge).expect("made");
    std::fs::write(huge.join("model.xml"), description).expect("written");
    std::fs::write(huge.join("model.bin"), weights).expect("written");
    huge
}

#[cfg(feature = "openvino")]
fn bench(openvino: PathBuf) -> Bench {
    let openvino = OpenVinoConfig { library: Some(openvino), ..OpenVinoConfig::default() };
    Bench::with_nn(Nn::new(NnConfig {
        openvino,
        cache_bytes: 64 << 20,
        model_bytes: 64 << 20,
        // What the library asks for is to be refused by the system here.
        limits: NnLimits { tensor_bytes: 1 << 40, ..NnLimits::default() },
        ..NnConfig::default()
    }))
}

/// ARCHITECTURE.md, case 63: the worker limits its runtime.
#[cfg(feature = "openvino")]
#[test]
fn a_workers_runtime_has_no_more_memory_than_it_may() {
    let folder = tempfile::tempdir().expect("a directory");
    let huge = huge_model(folder.path());
    let stage = Stage::new(On::Embedded);
    let dirs = format!("{}:{}", folder.path().display(), fixtures().join("models").display());
    let _worker = stage.worker(&[
        ("dirs", &dirs),
        ("runtime-memory", "1GiB"),
        // Else the model is refused before it is compiled.
        ("task-tensor-memory", "64GiB"),
        ("isolation", "process"),
    ]);
    let run = |graph: &Path, name: &str| {
        let graph = format!("nn,nn-graph=openvino::{}", graph.display());
        stage.run(Task::wat("nn-tiny").args(&["-S", &graph]).inputs(&[name]))
    };
    run(&huge, "huge").failed(&["Failed to allocate 14400000000 bytes"]);
    assert_eq!(run(&fixtures().join("models/tiny"), "tiny").stdout(), "2\n0\n6\n4\n");
}

/// Others may have had what it lacked, so it is tried without them.
#[cfg(feature = "openvino")]
#[test]
fn what_lacks_memory_beside_others_runs_again_alone() {
    let folder = tempfile::tempdir().expect("a directory");
    let huge = huge_model(folder.path());
    let stage = Stage::new(On::Embedded);
    let worker = stage.process(&[
        ("dirs", folder.path().to_str().expect("text")),
        ("executors", "2"),
        ("isolation", "process"),
        ("runtime-memory", "1GiB"),
        ("task-tensor-memory", "64GiB"),
    ]);
    let other = stage.start(Task::wat("loop-forever"));
    guest_runs(runtimes(&worker)[0]);
    let graph = format!("nn,nn-graph=openvino::{}", huge.display());
    let lacking = stage.run(Task::wat("nn-tiny").args(&["-S", &graph]).inputs(&["huge"]));
    lacking.failed(&["Failed to allocate 14400000000 bytes"]);
    worker.logs("no memory left beside other tasks: the task runs again, alone");
    stage.stop(&other);
    stage.result(&other).failed(&["stopped"]);
}
