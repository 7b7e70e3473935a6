//! The runtime's process: takes its setup and its lanes from the worker at the
//! other end of its standard input, lets itself be confined, and runs tasks
//! until that end is closed.

use super::caches::CacheFolders;
use super::channel::{self, Receiver, Sender, Wait};
use super::confine;
use super::connections::Connections;
use super::levels::{KEPT, Levels};
use super::messages::{EndMessage, LaneAnswer, LaneWork, LogSetup, Order, Report, Setup};
use super::process::COMPILER_LOST;
use super::task_states::Notes;
use crate::cancel::{Cancel, Doing, TaskChange};
use crate::disk::DiskCache;
use crate::nn::{ModelPauses, Nn, NnConfig, PausedModel};
use crate::process;
use crate::runtime::{
    CompileProcesses, Door, Outbound, Runtime, RuntimeConfig, Stdio, THREAD_STACK, WhenLost,
};
use crate::task::{Binary, Code, TaskSpec};
use crate::usage::Thread;
use anyhow::{Context as _, bail};
use std::cell::RefCell;
use std::collections::HashMap;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tracing::{error, info, info_span, warn};

/// The most bytes of a message from the worker, which is trusted.
const LIMIT: u64 = u32::MAX as u64;
/// How long what was compiled may take to be kept on the disk.
const KEEP_TIMEOUT: Duration = Duration::from_secs(5);

thread_local! {
    /// The lane of this thread, by which the code of its task is asked for.
    static LANE: RefCell<Option<Lane>> = const { RefCell::new(None) };
}

struct Lane {
    sender: Sender,
    receiver: Receiver,
    /// The worker is to be told that its task's guest begins.
    begins: bool,
}

/// The tasks that run: on which lane, in its how manieth run.
type Running = Arc<Mutex<HashMap<u32, (u64, Arc<Cancel>)>>>;

/// Has other directives decide on what is logged.
pub type SetLevel = Box<dyn Fn(&str) -> anyhow::Result<()>>;

/// How the log is governed once it has started.
pub struct LogControl {
    /// To be called once this process is confined.
    pub confined: Box<dyn FnOnce()>,
    /// Has other directives decide on what is logged.
    pub set_level: SetLevel,
}

/// Runs tasks until the worker closes the line. `log` starts the log.
///
/// # Errors
///
/// What the worker says makes no sense.
pub fn main(log: impl FnOnce(&LogSetup) -> anyhow::Result<LogControl>) -> anyhow::Result<()> {
    alone_with_the_worker();
    let line = std::io::stdin().as_fd().try_clone_to_owned().context("the line to the worker")?;
    let (sender, mut receiver) = channel::end(line, LIMIT);
    let Some((Order::Setup(setup, lanes), Some(notes))) = receiver.receive()? else {
        bail!("no setup from a worker: this verb is for it alone");
    };
    let connections = Arc::new(Connections::new(sender.clone()));
    let mut sockets = Vec::new();
    for _ in 0..lanes {
        let Some((Order::Lane, Some(socket))) = receiver.receive()? else {
            bail!("a lane is missing");
        };
        sockets.push(socket);
    }
    let started = match start(&setup, log, sockets, Notes::from(notes), &sender, &connections) {
        Ok(mut started) => {
            let threads = std::mem::take(&mut started.threads);
            let missing = std::mem::take(&mut started.missing);
            sender.send(&Report::Ready(threads, missing), None, Wait::Yes)?;
            started
        }
        Err(e) => return Ok(sender.send(&Report::Failed(format!("{e:#}")), None, Wait::Yes)?),
    };
    while let Some((order, descriptor)) = receiver.receive()? {
        match order {
            Order::Stop(lane, number, reason) => {
                let cancel = held(&started.running).get(&lane).cloned();
                if let Some((_, cancel)) = cancel.filter(|(of, _)| *of == number) {
                    cancel.cancel(reason);
                }
            }
            Order::Levels(question) => {
                let levels = Box::new(levels(&started.runtime));
                sender.send(&Report::Levels(question, levels), None, Wait::Yes)?;
            }
            Order::Paused(paused) => started.pauses.adopt(paused),
            Order::LogLevel(directives) => {
                // Without a log there is none to change.
                if let Some(Err(e)) = started.set_level.as_ref().map(|set| set(&directives)) {
                    error!("the log level stays as it was: {e:#}");
                }
            }
            Order::Connected(number, made) => connections.made(number, made, descriptor),
            Order::End => {
                for disk in started.disks {
                    disk.close(KEEP_TIMEOUT);
                }
                process::leave(0);
            }
            Order::Setup(..) | Order::Lane => bail!("a second setup"),
        }
    }
    // The worker has gone.
    process::leave(0)
}

