//! The worker: takes tasks from the broker, has them run, publishes results.
//!
//! [`run`] wires everything and then waits for whatever comes next: a message,
//! an outcome, the next heartbeat, the signal to end. It decides and delegates
//! and never waits for a task.
//!
//! ```text
//! start ─▶ serving ──signal──▶ draining ──idle, or deadline──▶ cancelling ─▶ closing
//! ```

mod admission;
mod daemons;
mod deployments;
mod messages;
mod monitor;
mod outbound;
mod oversize;
mod permissions;
mod quota;
mod recall;
mod reload;
mod results;
mod rounds;
mod runtime;
mod servers;
mod setup;
mod start;
mod status;
mod tasks;

pub(crate) use outbound::outbound;
pub use permissions::{Permissions, permissions};
pub use reload::{Changes, Reloader, Reloads, reloads};
pub(crate) use rounds::services as round_services;
pub use runtime::Tasker;
pub(crate) use servers::listen;
pub use setup::{bounds, confinement, nn_config, policy, runtime_config, runtime_memory};
pub(crate) use setup::{manager_place, registry_place};
pub use start::{run, run_reloading, run_with};

use crate::deploy::DeployEvent;
use crate::executor::{Executor, Leftover, TaskEnd};
use crate::ledger::{After, LedgerEvent};
use crate::mqtt::{self, Ack, Delivery, Event, Link};
use crate::protocol::{Alive, Discovery, Topics, WorkerMetadata};
use crate::sources::Fetcher;
use crate::status::{Status, WorkerState, report::LoopReport, service};
use admission::AdmissionAnswer;
use std::sync::Arc;
use std::time::Duration;
use tasks::Tasks;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, timeout_at};
use tracing::{error, info, warn};

/// How long a task may take to notice that it was cancelled at the end.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the last results may take to reach the broker.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often the loop turns at least.
const PULSE: Duration = Duration::from_secs(1);

/// What the worker hears of.
struct Inputs {
    events: mqtt::Events,
    admitted: UnboundedReceiver<AdmissionAnswer>,
    ended: UnboundedReceiver<TaskEnd>,
    daemons_ended: UnboundedReceiver<TaskEnd>,
    durable: UnboundedReceiver<After<Ack>>,
    /// Images that the registry proxy is to be asked for.
    wanted_images: UnboundedReceiver<String>,
    /// Who wants to know what it does.
    asked: UnboundedReceiver<oneshot::Sender<LoopReport>>,
}

/// How far the worker is with its end, and until when.
#[derive(Clone, Copy, PartialEq)]
enum Phase {
    Serving,
    Draining(Instant),
    Cancelling(Instant),
}

impl Phase {
    /// Ready when the phase has lasted as long as it may.
    async fn over(self) {
        match self {
            Phase::Serving => std::future::pending().await,
            Phase::Draining(until) | Phase::Cancelling(until) => {
                tokio::time::sleep_until(until).await;
            }
        }
    }
}

/// How far this connection has heard who the worker is.
enum Introduction {
    /// Not at all, or there is no connection.
    Due,
    /// The discovery message is on its way.
    Sent(Delivery),
    /// The broker has it: heartbeats may go.
    Made,
}

impl Introduction {
    /// Ready when the broker has the discovery message.
    async fn made(&mut self) {
        if let Introduction::Sent(delivery) = self {
            let delivered = delivery.await;
            // If this connection ended first, the next one begins with it.
            *self = if delivered.is_ok() { Introduction::Made } else { Introduction::Due };
        }
        match self {
            Introduction::Made => {}
            _ => std::future::pending().await,
        }
    }
}

/// Waits until no task and no daemon runs any more.
async fn drained(executor: &Executor, daemons: &daemons::Daemons) {
    executor.drained().await;
    daemons.pool.drained().await;
}

struct Worker {
    id: String,
    namespace: String,
    about: WorkerMetadata,
    module_limit: usize,
    topics: Topics,
    executor: Executor,
    daemons: daemons::Daemons,
    servers: servers::Servers,
    drain_timeout: Duration,
    link: Link,
    status: Arc<Status>,
    reports: monitor::Reports,
    phase: Phase,
    tasks: Tasks,
    deployed: deployments::DeployedTasks,
    manager: results::ManagerTraffic,
    tasker: Arc<runtime::Tasker>,
    fetcher: Arc<Fetcher>,
    /// Updates of federated rounds that are on their way to the broker, with the ends
    /// of their tasks.
    updates: JoinSet<rounds::Published>,
    record: status::Record,
    quota: quota::LogQuota,
}

