//! The worker's configuration: flags, environment and TOML section, read once.
//!
//! A setting is looked up by the names of one table ([`SETTINGS`]): its flag
//! wins over its variable, that over the file's key, that over the default.
//! Nothing else in the crate reads the process's environment: [`Environment`]
//! does, and a test makes its own. All problems are reported together, with the
//! value's source and never with a secret.

mod address;
mod elsewhere;
mod inference;
mod manager;
mod monitoring;
mod reader;
mod settings;
mod sources;
mod state;
mod submit;
mod value;

use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::ArgMatches;

use crate::flags::GraphFlag;
use crate::mqtt;
use crate::nn::{Hint, Precision, SearchEnv};
use crate::protocol::LEAST_RESULT;
use crate::task::humantime;

pub use crate::mqtt::{CleanSession, Qos};
pub use inference::Inference;
pub use manager::{Manager, ManagerHttp};
pub use monitoring::{HealthConfig, Monitoring};
pub(crate) use settings::is_secret;
pub use settings::{
    DefaultValue, Group, SETTINGS, Setting, health_args, markdown_table, run_args, submit_args,
    worker_args,
};
pub use sources::{Environment, Source};
pub use submit::SubmitConfig;

use reader::Reader;

/// What `proplet worker` runs with. Every value is within its bounds.
#[derive(Clone, Debug)]
pub struct Config {
    /// Who the worker is.
    pub credentials: Credentials,
    /// The way to the broker.
    pub connection: Connection,
    /// Time between heartbeats, at most 5 s. The manager takes a worker for dead
    /// after 10 s, so one beat may be lost or late.
    pub liveliness_interval: Duration,
    /// Tasks that run at the same time. A task is a thread that computes, so
    /// the default is the number of cores.
    pub executors: NonZeroUsize,
    /// Tasks that wait. Each takes up to 1 KiB of memory, whatever it asks for.
    pub queue: usize,
    /// Bytes that waiting tasks may take up on the disk, each module counted
    /// once.
    pub queue_bytes: usize,
    /// Bytes of them that memory keeps.
    pub queue_memory: usize,
    /// Where the journal is; none: nothing survives the process.
    pub state_dir: Option<PathBuf>,
    /// Whether the broker is to forget the worker; without a journal it always
    /// is.
    pub clean_session: CleanSession,
    /// Time for running tasks to end after the first signal. Docker kills 10 s
    /// after it unless told otherwise, Kubernetes 30 s.
    pub drain_timeout: Duration,
    /// What one task may use.
    pub limits: TaskLimits,
    /// Largest WebAssembly module in bytes. The manager takes uploads of
    /// 100 MiB, which the default packet size carries as base64.
    pub module_size: u64,
    /// Largest model in bytes, description and weights together.
    pub model_size: u64,
    /// Bytes of compiled modules kept.
    pub module_cache: u64,
    /// Bytes of compiled models kept.
    pub graph_cache: u64,
    /// Bytes of either kept in the state directory.
    pub disk_cache: u64,
    /// Directories that tasks may open, as typed: relative ones are meant from
    /// `working_dir`, and whether they exist has not been looked at. None was
    /// set: the working directory, read-only.
    pub dirs: Option<Vec<AllowedDir>>,
    /// The working directory of the process.
    pub working_dir: PathBuf,
    /// OpenVINO's C library or its folder, if it is not to be searched for.
    pub openvino_lib: Option<PathBuf>,
    /// Where else to look for it.
    pub library_search: SearchEnv,
    /// OpenVINO's mode, with `auto` resolved.
    pub nn_hint: Hint,
    /// What it computes in.
    pub nn_precision: Precision,
    /// Whether guests may hand over models of their own. OpenVINO parses and
    /// compiles those in this process, where nothing can contain it.
    pub nn_load_bytes: bool,
    /// Graphs for every task, as typed.
    pub nn_graphs: Vec<GraphFlag>,
    /// What the manager is told.
    pub description: Description,
    /// How results reach the manager.
    pub manager: Manager,
    /// How it is watched.
    pub monitoring: Monitoring,
    /// The log.
    pub log: LogConfig,
    /// What the operator should know, one full sentence each: for the log.
    pub warnings: Vec<String>,
    /// Every setting with its value and source, secrets masked.
    pub report: Vec<Resolved>,
}

