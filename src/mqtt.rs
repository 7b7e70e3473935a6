//! The connection to the broker; no other module names rumqttc.
//!
//! One task owns the connection ([`connect`] starts it) and is spoken to
//! through [`Link`], which never waits: what is published goes to an outbox,
//! and stays there until the broker has acknowledged it, over as many
//! connections as that takes. Each connection is a fresh rumqttc client with
//! the same client id, because a client that has lost one forgets or stalls
//! (its queue is cleared without a session, a collision of packet ids
//! survives a reconnect).
//!
//! ```text
//!            publish ─▶ outbox ─▶ window ≤ 20 ─▶ rumqttc ─▶ broker
//! Link ──▶   announce ───────────────▲              │
//!            beat, once ── only now or never ───────┤
//!            ack ──▶ order of arrival ──▶ PUBACK ───┘
//! Events ◀── Connected · Message · Acknowledged · Disconnected
//! ```
//!
//! Nothing here waits on a channel. That of the events has no bound of its own,
//! and brokers send far ahead of the acknowledgements (100 messages in rumqttd;
//! of mosquitto, which says 20, over 500 were seen): the connection reads slower
//! while more bytes have come than are done with. See [`Ack`].

mod address;
mod arrivals;
mod backoff;
mod connection;
mod failure;
mod inbox;
mod memory;
mod network;
mod options;
mod outbox;
mod persistence;
mod session;
mod session_kind;
mod tls;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

pub use address::Address;
pub use backoff::Backoff;
pub use failure::{ConnectionFailure, FailureKind};
pub use inbox::{Ack, Receipt};
pub use memory::SessionMemory;
pub use network::{is_delayed, network_round_trip};
pub use options::{MqttLogin, Options, Qos, Tls};
pub use session_kind::{CleanSession, SessionKind};

/// The largest packet that MQTT can express: 256 MiB less a byte, and its header.
pub const LARGEST_PACKET: usize = 268_435_455 + 5;

/// What happens on the connection.
#[derive(Debug)]
pub enum Event {
    /// The broker has confirmed the connection and every subscription, or serves
    /// them already: it has sent a message.
    Connected {
        /// Whether the broker still knew this client.
        session_present: bool,
        /// What the broker does when this connection ends.
        session: SessionKind,
    },
    /// A message of one of the subscriptions.
    Message(Message),
    /// The broker is known to have the acknowledgements of this connection's
    /// messages up to and including this one: it has answered something that
    /// was written after them.
    Acknowledged(Receipt),
    /// There is no connection; another attempt follows by itself.
    Disconnected {
        /// What was tried, what happened, what to do.
        failure: ConnectionFailure,
        /// When the next attempt is.
        retry_in: Duration,
    },
}

/// A message of one of the subscriptions.
#[derive(Debug)]
pub struct Message {
    /// Its topic.
    pub topic: String,
    /// Its content, shared with the buffer that it was read into.
    pub payload: Bytes,
    /// The broker says that it has sent this before. It may also send again
    /// without saying so.
    pub duplicate: bool,
    /// The broker keeps it for whoever subscribes, and sends it again after
    /// each subscription. One that comes while subscribed is not marked.
    pub retained: bool,
    /// To be handed to [`Link::ack`] once the message is safe. Until then the
    /// broker keeps it, and the acknowledgements of later ones wait.
    pub ack: Ack,
}

/// Why a message did not reach the broker.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// Larger than [`Options::max_packet_size`].
    #[error(
        "a message to `{topic}` would be an MQTT packet of {size} bytes, more than the limit of {limit}; \
         raise PROPLET_MQTT_MAX_PACKET_SIZE, here and at the receivers, or send less"
    )]
    TooLarge {
        /// Its topic.
        topic: String,
        /// The packet's size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The broker ended the connection each time it was sent.
    #[error(
        "the broker closed the connection {attempts} times while it received a message of {size} bytes \
         to `{topic}`, so the message is given up; the broker's packet limit may be smaller than that"
    )]
    Rejected {
        /// Its topic.
        topic: String,
        /// The packet's size in bytes.
        size: usize,
        /// How often it was sent.
        attempts: u32,
    },
    /// Not a topic that one can publish to.
    #[error(
        "`{0}` is not a topic that one can publish to: it is empty, too long or has a wildcard"
    )]
    Topic(String),
    /// What was meant for one connection, and that ended first.
    #[error("the connection ended before the broker acknowledged the message")]
    Disconnected,
    /// The link was closed first.
    #[error("the link was closed before the broker acknowledged the message")]
    Closed,
}

