//! A runtime's process as the worker has it: started, its lanes, its end.

use super::caches::OwnCaches;
use super::channel::{self, Receiver, Sender, Wait};
use super::confine::GrantedRoot;
use super::memory;
use super::messages::{Order, Report, Setup};
use super::task_states::Notes;
use crate::cancel::{Doing, Reason};
use crate::network::ConnectError;
use crate::nn::PausedModel;
use crate::process::{RUNNING, no_output};
use anyhow::{Context as _, bail};
use std::collections::HashMap;
use std::net::TcpStream;
use std::os::fd::AsFd as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tracing::{debug, warn};

/// The hidden verb of the program.
pub const VERB: &str = "runtime";
/// The exit code of one that ended because a process that compiles for it did,
/// which is no fault of its tasks.
pub(super) const COMPILER_LOST: i32 = 71;
/// The most bytes of what it says beside its lanes.
const REPORT: u64 = 1 << 20;
/// The variables that a runtime gets: what OpenVINO and its devices need.
const VARIABLES: [&str; 7] = [
    "LD_LIBRARY_PATH",
    "OPENVINO_INSTALL_DIR",
    "INTEL_OPENVINO_DIR",
    "OCL_ICD_VENDORS",
    "RUST_BACKTRACE",
    "TZ",
    "LANG",
];

/// A thread of the runtime that runs tasks.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) number: u32,
    /// Its thread's number in the system.
    pub(super) thread: u32,
    pub(super) sender: Sender,
    pub(super) receiver: Receiver,
}

/// What a lane is at.
#[derive(Debug)]
struct LaneRun {
    number: u64,
    waited_for: WaitedFor,
    /// Others ran at the same time.
    beside: bool,
}

/// Whether a retired process goes on for the sake of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WaitedFor {
    Yes,
    /// It is a daemon's, which goes on in another process once there is one.
    No,
    /// It is stuck: it does not end although it was to.
    Never,
}

/// What its lanes are at.
#[derive(Debug, Default)]
struct Lanes {
    free: Vec<Lane>,
    /// The others.
    busy: HashMap<u32, LaneRun>,
    next: u64,
    /// A run has ended.
    used: bool,
    /// It gets no more tasks.
    retired: bool,
    /// Another one takes them.
    replaced: bool,
    /// It was ended on purpose.
    killed: bool,
}

/// The process in the system.
#[derive(Debug)]
struct ChildProcess {
    child: Child,
    ended: Option<ExitStatus>,
    /// What it has on the disk.
    own: Option<OwnCaches>,
}

impl ChildProcess {
    /// Waits until it has ended.
    fn wait(&mut self, within: Duration) {
        let until = Instant::now() + within;
        while self.ended.is_none() && Instant::now() < until {
            self.ended = self.child.try_wait().ok().flatten();
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn kill(&mut self) {
        if self.ended.is_none() {
            self.child.kill().ok();
            self.ended = self.child.wait().ok();
        }
    }
}

/// See the module's documentation. It is killed when it is dropped.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) id: u32,
    child: Mutex<ChildProcess>,
    control: Sender,
    notes: Notes,
    /// What its system lacks to confine it, a sentence each.
    pub(super) missing: Vec<String>,
    lanes: Mutex<Lanes>,
}

impl Process {
    /// Starts one with so many lanes, which takes tasks when this returns, and
    /// gives what it says beside its lanes. To be called on a thread that lives
    /// as long as the worker: the process ends with it. `limit`: the most bytes
    /// that an answer may have. What it has on the disk is kept if it ends in
    /// order.
    pub(super) fn start(
        program: &Path,
        mut setup: Setup,
        own: Option<OwnCaches>,
        lanes: u32,
        memory: u64,
        limit: u64,
    ) -> anyhow::Result<(Process, Receiver)> {
        if let Some(own) = &own {
            setup.disk = Some(own.disk());
            setup.confinement.caches.push(own.written().to_owned());
            let read = own.read().map(|path| GrantedRoot { path, writable: false });
            setup.confinement.roots.extend(read);
        }
        let (here, there) = channel::pair().context("a line to the runtime")?;
        let variables = VARIABLES.iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
        let child = Command::new(executable(program))
            .arg(VERB)
            .env_clear()
            .envs(variables)
            .current_dir("/")
            // What a terminal sends to the worker's group is the worker's to act on.
            .process_group(0)
            .stdin(Stdio::from(there))
            .stdout(no_output().context("an output for it")?)
            .spawn()
            .with_context(|| format!("starting {} {VERB}", program.display()))?;
        let id = child.id();
        let (control, mut told) = channel::end(here, REPORT);
        let notes = Notes::new(lanes).context("memory for the runtime's notes")?;
        let mut process = Process {
            id,
            child: Mutex::new(ChildProcess { child, ended: None, own }),
            control,
            notes,
            missing: Vec::new(),
            lanes: Mutex::default(),
        };
        let order = Order::Setup(Box::new(setup), lanes);
        process.control.send(&order, Some(process.notes.descriptor()), Wait::Yes)?;
        let mut ends = Vec::new();
        for _ in 0..lanes {
            let (here, there) = channel::pair().context("a lane to the runtime")?;
            process.control.send(&Order::Lane, Some(there.as_fd()), Wait::Yes)?;
            ends.push(channel::end(here, limit));
        }
        let threads = match told.receive()? {
            Some((Report::Ready(threads, missing), _)) => {
                process.missing = missing;
                threads
            }
            Some((Report::Failed(reason), _)) => bail!("{reason}"),
            Some((Report::Levels(..), _)) => {
                bail!("the runtime's process sent an unexpected message")
            }
            Some((Report::Connect(..) | Report::Paused(_), _)) => {
                bail!("the runtime asks before it is there")
            }
            None => bail!("the runtime's process ended: {}", process.fate()),
        };
        if let Err(e) = memory::enforce(id, memory) {
            warn!("the runtime's memory is not bounded: {e:#}");
        }
        let lanes = (0u32..).zip(ends).map(|(number, (sender, receiver))| {
            let thread = threads.get(number as usize).copied().unwrap_or_default();
            Lane { number, thread, sender, receiver }
        });
        process.lanes.get_mut().unwrap_or_else(PoisonError::into_inner).free = lanes.collect();
        Ok((process, told))
    }

