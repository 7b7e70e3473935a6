//! Who runs the worker's tasks: a runtime in this process, or one in a process
//! of its own.

use super::setup;
use crate::config::{Config, Isolation, LogFormat};
use crate::disk::DiskCache;
use crate::executor::{Crash, Ran, RunTask};
use crate::host::{End, Keeper, Launch, Log, Setup};
use crate::metrics::RuntimeLevels;
use crate::nn::{Nn, NnConfig};
use crate::policy::Policy;
use crate::process;
use crate::runtime::{Runtime, RuntimeConfig, WhenLost};
use crate::sources::Fetcher;
use crate::task::{Failure, Outcome};
use anyhow::Context as _;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing::warn;

/// How long what was compiled may take to be kept on the disk.
const KEEP_TIMEOUT: Duration = Duration::from_secs(5);
/// What an outcome may have beside its two outputs: sentences.
const SENTENCES: u64 = 4 << 20;

/// See the module's documentation.
pub(super) enum Tasker {
    Here { runtime: Arc<Runtime>, nn: Nn, disks: Vec<Arc<DiskCache>> },
    Apart(Keeper),
}

impl Tasker {
    /// Starts what the configuration says.
    ///
    /// # Errors
    ///
    /// The engine can't be made, or the process not be started.
    pub(super) fn start(config: &Config, policy: &Policy) -> anyhow::Result<Tasker> {
        let tasker = match config.isolation {
            Isolation::None => here(config, policy),
            Isolation::Process => apart(config, policy),
        };
        // The engine has opened what it needs of `/proc/self`.
        process::hide_memory();
        tasker
    }

    /// How a task is run.
    pub(super) fn run(&self, config: &Config) -> Box<RunTask> {
        match self {
            Tasker::Here { runtime, .. } => {
                let runtime = runtime.clone();
                Box::new(move |turn| runtime.run(turn.spec, turn.cancel).into())
            }
            Tasker::Apart(keeper) => {
                let (keeper, fetcher) = (keeper.clone(), Fetcher::new(config.module_size));
                Box::new(move |turn| {
                    let began = Instant::now();
                    let code = match fetcher.code(turn.spec, turn.cancel) {
                        Ok(code) => code,
                        Err(e) => {
                            let reason = turn.cancel.reason();
                            let failure = reason.map_or(Failure::Module(e), Failure::from);
                            let mut outcome = Outcome::failed(failure);
                            outcome.timings.compiled = began.elapsed();
                            outcome.diagnostics = turn.spec.grant().notes.clone();
                            return outcome.into();
                        }
                    };
                    let end = keeper.run(
                        turn.spec,
                        &code,
                        turn.alone,
                        turn.cancel,
                        |thread| turn.runs_on(thread),
                        || turn.guest_began(),
                    );
                    match end {
                        End::Outcome(outcome, used) => Ran { end: Ok(outcome), used },
                        End::Crash(how, alone) => {
                            Ran { end: Err(Crash { how, alone }), used: None }
                        }
                    }
                })
            }
        }
    }

    /// Whether suspects of a crash have a process of their own.
    pub(super) fn is_apart(&self) -> bool {
        matches!(self, Tasker::Apart(_))
    }

    /// What has been done, and what is held.
    pub(super) fn levels(&self) -> Box<dyn Fn() -> RuntimeLevels + Send + Sync> {
        match self {
            Tasker::Here { runtime, nn, .. } => {
                let (runtime, nn) = (runtime.clone(), nn.clone());
                Box::new(move || RuntimeLevels {
                    modules_compiled: runtime.modules_compiled(),
                    module_bytes: runtime.module_bytes(),
                    nn: nn.stats(),
                    inferences: nn.inference_times(),
                })
            }
            Tasker::Apart(keeper) => {
                let keeper = keeper.clone();
                Box::new(move || {
                    let levels = keeper.levels();
                    RuntimeLevels {
                        modules_compiled: levels.modules_compiled,
                        module_bytes: levels.module_bytes,
                        nn: levels.nn,
                        inferences: levels.inferences,
                    }
                })
            }
        }
    }

    /// Why no task can be taken, if none can.
    pub(super) fn unavailable(&self) -> Option<String> {
        match self {
            Tasker::Here { .. } => None,
            Tasker::Apart(keeper) => keeper.unavailable(),
        }
    }

    /// Lets what was compiled be kept, and ends the process. May wait.
    pub(super) fn close(&self) {
        match self {
            Tasker::Here { disks, .. } => disks.iter().for_each(|disk| disk.close(KEEP_TIMEOUT)),
            Tasker::Apart(keeper) => keeper.close(),
        }
    }
}

fn here(config: &Config, policy: &Policy) -> anyhow::Result<Tasker> {
    let [modules, graphs] = ["modules", "graphs"].map(|kind| setup::disk_cache(config, kind));
    let nn = Nn::new(NnConfig { disk: graphs.clone(), ..setup::nn_config(config, policy) });
    let compile_apart = setup::compile_processes(config, WhenLost::StartAgain);
    let engine =
        RuntimeConfig { disk: modules.clone(), compile_apart, ..setup::runtime_config(config) };
    let runtime = Arc::new(Runtime::new(&engine, nn.clone())?);
    setup::preload(nn.clone());
    let disks = [modules, graphs].into_iter().flatten().collect();
    Ok(Tasker::Here { runtime, nn, disks })
}

fn apart(config: &Config, policy: &Policy) -> anyhow::Result<Tasker> {
    let mut nn = setup::nn_config(config, policy);
    // That process can make none, nor does it have this one's variables.
    match nn.openvino.make_links() {
        Ok(folder) => nn.openvino.links = Some(folder),
        Err(e) => warn!("models of TensorFlow and TensorFlow Lite will be refused: {e}"),
    }
    let state = config.state_dir.as_ref().filter(|_| config.disk_cache > 0);
    let log = tracing::dispatcher::has_been_set().then(|| Log {
        directives: config.log.directives.clone(),
        json: config.log.format == LogFormat::Json,
    });
    let memory = setup::runtime_memory(config).bytes;
    let setup = Setup {
        module_cache: config.module_cache,
        file_cache: config.file_cache,
        compilers: setup::compilers(config),
        compile_memory: setup::compile_memory(config),
        pool: setup::pool(config),
        confinement: setup::confinement(config, policy, &nn),
        nn,
        caches: state
            .map(|state| (config.working_dir.join(state).join("cache"), config.disk_cache)),
        preload: true,
        log,
    };
    let program = config.program.clone().context("the system does not tell this program's file")?;
    // One more for invocations, and the daemons'.
    let executors = config.executors.get() + 1 + config.daemons;
    let outcome = 2 * config.limits.output as u64 + SENTENCES;
    Keeper::start(Launch { program, setup, executors, memory, outcome }).map(Tasker::Apart)
}
