//! Who runs the worker's tasks: a runtime in this process, or one in a process
//! of its own.

#[cfg(target_os = "linux")]
mod apart;

#[cfg(target_os = "linux")]
use self::apart::Confine;
use super::servers::Servers;
use super::{outbound, setup};
use crate::cancel::Cancel;
use crate::config::{Config, Isolation};
use crate::disk::DiskCache;
use crate::executor::{RunTask, TurnEnd};
#[cfg(target_os = "linux")]
use crate::host::{Keeper, RuntimeCondition};
use crate::metrics::RuntimeLevels;
use crate::nn::{Nn, NnConfig};
use crate::policy::Policy;
use crate::process;
use crate::runtime::{Runtime, RuntimeConfig, WhenLost};
use crate::sources::{self, Fetcher};
use crate::task::{Outcome, TaskSpec};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How long what was compiled may take to be kept on the disk.
const KEEP_TIMEOUT: Duration = Duration::from_secs(5);

/// Entries of each cache that are told.
const KEPT: usize = 100;

/// See the module's documentation.
pub struct Tasker(Runner);

enum Runner {
    Here {
        runtime: Arc<Runtime>,
        nn: Nn,
        disks: Vec<Arc<DiskCache>>,
    },
    #[cfg(target_os = "linux")]
    Apart(Keeper, Confine, Arc<Fetcher>),
}

impl Tasker {
    /// Starts what the configuration says, whose tasks get their code by `fetcher`.
    ///
    /// # Errors
    ///
    /// The engine can't be made, or the process not be started.
    pub fn start(
        config: &Config,
        policy: &Policy,
        fetcher: Arc<Fetcher>,
    ) -> anyhow::Result<Tasker> {
        let runner = match config.isolation {
            Isolation::None => here(config, policy, fetcher),
            #[cfg(target_os = "linux")]
            Isolation::Process => apart::start(config, policy, fetcher),
            #[cfg(not(target_os = "linux"))]
            Isolation::Process => anyhow::bail!("a process of its own for guests takes Linux"),
        };
        // The engine has opened what it needs of `/proc/self`.
        process::hide_memory();
        runner.map(Tasker)
    }

    /// How a task is run that is no HTTP server.
    pub fn run(&self) -> Box<RunTask> {
        self.run_or_serve(&Servers::default())
    }

    /// How a task is run, or served at the door that it has.
    pub(super) fn run_or_serve(&self, servers: &Servers) -> Box<RunTask> {
        match &self.0 {
            Runner::Here { runtime, .. } => {
                let (runtime, servers) = (runtime.clone(), servers.clone());
                Box::new(move |turn| match servers.door(turn) {
                    Ok(door) => {
                        let (outcome, remains) = runtime.answer(turn.spec, door, turn.cancel);
                        TurnEnd { remains: Some(Box::new(remains)), ..outcome.into() }
                    }
                    Err(failure) => Outcome::failed(failure).into(),
                })
            }
            #[cfg(target_os = "linux")]
            Runner::Apart(keeper, confine, fetcher) => {
                apart::run(keeper, confine, fetcher, servers)
            }
        }
    }

    /// Whether suspects of a crash have a process of their own.
    pub fn is_apart(&self) -> bool {
        !matches!(self.0, Runner::Here { .. })
    }

    /// What has been done, and what is held.
    pub(super) fn levels(&self, servers: &Servers) -> Box<dyn Fn() -> RuntimeLevels + Send + Sync> {
        let servers = servers.clone();
        match &self.0 {
            Runner::Here { runtime, nn, .. } => {
                let (runtime, nn) = (runtime.clone(), nn.clone());
                Box::new(move || RuntimeLevels {
                    modules_compiled: runtime.modules_compiled(),
                    module_bytes: runtime.module_bytes(),
                    nn: nn.stats(),
                    inferences: nn.inference_times(),
                    process: None,
                    fetched_bytes: sources::fetched_bytes(),
                    code: runtime.kept_code(KEPT),
                    graphs: nn.kept_graphs(KEPT),
                    servers: servers.served(),
                })
            }
            #[cfg(target_os = "linux")]
            Runner::Apart(keeper, ..) => apart::levels(keeper, servers),
        }
    }

