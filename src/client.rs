//! A client that stands where the manager does: it publishes tasks and hands
//! back their results. For `submit`, `demo` and the tests.
//!
//! One background task takes the connection's events: a result goes to whoever
//! waits for that task's id, and of every worker it remembers when it was last
//! heard, so that silence can be explained. Results that nobody waits for, as
//! the later ones of a task that several workers ran, are dropped.

use crate::config::{Connection, Credentials};
use crate::mqtt::{self, ConnectionFailure, Event, Events, Link, PublishError};
use crate::protocol::{self, TaskResult, Topics};
use crate::task::{TaskId, TaskRequest, humantime};
use anyhow::{Context as _, anyhow};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

/// Workers beat every 5 to 10 s, so after this long a live one was heard.
pub const HEARTBEAT_PATIENCE: Duration = Duration::from_secs(12);

/// A connection to the channel. Dropping it ends the connection.
#[derive(Debug)]
pub struct Client {
    link: Link,
    topics: Topics,
    /// The channel, for messages.
    place: String,
    shared: Arc<ChannelState>,
    listener: JoinHandle<()>,
}

/// Why a task has no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoResult {
    /// The task could not be published.
    #[error("the task could not be sent: {0}")]
    Unsent(PublishError),
    /// The broker does not take a message of this size.
    #[error(
        "the task could not be sent: {0}; let the workers fetch its module instead: `--image-url` \
         of `proplet submit`, `image_url` of the manager's tasks"
    )]
    Refused(PublishError),
    /// The time passed; what is known of the reason.
    #[error("{0}")]
    Silence(String),
}

impl From<PublishError> for NoResult {
    fn from(error: PublishError) -> NoResult {
        match error {
            PublishError::Rejected { .. } => NoResult::Refused(error),
            error => NoResult::Unsent(error),
        }
    }
}

/// What the listener and the callers share.
#[derive(Debug)]
struct ChannelState {
    seen: watch::Sender<Seen>,
    waiting: Mutex<HashMap<TaskId, PendingResult>>,
}

/// What was seen of the channel so far.
#[derive(Debug, Default)]
struct Seen {
    connected: bool,
    /// Why there is no connection, once one failed.
    failure: Option<ConnectionFailure>,
    losses: u32,
    /// Workers by client id, and when each was last heard.
    workers: BTreeMap<String, Instant>,
    /// Those whose introduction was the first that was heard of them: what was
    /// published before has not reached them.
    late: BTreeSet<String>,
}

#[derive(Debug)]
struct PendingResult {
    to: Option<String>,
    answer: oneshot::Sender<TaskResult>,
}

impl Client {
    /// Connects, and is ready once the broker has confirmed every subscription.
    /// `client_id` must be this client's own: the broker ends the connection of
    /// whoever had the same one.
    ///
    /// # Errors
    ///
    /// The first failure to connect is final, and its
    /// [`mqtt::ConnectionFailure`] can be downcast; so is a setting that can't work.
    pub async fn connect(
        connection: &Connection,
        credentials: &Credentials,
        client_id: &str,
    ) -> anyhow::Result<Client> {
        let Credentials { domain, channel, .. } = credentials;
        let topics = Topics::new(domain, channel);
        let mut options = connection.options(client_id, credentials);
        options.subscriptions = vec![topics.results(), topics.create(), topics.alive()];
        let place = format!("channel {channel} of domain {domain} at {}", options.address);
        let (link, events) = mqtt::connect(options)?;
        let (seen, _) = watch::channel(Seen::default());
        let shared = Arc::new(ChannelState { seen, waiting: Mutex::default() });
        let listener =
            tokio::spawn(listen(events, link.clone(), topics.clone(), Arc::clone(&shared)));
        let client = Client { link, topics, place, shared, listener };
        client.connected().await?;
        Ok(client)
    }

    async fn connected(&self) -> anyhow::Result<()> {
        let mut seen = self.shared.seen.subscribe();
        let first = seen
            .wait_for(|seen| seen.connected || seen.failure.is_some())
            .await
            .map_err(|_| anyhow!("the connection was closed"))?;
        match &first.failure {
            Some(failure) if !first.connected => Err(failure.clone().into()),
            _ => Ok(()),
        }
    }

