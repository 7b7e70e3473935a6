//! What the parts of the worker are made of, by the configuration: the queue, the
//! runtime and its caches here, what tasks may have in [`rights`], whom the worker
//! talks to in [`connections`].

mod connections;
mod rights;

pub(super) use connections::{about, fetcher, options, result_limit, sessions};
pub(crate) use connections::{manager_place, registry_place};
pub(super) use rights::check_roots;
pub use rights::{confinement, policy};

use crate::config::Config;
use crate::disk::DiskCache;
use crate::host::memory::{self, Budget, Memory};
use crate::machine;
use crate::nn::{self, Nn, NnConfig, OpenVinoConfig};
use crate::policy::Policy;
use crate::queue::QueueBounds;
use crate::runtime::{CompileProcesses, InstancePool, Requests, RuntimeConfig, Stdio, WhenLost};
use crate::sources::Fetcher;
use crate::task::GraphDir;
use crate::usage::Container;
use std::path::PathBuf;
use std::sync::Arc;
use tracing::{info, warn};

/// How much memory the process with the guests and models may take.
pub fn runtime_memory(config: &Config) -> Budget {
    let group = Container::now().limit;
    let there = Memory { machine: machine::memory(), group };
    memory::budget(config.runtime_memory, may_take(config), there)
}

/// What tasks and caches may take together, by their limits.
fn may_take(config: &Config) -> u64 {
    /// Threads' stacks, code, what native libraries keep for themselves.
    const OWN: u64 = 512 << 20;
    let limits = &config.limits;
    // Two streams, and a copy on the way out.
    let output = 4 * limits.output as u64;
    let task = [limits.memory, limits.graph_bytes, limits.tensor_bytes, output];
    let task = task.into_iter().fold(0_u64, u64::saturating_add);
    // A slot more than executors; see `pool`.
    let executors = executors(config) as u64 - config.daemons as u64;
    let tasks = (executors + 1).saturating_mul(task);
    let requests = requests_memory(config);
    [tasks, requests, config.module_cache, config.graph_cache, OWN]
        .into_iter()
        .fold(0, u64::saturating_add)
}

/// How much may wait.
pub fn bounds(config: &Config) -> QueueBounds {
    let (bytes, memory) = match config.state_dir {
        // The rest is for what a burst passes through: messages that are being
        // accepted, the journal's pages, holes in the heap.
        Some(_) => (config.queue_bytes, Some(config.queue_memory / 4)),
        None => (config.queue_memory, None),
    };
    QueueBounds { tasks: config.queue, bytes, memory }
}

/// All that run tasks at the same time: the executors, those of large modules,
/// that for invocations, and the daemons.
pub(super) fn executors(config: &Config) -> usize {
    config.executors.get() + compilers(config) + 1 + config.daemons
}

/// A slot for each of them, and for each task that may be left behind, and one
/// more, because an instance gives its own back a moment after its task has ended.
pub(super) fn pool(config: &Config) -> InstancePool {
    let executors = u32::try_from(executors(config)).unwrap_or(u32::MAX);
    // And for each request at once, where there are any.
    let requests = u32::try_from(config.http.requests).unwrap_or(u32::MAX);
    let requests = if config.http.enabled { requests } else { 0 };
    let instances = executors.saturating_mul(2).saturating_add(1).saturating_add(requests);
    InstancePool { instances, memory: config.limits.memory }
}

/// wasi-nn, by the configuration.
pub fn nn_config(config: &Config, policy: &Policy) -> NnConfig {
    let graphs = config.nn_graphs.iter().filter_map(|graph| {
        let found = policy.trusted_graph(&graph.encoding, &graph.dir);
        found.inspect_err(|e| warn!("nn-graphs: {e}; no task can load it by name")).ok()
    });
    NnConfig {
        backend: config.nn_backend,
        openvino: OpenVinoConfig {
            library: config.openvino_lib.clone(),
            search: config.library_search.clone(),
            hint: config.nn_hint,
            precision: config.nn_precision,
            operators: config.nn_operators,
            devices: config.nn_devices.clone(),
            links: config.state_dir.as_ref().map(|dir| config.working_dir.join(dir).join("links")),
        },
        cache_bytes: config.graph_cache,
        model_bytes: config.model_size,
        graphs: graphs.collect(),
        torch_library: config.torch_lib.clone(),
        load_bytes: config.nn_load_bytes.clone(),
        limits: nn::NnLimits {
            graphs: config.limits.graphs,
            graph_bytes: config.limits.graph_bytes,
            contexts: config.limits.contexts,
            tensor_bytes: config.limits.tensor_bytes,
        },
        disk: None,
        pauses: Arc::default(),
    }
}

