//! Reads what `proplet worker` runs with.

use super::reader::Reader;
use super::{
    CleanSession, Config, Description, Environment, HOUR, LogConfig, MILLI, TaskLimits, choice,
    connection, http, images, inference, manager, monitoring, rounds, state, value,
};
use crate::nn::Hint;
use crate::protocol::LEAST_RESULT;
use crate::task::humantime;
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Duration;

/// Half the time after which the manager takes a silent worker for dead.
const MAX_LIVELINESS: Duration = Duration::from_secs(5);

/// Reads everything before it gives up, so that all problems are found.
pub(super) fn read(reader: &mut Reader<'_>, env: &Environment) -> Option<Config> {
    let credentials = reader.credentials();
    let connection = connection::read(reader);
    let liveliness_interval =
        reader.read("liveliness-interval", value::duration_within(MILLI * 100, HOUR));
    let manager = manager::read(reader);
    let executors = executors(reader, env);
    let queue = reader.read("queue", value::count_within(1, 1_000_000));
    let queue_bytes = reader.read("queue-bytes", value::length_within(1 << 10, 1 << 40));
    let queue_memory = reader.read("queue-memory", value::length_within(1 << 10, 1 << 40));
    let daemons = reader.read("daemons", value::count_within(0, 1024));
    let deployments = reader.read("deployments", value::count_within(0, 1_000_000));
    let deployment_bytes = reader.read("deployment-bytes", value::length_within(1 << 10, 1 << 40));
    let invoke_timeout = reader.read("invoke-timeout", value::duration_within(MILLI, HOUR));
    let state_dir = credentials.as_ref().and_then(|who| state::directory(reader, env, who));
    let clean_session = reader.read("mqtt-clean-session", choice::clean_session);
    if let (Some(None), Some(CleanSession::Never)) = (&state_dir, clean_session) {
        reader.warn(
            "mqtt-clean-session is false, but the worker keeps nothing on the disk, so its session \
             is a clean one all the same"
                .into(),
        );
    }
    let drain_timeout = reader.read("drain-timeout", value::duration_within(Duration::ZERO, HOUR));
    let isolation = reader.read("isolation", choice::isolation);
    let limits = limits(reader);
    let http = http::read(reader);
    let runtime_memory =
        reader.read_optional("runtime-memory", value::size_within(128 << 20, 1 << 45));
    let module_size = reader.read("module-size", value::size_within(1 << 10, 1 << 30));
    let model_size = reader.read("model-size", value::size_within(1 << 10, 1 << 40));
    let module_cache = reader.read("module-cache", value::size);
    let file_cache = reader.read("file-cache", value::size);
    let graph_cache = reader.read("graph-cache", value::size);
    let dirs = reader.read_optional("dirs", value::dirs);
    let inference = inference::read(reader, env);
    let disk_cache = reader.read("disk-cache", value::size);
    let images = images::read(reader);
    let description = description(reader);
    let rounds = rounds::read(reader);
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
        daemons: daemons?,
        deployments: deployments?,
        deployment_bytes: deployment_bytes?,
        invoke_timeout: invoke_timeout?,
        state_dir: state_dir?,
        clean_session: clean_session?,
        drain_timeout: drain_timeout?,
        isolation: isolation?,
        limits: limits?,
        http: http?,
        runtime_memory,
        module_size: module_size?,
        model_size: model_size?,
        module_cache: module_cache?,
        file_cache: file_cache?,
        graph_cache: graph_cache?,
        disk_cache: disk_cache?,
        images: images?,
        dirs,
        working_dir: env.working_dir().to_owned(),
        program: env.executable().map(Path::to_owned),
        nn_backend: inference.backend,
        openvino_lib: inference.openvino_lib,
        library_search: inference.library_search,
        nn_hint: inference.hint.unwrap_or(match executors.get() {
            1 => Hint::Latency,
            _ => Hint::Throughput,
        }),
        nn_precision: inference.precision,
        nn_graphs: inference.graphs,
        nn_operators: inference.operators,
        nn_devices: inference.devices,
        nn_load_bytes: inference.load_bytes,
        torch_lib: inference.torch_lib,
        description: description?,
        manager: manager?,
        rounds: rounds?,
        monitoring: monitoring?,
        log: log?,
        log_changes: None,
        warnings: Vec::new(),
        report: Vec::new(),
    })
}

fn executors(reader: &mut Reader<'_>, env: &Environment) -> Option<NonZeroUsize> {
    // While one task of a core reads and writes, another one's inference runs (benches/README.md).
    let twice = env.cores().get().saturating_mul(2).min(1024);
    let count = reader.read_or("executors", twice, value::count_within(1, 1024));
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

pub(super) fn log(reader: &mut Reader<'_>) -> Option<LogConfig> {
    let directives = reader.read("log-level", value::log_level);
    let format = reader.read("log-format", choice::log_format);
    Some(LogConfig { directives: directives?, format: format? })
}
