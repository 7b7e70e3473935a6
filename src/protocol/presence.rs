//! How a worker tells the manager that it is there: discovery and heartbeat.

use serde::{Deserialize, Serialize};

use super::control::to_json;

/// The worker introduces itself: before its first heartbeat, and after each
/// reconnect, because the manager may have restarted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Discovery {
    /// The worker, by its client id.
    pub proplet_id: String,
    /// The Kubernetes namespace, or the empty string.
    pub namespace: String,
    /// What it is and where it runs.
    pub metadata: WorkerMetadata,
}

/// What a worker is and where it runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct WorkerMetadata {
    /// Free text of the operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Labels of the operator.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Where the machine stands, as the operator says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// The machine's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip: Option<String>,
    /// Such as `edge`, `cloud` or `kubernetes`.
    pub environment: String,
    /// The operating system.
    pub os: String,
    /// The machine's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// The processor's architecture.
    pub cpu_arch: String,
    /// Main memory in bytes.
    pub total_memory_bytes: u64,
    /// This worker's version.
    pub proplet_version: String,
    /// The WebAssembly runtime with its version.
    pub wasm_runtime: String,
}

impl Discovery {
    /// The message.
    pub fn encode(&self) -> Vec<u8> {
        to_json(self)
    }
}

/// The heartbeat. Any status counts as alive to the manager, so there is no
/// other. A manager that does not know the worker takes it in by what the
/// heartbeat says of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Alive {
    /// The worker, by its client id.
    pub proplet_id: String,
    /// The Kubernetes namespace, or the empty string.
    pub namespace: String,
    /// Always `alive`.
    status: &'static str,
    /// What the worker is and where it runs, as in [`Discovery`].
    pub metadata: WorkerMetadata,
}

impl Alive {
    /// The heartbeat of this worker.
    pub fn new(proplet_id: &str, namespace: &str, metadata: WorkerMetadata) -> Alive {
        Alive {
            proplet_id: proplet_id.to_owned(),
            namespace: namespace.to_owned(),
            status: "alive",
            metadata,
        }
    }

    /// The message.
    pub fn encode(&self) -> Vec<u8> {
        to_json(self)
    }
}

/// Who sent a discovery message or a heartbeat; nothing if it can't be read.
pub fn decode_sender(payload: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Sender {
        proplet_id: String,
    }
    serde_json::from_slice(payload).ok().map(|Sender { proplet_id }| proplet_id)
}
