//! The runtime in a process of its own, as the worker has it.

use super::Runner;
use crate::cancel::{Cancel, Doing, Reason};
use crate::config::{Config, LogFormat};
use crate::executor::{Crash, RemoteRun, RunTask, Turn, TurnEnd};
use crate::host::confine::Confinement;
use crate::host::{Caches, Keeper, Launch, LogSetup, RunEnd, Setup, TaskPlace};
use crate::metrics::RuntimeLevels;
use crate::nn::NnConfig;
use crate::policy::Policy;
use crate::sources::{self, Fetcher};
use crate::task::{Failure, Outcome, TaskSpec};
use crate::usage::Thread;
use crate::worker::servers::Servers;
use crate::worker::{outbound, setup};
use anyhow::Context as _;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;
use tokio::sync::watch;
use tracing::{info, warn};

/// What an outcome may have beside its two outputs: sentences.
const SENTENCES: u64 = 4 << 20;

/// What the process is to be confined to, as directories are now.
#[derive(Clone)]
pub(super) struct Confine(Arc<RwLock<(Policy, NnConfig)>>);

impl Confine {
    fn new(policy: &Policy, nn: &NnConfig) -> Confine {
        Confine(Arc::new(RwLock::new((policy.clone(), nn.clone()))))
    }

    fn now(&self) -> Confinement {
        // It is replaced in one step.
        let (policy, nn) = self.0.read().unwrap_or_else(PoisonError::into_inner).clone();
        setup::confinement(&policy, &nn)
    }

    fn replace(&self, other: &Confine) {
        let new = other.0.read().unwrap_or_else(PoisonError::into_inner).clone();
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = new;
    }
}

/// Starts the process.
pub(super) fn start(
    config: &Config,
    policy: &Policy,
    fetcher: Arc<Fetcher>,
) -> anyhow::Result<Runner> {
    let (launch, confine) = launch(config, policy)?;
    let caches = setup::cache_folder(config, config.disk_cache).and_then(|folder| {
        let unused = |e: &anyhow::Error| {
            warn!("what is compiled is not kept on the disk, so each start does it again: {e:#}");
        };
        Caches::open(&folder, config.disk_cache).inspect_err(unused).ok()
    });
    let keeper = Keeper::start(Launch { caches, ..launch })?;
    if let Some(changes) = config.log_changes.clone() {
        tokio::spawn(follow(keeper.clone(), changes));
    }
    Ok(Runner::Apart(keeper, confine, fetcher))
}

/// Another process, by another configuration, for tasks that come from now on.
pub(super) fn renew(
    keeper: &Keeper,
    confine: &Confine,
    config: &Config,
    policy: &Policy,
) -> anyhow::Result<()> {
    let (launch, new) = launch(config, policy)?;
    confine.replace(&new);
    keeper.renew(launch);
    Ok(())
}

/// What the process is made of, but for its caches on the disk.
fn launch(config: &Config, policy: &Policy) -> anyhow::Result<(Launch, Confine)> {
    let mut nn = setup::nn_config(config, policy);
    // That process can make none, nor does it have this one's variables.
    match nn.openvino.make_links() {
        Ok(folder) => nn.openvino.links = Some(folder),
        Err(e) => warn!("models of TensorFlow and TensorFlow Lite will be refused: {e}"),
    }
    let directives = match &config.log_changes {
        Some(changes) => changes.borrow().clone(),
        None => config.log.directives.clone(),
    };
    let json = config.log.format == LogFormat::Json;
    let confine = Confine::new(policy, &nn);
    let setup = Setup {
        module_cache: config.module_cache,
        file_cache: config.file_cache,
        compilers: setup::compilers(config),
        compile_memory: setup::compile_memory(config),
        pool: setup::pool(config),
        requests: setup::requests(config),
        trusted: outbound::trusted(&config.http.outbound, &config.working_dir)?,
        confinement: confine.now(),
        nn,
        paused: Vec::new(),
        disk: None,
        preload: true,
        log: tracing::dispatcher::has_been_set().then_some(LogSetup { directives, json }),
    };
    let program = config.program.clone().context(
        "the system does not tell this program's file, which a process for guests and models is \
         started of: use --isolation=none",
    )?;
    let launch = Launch {
        program,
        setup,
        caches: None,
        executors: setup::executors(config),
        memory: setup::runtime_memory(config).bytes,
        outcome: 2 * config.limits.output as u64 + SENTENCES,
        connect: outbound::connect(config.http.outbound.hosts.clone()),
        tokio: tokio::runtime::Handle::current(),
    };
    Ok((launch, confine))
}

/// Has the process log what this one does.
async fn follow(keeper: Keeper, mut changes: watch::Receiver<String>) {
    while changes.changed().await.is_ok() {
        let directives = changes.borrow_and_update().clone();
        keeper.log(&directives);
    }
}

