//! A stand-in for Propeller's manager: over HTTP and the broker it answers as
//! the real one was recorded (`fixtures/manager`, which `tests/it/manager.rs`
//! compares it with), and it has the habits of the real one as switches.
//!
//! ```text
//! Manager (a runtime, so that it can be killed) ─┬─ http: the API of tasks, jobs and workers
//!   Desk: what both sides share ── records ──────┴─ line: the connection to the broker
//! ```

#![allow(
    dead_code,
    unused_imports,
    reason = "part of two test programs, each of which needs some of it"
)]

mod client;
mod connection;
mod http;
mod records;
mod tasks;

pub use client::{Answer, Client};
pub use connection::Still;
use proplet::protocol::Topics;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::{Deref, Range};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tasks::Desk;
use tokio::runtime::Runtime;

/// How long a test waits for what must come: far more than it takes.
const PATIENCE: Duration = Duration::from_secs(90);

/// Where the manager keeps its tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// Forgets everything when it ends; refuses a second start.
    Memory,
    /// Takes any start, and renames a worker that introduces itself again.
    Badger,
    /// Refuses a second start.
    Sqlite,
}

/// What this manager does that a worker has to live with. By default it is the
/// one of Propeller's compose file.
#[derive(Clone, Debug)]
pub struct Habits {
    pub store: Store,
    /// Only after the start has been published is the task written as Running,
    /// the whole record as it was read before: after a time of this range.
    pub running_after: Range<Duration>,
    /// That write follows so many of the task's results, which it undoes.
    pub running_after_results: usize,
    /// Of an update (`PUT`), all is dropped but a few fields.
    pub update_drops: bool,
    /// It subscribes once, and never again after a reconnect.
    pub deaf_after_reconnect: bool,
    /// What a proxy in front of it asks for.
    pub token: Option<String>,
}

impl Default for Habits {
    fn default() -> Habits {
        Habits {
            store: Store::Badger,
            running_after: Duration::from_millis(1)..Duration::from_millis(5),
            running_after_results: 0,
            update_drops: true,
            deaf_after_reconnect: true,
            token: None,
        }
    }
}

/// A manager that runs, until it is killed or dropped.
pub struct Manager {
    habits: Habits,
    broker: SocketAddr,
    topics: Topics,
    /// For the tasks, unless it keeps them in memory.
    dir: tempfile::TempDir,
    client_id: String,
    address: SocketAddr,
    client: Client,
    running: Option<(Runtime, Arc<Desk>)>,
}

impl Manager {
    /// Starts it at this broker and waits until it listens to the workers.
    pub fn start(broker: SocketAddr, topics: &Topics, habits: Habits) -> Manager {
        let client = Client { url: String::new(), token: habits.token.clone() };
        let mut manager = Manager {
            habits,
            broker,
            topics: topics.clone(),
            dir: tempfile::tempdir().expect("a folder"),
            client_id: format!("manager-{}", uuid::Uuid::new_v4()),
            address: (Ipv4Addr::LOCALHOST, 0).into(),
            client,
            running: None,
        };
        manager.run();
        manager.listens();
        manager
    }

    /// Starts it again, at the same address, with what its store has kept.
    pub fn run(&mut self) {
        assert!(self.running.is_none(), "it runs already");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let desk = Arc::new(Desk::open(&self.habits, &self.topics, self.dir.path()));
        let listener = std::net::TcpListener::bind(self.address).expect("the port is free");
        self.address = listener.local_addr().expect("an address");
        self.client.url = format!("http://{}", self.address);
        runtime.spawn(http::serve(listener, desk.clone()));
        runtime.spawn(connection::listen(self.client_id.clone(), self.broker, desk.clone()));
        self.running = Some((runtime, desk));
    }

    /// Ends it as SIGKILL would: between two steps of what it does.
    pub fn kill(&mut self) {
        let (runtime, _) = self.running.take().expect("it runs");
        // Its threads end with the step that they are in, and write nothing later.
        runtime.shutdown_timeout(PATIENCE);
    }

    /// Waits until the broker has confirmed its subscription.
    pub fn listens(&self) {
        let end = Instant::now() + PATIENCE;
        while !self.desk().line.listens() {
            assert!(Instant::now() < end, "no broker at {}", self.broker);
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Stands still until the guard is dropped: it hears no worker, as when
    /// jobs whose tasks depend on each other end together.
    pub fn stand_still(&self) -> Still {
        self.desk().line.stand_still()
    }

    /// Starts this task each time that the interval has passed, as a schedule does.
    pub fn schedule(&self, id: &str, interval: Duration) {
        let (runtime, desk) = self.running.as_ref().expect("it runs");
        let (desk, id) = (desk.clone(), id.to_owned());
        runtime.spawn(async move {
            let mut due = tokio::time::interval(interval);
            loop {
                due.tick().await;
                // The next time, if it can't now.
                desk.start(&id).await.ok();
            }
        });
    }

    /// The requests so far, such as `GET /tasks/…`, since it was started.
    pub fn requests(&self) -> Vec<String> {
        self.desk().requests()
    }

    /// For `--manager-url`.
    pub fn url(&self) -> String {
        self.client.url.clone()
    }

    fn desk(&self) -> &Desk {
        &self.running.as_ref().expect("it runs").1
    }
}

/// Whoever has a manager can use it.
impl Deref for Manager {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        if let Some((runtime, _)) = self.running.take() {
            runtime.shutdown_background();
        }
    }
}
