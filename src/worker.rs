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
mod effective;
mod monitor;
mod oversize;
mod recall;
mod results;
mod setup;
mod tasks;

pub use effective::{Effective, effective};
pub(crate) use setup::manager_place;
pub use setup::{bounds, nn_config, policy, runtime_config};

use crate::config::Config;
use crate::executor::{Ended, Executor, Leftover};
use crate::journal::{Journal, Opened, Recovered};
use crate::ledger::{After, Event as Happening, Ledger};
use crate::metrics::{Metrics, RuntimeLevels};
use crate::mqtt::{self, Ack, Delivery, Event, Link, Message};
use crate::nn::{Nn, NnConfig};
use crate::policy::{self, Policy, Resolve};
use crate::process;
use crate::protocol::{self, Alive, Discovery, InvokeResult, Malformed, Topics, WorkerMetadata};
use crate::runtime::{Runtime, RuntimeConfig, THREAD_STACK};
use crate::status::{self, Health, State, Status};
use crate::version;
use admission::{Admission, Admitted};
use std::sync::Arc;
use std::time::Duration;
use tasks::Tasks;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{debug, error, info, warn};

/// How long a task may take to notice that it was cancelled at the end.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the last results may take to reach the broker.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long what was compiled may take to be kept on the disk.
const KEEP_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the loop turns at least.
const PULSE: Duration = Duration::from_secs(1);
/// A message from this size on is decoded beside the loop's other work.
const LARGE_MESSAGE: usize = 1 << 20;

/// Runs a worker until `shutdown` is ready and its tasks have ended or been
/// ended. What `shutdown` gives is dropped as soon as it is noted that no task
/// is the cause of the end.
///
/// # Errors
///
/// A setting that can't work (a certificate that is not there, …); a broker
/// that can't be reached is none.
pub async fn run<T>(config: Config, shutdown: impl Future<Output = T>) -> anyhow::Result<()> {
    run_with(config, policy::resolve_dir, shutdown).await
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
    let Kept { journal, recovered, durable } = open_state(&config)?;
    let marks = journal.as_ref().map(Journal::marks);
    let policy = Policy { resolve, ..setup::policy(&config) };
    setup::check_roots(&config, &policy)?;
    let [modules, graphs] = ["modules", "graphs"].map(|kind| setup::disk_cache(&config, kind));
    let nn = Nn::new(NnConfig { disk: graphs.clone(), ..setup::nn_config(&config, &policy) });
    let engine = RuntimeConfig { disk: modules.clone(), ..setup::runtime_config(&config) };
    let runtime = Arc::new(Runtime::new(&engine, nn.clone())?);
    // The engine has opened what it needs of `/proc/self`.
    process::hide_memory();
    setup::preload(nn.clone());
    let caches = runtime.clone();
    let status = Arc::new(Status {
        proplet_id: id.clone(),
        health: Health::default(),
        metrics: Metrics::new(move || RuntimeLevels {
            modules_compiled: caches.modules_compiled(),
            module_bytes: caches.module_bytes(),
            nn: nn.stats(),
            inferences: nn.inference_times(),
        }),
    });
    let _server = match config.monitoring.listen {
        Some(address) => status::serve(address, status.clone()).await,
        None => None,
    };
    let reader = journal.as_ref().map(Journal::reader);
    let (executor, ended) = Executor::start(
        config.executors.get(),
        setup::bounds(&config),
        THREAD_STACK,
        recall::recall(reader, policy.clone()),
        Box::new(move |spec, cancel| {
            let _mark = marks.as_ref().map(|marks| marks.begin(spec.id()));
            runtime.run(spec, cancel)
        }),
    )?;
    let topics = Topics::new(&config.credentials.domain, &config.credentials.channel);
    let manager = results::Manager::start(&config, journal.as_ref().map(Journal::reader))?;
    let (link, events) = mqtt::connect(setup::options(&config, &topics, sessions))?;
    let about = setup::about(&config);
    let memory = about.total_memory_bytes;
    let result_limit = setup::result_limit(&config, &topics);
    let (admission, admitted) = Admission::start(policy)?;
    let ledger = Ledger::new(&id, result_limit, journal.is_some());
    let mut worker = Worker {
        about,
        reports: monitor::Reports::new(config.monitoring.report_every, memory),
        status,
        namespace: config.description.namespace,
        module_limit: usize::try_from(config.module_size).unwrap_or(usize::MAX),
        id,
        topics,
        executor,
        link,
        phase: Phase::Serving,
        tasks: Tasks::new(ledger, journal, admission),
        manager,
    };
    worker.take_over(&recovered.finished);
    worker.on(Happening::Recovered(recovered));
    let inputs = Inputs { events, admitted, ended, durable };
    let served =
        worker.serve(inputs, config.liveliness_interval, config.drain_timeout, shutdown).await;
    for disk in [modules, graphs].into_iter().flatten() {
        tokio::task::block_in_place(|| disk.close(KEEP_TIMEOUT));
    }
    served
}

/// The journal, if there is to be one.
struct Kept {
    journal: Option<Journal<After<Ack>>>,
    recovered: Recovered,
    durable: UnboundedReceiver<After<Ack>>,
}

fn open_state(config: &Config) -> anyhow::Result<Kept> {
    match &config.state_dir {
        Some(directory) => {
            let Opened { journal, recovered, durable } =
                Journal::open(directory, config.executors.get())?;
            Ok(Kept { journal: Some(journal), recovered, durable })
        }
        None => {
            let durable = unbounded_channel().1;
            Ok(Kept { journal: None, recovered: Recovered::default(), durable })
        }
    }
}

