//! HTTP servers: their listeners, which the worker holds, so that a port stays
//! open whatever becomes of the process that serves, and their end in order.
//!
//! ```text
//! an executor finds that a task is one ─▶ opened ─▶ serving ◀─▶ waits to be started again
//!                                                     │ stop, or the worker ends
//!                                                     ▼
//!                                                  closing: no connection more, requests end
//! ```

use super::Worker;
use crate::cancel::Reason;
use crate::executor::{RunTask, Submission, TaskEnd, Turn, TurnEnd};
use crate::journal::Run;
use crate::ledger::LedgerEvent;
use crate::queue::Admission;
use crate::runtime::{Door, Served};
use crate::task::{Bind, Failure, Life, Outcome, Rejection, TaskId, TaskSpec};
use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tracing::{info, warn};

/// Ports that are tried from the first one on.
const PORTS: u16 = 100;
/// How long a port may be taken that a server had before: the process that had
/// it may still be ending.
const TAKEN: Duration = Duration::from_secs(10);
/// Time between two attempts.
const RETRY: Duration = Duration::from_millis(100);

/// See the module's documentation. Clones share them.
#[derive(Clone, Default)]
pub(super) struct Servers(Arc<Mutex<HashMap<TaskId, ServerTask>>>);

/// A task that is a server.
#[derive(Default)]
struct ServerTask {
    /// What was found to be one, until the loop has it.
    found: Option<TaskSpec>,
    listener: Option<Arc<TcpListener>>,
    /// Where it listens, or is to listen again.
    port: Option<u16>,
    /// A runtime has its listener.
    serving: bool,
    /// It is to end, by then and for this reason.
    closing: Option<(Instant, Reason)>,
    /// What it has served, in earlier processes of the runtime and in this one.
    served: (Served, Served),
}

impl Servers {
    /// How a task is run, which may turn out to be a server, or be known as one.
    pub(super) fn known(&self, run: Box<RunTask>) -> Box<RunTask> {
        let servers = self.clone();
        Box::new(move |turn| {
            let ran = run(turn);
            let id = turn.spec.id();
            if turn.spec.life() == Life::Server {
                return servers.judge(id, ran);
            }
            if let Ok(Outcome { verdict: Err(Failure::Serves), .. }) = &ran.end {
                let found = Some(turn.spec.serving());
                servers.lock().insert(id.clone(), ServerTask { found, ..ServerTask::default() });
            }
            ran
        })
    }

    /// The end of a server that was closed is why it was closed.
    fn judge(&self, id: &TaskId, mut ran: TurnEnd) -> TurnEnd {
        let mut servers = self.lock();
        let Some(server) = servers.get_mut(id) else { return ran };
        server.serving = false;
        server.served.0.add(&std::mem::take(&mut server.served.1));
        if let (Some((_, reason)), Ok(outcome)) = (server.closing, &mut ran.end)
            && outcome.verdict == Err(Failure::Stopped)
        {
            outcome.verdict = Err(reason.into());
        }
        ran
    }

    /// Has a server that was found listen. Gives the port.
    ///
    /// # Errors
    ///
    /// It can't listen there.
    fn open(&self, id: &TaskId) -> Result<u16, Failure> {
        let mut servers = self.lock();
        let lost = || Failure::Internal("an HTTP server was found, and is gone".into());
        let server = servers.get_mut(id).ok_or_else(lost)?;
        let found = server.found.as_ref().ok_or_else(lost)?;
        let bind = found.grant().serving.as_ref().ok_or_else(lost)?.bind;
        let listener = listen(bind).map_err(Failure::Port)?;
        let port = listener.local_addr().map_err(|e| Failure::Port(e.to_string()))?.port();
        (server.listener, server.port) = (Some(Arc::new(listener)), Some(port));
        Ok(port)
    }

    /// What is to be run of a server that listens.
    fn take(&self, id: &TaskId) -> Option<TaskSpec> {
        self.lock().get_mut(id)?.found.take()
    }

