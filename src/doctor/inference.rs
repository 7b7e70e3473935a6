//! The native library, and real tasks: one that prints, one that infers.

use super::Finding;
use crate::config::Config;
use crate::nn::{BackendName, Library, Nn, Operators, PROBED};
use crate::policy::Policy;
use crate::runtime::{Runtime, THREAD_STACK};
use crate::task::{Binary, ModuleSource, Outcome, TaskId, TaskRequest};
use crate::worker;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// `fixtures/guests/wat/hello.wat`.
const HELLO: &[u8] = include_bytes!("hello.wasm");
/// `fixtures/guests/wat/nn-self-test.wat` and `nn-self-test-onnx.wat`, by the
/// encoding of the model that they carry with them, so that no file has to be
/// anywhere.
const SELF_TESTS: [(&str, &[u8]); 2] = [
    ("openvino", include_bytes!("self-test.wasm")),
    ("onnx", include_bytes!("self-test-onnx.wasm")),
];
/// What they print.
const ANSWER: &[u8] = b"2\n0\n6\n4\n";

/// Whether each backend is there. `named` says that a setting names OpenVINO.
pub(super) fn libraries(nn: &Nn, named: bool) -> Vec<Finding> {
    // A build without a backend has said so.
    let libraries = nn.libraries().into_iter();
    libraries.map(|(backend, library)| library_of(nn, backend, library, named)).collect()
}

fn library_of(
    nn: &Nn,
    backend: &'static str,
    library: Result<Library, String>,
    named: bool,
) -> Finding {
    let openvino = backend == BackendName::OpenVino.name();
    let title = if openvino { "OpenVINO" } else { backend };
    let library = match library {
        Ok(library) => library,
        Err(e) if openvino && named => {
            return Finding::failed(
                title,
                format!(
                    "{e}; correct PROPLET_OPENVINO_LIB, or take it out to have the usual places searched"
                ),
            );
        }
        Err(e) if openvino => {
            let places = nn.openvino_places().into_iter();
            let places = places.map(|place| place.display().to_string()).collect();
            return Finding::failed(title, e).with(places);
        }
        Err(e) => return Finding::failed(title, e),
    };
    let found = match &library.path {
        Some(path) => format!("{} at {}", library.version, path.display()),
        None => format!("{}, a part of this program", library.version),
    };
    match nn.devices(backend) {
        Ok(devices) if devices.iter().any(|device| device == "CPU") => {
            Finding::ok(title, format!("{found}; devices: {}", devices.join(", ")))
        }
        Ok(devices) => Finding::failed(
            title,
            format!(
                "{found} has no device CPU (it has {}): its plugin \
                 `libopenvino_intel_cpu_plugin` or `libopenvino_arm_cpu_plugin` must lie \
                 beside it",
                if devices.is_empty() { "none".into() } else { devices.join(", ") }
            ),
        ),
        Err(e) => Finding::failed(title, format!("{found} lists no devices: {e}")),
    }
}

/// What holds of models that tasks hand over, with the OpenVINO that is there.
pub(super) fn operators(nn: &Nn, operators: Operators) -> Vec<Finding> {
    let libraries = nn.libraries().into_iter().filter_map(|(_, library)| library.ok());
    let openvino = libraries.filter(|library| library.backend == BackendName::OpenVino.name());
    openvino.map(|library| operators_of(&library.version, operators)).collect()
}

fn operators_of(version: &str, operators: Operators) -> Finding {
    let title = "operators";
    if operators == Operators::All {
        return Finding::warning(
            title,
            "--nn-operators=all: models are not held to the list of operators. A model that a \
             guest supplies can read this process's memory and crash it: take the setting \
             out unless every model is known, or set --nn-load-bytes=false",
        );
    }
    // What follows is the build.
    match version.split('-').next() == Some(PROBED) {
        true => Finding::ok(title, format!("held to the list that was made for OpenVINO {PROBED}")),
        false => Finding::warning(
            title,
            format!(
                "the list that models are held to was made from a probe of OpenVINO {PROBED}, and \
                 this is {version}: its operators may do otherwise. Install {PROBED}, or see \
                 CONTRIBUTING.md on how to probe another one"
            ),
        ),
    }
}

/// Runs tasks, under the limits and with the directories that a manager's would
/// have.
pub(super) async fn tasks(config: &Config, policy: &Policy, nn: &Nn) -> Vec<Finding> {
    let runtime = match Runtime::new(&worker::runtime_config(config), nn.clone()) {
        Ok(runtime) => Arc::new(runtime),
        Err(e) => return vec![Finding::failed("a task", format!("no task can run: {e:#}"))],
    };
    let (hello, took) = run(&runtime, policy, HELLO, &[]).await;
    let mut findings = vec![match hello {
        Ok(_) => Finding::ok("a task", format!("a task ran, in {} ms", took.as_millis())),
        Err(e) => Finding::failed("a task", format!("a task that only prints fails: {e}")),
    }];
    for (encoding, guest) in SELF_TESTS {
        // Why there is no library has been said.
        if !nn.serves(encoding) {
            continue;
        }
        let task = format!("a task with a built-in model ({encoding})");
        let (inferred, took) = run(&runtime, policy, guest, &["-S", "nn"]).await;
        findings.push(match inferred {
            Ok(outcome) if outcome.stdout.bytes == ANSWER => Finding::ok(
                "inference",
                format!(
                    "{task} gave the right answer, in {} ms on {}",
                    took.as_millis(),
                    outcome.backends.join(", ")
                ),
            ),
            Ok(outcome) => Finding::failed(
                "inference",
                format!(
                    "{task} gave {:?} and not {:?}: {} computes wrongly on this machine; another \
                     version of it may not",
                    String::from_utf8_lossy(&outcome.stdout.bytes),
                    String::from_utf8_lossy(ANSWER),
                    outcome.backends.join(", ")
                ),
            ),
            Err(e) => Finding::failed("inference", format!("{task} fails: {e}")),
        });
    }
    findings
}

