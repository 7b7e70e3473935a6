//! HTTP servers: a component that exports `wasi:http/incoming-handler` answers
//! each request in a fresh instance of its own.
//!
//! ```text
//! listener ─▶ connection (hyper, on Tokio's threads) ─▶ a thread of the crew
//!                  ▲                                         │ instance, limits, time
//!                  └────────── head, then the body ──────────┘
//! ```
//!
//! Whoever connects is hostile, and so is the guest: connections, requests at
//! once, headers, bodies and the time for each of them are bounded, and what
//! one request does is that one's error.

mod client;
mod connection;
mod crew;
mod exchange;
mod request;
mod served;

use super::limiter::SharedMemory;
use super::link::Artefact;
use super::output::Capture;
use super::sandbox::TaskState;
use super::stores::Stores;
use crate::cancel::{Cancel, Doing, Reason};
use crate::process;
use crate::task::{EntryPoint, Failure, Serving, TaskSpec};
use crew::Crew;
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tracing::{debug, warn};
use wasmtime::component::{Component, InstancePre};
use wasmtime_wasi::runtime::in_tokio;
use wasmtime_wasi_http::p2::bindings::sync::ProxyPre;

pub use served::{Served, TIMES};

/// What a component exports that is a server.
const HANDLER: &str = "wasi:http/incoming-handler";
/// Connections of a server at a time. More wait in the system's queue, as do those
/// of all servers that are over half of the process's descriptors: the rest is left
/// to guests' files and to whatever else opens one.
const CONNECTIONS: usize = 400;
/// How often a server looks after its requests, and says what it has served.
const PULSE: Duration = Duration::from_secs(1);
/// Pulses after which a request that was to end is stuck.
const STUCK: u32 = 3;
/// How long requests may take to end that are to.
const LAST: Duration = Duration::from_secs(2);

/// Requests of all servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Requests {
    /// At work at the same time, and as many more may wait.
    pub at_once: usize,
    /// What is added to the niceness of their threads.
    pub nice: i32,
    /// Bytes of their guests' linear memories together.
    pub memory: u64,
}

/// Where a server's connections come from, and who hears of it.
pub struct Door {
    /// Bound, and does not block. Once it is shut down, no more come, and the
    /// server ends with the last request.
    pub listener: std::net::TcpListener,
    /// Is told what the server has served, from time to time, and at its end.
    pub served: Box<dyn Fn(&Served) + Send + Sync>,
    /// Is told that a request is stuck in native code, for good.
    pub stuck: Box<dyn Fn() + Send + Sync>,
}

/// Whether a task with this entry is a server.
pub(super) fn serves(component: &Component, entry: &EntryPoint) -> bool {
    if matches!(entry, EntryPoint::Invoke(_)) {
        return false;
    }
    let ty = component.component_type();
    let mut names = ty.exports(component.engine()).map(|(name, _)| name);
    names.any(|name| name.split('@').next() == Some(HANDLER))
}

/// A server that runs.
struct Server {
    spec: TaskSpec,
    serving: Serving,
    stores: Arc<Stores>,
    artefact: Arc<Artefact>,
    proxy: ProxyPre<TaskState>,
    crew: Arc<Crew>,
    /// What guests of all servers have together.
    memory: SharedMemory,
    /// For connections of all servers.
    places: Arc<Semaphore>,
    /// Where guests write.
    stdout: Capture,
    stderr: Capture,
    /// What became of requests, as lines of the log; none: on standard error.
    faults: Option<Capture>,
    served: served::Counters,
    cancel: Arc<Cancel>,
    requests: Mutex<Listed>,
}

/// The requests whose guests run.
#[derive(Default)]
struct Listed {
    running: HashMap<u64, Running>,
    next: u64,
}

struct Running {
    cancel: Arc<Cancel>,
    /// For how many pulses it was to end.
    overdue: u32,
}

/// The threads that requests run on, the memory of their guests and the places for
/// connections, which all servers share.
pub(super) struct Crews(Arc<Crew>, SharedMemory, Arc<Semaphore>);

impl Crews {
    pub(super) fn new(requests: Requests) -> Crews {
        let Requests { at_once, nice, memory } = requests;
        let threads = crew::CrewThreads { most: at_once, stack: super::THREAD_STACK, nice };
        let half = process::descriptors().and_then(|all| usize::try_from(all / 2).ok());
        let places = half.unwrap_or(usize::MAX).clamp(1, Semaphore::MAX_PERMITS);
        Crews(Crew::new(threads), SharedMemory::new(memory), Arc::new(Semaphore::new(places)))
    }
}

/// What a server is made of.
pub(super) struct Parts<'a> {
    pub(super) spec: &'a TaskSpec,
    pub(super) stores: &'a Arc<Stores>,
    pub(super) artefact: &'a Arc<Artefact>,
    pub(super) crews: &'a Crews,
    pub(super) stdout: &'a Capture,
    pub(super) stderr: &'a Capture,
    /// Where it is told what became of requests.
    pub(super) faults: Option<Capture>,
    pub(super) cancel: &'a Arc<Cancel>,
}

