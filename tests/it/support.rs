//! What the tests share: where the fixtures are, running a guest without a
//! worker ([`Bench`]), and with all of it ([`Stage`]).

#[cfg(any(feature = "openvino", feature = "onnx", feature = "pytorch"))]
mod assets;
mod call;
mod certificates;
mod docker_registry;
mod fluxmq;
mod image_proxy;
mod listener;
mod net;
mod round_services;
mod stage;
mod task;
mod worker;

#[cfg(any(feature = "openvino", feature = "onnx", feature = "pytorch"))]
pub(crate) use assets::assets;
pub use call::Call;
pub use certificates::Certified;
pub use docker_registry::{Access, DockerRegistry};
pub use fluxmq::{FluxMq, Habits};
pub use image_proxy::{ImageProxy, PART, Part};
pub use listener::Listener;
pub use net::{Answer, Proxy, Web};
pub use round_services::{Habit, RoundServices, Route};
#[cfg(feature = "broker")]
pub(crate) use stage::in_one_process_or_two;
pub use stage::{On, Outcome as Answered, Seen, Stage};
pub(crate) use stage::{in_one_process_too, over_both_brokers};
pub use task::Task;
#[cfg(any(feature = "openvino", feature = "pytorch"))]
pub use task::guest_with;
pub use worker::{Process, Ran, Worker, program, proplet};

use proplet::cancel::Cancel;
use proplet::disk::DiskCache;
use proplet::nn::{Nn, NnConfig};
use proplet::policy::{Policy, Root, Trust, kernel_file_systems, resolve_dir, subdirectories};
use proplet::runtime::{
    CompileProcesses, InstancePool, MAX_WASM_STACK, Requests, Runtime, RuntimeConfig, Stdio,
    THREAD_STACK, WhenLost,
};
use proplet::sources::Fetcher;
use proplet::task::{Binary, Failure, Limits, ModuleSource, Outcome, TaskId, TaskRequest};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a test waits for what must come: far more than it takes.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// The folder `fixtures` of the repository.
pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

/// A guest of `fixtures/guests/wat`, translated.
pub fn wat(name: &str) -> Vec<u8> {
    let path = fixtures().join(format!("guests/wat/{name}.wat"));
    wat::parse_file(&path).unwrap_or_else(|e| panic!("translating {}: {e}", path.display()))
}

/// The worker's settings for a test, and what it runs with them.
pub struct Bench {
    pub policy: Policy,
    pub runtime: Arc<Runtime>,
}

impl Bench {
    /// Tight limits, no roots.
    pub fn new() -> Bench {
        Bench::with_nn(Nn::new(NnConfig::default()))
    }

    pub fn with_nn(nn: Nn) -> Bench {
        let policy = Policy {
            trust: Trust::Remote { roots: vec![] },
            proplet_id: None,
            limits: Limits {
                timeout: Some(Duration::from_secs(60)),
                run: None,
                memory: Some(64 << 20),
                output: 64 << 10,
            },
            serving: None,
            private: vec![],
            kernel: kernel_file_systems(),
            module_size: 10 << 20,
            working_dir: fixtures(),
            max_wasm_stack: MAX_WASM_STACK as u64,
            resolve: resolve_dir,
            subdirectories,
        };
        Bench { policy, runtime: runtime(None, None, nn) }
    }

    /// Compiles in processes of their own, each with so many bytes.
    pub fn compiling_apart(memory: u64) -> Bench {
        let program = Path::new(env!("CARGO_BIN_EXE_proplet"));
        let processes =
            CompileProcesses::start(program, 2 * COMPILERS, memory, WhenLost::StartAgain);
        let processes = Some(processes.expect("the program starts"));
        Bench { runtime: runtime(None, processes, Nn::new(NnConfig::default())), ..Bench::new() }
    }

    /// With what an earlier process left on the disk.
    pub fn on_disk(disk: Arc<DiskCache>) -> Bench {
        Bench { runtime: runtime(Some(disk), None, Nn::new(NnConfig::default())), ..Bench::new() }
    }

    /// Allows `path`, read-only or not.
    pub fn root(mut self, path: impl Into<PathBuf>, writable: bool) -> Bench {
        let Trust::Remote { roots, .. } = &mut self.policy.trust else { unreachable!() };
        roots.push(Root { path: path.into(), writable });
        self
    }