/// What the worker hears of.
struct Inputs {
    events: mqtt::Events,
    admitted: UnboundedReceiver<Admitted>,
    ended: UnboundedReceiver<Ended>,
    durable: UnboundedReceiver<After<Ack>>,
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
    executor: Executor,
    link: Link,
    status: Arc<Status>,
    reports: monitor::Reports,
    phase: Phase,
    tasks: Tasks,
    manager: results::Manager,
}

impl Worker {
    async fn serve<T>(
        mut self,
        Inputs { mut events, mut admitted, mut ended, mut durable }: Inputs,
        liveliness: Duration,
        drain_timeout: Duration,
        shutdown: impl Future<Output = T>,
    ) -> anyhow::Result<()> {
        let mut beats = tokio::time::interval(liveliness);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // So that whoever asks for the worker's health hears that its loop turns.
        let mut pulse = tokio::time::interval(PULSE);
        pulse.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut introduction = Introduction::Due;
        tokio::pin!(shutdown);
        loop {
            tokio::select! {
                // Results first, so that none is left when all is drained.
                biased;
                Some(ended) = ended.recv() => self.on_ended(ended),
                Some(after) = durable.recv() => self.on_durable(after),
                Some(Ok(delivery)) = self.tasks.deliveries.join_next() => {
                    self.on_delivery(delivery);
                }
                happened = self.manager.happened() => self.on_manager(happened),
                noted = &mut shutdown, if self.phase == Phase::Serving => {
                    self.tasks.exonerate();
                    drop(noted);
                    self.status.health.set(State::Draining);
                    self.on(Happening::Draining);
                    let survive = self.tasks.survive();
                    self.executor.drain(if survive { Leftover::Leave } else { Leftover::Report });
                    let (_, running) = self.executor.load();
                    info!(running, ?drain_timeout, "shutting down: running tasks may finish");
                    self.phase = Phase::Draining(Instant::now() + drain_timeout);
                }
                () = self.executor.drained(), if self.phase != Phase::Serving => break,
                () = self.phase.over() => match self.phase {
                    Phase::Draining(_) => {
                        self.executor.cancel_running();
                        self.phase = Phase::Cancelling(Instant::now() + CANCEL_TIMEOUT);
                    }
                    Phase::Serving | Phase::Cancelling(_) => break,
                },
                Some(admitted) = admitted.recv() => self.on_admitted(admitted),
                Some(event) = events.next() => match event {
                    Event::Connected { session_present, session } => {
                        info!(session_present, ?session, "connected to the broker");
                        self.status.metrics.connected();
                        self.status.health.set(State::Serving);
                        introduction = Introduction::Sent(self.introduce());
                    }
                    Event::Message(message) => self.on_message(message),
                    Event::Acknowledged(receipt) => self.on(Happening::Acknowledged(receipt)),
                    // The link has said so in the log, and tries again.
                    Event::Disconnected { failure, .. } => {
                        self.status.metrics.disconnected(failure.kind);
                        self.status.health.set(State::Connecting);
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
                    self.sample();
                }
                () = self.reports.due(), if matches!(introduction, Introduction::Made) => {
                    self.report();
                }
            }
        }
        for id in self.executor.abandon() {
            self.give_up(id);
        }
        while let Ok(ended) = ended.try_recv() {
            self.on_ended(ended);
        }
        self.close(durable).await;
        Ok(())
    }

    /// Sees to it that what is done is recorded and delivered, as far as that
    /// is possible in time.
    async fn close(mut self, mut durable: UnboundedReceiver<After<Ack>>) {
        self.depart_all();
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
        // The link is closed, so each delivery is decided.
        while let Some(delivery) = self.tasks.deliveries.join_next().await {
            if let Ok(delivery) = delivery {
                self.on_delivery(delivery);
            }
        }
        // Threads that are stuck may not hold up the rest; the others are done.
        drop(self.executor);
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

    fn on_message(&mut self, message: Message) {
        if message.payload.len() >= LARGE_MESSAGE {
            tokio::task::block_in_place(|| self.dispatch(message));
        } else {
            self.dispatch(message);
        }
    }

    fn dispatch(&mut self, Message { topic, payload, duplicate, retained, ack }: Message) {
        if payload.is_empty() {
            // What removes a retained message is itself passed on.
            debug!(topic, "an empty message");
        } else if retained {
            warn!(
                "a message that the broker retains on `{topic}` was dropped, because it comes again \
                 with each connection; remove it: `mosquitto_pub -r -n -t {topic}`, or publish an \
                 empty retained message there in another way"
            );
        } else if topic == self.topics.start() {
            match protocol::decode_start(&payload, &self.id, self.module_limit) {
                Ok(Some(request)) => return self.start(request, duplicate, ack),
                Ok(None) => debug!("a start for another worker"),
                Err(malformed) => {
                    return self.malformed_start(malformed, &payload, duplicate, ack);
                }
            }
        } else if topic == self.topics.stop() {
            match protocol::decode_stop(&payload, &self.id) {
                Ok(Some(id)) => return self.on(Happening::Stop { id, ack }),
                Ok(None) => debug!("a stop for another worker"),
                Err(malformed) => warn!("a stop message was dropped: {malformed}"),
            }
        } else if topic == self.topics.invoke() {
            self.invoke(&payload);
        } else {
            warn!(topic, "a message on a topic that was not subscribed to");
        }
        self.link.ack(ack);
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
}