/// Serves until the door is shut and the last request has ended, or the task is
/// to end.
///
/// # Errors
///
/// It can't serve, or why it ended.
pub(super) fn serve(
    parts: Parts<'_>,
    pre: &InstancePre<TaskState>,
    serving: &Serving,
    door: Door,
) -> Result<(), Failure> {
    let proxy = ProxyPre::new(pre.clone()).map_err(|e| {
        Failure::Module(format!("the component exports `{HANDLER}`, but can't serve: {e:#}"))
    })?;
    let server = Arc::new(Server {
        spec: parts.spec.clone(),
        serving: serving.clone(),
        stores: parts.stores.clone(),
        artefact: parts.artefact.clone(),
        proxy,
        crew: parts.crews.0.clone(),
        memory: parts.crews.1.clone(),
        places: parts.crews.2.clone(),
        stdout: parts.stdout.clone(),
        stderr: parts.stderr.clone(),
        faults: parts.faults,
        served: served::Counters::default(),
        cancel: parts.cancel.clone(),
        requests: Mutex::default(),
    });
    parts.cancel.set_doing(Doing::Running);
    let cancelled = Arc::new(Notify::new());
    let interrupt = {
        let cancelled = cancelled.clone();
        // One who waits later finds it, too.
        move || cancelled.notify_one()
    };
    let ended =
        parts.cancel.interruptible(interrupt, || in_tokio(server.clone().accept(door, &cancelled)));
    match (ended, parts.cancel.reason()) {
        (Err(reason), _) | (_, Some(reason)) => Err(reason.into()),
        (Ok(Ok(())), None) => Err(Failure::Stopped),
        (Ok(Err(e)), None) => Err(Failure::Fault(format!("taking connections: {e}"))),
    }
}

impl Server {
    /// Takes connections and serves them.
    async fn accept(self: Arc<Server>, door: Door, cancelled: &Notify) -> io::Result<()> {
        let listener = TcpListener::from_std(door.listener)?;
        let (closing, closed) = watch::channel(false);
        let mut connections = JoinSet::new();
        let mut pulse = tokio::time::interval(PULSE);
        pulse.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut open = Some(listener);
        loop {
            tokio::select! {
                () = cancelled.notified() => break,
                _ = pulse.tick() => {
                    if self.look_after_requests() {
                        (door.stuck)();
                    }
                    (door.served)(&self.served.read());
                }
                Some(_) = connections.join_next() => {}
                accepted = accept(open.as_ref(), &self.places), if connections.len() < CONNECTIONS => match accepted {
                    Ok((stream, place)) => {
                        let serving = connection::serve(self.clone(), stream, closed.clone());
                        connections.spawn(async move {
                            serving.await;
                            drop(place);
                        });
                    }
                    Err(e) if is_shut(&e) => {
                        open = None;
                        closing.send_replace(true);
                    }
                    Err(e) => {
                        // Out of descriptors, most likely, and it passes; but the system
                        // says so at once as long as it does not.
                        debug!("a connection was not taken: {e}");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                },
                else => break,
            }
            if open.is_none() && connections.is_empty() && self.lock().running.is_empty() {
                break;
            }
        }
        drop(open);
        closing.send_replace(true);
        self.end_requests().await;
        connections.shutdown().await;
        (door.served)(&self.served.read());
        Ok(())
    }

    /// Whether a request was found to be stuck.
    fn look_after_requests(&self) -> bool {
        let mut found = false;
        for running in self.lock().running.values_mut() {
            if running.cancel.reason().is_none() {
                continue;
            }
            running.overdue += 1;
            if running.overdue == STUCK {
                let (task, doing) = (self.spec.id(), running.cancel.doing());
                warn!(%task, "a request does not end, while {doing}: its thread is left behind");
                self.crew.lose();
                found = true;
            }
        }
        found
    }

    /// Ends the requests that still run, and waits until they have ended, but
    /// not for long.
    async fn end_requests(&self) {
        let reason = self.cancel.reason().unwrap_or(Reason::Stopped);
        let running: Vec<_> =
            self.lock().running.values().map(|running| running.cancel.clone()).collect();
        for cancel in running {
            cancel.cancel(reason);
        }
        let all = async {
            while !self.lock().running.is_empty() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(LAST, all).await.ok();
    }

    /// A request begins: its number.
    fn list(&self, cancel: &Arc<Cancel>) -> u64 {
        let mut listed = self.lock();
        let number = listed.next;
        listed.next += 1;
        listed.running.insert(number, Running { cancel: cancel.clone(), overdue: 0 });
        self.served.in_flight(listed.running.len());
        number
    }

    fn delist(&self, number: u64) {
        let mut listed = self.lock();
        listed.running.remove(&number);
        self.served.in_flight(listed.running.len());
    }

    // Entries come and go whole.
    fn lock(&self) -> MutexGuard<'_, Listed> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The next connection, once there is a place for it; none comes where nothing is
/// listened to.
async fn accept(
    listener: Option<&TcpListener>,
    places: &Arc<Semaphore>,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let Some(listener) = listener else { return std::future::pending().await };
    let place = places.clone().acquire_owned().await.map_err(io::Error::other)?;
    listener.accept().await.map(|(stream, _)| (stream, place))
}

/// Whether this is what a listener gives that was shut down.
fn is_shut(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EINVAL)
}
