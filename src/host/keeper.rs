//! Runs tasks in the runtime's processes: one for all tasks, and while there are
//! suspects of a crash one for them, one at a time.

mod processes;

use super::caches::Caches;
use super::channel::Wait;
use super::confine::Confinement;
use super::levels::Levels;
use super::messages::{LaneAnswer, LaneWork, Setup};
use super::process::{Lane, Process};
use crate::cancel::{Cancel, Doing, Reason};
use crate::runtime::{Connect, Door};
use crate::task::{Binary, Outcome, TaskSpec};
use crate::usage::{Thread, ThreadUsage};
use processes::Shared;
use std::borrow::Cow;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tracing::{error, info};

/// How long a task may go on after it was to end, before its process is retired.
const STUCK: Duration = Duration::from_secs(1);
/// How long a process may take to end in order.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(6);
/// How long a process may take to say how it stands.
const LEVELS_TIMEOUT: Duration = Duration::from_millis(250);

/// What is started.
#[derive(Clone)]
pub struct Launch {
    /// This program.
    pub program: PathBuf,
    /// What its runtime is made of.
    pub setup: Setup,
    /// Where what was compiled is kept on the disk.
    pub caches: Option<Caches>,
    /// Tasks at the same time.
    pub executors: usize,
    /// Bytes that the process may take on top of what it starts with.
    pub memory: u64,
    /// The most bytes of a task's outcome.
    pub outcome: u64,
    /// Makes the connections that guests ask for.
    pub connect: Arc<Connect>,
    /// Where it does.
    pub tokio: tokio::runtime::Handle,
}

/// What came of a task in a runtime's process.
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "it is moved once; a box would be an allocation for each task"
)]
pub enum RunEnd {
    /// It has ended.
    Outcome {
        /// What came of it.
        outcome: Outcome,
        /// What its thread used, if that is asked for.
        used: Option<ThreadUsage>,
        /// Others ran in the process at the same time.
        beside: bool,
    },
    /// The process crashed: how, what the task was doing, and whether it was
    /// this task's doing, since nothing else ran there.
    Crash(String, bool),
}

impl RunEnd {
    fn cancelled(reason: Reason) -> RunEnd {
        RunEnd::Outcome { outcome: Outcome::failed(reason.into()), used: None, beside: false }
    }
}

/// How the runtime's process for all is.
#[derive(Clone, Copy, Debug, Default)]
pub struct RuntimeCondition {
    /// Its number in the system; none while there is none.
    pub process: Option<u32>,
    /// The time since it was started.
    pub age: Option<Duration>,
    /// How many have crashed since the worker's start.
    pub crashes: u64,
}

/// Where a task runs, for whoever looks at what it uses.
#[derive(Debug)]
pub struct TaskPlace {
    process: Arc<Process>,
    thread: u32,
    lane: u32,
    run: u64,
}

impl TaskPlace {
    /// The thread that runs it.
    pub fn thread(&self) -> Thread {
        Thread::of(self.process.id, self.thread)
    }

    /// Bytes of its guest's linear memories; none once it has ended.
    pub fn memory(&self) -> Option<u64> {
        let memory = self.process.memory(self.lane);
        // Looked at afterwards: else it could be the next one's.
        self.process.runs(self.lane, self.run).then_some(memory)
    }

    /// What the task is doing; none once it has ended.
    pub fn doing(&self) -> Option<Doing> {
        let doing = self.process.doing(self.lane);
        self.process.runs(self.lane, self.run).then_some(doing)
    }
}

/// Which process a task runs in.
#[derive(Clone, Copy)]
struct How {
    /// That of suspects.
    alone: bool,
    /// It does not end by itself, or nobody waits for it: a process that is retired
    /// does not wait either.
    goes_on: bool,
}

/// The runtime's processes. See the module's documentation.
#[derive(Clone)]
pub struct Keeper(Arc<Shared>);

impl Keeper {
    /// Starts the first process.
    ///
    /// # Errors
    ///
    /// It can't be started, or does not take tasks.
    pub fn start(launch: Launch) -> anyhow::Result<Keeper> {
        Shared::start(launch).map(Keeper)
    }

    /// Runs a task whose code is here, a server at its door, and returns when it
    /// has ended or its process has.
    #[allow(clippy::too_many_arguments, reason = "each is another part of one turn")]
    pub fn run(
        &self,
        spec: &TaskSpec,
        code: &Binary,
        door: Option<&Door>,
        alone: bool,
        cancel: &Arc<Cancel>,
        runs_at: impl Fn(TaskPlace),
        began: impl Fn(),
    ) -> RunEnd {
        let _suspect = alone.then(|| Suspect::new(&self.0));
        let how = How { alone, goes_on: spec.life().goes_on() };
        loop {
            if let Some(end) = self.run_once(spec, code, door, how, cancel, &runs_at, &began) {
                return end;
            }
            info!("the runtime's process was retired: the daemon is started again in another one");
        }
    }

    /// Prepares a latent task in the process for all, which does not wait for it when
    /// it is retired: there is nothing to be told then.
    pub fn prepare(&self, spec: &TaskSpec, code: &Binary, cancel: &Arc<Cancel>) -> Option<RunEnd> {
        let how = How { alone: false, goes_on: true };
        self.run_once(spec, code, None, how, cancel, &|_| {}, &|| {})
    }

