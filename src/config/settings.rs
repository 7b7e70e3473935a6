//! The table of all settings. From it come the flags of the verbs, the names
//! that are looked up, the defaults themselves and the README's table, so that
//! none of them can differ from the others.

use super::setting::{BOOLEAN, DefaultValue, Group, Setting, credential, setting};

use DefaultValue::{Absent, Computed, Text};

/// Where guests and models run by default: only Linux has what it takes for a
/// process of their own.
const ISOLATION: &str = if cfg!(target_os = "linux") { "process" } else { "none" };

/// The names of the four credentials, in the order in which provisioning
/// writes them.
pub(super) const CREDENTIALS: [&str; 4] = ["domain-id", "channel-id", "client-id", "client-key"];

/// All settings, in the order of `--help` and the README.
pub static SETTINGS: &[Setting] = &[
    credential(
        "domain-id",
        &["tenant-id"],
        false,
        "Domain in which the manager and its workers are",
    ),
    credential("channel-id", &[], false, "Channel on which they talk"),
    credential("client-id", &["entity-id"], false, "Client id and user name at the broker"),
    credential("client-key", &["api-key"], true, "Client key, the password at the broker"),
    setting(
        Group::Connection,
        "mqtt-address",
        "ADDRESS",
        Text("tcp://localhost:1883"),
        "The broker: tcp://, mqtt:// or host:port; with TLS ssl://, tls:// or mqtts://",
    ),
    setting(
        Group::Connection,
        "mqtt-timeout",
        "DURATION",
        Text("30s"),
        "Time for connecting and for writing one packet",
    ),
    setting(
        Group::Connection,
        "mqtt-qos",
        "QOS",
        Text("1"),
        "Quality of service, 0 or 1; 2 is accepted and means 1",
    ),
    setting(
        Group::Connection,
        "mqtt-keep-alive",
        "DURATION",
        Text("30s"),
        "Time without a packet after which the broker is pinged",
    ),
    setting(
        Group::Connection,
        "mqtt-clean-session",
        "WHEN",
        Text("auto"),
        "Whether the broker forgets the worker at each end of the connection, and what is sent \
         meanwhile: true, false, or auto: only if it drops clients that ask for a persistent session",
    ),
    setting(
        Group::Connection,
        "mqtt-max-packet-size",
        "SIZE",
        Text("144MiB"),
        "Largest packet, in both directions",
    ),
    setting(
        Group::Connection,
        "mqtt-tls-ca-cert",
        "FILE",
        Absent,
        "PEM file with the authorities that may sign the broker's certificate; default: the system's",
    ),
    setting(
        Group::Connection,
        "mqtt-tls-client-cert",
        "FILE",
        Absent,
        "PEM file with the worker's own certificate, for mutual TLS",
    ),
    setting(
        Group::Connection,
        "mqtt-tls-client-key",
        "FILE",
        Absent,
        "PEM file with the key of that certificate",
    ),
    setting(
        Group::Connection,
        "liveliness-interval",
        "DURATION",
        Text("5s"),
        "Time between heartbeats, 5s at most: the manager gives a worker up after 10s",
    ),
    setting(
        Group::Manager,
        "result-hold",
        "DURATION",
        Text("5ms"),
        "No result leaves sooner after its start came, so that the manager has stored the start; 0: at once",
    ),
    setting(
        Group::Manager,
        "result-repeat",
        "DURATION[,..]",
        Text("2s,10s"),
        "When a result that came within 2s is published again after its delivery; 0: never",
    ),
    setting(
        Group::Manager,
        "manager-url",
        "URL",
        Absent,
        "The manager's HTTP address, such as http://manager:7070: it is asked whether results arrived",
    ),
    Setting {
        secret: true,
        ..setting(
            Group::Manager,
            "manager-token",
            "TOKEN",
            Absent,
            "Bearer token for that address, where a proxy asks for one",
        )
    },
    setting(
        Group::Manager,
        "manager-ca-cert",
        "FILE",
        Absent,
        "PEM file with the authorities that may sign its certificate; default: the system's",
    ),
    setting(
        Group::Tasks,
        "executors",
        "N",
        Computed("twice the number of cores"),
        "Tasks that run at the same time",
    ),
    setting(
        Group::Tasks,
        "isolation",
        "HOW",
        Text(ISOLATION),
        "Where guests and models run: in a process of their own, confined and started again when it crashes (process), or in the worker's (none)",
    ),
    setting(
        Group::Tasks,
        "queue",
        "N",
        Text("100000"),
        "Tasks that wait for an executor; one more is answered with `busy`",
    ),
    setting(
        Group::Tasks,
        "queue-bytes",
        "SIZE",
        Text("8GiB"),
        "What waiting tasks may take up on the disk, a module counted once; more is answered with `busy`",
    ),
    setting(
        Group::Tasks,
        "queue-memory",
        "SIZE",
        Text("64MiB"),
        "Memory that a burst may take. A quarter of it keeps waiting tasks; the others are read from the disk when their turn comes. With --stateless, where they are nowhere else, all of it does, and more is answered with `busy`",
    ),
    setting(
        Group::Tasks,
        "daemons",
        "N",
        Text("8"),
        "Daemons that run at the same time, beside the executors; one more is answered with `busy`",
    ),
    setting(
        Group::Tasks,
        "deployments",
        "N",
        Text("10000"),
        "Latent tasks that are deployed at the same time; one more is answered with `busy`",
    ),
    setting(
        Group::Tasks,
        "deployment-bytes",
        "SIZE",
        Text("1GiB"),
        "What deployed tasks may take up on the disk, a module counted once; more is answered with `busy`. With --stateless no more than --queue-memory",
    ),
    setting(
        Group::Tasks,
        "invoke-timeout",
        "DURATION",
        Text("29s"),
        "Time from an invocation to its answer, the wait in the queue included; the manager waits for 30 s",
    ),
    setting(
        Group::Tasks,
        "drain-timeout",
        "DURATION",
        Text("30s"),
        "Time for running tasks to end when the worker is told to",
    ),
    setting(
        Group::State,
        "state-dir",
        "DIR",
        Computed("$XDG_STATE_HOME/proplet or ~/.local/state/proplet, for root /var/lib/proplet"),
        "Where accepted tasks and unsent results survive a crash, in a folder for each client id",
    ),
    setting(
        Group::State,
        "stateless",
        BOOLEAN,
        Text("false"),
        "Keep nothing on the disk: what a worker that ends has not run or sent is lost",
    ),
    setting(
        Group::Limits,
        "task-timeout",
        "DURATION",
        Text("5m"),
        "Wall-clock time of a task once it has left the queue, or `none`; `-W timeout` limits its guest's run alone",
    ),
    setting(
        Group::Limits,
        "task-memory",
        "SIZE",
        Text("512MiB"),
        "WebAssembly memory of a task; `-W max-memory-size` tightens it",
    ),
    setting(
        Group::Limits,
        "task-output",
        "SIZE",
        Text("256KiB"),
        "Bytes kept of each output stream: its first and its last half",
    ),
    setting(
        Group::Limits,
        "result-size",
        "SIZE",
        Text("900KiB"),
        "Largest result as a message: of what is larger, outputs first, both ends are kept; brokers \
         refuse or drop what exceeds their own limit",
    ),
    setting(
        Group::Limits,
        "task-graphs",
        "N",
        Text("64"),
        "Graphs that a task may load with wasi-nn, the same one again included",
    ),
    setting(
        Group::Limits,
        "task-graph-memory",
        "SIZE",
        Text("2GiB"),
        "Memory of the different graphs that a task holds",
    ),
    setting(
        Group::Limits,
        "task-contexts",
        "N",
        Text("1024"),
        "Execution contexts that a task may hold",
    ),
    setting(
        Group::Limits,
        "task-tensor-memory",
        "SIZE",
        Text("512MiB"),
        "Memory of the tensors of a task's execution contexts",
    ),
    setting(
        Group::Limits,
        "runtime-memory",
        "SIZE",
        Computed(
            "what the settings add up to, three quarters of the machine's memory or of the control group's limit, whichever is least",
        ),
        "Memory that the process with the guests and models may take on top of what it starts with",
    ),
    setting(Group::Limits, "module-size", "SIZE", Text("100MiB"), "Largest WebAssembly module"),
    setting(
        Group::Limits,
        "model-size",
        "SIZE",
        Text("512MiB"),
        "Largest model, description and weights together",
    ),
    setting(
        Group::Limits,
        "dirs",
        "DIR[:rw][:DIR..]",
        Computed("the working directory, read-only"),
        "Directories that tasks may open, and get when they name none",
    ),
    Setting {
        foreign: &["MANAGER_COORDINATOR_URL"],
        ..setting(
            Group::Rounds,
            "coordinator-url",
            "URL",
            Absent,
            "Coordinator that updates are sent to; default: they go out on the round's topic",
        )
    },
    Setting {
        foreign: &["MODEL_REGISTRY_URL"],
        ..setting(
            Group::Rounds,
            "model-registry-url",
            "URL",
            Absent,
            "Model registry, for the MODEL_URI of tasks",
        )
    },
    Setting {
        foreign: &["DATA_STORE_URL"],
        ..setting(
            Group::Rounds,
            "data-store-url",
            "URL",
            Absent,
            "Data store with a data set for this worker",
        )
    },
    setting(
        Group::Rounds,
        "round-ca-cert",
        "FILE",
        Absent,
        "PEM file with the authorities that may sign their certificates; default: the system's",
    ),
    setting(
        Group::Rounds,
        "round-hosts",
        "HOST:PORT[,..]",
        Absent,
        "Hosts of such services that tasks may name beside these",
    ),
    setting(
        Group::Rounds,
        "round-data-size",
        "SIZE",
        Text("8MiB"),
        "Largest model, and largest data set, of a round",
    ),
    setting(
        Group::Rounds,
        "round-missing-data",
        "WHAT",
        Text("fail"),
        "What a task does whose model or data set can't be fetched: fail, or run without, as Propeller's own worker lets it",
    ),
    setting(
        Group::Images,
        "registry",
        "HOST[:PORT]",
        Absent,
        "Registry to pull images from directly, http://HOST:PORT for one without TLS; default: images come through Propeller's registry proxy, those with a digest from their own registry",
    ),
    setting(Group::Images, "registry-user", "NAME", Absent, "User name for that registry"),
    Setting {
        secret: true,
        ..setting(Group::Images, "registry-password", "PASSWORD", Absent, "The user's password")
    },
    Setting {
        secret: true,
        ..setting(
            Group::Images,
            "registry-token",
            "TOKEN",
            Absent,
            "Bearer token for that registry, in place of a user",
        )
    },
    setting(
        Group::Images,
        "registry-ca-cert",
        "FILE",
        Absent,
        "PEM file with the authorities that may sign its certificate; default: the system's",
    ),
    setting(
        Group::Images,
        "image-timeout",
        "DURATION",
        Text("60s"),
        "How long a registry or the proxy may send nothing of an image",
    ),
    setting(
        Group::Images,
        "image-cache",
        "SIZE",
        Text("256MiB"),
        "Images, kept in the state directory by their digests; 0: none",
    ),
    setting(
        Group::Images,
        "image-hosts",
        "LIST",
        Text("*"),
        "Hosts that an image_url may lead to, beside that of registry: names, *.suffix, addresses, \
         or * for any public one, each with :port or without",
    ),
    setting(
        Group::Http,
        "http-enabled",
        BOOLEAN,
        Text("false"),
        "Whether a component that exports wasi:http/incoming-handler is served over HTTP",
    ),
    setting(
        Group::Http,
        "http-bind",
        "ADDRESS",
        Text("0.0.0.0"),
        "The address that HTTP servers listen on, unless their task has --addr",
    ),
    setting(
        Group::Http,
        "http-proxy-port",
        "PORT",
        Text("8222"),
        "The first port that is tried for an HTTP server without --port and --addr, of a hundred",
    ),
    setting(
        Group::Http,
        "http-timeout",
        "DURATION",
        Text("30s"),
        "Time for a guest to answer one request; a task's -W timeout shortens it",
    ),
    setting(
        Group::Http,
        "http-requests",
        "N",
        Text("64"),
        "Requests that guests answer at the same time, of all servers; as many more wait, others \
         are answered with 503",
    ),
    setting(Group::Http, "http-body", "BYTES", Text("16MiB"), "Largest body of a request"),
    setting(
        Group::Http,
        "http-access-log",
        BOOLEAN,
        Text("false"),
        "Whether the log has a line for each request",
    ),
    setting(
        Group::Http,
        "allow-hosts",
        "LIST",
        Absent,
        "Hosts that guests may send HTTP requests to, separated by commas: names, *.suffix, \
         addresses, or * for any public one, each with :port or without; none without it",
    ),
    setting(
        Group::Http,
        "http-tls-ca-cert",
        "FILE",
        Absent,
        "Certificates (PEM) that guests' requests trust in place of the system's",
    ),
    setting(
        Group::Caches,
        "module-cache",
        "SIZE",
        Text("512MiB"),
        "Compiled modules kept for the next task",
    ),
    setting(
        Group::Caches,
        "file-cache",
        "SIZE",
        Text("256MiB"),
        "Contents of files that guests read again and again, kept in memory; `0`: none",
    ),
    setting(
        Group::Caches,
        "graph-cache",
        "SIZE",
        Text("1GiB"),
        "Compiled models kept for the next task",
    ),
    setting(
        Group::Caches,
        "disk-cache",
        "SIZE",
        Text("256MiB"),
        "Compiled modules, and as much again of the graphs of nn-graphs, kept in the state directory for the next start; 0: none",
    ),
    setting(
        Group::Inference,
        "nn-backend",
        "BACKEND",
        Text("auto"),
        "What runs models: openvino, rten (ONNX without a native library), torch, or auto: OpenVINO, rten for what that can't take, and torch for PyTorch's",
    ),
    setting(
        Group::Inference,
        "openvino-lib",
        "PATH",
        Computed("searched for"),
        "OpenVINO's C library, or the folder that holds it",
    ),
    setting(
        Group::Inference,
        "torch-lib",
        "PATH",
        Computed("searched for"),
        "The worker's library for PyTorch's libtorch, or the folder that holds it",
    ),
    setting(
        Group::Inference,
        "nn-hint",
        "HINT",
        Text("auto"),
        "OpenVINO's mode: latency, throughput, or auto (latency with one executor)",
    ),
    setting(
        Group::Inference,
        "nn-precision",
        "PRECISION",
        Text("f32"),
        "What the CPU computes in: f32, the same answers everywhere, or auto: bfloat16 where that is faster",
    ),
    setting(
        Group::Inference,
        "nn-operators",
        "OPERATORS",
        Text("checked"),
        "Operators of models: checked, what could reach memory that is not the model's own is kept in range or refused; or all: any model may then read this worker's memory and crash it",
    ),
    setting(
        Group::Inference,
        "nn-devices",
        "TARGET=DEVICE[,..]",
        Text("cpu=CPU,gpu=GPU"),
        "OpenVINO's devices for the guests' targets cpu, gpu and tpu, such as gpu=AUTO:GPU,CPU,tpu=NPU",
    ),
    setting(
        Group::Inference,
        "nn-load-bytes",
        "ENCODING[,..]",
        Text("openvino,onnx,tensorflow,tensorflowlite"),
        "Encodings of which guests may hand over models of their own, or true for all; false where guests are not trusted: then only graphs by name",
    ),
    setting(
        Group::Inference,
        "nn-graphs",
        "ENCODING::DIR[,..]",
        Absent,
        "Graphs that every task may load by the name of their directory",
    ),
    setting(Group::Description, "description", "TEXT", Absent, "What this worker is"),
    setting(Group::Description, "tags", "TAG[,..]", Absent, "Tags for the manager's selection"),
    setting(Group::Description, "location", "TEXT", Absent, "Where this worker is"),
    Setting {
        aliases: &["manager-k8s-namespace"],
        ..setting(
            Group::Description,
            "namespace",
            "NAME",
            Text("default"),
            "Namespace in which the manager lists this worker",
        )
    },
    setting(
        Group::Description,
        "collect-system-info",
        BOOLEAN,
        Text("true"),
        "Whether the manager is told this machine's name and address",
    ),
    setting(
        Group::Monitoring,
        "metrics-enabled",
        BOOLEAN,
        Text("true"),
        "Whether /health, /ready and /metrics are served over HTTP",
    ),
    setting(
        Group::Monitoring,
        "metrics-port",
        "PORT",
        Text("9092"),
        "Their port; 0 is any free one, which the log names",
    ),
    setting(
        Group::Monitoring,
        "metrics-bind",
        "ADDRESS",
        Text("127.0.0.1"),
        "The address they are served on; 0.0.0.0 or [::] means all of this machine's",
    ),
    setting(
        Group::Monitoring,
        "enable-monitoring",
        BOOLEAN,
        Text("true"),
        "Whether the manager is sent the use of processor and memory",
    ),
    setting(
        Group::Monitoring,
        "metrics-interval",
        "DURATION",
        Text("10s"),
        "Time between two of these messages",
    ),
    setting(
        Group::Logging,
        "log-level",
        "LEVEL",
        Text("info"),
        "off, error, warn, info, debug, trace, or directives such as info,proplet::mqtt=debug",
    ),
    setting(Group::Logging, "log-format", "FORMAT", Text("text"), "text or json"),
    setting(
        Group::File,
        "config-file",
        "FILE",
        Text("config.toml"),
        "TOML file with a section for this worker; its keys are the names here with underscores",
    ),
    setting(Group::File, "config-section", "NAME", Text("proplet"), "The section of that file"),
];

/// The setting of this name.
pub(super) fn find(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.name == name)
}

/// Whether a variable holds a secret: the worker's, or another program's of
/// Propeller that shares the file with the variables.
pub(crate) fn is_secret(variable: &str) -> bool {
    ["PROPLET_", "MANAGER_", "PROXY_"].iter().any(|prefix| {
        let mut secrets = SETTINGS.iter().filter(|setting| setting.secret);
        secrets.any(|setting| setting.variables(prefix).any(|name| name == variable))
    })
}