/// Where a task runs.
struct At(TaskPlace);

impl RemoteRun for At {
    fn thread(&self) -> Thread {
        self.0.thread()
    }

    fn memory(&self) -> Option<u64> {
        self.0.memory()
    }

    fn doing(&self) -> Option<Doing> {
        self.0.doing()
    }
}

/// How a task is run there.
pub(super) fn run(
    keeper: &Keeper,
    confine: &Confine,
    fetcher: &Arc<Fetcher>,
    servers: &Servers,
) -> Box<RunTask> {
    let (keeper, confine, fetcher) = (keeper.clone(), confine.clone(), fetcher.clone());
    let servers = servers.clone();
    Box::new(move |turn| {
        if !directories(turn.spec).all(|directory| keeper.reaches(directory)) {
            keeper.confine(confine.now());
        }
        run_turn(&keeper, &fetcher, &servers, turn)
    })
}

/// Those that a task opens.
fn directories(spec: &TaskSpec) -> impl Iterator<Item = &Path> {
    let grant = spec.grant();
    let graphs = grant.nn.iter().flatten().map(|graph| graph.dir.as_path());
    grant.dirs.iter().map(|dir| dir.host.as_path()).chain(graphs)
}

/// Prepares a deployed task in the process that there is now. False if that was lost
/// with it, or did not end in time.
pub(super) fn prepare(
    keeper: &Keeper,
    fetcher: &Fetcher,
    spec: &TaskSpec,
    cancel: &Arc<Cancel>,
) -> bool {
    let task = spec.id();
    if !directories(spec).all(|directory| keeper.reaches(directory)) {
        // Its invocation has another process started.
        return true;
    }
    let code = match fetcher.code(spec, cancel) {
        Ok(code) => code,
        Err(e) => {
            info!(%task, "a deployed task is not prepared in the runtime's new process: {e}");
            return true;
        }
    };
    match keeper.prepare(spec, &code, cancel) {
        None => true,
        Some(_) if cancel.reason().is_some() => {
            !matches!(cancel.reason(), Some(Reason::Timeout(_)))
        }
        Some(RunEnd::Outcome { outcome, .. }) => {
            match &outcome.verdict {
                Ok(()) => info!(%task, "a deployed task is prepared in the runtime's new process"),
                Err(e) => {
                    info!(%task, "a deployed task can't be prepared in the runtime's new process: {e}");
                }
            }
            true
        }
        Some(RunEnd::Crash(how, _)) => {
            warn!(%task, "the process ended while a deployed task was prepared there: {how}");
            false
        }
    }
}

fn run_turn(keeper: &Keeper, fetcher: &Fetcher, servers: &Servers, turn: &Turn<'_>) -> TurnEnd {
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
    let door = match servers.door(turn) {
        Ok(door) => door,
        Err(failure) => return Outcome::failed(failure).into(),
    };
    let end = keeper.run(
        turn.spec,
        &code,
        door.as_ref(),
        turn.alone,
        turn.cancel,
        |place| turn.runs_at(At(place)),
        || turn.guest_began(),
    );
    match end {
        RunEnd::Outcome { outcome, beside, .. } if beside && lacked_memory(&outcome) => {
            let how = "its process had no memory left beside other tasks".into();
            TurnEnd::new(Err(Crash { how, alone: false }), None)
        }
        RunEnd::Outcome { outcome, used, .. } => TurnEnd::new(Ok(outcome), used),
        RunEnd::Crash(how, alone) => TurnEnd::new(Err(Crash { how, alone }), None),
    }
}

/// Whether the task failed for want of memory, which others may have had.
fn lacked_memory(outcome: &Outcome) -> bool {
    /// As OpenVINO, the C++ library and the system say it.
    const SAID: [&str; 3] = ["Failed to allocate", "bad_alloc", "Cannot allocate memory"];
    let Err(failure) = &outcome.verdict else { return false };
    let failure = failure.to_string();
    let mut said = outcome.diagnostics.iter().chain([&failure]);
    said.any(|text| SAID.iter().any(|part| text.contains(part)))
}

/// What has been done there, and what is held.
pub(super) fn levels(
    keeper: &Keeper,
    servers: Servers,
) -> Box<dyn Fn() -> RuntimeLevels + Send + Sync> {
    let keeper = keeper.clone();
    Box::new(move || {
        // It waits for the process, for which others may take this thread's work.
        let levels = tokio::task::block_in_place(|| keeper.levels());
        RuntimeLevels {
            modules_compiled: levels.modules_compiled,
            module_bytes: levels.module_bytes,
            nn: levels.nn,
            inferences: levels.inferences,
            process: keeper.condition().process,
            fetched_bytes: sources::fetched_bytes(),
            code: levels.code,
            graphs: levels.graphs,
            servers: servers.served(),
        }
    })
}
