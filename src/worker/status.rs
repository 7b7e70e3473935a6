//! What `/status` tells of this worker: what its loop knows, asked by the server
//! and answered between two turns; and what others know, asked without the loop.

use super::Worker;
use super::runtime::Tasker;
use crate::cancel::Doing;
use crate::config::{Config, Group, Isolation};
use crate::executor::ListedTask;
use crate::journal::JournalLevels;
use crate::metrics::{RuntimeLevels, outcome_label, rejection_label};
use crate::mqtt::ConnectionFailure;
use crate::status::AskRuntime;
use crate::status::report::{
    CachesReport, CodeReport, ConnectionReport, DeployedReport, EndReport, GraphReport,
    JournalReport, LoopReport, Report, RuntimeReport, TaskReport, seconds,
};
use crate::task::{Outcome, Rejection, TaskId, Timings, milliseconds};
use crate::version;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

/// Entries of each list.
const MOST: usize = 100;

/// What is remembered for whoever asks.
#[derive(Default)]
pub(super) struct Record {
    recent: VecDeque<RecentEnd>,
    connected: bool,
    /// When the connection was made or lost.
    changed: Option<Instant>,
    made: u64,
    failure: Option<String>,
}

struct RecentEnd {
    id: TaskId,
    outcome: String,
    at: Instant,
    timings: Timings,
}

impl Record {
    /// A task, daemon or invocation has ended.
    pub(super) fn ended(&mut self, id: &TaskId, outcome: &Outcome) {
        self.add(id, outcome_label(&outcome.verdict).into(), outcome.timings);
    }

    /// A task was not accepted.
    pub(super) fn refused(&mut self, id: &TaskId, rejection: &Rejection) {
        let outcome = format!("refused: {}", rejection_label(rejection));
        self.add(id, outcome, Timings::default());
    }

    fn add(&mut self, id: &TaskId, outcome: String, timings: Timings) {
        if self.recent.len() == MOST {
            self.recent.pop_back();
        }
        self.recent.push_front(RecentEnd { id: id.clone(), outcome, at: Instant::now(), timings });
    }

    /// The connection was made.
    pub(super) fn connected(&mut self) {
        (self.connected, self.changed) = (true, Some(Instant::now()));
        self.made += 1;
    }

    /// It was lost, or not made.
    pub(super) fn disconnected(&mut self, failure: &ConnectionFailure) {
        if self.connected || self.changed.is_none() {
            self.changed = Some(Instant::now());
        }
        (self.connected, self.failure) = (false, Some(failure.to_string()));
    }

    fn connection(&self) -> ConnectionReport {
        ConnectionReport {
            connected: self.connected,
            since: self.changed.map(|at| seconds(at.elapsed())),
            made: self.made,
            last_failure: self.failure.clone(),
        }
    }

    fn recent(&self) -> Vec<EndReport> {
        let recent = self.recent.iter().map(|ended| EndReport {
            id: ended.id.to_string(),
            outcome: ended.outcome.clone(),
            ago: seconds(ended.at.elapsed()),
            queued_ms: milliseconds(ended.timings.queued),
            compiled_ms: milliseconds(ended.timings.compiled),
            loaded_ms: milliseconds(ended.timings.loaded),
            ran_ms: milliseconds(ended.timings.ran),
            inferred_ms: milliseconds(ended.timings.inferred),
            inferences: ended.timings.inferences,
        });
        recent.collect()
    }
}

impl Worker {
    /// What it does, for whoever asks.
    pub(super) fn work(&self) -> LoopReport {
        let (queued, running) = self.executor.load();
        let tasks = self.executor.listed(MOST);
        let daemons = self.daemons.pool.listed(MOST);
        let (deployments, deployed, invocations) = self.deployed.listed(MOST);
        let deployed = deployed.into_iter();
        LoopReport {
            connection: self.record.connection(),
            queued,
            running,
            waiting_tasks: tasks.waiting.into_iter().map(task).collect(),
            running_tasks: tasks.running.into_iter().map(task).collect(),
            daemons: daemons.running.into_iter().chain(daemons.waiting).map(task).collect(),
            recent: self.record.recent(),
            deployments,
            deployed_tasks: deployed
                .map(|(id, in_memory)| DeployedReport { id: id.to_string(), in_memory })
                .collect(),
            invocations,
            outbox: self.tasks.deliveries.len(),
        }
    }
}

fn task(listed: ListedTask) -> TaskReport {
    let ListedTask { id, age, uptime, doing } = listed;
    let (phase, graph) = match doing {
        None => ("waiting", None),
        Some(Doing::Preparing) => ("preparing", None),
        Some(Doing::Compiling) => ("compiling", None),
        Some(Doing::Loading(graph)) => ("loading", Some(graph)),
        Some(Doing::Running) => ("running", None),
        Some(Doing::Computing(graph)) => ("computing", Some(graph)),
    };
    TaskReport {
        id: id.to_string(),
        age: seconds(age),
        running: uptime.map(seconds),
        phase: phase.into(),
        graph: graph.map(|graph| graph.to_string()),
    }
}

/// How the journal is written.
pub(super) fn journal(levels: &JournalLevels) -> JournalReport {
    let writes = levels.counts.iter().sum::<u64>();
    let mean = levels.total.checked_div(u32::try_from(writes).unwrap_or(u32::MAX));
    JournalReport {
        bytes: levels.bytes,
        writes,
        mean_write_ms: milliseconds(mean.unwrap_or_default()),
        last_write_ms: milliseconds(levels.last),
    }
}

/// What does not change.
pub(super) fn fixed(config: &Config) -> Report {
    let limits = config.report.iter().filter(|known| {
        matches!(known.setting.group, Group::Tasks | Group::Limits | Group::Caches)
            && !known.setting.secret
    });
    Report {
        version: version::VERSION.into(),
        broker: config.connection.url(),
        limits: limits
            .filter_map(|known| Some((known.setting.name.to_owned(), known.value.clone()?)))
            .collect(),
        ..Report::default()
    }
}

/// How the runtime is and what it keeps: not the loop's to tell. It may take as
/// long as it is given.
pub(super) fn runtime(
    config: &Config,
    tasker: Arc<Tasker>,
    levels: Box<dyn Fn() -> RuntimeLevels + Send + Sync>,
    stuck: impl Fn() -> usize + Send + Sync + 'static,
) -> Box<AskRuntime> {
    let isolation = match config.isolation {
        Isolation::Process => "process",
        Isolation::None => "none",
    };
    Box::new(move || {
        let condition = tasker.condition();
        let runtime = RuntimeReport {
            isolation: isolation.into(),
            pid: condition.process,
            age: condition.age.map(seconds),
            crashes: condition.crashes,
            stuck_threads: stuck(),
        };
        (runtime, caches(levels()))
    })
}

fn caches(levels: RuntimeLevels) -> CachesReport {
    CachesReport {
        code_bytes: levels.module_bytes,
        code: levels
            .code
            .into_iter()
            .map(|code| CodeReport {
                digest: code.digest,
                kind: code.kind,
                bytes: code.bytes,
                hits: code.hits,
                last_used: seconds(code.idle),
            })
            .collect(),
        graph_bytes: levels.nn.cached_bytes,
        graphs: levels
            .graphs
            .into_iter()
            .map(|graph| GraphReport {
                name: graph.name,
                source: graph.directory.unwrap_or_else(|| "supplied by a guest".into()),
                backend: graph.backend,
                bytes: graph.bytes,
                hits: graph.hits,
                last_used: seconds(graph.idle),
            })
            .collect(),
    }
}
