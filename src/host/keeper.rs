//! The runtime's processes: one for all tasks, and while there are suspects of a
//! crash one for them, one at a time. One thread starts, retires and ends them.

use super::channel::Wait;
use super::messages::{Answer, Hello, Levels, Setup, Work};
use super::process::{Lane, Process};
use crate::cancel::{Cancel, Reason};
use crate::nn::InferenceTimes;
use crate::task::{Binary, Life, Outcome, TaskSpec};
use crate::usage::{Thread, ThreadUsage};
use anyhow::Context as _;
use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tracing::{error, info, warn};

/// How long a task may go on after it was to end, before its process is retired.
const STUCK: Duration = Duration::from_secs(1);
/// A process that has lived this long has not crashed at its start.
const SETTLED: Duration = Duration::from_secs(10);
/// Crashes in a row after which there is a wait before the next start, from
/// [`FIRST_WAIT`] to [`LONGEST_WAIT`].
const CRASHES: u32 = 4;
const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// How long a process may take to end in order.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(6);

/// What is started.
#[derive(Clone, Debug)]
pub struct Launch {
    /// This program.
    pub program: PathBuf,
    /// What its runtime is made of.
    pub setup: Setup,
    /// Tasks at the same time.
    pub executors: usize,
    /// Bytes that the process may take on top of what it starts with.
    pub memory: u64,
    /// The most bytes of a task's outcome.
    pub outcome: u64,
}

/// What came of a task in a runtime's process.
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "it is moved once; a box would be an allocation for each task"
)]
pub enum End {
    /// Its outcome, and what its thread used if that is asked for.
    Outcome(Outcome, Option<ThreadUsage>),
    /// The process crashed: how, what the task was doing, and whether nothing
    /// else ran there.
    Crash(String, bool),
}

/// The runtime's processes. See the module's documentation.
#[derive(Clone, Debug)]
pub struct Keeper(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    launch: Launch,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    company: Option<Arc<Process>>,
    alone: Option<Arc<Process>>,
    /// Suspects that wait for a process or run in one.
    suspects: usize,
    /// When the one for all was started.
    started: Option<Instant>,
    crashes: u32,
    not_before: Option<Instant>,
    /// Why the last start failed.
    failed: Option<String>,
    /// Runs that were to end, and when they are looked at.
    stops: Vec<(Instant, Arc<Process>, u32, u64)>,
    /// Of processes that are gone, then of the one for all.
    before: Levels,
    now: Levels,
    closed: bool,
}

impl Keeper {
    /// Starts the first process.
    ///
    /// # Errors
    ///
    /// It can't be started, or does not take tasks.
    pub fn start(launch: Launch) -> anyhow::Result<Keeper> {
        let shared = Arc::new(Shared { launch, state: Mutex::default(), changed: Condvar::new() });
        let keeper = shared.clone();
        std::thread::Builder::new()
            .name("keeper".into())
            .spawn(move || keeper.keep())
            .context("starting the thread that keeps the runtime's processes")?;
        let mut state = shared.lock();
        while state.company.is_none() {
            if let Some(reason) = state.failed.take() {
                state.closed = true;
                shared.changed.notify_all();
                anyhow::bail!("starting the runtime's process: {reason}");
            }
            state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        drop(state);
        Ok(Keeper(shared))
    }

    /// Runs a task whose code is here, and returns when it has ended or its
    /// process has.
    pub fn run(
        &self,
        spec: &TaskSpec,
        code: &Binary,
        alone: bool,
        cancel: &Arc<Cancel>,
        runs_on: impl FnOnce(Thread),
        began: impl Fn(),
    ) -> End {
        let _suspect = alone.then(|| Suspect::new(&self.0));
        let goes_on = spec.life() == Life::Daemon;
        let (process, mut lane, run) = match self.0.take(alone, goes_on, cancel) {
            Ok(taken) => taken,
            Err(reason) => return End::Outcome(Outcome::failed(reason.into()), None),
        };
        runs_on(Thread::of(process.id, lane.thread));
        let interrupt = {
            let (shared, process, lane) = (self.0.clone(), process.clone(), lane.number);
            let cancel = cancel.clone();
            move || {
                cancel.set_doing(process.doing(lane));
                process.stop(lane, run, cancel.reason().unwrap_or(Reason::Stopped));
                let at = Instant::now() + STUCK;
                shared.lock().stops.push((at, process, lane, run));
                shared.changed.notify_all();
            }
        };
        let ended =
            cancel.interruptible(interrupt, || converse(&mut lane, run, spec, code, &began));
        match ended {
            Err(reason) => {
                process.give(lane);
                End::Outcome(Outcome::failed(reason.into()), None)
            }
            Ok(Some(end)) => {
                cancel.set_memory(end.memory);
                if !alone {
                    self.0.lock().now = end.levels;
                }
                process.give(lane);
                self.0.changed.notify_all();
                End::Outcome(end.outcome, end.used)
            }
            Ok(None) => {
                let doing = process.doing(lane.number);
                let fate = process.fate();
                let one = process.crashed_with_one();
                self.0.lost(&process, &fate);
                End::Crash(format!("{fate} while {doing}"), alone || one == Some(true))
            }
        }
    }

    /// Why no task can be taken, if none can.
    pub fn unavailable(&self) -> Option<String> {
        let state = self.0.lock();
        if state.company.is_some() {
            return None;
        }
        let crashes = state.crashes;
        Some(match &state.failed {
            Some(reason) => format!("the runtime's process can't be started: {reason}"),
            None if crashes > CRASHES => format!(
                "the runtime's process crashed {crashes} times in a row and is started again soon"
            ),
            None => "the runtime's process is being started".into(),
        })
    }

    /// What the runtimes have done, and what the one for all holds.
    pub fn levels(&self) -> Levels {
        let state = self.0.lock();
        sum(&state.before, &state.now)
    }

    /// Ends the processes, in order where that is quick.
    pub fn close(&self) {
        let mut state = self.0.lock();
        state.closed = true;
        let processes = [state.company.take(), state.alone.take()];
        drop(state);
        self.0.changed.notify_all();
        for process in processes.into_iter().flatten() {
            process.close(CLOSE_TIMEOUT);
        }
    }
}

/// A suspect that has a process of its own, or waits for one.
struct Suspect<'a>(&'a Shared);

