//! The answers to invocations, as they are published.

use super::{DeployEffect, DeployNotice, Deployments, Effects, Invocation};
use crate::protocol::{InvokeResult, TaskResult};
use crate::task::{Failure, Outcome, humantime};

impl Deployments {
    /// With what came of it.
    pub(super) fn answer(&self, of: &Invocation, outcome: Outcome, effects: &mut Effects) {
        let success = outcome.verdict.is_ok();
        let result = TaskResult::new(&of.task, &self.proplet_id, outcome);
        self.publish(of, result, success, effects);
    }

    /// With why it ended before it had one.
    pub(super) fn fail(&self, of: &Invocation, failure: Failure, effects: &mut Effects) {
        let reason = match &failure {
            Failure::Timeout(limit) => format!(
                "timeout: the invocation, with its wait in the queue, took longer than {} \
                 (--invoke-timeout; the manager waits for 30 s)",
                humantime(*limit)
            ),
            failure => failure.to_string(),
        };
        self.publish(of, TaskResult::refused(&of.task, &self.proplet_id, &reason), false, effects);
    }

    /// With why it was not taken.
    pub(super) fn refuse(&self, of: &Invocation, reason: &str, effects: &mut Effects) {
        let (id, reason) = (of.task.clone(), reason.to_owned());
        let result = TaskResult::refused(&id, &self.proplet_id, &reason);
        effects.push_back(DeployEffect::Notice(DeployNotice::Refused { id, reason }));
        self.publish(of, result, false, effects);
    }

    fn publish(&self, of: &Invocation, result: TaskResult, success: bool, effects: &mut Effects) {
        let answer =
            InvokeResult::encode_within(&of.invocation_id, result, self.bounds.answer_size);
        let task = of.task.clone();
        effects.push_back(DeployEffect::Answer { task, answer: answer.into(), success });
    }
}
