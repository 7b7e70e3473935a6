//! `proplet status`: asks the running worker what it does and holds.

use crate::config::{self, Environment, HealthConfig};
use crate::status;
use crate::status::report::{EndReport, LoopReport, Report, TaskReport};
use anyhow::{Context as _, bail};
use clap::{Arg, ArgAction, ArgMatches, Command};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

/// Entries of each list that the text shows.
const SHOWN: usize = 10;

pub(super) fn command() -> Command {
    Command::new("status")
        .about("Show what the worker that runs on this machine does and holds")
        .long_about(
            "Asks the running worker over HTTP, where PROPLET_METRICS_BIND and \
             PROPLET_METRICS_PORT say, and shows its connection, its tasks, what ended last, \
             deployments and daemons, the runtime's process, and what is compiled and loaded. It \
             ends with 0 if the worker takes tasks, else with 1.\n\n\
             Nothing that a task was given or has written is shown.",
        )
        .arg(
            Arg::new("json")
                .long("json")
                .action(ArgAction::SetTrue)
                .help("Print the answer as it comes, as one line of JSON (GET /status)"),
        )
        .args(config::health_args())
}

pub(super) fn main(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    let config = HealthConfig::load(matches, &Environment::from_process())?;
    let Some(listen) = config.listen else {
        bail!("PROPLET_METRICS_ENABLED is false, so the worker can't be asked");
    };
    let (report, body) = status::ask_status(listen)?;
    let text = if matches.get_flag("json") { body } else { text(&report) };
    // A reader that has gone away wants no more.
    std::io::stdout().write_all(text.as_bytes()).context("printing the status").ok();
    Ok(if report.ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A line for each fact, with its subject in front.
fn text(report: &Report) -> String {
    let mut text = String::new();
    let mut line = |subject: &str, what: String| {
        // Writing to a string never fails.
        let _ = writeln!(text, "{subject:<12} {what}");
    };
    line(
        "worker",
        format!(
            "{}, proplet {}, up {}: {}",
            report.proplet_id,
            report.version,
            time(report.uptime),
            report.state
        ),
    );
    for missing in &report.missing {
        line("", format!("not ready: {missing}"));
    }
    if let Some(note) = &report.note {
        line("", format!("note: {note}"));
    }
    match &report.work {
        Some(work) => work_lines(report, work, &mut line),
        None => line("tasks", "the worker's loop did not tell in time".into()),
    }
    let runtime = &report.runtime;
    let process = match (runtime.isolation.as_str(), runtime.pid) {
        ("none", _) => "in the worker's process".into(),
        (_, Some(pid)) => {
            format!("process {pid}, up {}", runtime.age.map_or_else(|| "?".into(), time))
        }
        (_, None) => "no process".into(),
    };
    line(
        "runtime",
        format!("{process}; {} crashes, {} stuck threads", runtime.crashes, runtime.stuck_threads),
    );
    match &report.caches {
        None => line("caches", "the runtime did not tell in time".into()),
        Some(caches) => {
            line(
                "code",
                format!(
                    "{} in {}",
                    count(caches.code.len(), "entry", "entries"),
                    size(caches.code_bytes)
                ),
            );
            for code in caches.code.iter().take(SHOWN) {
                let digest = code.digest.get(..12).unwrap_or(&code.digest);
                let used = used(code.hits, code.last_used);
                line("", format!("{digest}… {} {}, {used}", code.kind, size(code.bytes)));
            }
            line(
                "graphs",
                format!(
                    "{} in {}",
                    count(caches.graphs.len(), "graph", "graphs"),
                    size(caches.graph_bytes)
                ),
            );
            for graph in caches.graphs.iter().take(SHOWN) {
                let name = graph.name.as_deref().unwrap_or("-");
                let used = used(graph.hits, graph.last_used);
                line(
                    "",
                    format!(
                        "{name} ({}, {}) {}, {used}",
                        graph.source,
                        graph.backend,
                        size(graph.bytes)
                    ),
                );
            }
        }
    }
    if let Some(journal) = &report.journal {
        line(
            "journal",
            format!(
                "{}, {} writes of {:.2} ms on average, the last {:.2} ms",
                size(journal.bytes),
                journal.writes,
                journal.mean_write_ms,
                journal.last_write_ms
            ),
        );
    }
    text
}

fn work_lines(report: &Report, work: &LoopReport, line: &mut impl FnMut(&str, String)) {
    let connection = &work.connection;
    let since = connection.since.map(|since| format!(" for {}", time(since))).unwrap_or_default();
    let connected = if connection.connected { "connected" } else { "not connected" };
    line("broker", format!("{}, {connected}{since}, {} made", report.broker, connection.made));
    if let Some(failure) = &connection.last_failure {
        line("", format!("last failure: {failure}"));
    }
    line(
        "tasks",
        format!(
            "{} running, {} waiting; {} without the broker's acknowledgement",
            work.running,
            work.queued,
            count(work.outbox, "result", "results")
        ),
    );
    for task in work.running_tasks.iter().chain(&work.waiting_tasks).take(SHOWN) {
        line("", task_line(task));
    }
    line("daemons", work.daemons.len().to_string());
    for daemon in work.daemons.iter().take(SHOWN) {
        line("", task_line(daemon));
    }
    line(
        "deployments",
        format!(
            "{}, {} under way",
            work.deployments,
            count(work.invocations, "invocation", "invocations")
        ),
    );
    let mut outcomes: BTreeMap<&str, usize> = BTreeMap::new();
    for recent in &work.recent {
        *outcomes.entry(&recent.outcome).or_default() += 1;
    }
    let outcomes: Vec<_> = outcomes.iter().map(|(how, times)| format!("{times} {how}")).collect();
    let ended = if outcomes.is_empty() { "nothing".into() } else { outcomes.join(", ") };
    line("ended last", ended);
    for recent in work.recent.iter().take(SHOWN) {
        line("", recent_line(recent));
    }
}

fn task_line(task: &TaskReport) -> String {
    let graph = task.graph.as_ref().map(|graph| format!(" {graph}")).unwrap_or_default();
    let since = task.running.unwrap_or(task.age);
    format!("{} {}{graph}, {}", task.id, task.phase, time(since))
}

fn recent_line(recent: &EndReport) -> String {
    let inferences = match recent.inferences {
        0 => String::new(),
        some => format!(", {some} inferences in {:.1} ms", recent.inferred_ms),
    };
    format!(
        "{} {}, {} ago: queued {:.1} ms, compiled {:.1} ms, loaded {:.1} ms, ran {:.1} ms{inferences}",
        recent.id,
        recent.outcome,
        time(recent.ago),
        recent.queued_ms,
        recent.compiled_ms,
        recent.loaded_ms,
        recent.ran_ms
    )
}

fn used(hits: u64, ago: f64) -> String {
    format!("found {hits} times, used {} ago", time(ago))
}

fn count(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

fn time(seconds: f64) -> String {
    match seconds {
        ..10.0 => format!("{seconds:.1} s"),
        // To the second, and as much of it as anyone reads.
        _ => {
            let whole = Duration::from_secs(seconds as u64);
            let text = humantime::format_duration(whole).to_string();
            text.split(' ').take(2).collect::<Vec<_>>().join(" ")
        }
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..0x10_0000 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        _ => format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_comes_first_and_lists_are_bounded() {
        let task = TaskReport {
            id: "a".into(),
            phase: "waiting".into(),
            age: 90.0,
            ..TaskReport::default()
        };
        let work = LoopReport {
            waiting_tasks: vec![task; 50],
            queued: 50,
            recent: vec![EndReport { outcome: "trap".into(), ..EndReport::default() }; 3],
            ..LoopReport::default()
        };
        let report = Report {
            proplet_id: "w".into(),
            state: "connecting".into(),
            uptime: 3700.0,
            missing: vec!["there is no connection".into()],
            work: Some(work),
            ..Report::default()
        };
        let text = text(&report);
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[0].ends_with("up 1h 1m: connecting"), "{text}");
        assert!(lines[1].ends_with("not ready: there is no connection"), "{text}");
        assert_eq!(text.matches("a waiting, 1m 30s").count(), SHOWN, "{text}");
        assert!(
            text.contains("ended last   3 trap") && text.contains("0 running, 50 waiting"),
            "{text}"
        );
        assert!(text.contains("did not tell in time"), "{text}");
    }

    #[test]
    fn sizes_and_times_have_their_units() {
        assert_eq!([size(7), size(2048), size(3 << 20)], ["7 B", "2.0 KiB", "3.0 MiB"]);
        assert_eq!([time(0.25), time(75.9), time(90_061.0)], ["0.2 s", "1m 15s", "1day 1h"]);
    }
}
