//! What the parts of the worker are made of, by the configuration.

use crate::config::{Config, ImagesConfig};
use crate::disk::DiskCache;
use crate::host::confine::{self, Confinement, GrantedRoot};
use crate::host::memory::{self, Budget, Memory};
use crate::journal;
use crate::machine;
use crate::manager::ManagerPlace;
use crate::mqtt::{self, CleanSession, SessionKind, SessionMemory};
use crate::nn::{self, Nn, NnConfig, OpenVinoConfig};
use crate::policy::{self, Policy, Root, Trust};
use crate::protocol::{Topics, WorkerMetadata};
use crate::queue::QueueBounds;
use crate::runtime::{
    CompileProcesses, InstancePool, MAX_WASM_STACK, Requests, RuntimeConfig, Stdio, WhenLost,
};
use crate::sources::{Fetcher, ImageSettings, Images, RegistryLogin, RegistryPlace};
use crate::task::{Bind, GraphDir, Limits, Serving};
use crate::usage::Container;
use crate::version;
use anyhow::bail;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::mpsc::UnboundedReceiver;
use tracing::{info, warn};

/// What tasks may have, by the configuration.
pub fn policy(config: &Config) -> Policy {
    let roots = match &config.dirs {
        Some(dirs) => {
            dirs.iter().map(|dir| Root { path: dir.path.clone(), writable: dir.writable }).collect()
        }
        None => vec![Root { path: PathBuf::from("."), writable: false }],
    };
    Policy {
        trust: Trust::Stranger { roots },
        proplet_id: Some(config.credentials.client_id.clone()),
        limits: Limits {
            timeout: config.limits.timeout,
            run: None,
            memory: Some(config.limits.memory),
            output: config.limits.output,
        },
        serving: config.http.enabled.then_some(Serving {
            bind: Bind::From(config.http.from),
            timeout: config.http.timeout,
            drain: config.drain_timeout,
            body: config.http.body,
            access_log: config.http.access_log,
        }),
        private: private(config),
        kernel: policy::kernel_file_systems(),
        module_size: config.module_size,
        working_dir: config.working_dir.clone(),
        max_wasm_stack: MAX_WASM_STACK as u64,
        resolve: policy::resolve_dir,
        subdirectories: policy::subdirectories,
    }
}

/// What the process with the guests and models may reach: the directories that
/// tasks may open, without the worker's secrets, the graphs of the
/// configuration, OpenVINO. What it keeps on the disk it is given when it starts.
pub fn confinement(policy: &Policy, nn: &NnConfig) -> Confinement {
    let allowed = match &policy.trust {
        Trust::Stranger { roots } => roots.as_slice(),
        Trust::OwnHand { .. } => &[],
    };
    let allowed = allowed.iter().filter_map(|root| {
        let host = (policy.resolve)(&policy.working_dir.join(&root.path)).ok()?;
        // Tasks get nothing of it; see `check_roots`.
        policy.kernel_at(&host).is_none().then_some((host, root.writable))
    });
    let roots = allowed.flat_map(|(host, writable)| {
        let parts = confine::without(&host, &policy.private);
        parts.into_iter().map(move |path| GrantedRoot { path, writable })
    });
    let graphs =
        nn.graphs.iter().map(|graph| GrantedRoot { path: graph.dir.clone(), writable: false });
    Confinement {
        roots: roots.chain(graphs).collect(),
        libraries: nn.libraries(),
        ..Confinement::default()
    }
}

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

