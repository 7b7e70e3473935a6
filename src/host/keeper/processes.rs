//! The processes that there are: who gets a lane of which one, and what follows from
//! crashes, stuck tasks and another configuration.

mod supervisor;

use super::super::confine::Confinement;
use super::super::levels::Tally;
use super::super::process::{Lane, Process};
use super::super::reach::Reach;
use super::{Launch, RuntimeCondition};
use crate::cancel::{Cancel, Reason};
use crate::nn::ModelPauses;
use anyhow::Context as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tracing::{error, info};

/// A process that has ended a task and lived this long was of use: another one is
/// started at once after its crash, so that who crashes one now and then holds up
/// nobody for longer than a start takes.
const OF_USE: Duration = Duration::from_secs(1);
/// One that had no task, but would have crashed by now if its libraries or models
/// were to blame.
const SETTLED: Duration = Duration::from_secs(30);
/// Crashes in a row after which there is a wait before the next start, from
/// [`FIRST_WAIT`] to [`LONGEST_WAIT`].
const CRASHES: u32 = 4;
const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// What executors and the thread share.
pub(super) struct Shared {
    /// What the next process is started of.
    launch: Mutex<Arc<Launch>>,
    state: Mutex<State>,
    pub(super) changed: Condvar,
    /// Executors that wait for a lane.
    waiting: AtomicUsize,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) company: Option<Arc<Process>>,
    pub(super) alone: Option<Arc<Process>>,
    /// Suspects that wait for a process or run in one.
    pub(super) suspects: usize,
    /// When the one for all was started.
    started: Option<Instant>,
    crashes: u32,
    /// Crashes since the start.
    lost: u64,
    not_before: Option<Instant>,
    /// Why the last start failed.
    failed: Option<String>,
    /// What a process that is started is confined to, and how that was found.
    confinement: Confinement,
    pub(super) reach: Arc<Reach>,
    /// Those that get no more tasks, until another one takes them.
    retired: Vec<Weak<Process>>,
    /// Runs that were to end, and when they are looked at.
    pub(super) stops: Vec<(Instant, Arc<Process>, u32, u64)>,
    pub(super) tally: Tally,
    /// Models that were being compiled when the last task that waited for them ended:
    /// the next process does not begin that again at once.
    pauses: ModelPauses,
    /// How often another process has taken the place of the one for all.
    pub(super) renewed: watch::Sender<u64>,
    /// What is logged, if that has changed.
    pub(super) directives: Option<String>,
    /// Nothing is started any more.
    pub(super) closed: bool,
    /// What was started has had its time to end.
    over: bool,
}

/// A lane of a process, and the number of the run that has it.
type Taken = (Arc<Process>, Lane, u64);

