//! Daemons: that they run is a result of its own, and so is their end.

use super::remembered::Remembered;
use super::{Effect, Effects, Ledger, Notice, Now};
use crate::journal::Step;
use crate::protocol::TaskResult;
use crate::task::{Failure, Life, TaskId};
use std::time::Duration;

/// How often in a row a daemon is started by processes that find it running,
/// without having lasted, before it is given up.
const STARTS: u32 = 10;
/// The longest wait before one of these starts.
const LONGEST: Duration = Duration::from_secs(60);

impl<A> Ledger<A> {
    /// A daemon is accepted: the manager hears that it runs, and that is the
    /// end of its task as far as the manager is concerned.
    pub(super) fn say_that_it_runs(&mut self, id: &TaskId, now: Now, effects: &mut Effects<A>) {
        let Some(active) = self.active.get(id).filter(|active| active.life == Life::Daemon) else {
            return;
        };
        let (fingerprint, state, arrived) = (active.fingerprint, active.state, active.arrived);
        let result = self.encode(&TaskResult::running(id, &self.proplet_id));
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
        now: Now,
        effects: &mut Effects<A>,
    ) -> Option<Duration> {
        let active = self.active.get_mut(id)?;
        let (run, times) = (active.run, active.starts + 1);
        if active.stopped {
            self.active.remove(id);
            effects.push_back(Effect::Note(Step::Forgotten(run)));
            return None;
        }
        active.starts = times;
        if times > STARTS {
            let failure = Failure::Restarts { how: "the worker ended".into(), times: STARTS };
            self.not_run_again(id, failure.to_string(), now, effects);
            return None;
        }
        effects.push_back(Effect::Note(Step::Died { run, times }));
        effects.push_back(Effect::Notice(Notice::DaemonAgain { id: id.clone(), times }));
        if !self.ended.knows(id) {
            self.say_that_it_runs(id, now, effects);
        }
        let wait = times.checked_sub(2).map(|n| Duration::from_secs(1 << n.min(8)));
        Some(wait.unwrap_or_default().min(LONGEST))
    }

    /// A daemon has run for long enough.
    pub(super) fn lasted(&mut self, id: &TaskId, effects: &mut Effects<A>) {
        let daemon = self.active.get_mut(id).filter(|active| active.life == Life::Daemon);
        if let Some(active) = daemon.filter(|active| active.starts > 0) {
            active.starts = 0;
            effects.push_back(Effect::Note(Step::Died { run: active.run, times: 0 }));
        }
    }
}
