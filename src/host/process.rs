//! A runtime's process as the worker has it: started, its lanes, its end.

use super::channel::{self, Receiver, Sender, Wait};
use super::memory;
use super::messages::{Hello, Order, Setup};
use super::notes::Notes;
use crate::cancel::Reason;
use anyhow::{Context as _, bail};
use std::collections::HashMap;
use std::os::fd::AsFd as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tracing::warn;

/// The hidden verb of the program.
pub const VERB: &str = "runtime";
/// The most bytes of a message before it takes tasks.
const HELLO: u64 = 1 << 20;
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

/// What its lanes are at.
#[derive(Debug, Default)]
struct Lanes {
    free: Vec<Lane>,
    /// The others: the number of the run, and whether it is stuck, or goes on
    /// until it is stopped: then nothing waits for its end.
    busy: HashMap<u32, (u64, bool)>,
    next: u64,
    /// It gets no more tasks.
    retired: bool,
    /// It was ended on purpose.
    killed: bool,
}

/// See the module's documentation. It is killed when it is dropped.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) id: u32,
    child: Mutex<(Child, Option<ExitStatus>)>,
    control: Sender,
    notes: Notes,
    lanes: Mutex<Lanes>,
}

impl Process {
    /// Starts one with so many lanes, which takes tasks when this returns, and
    /// gives what it says beside its lanes. To be called on a thread that lives
    /// as long as the worker: the process ends with it. `limit`: the most bytes
    /// that an answer may have.
    pub(super) fn start(
        program: &Path,
        setup: &Setup,
        lanes: u32,
        memory: u64,
        limit: u64,
    ) -> anyhow::Result<(Process, Receiver)> {
        let (here, there) = channel::pair().context("a line to the runtime")?;
        let variables = VARIABLES.iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
        let child = Command::new(program)
            .arg(VERB)
            .env_clear()
            .envs(variables)
            .current_dir("/")
            // What a terminal sends to the worker's group is the worker's to act on.
            .process_group(0)
            .stdin(Stdio::from(there))
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| format!("starting {} {VERB}", program.display()))?;
        let id = child.id();
        let (control, mut told) = channel::end(here, HELLO);
        let notes = Notes::new(lanes).context("memory for the runtime's notes")?;
        let mut process = Process {
            id,
            child: Mutex::new((child, None)),
            control,
            notes,
            lanes: Mutex::default(),
        };
        let order = Order::Setup(Box::new(setup.clone()), lanes);
        process.control.send(&order, Some(process.notes.descriptor()), Wait::Yes)?;
        let mut ends = Vec::new();
        for _ in 0..lanes {
            let (here, there) = channel::pair().context("a lane to the runtime")?;
            process.control.send(&Order::Lane, Some(there.as_fd()), Wait::Yes)?;
            ends.push(channel::end(here, limit));
        }
        let threads = match told.receive()? {
            Some((Hello::Ready(threads, missing), _)) => {
                for missing in missing {
                    warn!("{missing}");
                }
                threads
            }
            Some((Hello::Failed(reason), _)) => bail!("{reason}"),
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
        let run = lanes.next;
        lanes.next += 1;
        lanes.busy.insert(lane.number, (run, goes_on));
        Some((lane, run))
    }

    /// The run on this lane has ended.
    pub(super) fn give(&self, lane: Lane) {
        let mut lanes = self.lanes();
        lanes.busy.remove(&lane.number);
        lanes.free.push(lane);
        self.end_if_retired(&mut lanes);
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
            Some((of, stuck)) if *of == run => *stuck = true,
            _ => return false,
        }
        lanes.retired = true;
        self.end_if_retired(&mut lanes);
        true
    }

    /// Ends a retired process once none but stuck tasks are in it.
    fn end_if_retired(&self, lanes: &mut Lanes) {
        if lanes.retired && !lanes.killed && lanes.busy.values().all(|(_, stuck)| *stuck) {
            lanes.killed = true;
            self.held_child().0.kill().ok();
        }
    }

    /// Whether a single task ran when the process ended by itself; none if it
    /// was ended.
    pub(super) fn crashed_with_one(&self) -> Option<bool> {
        let lanes = self.lanes();
        (!lanes.killed).then_some(lanes.busy.len() == 1)
    }

    /// What the task on this lane was doing last.
    pub(super) fn doing(&self, lane: u32) -> crate::cancel::Doing {
        self.notes.read(lane)
    }

    /// How the process ended, which it has, or does soon.
    pub(super) fn fate(&self) -> String {
        let mut child = self.held_child();
        // A process that closed its line and goes on is ended.
        if child.1.is_none() {
            let until = Instant::now() + Duration::from_secs(1);
            while child.1.is_none() && Instant::now() < until {
                child.1 = child.0.try_wait().ok().flatten();
                std::thread::sleep(Duration::from_millis(1));
            }
            if child.1.is_none() {
                child.0.kill().ok();
                child.1 = child.0.wait().ok();
            }
        }
        match child.1 {
            Some(status) if let Some(signal) = status.signal() => signal_name(signal),
            Some(status) => status.to_string(),
            None => "it is gone".into(),
        }
    }

    /// Lets the process end in order.
    pub(super) fn close(&self, within: Duration) {
        self.lanes().killed = true;
        self.control.send(&Order::End, None, Wait::No).ok();
        let until = Instant::now() + within;
        let mut child = self.held_child();
        while child.1.is_none() && Instant::now() < until {
            child.1 = child.0.try_wait().ok().flatten();
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    // A child and its end: whole at any moment.
    fn held_child(&self) -> MutexGuard<'_, (Child, Option<ExitStatus>)> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // Each change is one step.
    fn lanes(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let mut child = self.held_child();
        if child.1.is_none() {
            child.0.kill().ok();
            child.0.wait().ok();
        }
    }
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
