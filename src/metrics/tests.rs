//! The page that a scraper reads.

use super::*;
use crate::nn::{INFERENCE_BUCKETS, InferenceTimes};
use crate::task::{Failure, Reuse};

fn metrics(levels: impl Fn() -> RuntimeLevels + Send + Sync + 'static) -> Metrics {
    Metrics::new(levels)
}

fn text(metrics: &Metrics) -> String {
    metrics.encode().expect("writing to a string")
}

#[test]
fn a_task_is_counted_with_its_phases() {
    let metrics = metrics(RuntimeLevels::default);
    let timings = Timings {
        queued: Duration::from_millis(2),
        ran: Duration::from_secs(3),
        ..Timings::default()
    };
    let reuse = Reuse { module: true, ..Reuse::default() };
    metrics.ended(&Outcome {
        verdict: Ok(()),
        timings,
        reuse,
        ..Outcome::failed(Failure::Stopped)
    });
    metrics.ended(&Outcome::failed(Failure::Stopped));
    metrics.refused(&Rejection::ShuttingDown);
    let text = text(&metrics);
    for line in [
        "proplet_tasks_total{outcome=\"completed\"} 1",
        "proplet_tasks_total{outcome=\"stopped\"} 1",
        "proplet_tasks_total{outcome=\"trap\"} 0",
        "proplet_tasks_refused_total{reason=\"shutting_down\"} 1",
        "proplet_task_phase_seconds_count{phase=\"queued\"} 1",
        "proplet_task_phase_seconds_bucket{le=\"2.5\",phase=\"ran\"} 0",
        "proplet_task_phase_seconds_bucket{le=\"10.0\",phase=\"ran\"} 1",
        "proplet_task_phase_seconds_count{phase=\"compiled\"} 0",
        "proplet_module_cache_hits_total 1",
        "proplet_connection_failures_total{kind=\"dns\"} 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
}

#[test]
fn the_outbox_is_as_deep_as_there_are_messages() {
    let metrics = metrics(RuntimeLevels::default);
    let (first, second) = (metrics.outgoing(), metrics.outgoing());
    drop(first);
    assert!(text(&metrics).contains("proplet_outbox_messages 1\n"));
    drop(second);
    assert!(text(&metrics).contains("proplet_outbox_messages 0\n"));
}

#[test]
fn levels_are_asked_for_at_each_look() {
    let asked = std::sync::atomic::AtomicU64::new(6);
    let metrics = metrics(move || RuntimeLevels {
        modules_compiled: asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed),
        ..RuntimeLevels::default()
    });
    assert!(text(&metrics).contains("proplet_modules_compiled_total 6\n"));
    assert!(text(&metrics).contains("proplet_modules_compiled_total 7\n"));
}

#[test]
fn inferences_are_a_histogram_of_each_graph() {
    let mut counts = [0; INFERENCE_BUCKETS.len() + 1];
    (counts[0], counts[1], counts[14]) = (1, 2, 4);
    let total = Duration::from_millis(125_500);
    let metrics = metrics(move || RuntimeLevels {
        inferences: vec![InferenceTimes {
            graph: "net".into(),
            backend: "rten".into(),
            total,
            counts,
        }],
        ..RuntimeLevels::default()
    });
    let text = text(&metrics);
    for line in [
        "# TYPE proplet_inference_seconds histogram",
        "proplet_inference_seconds_sum{graph=\"net\",backend=\"rten\"} 125.5",
        "proplet_inference_seconds_count{graph=\"net\",backend=\"rten\"} 7",
        "proplet_inference_seconds_bucket{le=\"0.0001\",graph=\"net\",backend=\"rten\"} 1",
        "proplet_inference_seconds_bucket{le=\"30.0\",graph=\"net\",backend=\"rten\"} 3",
        "proplet_inference_seconds_bucket{le=\"+Inf\",graph=\"net\",backend=\"rten\"} 7",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
}
