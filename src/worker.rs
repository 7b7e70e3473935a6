//! The worker: takes tasks from the broker, has them run, publishes results.
//!
//! [`run`] wires everything and then waits for whatever comes next: a message,
//! an outcome, the next heartbeat, the signal to end. It decides and delegates
//! and never waits for a task.
//!
//! ```text
//! start ─▶ serving ──signal──▶ draining ──idle, or deadline──▶ cancelling ─▶ closing
//! ```

mod effective;
mod monitor;
mod setup;

pub use effective::{Effective, effective};
pub(crate) use setup::{connection_options, nn_config, policy, runtime_config};

use crate::config::Config;
use crate::executor::{Ended, Executor, Submission};
use crate::metrics::{CacheLevels, Metrics};
use crate::mqtt::{self, Delivery, Event, Link, Message, PublishError};
use crate::nn::Nn;
use crate::policy::Policy;
use crate::protocol::{
    self, Alive, Discovery, InvokeResult, Malformed, TaskResult, Topics, WorkerMetadata,
};
use crate::runtime::{Runtime, THREAD_STACK};
use crate::status::{self, Health, State, Status};
use crate::task::{Failure, TaskId, TaskRequest};
use crate::version;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{debug, error, info, warn};

/// How long a task may take to notice that it was cancelled at the end.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the last results may take to reach the broker.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often the loop turns at least.
const PULSE: Duration = Duration::from_secs(1);
/// A message from this size on is decoded beside the loop's other work.
const LARGE_MESSAGE: usize = 1 << 20;

/// Runs a worker until `shutdown` is ready and its tasks have ended or been
/// ended.
///
/// # Errors
///
/// A setting that can't work (a certificate that is not there, …); a broker
/// that can't be reached is none.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
    let id = config.credentials.client_id.clone();
    info!(
        proplet_id = id,
        version = version::LONG,
        broker = %config.connection.address,
        executors = config.executors,
        "Starting Proplet"
    );
    for warning in &config.warnings {
        warn!("{warning}");
    }
    let policy = setup::policy(&config);
    setup::warn_of_missing_roots(&policy);
    let nn = Nn::new(setup::nn_config(&config, &policy));
    let runtime = Arc::new(Runtime::new(&setup::runtime_config(&config), nn.clone())?);
    setup::preload(nn.clone());
    let caches = runtime.clone();
    let status = Arc::new(Status {
        proplet_id: id.clone(),
        health: Health::default(),
        metrics: Metrics::new(move || CacheLevels {
            modules_compiled: caches.modules_compiled(),
            module_bytes: caches.module_bytes(),
            nn: nn.stats(),
        }),
    });
    let _server = match config.monitoring.listen {
        Some(address) => status::serve(address, status.clone()).await,
        None => None,
    };
    let (executor, ended) = Executor::start(
        config.executors.get(),
        config.queue,
        THREAD_STACK,
        Box::new(move |spec, cancel| runtime.run(spec, cancel)),
    )?;
    let topics = Topics::new(&config.credentials.domain, &config.credentials.channel);
    let (link, events) = mqtt::connect(setup::options(&config, &topics))?;
    let worker = Worker {
        about: setup::about(&config),
        reports: monitor::Reports::new(config.monitoring.report_every),
        status,
        namespace: config.description.namespace,
        module_limit: usize::try_from(config.module_size).unwrap_or(usize::MAX),
        id,
        topics,
        policy,
        executor,
        link,
    };
    worker.serve(events, ended, config.liveliness_interval, config.drain_timeout, shutdown).await
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

struct Worker {
    id: String,
    namespace: String,
    about: WorkerMetadata,
    module_limit: usize,
    topics: Topics,
    policy: Policy,
    executor: Executor,
    link: Link,
    status: Arc<Status>,
    reports: monitor::Reports,
}

