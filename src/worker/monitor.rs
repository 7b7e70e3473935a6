//! What the manager hears of the use of the machine: the worker's and that of
//! running tasks now and then; that of a monitored task at its own interval and
//! once more at its end.

use super::{PULSE, Worker};
use crate::executor::{RunningTask, Spent};
use crate::protocol::{
    Aggregated, CpuMetrics, MemoryMetrics, TaskMetrics, TaskUsage, WorkerMetrics,
};
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
    /// Of monitored tasks that run.
    series: HashMap<TaskId, UsageSeries>,
}

/// What a task's thread had used.
struct Sample {
    first: ThreadUsage,
    last: (Instant, ThreadUsage),
    uptime: Duration,
}

/// The samples of a monitored task so far.
#[derive(Default)]
struct UsageSeries {
    count: u64,
    /// At the last one.
    uptime: Duration,
    thread: ThreadUsage,
    max_cpu: f64,
    memory: u64,
}

impl UsageSeries {
    /// Whether the next sample is due: asked at each [`PULSE`], so it is as near
    /// to its time as it can be.
    fn due(&self, spent: &Spent) -> bool {
        spent.uptime + PULSE / 2 >= self.uptime + spent.monitoring.interval
    }

    /// Adds a sample. `available` is the memory that the worker may use.
    fn add(&mut self, spent: &Spent, available: u64) -> TaskUsage {
        let wanted = spent.monitoring;
        let cpu = spent.thread.map(|thread| {
            let used = thread.since(&self.thread).processor;
            percent(used, spent.uptime.saturating_sub(self.uptime))
        });
        self.count += 1;
        self.uptime = spent.uptime;
        self.thread = spent.thread.unwrap_or_default();
        self.max_cpu = self.max_cpu.max(cpu.unwrap_or_default());
        self.memory += spent.memory;
        let thread = spent.thread.filter(|_| wanted.disk);
        TaskUsage {
            cpu_percent: cpu.filter(|_| wanted.cpu),
            memory_bytes: wanted.memory.then_some(spent.memory),
            memory_percent: wanted.memory.then(|| tenths(spent.memory as f64, available as f64)),
            disk_read_bytes: thread.and_then(|thread| thread.read),
            disk_write_bytes: thread.and_then(|thread| thread.written),
            uptime_seconds: spent.uptime.as_secs(),
            thread_count: wanted.threads.then_some(1),
            file_descriptor_count: spent.files,
        }
    }

    /// The whole run, after the last sample, which `spent` is.
    fn aggregated(&self, spent: &Spent) -> Aggregated {
        let wanted = spent.monitoring;
        let cpu = spent.thread.filter(|_| wanted.cpu);
        let disk = spent.thread.filter(|_| wanted.disk);
        Aggregated {
            avg_cpu_usage: cpu.map(|thread| percent(thread.processor, spent.uptime)),
            max_cpu_usage: cpu.map(|_| self.max_cpu),
            avg_memory_usage: wanted.memory.then(|| self.memory / self.count.max(1)),
            max_memory_usage: wanted.memory.then_some(spent.memory),
            total_disk_read: disk.and_then(|thread| thread.read),
            total_disk_write: disk.and_then(|thread| thread.written),
            sample_count: self.count,
        }
    }
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
        Reports { interval, last, memory, tasks: HashMap::new(), series: HashMap::new() }
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
    fn tasks(&mut self, now: Instant, running: Vec<RunningTask>) -> Vec<(TaskId, TaskUsage)> {
        let mut before = std::mem::take(&mut self.tasks);
        let mut told = Vec::new();
        for RunningTask { id, uptime, thread, memory } in running {
            let Some(used) = thread.and_then(|thread| thread.usage()) else { continue };
            // An id that runs for a shorter time than before is another run.
            let sample = before.remove(&id).filter(|sample| sample.uptime <= uptime);
            let first = sample.as_ref().map_or(used, |sample| sample.first);
            if let Some(Sample { last: (then, last), .. }) = sample {
                let disk = used.since(&first);
                let processor = used.since(&last).processor;
                let usage = TaskUsage {
                    cpu_percent: Some(percent(processor, now - then)),
                    memory_bytes: Some(memory),
                    memory_percent: Some(tenths(memory as f64, self.memory as f64)),
                    disk_read_bytes: disk.read,
                    disk_write_bytes: disk.written,
                    uptime_seconds: uptime.as_secs(),
                    thread_count: Some(1),
                    file_descriptor_count: None,
                };
                told.push((id.clone(), usage));
            }
            self.tasks.insert(id, Sample { first, last: (now, used), uptime });
        }
        told
    }

    /// The samples that are due of tasks that are monitored.
    fn samples(&mut self, running: Vec<(TaskId, Spent)>) -> Vec<(TaskId, TaskUsage)> {
        if self.interval.is_none() {
            return Vec::new();
        }
        let mut told = Vec::new();
        for (id, spent) in running {
            let series = self.series.entry(id.clone()).or_default();
            if series.due(&spent) {
                told.push((id, series.add(&spent, self.memory)));
            }
        }
        told
    }