/// The files with the worker's secrets, as far as they are there, and the
/// folder of its journal, which holds other tasks' modules and results.
fn private(config: &Config) -> Vec<PathBuf> {
    let file = config.report.iter().find(|known| known.setting.name == "config-file");
    let file = file.and_then(|file| file.value.as_ref()).map(PathBuf::from);
    let key = config.connection.client_cert.as_ref().map(|client| client.key.clone());
    let files = file.into_iter().chain(key);
    let files = files.filter_map(|file| config.working_dir.join(file).canonicalize().ok());
    // Made at the start, so it may not be there yet.
    let state = config.state_dir.as_ref().map(|dir| config.working_dir.join(dir));
    files.chain(state.map(|dir| dir.canonicalize().unwrap_or(dir))).collect()
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

/// Says which roots can't be used.
///
/// # Errors
///
/// One that reaches a file system of the kernel: whoever lists it gives more
/// away than he can mean.
pub(super) fn check_roots(config: &Config, policy: &Policy) -> anyhow::Result<()> {
    let Trust::Stranger { roots } = &policy.trust else { return Ok(()) };
    for root in roots {
        let path = policy.working_dir.join(&root.path);
        match (policy.resolve)(&path) {
            Err(e) => warn!(
                "the allowed directory {} can't be used: {e}; tasks will not find it until it is \
                 there (a volume mount with an absolute path?)",
                root.path.display()
            ),
            Ok(host) if let Some(place) = policy.kernel_at(&host) => {
                let problem = format!(
                    "the allowed directory {} reaches {}, which shows all processes and devices \
                     of this machine",
                    root.path.display(),
                    place.display()
                );
                let cure = "list those that tasks need in PROPLET_DIRS (--dirs)";
                if config.dirs.is_some() {
                    bail!("{problem}: {cure}");
                }
                warn!("{problem}, so tasks get no directory: {cure}");
            }
            // Nobody has asked for the working directory itself.
            Ok(host) if config.dirs.is_some() => {
                if let Some(file) = policy.private_below(&host) {
                    warn!(
                        "the allowed directory {} holds {}, which has this worker's secrets, so \
                         tasks only get directories below it: move the file elsewhere",
                        root.path.display(),
                        file.display()
                    );
                }
            }
            Ok(_) => {}
        }
    }
    Ok(())
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
    }
}

/// The registry that images are pulled from, if they are.
pub(crate) fn registry_place(images: &ImagesConfig, working_dir: &Path) -> Option<RegistryPlace> {
    let registry = images.registry.as_ref()?;
    let login = match (&registry.token, &registry.user) {
        (Some(token), _) => RegistryLogin::Token(token.expose().to_owned()),
        (None, Some((user, password))) => {
            RegistryLogin::User(user.clone(), password.expose().to_owned())
        }
        (None, None) => RegistryLogin::Anonymous,
    };
    Some(RegistryPlace {
        host: registry.host.clone(),
        plain: registry.plain,
        login,
        ca: registry.ca_cert.as_ref().map(|ca| working_dir.join(ca)),
    })
}

/// How code is fetched, and what Propeller's registry proxy is to be asked for.
pub(super) fn fetcher(config: &Config) -> (Fetcher, Option<UnboundedReceiver<String>>) {
    let (images, asked) = Images::new(ImageSettings {
        registry: registry_place(&config.images, &config.working_dir),
        channel: true,
        timeout: config.images.timeout,
        limit: config.module_size,
        kept: kept_on_disk(config, "images", config.images.cache),
        hosts: Some(config.images.hosts.clone()),
    });
    (Fetcher::new(config.module_size, Some(images), Some(config.images.hosts.clone())), asked)
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
    const NICE: i32 = 5;
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
            warn!("tasks with wasi-nn will fail until this is mended: {e}");
        }
        nn.preload(|GraphDir { name, dir, .. }, loaded| match loaded {
            Ok(()) => info!(graph = name, dir = %dir.display(), "preloaded a graph"),
            Err(e) => warn!(graph = name, "a graph could not be preloaded: {e}"),
        });
    });
}

/// What the broker has granted to this worker before; none without a journal.
/// To be asked for before that is opened, which may be one from before there
/// was such a memory: its worker had a persistent session.
pub(super) fn sessions(config: &Config) -> Option<SessionMemory> {
    let directory = config.state_dir.as_ref()?;
    let earlier = journal::exists(directory).then_some(SessionKind::Persistent);
    Some(SessionMemory::open(directory, &config.connection.address, earlier))
}

