//! What a worker tells the manager of its use of the machine.

use super::control::to_json;
use serde::Serialize;

/// The worker's own use of processor and memory.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WorkerMetrics {
    /// The worker, by its client id.
    pub proplet_id: String,
    /// Where the manager lists it.
    pub namespace: String,
    /// RFC 3339.
    pub timestamp: String,
    /// Processor time.
    pub cpu_metrics: CpuMetrics,
    /// Memory.
    pub memory_metrics: MemoryMetrics,
}

/// Processor time since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct CpuMetrics {
    /// In user mode.
    pub user_seconds: f64,
    /// In the kernel.
    pub system_seconds: f64,
    /// Since the last report, 100 being one core.
    pub percent: f64,
}

/// Memory in bytes. The names are those of a worker in Go; here `alloc` and
/// `inuse` are the memory that no file backs, `sys` is the address space for
/// data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "described together")]
pub struct MemoryMetrics {
    pub rss_bytes: u64,
    pub heap_alloc_bytes: u64,
    pub heap_sys_bytes: u64,
    pub heap_inuse_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container_usage_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container_limit_bytes: Option<u64>,
}

/// A task's use of the machine, while it runs or at its end.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TaskMetrics {
    /// The task.
    pub task_id: String,
    /// The worker, by its client id.
    pub proplet_id: String,
    /// What is known.
    pub metrics: TaskUsage,
    /// The whole run, in the last message of a task that is monitored.
    pub aggregated: Option<Aggregated>,
    /// RFC 3339.
    pub timestamp: String,
}

/// What is known of one task. What is not known of it, or not asked for, is left
/// out, and not said to be 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct TaskUsage {
    /// Of its own thread since the last report, 100 being one core. Threads of
    /// OpenVINO that work for it are not in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_percent: Option<f64>,
    /// Bytes of its guest's linear memories. Modules and models are shared, so
    /// they are the worker's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// The same of the memory that the worker may use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_percent: Option<f64>,
    /// Bytes read from disks since it began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_read_bytes: Option<u64>,
    /// Bytes written to disks since it began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_write_bytes: Option<u64>,
    /// Whole seconds since it began to run.
    pub uptime_seconds: u64,
    /// Threads of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thread_count: Option<u32>,
    /// Files open in the process, those of the worker and of its other tasks
    /// included: threads share them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_descriptor_count: Option<u32>,
}

/// A task's use of the machine over its whole run. The same is left out as in
/// [`TaskUsage`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Aggregated {
    /// Processor time of the run, 100 being one core all the time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub avg_cpu_usage: Option<f64>,
    /// The largest between two samples.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_cpu_usage: Option<f64>,
    /// Bytes of the guest's linear memories, the mean of the samples.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub avg_memory_usage: Option<u64>,
    /// The most of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_memory_usage: Option<u64>,
    /// Bytes read from disks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_disk_read: Option<u64>,
    /// Bytes written to disks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_disk_write: Option<u64>,
    /// Samples, that of the end included.
    pub sample_count: u64,
}

impl WorkerMetrics {
    /// The message.
    pub fn encode(&self) -> Vec<u8> {
        to_json(self)
    }
}

impl TaskMetrics {
    /// The message.
    pub fn encode(&self) -> Vec<u8> {
        to_json(self)
    }
}