    /// A lane and the number of its next run, if one is free.
    /// `goes_on`: it is a daemon, for which a retired process does not wait.
    pub(super) fn take(&self, goes_on: bool) -> Option<(Lane, u64)> {
        let mut lanes = self.lanes();
        if lanes.retired {
            return None;
        }
        let lane = lanes.free.pop()?;
        let number = lanes.next;
        lanes.next += 1;
        let beside = !lanes.busy.is_empty();
        lanes.busy.values_mut().for_each(|run| run.beside = true);
        let waited_for = if goes_on { WaitedFor::No } else { WaitedFor::Yes };
        lanes.busy.insert(lane.number, LaneRun { number, waited_for, beside });
        Some((lane, number))
    }

    /// The run on this lane has ended. Returns whether others ran beside it.
    pub(super) fn give(&self, lane: Lane) -> bool {
        let mut lanes = self.lanes();
        let run = lanes.busy.remove(&lane.number);
        lanes.used = true;
        lanes.free.push(lane);
        self.end_if_retired(&mut lanes);
        run.is_some_and(|run| run.beside)
    }

    /// Whether a run has ended in it.
    pub(super) fn has_ended_a_run(&self) -> bool {
        self.lanes().used
    }

    /// The run is to end.
    pub(super) fn stop(&self, lane: u32, run: u64, reason: Reason) {
        if let Err(e) = self.control.send(&Order::Stop(lane, run, reason), None, Wait::No) {
            warn!("a task could not be stopped in its process: {e}");
        }
    }

    /// Whether this run, which was to end long ago, is still there; if so it is
    /// stuck, and the process gets no more tasks.
    pub(super) fn retire_if_stuck(&self, lane: u32, run: u64) -> bool {
        let mut lanes = self.lanes();
        match lanes.busy.get_mut(&lane) {
            Some(of) if of.number == run => of.waited_for = WaitedFor::Never,
            _ => return false,
        }
        lanes.retired = true;
        self.end_if_retired(&mut lanes);
        true
    }

    /// A connection that it asked for was made, or not.
    pub(super) fn connected(&self, number: u64, made: Result<TcpStream, ConnectError>) {
        let stream = made.as_ref().ok().map(|stream| stream.as_fd());
        let order = Order::Connected(number, made.as_ref().map(drop).map_err(Clone::clone));
        if let Err(e) = self.control.send(&order, stream, Wait::No) {
            // Not louder: a process that takes none could fill the log.
            debug!("a guest's connection was lost on the way to its process: {e}");
        }
    }

    /// It gets no more tasks.
    pub(super) fn retire(&self) {
        self.lanes().retired = true;
    }

    /// Another process takes what is new.
    pub(super) fn replaced(&self) {
        let mut lanes = self.lanes();
        lanes.replaced = true;
        self.end_if_retired(&mut lanes);
    }