/// Who a client is to the broker. Ids are valid levels of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The domain, first level of every topic.
    pub domain: String,
    /// The channel, second level of every topic.
    pub channel: String,
    /// Client id and user name.
    pub client_id: String,
    /// The password.
    pub client_key: Secret,
}

/// A value that neither logs nor errors show.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides a value.
    pub fn new(value: impl Into<String>) -> Secret {
        Secret(value.into())
    }

    /// The value itself, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The way to the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// The broker.
    pub address: mqtt::Address,
    /// Whether the connection is encrypted.
    pub tls: bool,
    /// Time for connecting and for writing one packet. A publish of 100 MB needs
    /// more than the client's own 5 s.
    pub timeout: Duration,
    /// Quality of service of subscriptions and publishes.
    pub qos: Qos,
    /// Whole seconds. The answer to a ping waits behind a large publish, so a
    /// short one takes a busy broker for a dead one.
    pub keep_alive: Duration,
    /// Largest packet in bytes, in both directions. The default carries a
    /// module of 100 MiB as base64 (134 MiB) and what stands around it.
    pub max_packet_size: usize,
    /// PEM file with the authorities to trust instead of the system's.
    pub ca_cert: Option<PathBuf>,
    /// For mutual TLS.
    pub client_cert: Option<ClientCert>,
}

impl Connection {
    /// Where the broker is, as a URL.
    pub fn url(&self) -> String {
        address::url(&self.address, self.tls)
    }

    /// The same for a client that is called `client_id` and logs in with these
    /// credentials; what it subscribes to is the caller's.
    pub fn options(&self, client_id: &str, credentials: &Credentials) -> mqtt::Options {
        let identity = self.client_cert.as_ref();
        mqtt::Options {
            tls: self.tls.then(|| mqtt::Tls {
                ca: self.ca_cert.clone(),
                identity: identity.map(|client| (client.cert.clone(), client.key.clone())),
            }),
            login: Some(mqtt::Login {
                username: credentials.client_id.clone(),
                password: credentials.client_key.expose().to_owned(),
            }),
            qos: self.qos,
            keep_alive: self.keep_alive,
            connect_timeout: self.timeout,
            max_packet_size: self.max_packet_size,
            ..mqtt::Options::new(self.address.clone(), client_id)
        }
    }
}

/// PEM files of a client's certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCert {
    /// The certificate, with its chain.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// What one task may use. A task's own flags tighten it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskLimits {
    /// Wall-clock time; none is no limit.
    pub timeout: Option<Duration>,
    /// Bytes of linear memory. Wasm itself could take 4 GiB for each task.
    pub memory: u64,
    /// Graphs that it loads with wasi-nn, the same one again included.
    pub graphs: u32,
    /// Bytes of the different graphs that it holds.
    pub graph_bytes: u64,
    /// Execution contexts of wasi-nn.
    pub contexts: u32,
    /// Bytes of its contexts' tensors, in OpenVINO's memory.
    pub tensor_bytes: u64,
    /// Bytes kept of each output stream.
    pub output: usize,
    /// Bytes of an encoded result. FluxMQ takes packets of 1 MiB.
    pub result: usize,
}

/// A directory that tasks may open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedDir {
    /// As typed.
    pub path: PathBuf,
    /// `:rw` stands behind it.
    pub writable: bool,
}

/// What the manager is told about this worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// What it is.
    pub text: Option<String>,
    /// For the manager's selection.
    pub tags: Vec<String>,
    /// Where it is.
    pub location: Option<String>,
    /// Where the manager lists it.
    pub namespace: String,
    /// Whether the machine's name and address are told.
    pub collect_system_info: bool,
}

/// The log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// Directives that `tracing_subscriber::EnvFilter` takes.
    pub directives: String,
    /// The form of its lines.
    pub format: LogFormat,
}

/// The form of the log's lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// A setting's value and where it came from, for `proplet doctor`.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The setting.
    pub setting: &'static Setting,
    /// Its value as text; none if nobody set it, `…` if it is a secret.
    pub value: Option<String>,
    /// Where it came from.
    pub source: Source,
}

/// Why there is no configuration: every problem that was found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .problems.join("\n"))]
pub struct ConfigError {
    /// One full sentence each.
    pub problems: Vec<String>,
}

impl Config {
    /// Reads the configuration of `proplet worker`, whose flags are
    /// [`worker_args`].
    pub fn load(flags: &ArgMatches, env: &Environment) -> Result<Config, ConfigError> {
        Config::from_sources(Some(flags), env)
    }