/// The engine and its caches, for tasks of others whose code comes with them or from
/// the web.
pub fn runtime_config(config: &Config) -> RuntimeConfig {
    let fetcher = Fetcher::new(config.module_size, None, Some(config.images.hosts.clone()));
    RuntimeConfig {
        module_cache: config.module_cache,
        file_cache: config.file_cache,
        disk: None,
        compilers: compilers(config),
        compile_apart: None,
        fetch: Arc::new(move |spec, cancel| fetcher.code(spec, cancel)),
        stdio: Stdio::Captured,
        pool: Some(pool(config)),
        requests: requests(config),
        outbound: None,
    }
}

/// Requests of HTTP servers, after tasks where both want a processor: a flood of
/// the ones must not keep the others from theirs.
pub(super) fn requests(config: &Config) -> Requests {
    const NICE: i32 = 10;
    Requests { at_once: config.http.requests, nice: NICE, memory: requests_memory(config) }
}

/// Bytes of the linear memories of all guests that answer requests: most of them
/// take little, and none takes more than a task may.
fn requests_memory(config: &Config) -> u64 {
    /// Tasks whose memory it is.
    const TASKS: u64 = 4;
    if config.http.enabled { config.limits.memory.saturating_mul(TASKS) } else { 0 }
}

/// Modules of either size that are compiled at the same time: more than these
/// would only share the processors, each with its memory.
pub(super) fn compilers(config: &Config) -> usize {
    config.executors.get().div_ceil(2).min(4)
}

/// Bytes that a compile may take.
pub(super) fn compile_memory(config: &Config) -> u64 {
    /// Enough for the programs that are known here, as Python is one.
    const MOST: u64 = 2 << 30;
    const LEAST: u64 = 256 << 20;
    (runtime_memory(config).bytes / 4).clamp(LEAST, MOST)
}

/// The processes that compile for a runtime, two for each of its compilers.
pub(super) fn compile_processes(config: &Config, lost: WhenLost) -> Option<CompileProcesses> {
    let memory = compile_memory(config);
    let program = config.program.as_ref()?;
    let started = CompileProcesses::start(program, 2 * compilers(config), memory, lost);
    let unused = |e: &anyhow::Error| {
        warn!("modules are compiled where they run, so no compile can be ended: {e:#}");
    };
    started.inspect_err(unused).ok()
}

/// Where what was compiled of this kind outlives the process: beside the
/// journal, which tasks can't reach. None if there is to be no such place, or
/// there can't be.
pub(super) fn disk_cache(config: &Config, kind: &str) -> Option<Arc<DiskCache>> {
    kept_on_disk(config, kind, config.disk_cache)
}

fn kept_on_disk(config: &Config, kind: &str, budget: u64) -> Option<Arc<DiskCache>> {
    let opened = DiskCache::open(&cache_folder(config, budget)?.join(kind), budget);
    let unused = |e: &anyhow::Error| {
        warn!("{kind} are not kept on the disk, so that each start makes or fetches them: {e:#}");
    };
    opened.inspect_err(unused).ok().map(Arc::new)
}

/// The folder of all caches on the disk, if there is to be one of this many bytes.
pub(super) fn cache_folder(config: &Config, budget: u64) -> Option<PathBuf> {
    let state = config.state_dir.as_ref().filter(|_| budget > 0)?;
    Some(config.working_dir.join(state).join("cache"))
}

/// Loads the configured graphs while the worker already connects.
pub(super) fn preload(nn: Nn) {
    tokio::task::spawn_blocking(move || {
        // So that the first task finds them, too.
        for e in nn.missing() {
            warn!("tasks with wasi-nn will fail until this is fixed: {e}");
        }
        nn.preload(|GraphDir { name, dir, .. }, loaded| match loaded {
            Ok(()) => info!(graph = name, dir = %dir.display(), "preloaded a graph"),
            Err(e) => warn!(graph = name, "a graph could not be preloaded: {e}"),
        });
    });
}