    /// A server of an earlier process is to listen at its port again.
    pub(super) fn again(&self, id: &TaskId, port: u16) {
        self.lock().insert(id.clone(), ServerTask { port: Some(port), ..ServerTask::default() });
    }

    /// What is run of a task: a server, if it is one.
    pub(super) fn as_known(&self, spec: TaskSpec) -> TaskSpec {
        if self.lock().contains_key(spec.id()) { spec.serving() } else { spec }
    }

    /// The door of a server that is about to serve; none for another task. Waits
    /// for a port that it had before.
    pub(super) fn door(&self, turn: &Turn<'_>) -> Result<Option<Door>, Failure> {
        let (spec, cancel) = (turn.spec, turn.cancel);
        if spec.life() != Life::Server {
            return Ok(None);
        }
        let until = Instant::now() + TAKEN;
        let listener = loop {
            match self.listener(spec) {
                Ok(listener) => break listener,
                Err(Failure::Port(why)) if Instant::now() >= until => {
                    return Err(Failure::Port(why));
                }
                Err(Failure::Port(_)) => cancel.wait_until(Instant::now() + RETRY)?,
                Err(failure) => return Err(failure),
            }
        };
        let listener = listener.try_clone();
        let listener = listener.map_err(|e| Failure::Port(format!("a listener's copy: {e}")))?;
        let (servers, of) = (self.clone(), spec.id().clone());
        let served = Box::new(move |served: &Served| {
            if let Some(server) = servers.lock().get_mut(&of) {
                server.served.1 = served.clone();
            }
        });
        // The log has it, and here there is no other process to go to.
        Ok(Some(Door { listener, served, stuck: Box::new(|| {}) }))
    }

    fn listener(&self, spec: &TaskSpec) -> Result<Arc<TcpListener>, Failure> {
        let mut servers = self.lock();
        let server = servers.entry(spec.id().clone()).or_default();
        if let Some((_, reason)) = server.closing {
            return Err(reason.into());
        }
        if server.listener.is_none()
            && let Some(serving) = &spec.grant().serving
        {
            let bind = match (server.port, serving.bind) {
                (Some(port), Bind::Exactly(address) | Bind::From(address)) => {
                    Bind::Exactly(SocketAddr::new(address.ip(), port))
                }
                (None, bind) => bind,
            };
            server.listener = Some(Arc::new(listen(bind).map_err(Failure::Port)?));
        }
        server.serving = true;
        let none = || Failure::Module("HTTP servers are switched off: PROPLET_HTTP_ENABLED".into());
        server.listener.clone().ok_or_else(none)
    }

    /// Lets a server take no connection more, and end with its last request or
    /// after `within`. Whether it will, so that nobody has to stop it at once.
    pub(super) fn close(&self, id: &TaskId, within: Duration, reason: Reason) -> bool {
        let mut servers = self.lock();
        let Some(server) = servers.get_mut(id) else { return false };
        if server.closing.is_none() {
            server.closing = Some((Instant::now() + within, reason));
        }
        let Some(listener) = server.listener.take() else { return false };
        server.serving && shut(&listener)
    }

    /// The servers.
    fn ids(&self) -> Vec<TaskId> {
        self.lock().keys().cloned().collect()
    }

    /// Those whose time to end in order is over.
    fn overdue(&self) -> Vec<TaskId> {
        let now = Instant::now();
        let servers = self.lock();
        let over = |server: &ServerTask| server.closing.is_some_and(|(until, _)| until <= now);
        servers.iter().filter(|(_, server)| over(server)).map(|(id, _)| id.clone()).collect()
    }

    fn forget(&self, id: &TaskId) {
        self.lock().remove(id);
    }

    /// What each has served.
    pub(super) fn served(&self) -> Vec<(TaskId, Served)> {
        let servers = self.lock();
        let all = servers.iter().map(|(id, server)| {
            let mut sum = server.served.0.clone();
            sum.add(&server.served.1);
            sum.in_flight = server.served.1.in_flight;
            (id.clone(), sum)
        });
        all.collect()
    }

