//! The plain data of a task, from what was asked to what came of it.
//!
//! [`TaskRequest`] is what a message or a command line said, [`TaskSpec`] what
//! the policy has proven and granted, [`Outcome`] what happened. Nothing here
//! does I/O or depends on another module of this crate but [`crate::digest`].

use crate::digest::Digest;
use std::collections::BTreeMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

mod monitoring;
mod state;
pub use monitoring::Monitoring;
pub use state::ManagerState;

/// The manager's name for a task: any non-empty string of at most
/// [`TaskId::MAX_LEN`] bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskId(Arc<str>);

impl TaskId {
    /// The longest id in bytes. The manager uses UUIDs (36 bytes).
    pub const MAX_LEN: usize = 256;

    /// Checks the length.
    pub fn new(id: &str) -> Result<TaskId, InvalidTaskId> {
        match id.len() {
            0 => Err(InvalidTaskId::Empty),
            n if n > TaskId::MAX_LEN => Err(InvalidTaskId::TooLong(n)),
            _ => Ok(TaskId(id.into())),
        }
    }

    /// The id as the manager wrote it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a string is not a task's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTaskId {
    /// The id is the empty string.
    #[error("the task's `id` is empty")]
    Empty,
    /// The id is longer than [`TaskId::MAX_LEN`]; its length in bytes.
    #[error("the task's `id` has {0} bytes, more than {max}", max = TaskId::MAX_LEN)]
    TooLong(usize),
}

/// A module's binary with its digest, which is taken once: the journal, the
/// cache of compiled modules and equality go by it. Clones share the bytes.
#[derive(Clone)]
pub struct Binary(Arc<Contents>);

struct Contents {
    bytes: Box<[u8]>,
    digest: Digest,
}

/// A [`Binary`] that may be gone.
#[derive(Clone)]
pub struct WeakBinary(Weak<Contents>);

impl Binary {
    /// Takes the digest.
    pub fn new(bytes: impl Into<Box<[u8]>>) -> Binary {
        let bytes = bytes.into();
        let digest = Digest::of(&bytes);
        Binary(Arc::new(Contents { bytes, digest }))
    }

    /// Of the bytes.
    pub fn digest(&self) -> Digest {
        self.0.digest
    }

    /// A reference that does not keep it.
    pub fn downgrade(&self) -> WeakBinary {
        WeakBinary(Arc::downgrade(&self.0))
    }
}

impl WeakBinary {
    /// The binary, if anyone still holds it.
    pub fn upgrade(&self) -> Option<Binary> {
        self.0.upgrade().map(Binary)
    }
}

impl Deref for Binary {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0.bytes
    }
}

impl PartialEq for Binary {
    fn eq(&self, other: &Binary) -> bool {
        self.digest() == other.digest()
    }
}

impl Eq for Binary {}

impl Hash for Binary {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.digest().hash(state);
    }
}

/// Where a task's WebAssembly module comes from.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum ModuleSource {
    /// The binary itself, as it came with the message or from a local file.
    Bytes(Binary),
    /// To be fetched over http or https.
    Url(String),
}

impl fmt::Debug for ModuleSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ModuleSource::Bytes(bytes) => write!(f, "Bytes({} bytes)", bytes.len()),
            ModuleSource::Url(url) => write!(f, "Url({url})"),
        }
    }
}

/// A task as it was asked for, nothing proven yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskRequest {
    /// The manager's id.
    pub id: TaskId,
    /// What the manager's record of the task said when it sent the start; none
    /// if the message had no number there, as from a journal, which keeps none.
    pub state: Option<ManagerState>,
    /// A label, which in some deployments is the name of an export.
    pub name: String,
    /// `file` or `image_url`; none if the message had neither.
    pub module: Option<ModuleSource>,
    /// The guest's arguments after argv\[0\].
    pub inputs: Vec<String>,
    /// Arguments of `wasmtime run` before the module, one an element.
    pub cli_args: Vec<String>,
    /// The guest's environment.
    pub env: BTreeMap<String, String>,
    /// Asks for a long-running service (not built yet).
    pub daemon: bool,
    /// Asks for a module that waits for `invoke` (not built yet).
    pub latent: bool,
    /// Says that the module is encrypted (not built yet).
    pub encrypted: bool,
    /// How its use of the machine is to be told, if it is asked for.
    pub monitoring: Option<Monitoring>,
}

impl TaskRequest {
    /// A request of this id that asks for nothing, a module included.
    pub fn new(id: TaskId) -> TaskRequest {
        TaskRequest {
            id,
            state: None,
            name: String::new(),
            module: None,
            inputs: Vec::new(),
            cli_args: Vec::new(),
            env: BTreeMap::new(),
            daemon: false,
            latent: false,
            encrypted: false,
            monitoring: None,
        }
    }
}

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
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Entry {
    /// `--invoke NAME`: this export, or the task fails.
    Invoke(String),
    /// The export of this name if the module has one, else the default: `""`,
    /// then `_start`.
    Label(String),
}