    /// The same without flags, as for a worker that a program starts itself.
    pub fn from_environment(env: &Environment) -> Result<Config, ConfigError> {
        Config::from_sources(None, env)
    }

    fn from_sources(flags: Option<&ArgMatches>, env: &Environment) -> Result<Config, ConfigError> {
        let file = reader::open_file(flags, env)?;
        let mut reader = Reader::for_worker(flags, env, &file)?;
        reader.warn_unknown();
        let config = config(&mut reader, env);
        reader.finish(config)
    }
}

/// Reads everything before it gives up, so that all problems are found.
fn config(reader: &mut Reader<'_>, env: &Environment) -> Option<Config> {
    let credentials = reader.credentials();
    let connection = connection(reader);
    let liveliness_interval =
        reader.read("liveliness-interval", value::duration_within(MILLI * 100, HOUR));
    let manager = manager::read(reader);
    let executors = executors(reader, env);
    let queue = reader.read("queue", value::count_within(1, 1_000_000));
    let queue_bytes = reader.read("queue-bytes", value::length_within(1 << 10, 1 << 40));
    let queue_memory = reader.read("queue-memory", value::length_within(1 << 10, 1 << 40));
    let state_dir = credentials.as_ref().and_then(|who| state::directory(reader, env, who));
    let clean_session = reader.read("mqtt-clean-session", value::clean_session);
    if let (Some(None), Some(CleanSession::Never)) = (&state_dir, clean_session) {
        reader.warn(
            "mqtt-clean-session is false, but the worker keeps nothing on the disk, so its session \
             is a clean one all the same"
                .into(),
        );
    }
    let drain_timeout = reader.read("drain-timeout", value::duration_within(Duration::ZERO, HOUR));
    let limits = limits(reader);
    let module_size = reader.read("module-size", value::size_within(1 << 10, 1 << 30));
    let model_size = reader.read("model-size", value::size_within(1 << 10, 1 << 40));
    let module_cache = reader.read("module-cache", value::size);
    let graph_cache = reader.read("graph-cache", value::size);
    let dirs = reader.read_optional("dirs", value::dirs);
    let inference = inference::read(reader, env);
    let disk_cache = reader.read("disk-cache", value::size);
    let description = description(reader);
    let monitoring = monitoring::read(reader);
    let log = log(reader);
    // Where the file is has been used already; here for the report.
    reader.read("config-file", value::path);
    reader.read("config-section", value::text);
    if let Some(interval) = liveliness_interval.filter(|interval| *interval > MAX_LIVELINESS) {
        reader.warn(format!(
            "liveliness-interval is {}, and {} is used: the manager takes a worker for dead after \
             10 s without a heartbeat, so with the longer one it would come and go",
            humantime(interval),
            humantime(MAX_LIVELINESS)
        ));
    }
    let executors = executors?;
    let inference = inference?;
    Some(Config {
        credentials: credentials?,
        connection: connection?,
        liveliness_interval: liveliness_interval?.min(MAX_LIVELINESS),
        executors,
        queue: queue?,
        queue_bytes: queue_bytes?,
        queue_memory: queue_memory?,
        state_dir: state_dir?,
        clean_session: clean_session?,
        drain_timeout: drain_timeout?,
        limits: limits?,
        module_size: module_size?,
        model_size: model_size?,
        module_cache: module_cache?,
        graph_cache: graph_cache?,
        disk_cache: disk_cache?,
        dirs,
        working_dir: env.working_dir().to_owned(),
        openvino_lib: inference.openvino_lib,
        library_search: inference.library_search,
        nn_hint: inference.hint.unwrap_or(match executors.get() {
            1 => Hint::Latency,
            _ => Hint::Throughput,
        }),
        nn_precision: inference.precision,
        nn_graphs: inference.graphs,
        nn_load_bytes: inference.load_bytes,
        description: description?,
        manager: manager?,
        monitoring: monitoring?,
        log: log?,
        warnings: Vec::new(),
        report: Vec::new(),
    })
}

const MILLI: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
/// Half the time after which the manager takes a silent worker for dead.
const MAX_LIVELINESS: Duration = Duration::from_secs(5);

