//! What a task gets: a store with its WASI context, its wasi-nn context, its
//! limiter, its deadline and a place for its output. Built here alone, and
//! fresh for each task.

#[cfg(target_os = "linux")]
use super::files::{
    contents::Contents,
    mapped::{self, Mapped},
};
use super::limiter::{Limiter, SharedMemory};
use super::outgoing::GuestRequests;
use super::output::Capture;
use super::refusals::Refusals;
use crate::cancel::{Cancel, Reason};
use crate::directory::Directory;
use crate::nn::NnCtx;
use crate::task::{Failure, Grant, Preopen};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use wasmtime::{Engine, Store, UpdateDeadline};
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::{FsPerms, HostMonotonicClock, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

/// Files, directories and streams that a task may hold open. Descriptors are
/// the process's, and the connection to the broker needs one, too.
pub(super) const MAX_HANDLES: usize = 256;
/// Handles that a component may hold of resources of its own.
pub(super) const MAX_OWN_HANDLES: usize = 100_000;

/// The host's side of one guest.
pub(super) struct TaskState {
    wasi: WasiP1Ctx,
    pub(super) nn: Option<NnCtx>,
    http: WasiHttpCtx,
    pub(super) outgoing: GuestRequests,
    limiter: Limiter,
    pub(super) cancel: Arc<Cancel>,
    /// Zero of the guest's monotonic clock.
    pub(super) clock_zero: Instant,
    /// The guest asked for a socket or an address, and was refused.
    pub(super) network_refused: bool,
    /// What it was refused of files.
    pub(super) refused: Refusals,
    /// It may wait for a FIFO, socket or device.
    pub(super) opens_special: bool,
    /// Clears what was mapped into the guest's memory.
    #[cfg(target_os = "linux")]
    mapped: Option<mapped::Guard>,
}

impl TaskState {
    /// The state of preview 1, within which that of WASI 0.2 is.
    pub(super) fn wasi(&mut self) -> &mut WasiP1Ctx {
        &mut self.wasi
    }

    /// What is told of memory that the guest did not get.
    pub(super) fn memory_refused(&self) -> Option<String> {
        self.limiter.refusal()
    }

    /// Large reads of files may be mapped from now on. For a core module's
    /// memory out of a pool alone: another one may move.
    #[cfg(target_os = "linux")]
    pub(super) fn map_contents(&mut self, contents: &Arc<Contents>) {
        let mapped = Mapped::new(contents.clone());
        if let Some(nn) = &mut self.nn {
            nn.ask_origins(mapped.clone());
        }
        self.mapped = Some(mapped::Guard(mapped));
    }

    /// What is mapped into the guest's memory, if anything may be.
    #[cfg(target_os = "linux")]
    pub(super) fn mapped(&self) -> Option<Arc<Mapped>> {
        self.mapped.as_ref().map(|guard| guard.0.clone())
    }

    /// Huge pages were asked for at these addresses of the guest's memory.
    pub(super) fn has_huge_pages(&self, at: Range<usize>) {
        #[cfg(target_os = "linux")]
        if let Some(mapped) = &self.mapped {
            mapped.0.has_huge_pages(at);
        }
        #[cfg(not(target_os = "linux"))]
        let _ = at;
    }

    /// wasi-nn, if the task has it.
    pub(super) fn nn(&mut self) -> Option<&mut NnCtx> {
        self.nn.as_mut()
    }
}

impl WasiView for TaskState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.wasi.ctx()
    }
}

impl WasiHttpView for TaskState {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView {
            hooks: &mut self.outgoing,
            table: self.wasi.ctx().table,
            ctx: &mut self.http,
        }
    }
}

/// What ends a guest that was cancelled.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub(super) struct Interrupted(pub(super) Reason);

impl From<Reason> for Failure {
    fn from(reason: Reason) -> Failure {
        match reason {
            Reason::Stopped => Failure::Stopped,
            Reason::Timeout(limit) => Failure::Timeout(limit),
            Reason::ShuttingDown => Failure::ShuttingDown,
        }
    }
}

/// The guest's monotonic clock, whose zero we know.
struct Monotonic(Instant);

impl HostMonotonicClock for Monotonic {
    fn resolution(&self) -> u64 {
        1
    }

    fn now(&self) -> u64 {
        u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// The store of one task, or of a request, whose memory is out of what all have
/// that is `shared`. Its standard output and error go to `output`; without
/// that, the guest has the terminal and no bound on what it holds open.
///
/// # Errors
///
/// A directory that was granted can't be opened.
pub(super) fn store(
    engine: &Engine,
    grant: &Grant,
    nn: Option<NnCtx>,
    output: Option<(&Capture, &Capture)>,
    shared: Option<&SharedMemory>,
    cancel: &Arc<Cancel>,
) -> Result<Store<TaskState>, Failure> {
    let clock_zero = Instant::now();
    let mut wasi = WasiCtxBuilder::new();
    wasi.args(&grant.args)
        .envs(&grant.env)
        .monotonic_clock(Monotonic(clock_zero))
        // File reads copy straight into the guest's memory.
        .allow_blocking_current_thread(true);
    match output {
        Some((stdout, stderr)) => wasi.stdout(stdout.clone()).stderr(stderr.clone()),
        None => wasi.inherit_stdio(),
    };
    preopen(&mut wasi, &grant.dirs)?;
    let mut wasi = wasi.build_p1();
    if output.is_some() {
        wasi.ctx().table.set_max_capacity(MAX_HANDLES);
    }
    let limiter = Limiter::new(grant.limits.memory, cancel.clone());
    let limiter = match shared {
        Some(shared) => limiter.sharing(shared.clone()),
        None => limiter,
    };
    let state = TaskState {
        wasi,
        nn,
        http: WasiHttpCtx::new(),
        outgoing: GuestRequests::new(None),
        limiter,
        cancel: cancel.clone(),
        clock_zero,
        network_refused: false,
        refused: Refusals::default(),
        opens_special: output.is_none(),
        #[cfg(target_os = "linux")]
        mapped: None,
    };
    let mut store = Store::new(engine, state);
    store.set_max_component_handles(MAX_OWN_HANDLES);
    // A component hands lists over by copies, and may name one many times: so one
    // call copies no more than the task's memory, which is as much as one list can be.
    let memory = grant.limits.memory.unwrap_or(u64::MAX);
    store.set_hostcall_fuel(usize::try_from(memory).unwrap_or(usize::MAX));
    store.limiter(|state| &mut state.limiter);
    // Before instantiation, since the start function runs there.
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(|store| match store.data().cancel.reason() {
        None => Ok(UpdateDeadline::Continue(1)),
        Some(reason) => Err(Interrupted(reason).into()),
    });
    Ok(store)
}

fn preopen(wasi: &mut WasiCtxBuilder, dirs: &[Preopen]) -> Result<(), Failure> {
    // A root is given under its path and under its name.
    let mut opened: HashMap<&Path, Directory> = HashMap::new();
    for Preopen { host, guest, writable } in dirs {
        let perms = if *writable { FsPerms::ReadWrite } else { FsPerms::ReadOnly };
        let failed = |e: &dyn std::fmt::Display| {
            let host = host.display();
            Failure::Directory(format!("opening the directory {host} for the guest: {e:#}"))
        };
        let directory = match opened.entry(host) {
            Entry::Occupied(before) => before.into_mut(),
            Entry::Vacant(new) => new.insert(Directory::open(host).map_err(|e| failed(&e))?),
        };
        wasi.preopened_dir(directory.path(), guest, perms).map_err(|e| failed(&e))?;
    }
    Ok(())
}