impl Suspect<'_> {
    fn new(shared: &Shared) -> Suspect<'_> {
        shared.lock().suspects += 1;
        shared.changed.notify_all();
        Suspect(shared)
    }
}

impl Drop for Suspect<'_> {
    fn drop(&mut self) {
        self.0.lock().suspects -= 1;
        self.0.changed.notify_all();
    }
}

/// Has a task run on a lane; none if the process is gone.
fn converse(
    lane: &mut Lane,
    run: u64,
    spec: &TaskSpec,
    code: &Binary,
    began: &impl Fn(),
) -> Option<super::messages::End> {
    lane.sender.send(&Work::Run(run, Cow::Borrowed(spec)), None, Wait::Yes).ok()?;
    loop {
        match lane.receiver.receive::<Answer>() {
            Ok(Some((Answer::Code, _))) => {
                lane.sender.send(&Work::Code(code.to_vec()), None, Wait::Yes).ok()?;
            }
            Ok(Some((Answer::Began, _))) => began(),
            Ok(Some((Answer::Ended(end), _))) => return Some(*end),
            Ok(None) => return None,
            Err(e) => {
                error!("the runtime's process says what makes no sense: {e}");
                return None;
            }
        }
    }
}

impl Shared {
    /// A free lane, once there is one.
    fn take(
        self: &Arc<Shared>,
        alone: bool,
        goes_on: bool,
        cancel: &Cancel,
    ) -> Result<(Arc<Process>, Lane, u64), Reason> {
        let shared = self.clone();
        let wake = move || {
            drop(shared.lock());
            shared.changed.notify_all();
        };
        let taken = cancel.interruptible(wake, || {
            let mut state = self.lock();
            loop {
                let process = if alone { &state.alone } else { &state.company };
                if let Some(process) = process.clone()
                    && let Some((lane, run)) = process.take(goes_on)
                {
                    return Ok((process, lane, run));
                }
                if let Some(reason) = cancel.reason() {
                    return Err(reason);
                }
                if state.closed {
                    return Err(Reason::ShuttingDown);
                }
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        });
        taken?
    }

    /// A process has ended.
    fn lost(&self, process: &Arc<Process>, fate: &str) {
        let mut state = self.lock();
        let is = |kept: &Option<Arc<Process>>| {
            kept.as_ref().is_some_and(|kept| Arc::ptr_eq(kept, process))
        };
        if is(&state.alone) {
            state.alone = None;
        } else if is(&state.company) {
            state.company = None;
            error!("the runtime's process ended ({fate}): another one is started");
            let settled = state.started.is_some_and(|started| started.elapsed() >= SETTLED);
            state.crashes = if settled { 1 } else { state.crashes + 1 };
            state.back_off();
            state.fold();
        }
        drop(state);
        self.changed.notify_all();
    }

    /// The thread.
    fn keep(self: &Arc<Shared>) {
        let mut state = self.lock();
        while !state.closed {
            let now = Instant::now();
            let ready = state.not_before.is_none_or(|at| at <= now);
            if state.company.is_none() && ready {
                drop(state);
                let lanes = u32::try_from(self.launch.executors).unwrap_or(u32::MAX);
                let started = self.start(&self.launch.setup, lanes.saturating_mul(2));
                state = self.lock();
                match started {
                    Ok(process) => {
                        state.failed = None;
                        state.started = Some(Instant::now());
                        state.company = Some(process);
                    }
                    Err(e) => {
                        let reason = format!("{e:#}");
                        warn!("the runtime's process could not be started: {reason}");
                        state.failed = Some(reason);
                        state.crashes = state.crashes.max(CRASHES) + 1;
                        state.back_off();
                    }
                }
                self.changed.notify_all();
                continue;
            }
            if state.suspects > 0 && state.alone.is_none() && ready {
                drop(state);
                // It loads what its task needs and nothing else.
                let mut setup = self.launch.setup.clone();
                setup.preload = false;
                let started = self.start(&setup, 2);
                state = self.lock();
                match started {
                    Ok(process) => state.alone = Some(process),
                    Err(e) => {
                        warn!("no process for a suspect could be started: {e:#}");
                        state.not_before = Some(Instant::now() + FIRST_WAIT);
                    }
                }
                self.changed.notify_all();
                continue;
            }
            let stops = std::mem::take(&mut state.stops);
            let (due, later): (Vec<_>, Vec<_>) = stops.into_iter().partition(|(at, ..)| *at <= now);
            state.stops = later;
            for (_, process, lane, run) in due {
                if process.retire_if_stuck(lane, run) {
                    info!("the runtime's process has a task that is stuck: it gets no more tasks");
                    state.retire(&process);
                    self.changed.notify_all();
                }
            }
            if state.suspects == 0 {
                // The next suspect has a fresh one.
                state.alone = None;
            }
            let next = state.stops.iter().map(|(at, ..)| *at);
            let missing = state.company.is_none() || (state.suspects > 0 && state.alone.is_none());
            if missing && state.not_before.is_none_or(|at| at <= Instant::now()) {
                continue;
            }
            let start = state.not_before.filter(|_| missing);
            let wait =
                next.chain(start).min().map(|at| at.saturating_duration_since(Instant::now()));
            state = match wait {
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(wait) => {
                    let waited = self.changed.wait_timeout(state, wait);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    fn start(self: &Arc<Shared>, setup: &Setup, lanes: u32) -> anyhow::Result<Arc<Process>> {
        let Launch { program, memory, outcome, .. } = &self.launch;
        let (process, mut told) = Process::start(program, setup, lanes, *memory, *outcome)?;
        let process = Arc::new(process);
        // A process that runs no task ends unnoticed otherwise.
        let (shared, watched) = (self.clone(), Arc::downgrade(&process));
        let watch = move || {
            // It has nothing more to say: this waits for its end.
            told.receive::<Hello>().ok();
            if let Some(process) = watched.upgrade() {
                shared.lost(&process, &process.fate());
            }
        };
        std::thread::Builder::new()
            .name("runtime-line".into())
            .spawn(watch)
            .context("starting the thread that notices the end of the runtime's process")?;
        Ok(process)
    }

    // Each change is one step.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn back_off(&mut self) {
        let over = self.crashes.checked_sub(CRASHES + 1);
        let wait = over.map(|n| FIRST_WAIT.saturating_mul(1 << n.min(8)).min(LONGEST_WAIT));
        self.not_before = wait.map(|wait| Instant::now() + wait);
    }

    fn retire(&mut self, process: &Arc<Process>) {
        for kept in [&mut self.company, &mut self.alone] {
            *kept = kept.take().filter(|kept| !Arc::ptr_eq(kept, process));
        }
        if self.company.is_none() {
            self.not_before = None;
            self.fold();
        }
    }

    /// What the one for all has done is counted with that of those before it.
    fn fold(&mut self) {
        let mut sum = sum(&self.before, &self.now);
        sum.module_bytes = 0;
        (sum.nn.cached_bytes, sum.nn.cached_graphs) = (0, 0);
        (self.before, self.now) = (sum, Levels::default());
    }
}

/// Names that a runtime may have made up are bounded like those of one.
const SERIES: usize = 256;

fn sum(before: &Levels, now: &Levels) -> Levels {
    let mut sum = now.clone();
    sum.modules_compiled += before.modules_compiled;
    sum.nn.graphs_compiled += before.nn.graphs_compiled;
    sum.nn.cache_hits += before.nn.cache_hits;
    sum.nn.evicted += before.nn.evicted;
    sum.nn.inferences += before.nn.inferences;
    for earlier in &before.inferences {
        let same = |times: &&mut InferenceTimes| {
            times.graph == earlier.graph && times.backend == earlier.backend
        };
        match sum.inferences.iter_mut().find(same) {
            Some(times) => {
                times.total = times.total.saturating_add(earlier.total);
                for (count, more) in times.counts.iter_mut().zip(earlier.counts) {
                    *count = count.saturating_add(more);
                }
            }
            None => sum.inferences.push(earlier.clone()),
        }
    }
    sum.inferences.truncate(SERIES);
    sum
}
