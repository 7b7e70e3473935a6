//! Wires a worker: opens its journal, starts its runtime, its threads and its
//! connection, and has it serve.

use super::admission::AdmissionThread;
use super::daemons::{self, Daemons, NotBefore};
use super::deployments::{self, DeployedTasks};
use super::quota::LogQuota;
use super::reload::{Reloading, Reloads, SharedPolicy};
use super::runtime::Tasker;
use super::servers::Servers;
use super::status as told;
use super::tasks::Tasks;
use super::{Inputs, Phase, Worker, monitor, recall, results, rounds, setup};
use crate::config::{Config, Isolation};
use crate::executor::{Executor, PoolThreads};
use crate::journal::{InvocationMarks, Journal, Opened, Recovered, UpdateMarks};
use crate::ledger::{After, Ledger, LedgerEvent};
use crate::metrics::Metrics;
use crate::mqtt::{self, Ack};
use crate::policy::{self, Policy, Resolve};
use crate::protocol::Topics;
use crate::queue::QueueBounds;
use crate::runtime::THREAD_STACK;
use crate::status::{self, Health, Sources, Status};
use crate::version;
use std::sync::{Arc, RwLock};
use std::time::Instant;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinSet;
use tracing::{info, warn};

/// Runs a worker until `shutdown` is ready and its tasks have ended or been
/// ended. What `shutdown` gives is dropped as soon as it is noted that no task
/// is the cause of the end.
///
/// # Errors
///
/// A setting that can't work (a certificate that is not there, …); a broker
/// that can't be reached is not an error.
pub async fn run<T>(config: Config, shutdown: impl Future<Output = T>) -> anyhow::Result<()> {
    run_with(config, policy::resolve_dir, shutdown).await
}

/// The same, with configurations that are read again meanwhile.
///
/// # Errors
///
/// As above.
pub async fn run_reloading<T>(
    config: Config,
    reloads: Reloads,
    shutdown: impl Future<Output = T>,
) -> anyhow::Result<()> {
    start(config, policy::resolve_dir, Some(reloads), shutdown).await
}

/// The same, with another way to find directories.
///
/// # Errors
///
/// As above.
pub async fn run_with<T>(
    config: Config,
    resolve: Resolve,
    shutdown: impl Future<Output = T>,
) -> anyhow::Result<()> {
    start(config, resolve, None, shutdown).await
}

