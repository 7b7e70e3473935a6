//! What came of many tasks: percentiles, throughput, what was reused. No I/O.

use crate::client::NoResult;
use crate::protocol::{Reused, TaskResult, TimingsMs};
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// Different errors that are told; a run may have one for each task.
const ERRORS: usize = 5;

/// The parts of a task's latency.
const PARTS: [&str; 6] = ["queued", "compiled", "loaded", "ran", INFERRED, WAY];
const INFERRED: &str = "inferred";
const WAY: &str = "way";

/// What came of one task.
#[derive(Debug)]
pub(super) struct TimedAnswer {
    latency: Duration,
    verdict: Result<(Reused, TimingsMs), String>,
    answered: bool,
}

impl TimedAnswer {
    /// `latency` is from the publish to the result.
    pub(super) fn new(latency: Duration, answer: Result<TaskResult, NoResult>) -> TimedAnswer {
        let answered = answer.is_ok();
        let verdict = match answer {
            Ok(result) => match result.error {
                None => Ok((result.reused, result.timings)),
                Some(error) => Err(error),
            },
            Err(error) => Err(error.to_string()),
        };
        TimedAnswer { latency, verdict, answered }
    }
}

/// What came of all of them so far.
#[derive(Debug, Default)]
pub(super) struct Summary {
    latencies: Vec<Duration>,
    /// Of each completed task in milliseconds: the phases, the inferences in the
    /// last one, and what is left of the latency.
    parts: [Vec<f64>; PARTS.len()],
    inferences: u64,
    failed: u64,
    answered: u64,
    errors: BTreeMap<String, u64>,
    modules_reused: u64,
    graphs_reused: u64,
    graphs_loaded: u64,
    took: Duration,
}

impl Summary {
    /// Adds a task.
    pub(super) fn add(&mut self, answer: TimedAnswer) {
        self.answered += u64::from(answer.answered);
        match answer.verdict {
            Ok((reused, timings)) => {
                let TimingsMs { queued, compiled, loaded, ran, inferred, inferences } = timings;
                let latency = answer.latency.as_secs_f64() * 1e3;
                let way = (latency - queued - compiled - loaded - ran).max(0.0);
                let values = [queued, compiled, loaded, ran, inferred, way];
                for (part, value) in self.parts.iter_mut().zip(values) {
                    part.push(value);
                }
                self.inferences += u64::from(inferences);
                self.latencies.push(answer.latency);
                self.modules_reused += u64::from(reused.module);
                self.graphs_reused += u64::from(reused.graphs_reused);
                self.graphs_loaded += u64::from(reused.graphs_loaded);
            }
            Err(error) => {
                self.failed += 1;
                if self.errors.len() < ERRORS || self.errors.contains_key(&error) {
                    *self.errors.entry(error).or_default() += 1;
                }
            }
        }
    }

    /// Says how long all of it took, once it is over.
    pub(super) fn took(&mut self, took: Duration) {
        self.took = took;
        self.latencies.sort_unstable();
        self.parts.iter_mut().for_each(|part| part.sort_by(f64::total_cmp));
    }

    /// The middle of a part, by its name, in milliseconds.
    fn median(&self, name: &str) -> Option<f64> {
        let part = PARTS.iter().position(|part| *part == name)?;
        let part = &self.parts[part];
        part.get((part.len() / 2).min(part.len().saturating_sub(1))).copied()
    }

    /// What a message takes to the worker, and its result back, beside the task.
    pub(super) fn way(&self) -> Option<Duration> {
        self.median(WAY).map(|ms| Duration::from_secs_f64(ms / 1e3))
    }

    /// Tasks that failed, those without a result included.
    pub(super) fn failed(&self) -> u64 {
        self.failed
    }

    /// Tasks with a result, be it an error.
    pub(super) fn answered(&self) -> u64 {
        self.answered
    }

    /// The first different errors, and how often each came.
    pub(super) fn errors(&self) -> impl Iterator<Item = (&str, u64)> {
        self.errors.iter().map(|(error, times)| (error.as_str(), *times))
    }

    fn tasks(&self) -> u64 {
        self.latencies.len() as u64 + self.failed
    }

    /// Completed tasks a second.
    fn throughput(&self) -> f64 {
        match self.took.as_secs_f64() {
            0.0 => 0.0,
            seconds => self.latencies.len() as f64 / seconds,
        }
    }

    /// By the nearest rank, in milliseconds; none without a completed task.
    fn percentile(&self, percent: usize) -> Option<f64> {
        let rank = (self.latencies.len() * percent).div_ceil(100);
        self.latencies.get(rank.saturating_sub(1)).map(|latency| latency.as_secs_f64() * 1e3)
    }

