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
use crate::support::{Bench, assets, fixtures, stdout, wat};
use attack::{Victim, attempts};
#[cfg(feature = "openvino")]
use proplet::host::confine::GrantedRoot;
use proplet::host::confine::{self, Confinement};
#[cfg(feature = "openvino")]
use proplet::nn::{Nn, NnConfig, OpenVinoConfig};
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
    let openvino = OpenVinoConfig { library: Some(openvino), ..OpenVinoConfig::default() };
    let bench = Bench::with_nn(Nn::new(NnConfig {
        openvino,
        cache_bytes: 64 << 20,
        model_bytes: 64 << 20,
        ..NnConfig::default()
    }));
    let bench = bench.root(&models, false).root(&output, true);
    // It reads the model and its input through a preopen.
    let dir = format!("--dir={}::fixture", models.join("mobilenet").display());
    let classified = bench.guest(module).cli_args(&["-S", "nn", &dir]).run();
    assert!(stdout(&classified).contains("Found results, sorted top 5"));
    let dir = format!("--dir={}", output.display());
    let wrote = bench.guest(writer).cli_args(&[&dir]).inputs(&["new"]).run();
    assert_eq!(stdout(&wrote), "ok\n");
}