impl Worker {
    async fn serve(
        mut self,
        mut events: mqtt::Events,
        mut ended: UnboundedReceiver<Ended>,
        liveliness: Duration,
        drain_timeout: Duration,
        shutdown: impl Future<Output = ()>,
    ) -> anyhow::Result<()> {
        let mut beats = tokio::time::interval(liveliness);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // So that whoever asks for the worker's health hears that its loop turns.
        let mut pulse = tokio::time::interval(PULSE);
        pulse.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut introduction = Introduction::Due;
        let mut phase = Phase::Serving;
        tokio::pin!(shutdown);
        loop {
            tokio::select! {
                // Results first, so that none is left when all is drained.
                biased;
                Some(ended) = ended.recv() => self.on_ended(ended),
                () = &mut shutdown, if phase == Phase::Serving => {
                    self.status.health.set(State::Draining);
                    self.executor.drain();
                    let (_, running) = self.executor.load();
                    info!(running, ?drain_timeout, "shutting down: running tasks may finish");
                    phase = Phase::Draining(Instant::now() + drain_timeout);
                }
                () = self.executor.drained(), if phase != Phase::Serving => break,
                () = phase.over() => match phase {
                    Phase::Draining(_) => {
                        self.executor.cancel_running();
                        phase = Phase::Cancelling(Instant::now() + CANCEL_TIMEOUT);
                    }
                    Phase::Serving | Phase::Cancelling(_) => break,
                },
                Some(event) = events.next() => match event {
                    Event::Connected { session_present } => {
                        info!(session_present, "connected to the broker");
                        self.status.metrics.connected();
                        self.status.health.set(State::Serving);
                        introduction = Introduction::Sent(self.introduce());
                    }
                    Event::Message(message) => self.on_message(message),
                    // The link has said so in the log, and tries again.
                    Event::Disconnected { failure, .. } => {
                        self.status.metrics.disconnected(failure.kind);
                        self.status.health.set(State::Connecting);
                        introduction = Introduction::Due;
                    }
                },
                () = introduction.made(), if !matches!(introduction, Introduction::Made) => {
                    self.beat();
                }
                _ = beats.tick(), if matches!(introduction, Introduction::Made) => self.beat(),
                _ = pulse.tick() => {
                    self.status.health.turn();
                    let (queued, running) = self.executor.load();
                    self.status.metrics.load(queued, running);
                }
                () = self.reports.due(), if matches!(introduction, Introduction::Made) => {
                    self.report();
                }
            }
        }
        for id in self.executor.abandon() {
            error!(task = %id, "the task does not end: giving it up");
            let reason = Failure::ShuttingDown.to_string();
            self.publish(TaskResult::refused(&id, &self.id, &reason));
        }
        while let Ok(ended) = ended.try_recv() {
            self.on_ended(ended);
        }
        if let Err(undelivered) = self.link.disconnect(CLOSE_TIMEOUT).await {
            warn!("{undelivered}");
        }
        info!("stopped");
        Ok(())
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
        self.link.beat(&self.topics.alive(), Alive::new(&self.id, &self.namespace).encode());
    }

    fn on_message(&self, message: Message) {
        let Message { topic, payload, duplicate, ack } = message;
        let read = || self.dispatch(&topic, &payload, duplicate);
        if payload.len() >= LARGE_MESSAGE {
            tokio::task::block_in_place(read)
        } else {
            read()
        }
        self.link.ack(ack);
    }

    fn dispatch(&self, topic: &str, payload: &[u8], duplicate: bool) {
        if topic == self.topics.start() {
            match protocol::decode_start(payload, &self.id, self.module_limit) {
                Ok(Some(request)) => self.start(request, duplicate),
                Ok(None) => debug!("a start for another worker"),
                Err(malformed) => self.malformed_start(&malformed),
            }
        } else if topic == self.topics.stop() {
            match protocol::decode_stop(payload, &self.id) {
                Ok(Some(id)) => self.stop(&id),
                Ok(None) => debug!("a stop for another worker"),
                Err(malformed) => warn!("a stop message was dropped: {malformed}"),
            }
        } else if topic == self.topics.invoke() {
            self.invoke(payload);
        } else {
            warn!(topic, "a message on a topic that was not subscribed to");
        }
    }

