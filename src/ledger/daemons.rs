//! Daemons, and HTTP servers: that they run is a result of its own, and so is
//! their end.

use super::history::Remembered;
use super::{Effects, Ledger, LedgerEffect, LedgerNotice, Now};
use crate::journal::Step;
use crate::protocol::TaskResult;
use crate::task::{Failure, Life, Outcome, TaskId};
use std::time::Duration;

/// How often in a row a daemon is started by processes that find it running,
/// without having lasted, before it is given up.
const STARTS: u32 = 10;
/// The longest wait before one of these starts.
const LONGEST: Duration = Duration::from_secs(60);

impl<A> Ledger<A> {
    pub(super) fn is_daemon(&self, id: &TaskId) -> bool {
        self.active.get(id).is_some_and(|active| active.life == Life::Daemon)
    }

    /// A running task was found to be a server, which listens.
    pub(super) fn serves(&mut self, id: TaskId, port: u16, now: Now, effects: &mut Effects<A>) {
        let Some(active) = self.active.get_mut(&id) else {
            return effects.push_back(LedgerEffect::Notice(LedgerNotice::NeverBegun(id)));
        };
        if active.stopped {
            return self.task_ended(id, Outcome::failed(Failure::Stopped), now, effects);
        }
        (active.life, active.starts) = (Life::Server, 0);
        let run = active.run;
        effects.push_back(LedgerEffect::Note(Step::Serves { run, port }));
        self.say_that_it_runs(&id, Some(port), now, effects);
        effects.push_back(LedgerEffect::Serve { run, id });
    }

    /// A daemon is accepted, or a server listens: the manager hears that it runs,
    /// and that is the end of its task as far as the manager is concerned.
    pub(super) fn say_that_it_runs(
        &mut self,
        id: &TaskId,
        port: Option<u16>,
        now: Now,
        effects: &mut Effects<A>,
    ) {
        let Some(active) = self.active.get(id) else { return };
        let (fingerprint, state, arrived) = (active.fingerprint, active.state, active.arrived);
        let result = self.encode(&TaskResult::running(id, &self.proplet_id, port));
        let run = self.new_run();
        let ended =
            Remembered { run, fingerprint, state, ..Remembered::new(true, result, now.instant) };
        self.finish(id.clone(), ended, arrived, None, now, effects);
    }

    /// A daemon of an earlier process. Gives how long to wait before it is
    /// started; none if it is not.
    pub(super) fn start_again(
        &mut self,
        id: &TaskId,
        port: Option<u16>,
        now: Now,
        effects: &mut Effects<A>,
    ) -> Option<Duration> {
        let active = self.active.get_mut(id)?;
        let (run, times) = (active.run, active.starts + 1);
        if active.stopped {
            self.active.remove(id);
            effects.push_back(LedgerEffect::Note(Step::Forgotten(run)));
            return None;
        }
        active.starts = times;
        if times > STARTS {
            let failure = Failure::Restarts { how: "the worker ended".into(), times: STARTS };
            self.not_run_again(id, failure.to_string(), now, effects);
            return None;
        }
        effects.push_back(LedgerEffect::Note(Step::Died { run, times }));
        effects
            .push_back(LedgerEffect::Notice(LedgerNotice::DaemonAgain { id: id.clone(), times }));
        if !self.ended.knows(id) {
            self.say_that_it_runs(id, port, now, effects);
        }
        let wait = times.checked_sub(2).map(|n| Duration::from_secs(1 << n.min(8)));
        Some(wait.unwrap_or_default().min(LONGEST))
    }

    /// A daemon has run for long enough.
    pub(super) fn lasted(&mut self, id: &TaskId, effects: &mut Effects<A>) {
        let daemon = self.active.get_mut(id).filter(|active| active.life.goes_on());
        if let Some(active) = daemon.filter(|active| active.starts > 0) {
            active.starts = 0;
            effects.push_back(LedgerEffect::Note(Step::Died { run: active.run, times: 0 }));
        }
    }
}