/// A host directory that the guest sees.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Preopen {
    /// Canonical path on the host.
    pub host: PathBuf,
    /// Path in the guest.
    pub guest: String,
    /// Whether the guest may change it.
    pub writable: bool,
}

/// A directory that holds a graph (for OpenVINO: `model.xml` and `model.bin`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GraphDir {
    /// The encoding's name as `-S nn-graph` has it, such as `openvino`.
    pub encoding: String,
    /// Canonical path on the host.
    pub dir: PathBuf,
    /// What guests call it in `load_by_name`: the last component of the path
    /// as it was given.
    pub name: String,
}

/// What a task may use up.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
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

/// What a guest is given.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Grant {
    /// argv, with argv\[0\]; for `--invoke` the positional values follow it.
    pub args: Vec<String>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// The directories.
    pub dirs: Vec<Preopen>,
    /// The function.
    pub entry: Entry,
    /// wasi-nn for a module that imports it, with the graphs to preload; none
    /// if the task forbids it.
    pub nn: Option<Vec<GraphDir>>,
    /// The limits.
    pub limits: Limits,
    /// What whoever sent the task should know of the above, one full sentence
    /// each.
    pub notes: Vec<String>,
}

/// A task that the policy has admitted. Only [`crate::policy`] makes one, and
/// nothing after it checks again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TaskSpec {
    id: TaskId,
    module: ModuleSource,
    grant: Grant,
    monitoring: Option<Monitoring>,
}

impl TaskSpec {
    pub(crate) fn new(id: TaskId, module: ModuleSource, grant: Grant) -> TaskSpec {
        TaskSpec { id, module, grant, monitoring: None }
    }

    /// The same, with its use of the machine told as asked for.
    pub(crate) fn monitored(self, monitoring: Option<Monitoring>) -> TaskSpec {
        TaskSpec { monitoring, ..self }
    }

    /// The manager's id.
    pub fn id(&self) -> &TaskId {
        &self.id
    }

    /// Where its module comes from.
    pub fn module(&self) -> &ModuleSource {
        &self.module
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
        let module = match &self.module {
            ModuleSource::Bytes(binary) => Some((binary.digest(), binary.len())),
            ModuleSource::Url(_) => None,
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

/// Why a task was not admitted. The text is the task's `error`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// A start message that can't be read: which field, and why.
    #[error("malformed start message: {0}")]
    Malformed(String),
    /// An argument that is unknown, malformed or not allowed here.
    #[error("{0}")]
    Argument(String),
    /// Something this worker does not do yet.
    #[error("{0}")]
    Unsupported(String),
    /// The module is missing, too large or not decodable.
    #[error("{0}")]
    Module(String),
    /// A directory outside the allowed roots, or one that is not there.
    #[error("{0}")]
    Directory(String),
    /// The queue is full.
    #[error(
        "busy: {running} tasks running, {queued} queued (limit {limit}); try again later or raise --queue"
    )]
    Busy {
        /// Tasks in execution.
        running: usize,
        /// Tasks waiting.
        queued: usize,
        /// The queue's capacity.
        limit: usize,
    },
    /// The waiting tasks take up too much of the disk.
    #[error(
        "busy: {running} tasks running, {queued} queued with {bytes} bytes (limit {limit}); try again later or raise --queue-bytes"
    )]
    BusyBytes {
        /// Tasks in execution.
        running: usize,
        /// Tasks waiting.
        queued: usize,
        /// Bytes that those hold.
        bytes: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The waiting tasks take up too much memory, and there is no journal.
    #[error(
        "busy: {running} tasks running, {queued} queued with {bytes} bytes in memory (limit {limit}); try again later, raise --queue-memory, or let the worker keep a journal (--state-dir)"
    )]
    BusyMemory {
        /// Tasks in execution.
        running: usize,
        /// Tasks waiting.
        queued: usize,
        /// Bytes that those hold.
        bytes: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// Too many tasks wait for their admission.
    #[error(
        "busy: {waiting} tasks wait for their directories to be looked up; try again later, and see \
         whether an allowed directory hangs (a network mount whose server is gone?)"
    )]
    Admission {
        /// How many.
        waiting: usize,
    },
    /// The worker is on its way out.
    #[error("shutting down: the worker takes no new tasks")]
    ShuttingDown,
}