/// Ends with the worker, goes first when memory is short, and has no descriptor
/// that somebody left open.
fn alone_with_the_worker() {
    use rustix::process::{Signal, set_parent_process_death_signal};
    // If the worker has gone already, the line is closed.
    set_parent_process_death_signal(Some(Signal::KILL)).ok();
    std::fs::write("/proc/self/oom_score_adj", "1000").ok();
    // SAFETY: nothing in this process has opened a descriptor yet but the three
    // standard ones, so none of these belongs to anybody.
    #[allow(unsafe_code, reason = "whoever opened them is not here")]
    unsafe {
        libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, 0u32);
    }
}

/// What takes tasks.
struct ChildRuntime {
    runtime: Arc<Runtime>,
    /// The numbers of its lanes' threads.
    threads: Vec<u32>,
    /// What the system lacks to confine it.
    missing: Vec<String>,
    disks: Vec<Arc<DiskCache>>,
    running: Running,
    /// Models that are not compiled for a while.
    pauses: Arc<ModelPauses>,
    /// How its log is changed, if it has one.
    set_level: Option<SetLevel>,
}

fn start(
    setup: &Setup,
    log: impl FnOnce(&LogSetup) -> anyhow::Result<LogControl>,
    sockets: Vec<OwnedFd>,
    notes: Notes,
    line: &Sender,
    connections: &Arc<Connections>,
) -> anyhow::Result<ChildRuntime> {
    let log = setup.log.as_ref().map(log).transpose()?;
    let count = 2 * setup.compilers;
    let program =
        process::same_program().context("the system does not tell this program's file")?;
    let compile_apart =
        CompileProcesses::start(&program, count, setup.compile_memory, WhenLost::End(lost))?;
    let missing = confine::apply(&setup.confinement).context("confining the runtime")?;
    let set_level = log.map(|LogControl { confined, set_level }| {
        confined();
        set_level
    });
    let [modules, graphs] = setup.disk.as_ref().map(CacheFolders::open).unwrap_or_default();
    let (pauses, told) = pauses(setup);
    let nn = NnConfig { disk: graphs.clone(), pauses: pauses.clone(), ..setup.nn.clone() };
    let nn = Nn::new(nn);
    let config = RuntimeConfig {
        module_cache: setup.module_cache,
        file_cache: setup.file_cache,
        disk: modules.clone(),
        compilers: setup.compilers,
        compile_apart: Some(compile_apart),
        fetch: Arc::new(|spec, _| code(spec)),
        stdio: Stdio::Captured,
        pool: Some(setup.pool),
        requests: setup.requests,
        outbound: match &setup.trusted {
            Some(trusted) => Some(Outbound::new(connections.connect(), trusted)?),
            None => None,
        },
    };
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("starting the threads for guests' files and clocks")?;
    let handle = tokio.handle().clone();
    // Until the process ends.
    std::mem::forget(tokio);
    handle.spawn(tell_pauses(told, line.clone()));
    let runtime = {
        let _entered = handle.enter();
        Arc::new(Runtime::new(&config, nn.clone())?)
    };
    // The engine has opened what it needs of `/proc/self`.
    process::hide_memory();
    let (notes, running) = (Arc::new(notes), Running::default());
    let (told, threads) = std::sync::mpsc::channel();
    let count = sockets.len();
    for (number, socket) in (0u32..).zip(sockets) {
        let (runtime, notes, running) = (runtime.clone(), notes.clone(), running.clone());
        let (handle, told) = (handle.clone(), told.clone());
        let work = move || {
            let _entered = handle.enter();
            let thread = Thread::current().and_then(|thread| thread.number()).unwrap_or_default();
            told.send((number, thread)).ok();
            drop(told);
            let (sender, receiver) = channel::end(socket, LIMIT);
            LANE.set(Some(Lane { sender, receiver, begins: false }));
            serve(number, &runtime, &notes, &running);
        };
        std::thread::Builder::new()
            .name(format!("lane-{number}"))
            .stack_size(THREAD_STACK)
            .spawn(work)
            .context("starting a thread for tasks")?;
    }
    let mut threads: Vec<_> = threads.iter().take(count).collect();
    threads.sort_unstable();
    let threads = threads.into_iter().map(|(_, thread)| thread).collect();
    let preload = move || {
        // So that the first task finds them, too.
        for e in nn.missing() {
            warn!("tasks with wasi-nn will fail until this is fixed: {e}");
        }
        nn.preload(|graph, loaded| match loaded {
            Ok(()) => info!(graph = graph.name, dir = %graph.dir.display(), "preloaded a graph"),
            Err(e) => warn!(graph = graph.name, "a graph could not be preloaded: {e}"),
        });
    };
    if setup.preload {
        handle.spawn_blocking(preload);
    }
    let disks = [modules, graphs].into_iter().flatten().collect();
    Ok(ChildRuntime { runtime, threads, missing, disks, running, pauses, set_level })
}

