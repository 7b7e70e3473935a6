//! The names that Propeller's dashboards read, beside our own: the same facts, as
//! its own worker tells them.

use super::RuntimeLevels;
use crate::usage::Usage;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Counters of tasks and connections.
#[derive(Debug, Default)]
pub(super) struct PropellerMetrics {
    started: Counter,
    completed: Counter,
    failed: Counter,
    reconnects: Counter,
}

impl PropellerMetrics {
    pub(super) fn new(registry: &mut Registry) -> PropellerMetrics {
        let metrics = PropellerMetrics::default();
        for (name, help, counter) in [
            ("proplet_tasks_started", "Tasks that the manager started here", &metrics.started),
            ("proplet_tasks_completed", "Tasks that completed", &metrics.completed),
            ("proplet_tasks_failed", "Tasks that failed, refused ones included", &metrics.failed),
            (
                "proplet_mqtt_reconnects",
                "Connections to the broker after the first one",
                &metrics.reconnects,
            ),
        ] {
            registry.register(name, help, counter.clone());
        }
        metrics
    }

    pub(super) fn started(&self) {
        self.started.inc();
    }

    pub(super) fn ended(&self, success: bool) {
        if success {
            self.completed.inc()
        } else {
            self.failed.inc()
        };
    }

    pub(super) fn reconnected(&self) {
        self.reconnects.inc();
    }
}

/// When it was looked last, and the processor time then.
#[derive(Debug)]
pub(super) struct LastLook(Mutex<(Instant, Duration)>);

impl LastLook {
    pub(super) fn new() -> LastLook {
        LastLook(Mutex::new((Instant::now(), Usage::now().processor())))
    }

    /// Processors in use since the last look, and before the first since the start.
    fn ratio(&self, used: Duration) -> f64 {
        // It is written in one step.
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, before) = std::mem::replace(&mut *last, (Instant::now(), used));
        let passed = last.0.saturating_duration_since(at).as_secs_f64();
        if passed > 0.0 { used.saturating_sub(before).as_secs_f64() / passed } else { 0.0 }
    }
}

/// What the worker uses together with the runtime's process.
pub(super) fn encode(
    levels: &RuntimeLevels,
    own: &Usage,
    last: &LastLook,
    encoder: &mut DescriptorEncoder<'_>,
) -> Result<(), fmt::Error> {
    let other = levels.process.and_then(Usage::of).unwrap_or_default();
    let (user, system) = (own.user + other.user, own.system + other.system);
    let container = own.container;
    let gauges = [
        (
            "proplet_cpu_usage_ratio",
            "Processors in use since the last look, by the worker and its runtime",
            Some(last.ratio(user + system)),
        ),
        (
            "proplet_cpu_user_seconds",
            "Processor time in user mode, of the worker and its runtime",
            Some(user.as_secs_f64()),
        ),
        (
            "proplet_cpu_system_seconds",
            "Processor time in the kernel, of the worker and its runtime",
            Some(system.as_secs_f64()),
        ),
        (
            "proplet_memory_rss_bytes",
            "Resident memory of the worker and its runtime",
            Some((own.resident + other.resident) as f64),
        ),
        (
            "proplet_memory_container_usage_bytes",
            "Memory that the control group uses",
            container.usage.map(|bytes| bytes as f64),
        ),
        (
            "proplet_memory_container_limit_bytes",
            "Memory that the control group may use",
            container.limit.map(|bytes| bytes as f64),
        ),
    ];
    for (name, help, value) in gauges {
        // A limit that there is not is no number.
        let Some(value) = value else { continue };
        let gauge = ConstGauge::new(value);
        gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
    }
    let fetched = ConstCounter::new(levels.fetched_bytes);
    fetched.encode(encoder.encode_descriptor(
        "proplet_wasm_fetch_bytes",
        "Bytes of code that were fetched",
        None,
        fetched.metric_type(),
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_in_use_are_counted_between_two_looks() {
        let begun = Instant::now() - Duration::from_secs(10);
        let last = LastLook(Mutex::new((begun, Duration::from_secs(5))));
        let ratio = last.ratio(Duration::from_secs(25));
        assert!((0.1..=2.0).contains(&ratio), "20 s within 10 s and more: {ratio}");
        assert_eq!(last.ratio(Duration::ZERO), 0.0);
    }
}