    pub fn timeout(mut self, timeout: Duration) -> Bench {
        self.policy.limits.timeout = Some(timeout);
        self
    }

    /// A task with this module.
    pub fn guest(&self, module: Vec<u8>) -> Guest<'_> {
        let request = TaskRequest {
            name: "test".into(),
            module: Some(ModuleSource::Bytes(Binary::new(module))),
            ..TaskRequest::new(TaskId::new("test").expect("an id"))
        };
        Guest { bench: self, request }
    }

    /// A task with a guest of `fixtures/guests/wat`.
    pub fn wat(&self, name: &str) -> Guest<'_> {
        self.guest(wat(name))
    }
}

const COMPILERS: usize = 2;

fn runtime(
    disk: Option<Arc<DiskCache>>,
    compile_apart: Option<CompileProcesses>,
    nn: Nn,
) -> Arc<Runtime> {
    let fetcher = Fetcher::new(10 << 20, None, None);
    let config = RuntimeConfig {
        module_cache: 64 << 20,
        file_cache: 64 << 20,
        disk,
        compilers: COMPILERS,
        compile_apart,
        fetch: Arc::new(move |spec, cancel| fetcher.code(spec, cancel)),
        stdio: Stdio::Captured,
        pool: Some(InstancePool { instances: 16, memory: 512 << 20 }),
        requests: Requests { at_once: 4, nice: 0, memory: 0 },
        outbound: None,
    };
    Arc::new(Runtime::new(&config, nn).expect("a runtime"))
}

/// A task that is being put together.
pub struct Guest<'a> {
    bench: &'a Bench,
    pub request: TaskRequest,
}

impl Guest<'_> {
    pub fn inputs(mut self, inputs: &[&str]) -> Self {
        self.request.inputs = inputs.iter().map(|input| (*input).into()).collect();
        self
    }

    pub fn cli_args(mut self, args: &[&str]) -> Self {
        self.request.cli_args = args.iter().map(|arg| (*arg).into()).collect();
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.request.env.insert(name.into(), value.into());
        self
    }

    pub fn named(mut self, name: &str) -> Self {
        self.request.name = name.into();
        self
    }

    /// Runs it as an executor thread would.
    pub fn run(self) -> Outcome {
        self.run_with(&Arc::default())
    }

    pub fn run_with(self, cancel: &Arc<Cancel>) -> Outcome {
        let spec = self.bench.policy.admit(self.request).expect("admitted");
        let (runtime, cancel) = (self.bench.runtime.clone(), cancel.clone());
        std::thread::Builder::new()
            .stack_size(THREAD_STACK)
            .spawn(move || runtime.run(&spec, &cancel))
            .expect("a thread")
            .join()
            .expect("the runtime never panics")
    }
}

/// The sizes of what a cache on the disk holds, but for what is just being written.
pub fn cached(folder: &Path) -> Vec<u64> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let whole = entries.filter(|entry| entry.file_name().len() == 64);
    let mut sizes: Vec<_> = whole.filter_map(|entry| Some(entry.metadata().ok()?.len())).collect();
    sizes.sort_unstable();
    sizes
}

/// Standard output of a task that succeeded.
pub fn stdout(outcome: &Outcome) -> &str {
    assert_eq!(
        outcome.verdict,
        Ok(()),
        "stderr: {}",
        String::from_utf8_lossy(&outcome.stderr.bytes)
    );
    std::str::from_utf8(&outcome.stdout.bytes).expect("text")
}

/// The text of a failure that the host ended the guest for.
pub fn fault(outcome: &Outcome) -> &str {
    match &outcome.verdict {
        Err(Failure::Fault(text)) => text,
        other => panic!("not a fault: {other:?}"),
    }
}

/// The text of a trap.
pub fn trap(outcome: &Outcome) -> &str {
    match &outcome.verdict {
        Err(Failure::Trap(text)) => text,
        other => panic!("not a trap: {other:?}"),
    }
}

/// Asks again and again, where nobody tells when it is so.
#[track_caller]
pub fn until<T>(what: &str, find: impl Fn() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = find() {
            return found;
        }
        assert!(Instant::now() < end, "{what}: it did not come to that");
        std::thread::sleep(Duration::from_millis(5));
    }
}
