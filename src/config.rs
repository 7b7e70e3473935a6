//! The worker's configuration: flags, environment and TOML section, read once.
//!
//! A setting is looked up by the names of one table ([`SETTINGS`]): its flag
//! wins over its variable, that over the file's key, that over the default.
//! Nothing else in the crate reads the process's environment: [`Environment`]
//! does, and a test makes its own. All problems are reported together, with the
//! value's source and never with a secret.

mod address;
mod arguments;
mod choice;
mod connection;
mod foreign;
mod http;
mod images;
mod inference;
mod manager;
mod monitoring;
mod reader;
mod rounds;
mod run;
mod setting;
mod settings;
mod sources;
mod state;
mod submit;
mod unknown;
mod value;
mod worker;

use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::ArgMatches;
use tokio::sync::watch;

use crate::flags::GraphFlag;
use crate::nn::{BackendName, Devices, Hint, LoadBytes, Operators, Precision, SearchEnv};

pub use crate::mqtt::{CleanSession, Qos};
pub use arguments::{health_args, markdown_table, run_args, submit_args, worker_args};
pub use connection::{ClientCert, Connection};
pub use http::{HttpConfig, OutboundConfig};
pub use images::{ImagesConfig, RegistryConfig};
pub use inference::Inference;
pub use manager::{ManagerConfig, ManagerHttp};
pub use monitoring::{HealthConfig, MonitoringConfig};
pub use rounds::RoundsConfig;
pub use run::RunConfig;
pub use setting::{DefaultValue, Group, Setting};
pub use settings::SETTINGS;
pub(crate) use settings::is_secret;
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
    /// Daemons that run at the same time.
    pub daemons: usize,
    /// Latent tasks that are deployed.
    pub deployments: usize,
    /// Bytes that those take up on the disk, a module counted once.
    pub deployment_bytes: usize,
    /// The time from an invocation to its answer.
    pub invoke_timeout: Duration,
    /// Where the journal is; none: nothing survives the process.
    pub state_dir: Option<PathBuf>,
    /// Whether the broker is to forget the worker; without a journal it always
    /// is.
    pub clean_session: CleanSession,
    /// Time for running tasks to end after the first signal. Docker kills 10 s
    /// after it unless told otherwise, Kubernetes 30 s.
    pub drain_timeout: Duration,
    /// Where guests and models run.
    pub isolation: Isolation,
    /// What one task may use.
    pub limits: TaskLimits,
    /// HTTP servers.
    pub http: HttpConfig,
    /// Bytes that the process with the guests and models may take on top of
    /// what it starts with; none: as [`crate::host::memory`] finds.
    pub runtime_memory: Option<u64>,
    /// Largest WebAssembly module in bytes. The manager takes uploads of
    /// 100 MiB, which the default packet size carries as base64.
    pub module_size: u64,
    /// Largest model in bytes, description and weights together.
    pub model_size: u64,
    /// Bytes of compiled modules kept.
    pub module_cache: u64,
    /// Bytes of files' contents kept in memory; 0: none.
    pub file_cache: u64,
    /// Bytes of compiled models kept.
    pub graph_cache: u64,
    /// Bytes of either kept in the state directory.
    pub disk_cache: u64,
    /// Where images come from.
    pub images: ImagesConfig,
    /// Directories that tasks may open, as typed: relative ones are meant from
    /// `working_dir`, and whether they exist has not been looked at. None was
    /// set: the working directory, read-only.
    pub dirs: Option<Vec<AllowedDir>>,
    /// The working directory of the process.
    pub working_dir: PathBuf,
    /// The program's own file, where the system tells: other processes of this
    /// worker are started of it.
    pub program: Option<PathBuf>,
    /// The one backend for models, or all that there are.
    pub nn_backend: Option<BackendName>,
    /// OpenVINO's C library or its folder, if it is not to be searched for.
    pub openvino_lib: Option<PathBuf>,
    /// Where else to look for it.
    pub library_search: SearchEnv,
    /// OpenVINO's mode, with `auto` resolved.
    pub nn_hint: Hint,
    /// What it computes in.
    pub nn_precision: Precision,
    /// Which operators a model may have.
    pub nn_operators: Operators,
    /// OpenVINO's devices for the guests' targets.
    pub nn_devices: Devices,
    /// Of which encodings guests may hand over models of their own. Native libraries
    /// parse and compile those.
    pub nn_load_bytes: LoadBytes,
    /// The worker's library for libtorch or its folder, if it is not to be searched for.
    pub torch_lib: Option<PathBuf>,
    /// Graphs for every task, as typed.
    pub nn_graphs: Vec<GraphFlag>,
    /// What the manager is told.
    pub description: Description,
    /// How results reach the manager.
    pub manager: ManagerConfig,
    /// Federated rounds.
    pub rounds: RoundsConfig,
    /// How it is watched.
    pub monitoring: MonitoringConfig,
    /// The log.
    pub log: LogConfig,
    /// Its directives as they change while the worker runs, for the processes
    /// that this one starts; none: they don't.
    pub log_changes: Option<watch::Receiver<String>>,
    /// What the operator should know, one full sentence each: for the log.
    pub warnings: Vec<String>,
    /// Every setting with its value and source, secrets masked.
    pub report: Vec<Resolved>,
}

/// Where guests and models run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// In a process of their own.
    Process,
    /// In the worker's.
    None,
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

    /// The same for what a worker does without a broker: credentials may be
    /// missing, and what is said of that comes with it. There is no state then.
    pub fn load_offline(
        flags: &ArgMatches,
        env: &Environment,
    ) -> Result<(Config, Option<String>), ConfigError> {
        let file = reader::open_file(Some(flags), env)?;
        let mut reader = Reader::for_worker(Some(flags), env, &file)?;
        reader.allow_missing_credentials();
        reader.warn_unknown();
        let config = worker::read(&mut reader, env);
        let missing = reader.credentials_missing().map(str::to_owned);
        let mut config = reader.finish(config)?;
        if missing.is_some() {
            config.state_dir = None;
        }
        Ok((config, missing))
    }

    /// The same without flags, as for a worker that a program starts itself.
    pub fn from_environment(env: &Environment) -> Result<Config, ConfigError> {
        Config::from_sources(None, env)
    }

    fn from_sources(flags: Option<&ArgMatches>, env: &Environment) -> Result<Config, ConfigError> {
        let file = reader::open_file(flags, env)?;
        let mut reader = Reader::for_worker(flags, env, &file)?;
        reader.warn_unknown();
        let config = worker::read(&mut reader, env);
        reader.finish(config)
    }
}

const MILLI: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests;