    /// Changes when another process takes the place of the one for all.
    pub fn renewed(&self) -> watch::Receiver<u64> {
        self.0.lock().renewed.subscribe()
    }

    /// Returns nothing of a daemon whose process was ended for the sake of others.
    #[allow(clippy::too_many_arguments, reason = "each is another part of one turn")]
    fn run_once(
        &self,
        spec: &TaskSpec,
        code: &Binary,
        door: Option<&Door>,
        how: How,
        cancel: &Arc<Cancel>,
        runs_at: &impl Fn(TaskPlace),
        began: &impl Fn(),
    ) -> Option<RunEnd> {
        let (process, mut lane, run) = match self.0.take(how.alone, how.goes_on, cancel) {
            Ok(taken) => taken,
            Err(reason) => return Some(RunEnd::cancelled(reason)),
        };
        runs_at(TaskPlace {
            process: process.clone(),
            thread: lane.thread,
            lane: lane.number,
            run,
        });
        let interrupt = {
            let (shared, process, lane) = (self.0.clone(), process.clone(), lane.number);
            let cancel = cancel.clone();
            move || {
                process.stop(lane, run, cancel.reason().unwrap_or(Reason::Stopped));
                let at = Instant::now() + STUCK;
                shared.lock().stops.push((at, process, lane, run));
                shared.changed.notify_all();
            }
        };
        let told = |answer| match answer {
            LaneAnswer::Began => began(),
            LaneAnswer::Served(served) => {
                if let Some(door) = door {
                    (door.served)(&served);
                }
            }
            LaneAnswer::Stuck => self.0.leave(&process),
            LaneAnswer::Code | LaneAnswer::Ended(_) => {}
        };
        let ended = cancel.interruptible(interrupt, || {
            let task = LaneWork::Run(run, Cow::Borrowed(spec));
            let listener = door.map(|door| door.listener.as_fd());
            converse(&mut lane, &task, listener, code, &told)
        });
        match ended {
            Err(reason) => {
                self.0.give(&process, lane);
                Some(RunEnd::cancelled(reason))
            }
            Ok(Some(end)) => {
                cancel.set_memory(end.memory);
                let beside = self.0.give(&process, lane);
                Some(RunEnd::Outcome { outcome: end.outcome, used: end.used, beside })
            }
            Ok(None) if process.moves(lane.number) => None,
            Ok(None) => {
                let doing = process.doing(lane.number);
                let fate = process.fate();
                let guilty = process.crashed_with_one();
                self.0.lost(&process, &fate);
                Some(RunEnd::Crash(format!("{fate} while {doing}"), guilty))
            }
        }
    }

    /// Why no task can be taken, if none can.
    pub fn unavailable(&self) -> Option<String> {
        self.0.lock().unavailable()
    }

    /// What the runtimes have done, and what the one for all holds. Waits for
    /// its answer; of one that does not give it, what it said before.
    pub fn levels(&self) -> Levels {
        let mut state = self.0.lock();
        if let Some(process) = state.company.clone() {
            let question = state.tally.ask();
            drop(state);
            process.ask(question);
            let asked = self.0.lock();
            let waited = self.0.changed.wait_timeout_while(asked, LEVELS_TIMEOUT, |state| {
                !state.closed && !state.tally.has_answer(question)
            });
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
        state.tally.sum()
    }

    /// How the process for all is.
    pub fn condition(&self) -> RuntimeCondition {
        self.0.lock().condition()
    }

    /// From now on processes are made of this, and what is new runs in such a one;
    /// of `launch` the program, the caches on the disk and the number of executors stay as
    /// they are.
    pub fn renew(&self, launch: Launch) {
        self.0.renew(launch);
    }

    /// From now on the processes log this.
    pub fn log(&self, directives: &str) {
        let mut state = self.0.lock();
        state.directives = Some(directives.to_owned());
        let processes = [state.company.clone(), state.alone.clone()];
        drop(state);
        processes.into_iter().flatten().for_each(|process| process.log(directives));
    }

    /// Whether processes are confined to directories that hold this one. Looks at
    /// the file system.
    pub fn reaches(&self, directory: &Path) -> bool {
        let reach = self.0.lock().reach.clone();
        reach.has(directory)
    }

    /// From now on processes are confined to this, and what is new runs in such a
    /// one.
    pub fn confine(&self, confinement: Confinement) {
        self.0.confine(confinement);
    }

    /// Ends the processes, in order where that is quick.
    pub fn close(&self) {
        self.0.close(|process| process.close(CLOSE_TIMEOUT));
    }

    /// Ends the processes at once, unless they have been ended.
    pub fn abandon(&self) {
        self.0.close(Process::kill);
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
    task: &LaneWork<'_>,
    listener: Option<BorrowedFd<'_>>,
    code: &Binary,
    told: &impl Fn(LaneAnswer),
) -> Option<super::messages::EndMessage> {
    lane.sender.send(task, listener, Wait::Yes).ok()?;
    loop {
        match lane.receiver.receive::<LaneAnswer>() {
            Ok(Some((LaneAnswer::Code, _))) => {
                lane.sender.send(&LaneWork::Code(code.to_vec()), None, Wait::Yes).ok()?;
            }
            Ok(Some((LaneAnswer::Ended(end), _))) => return Some(*end),
            Ok(Some((answer, _))) => told(answer),
            Ok(None) => return None,
            Err(e) => {
                error!("the runtime's process sent an invalid message: {e}");
                return None;
            }
        }
    }
}