/// Those that the setup has, and what is to be told of those that come.
fn pauses(setup: &Setup) -> (Arc<ModelPauses>, UnboundedReceiver<PausedModel>) {
    let (tell, told) = unbounded_channel();
    // Its other end lives as long as the process.
    let pauses = ModelPauses::told(move |paused| {
        tell.send(paused).ok();
    });
    setup.paused.iter().for_each(|paused| pauses.adopt(*paused));
    (Arc::new(pauses), told)
}

/// Tells the worker, which has the next process hear of it.
async fn tell_pauses(mut told: UnboundedReceiver<PausedModel>, line: Sender) {
    while let Some(paused) = told.recv().await {
        if let Err(e) = line.send(&Report::Paused(paused), None, Wait::No) {
            warn!("the next process may compile a model again at once: {e}");
        }
    }
}

/// It may start no process that compiles, and has one too few.
fn lost() -> ! {
    process::leave(COMPILER_LOST)
}

fn levels(runtime: &Runtime) -> Levels {
    Levels {
        modules_compiled: runtime.modules_compiled(),
        module_bytes: runtime.module_bytes(),
        nn: runtime.nn().stats(),
        inferences: runtime.nn().inference_times(),
        code: runtime.kept_code(KEPT),
        graphs: runtime.nn().kept_graphs(KEPT),
    }
}

fn with_lane<R>(with: impl FnOnce(&mut Lane) -> anyhow::Result<R>) -> anyhow::Result<R> {
    LANE.with_borrow_mut(|lane| with(lane.as_mut().context("this thread has no lane")?))
}

/// Tells the worker that the guest of this thread's task begins, if it is to be
/// told. A thread of a server's requests has no lane.
fn guest_begins() {
    LANE.with_borrow_mut(|lane| {
        if let Some(lane) = lane.as_mut().filter(|lane| lane.begins) {
            lane.begins = false;
            // A worker that is gone wants no answer.
            lane.sender.send(&LaneAnswer::Began, None, Wait::Yes).ok();
        }
    });
}

/// The code of this thread's task.
fn code(spec: &TaskSpec) -> Result<Binary, String> {
    let asked = with_lane(|lane| {
        lane.sender.send(&LaneAnswer::Code, None, Wait::Yes)?;
        // Then it is compiled, too.
        lane.begins = true;
        match lane.receiver.receive()? {
            Some((LaneWork::Code(bytes), _)) => Ok(Binary::new(bytes)),
            _ => bail!("the worker sent no code"),
        }
    });
    let binary = asked.map_err(|e| format!("the module did not come from the worker: {e:#}"))?;
    match spec.code() {
        Code::Held(digest) if *digest != binary.digest() => {
            Err("the module that came from the worker is another one".into())
        }
        _ => Ok(binary),
    }
}

/// Runs the tasks of a lane, one after the other.
fn serve(number: u32, runtime: &Runtime, notes: &Arc<Notes>, running: &Running) {
    let next = || with_lane(|lane| Ok(lane.receiver.receive::<LaneWork<'static>>()?));
    while let Ok(Some((LaneWork::Run(run, spec), listener))) = next() {
        // As in the worker: each line of the log tells which task it is about.
        let _task = info_span!("task", task = %spec.id()).entered();
        let limited = spec.grant().limits.run.is_some();
        let set = with_lane(|lane| {
            lane.begins = limited;
            Ok(())
        });
        if set.is_err() {
            return;
        }
        let shown = notes.clone();
        let cancel = Arc::new(Cancel::shown(move |change| {
            shown.write(number, change);
            if change == TaskChange::Doing(&Doing::Running) {
                guest_begins();
            }
        }));
        notes.clear(number);
        held(running).insert(number, (run, cancel.clone()));
        let before = spec.monitoring().and_then(|_| Thread::own_usage());
        // What remains of it is cleared away while its answer is on its way.
        let (outcome, _remains) = runtime.answer(&spec, listener.map(door), &cancel);
        held(running).remove(&number);
        let used = before.and_then(|before| Some(Thread::own_usage()?.since(&before)));
        let end = EndMessage { outcome, memory: cancel.memory(), used };
        let ended = LaneAnswer::Ended(Box::new(end));
        if with_lane(|lane| Ok(lane.sender.send(&ended, None, Wait::Yes)?)).is_err() {
            return;
        }
    }
}

/// The door of a server on this thread's lane.
fn door(listener: OwnedFd) -> Door {
    // A worker that is gone wants to hear nothing.
    let tell = |answer: &LaneAnswer| {
        with_lane(|lane| Ok(lane.sender.send(answer, None, Wait::Yes)?)).ok();
    };
    Door {
        listener: listener.into(),
        served: Box::new(move |served| tell(&LaneAnswer::Served(Box::new(served.clone())))),
        stuck: Box::new(move || tell(&LaneAnswer::Stuck)),
    }
}

// Entries come and go whole.
fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
