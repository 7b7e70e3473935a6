//! What a task is granted.

use super::{Binary, ModuleSource, Monitoring, TaskId, serialization};
use crate::digest::Digest;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

/// What a waiting task takes up, in memory or on the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weight {
    /// Bytes of its own.
    pub own: usize,
    /// Its module and that one's bytes, which count once for all tasks that
    /// wait with it.
    pub module: Option<(Digest, usize)>,
}

/// Which function of a module is the task's.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum EntryPoint {
    /// `--invoke NAME`: this export, or the task fails.
    Invoke(String),
    /// The export of this name if the module has one, else the default: `""`,
    /// then `_start`.
    Label(String),
}

/// The code of a task, or where it is. As plain data it goes by its digest:
/// the bytes go to another process once, and apart.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "Reference", from = "Reference")]
pub enum Code {
    /// The binary itself.
    Bytes(Binary),
    /// Whoever handed the task over has the binary with this digest.
    Held(Digest),
    /// Where it is: an address of http or https, or the name of an image.
    Url(String),
}

/// A [`Code`] without any bytes.
#[derive(Serialize, Deserialize)]
enum Reference {
    Held(Digest),
    Url(String),
}

impl From<Code> for Reference {
    fn from(code: Code) -> Reference {
        match code {
            Code::Bytes(binary) => Reference::Held(binary.digest()),
            Code::Held(digest) => Reference::Held(digest),
            Code::Url(url) => Reference::Url(url),
        }
    }
}

impl From<Reference> for Code {
    fn from(reference: Reference) -> Code {
        match reference {
            Reference::Held(digest) => Code::Held(digest),
            Reference::Url(url) => Code::Url(url),
        }
    }
}

impl From<ModuleSource> for Code {
    fn from(module: ModuleSource) -> Code {
        match module {
            ModuleSource::Bytes(binary) => Code::Bytes(binary),
            ModuleSource::Url(url) => Code::Url(url),
        }
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Code::Bytes(bytes) => write!(f, "Bytes({} bytes)", bytes.len()),
            Code::Held(digest) => write!(f, "Held({digest})"),
            Code::Url(url) => write!(f, "Url({url})"),
        }
    }
}

/// A host directory that the guest sees.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Preopen {
    /// Canonical path on the host.
    #[serde(with = "serialization::path")]
    pub host: PathBuf,
    /// Path in the guest.
    pub guest: String,
    /// Whether the guest may change it.
    pub writable: bool,
}

/// A directory that holds a graph (for OpenVINO: `model.xml` and `model.bin`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct GraphDir {
    /// The encoding's name as `-S nn-graph` has it, such as `openvino`.
    pub encoding: String,
    /// Canonical path on the host.
    #[serde(with = "serialization::path")]
    pub dir: PathBuf,
    /// What guests call it in `load_by_name`: the last component of the path
    /// as it was given.
    pub name: String,
}

/// What a task may use up.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Limits {
    /// Wall-clock time from the end of its wait in the queue: for fetching and
    /// compiling the module, loading graphs and running the guest together.
    pub timeout: Option<Duration>,
    /// Wall-clock time of the guest alone, from the start of its first
    /// function, as `wasmtime run` counts its `-W timeout`.
    pub run: Option<Duration>,
    /// Bytes of linear memory, summed over the instance's memories.
    pub memory: Option<u64>,
    /// Bytes kept of each output stream: the first and the last half of it.
    pub output: usize,
}

/// How an HTTP server serves, if it is one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Serving {
    /// Where it listens.
    pub bind: Bind,
    /// Wall-clock time of a request: from its head to the end of the guest.
    pub timeout: Duration,
    /// Time for requests to end when the server is to.
    pub drain: Duration,
    /// Bytes of a request's body.
    pub body: u64,
    /// Whether the log has a line for each request.
    pub access_log: bool,
}

/// Where a server listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Bind {
    /// There, or it fails.
    Exactly(SocketAddr),
    /// There, or at the first port behind that is free.
    From(SocketAddr),
}

/// What a guest is given.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Grant {
    /// argv, with argv\[0\]; for `--invoke` the positional values follow it.
    pub args: Vec<String>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// The directories.
    pub dirs: Vec<Preopen>,
    /// The function.
    pub entry: EntryPoint,
    /// wasi-nn for a module that imports it, with the graphs to preload; none
    /// if the task forbids it.
    pub nn: Option<Vec<GraphDir>>,
    /// The limits.
    pub limits: Limits,
    /// How it serves, if it is an HTTP server; none if none is served here.
    pub serving: Option<Serving>,
    /// What whoever sent the task should know of the above, one full sentence
    /// each.
    pub notes: Vec<String>,
}