    /// Has tasks that come run in a process that is made by this configuration;
    /// those that run end where they are.
    pub(super) fn renew(&self, config: &Config, policy: &Policy) -> anyhow::Result<()> {
        match &self.0 {
            Runner::Here { .. } => Ok(()),
            #[cfg(target_os = "linux")]
            Runner::Apart(keeper, confine, _) => apart::renew(keeper, confine, config, policy),
        }
    }

    /// Prepares a deployed task where tasks run now, and waits for that. False if it
    /// took its process along, or did not end in time.
    pub(super) fn prepare(&self, spec: &TaskSpec, cancel: &Arc<Cancel>) -> bool {
        match &self.0 {
            // It is where it was.
            Runner::Here { .. } => true,
            #[cfg(target_os = "linux")]
            Runner::Apart(keeper, _, fetcher) => apart::prepare(keeper, fetcher, spec, cancel),
        }
    }

    /// Changes when tasks run in another process from then on; none if they never do.
    pub(super) fn renewed(&self) -> Option<watch::Receiver<u64>> {
        match &self.0 {
            Runner::Here { .. } => None,
            #[cfg(target_os = "linux")]
            Runner::Apart(keeper, ..) => Some(keeper.renewed()),
        }
    }

    /// How the process is that tasks run in.
    pub(super) fn condition(&self) -> RuntimeCondition {
        match &self.0 {
            Runner::Here { .. } => RuntimeCondition {
                process: Some(std::process::id()),
                ..RuntimeCondition::default()
            },
            #[cfg(target_os = "linux")]
            Runner::Apart(keeper, ..) => keeper.condition(),
        }
    }

    /// Why no task can be taken, if none can.
    pub(super) fn unavailable(&self) -> Option<String> {
        match &self.0 {
            Runner::Here { .. } => None,
            #[cfg(target_os = "linux")]
            Runner::Apart(keeper, ..) => keeper.unavailable(),
        }
    }

    /// Lets what was compiled be kept, and ends the process. May wait.
    pub fn close(&self) {
        match &self.0 {
            Runner::Here { disks, .. } => disks.iter().for_each(|disk| disk.close(KEEP_TIMEOUT)),
            #[cfg(target_os = "linux")]
            Runner::Apart(keeper, ..) => keeper.close(),
        }
    }
}

impl Drop for Tasker {
    fn drop(&mut self) {
        // Of a worker that was dropped before it came to its end.
        #[cfg(target_os = "linux")]
        if let Runner::Apart(keeper, ..) = &self.0 {
            keeper.abandon();
        }
    }
}

fn here(config: &Config, policy: &Policy, fetcher: Arc<Fetcher>) -> anyhow::Result<Runner> {
    let [modules, graphs] = ["modules", "graphs"].map(|kind| setup::disk_cache(config, kind));
    let nn = Nn::new(NnConfig { disk: graphs.clone(), ..setup::nn_config(config, policy) });
    let compile_apart = setup::compile_processes(config, WhenLost::StartAgain);
    let engine = RuntimeConfig {
        disk: modules.clone(),
        compile_apart,
        outbound: outbound::outbound(&config.http.outbound, &config.working_dir)?,
        fetch: Arc::new(move |spec, cancel| fetcher.code(spec, cancel)),
        ..setup::runtime_config(config)
    };
    let runtime = Arc::new(Runtime::new(&engine, nn.clone())?);
    setup::preload(nn.clone());
    let disks = [modules, graphs].into_iter().flatten().collect();
    Ok(Runner::Here { runtime, nn, disks })
}
