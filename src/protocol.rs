//! Topics and wire messages of Propeller. No I/O.
//!
//! [`control`] reads what the manager says (and writes it, for `submit`);
//! `result` and `presence` write what a worker says (and read it, for `submit`). Bytes
//! become a value here once, and nothing downstream looks at JSON again.

mod cause;
pub mod control;
mod images;
mod invoke_result;
mod monitoring;
mod output;
mod presence;
mod result;
mod rounds;
mod size;
pub mod usage;
mod wire;

pub use control::{
    Invoke, Malformed, decode_invoke, decode_start, decode_stop, encode_start, encode_stop,
};
pub use images::{ImagePart, decode_image_part, encode_image_request};
pub use invoke_result::InvokeResult;
pub use output::Output;
pub use presence::{Alive, Discovery, WorkerMetadata, decode_sender};
pub use result::{Reused, TaskResult, TimingsMs};
pub use rounds::update_topic;
pub use size::LEAST_RESULT;
pub use usage::{Aggregated, CpuMetrics, MemoryMetrics, TaskMetrics, TaskUsage, WorkerMetrics};

/// The topics of one channel: `m/{domain}/c/{channel}/…`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topics {
    prefix: String,
}

impl Topics {
    /// The topics of this domain and channel, which must be plain topic levels
    /// (the configuration has proven that they hold no `/`, `+` or `#`).
    pub fn new(domain: &str, channel: &str) -> Topics {
        Topics { prefix: format!("m/{domain}/c/{channel}") }
    }

    fn under(&self, rest: &str) -> String {
        format!("{}/{rest}", self.prefix)
    }

    /// Manager to worker: run a task.
    pub fn start(&self) -> String {
        self.under("control/manager/start")
    }

    /// Manager to worker: end a task.
    pub fn stop(&self) -> String {
        self.under("control/manager/stop")
    }

    /// Manager to worker: call a latent task.
    pub fn invoke(&self) -> String {
        self.under("control/manager/invoke")
    }

    /// Worker to manager: what came of a task.
    pub fn results(&self) -> String {
        self.under("control/proplet/results")
    }

    /// Worker to manager: what came of a call of a latent task.
    pub fn invoke_results(&self) -> String {
        self.under("control/proplet/invoke_results")
    }

    /// Worker to manager: the worker introduces itself.
    pub fn create(&self) -> String {
        self.under("control/proplet/create")
    }

    /// Worker to manager: the heartbeat.
    pub fn alive(&self) -> String {
        self.under("control/proplet/alive")
    }

    /// Worker to manager: the worker's own use of processor and memory.
    pub fn metrics(&self) -> String {
        self.under("control/proplet/metrics")
    }

    /// Worker to manager: a task's use of processor and memory.
    pub fn task_metrics(&self) -> String {
        self.under("control/proplet/task_metrics")
    }

    /// Worker to registry proxy: an image is wanted.
    pub fn image_requests(&self) -> String {
        self.under("registry/proplet")
    }

    /// Registry proxy to all workers: the parts of images.
    pub fn image_parts(&self) -> String {
        self.under("registry/server")
    }

    /// Doctor to itself. Managers that read all of [`Topics::from_workers`]
    /// pass over topics that they do not know.
    pub fn doctor(&self) -> String {
        self.under("control/proplet/doctor")
    }

    /// All that managers send, for who grants rights.
    pub fn from_managers(&self) -> String {
        self.under("control/manager/#")
    }

    /// All that workers send.
    pub fn from_workers(&self) -> String {
        self.under("control/proplet/#")
    }
}

#[cfg(test)]
mod tests;