async fn run(
    runtime: &Arc<Runtime>,
    policy: &Policy,
    module: &'static [u8],
    cli_args: &[&str],
) -> (Result<Outcome, String>, Duration) {
    let began = Instant::now();
    let ended = admitted(policy, module, cli_args);
    let ended = match ended {
        Ok(spec) => {
            let (runtime, tokio) = (runtime.clone(), tokio::runtime::Handle::current());
            let (sender, receiver) = tokio::sync::oneshot::channel();
            let thread = std::thread::Builder::new().stack_size(THREAD_STACK).spawn(move || {
                let _entered = tokio.enter();
                // Whoever asked is gone.
                sender.send(runtime.run(&spec, &Arc::default())).ok();
            });
            match thread {
                Err(e) => Err(format!("no thread of {THREAD_STACK} bytes of stack: {e}")),
                Ok(_) => receiver.await.map_err(|_| "the worker's own code panicked".to_owned()),
            }
        }
        Err(e) => Err(e),
    };
    let ended = ended.and_then(|outcome| match &outcome.verdict {
        Ok(()) => Ok(outcome),
        Err(failure) => {
            let mut text = failure.to_string();
            for more in &outcome.diagnostics {
                text.push_str("; ");
                text.push_str(more);
            }
            Err(text)
        }
    });
    (ended, began.elapsed())
}

fn admitted(
    policy: &Policy,
    module: &'static [u8],
    cli_args: &[&str],
) -> Result<crate::task::TaskSpec, String> {
    let request = TaskRequest {
        module: Some(ModuleSource::Bytes(Binary::new(module))),
        cli_args: cli_args.iter().map(|arg| (*arg).to_owned()).collect(),
        ..TaskRequest::new(TaskId::new("doctor").map_err(|e| e.to_string())?)
    };
    policy.admit(request).map_err(|e| e.to_string())
}

/// Loads the graphs of the configuration.
pub(super) async fn graphs(config: &Config, policy: &Policy, nn: &Nn) -> Vec<Finding> {
    let mut findings = Vec::new();
    let none = nn.encodings().is_empty();
    if !none && !nn.libraries().iter().any(|(_, library)| library.is_ok()) {
        return findings;
    }
    for graph in &config.nn_graphs {
        if let Err(e) = policy.trusted_graph(&graph.encoding, &graph.dir) {
            findings.push(Finding::failed("graphs", format!("PROPLET_NN_GRAPHS: {e}")));
        }
    }
    let nn = nn.clone();
    let loading = tokio::task::spawn_blocking(move || {
        let mut loaded = Vec::new();
        nn.preload(|graph, outcome| {
            loaded.push(match outcome {
                Ok(()) => Finding::ok(
                    "graphs",
                    format!(
                        "tasks can load `{}` by name, from {}",
                        graph.name,
                        graph.dir.display()
                    ),
                ),
                Err(e) => Finding::failed("graphs", e),
            });
        });
        loaded
    });
    findings.extend(loading.await.unwrap_or_default());
    if none && !config.nn_graphs.is_empty() && findings.is_empty() {
        findings.push(Finding::failed("graphs", crate::nn::NO_BACKEND));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;
    use std::path::Path;

    #[test]
    fn another_version_than_the_probes_and_trust_in_all_models_are_said() {
        let probed = format!("{PROBED}-22982-e213a147257-releases/2026/4");
        let finding = operators_of(&probed, Operators::Checked);
        assert_eq!(finding.verdict, Verdict::Ok, "{}", finding.message);
        assert_eq!(operators_of(PROBED, Operators::Checked).verdict, Verdict::Ok);
        for other in ["2025.1.0-18503-6fec06580ab", "2026.4.10-1-x", "2026.4", "", "custom"] {
            let finding = operators_of(other, Operators::Checked);
            assert_eq!(finding.verdict, Verdict::Warning, "{other}");
            assert!(finding.message.contains(&format!("this is {other}")), "{}", finding.message);
        }
        let trusted = operators_of(&probed, Operators::All);
        assert_eq!(trusted.verdict, Verdict::Warning);
        assert!(trusted.message.contains("can read this process's memory"), "{}", trusted.message);
    }

    /// The guests and where they come from. To translate them again:
    /// `REBUILD_GUESTS=1 cargo test the_guests_are_what_their_sources_say`.
    #[test]
    fn the_guests_are_what_their_sources_say() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        for (source, name, bytes) in [
            ("hello", "hello", HELLO),
            ("nn-self-test", "self-test", SELF_TESTS[0].1),
            ("nn-self-test-onnx", "self-test-onnx", SELF_TESTS[1].1),
        ] {
            let source = root.join(format!("fixtures/guests/wat/{source}.wat"));
            let translated = wat::parse_file(&source).expect("valid text");
            if std::env::var_os("REBUILD_GUESTS").is_some() {
                let path = root.join(format!("src/doctor/{name}.wasm"));
                std::fs::write(path, &translated).expect("written");
            } else {
                assert!(translated == bytes, "{} has changed: rebuild", source.display());
            }
        }
    }
}