    /// Whether the process was ended because it was retired, so that the run on
    /// this lane goes on in another one.
    pub(super) fn moves(&self, lane: u32) -> bool {
        let lanes = self.lanes();
        let run = lanes.busy.get(&lane);
        lanes.retired && lanes.killed && run.is_some_and(|run| run.waited_for == WaitedFor::No)
    }

    /// Ends a retired process once none but stuck tasks are in it, and daemons,
    /// which have somewhere to go.
    fn end_if_retired(&self, lanes: &mut Lanes) {
        let waits = lanes.busy.values().any(|run| run.waited_for == WaitedFor::Yes);
        if lanes.retired && lanes.replaced && !lanes.killed && !waits {
            lanes.killed = true;
            self.started().child.kill().ok();
        }
    }

    /// Whether the process has ended by itself and a single task ran, so that it
    /// was that one's doing.
    pub(super) fn crashed_with_one(&self) -> bool {
        let code = self.started().ended.and_then(|status| status.code());
        let lanes = self.lanes();
        !lanes.killed && lanes.busy.len() == 1 && code != Some(COMPILER_LOST)
    }

    /// What the task on this lane was doing last.
    pub(super) fn doing(&self, lane: u32) -> Doing {
        self.notes.doing(lane)
    }

    /// Bytes of the memories of the guest on this lane.
    pub(super) fn memory(&self, lane: u32) -> u64 {
        self.notes.memory(lane)
    }

    /// Whether this run is still on its lane.
    pub(super) fn runs(&self, lane: u32, run: u64) -> bool {
        self.lanes().busy.get(&lane).is_some_and(|of| of.number == run)
    }

    /// Has the process report how it stands.
    pub(super) fn ask(&self, question: u64) {
        // One that does not read its line answers to nothing else either.
        self.control.send(&Order::Levels(question), None, Wait::No).ok();
    }

    /// Has the process compile this model no sooner than others do.
    pub(super) fn pause(&self, paused: PausedModel) {
        // One that does not read its line compiles nothing either.
        self.control.send(&Order::Paused(paused), None, Wait::No).ok();
    }

    /// Has the process log this from now on.
    pub(super) fn log(&self, directives: &str) {
        let order = Order::LogLevel(directives.to_owned());
        if let Err(e) = self.control.send(&order, None, Wait::No) {
            warn!("the runtime's process logs as before: {e}");
        }
    }

    /// How the process ended, which it has, or does soon.
    pub(super) fn fate(&self) -> String {
        let mut started = self.started();
        started.wait(Duration::from_secs(1));
        // A process that closed its line and goes on is ended.
        started.kill();
        match started.ended {
            Some(status) if let Some(signal) = status.signal() => signal_name(signal),
            Some(status) => status.to_string(),
            None => "it is gone".into(),
        }
    }

    /// Lets the process end in order.
    pub(super) fn close(&self, within: Duration) {
        self.lanes().killed = true;
        self.control.send(&Order::End, None, Wait::No).ok();
        let mut started = self.started();
        started.wait(within);
        if started.ended.is_some_and(|status| status.success())
            && let Some(own) = started.own.take()
        {
            own.keep();
        }
    }

    /// Ends the process at once.
    pub(super) fn kill(&self) {
        self.lanes().killed = true;
        self.started().kill();
    }

    // Each change is one step.
    fn started(&self) -> MutexGuard<'_, ChildProcess> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // Each change is one step.
    fn lanes(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.started().kill();
    }
}

/// The file to start: this program's own, also once another version has taken
/// its place, whose messages may be others.
fn executable(program: &Path) -> &Path {
    let own = Path::new(RUNNING);
    let mut replaced = program.as_os_str().to_owned();
    replaced.push(" (deleted)");
    // As the kernel tells it.
    let is_replaced = std::fs::read_link(own).is_ok_and(|now| now == Path::new(&replaced));
    if is_replaced { own } else { program }
}

fn signal_name(signal: i32) -> String {
    let name = match signal {
        libc::SIGILL => "SIGILL",
        libc::SIGTRAP => "SIGTRAP",
        libc::SIGABRT => "SIGABRT",
        libc::SIGBUS => "SIGBUS",
        libc::SIGFPE => "SIGFPE",
        libc::SIGKILL => "SIGKILL",
        libc::SIGSEGV => "SIGSEGV",
        libc::SIGSYS => "SIGSYS",
        libc::SIGTERM => "SIGTERM",
        other => return format!("signal {other}"),
    };
    name.to_owned()
}