fn connection(reader: &mut Reader<'_>) -> Option<Connection> {
    let address = reader.read("mqtt-address", address::parse);
    let timeout = reader.read("mqtt-timeout", value::duration_within(SECOND, HOUR));
    let qos = reader.read("mqtt-qos", value::qos);
    if let Some((_, true)) = qos {
        reader.warn(
            "mqtt-qos is 2 and is taken as 1: QoS 2 does not survive a reconnect, and repeated \
             messages are known by the task's id"
                .into(),
        );
    }
    // MQTT counts whole seconds in 16 bits.
    let keep_alive = reader.read("mqtt-keep-alive", |text| {
        let duration = value::duration_within(SECOND, SECOND * 65_535)(text)?;
        match duration.subsec_nanos() {
            0 => Ok(duration),
            _ => Err("MQTT counts the keep-alive in whole seconds".into()),
        }
    });
    if let Some(short) = keep_alive.filter(|duration| *duration < SECOND * 30) {
        reader.warn(format!(
            "mqtt-keep-alive is {}: below 30 s a large message can look like a dead broker",
            humantime(short)
        ));
    }
    // 256 MiB less a byte is the most that MQTT can express.
    let max_packet_size =
        reader.read("mqtt-max-packet-size", value::length_within(1 << 10, (1 << 28) - 1));
    let ca_cert = reader.read_optional("mqtt-tls-ca-cert", value::path);
    let cert = reader.read_optional("mqtt-tls-client-cert", value::path);
    let key = reader.read_optional("mqtt-tls-client-key", value::path);
    if cert.is_some() != key.is_some() {
        let (set, missing) = if cert.is_some() { ("cert", "key") } else { ("key", "cert") };
        reader.problem(format!(
            "mqtt-tls-client-{set} is set, but mqtt-tls-client-{missing} is not: mutual TLS needs both"
        ));
    }
    let (address, tls) = address?;
    if !tls && (ca_cert.is_some() || cert.is_some()) {
        reader.warn(format!(
            "the connection to {} is not encrypted, so the mqtt-tls-* settings have no effect; \
             for TLS, write the address as ssl://{}:8883",
            address::url(&address, tls),
            address.host
        ));
    }
    Some(Connection {
        address,
        tls,
        timeout: timeout?,
        qos: qos?.0,
        keep_alive: keep_alive?,
        max_packet_size: max_packet_size?,
        ca_cert,
        client_cert: cert.zip(key).map(|(cert, key)| ClientCert { cert, key }),
    })
}

fn executors(reader: &mut Reader<'_>, env: &Environment) -> Option<NonZeroUsize> {
    let count = reader.read_or("executors", env.cores().get(), value::count_within(1, 1024));
    NonZeroUsize::new(count?)
}

fn limits(reader: &mut Reader<'_>) -> Option<TaskLimits> {
    let timeout = reader.read("task-timeout", value::limit);
    // Less than one page of WebAssembly would be no memory at all.
    let memory = reader.read("task-memory", value::size_within(64 << 10, 1 << 40));
    let output = reader.read("task-output", value::length_within(1 << 10, 64 << 20));
    let result = reader.read("result-size", value::length_within(LEAST_RESULT as u64, 1 << 28));
    let count = |text: &str| {
        let number = value::count_within(0, 1_000_000)(text)?;
        u32::try_from(number).map_err(|_| "too large".to_owned())
    };
    let graphs = reader.read("task-graphs", count);
    let graph_bytes = reader.read("task-graph-memory", value::size);
    let contexts = reader.read("task-contexts", count);
    let tensor_bytes = reader.read("task-tensor-memory", value::size);
    Some(TaskLimits {
        timeout: timeout?,
        memory: memory?,
        output: output?,
        result: result?,
        graphs: graphs?,
        graph_bytes: graph_bytes?,
        contexts: contexts?,
        tensor_bytes: tensor_bytes?,
    })
}

fn description(reader: &mut Reader<'_>) -> Option<Description> {
    let text = reader.read_optional("description", value::text);
    let tags = reader.read_optional("tags", value::list).unwrap_or_default();
    let location = reader.read_optional("location", value::text);
    let namespace = reader.read("namespace", value::text);
    let collect_system_info = reader.read("collect-system-info", value::boolean);
    Some(Description {
        text,
        tags,
        location,
        namespace: namespace?,
        collect_system_info: collect_system_info?,
    })
}

fn log(reader: &mut Reader<'_>) -> Option<LogConfig> {
    let directives = reader.read("log-level", value::log_level);
    let format = reader.read("log-format", value::log_format);
    Some(LogConfig { directives: directives?, format: format? })
}

#[cfg(test)]
mod tests;