    /// The last sample of a monitored task, and what they all come to.
    fn end(&mut self, id: &TaskId, spent: &Spent) -> Option<(TaskUsage, Aggregated)> {
        self.interval.as_ref()?;
        let mut series = self.series.remove(id).unwrap_or_default();
        Some((series.add(spent, self.memory), series.aggregated(spent)))
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
        let (cpu_metrics, memory_metrics) = self.reports.worker(now);
        let message = WorkerMetrics {
            proplet_id: self.id.clone(),
            namespace: self.namespace.clone(),
            timestamp: timestamp(),
            cpu_metrics,
            memory_metrics,
        };
        self.link.beat(&self.topics.metrics(), message.encode());
        for (id, usage) in self.reports.tasks(now, self.running()) {
            self.report_task(&id, usage);
        }
    }

    /// Sends what is due of monitored tasks, likewise.
    pub(super) fn sample(&mut self) {
        for (id, usage) in self.reports.samples(self.monitored()) {
            self.report_task(&id, usage);
        }
    }

    fn report_task(&self, id: &TaskId, usage: TaskUsage) {
        let message = self.task_metrics(id, usage, None);
        self.link.beat(&self.topics.task_metrics(), message.encode());
    }

    /// Sends what a monitored task came to. That is sent once and not left out.
    pub(super) fn report_end(&mut self, id: &TaskId, spent: Option<Spent>) {
        let Some((usage, aggregated)) = spent.and_then(|spent| self.reports.end(id, &spent)) else {
            return;
        };
        let message = self.task_metrics(id, usage, Some(aggregated));
        drop(self.link.publish(&self.topics.task_metrics(), message.encode()));
    }

    fn task_metrics(
        &self,
        id: &TaskId,
        metrics: TaskUsage,
        aggregated: Option<Aggregated>,
    ) -> TaskMetrics {
        let (task_id, proplet_id) = (id.to_string(), self.id.clone());
        TaskMetrics { task_id, proplet_id, metrics, aggregated, timestamp: timestamp() }
    }
}

/// Now.
fn timestamp() -> String {
    humantime::format_rfc3339_millis(SystemTime::now()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::Monitoring;
    use crate::usage::Thread;

    #[test]
    fn a_core_in_full_use_is_a_hundred_percent() {
        assert_eq!(percent(Duration::from_secs(2), Duration::from_secs(2)), 100.0);
        assert_eq!(percent(Duration::from_millis(1), Duration::from_secs(3)), 0.0);
        assert_eq!(percent(Duration::from_secs(1), Duration::ZERO), 0.0);
    }

    fn spent(uptime: Duration, processor: Duration, memory: u64) -> Spent {
        let monitoring = Monitoring {
            interval: Duration::from_secs(2),
            cpu: true,
            memory: true,
            disk: true,
            threads: true,
            files: true,
        };
        let thread = Some(ThreadUsage { processor, read: Some(7), written: None });
        Spent { monitoring, uptime, thread, memory, files: Some(9) }
    }

    #[tokio::test]
    async fn a_monitored_task_comes_to_what_its_samples_say() {
        let mut reports = Reports::new(Some(Duration::from_secs(3600)), 1 << 30);
        let id = TaskId::new("a").expect("an id");
        let ms = Duration::from_millis;
        let mut look = |uptime, processor, memory| {
            reports.samples(vec![(id.clone(), spent(ms(uptime), ms(processor), memory))]).len()
        };
        // Every two seconds, as near as a look each second comes.
        let looks = [look(990, 0, 1), look(1990, 1990, 10), look(2990, 1990, 10)];
        assert_eq!(looks, [0, 1, 0]);
        assert_eq!(look(3990, 1990, 20), 1);
        let end = spent(ms(4000), ms(2000), 30);
        let (last, whole) = reports.end(&id, &end).expect("it is monitored");
        assert_eq!((last.cpu_percent, last.uptime_seconds), (Some(100.0), 4));
        let expected = Aggregated {
            avg_cpu_usage: Some(50.0),
            max_cpu_usage: Some(100.0),
            avg_memory_usage: Some(20),
            max_memory_usage: Some(30),
            total_disk_read: Some(7),
            total_disk_write: None,
            sample_count: 3,
        };
        assert_eq!(whole, expected);
        // Nothing is left of it for the id's next run.
        assert_eq!(reports.end(&id, &end).expect("it is monitored").1.sample_count, 1);
    }

    #[tokio::test]
    async fn where_nothing_is_reported_a_monitored_task_is_not_either() {
        let mut reports = Reports::new(None, 1 << 30);
        let id = TaskId::new("a").expect("an id");
        let spent = spent(Duration::from_secs(9), Duration::ZERO, 1);
        assert!(reports.samples(vec![(id.clone(), spent.clone())]).is_empty());
        assert!(reports.end(&id, &spent).is_none());
    }

    #[tokio::test]
    async fn a_task_is_reported_from_the_second_look_on() {
        let mut reports = Reports::new(None, 1 << 30);
        let mut look = |uptime| {
            let id = TaskId::new("a").expect("an id");
            let thread = Thread::current();
            let uptime = Duration::from_secs(uptime);
            let running = RunningTask { id, uptime, thread, memory: 64 << 10 };
            reports.tasks(Instant::now(), vec![running]).len()
        };
        // Only where the system tells of threads.
        let told = usize::from(cfg!(target_os = "linux"));
        assert_eq!([look(10), look(20), look(5), look(15)], [0, told, 0, told]);
    }
}