    /// Where this client is: channel, domain and broker, for messages.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Whether this worker was heard since the connection was made; without a
    /// name, whether any was.
    pub fn has_heard(&self, worker: Option<&str>) -> bool {
        self.shared.seen.borrow().has_heard(worker)
    }

    /// Waits until this worker is heard: it can take tasks then.
    ///
    /// # Errors
    ///
    /// One sentence, if it is not heard within `deadline`.
    pub async fn hear(&self, worker: &str, deadline: Duration) -> anyhow::Result<()> {
        let mut seen = self.shared.seen.subscribe();
        let heard = seen.wait_for(|seen| seen.has_heard(Some(worker)));
        match tokio::time::timeout(deadline, heard).await {
            Ok(heard) => heard.map(drop).context("the connection was closed"),
            Err(_) => Err(anyhow!(
                "worker {worker} was not heard on {} within {}",
                self.place,
                humantime(deadline)
            )),
        }
    }

    /// Publishes a task, to one worker or to all of the channel, and once more when
    /// a worker comes later; waits for its first result. When the time is over the
    /// task is stopped; dropping the future leaves it alone.
    ///
    /// Each task needs an id of its own: of two that wait under the same one
    /// the earlier is forgotten.
    ///
    /// # Errors
    ///
    /// [`NoResult`]; a task that failed has a result.
    pub async fn submit(
        &self,
        task: &TaskRequest,
        to: Option<&str>,
        within: Duration,
    ) -> Result<TaskResult, NoResult> {
        let (sender, mut answer) = oneshot::channel();
        let entry = PendingResult { to: to.map(str::to_owned), answer: sender };
        self.shared.waiting().insert(task.id.clone(), entry);
        let _registered = Registered { shared: &self.shared, id: &task.id };
        let start = protocol::encode_start(task, to);
        let publish = || self.link.publish(&self.topics.start(), start.clone());
        let mut seen = self.shared.seen.subscribe();
        let mut late = seen.borrow_and_update().late(to);
        let mut delivery = publish();
        let mut delivered = false;
        let mut over = pin!(tokio::time::sleep(within));
        loop {
            tokio::select! {
                biased;
                Ok(result) = &mut answer => return Ok(result),
                done = &mut delivery, if !delivered => {
                    done?;
                    delivered = true;
                }
                Ok(()) = seen.changed() => {
                    let now = seen.borrow_and_update().late(to);
                    // Whoever has the task already passes over it.
                    if now > late {
                        (late, delivered) = (now, false);
                        delivery = publish();
                    }
                }
                () = &mut over => {
                    self.stop(&task.id, to);
                    return Err(NoResult::Silence(self.silence(to, within, delivered)));
                }
            }
        }
    }

    /// Ends a task, wherever it is.
    pub fn stop(&self, id: &TaskId, to: Option<&str>) {
        // Whether it arrives can be seen of the task alone.
        drop(self.link.publish(&self.topics.stop(), protocol::encode_stop(id, to)));
    }

    /// Ends every task that somebody waits for.
    pub fn stop_all(&self) {
        for (id, waiting) in self.shared.waiting().iter() {
            self.stop(id, waiting.to.as_deref());
        }
    }

    /// Sends what is to be sent, and takes leave of the broker.
    pub async fn close(&self, deadline: Duration) {
        // Whoever closes has all results that were wanted.
        self.link.clone().disconnect(deadline).await.ok();
    }