impl Shared {
    /// Starts the thread, and waits for the first process.
    pub(super) fn start(launch: Launch) -> anyhow::Result<Arc<Shared>> {
        let confinement = launch.setup.confinement.clone();
        let reach = Arc::new(Reach::of(&confinement.roots));
        let shared = Arc::new(Shared {
            launch: Mutex::new(Arc::new(launch)),
            state: Mutex::new(State { confinement, reach, ..State::default() }),
            changed: Condvar::new(),
            waiting: AtomicUsize::new(0),
        });
        let keeper = shared.clone();
        std::thread::Builder::new()
            .name("keeper".into())
            .spawn(move || keeper.supervise())
            .context("starting the thread that keeps the runtime's processes")?;
        let mut state = shared.lock();
        while state.company.is_none() {
            if let Some(reason) = state.failed.take() {
                drop(state);
                shared.close(|_| {});
                anyhow::bail!("starting the runtime's process: {reason}");
            }
            state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        drop(state);
        Ok(shared)
    }

    /// A free lane, once there is one.
    pub(super) fn take(
        self: &Arc<Shared>,
        alone: bool,
        goes_on: bool,
        cancel: &Cancel,
    ) -> Result<Taken, Reason> {
        if let Some(taken) = self.lock().free(alone, goes_on) {
            return Ok(taken);
        }
        let shared = self.clone();
        let wake = move || {
            drop(shared.lock());
            shared.changed.notify_all();
        };
        let taken = cancel.interruptible(wake, || {
            let mut state = self.lock();
            // Before the look: a lane that is given back after it wakes this.
            self.waiting.fetch_add(1, Ordering::SeqCst);
            let taken = loop {
                if let Some(taken) = state.free(alone, goes_on) {
                    break Ok(taken);
                }
                if let Some(reason) = cancel.reason() {
                    break Err(reason);
                }
                if state.closed {
                    break Err(Reason::ShuttingDown);
                }
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            };
            self.waiting.fetch_sub(1, Ordering::SeqCst);
            taken
        });
        taken?
    }

    /// The run on this lane has ended. Wakes nobody where nobody waits. Returns
    /// whether others ran beside it.
    pub(super) fn give(&self, process: &Process, lane: Lane) -> bool {
        let beside = process.give(lane);
        if self.waiting.load(Ordering::SeqCst) > 0 {
            drop(self.lock());
            self.changed.notify_all();
        }
        beside
    }

    /// A process has ended.
    pub(super) fn lost(&self, process: &Arc<Process>, fate: &str) {
        let mut state = self.lock();
        let is = |kept: &Option<Arc<Process>>| {
            kept.as_ref().is_some_and(|kept| Arc::ptr_eq(kept, process))
        };
        if is(&state.alone) {
            state.alone = None;
        } else if is(&state.company) {
            state.company = None;
            error!("the runtime's process ended ({fate}): another one is started");
            let enough = if process.has_ended_a_run() { OF_USE } else { SETTLED };
            let settled = state.started.is_some_and(|started| started.elapsed() >= enough);
            state.crashes = if settled { 1 } else { state.crashes + 1 };
            state.lost += 1;
            state.back_off();
            state.tally.fold();
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Nothing is started any more. `end` ends the one for all; that for suspects
    /// may have made what nobody is to use.
    pub(super) fn close(&self, end: impl Fn(&Process)) {
        let mut state = self.lock();
        state.closed = true;
        let (company, alone) = (state.company.take(), state.alone.take());
        drop(state);
        self.changed.notify_all();
        alone.iter().for_each(|process| process.kill());
        company.iter().for_each(|process| end(process));
        self.lock().over = true;
        self.changed.notify_all();
    }

    // It is replaced in one step.
    fn launch(&self) -> Arc<Launch> {
        self.launch.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on processes are made of this. That for all tasks is retired.
    pub(super) fn renew(&self, launch: Launch) {
        let confinement = launch.setup.confinement.clone();
        let reach = Arc::new(Reach::of(&confinement.roots));
        let mut state = self.lock();
        let before = self.launch();
        let (program, caches) = (before.program.clone(), before.caches.clone());
        let launch = Launch { program, caches, executors: before.executors, ..launch };
        *self.launch.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(launch);
        // One that is being started now is of the one before: its reach tells.
        (state.confinement, state.reach) = (confinement, reach);
        if let Some(process) = state.company.clone() {
            info!("the configuration has changed: a new process takes over");
            process.retire();
            state.retire(&process);
        }
        drop(state);
        self.changed.notify_all();
    }

    /// From now on processes are confined to this. That for all tasks is retired
    /// if this is something else.
    pub(super) fn confine(&self, confinement: Confinement) {
        let reach = Reach::of(&confinement.roots);
        let mut state = self.lock();
        if *state.reach == reach {
            return;
        }
        (state.confinement, state.reach) = (confinement, Arc::new(reach));
        if let Some(process) = state.company.clone() {
            info!("directories for tasks were added or changed: a new process takes over");
            process.retire();
            state.retire(&process);
        }
        drop(state);
        self.changed.notify_all();
    }

    /// One of the requests that it serves is stuck: it gets no more tasks, and
    /// servers go on in another one.
    pub(super) fn leave(&self, process: &Arc<Process>) {
        info!("the runtime's process has a request that is stuck: it gets no more tasks");
        process.retire();
        self.lock().retire(process);
        self.changed.notify_all();
    }

    // Each change is one step.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// A free lane, if there is one.
    fn free(&self, alone: bool, goes_on: bool) -> Option<Taken> {
        let process = if alone { &self.alone } else { &self.company };
        let process = process.as_ref()?;
        let (lane, run) = process.take(goes_on)?;
        Some((process.clone(), lane, run))
    }

    pub(super) fn condition(&self) -> RuntimeCondition {
        let company = self.company.as_ref();
        RuntimeCondition {
            process: company.map(|process| process.id),
            age: company.and(self.started).map(|started| started.elapsed()),
            crashes: self.lost,
        }
    }

    pub(super) fn unavailable(&self) -> Option<String> {
        if self.company.is_some() {
            return None;
        }
        let crashes = self.crashes;
        Some(match &self.failed {
            Some(reason) => format!("the runtime's process can't be started: {reason}"),
            None if crashes > CRASHES => format!(
                "the runtime's process crashed {crashes} times in a row and is started again soon"
            ),
            None => "the runtime's process is being started".into(),
        })
    }

    fn back_off(&mut self) {
        let over = self.crashes.checked_sub(CRASHES + 1);
        let wait = over.map(|n| FIRST_WAIT.saturating_mul(1 << n.min(8)).min(LONGEST_WAIT));
        self.not_before = wait.map(|wait| Instant::now() + wait);
    }

    fn retire(&mut self, process: &Arc<Process>) {
        let is = |kept: &Option<Arc<Process>>| {
            kept.as_ref().is_some_and(|kept| Arc::ptr_eq(kept, process))
        };
        if is(&self.alone) {
            // The next suspect has its own.
            self.alone = None;
            process.replaced();
        } else if is(&self.company) {
            self.company = None;
            self.retired.push(Arc::downgrade(process));
            self.not_before = None;
            self.tally.fold();
        }
    }
}
