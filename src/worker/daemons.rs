//! Daemons: threads of their own, which start them again when the process of
//! the runtime crashes under them.

use super::Worker;
use crate::executor::{Executor, Leftover, RunTask, RunningTask, Spent, Submission, TurnEnd};
use crate::ledger::LedgerEvent;
use crate::queue::Admission;
use crate::task::{Failure, Outcome, Rejection, TaskId};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tracing::{info, warn};

/// How long a daemon has to run until its earlier ends are forgotten.
const LASTS: Duration = Duration::from_secs(60);
/// How often in a row it is started again after a crash that came sooner.
const STARTS: u32 = 10;
/// The first wait before it is, which doubles each time, and the longest.
const WAIT: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(60));

/// The pool that runs daemons. None of its threads is an executor's.
pub(super) struct Daemons {
    pub(super) pool: Executor,
    /// As many run at most.
    pub(super) limit: usize,
    not_before: NotBefore,
}

/// When daemons of an earlier process may be started.
#[derive(Clone, Default)]
pub(super) struct NotBefore(Arc<Mutex<HashMap<TaskId, Instant>>>);

impl NotBefore {
    // Entries come and go whole.
    fn lock(&self) -> MutexGuard<'_, HashMap<TaskId, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Daemons {
    pub(super) fn new(pool: Executor, limit: usize, not_before: NotBefore) -> Daemons {
        Daemons { pool, limit, not_before }
    }

    /// The daemon is not started sooner.
    pub(super) fn wait(&self, id: &TaskId, wait: Duration) {
        if !wait.is_zero() {
            self.not_before.lock().insert(id.clone(), Instant::now() + wait);
        }
    }
}

/// How a daemon is run, by how a task is: as often as it is worth it.
pub(super) fn keep_running(run: Box<RunTask>, not_before: NotBefore) -> Box<RunTask> {
    Box::new(move |turn| {
        let id = turn.spec.id();
        let ended = |failure: Failure| TurnEnd::from(Outcome::failed(failure));
        let at = not_before.lock().remove(id);
        if let Some(at) = at
            && let Err(reason) = turn.cancel.wait_until(at)
        {
            return ended(reason.into());
        }
        let (mut times, mut wait) = (1, WAIT.0);
        loop {
            let began = Instant::now();
            let ran = run(turn);
            let crash = match &ran.end {
                Ok(_) => return ran,
                Err(crash) => crash.how.clone(),
            };
            if began.elapsed() >= LASTS {
                (times, wait) = (0, WAIT.0);
            }
            if times >= STARTS {
                return ended(Failure::Restarts { how: crash, times });
            }
            times += 1;
            let wait_ms = wait.as_millis();
            warn!(task = %id, times, wait_ms, "{crash}: the daemon is started again");
            if let Err(reason) = turn.cancel.wait_until(Instant::now() + wait) {
                return ended(reason.into());
            }
            wait = (wait * 2).min(WAIT.1);
        }
    })
}

impl Worker {
    /// The ledger hears of daemons that have run long enough to be trusted.
    pub(super) fn trust_daemons(&mut self) {
        let running = self.daemons.pool.running().into_iter();
        let running = running.map(|running| (running.id, running.uptime));
        let monitored = self.daemons.pool.monitored().into_iter();
        let monitored = monitored.map(|(id, spent)| (id, spent.uptime));
        let lasting: Vec<_> =
            running.chain(monitored).filter(|(_, uptime)| *uptime >= LASTS).collect();
        for (id, _) in lasting {
            self.on(LedgerEvent::Lasted(id));
        }
        self.status.metrics.deployments.daemons(self.daemons.pool.load().1);
    }

    /// Tasks, invocations and daemons that run and whose use of the machine is
    /// not asked for.
    pub(super) fn running(&self) -> Vec<RunningTask> {
        let daemons = self.daemons.pool.running();
        self.executor.running().into_iter().chain(daemons).collect()
    }

    /// The others that run.
    pub(super) fn monitored(&self) -> Vec<(TaskId, Spent)> {
        let daemons = self.daemons.pool.monitored();
        self.executor.monitored().into_iter().chain(daemons).collect()
    }

    /// Has a daemon run once it is released.
    pub(super) fn submit_daemon(&self, task: Submission) -> Result<(), Rejection> {
        let (waiting, running) = self.daemons.pool.load();
        let (running, limit) = (waiting + running, self.daemons.limit);
        if running >= limit {
            return Err(Rejection::Daemons { running, limit });
        }
        self.daemons.pool.submit(task, Admission::Held)
    }

    /// The worker ends: so do the daemons, at once, and servers after the requests
    /// that they have begun.
    pub(super) fn end_daemons(&self, leftover: Leftover) {
        let (_, running) = self.daemons.pool.load();
        if running > 0 {
            info!(running, "shutting down: ending the daemons");
        }
        self.daemons.pool.drain(leftover);
        let servers = self.close_servers();
        self.daemons.pool.cancel_running_but(&servers);
    }
}