    /// One line, with the numbers of the text.
    pub(super) fn to_json(&self) -> String {
        let ms = |percent| self.percentile(percent).map(|ms| (ms * 1e3).round() / 1e3);
        json!({
            "tasks": self.tasks(),
            "failed": self.failed,
            "seconds": self.took.as_secs_f64(),
            "throughput": self.throughput(),
            "latency_ms": {
                "min": ms(0), "p50": ms(50), "p90": ms(90), "p99": ms(99), "max": ms(100),
            },
            "median_ms": PARTS.map(|name| (name, self.median(name)))
                .into_iter()
                .collect::<BTreeMap<_, _>>(),
            "inferences": self.inferences,
            "reused": {
                "modules": self.modules_reused,
                "graphs": self.graphs_reused,
                "graphs_loaded": self.graphs_loaded,
            },
            "errors": self.errors,
        })
        .to_string()
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let completed = self.latencies.len();
        writeln!(f, "tasks       {} completed, {} failed", completed, self.failed)?;
        if completed == 0 {
            return Ok(());
        }
        let columns = [("min", 0), ("p50", 50), ("p90", 90), ("p99", 99), ("max", 100)];
        let latencies = columns.map(|(name, percent)| {
            format!("{name} {:.1} ms", self.percentile(percent).unwrap_or_default())
        });
        writeln!(f, "latency     {}", latencies.join("  "))?;
        let phases = PARTS.iter().filter(|name| ![INFERRED, WAY].contains(name));
        let phases =
            phases.map(|name| format!("{name} {:.1} ms", self.median(name).unwrap_or(0.0)));
        write!(f, "phases      {}", phases.collect::<Vec<_>>().join("  "))?;
        match self.inferences {
            0 => writeln!(f, "  (medians)")?,
            _ => writeln!(
                f,
                ", {:.1} ms of it in inferences  (medians)",
                self.median(INFERRED).unwrap_or(0.0)
            )?,
        }
        writeln!(
            f,
            "way         {:.1} ms there and back: broker, journal, network  (median)",
            self.median(WAY).unwrap_or(0.0)
        )?;
        let seconds = self.took.as_secs_f64();
        writeln!(f, "throughput  {:.1} tasks/s over {seconds:.1} s", self.throughput())?;
        write!(f, "reused      module in {} of {completed} tasks", self.modules_reused)?;
        match self.graphs_reused + self.graphs_loaded {
            0 => writeln!(f),
            graphs => writeln!(f, ", model in {} of {graphs} loads", self.graphs_reused),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(error: Option<&str>) -> TaskResult {
        let json = json!({
            "task_id": "a", "error": error,
            "reused": {"module": true, "graphs_reused": 1, "graphs_loaded": 0},
            "timings": {"queued": 0.25, "ran": 0.5, "inferred": 0.125, "inferences": 1},
        });
        TaskResult::decode(json.to_string().as_bytes()).expect("a result")
    }

    fn summary() -> Summary {
        let mut summary = Summary::default();
        for ms in (1..=10).rev() {
            summary.add(TimedAnswer::new(Duration::from_millis(ms), Ok(result(None))));
        }
        summary.add(TimedAnswer::new(Duration::from_secs(9), Ok(result(Some("trap")))));
        let silence = NoResult::Silence("nobody".into());
        summary.add(TimedAnswer::new(Duration::from_secs(9), Err(silence)));
        summary.took(Duration::from_secs(2));
        summary
    }

    #[test]
    fn percentiles_are_of_completed_tasks_by_the_nearest_rank() {
        let summary = summary();
        for (percent, ms) in [(0, 1.0), (50, 5.0), (90, 9.0), (99, 10.0), (100, 10.0)] {
            assert_eq!(summary.percentile(percent), Some(ms), "{percent}");
        }
        assert_eq!((summary.tasks(), summary.failed(), summary.answered()), (12, 2, 11));
        assert_eq!(summary.throughput(), 5.0);
    }

    #[test]
    fn text_and_json_tell_the_same() {
        let summary = summary();
        assert_eq!(
            summary.to_string(),
            "tasks       10 completed, 2 failed\n\
             latency     min 1.0 ms  p50 5.0 ms  p90 9.0 ms  p99 10.0 ms  max 10.0 ms\n\
             phases      queued 0.2 ms  compiled 0.0 ms  loaded 0.0 ms  ran 0.5 ms, 0.1 ms of it \
             in inferences  (medians)\n\
             way         5.2 ms there and back: broker, journal, network  (median)\n\
             throughput  5.0 tasks/s over 2.0 s\n\
             reused      module in 10 of 10 tasks, model in 10 of 10 loads\n"
        );
        let json: serde_json::Value = serde_json::from_str(&summary.to_json()).expect("JSON");
        assert_eq!(json["latency_ms"]["p90"], 9.0);
        assert_eq!(json["errors"]["trap"], 1);
        assert_eq!((&json["median_ms"]["way"], &json["inferences"]), (&json!(5.25), &json!(10)));
        assert_eq!(json["reused"]["modules"], 10);
    }

    #[test]
    fn without_a_completed_task_there_are_no_percentiles() {
        let mut summary = Summary::default();
        summary.add(TimedAnswer::new(Duration::ZERO, Ok(result(Some("trap")))));
        assert_eq!(summary.to_string(), "tasks       0 completed, 1 failed\n");
        assert!(summary.to_json().contains(r#""p50":null"#));
    }

    #[test]
    fn a_few_different_errors_are_kept_and_counted() {
        let mut summary = Summary::default();
        for n in 0..20 {
            let error = format!("error {}", n % 10);
            summary.add(TimedAnswer::new(Duration::ZERO, Ok(result(Some(&error)))));
        }
        assert_eq!(summary.errors().count(), ERRORS);
        assert!(summary.errors().all(|(_, times)| times == 2));
        assert_eq!(summary.failed(), 20);
    }
}