    fn start(&self, request: TaskRequest, duplicate: bool) {
        let id = request.id.clone();
        let spec = match self.policy.admit(request) {
            Ok(spec) => spec,
            Err(rejection) => {
                self.status.metrics.refused(&rejection);
                return self.refuse(&id, &rejection.to_string());
            }
        };
        match self.executor.submit(spec) {
            Submission::Admitted => info!(task = %id, "task accepted"),
            Submission::Duplicate { same: true } => {
                debug!(task = %id, duplicate, "the task is queued or running already");
            }
            Submission::Duplicate { same: false } => warn!(
                task = %id,
                "a start with other content for a task that is queued or running was ignored"
            ),
            Submission::Refused(rejection) => {
                self.status.metrics.refused(&rejection);
                self.refuse(&id, &rejection.to_string());
            }
        }
    }

    fn malformed_start(&self, malformed: &Malformed) {
        self.status.metrics.malformed();
        match &malformed.id {
            Some(id) => self.refuse(id, &format!("malformed start message: {malformed}")),
            None => warn!("a start message was dropped: {malformed}"),
        }
    }

    /// Answers a start that does not become a task. While another one of the
    /// same id is queued or running, that one's result is the answer.
    fn refuse(&self, id: &TaskId, reason: &str) {
        warn!(task = %id, "task refused: {reason}");
        if !self.executor.is_active(id) {
            self.publish(TaskResult::refused(id, &self.id, reason));
        }
    }

    fn stop(&self, id: &TaskId) {
        if self.executor.stop(id) {
            info!(task = %id, "stopping the task");
        } else {
            debug!(task = %id, "a stop for a task that is neither queued nor running");
        }
    }

    fn invoke(&self, payload: &[u8]) {
        let (invocation_id, task_id, reason) = match protocol::decode_invoke(payload, &self.id) {
            Ok(None) => return,
            Ok(Some(invoke)) => {
                // By these words the manager knows to deploy it again.
                let reason = format!(
                    "the task {} has not been precompiled: this version of the worker has no \
                     latent tasks yet",
                    invoke.id
                );
                (invoke.invocation_id, Some(invoke.id), reason)
            }
            Err(Malformed { invocation_id: Some(invocation_id), id, reason }) => {
                (invocation_id, id, format!("malformed invoke message: {reason}"))
            }
            Err(malformed) => return warn!("an invoke message was dropped: {malformed}"),
        };
        warn!(invocation_id, "invoke refused: {reason}");
        let result = InvokeResult {
            invocation_id,
            task_id: task_id.map(|id| id.to_string()).unwrap_or_default(),
            proplet_id: self.id.clone(),
            results: String::new(),
            error: Some(reason),
        };
        drop(self.link.publish(&self.topics.invoke_results(), result.encode()));
    }

    fn on_ended(&self, Ended { id, outcome }: Ended) {
        let took = outcome.timings;
        self.status.metrics.ended(&outcome);
        match &outcome.verdict {
            Ok(()) => info!(
                task = %id,
                queued = ?took.queued,
                compiled = ?took.compiled,
                loaded = ?took.loaded,
                ran = ?took.ran,
                "task completed"
            ),
            Err(failure) => warn!(task = %id, ran = ?took.ran, "task failed: {failure}"),
        }
        self.publish(TaskResult::new(&id, &self.id, outcome));
    }

    fn publish(&self, result: TaskResult) {
        let (link, topic) = (self.link.clone(), self.topics.results());
        let delivery = link.publish(&topic, result.encode());
        let outgoing = self.status.metrics.outgoing();
        tokio::spawn(async move {
            let _outgoing = outgoing;
            let task = result.task_id.clone();
            let delivered = match delivery.await {
                // The task must not stay Running for want of a smaller answer.
                Err(e @ (PublishError::TooLarge { .. } | PublishError::Rejected { .. })) => {
                    error!(task, "{e}");
                    let short = result.without_output(format!("the result can't be sent: {e}"));
                    link.publish(&topic, short.encode()).await
                }
                delivered => delivered,
            };
            if let Err(e) = delivered {
                error!(task, "the result was lost: {e}");
            }
        });
    }
}