/// Resolves when the broker has acknowledged a message (with QoS 0: when it
/// has been written). Dropping it changes nothing.
#[derive(Debug)]
pub struct Delivery(oneshot::Receiver<Result<(), PublishError>>);

impl Future for Delivery {
    type Output = Result<(), PublishError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0)
            .poll(context)
            .map(|delivered| delivered.unwrap_or(Err(PublishError::Closed)))
    }
}

/// What [`Link::disconnect`] could not deliver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} messages were not acknowledged by the broker before the deadline")]
pub struct Undelivered(pub usize);

/// A handle of the connection; clones share it. When the last one is dropped
/// the connection ends, and what is in the outbox with it.
#[derive(Clone, Debug)]
pub struct Link {
    commands: mpsc::UnboundedSender<Command>,
    max_packet_size: usize,
}

impl Link {
    /// Sends a message, now or when there is a connection, until the broker
    /// has acknowledged it; in the order of the calls.
    pub fn publish(&self, topic: &str, payload: impl Into<Bytes>) -> Delivery {
        self.send(topic, payload.into(), Command::Publish)
    }

    /// Sends a message ahead of the outbox, on this connection or never: for
    /// what each connection begins with.
    pub fn announce(&self, topic: &str, payload: impl Into<Bytes>) -> Delivery {
        self.send(topic, payload.into(), Command::Announce)
    }

    /// Sends a message once, with QoS 0, behind the outbox, on this connection
    /// or never: for what the broker has had before.
    pub fn once(&self, topic: &str, payload: impl Into<Bytes>) -> Delivery {
        self.send(topic, payload.into(), Command::Once)
    }

    fn send(
        &self,
        topic: &str,
        payload: Bytes,
        command: fn(PublishRequest) -> Command,
    ) -> Delivery {
        let (done, delivery) = oneshot::channel();
        let outgoing = PublishRequest { topic: topic.to_owned(), payload, done };
        if let Err(error) = outgoing.check(self.max_packet_size) {
            outgoing.resolve(Err(error));
        } else if let Err(mpsc::error::SendError(
            Command::Publish(outgoing) | Command::Announce(outgoing) | Command::Once(outgoing),
        )) = self.commands.send(command(outgoing))
        {
            outgoing.resolve(Err(PublishError::Closed));
        }
        Delivery(delivery)
    }

    /// Sends a message with QoS 0 if there is a connection with nothing stuck
    /// in it, else drops it: for heartbeats, of which only the latest counts.
    pub fn beat(&self, topic: &str, payload: impl Into<Bytes>) {
        // A connection that has ended needs no heartbeat.
        self.commands.send(Command::Beat(topic.to_owned(), payload.into())).ok();
    }

    /// Acknowledges a message. The broker hears of it in the order in which
    /// the messages came, whatever the order of these calls; of a message of
    /// an earlier connection it hears nothing, and sends it again.
    pub fn ack(&self, ack: Ack) {
        // Without a connection there is no one to tell.
        self.commands.send(Command::Ack(ack)).ok();
    }

    /// The next connection is made with these; one that failed is tried again at
    /// once.
    pub fn renew(&self, renewal: Renewal) {
        // A connection that has ended is not made again.
        self.commands.send(Command::Renew(Box::new(renewal))).ok();
    }