    /// What is known of a task that was not answered.
    fn silence(&self, to: Option<&str>, within: Duration, delivered: bool) -> String {
        let seen = self.shared.seen.borrow();
        let (place, waited) = (&self.place, humantime(within));
        let text = if let Some(failure) = seen.failure.as_ref().filter(|_| !seen.connected) {
            format!("there was no result within {waited}, and the connection is lost: {failure}")
        } else if !delivered {
            format!(
                "the broker did not acknowledge the task within {waited}: it or the network is \
                 slow; a longer --timeout waits for it"
            )
        } else if seen.has_heard(to) {
            let who = match to {
                Some(worker) => format!("worker {worker} is alive"),
                None => format!("alive: {}", seen.names()),
            };
            format!(
                "there was no result within {waited}, on {place} ({who}); the task was stopped: it \
                 was still queued or running, or the worker's log says why it took none; a longer \
                 --timeout waits for it"
            )
        } else {
            let who = match to {
                Some(worker) if seen.workers.is_empty() => {
                    format!("worker {worker} is not alive on {place}: none was heard")
                }
                Some(worker) => format!(
                    "worker {worker} is not alive on {place}: it was not heard, unlike {}",
                    seen.names()
                ),
                None => format!("no worker is alive on {place}: none was heard"),
            };
            let short = if within < HEARTBEAT_PATIENCE {
                " (they are heard every 5 to 10 s, so a longer --timeout tells more)"
            } else {
                ""
            };
            format!(
                "{who} within {waited}{short}; is `proplet worker` running, with the same \
                 PROPLET_DOMAIN_ID and PROPLET_CHANNEL_ID, at the same broker?"
            )
        };
        match seen.losses {
            0 => text,
            n => format!("{text} (the connection was lost {n}×; a result may have been missed)"),
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // It holds the link, which would keep the connection.
        self.listener.abort();
    }
}

impl Seen {
    fn has_heard(&self, worker: Option<&str>) -> bool {
        match worker {
            Some(worker) => self.workers.contains_key(worker),
            None => !self.workers.is_empty(),
        }
    }

    /// How many came late of those that a task is for.
    fn late(&self, to: Option<&str>) -> usize {
        self.late.iter().filter(|worker| to.is_none_or(|to| to == *worker)).count()
    }

    fn names(&self) -> String {
        let name = |(name, last): (&String, &Instant)| match last.elapsed() {
            silent if silent > HEARTBEAT_PATIENCE => {
                format!("{name} (last heard {} s ago)", silent.as_secs())
            }
            _ => name.clone(),
        };
        self.workers.iter().map(name).collect::<Vec<_>>().join(", ")
    }
}

impl ChannelState {
    fn waiting(&self) -> MutexGuard<'_, HashMap<TaskId, PendingResult>> {
        // The map is whole between any two of its methods.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn heard(&self, worker: String, introduction: bool) {
        if worker.is_empty() {
            return;
        }
        self.seen.send_modify(|seen| {
            if introduction && !seen.workers.contains_key(&worker) {
                seen.late.insert(worker.clone());
            }
            seen.workers.insert(worker, Instant::now());
        });
    }

    fn on_message(&self, topics: &Topics, topic: &str, payload: &[u8]) {
        if topic != topics.results() {
            return match protocol::decode_sender(payload) {
                Some(worker) => self.heard(worker, topic == topics.create()),
                None => tracing::debug!(topic, "a message that names no worker"),
            };
        }
        let result = match TaskResult::decode(payload) {
            Ok(result) => result,
            Err(error) => return tracing::warn!("a result could not be read: {error}"),
        };
        self.heard(result.proplet_id.clone(), false);
        let waiting = TaskId::new(&result.task_id).ok().and_then(|id| self.waiting().remove(&id));
        if let Some(PendingResult { answer, .. }) = waiting {
            // Who gave up does not want it.
            answer.send(result).ok();
        }
    }
}

/// Forgets who waited, when it ends waiting.
struct Registered<'a> {
    shared: &'a ChannelState,
    id: &'a TaskId,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.shared.waiting().remove(self.id);
    }
}

async fn listen(mut events: Events, link: Link, topics: Topics, shared: Arc<ChannelState>) {
    while let Some(event) = events.next().await {
        match event {
            Event::Connected { .. } => shared.seen.send_modify(|seen| seen.connected = true),
            Event::Disconnected { failure, .. } => shared.seen.send_modify(|seen| {
                seen.losses += u32::from(seen.connected);
                seen.connected = false;
                seen.failure = Some(failure);
            }),
            Event::Message(message) => {
                shared.on_message(&topics, &message.topic, &message.payload);
                link.ack(message.ack);
            }
            Event::Acknowledged(_) => {}
        }
    }
}

#[cfg(all(test, feature = "broker"))]
mod tests;
