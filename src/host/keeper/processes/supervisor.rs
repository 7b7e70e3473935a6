//! The thread that starts the runtime's processes, retires those with stuck tasks and
//! ends them; and the threads that hear what each says beside its lanes.

use super::super::super::channel::Receiver;
use super::super::super::messages::Report;
use super::super::super::process::Process;
use super::super::super::reach::Reach;
use super::super::Launch;
use super::{CRASHES, FIRST_WAIT, Shared};
use crate::nn::PausedModel;
use anyhow::Context as _;
use std::sync::{Arc, PoisonError, Weak};
use std::time::Instant;
use tracing::{info, warn};

impl Shared {
    /// The thread.
    pub(super) fn supervise(self: &Arc<Shared>) {
        let mut state = self.lock();
        while !state.closed {
            let now = Instant::now();
            let ready = state.not_before.is_none_or(|at| at <= now);
            if state.company.is_none() && ready {
                drop(state);
                self.start_company();
                state = self.lock();
                continue;
            }
            if state.suspects > 0 && state.alone.is_none() && ready {
                drop(state);
                self.start_alone();
                state = self.lock();
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
            if state.suspects == 0
                && let Some(idle) = state.alone.take()
            {
                // The next suspect has a fresh one.
                drop(state);
                drop(idle);
                state = self.lock();
                continue;
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
        // They end with this thread, at once: not before they have had their time.
        let over = self.changed.wait_while(state, |state| !state.over);
        let mut state = over.unwrap_or_else(PoisonError::into_inner);
        // What was being started meanwhile.
        let late = [state.alone.take(), state.company.take()];
        drop(state);
        late.iter().flatten().for_each(|process| process.kill());
    }

    fn start_company(self: &Arc<Shared>) {
        let lanes = u32::try_from(self.launch().executors).unwrap_or(u32::MAX);
        let started = self.start_process(lanes.saturating_mul(2), true);
        let mut state = self.lock();
        match started {
            // Since then it was to be confined to something else.
            Ok((_, reach)) if !Arc::ptr_eq(&reach, &state.reach) => {}
            Ok((process, _)) => {
                let first = state.started.is_none();
                for missing in process.missing.iter().filter(|_| first) {
                    warn!("{missing}");
                }
                if let Some(directives) = &state.directives {
                    // They may have changed while it was started.
                    process.log(directives);
                }
                state.pauses.all().into_iter().for_each(|paused| process.pause(paused));
                if !first {
                    state.renewed.send_modify(|times| *times += 1);
                }
                state.failed = None;
                state.started = Some(Instant::now());
                state.company = Some(process);
                state
                    .retired
                    .drain(..)
                    .filter_map(|old| old.upgrade())
                    .for_each(|old| old.replaced());
            }
            Err(e) => {
                let reason = format!("{e:#}");
                warn!("the runtime's process could not be started: {reason}");
                state.failed = Some(reason);
                state.crashes = state.crashes.max(CRASHES) + 1;
                state.back_off();
            }
        }
        drop(state);
        self.changed.notify_all();
    }

    fn start_alone(self: &Arc<Shared>) {
        // It loads what its task needs and nothing else.
        let started = self.start_process(2, false);
        let mut state = self.lock();
        match started {
            Ok((process, _)) => state.alone = Some(process),
            Err(e) => {
                warn!("no process for a suspect could be started: {e:#}");
                state.not_before = Some(Instant::now() + FIRST_WAIT);
            }
        }
        drop(state);
        self.changed.notify_all();
    }

    fn start_process(
        self: &Arc<Shared>,
        lanes: u32,
        preload: bool,
    ) -> anyhow::Result<(Arc<Process>, Arc<Reach>)> {
        let launch = self.launch();
        let Launch { program, setup, caches, memory, outcome, .. } = &*launch;
        let mut setup = setup.clone();
        setup.preload &= preload;
        let state = self.lock();
        if let (Some(log), Some(directives)) = (&mut setup.log, &state.directives) {
            log.directives.clone_from(directives);
        }
        setup.confinement.clone_from(&state.confinement);
        setup.paused = state.pauses.all();
        let reach = state.reach.clone();
        drop(state);
        let own = caches.as_ref().and_then(|caches| {
            let unused =
                |e: &anyhow::Error| warn!("what is compiled is not kept on the disk: {e:#}");
            caches.own().inspect_err(unused).ok()
        });
        let (process, reports) = Process::start(program, setup, own, lanes, *memory, *outcome)?;
        let process = Arc::new(process);
        let (shared, heard) = (self.clone(), Arc::downgrade(&process));
        std::thread::Builder::new()
            .name("runtime-line".into())
            .spawn(move || shared.hear(reports, &heard))
            .context("starting the thread that hears the runtime's process")?;
        Ok((process, reach))
    }

    /// Makes a connection that a guest asks for.
    fn connect(&self, process: Weak<Process>, number: u64, host: String, port: u16) {
        let launch = self.launch();
        let connecting = (launch.connect)(host, port);
        launch.tokio.spawn(async move {
            let made = connecting.await;
            if let Some(process) = process.upgrade() {
                process.connected(number, made);
            }
        });
    }

    /// A model that a process compiles, or has compiled after all: the others hear
    /// of it, and those to come.
    fn pause(&self, process: &Weak<Process>, paused: PausedModel) {
        let state = self.lock();
        state.pauses.adopt(paused);
        let others = [state.company.clone(), state.alone.clone()];
        drop(state);
        let others = others.iter().flatten();
        others
            .filter(|other| Arc::as_ptr(other) != process.as_ptr())
            .for_each(|other| other.pause(paused));
    }

    /// Hears what a process says beside its lanes, until it ends: that of one
    /// that runs no task would not be noticed otherwise.
    fn hear(&self, mut reports: Receiver, process: &Weak<Process>) {
        while let Ok(Some((report, _))) = reports.receive() {
            let (question, levels) = match report {
                Report::Levels(question, levels) => (question, levels),
                Report::Connect(number, host, port) => {
                    self.connect(process.clone(), number, host, port);
                    continue;
                }
                Report::Paused(paused) => {
                    self.pause(process, paused);
                    continue;
                }
                Report::Ready(..) | Report::Failed(_) => break,
            };
            let mut state = self.lock();
            let company = state.company.as_ref();
            let asked = company.is_some_and(|kept| Arc::as_ptr(kept) == process.as_ptr());
            if !(asked && state.tally.answer(question, *levels)) {
                break;
            }
            drop(state);
            self.changed.notify_all();
        }
        // Also of one that says what it was not asked for.
        if let Some(process) = process.upgrade() {
            self.lost(&process, &process.fate());
        }
    }
}