    /// Delivers what is in the outbox, then takes leave of the broker, both
    /// within the deadline. Nothing can be published after this call.
    pub async fn disconnect(self, deadline: Duration) -> Result<(), Undelivered> {
        let (done, closed) = oneshot::channel();
        let deadline = tokio::time::Instant::now() + deadline;
        if self.commands.send(Command::Close { deadline, done }).is_err() {
            return Ok(());
        }
        match closed.await {
            Ok(0) | Err(_) => Ok(()),
            Ok(undelivered) => Err(Undelivered(undelivered)),
        }
    }
}

/// What a client says of itself, which may change while it runs.
pub struct Renewal {
    login: Option<MqttLogin>,
    transport: rumqttc::Transport,
}

impl fmt::Debug for Renewal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Renewal").field("login", &self.login).finish_non_exhaustive()
    }
}

impl Renewal {
    /// Reads the files with certificates.
    ///
    /// # Errors
    ///
    /// One that can't be read.
    pub fn new(options: &Options) -> anyhow::Result<Renewal> {
        let transport = tls::transport(options.tls.as_ref())?;
        Ok(Renewal { login: options.login.clone(), transport })
    }
}

/// The receiving end of a connection.
#[derive(Debug)]
pub struct Events(mpsc::UnboundedReceiver<Event>);

impl Events {
    /// The next event; `None` once the connection has been closed for good.
    /// Cancelling the wait loses nothing.
    pub async fn next(&mut self) -> Option<Event> {
        self.0.recv().await
    }
}

/// Starts a connection, on the current Tokio runtime. It lasts until
/// [`Link::disconnect`], through any number of failures.
///
/// An error is one of the settings: a certificate that can't be read, a client
/// id that no broker would take.
pub fn connect(options: Options) -> anyhow::Result<(Link, Events)> {
    anyhow::ensure!(!options.client_id.is_empty(), "the MQTT client id is empty");
    let transport = tls::transport(options.tls.as_ref())?;
    let (command_tx, command_rx) = mpsc::unbounded_channel();
    let (event_tx, event_rx) = mpsc::unbounded_channel();
    let max_packet_size = options.max_packet_size.min(LARGEST_PACKET);
    tokio::spawn(connection::ConnectionLoop::new(options, transport, command_rx, event_tx).run());
    Ok((Link { commands: command_tx, max_packet_size }, Events(event_rx)))
}

/// What a [`Link`] asks of the task that owns the connection.
#[derive(Debug)]
enum Command {
    Publish(PublishRequest),
    Announce(PublishRequest),
    Once(PublishRequest),
    Beat(String, Bytes),
    Ack(Ack),
    Renew(Box<Renewal>),
    Close { deadline: tokio::time::Instant, done: oneshot::Sender<usize> },
}

/// A message on its way out.
#[derive(Debug)]
struct PublishRequest {
    topic: String,
    payload: Bytes,
    done: oneshot::Sender<Result<(), PublishError>>,
}

impl PublishRequest {
    /// Proves what would otherwise end the connection, again and again.
    fn check(&self, limit: usize) -> Result<(), PublishError> {
        if self.topic.is_empty()
            || self.topic.len() > usize::from(u16::MAX)
            || self.topic.contains(['+', '#', '\0'])
        {
            return Err(PublishError::Topic(self.topic.clone()));
        }
        let size = self.packet_size();
        if size > limit {
            return Err(PublishError::TooLarge { topic: self.topic.clone(), size, limit });
        }
        Ok(())
    }

    /// Of the packet as QoS 1 sends it (MQTT 3.1.1, sections 2.2.3 and 3.3).
    fn packet_size(&self) -> usize {
        let remaining = 2 + self.topic.len() + 2 + self.payload.len();
        let length_bytes = match remaining {
            0..=127 => 1,
            128..=16_383 => 2,
            16_384..=2_097_151 => 3,
            _ => 4,
        };
        1 + length_bytes + remaining
    }

    fn resolve(self, result: Result<(), PublishError>) {
        // Whoever dropped the delivery does not want to know.
        self.done.send(result).ok();
    }
}

#[cfg(test)]
mod tests;
