//! Tasks of federated rounds: what an executor does beside running them, and the
//! updates that go out before their results.

use super::Worker;
use crate::config::Config;
use crate::executor::{Crash, RunTask, TaskEnd, TurnEnd};
use crate::journal::UpdateMarks;
use crate::manager::{RoundServices, Rounds};
use crate::mqtt::PublishError;
use crate::protocol::update_topic;
use crate::sources::Fetcher;
use crate::task::{Failure, Outcome, Round, UpdateFate};
use crate::usage::ThreadUsage;
use anyhow::Context as _;
use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use tracing::warn;

/// The end of a task whose update has gone out, or never will.
pub(super) type Published = (TaskEnd, Result<(), PublishError>);

/// The services of rounds, by the configuration.
pub(crate) fn services(config: &crate::config::RoundsConfig, working_dir: &Path) -> RoundServices {
    let ca = config.services.ca.as_ref().map(|ca| working_dir.join(ca));
    RoundServices { ca, ..config.services.clone() }
}

/// Federated rounds, for this worker.
pub(super) fn start(config: &Config, marks: Option<UpdateMarks>) -> anyhow::Result<Arc<Rounds>> {
    let services = services(&config.rounds, &config.working_dir);
    let rounds = Rounds::new(services, &config.credentials.client_id, marks);
    Ok(Arc::new(rounds.context("the services of federated rounds")?))
}

/// How a task is run that may be part of a round, by how any is.
pub(super) fn with_rounds(
    run: Box<RunTask>,
    rounds: Arc<Rounds>,
    fetcher: Arc<Fetcher>,
) -> Box<RunTask> {
    Box::new(move |turn| {
        let Some(round) = Round::of(turn.spec) else {
            let mut ran = run(turn);
            // Which only the invocation may name.
            if let (Ok(outcome), Some(note)) = (&mut ran.end, Round::left_out(turn.spec))
                && !outcome.diagnostics.iter().any(|told| told == note)
            {
                outcome.diagnostics.push(note.to_owned());
            }
            return ran;
        };
        let began = Instant::now();
        let code = match fetcher.code(turn.spec, turn.cancel) {
            Ok(code) => code,
            Err(e) => {
                let failure = turn.cancel.reason().map_or(Failure::Module(e), Failure::from);
                return Outcome { round: Some(round.end()), ..Outcome::failed(failure) }.into();
            }
        };
        let fetched = began.elapsed();
        let spec = turn.spec.clone().with_code(code);
        let used = Cell::<Option<ThreadUsage>>::default();
        let end = rounds.part(&spec, &round, Some(turn.run), turn.cancel, |spec| {
            let ran = run(&turn.with(spec));
            used.set(ran.used.or(used.take()));
            ran.end
        });
        let end: Result<Outcome, Crash> = end.map(|mut outcome| {
            outcome.timings.compiled += fetched;
            outcome
        });
        TurnEnd::new(end, used.take())
    })
}

impl Worker {
    /// Has the update of a task go out that has none else to take it. Gives the
    /// task's end back if there is none.
    pub(super) fn publish_update(&mut self, mut ended: TaskEnd) -> Option<TaskEnd> {
        let Some(round) = &mut ended.outcome.round else { return Some(ended) };
        let Some(update) = round.unsent.take() else {
            self.status.metrics.rounds.ended(round);
            return Some(ended);
        };
        let topic = update_topic(&round.round.id, &self.id);
        let delivery = self.link.publish(&topic, update);
        self.updates.spawn(async move { (ended, delivery.await) });
        None
    }

    /// The update of a task has reached the broker, or never will.
    pub(super) fn on_update(&mut self, (mut ended, delivered): Published) {
        if let (Err(e), Some(round)) = (delivered, &mut ended.outcome.round) {
            let what = match e {
                PublishError::TooLarge { .. }
                | PublishError::Topic(_)
                | PublishError::Rejected { .. } => {
                    round.update = UpdateFate::None;
                    "the update could not go out on the round's topic"
                }
                PublishError::Disconnected | PublishError::Closed => {
                    round.update = UpdateFate::Unknown;
                    "whether the update has gone out on the round's topic is not known"
                }
            };
            let reason = format!("{what}: {e}");
            warn!(task = %ended.id, "{reason}");
            round.note = Some(reason.clone());
            ended.outcome.verdict = Err(Failure::Round(reason));
        }
        self.on_ended(ended);
    }
}
