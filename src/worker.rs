//! The worker: takes tasks from the broker, has them run, publishes results.
//!
//! [`run`] wires everything and then waits for whatever comes next: a message,
//! an outcome, the next heartbeat, the signal to end. It decides and delegates
//! and never waits for a task.
//!
//! ```text
//! start ─▶ serving ──signal──▶ draining ──idle, or deadline──▶ cancelling ─▶ closing
//! ```

use crate::config::{self, Config};
use crate::executor::{Ended, Executor, Submission};
use crate::machine;
use crate::mqtt::{self, Event, Link, Message, PublishError};
use crate::nn::{self, Nn, NnConfig};
use crate::policy::{self, Policy, Root, Trust};
use crate::protocol::{
    self, Alive, Discovery, InvokeResult, Malformed, TaskResult, Topics, WorkerMetadata,
};
use crate::runtime::{MAX_WASM_STACK, Runtime, RuntimeConfig, Stdio, THREAD_STACK};
use crate::task::{Failure, GraphDir, Limits, TaskId, TaskRequest};
use crate::version;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{debug, error, info, warn};

/// How long a task may take to notice that it was cancelled at the end.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the last results may take to reach the broker.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);
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
    let policy = policy(&config);
    warn_of_missing_roots(&policy);
    let nn = Nn::new(nn_config(&config, &policy));
    let runtime = RuntimeConfig {
        module_cache: config.module_cache,
        module_size: config.module_size,
        stdio: Stdio::Captured,
    };
    let runtime = Arc::new(Runtime::new(&runtime, nn.clone())?);
    preload(nn);
    let (executor, ended) = Executor::start(
        config.executors.get(),
        config.queue,
        THREAD_STACK,
        Box::new(move |spec, cancel| runtime.run(spec, cancel)),
    )?;
    let topics = Topics::new(&config.credentials.domain, &config.credentials.channel);
    let (link, events) = mqtt::connect(options(&config, &topics))?;
    let worker = Worker {
        about: about(&config),
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

/// What tasks may have, by the configuration.
fn policy(config: &Config) -> Policy {
    let roots = match &config.dirs {
        Some(dirs) => {
            dirs.iter().map(|dir| Root { path: dir.path.clone(), writable: dir.writable }).collect()
        }
        None => vec![Root { path: PathBuf::from("."), writable: false }],
    };
    Policy {
        trust: Trust::Stranger { roots, preopen_roots: config.dirs.is_some() },
        limits: Limits {
            timeout: config.limits.timeout,
            memory: Some(config.limits.memory),
            output: config.limits.output,
        },
        module_size: config.module_size,
        working_dir: config.working_dir.clone(),
        max_wasm_stack: MAX_WASM_STACK as u64,
        resolve: policy::resolve_dir,
    }
}

fn warn_of_missing_roots(policy: &Policy) {
    let Trust::Stranger { roots, .. } = &policy.trust else { return };
    for root in roots {
        let path = policy.working_dir.join(&root.path);
        if let Err(e) = (policy.resolve)(&path) {
            warn!(
                "the allowed directory {} can't be used: {e}; tasks will not find it until it is \
                 there (a volume mount with an absolute path?)",
                root.path.display()
            );
        }
    }
}

fn nn_config(config: &Config, policy: &Policy) -> NnConfig {
    let graphs = config.nn_graphs.iter().filter_map(|graph| {
        let found = policy.trusted_graph(&graph.encoding, &graph.dir);
        found.inspect_err(|e| warn!("nn-graphs: {e}; no task can load it by name")).ok()
    });
    NnConfig {
        library: config.openvino_lib.clone(),
        search: config.library_search.clone(),
        hint: match config.nn_hint {
            config::NnHint::Latency => nn::Hint::Latency,
            config::NnHint::Throughput => nn::Hint::Throughput,
        },
        cache_bytes: config.graph_cache,
        model_bytes: config.model_size,
        graphs: graphs.collect(),
        limits: nn::NnLimits::default(),
    }
}

/// Loads the configured graphs while the worker already connects.
fn preload(nn: Nn) {
    tokio::task::spawn_blocking(move || {
        for (GraphDir { name, dir, .. }, loaded) in nn.preload() {
            match loaded {
                Ok(()) => info!(graph = name, dir = %dir.display(), "preloaded a graph"),
                Err(e) => warn!(graph = name, "a graph could not be preloaded: {e}"),
            }
        }
    });
}

fn options(config: &Config, topics: &Topics) -> mqtt::Options {
    let credentials = &config.credentials;
    let mut options = connection_options(&config.connection, &credentials.client_id);
    options.credentials = Some(mqtt::Credentials {
        username: credentials.client_id.clone(),
        password: credentials.client_key.expose().to_owned(),
    });
    options.subscriptions = vec![topics.start(), topics.stop(), topics.invoke()];
    options
}

/// The way to the broker, as the configuration has it, for a client of this
/// id; who it is and what it subscribes to are the caller's.
pub(crate) fn connection_options(
    connection: &config::Connection,
    client_id: &str,
) -> mqtt::Options {
    let address =
        mqtt::Address { host: connection.address.host.clone(), port: connection.address.port };
    let identity = connection.client_cert.as_ref();
    mqtt::Options {
        tls: connection.address.tls.then(|| mqtt::Tls {
            ca: connection.ca_cert.clone(),
            identity: identity.map(|client| (client.cert.clone(), client.key.clone())),
        }),
        qos: match connection.qos {
            config::Qos::AtMostOnce => mqtt::Qos::AtMostOnce,
            config::Qos::AtLeastOnce => mqtt::Qos::AtLeastOnce,
        },
        keep_alive: connection.keep_alive,
        connect_timeout: connection.timeout,
        max_packet_size: connection.max_packet_size,
        ..mqtt::Options::new(address, client_id)
    }
}

fn about(config: &Config) -> WorkerMetadata {
    let description = &config.description;
    let address = &config.connection.address;
    WorkerMetadata {
        description: description.text.clone(),
        tags: description.tags.clone(),
        location: description.location.clone(),
        ..machine::describe(description.collect_system_info, (&address.host, address.port))
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
        tokio::pin!(shutdown);
        loop {
            tokio::select! {
                Some(event) = events.next() => self.on_event(event),
                Some(ended) = ended.recv() => self.on_ended(ended),
                _ = beats.tick() => self.beat(),
                () = &mut shutdown => break,
            }
        }

        self.executor.drain();
        let (_, running) = self.executor.load();
        info!(running, ?drain_timeout, "shutting down: no new tasks, running ones may finish");
        let deadline = Instant::now() + drain_timeout;
        let last_call = deadline + CANCEL_TIMEOUT;
        let mut cancelled = false;
        loop {
            tokio::select! {
                // Results first, so that none is left when all is drained.
                biased;
                Some(ended) = ended.recv() => self.on_ended(ended),
                () = self.executor.drained() => break,
                Some(event) = events.next() => self.on_event(event),
                _ = beats.tick() => self.beat(),
                () = tokio::time::sleep_until(deadline), if !cancelled => {
                    self.executor.cancel_running();
                    cancelled = true;
                }
                () = tokio::time::sleep_until(last_call) => break,
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

    fn on_event(&self, event: Event) {
        match event {
            Event::Connected { session_present } => {
                info!(session_present, "connected to the broker");
                self.introduce();
            }
            Event::Message(message) => self.on_message(message),
            // The link has said so in the log, and tries again.
            Event::Disconnected { failure, retry_in } => debug!(?retry_in, "{failure}"),
        }
    }

    /// The manager may have restarted: it must hear who this is before it
    /// hears that this is alive.
    fn introduce(&self) {
        let discovery = Discovery {
            proplet_id: self.id.clone(),
            namespace: self.namespace.clone(),
            metadata: self.about.clone(),
        };
        // If this connection ends first, the next one begins with it again.
        drop(self.link.announce(&self.topics.create(), discovery.encode()));
        self.beat();
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
            Err(rejection) => return self.refuse(&id, &rejection.to_string()),
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
            Submission::Refused(rejection) => self.refuse(&id, &rejection.to_string()),
        }
    }

    fn malformed_start(&self, malformed: &Malformed) {
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
        tokio::spawn(async move {
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