async fn start<T>(
    config: Config,
    resolve: Resolve,
    reloads: Option<Reloads>,
    shutdown: impl Future<Output = T>,
) -> anyhow::Result<()> {
    let id = config.credentials.client_id.clone();
    info!(
        proplet_id = id,
        version = version::LONG,
        broker = config.connection.url(),
        executors = config.executors,
        "Starting Proplet"
    );
    for warning in &config.warnings {
        warn!("{warning}");
    }
    let sessions = setup::sessions(&config);
    let OpenedState { journal, mut recovered, invocations, updates, durable } =
        open_state(&config)?;
    let marks = journal.as_ref().map(Journal::running);
    let policy = Policy { resolve, ..setup::policy(&config) };
    setup::check_roots(&config, &policy)?;
    let (fetcher, wanted_images) = setup::fetcher(&config);
    let fetcher = Arc::new(fetcher);
    let tasker = Arc::new(Tasker::start(&config, &policy, fetcher.clone())?);
    let policy = SharedPolicy::new(policy);
    let servers = Servers::default();
    let reader = journal.as_ref().map(Journal::reader);
    let threads = PoolThreads {
        executors: config.executors.get(),
        stack: THREAD_STACK,
        large: setup::compilers(&config),
        apart: tasker.is_apart(),
        invocations: config.deployments > 0,
    };
    let not_before = NotBefore::default();
    let (daemons, daemons_ended) = Executor::start(
        PoolThreads {
            executors: config.daemons,
            stack: THREAD_STACK,
            large: 0,
            apart: false,
            invocations: false,
        },
        // How many there may be is decided before they come here.
        QueueBounds { tasks: usize::MAX, bytes: usize::MAX, memory: None },
        recall::recall(reader.clone(), policy.clone(), servers.clone()),
        daemons::keep_running(servers.known(tasker.run_or_serve(&servers)), not_before.clone()),
    )?;
    let rounds = rounds::start(&config, updates)?;
    let run = rounds::with_rounds(tasker.run_or_serve(&servers), rounds, fetcher.clone());
    let run = servers.known(run);
    let (executor, ended) = Executor::start(
        threads,
        setup::bounds(&config),
        recall::recall(reader.clone(), policy.clone(), servers.clone()),
        Box::new(move |turn| {
            let _mark = marks.as_ref().map(|marks| marks.begin(turn.spec.id()));
            run(turn)
        }),
    )?;
    let pace = journal.as_ref().map(Journal::pace);
    let mut metrics = Metrics::new(tasker.levels(&servers));
    if let Some(pace) = pace.clone() {
        metrics = metrics.with_journal(move || pace.levels());
    }
    metrics.capacity(config.executors.get(), config.queue);
    let (work, asked) = unbounded_channel();
    let status = Arc::new(Status {
        proplet_id: id.clone(),
        health: Health::default(),
        metrics,
        sources: Sources {
            fixed: RwLock::new(told::fixed(&config)),
            work,
            runtime: told::runtime(
                &config,
                tasker.clone(),
                tasker.levels(&servers),
                executor.ask_left_behind(),
            ),
            journal: Box::new(move || pace.as_ref().map(|pace| told::journal(&pace.levels()))),
        },
    });
    let _server = match config.monitoring.listen {
        Some(address) => status::serve(address, status.clone()).await,
        None => None,
    };
    let topics = Topics::new(&config.credentials.domain, &config.credentials.channel);
    let manager = results::ManagerTraffic::start(&config, journal.as_ref().map(Journal::reader))?;
    let (link, events) = mqtt::connect(setup::options(&config, &topics, sessions))?;
    let about = setup::about(&config);
    let memory = about.total_memory_bytes;
    let result_limit = setup::result_limit(&config, &topics);
    let (admission, admitted) = AdmissionThread::start(policy.clone(), reader)?;
    if let Some(reloads) = reloads {
        let reloading = Reloading {
            config: config.clone(),
            policy,
            resolve,
            tasker: tasker.clone(),
            link: link.clone(),
            status: status.clone(),
        };
        tokio::spawn(reloading.run(reloads));
    }
    let bounds = deployments::bounds(&config, result_limit);
    let ledger = Ledger::new(&id, result_limit, journal.is_some());
    // With one process for all, a task that crashes it is known by its record.
    let early = config.isolation == Isolation::Process;
    let mut worker = Worker {
        about,
        reports: monitor::Reports::new(config.monitoring.report_every, memory),
        status,
        namespace: config.description.namespace,
        module_limit: usize::try_from(config.module_size).unwrap_or(usize::MAX),
        id,
        topics,
        executor,
        daemons: Daemons::new(daemons, config.daemons, not_before),
        servers,
        drain_timeout: config.drain_timeout,
        link,
        phase: Phase::Serving,
        tasks: Tasks::new(ledger, journal, early, admission),
        deployed: DeployedTasks::new(
            &config.credentials.client_id,
            bounds,
            invocations,
            tasker.renewed(),
        ),
        manager,
        tasker: tasker.clone(),
        fetcher,
        updates: JoinSet::new(),
        record: told::Record::default(),
        quota: LogQuota::new(Instant::now()),
    };
    worker.take_over(&recovered.finished);
    let (deployed, invoked) =
        (std::mem::take(&mut recovered.deployed), std::mem::take(&mut recovered.invoked));
    worker.take_over_deployments(deployed, &recovered.waiting, invoked);
    worker.on(LedgerEvent::Recovered(recovered));
    let wanted_images = wanted_images.unwrap_or_else(|| unbounded_channel().1);
    let inputs = Inputs { events, admitted, ended, daemons_ended, durable, wanted_images, asked };
    let served =
        worker.serve(inputs, config.liveliness_interval, config.drain_timeout, shutdown).await;
    tokio::task::block_in_place(|| tasker.close());
    served
}

/// The journal, if there is to be one.
struct OpenedState {
    journal: Option<Journal<After<Ack>>>,
    recovered: Recovered,
    invocations: Option<InvocationMarks>,
    updates: Option<UpdateMarks>,
    durable: UnboundedReceiver<After<Ack>>,
}

fn open_state(config: &Config) -> anyhow::Result<OpenedState> {
    match &config.state_dir {
        Some(directory) => {
            let Opened { journal, recovered, invocations, updates, durable } =
                Journal::open(directory, setup::executors(config))?;
            let (journal, invocations) = (Some(journal), Some(invocations));
            Ok(OpenedState { journal, recovered, invocations, updates: Some(updates), durable })
        }
        None => {
            let durable = unbounded_channel().1;
            let recovered = Recovered::default();
            let (invocations, updates) = (None, None);
            Ok(OpenedState { journal: None, recovered, invocations, updates, durable })
        }
    }
}