/// Why a task that was admitted failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The module could not be fetched, compiled or linked.
    #[error("{0}")]
    Module(String),
    /// A graph of `-S nn-graph` could not be loaded, or there is no backend.
    #[error("{0}")]
    Graph(String),
    /// It waited in the journal and can't be read back, or is not admitted any
    /// more.
    #[error("{0}")]
    Recall(String),
    /// A directory that was granted can't be opened.
    #[error("{0}")]
    Directory(String),
    /// The guest trapped; the kind in the words of the WebAssembly
    /// specification, then where.
    #[error("{0}")]
    Trap(String),
    /// The guest asked something of the host that ends it: a bad pointer, an
    /// exit code that WASI does not know.
    #[error("{0}")]
    Fault(String),
    /// The guest called `proc_exit` with a code other than 0.
    #[error("the guest exited with code {0}")]
    Exit(i32),
    /// The time limit passed.
    #[error("timeout: the task ran longer than {}", humantime(*.0))]
    Timeout(Duration),
    /// A `stop` came.
    #[error("stopped")]
    Stopped,
    /// The worker ended first.
    #[error("shutting down: the worker ended before the task did")]
    ShuttingDown,
    /// The worker's process ended in the middle of it, this many times.
    #[error(
        "the worker died {0} times while it ran this task (killed, out of memory, or a crash of a native library), so it is not run again"
    )]
    Fatal(u32),
    /// A fault of this worker's own, which says so.
    #[error("internal error of the worker: {0}")]
    Internal(String),
}

/// A duration as a person writes it: `300ms`, `5s`, `1.5s`.
pub fn humantime(duration: Duration) -> String {
    if duration.subsec_nanos() == 0 {
        format!("{}s", duration.as_secs())
    } else if duration < Duration::from_secs(1) {
        format!("{}ms", duration.as_secs_f64() * 1e3)
    } else {
        format!("{}s", duration.as_secs_f64())
    }
}

/// Where a task's time went. The phases do not overlap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// From admission to an executor's hand.
    pub queued: Duration,
    /// Fetching and compiling the module; next to nothing when it was cached.
    pub compiled: Duration,
    /// Loading graphs, those that the guest asked for included.
    pub loaded: Duration,
    /// The rest of the guest's time.
    pub ran: Duration,
}

/// What a task found ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reuse {
    /// The module was in memory, compiled.
    pub module: bool,
    /// Graphs that this task loaded and that were in the cache.
    pub graphs_reused: u32,
    /// Graphs that this task had to load: compiled, or from the disk.
    pub graphs_loaded: u32,
}

/// One of a guest's output streams, as far as it was kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Captured {
    /// What was written; when `dropped` is not zero the first half and the
    /// last half of the limit, with a line between them that says so, and no
    /// character of a text cut in two.
    pub bytes: Vec<u8>,
    /// Bytes between the halves that were not kept.
    pub dropped: u64,
}

const GAP: [&str; 2] = ["\n[… ", " bytes not kept …]\n"];

/// The line in place of this many bytes that were not kept.
pub fn gap(dropped: u64) -> String {
    format!("{}{dropped}{}", GAP[0], GAP[1])
}

/// What the first such line among these bytes counts.
pub fn gap_in(bytes: &[u8]) -> Option<u64> {
    let [before, behind] = GAP.map(str::as_bytes);
    let mut starts = bytes.windows(before.len()).enumerate().filter(|(_, bytes)| *bytes == before);
    starts.find_map(|(start, _)| {
        let rest = &bytes[start + before.len()..];
        // As many as the largest number has, and one more.
        let digits = rest.iter().take(20).take_while(|byte| byte.is_ascii_digit()).count();
        let (number, rest) = rest.split_at(digits);
        let number = std::str::from_utf8(number).ok()?.parse().ok()?;
        rest.starts_with(behind).then_some(number)
    })
}

/// What came of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Success, or why not.
    pub verdict: Result<(), Failure>,
    /// The guest's exit code, if it came to one.
    pub exit_code: Option<i32>,
    /// Standard output.
    pub stdout: Captured,
    /// Standard error.
    pub stderr: Captured,
    /// Where the time went.
    pub timings: Timings,
    /// What was reused.
    pub reuse: Reuse,
    /// What was granted otherwise than it may have been meant, then what wasi-nn
    /// refused and why, one full sentence each.
    pub diagnostics: Vec<String>,
}

impl Outcome {
    /// The outcome of a task whose guest never ran.
    pub fn failed(failure: Failure) -> Outcome {
        Outcome {
            verdict: Err(failure),
            exit_code: None,
            stdout: Captured::default(),
            stderr: Captured::default(),
            timings: Timings::default(),
            reuse: Reuse::default(),
            diagnostics: Vec::new(),
        }
    }
}