    // Each change is one step.
    fn lock(&self) -> MutexGuard<'_, HashMap<TaskId, ServerTask>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A listener there, which does not block.
///
/// # Errors
///
/// A sentence that says why there is none, and what to do.
pub(crate) fn listen(bind: Bind) -> Result<TcpListener, String> {
    let at = |address: SocketAddr| {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok::<_, io::Error>(listener)
    };
    match bind {
        Bind::Exactly(address) => at(address).map_err(|e| {
            format!(
                "an HTTP server can't listen on {address}: {e}; give it another --port or --addr"
            )
        }),
        Bind::From(first) => {
            let last = first.port().saturating_add(PORTS - 1);
            let mut why = None;
            for port in first.port()..=last {
                match at(SocketAddr::new(first.ip(), port)) {
                    Ok(listener) => return Ok(listener),
                    Err(e) => why = Some(e),
                }
            }
            let why = why.map(|e| e.to_string()).unwrap_or_default();
            Err(format!(
                "an HTTP server can't listen on any port of {} from {} to {last}: {why}; set \
                 PROPLET_HTTP_PROXY_PORT to another one, or give the task a --port",
                first.ip(),
                first.port()
            ))
        }
    }
}

/// Has whoever serves there take no connection more. Not where the system can't
/// do that for a listener.
fn shut(listener: &TcpListener) -> bool {
    #[cfg(target_os = "linux")]
    return rustix::net::shutdown(listener, rustix::net::Shutdown::Both)
        .inspect_err(|e| warn!("a server's port could not be closed: {e}"))
        .is_ok();
    #[cfg(not(target_os = "linux"))]
    {
        let _ = listener;
        false
    }
}

impl Worker {
    /// A task that an executor has run is a server: it listens from now on, or
    /// fails. Gives back what has ended otherwise.
    pub(super) fn serve_if_server(&mut self, ended: TaskEnd) -> Option<TaskEnd> {
        if ended.outcome.verdict != Err(Failure::Serves) {
            self.servers.forget(&ended.id);
            return Some(ended);
        }
        let id = ended.id.clone();
        let failed = |failure| {
            let outcome = Outcome { verdict: Err(failure), ..ended.outcome.clone() };
            Some(TaskEnd { outcome, ..ended })
        };
        let (waiting, running) = self.daemons.pool.load();
        let (running, limit) = (waiting + running, self.daemons.limit);
        if running >= limit {
            self.servers.forget(&id);
            return failed(Failure::Port(Rejection::Daemons { running, limit }.to_string()));
        }
        match self.servers.open(&id) {
            Ok(port) => {
                info!(task = %id, port, "the task is an HTTP server, and listens");
                self.on(LedgerEvent::Serves { id, port });
                None
            }
            Err(failure) => {
                self.servers.forget(&id);
                failed(failure)
            }
        }
    }

    /// Has a server that listens served.
    pub(super) fn submit_server(&self, run: Run, id: &TaskId) -> Result<(), Rejection> {
        let Some(spec) = self.servers.take(id) else {
            return Err(Rejection::Unsupported("the HTTP server is gone".into()));
        };
        self.daemons.pool.submit(Submission::whole(run, spec), Admission::Again)
    }

    /// Whether this is a server that ends in order now.
    pub(super) fn close_server(&self, id: &TaskId) -> bool {
        self.servers.close(id, self.drain_timeout, Reason::Stopped)
    }

    /// Lets all servers end in order. Gives those that do.
    pub(super) fn close_servers(&self) -> Vec<TaskId> {
        let mut ids = self.servers.ids();
        ids.retain(|id| self.servers.close(id, self.drain_timeout, Reason::ShuttingDown));
        ids
    }

    /// Ends the servers whose time to end in order is over.
    pub(super) fn end_overdue_servers(&self) {
        for id in self.servers.overdue() {
            self.daemons.pool.stop(&id);
        }
    }
}
