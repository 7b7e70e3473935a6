//! What the manager hears of the worker's use of the machine, now and then.

use super::Worker;
use crate::executor::Running;
use crate::protocol::{CpuMetrics, MemoryMetrics, TaskMetrics, TaskUsage, WorkerMetrics};
use crate::task::TaskId;
use crate::usage::{Container, ThreadUsage, Usage};
use std::collections::HashMap;
use std::time::{Duration, SystemTime};
use tokio::time::{Instant, Interval, MissedTickBehavior};

/// When the next report is due, and what the last one was made of.
pub(super) struct Reports {
    interval: Option<Interval>,
    last: (Instant, Duration),
    /// Bytes of memory that the worker may use.
    memory: u64,
    /// Of tasks that ran at the last report.
    tasks: HashMap<TaskId, Sample>,
}

/// What a task's thread had used.
struct Sample {
    first: ThreadUsage,
    last: (Instant, ThreadUsage),
    uptime: Duration,
}

impl Reports {
    /// A report each `every`; none without. `memory` is the machine's.
    pub(super) fn new(every: Option<Duration>, memory: u64) -> Reports {
        let interval = every.map(|every| {
            // The first one tells of a stretch of time, too.
            let mut interval = tokio::time::interval_at(Instant::now() + every, every);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        });
        let last = (Instant::now(), Usage::now().processor());
        let memory = Container::now().limit.map_or(memory, |limit| limit.min(memory));
        Reports { interval, last, memory, tasks: HashMap::new() }
    }

    /// Ready when a report is due.
    pub(super) async fn due(&mut self) {
        match &mut self.interval {
            Some(interval) => {
                interval.tick().await;
            }
            None => std::future::pending().await,
        }
    }

    fn worker(&mut self, now: Instant) -> (CpuMetrics, MemoryMetrics) {
        let usage = Usage::now();
        let (before, used) = std::mem::replace(&mut self.last, (now, usage.processor()));
        let cpu = CpuMetrics {
            user_seconds: usage.user.as_secs_f64(),
            system_seconds: usage.system.as_secs_f64(),
            percent: percent(usage.processor().saturating_sub(used), now - before),
        };
        let memory = MemoryMetrics {
            rss_bytes: usage.resident,
            heap_alloc_bytes: usage.anonymous,
            heap_sys_bytes: usage.data,
            heap_inuse_bytes: usage.anonymous,
            container_usage_bytes: usage.container.usage,
            container_limit_bytes: usage.container.limit,
        };
        (cpu, memory)
    }

    /// What is known of the tasks that ran at the last report, too: of the
    /// others nothing can be told but that they began.
    fn tasks(&mut self, now: Instant, running: Vec<Running>) -> Vec<(TaskId, TaskUsage)> {
        let mut before = std::mem::take(&mut self.tasks);
        let mut told = Vec::new();
        for Running { id, uptime, thread, memory } in running {
            let Some(used) = thread.and_then(|thread| thread.usage()) else { continue };
            // An id that runs for a shorter time than before is another run.
            let sample = before.remove(&id).filter(|sample| sample.uptime <= uptime);
            let first = sample.as_ref().map_or(used, |sample| sample.first);
            if let Some(Sample { last: (then, last), .. }) = sample {
                let since = |now: Option<u64>, then: Option<u64>| Some(now?.saturating_sub(then?));
                let usage = TaskUsage {
                    cpu_percent: percent(used.processor.saturating_sub(last.processor), now - then),
                    memory_bytes: memory,
                    memory_percent: tenths(memory as f64, self.memory as f64),
                    disk_read_bytes: since(used.read, first.read),
                    disk_write_bytes: since(used.written, first.written),
                    uptime_seconds: uptime.as_secs(),
                    thread_count: 1,
                };
                told.push((id.clone(), usage));
            }
            self.tasks.insert(id, Sample { first, last: (now, used), uptime });
        }
        told
    }
}

/// 100 is one core.
fn percent(used: Duration, of: Duration) -> f64 {
    tenths(used.as_secs_f64(), of.as_secs_f64())
}

/// In percent, to a tenth.
fn tenths(part: f64, of: f64) -> f64 {
    if of > 0.0 { (1000.0 * part / of).round() / 10.0 } else { 0.0 }
}

impl Worker {
    /// Sends a report. Like heartbeats, reports are sent now or never.
    pub(super) fn report(&mut self) {
        let now = Instant::now();
        let timestamp = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        let (cpu_metrics, memory_metrics) = self.reports.worker(now);
        let message = WorkerMetrics {
            proplet_id: self.id.clone(),
            namespace: self.namespace.clone(),
            timestamp: timestamp.clone(),
            cpu_metrics,
            memory_metrics,
        };
        self.link.beat(&self.topics.metrics(), message.encode());
        for (id, metrics) in self.reports.tasks(now, self.executor.running()) {
            let message = TaskMetrics {
                task_id: id.to_string(),
                proplet_id: self.id.clone(),
                metrics,
                aggregated: None,
                timestamp: timestamp.clone(),
            };
            self.link.beat(&self.topics.task_metrics(), message.encode());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::Thread;

    #[test]
    fn a_core_in_full_use_is_a_hundred_percent() {
        assert_eq!(percent(Duration::from_secs(2), Duration::from_secs(2)), 100.0);
        assert_eq!(percent(Duration::from_millis(1), Duration::from_secs(3)), 0.0);
        assert_eq!(percent(Duration::from_secs(1), Duration::ZERO), 0.0);
    }

    #[tokio::test]
    async fn a_task_is_reported_from_the_second_look_on() {
        let mut reports = Reports::new(None, 1 << 30);
        let mut look = |uptime| {
            let id = TaskId::new("a").expect("an id");
            let thread = Thread::current();
            let uptime = Duration::from_secs(uptime);
            let running = Running { id, uptime, thread, memory: 64 << 10 };
            reports.tasks(Instant::now(), vec![running]).len()
        };
        // Only where the system tells of threads.
        let told = usize::from(cfg!(target_os = "linux"));
        assert_eq!([look(10), look(20), look(5), look(15)], [0, told, 0, told]);
    }
}