impl Worker {
    async fn serve<T>(
        mut self,
        inputs: Inputs,
        liveliness: Duration,
        drain_timeout: Duration,
        shutdown: impl Future<Output = T>,
    ) -> anyhow::Result<()> {
        let Inputs {
            mut events,
            mut admitted,
            mut ended,
            mut daemons_ended,
            mut durable,
            mut wanted_images,
            mut asked,
        } = inputs;
        let mut beats = tokio::time::interval(liveliness);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // So that whoever asks for the worker's health hears that its loop turns.
        let mut pulse = tokio::time::interval(PULSE);
        pulse.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut introduction = Introduction::Due;
        tokio::pin!(shutdown);
        service::started();
        loop {
            tokio::select! {
                // Results first, so that none is left when all is drained.
                biased;
                Some(ended) = ended.recv() => self.on_ended(ended),
                Some(ended) = daemons_ended.recv() => self.on_ended(ended),
                Some(after) = durable.recv() => self.on_durable(after),
                Some(Ok(delivery)) = self.tasks.deliveries.join_next() => {
                    self.on_delivery(delivery);
                }
                Some(Ok(published)) = self.updates.join_next() => self.on_update(published),
                happened = self.manager.happened() => self.on_manager(happened),
                happened = self.deployed.happened() => self.on_deployments_event(happened),
                noted = &mut shutdown, if self.phase == Phase::Serving => {
                    self.tasks.exonerate();
                    drop(noted);
                    self.status.health.set(WorkerState::Draining);
                    self.on(LedgerEvent::Draining);
                    self.on_deploy(DeployEvent::Draining);
                    let survive = self.tasks.survive();
                    let leftover = if survive { Leftover::Leave } else { Leftover::Report };
                    self.executor.drain(leftover);
                    self.end_daemons(leftover);
                    let (_, running) = self.executor.load();
                    let drain_timeout_s = drain_timeout.as_secs_f64();
                    info!(running, drain_timeout_s, "shutting down: running tasks may finish");
                    self.phase = Phase::Draining(Instant::now() + drain_timeout);
                }
                () = drained(&self.executor, &self.daemons), if self.phase != Phase::Serving => break,
                () = self.phase.over() => match self.phase {
                    Phase::Draining(_) => {
                        let (_, running) = self.executor.load();
                        info!(running, "shutting down: ending the tasks that still run");
                        self.executor.cancel_running();
                        self.daemons.pool.cancel_running();
                        self.phase = Phase::Cancelling(Instant::now() + CANCEL_TIMEOUT);
                    }
                    Phase::Serving | Phase::Cancelling(_) => break,
                },
                Some(answer) = admitted.recv() => self.on_answer(answer),
                Some(name) = wanted_images.recv() => self.ask_for_image(&name),
                Some(event) = events.next() => match event {
                    Event::Connected { session_present, session } => {
                        info!(session_present, ?session, "connected to the broker");
                        self.status.metrics.connected();
                        self.record.connected();
                        self.status.health.set_failure(None);
                        self.status.health.set(WorkerState::Serving);
                        introduction = Introduction::Sent(self.introduce());
                    }
                    Event::Message(message) => self.on_message(message),
                    Event::Acknowledged(receipt) => self.on(LedgerEvent::Acknowledged(receipt)),
                    // The link has said so in the log, and tries again.
                    Event::Disconnected { failure, .. } => {
                        self.status.metrics.disconnected(failure.kind);
                        self.record.disconnected(&failure);
                        self.status.health.set_failure(Some(failure.to_string()));
                        self.status.health.set(WorkerState::Connecting);
                        self.manager.disconnected();
                        introduction = Introduction::Due;
                    }
                },
                () = introduction.made(), if !matches!(introduction, Introduction::Made) => {
                    self.manager.connected();
                    self.beat();
                }
                _ = beats.tick(), if matches!(introduction, Introduction::Made) => self.beat(),
                _ = pulse.tick() => {
                    self.status.health.turn();
                    let (queued, running) = self.executor.load();
                    self.status.metrics.load(queued, running);
                    self.status.metrics.inferring(self.executor.computing());
                    self.status.health.set_unavailable(self.tasker.unavailable().or_else(|| self.executor.unavailable()));
                    self.quota.tick(Instant::now().into_std());
                    self.trust_daemons();
                    self.end_overdue_servers();
                    self.sample();
                }
                // Whoever asked may be gone.
                Some(asker) = asked.recv() => drop(asker.send(self.work())),
                () = self.reports.due(), if matches!(introduction, Introduction::Made) => {
                    self.report();
                }
            }
        }
        while let Ok(ended) = ended.try_recv() {
            self.on_ended(ended);
        }
        while let Ok(ended) = daemons_ended.try_recv() {
            self.on_ended(ended);
        }
        self.close(durable).await;
        Ok(())
    }

    /// Sees to it that what is done is recorded and delivered, as far as that
    /// is possible in time.
    async fn close(mut self, mut durable: UnboundedReceiver<After<Ack>>) {
        self.depart_all();
        let deadline = Instant::now() + CLOSE_TIMEOUT;
        while let Ok(Some(published)) = timeout_at(deadline, self.updates.join_next()).await {
            if let Ok(published) = published {
                self.on_update(published);
            }
        }
        let settle = async {
            while !self.tasks.settled()
                && let Some(after) = durable.recv().await
            {
                self.on_durable(after);
            }
        };
        if tokio::time::timeout(CLOSE_TIMEOUT, settle).await.is_err() {
            error!("the journal could not be written in time");
        }
        if let Err(undelivered) = self.link.clone().disconnect(CLOSE_TIMEOUT).await {
            warn!("{undelivered}");
        }
        // What became of each update is known now; the next process publishes the results.
        while let Some(published) = self.updates.join_next().await {
            if let Ok(published) = published {
                self.on_update(published);
            }
        }
        // The link is closed, so each delivery is decided.
        while let Some(delivery) = self.tasks.deliveries.join_next().await {
            if let Ok(delivery) = delivery {
                self.on_delivery(delivery);
            }
        }
        // Threads that are stuck may not hold up the rest; the others are done.
        drop(self.executor);
        drop(self.daemons);
        self.tasks.close();
        info!("stopped");
    }

    /// The manager may have restarted: it must hear who this is before it
    /// hears that this is alive.
    fn introduce(&self) -> Delivery {
        let discovery = Discovery {
            proplet_id: self.id.clone(),
            namespace: self.namespace.clone(),
            metadata: self.about.clone(),
        };
        self.link.announce(&self.topics.create(), discovery.encode())
    }

    fn beat(&self) {
        let alive = Alive::new(&self.id, &self.namespace, self.about.clone());
        self.link.beat(&self.topics.alive(), alive.encode());
    }
}