/// What running a task means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Life {
    /// Its guest runs, once.
    Once,
    /// Its code is compiled and its graphs are loaded, for invocations to come;
    /// no function of its guest is called.
    Latent,
    /// Its guest runs until it ends by itself or is stopped, and what it writes
    /// goes to the log.
    Daemon,
    /// Its guest answers HTTP requests until it is stopped. A task is found to
    /// be one when its code is there.
    Server,
}

impl Life {
    /// Whether it goes on until it is stopped, and its end needs no word then.
    pub fn goes_on(self) -> bool {
        matches!(self, Life::Daemon | Life::Server)
    }
}

/// A task that the policy has admitted. Only [`crate::policy`] makes one, and
/// nothing after it checks again; [`crate::host`] takes it to another process.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TaskSpec {
    id: TaskId,
    code: Code,
    grant: Grant,
    life: Life,
    monitoring: Option<Monitoring>,
}

impl TaskSpec {
    /// One that runs once.
    pub(crate) fn new(id: TaskId, module: ModuleSource, grant: Grant) -> TaskSpec {
        TaskSpec { id, code: module.into(), grant, life: Life::Once, monitoring: None }
    }

    /// The same with another life.
    pub(crate) fn living(self, life: Life) -> TaskSpec {
        TaskSpec { life, ..self }
    }

    /// The same as a server: its limits of time are those of a request.
    pub(crate) fn serving(&self) -> TaskSpec {
        let mut spec = self.clone().living(Life::Server);
        let limits = &mut spec.grant.limits;
        limits.timeout = None;
        if let (Some(run), Some(serving)) = (limits.run.take(), &mut spec.grant.serving) {
            serving.timeout = serving.timeout.min(run);
        }
        spec
    }

    /// One run of this latent task. Without `inputs` its guest gets those of
    /// the start, and `env` is laid over the environment of the start.
    pub(crate) fn invocation(
        &self,
        number: NonZeroU64,
        inputs: Vec<String>,
        env: BTreeMap<String, String>,
    ) -> TaskSpec {
        let mut grant = self.grant.clone();
        if !inputs.is_empty() {
            grant.args.truncate(1);
            grant.args.extend(inputs);
        }
        if !env.is_empty() {
            let mut merged: BTreeMap<_, _> = grant.env.into_iter().collect();
            merged.extend(env);
            grant.env = merged.into_iter().collect();
        }
        TaskSpec {
            id: self.id.with_invocation(number),
            code: self.code.clone(),
            grant,
            life: Life::Once,
            monitoring: self.monitoring,
        }
    }

    /// The same, with its use of the machine told as asked for.
    pub(crate) fn monitored(self, monitoring: Option<Monitoring>) -> TaskSpec {
        TaskSpec { monitoring, ..self }
    }

    /// The same with one more thing to tell.
    pub(crate) fn noting(mut self, note: Option<&str>) -> TaskSpec {
        self.grant.notes.extend(note.map(str::to_owned));
        self
    }

    /// The same with its code at hand.
    pub(crate) fn with_code(self, binary: Binary) -> TaskSpec {
        TaskSpec { code: Code::Bytes(binary), ..self }
    }

    /// The same with these variables for its guest, in place of its own.
    pub(crate) fn with_variables(&self, variables: Vec<(String, String)>) -> TaskSpec {
        let mut spec = self.clone();
        let mut env: BTreeMap<_, _> = spec.grant.env.into_iter().collect();
        env.extend(variables);
        spec.grant.env = env.into_iter().collect();
        spec
    }

    /// A variable of its guest.
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.grant.env.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The manager's id.
    pub fn id(&self) -> &TaskId {
        &self.id
    }

    /// Its code, or where that is.
    pub fn code(&self) -> &Code {
        &self.code
    }

    /// What running it means.
    pub fn life(&self) -> Life {
        self.life
    }

    /// What it takes up while it waits.
    pub fn weight(&self) -> Weight {
        let grant = &self.grant;
        let args = grant.args.iter().map(|arg| arg.len() + size_of::<String>());
        let env = grant.env.iter().map(|(k, v)| k.len() + v.len() + 2 * size_of::<String>());
        let dirs = grant
            .dirs
            .iter()
            .map(|dir| size_of::<Preopen>() + dir.host.as_os_str().len() + dir.guest.len());
        let notes = grant.notes.iter().map(|note| note.len() + size_of::<String>());
        let texts = args.chain(env).chain(dirs).chain(notes).sum::<usize>();
        let module = match &self.code {
            Code::Bytes(binary) => Some((binary.digest(), binary.len())),
            Code::Held(_) | Code::Url(_) => None,
        };
        Weight { own: size_of::<TaskSpec>() + texts, module }
    }

    /// How its use of the machine is told, if the manager asks for that.
    pub fn monitoring(&self) -> Option<Monitoring> {
        self.monitoring
    }

    /// What its guest is given.
    pub fn grant(&self) -> &Grant {
        &self.grant
    }
}