pub(super) fn options(
    config: &Config,
    topics: &Topics,
    sessions: Option<SessionMemory>,
) -> mqtt::Options {
    let credentials = &config.credentials;
    let mut options = config.connection.options(&credentials.client_id, credentials);
    // What is not acknowledged when the worker dies is for its next process.
    options.clean_session = match sessions {
        Some(_) => config.clean_session,
        None => CleanSession::Always,
    };
    options.sessions = sessions;
    options.subscriptions = vec![topics.start(), topics.stop(), topics.invoke()];
    if config.images.registry.is_none() {
        options.subscriptions.push(topics.image_parts());
    }
    options
}

/// The most bytes of a result: no more than a packet to the results' topic
/// holds (a fixed header of 5 bytes, two lengths of 2).
pub(super) fn result_limit(config: &Config, topics: &Topics) -> usize {
    let around = 5 + 2 + topics.results().len() + 2;
    config.limits.result.min(config.connection.max_packet_size.saturating_sub(around))
}

/// The manager's HTTP side, if it is to be asked.
pub(crate) fn manager_place(config: &Config) -> Option<ManagerPlace> {
    config.manager.http.as_ref().map(|http| ManagerPlace {
        url: http.url.clone(),
        token: http.token.as_ref().map(|token| token.expose().to_owned()),
        ca: http.ca_cert.as_ref().map(|ca| config.working_dir.join(ca)),
    })
}

pub(super) fn about(config: &Config) -> WorkerMetadata {
    let description = &config.description;
    let address = &config.connection.address;
    let machine = machine::describe(description.collect_system_info, (&address.host, address.port));
    WorkerMetadata {
        description: description.text.clone(),
        tags: description.tags.clone(),
        location: description.location.clone(),
        ip: machine.ip.map(|ip| ip.to_string()),
        environment: machine.environment.to_owned(),
        os: machine.os.to_owned(),
        hostname: machine.hostname,
        cpu_arch: machine.cpu_arch.to_owned(),
        total_memory_bytes: machine.memory_bytes,
        proplet_version: version::VERSION.to_owned(),
        wasm_runtime: version::WASMTIME.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Environment;

    /// The state directory lies in a root, and so does a file with a key.
    #[test]
    fn the_runtime_reaches_what_tasks_may_open_and_none_of_the_workers_secrets() {
        let dir = tempfile::tempdir().expect("a directory");
        let home = dir.path().canonicalize().expect("a directory");
        for below in ["models/tiny", "files", "state", "graphs/named"] {
            std::fs::create_dir_all(home.join(below)).expect("made");
        }
        std::fs::write(home.join("config.toml"), "[proplet]\n").expect("written");
        let mut env = Environment::new(&home);
        for (name, value) in [
            ("DOMAIN_ID", "d"),
            ("CHANNEL_ID", "c"),
            ("CLIENT_ID", "i"),
            ("CLIENT_KEY", "k"),
            ("CONFIG_FILE", "config.toml"),
            ("STATE_DIR", "state"),
            ("DIRS", ".:files:rw:missing"),
            ("NN_GRAPHS", "openvino::graphs/named"),
            ("OPENVINO_LIB", "files/libopenvino_c.so"),
        ] {
            env = env.with(&format!("PROPLET_{name}"), value);
        }
        let config = Config::from_environment(&env).expect("a configuration");
        let state = config.state_dir.clone().expect("a state directory");
        std::fs::create_dir_all(home.join(&state)).expect("made");
        let policy = policy(&config);
        let mut confinement = confinement(&policy, &nn_config(&config, &policy));
        confinement.roots.sort_by(|a, b| (&a.path, a.writable).cmp(&(&b.path, b.writable)));
        let root = |path: &str, writable| GrantedRoot { path: home.join(path), writable };
        assert_eq!(
            confinement.roots,
            [
                root("files", false),
                root("files", true),
                root("graphs", false),
                root("graphs/named", false),
                root("models", false),
            ]
        );
        assert!(confinement.caches.is_empty(), "{confinement:?}");
        assert_eq!(confinement.memory, None);
    }
}
