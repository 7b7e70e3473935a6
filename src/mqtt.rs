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
//!            beat ── only now or never ─────────────┤
//!            ack ──▶ order of arrival ──▶ PUBACK ───┘
//! Events ◀── Connected · Message · Disconnected
//! ```
//!
//! Nothing here waits on a channel. That of the events has no bound of its own:
//! the broker sends only so many messages ahead of their acknowledgement (20 in
//! mosquitto, 100 in rumqttd), and whoever takes the events acknowledges.

mod connection;
mod failure;
mod outbox;
mod tls;

use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

pub use failure::{Failure, FailureKind};
pub use outbox::Ack;

/// The largest packet that MQTT can express: 256 MiB less a byte, and its header.
pub const LARGEST_PACKET: usize = 268_435_455 + 5;

/// Where a broker is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// A name, or an IP address without brackets.
    pub host: String,
    /// The TCP port: 1883 by convention, 8883 with TLS.
    pub port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Quality of service. There is no "exactly once": rumqttc can't resume it,
/// and a task's id removes duplicates anyway.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Qos {
    /// QoS 0: what is lost with a connection is lost.
    AtMostOnce,
    /// QoS 1.
    #[default]
    AtLeastOnce,
}

/// TLS settings; all of them optional.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// A PEM file with the certificates to trust in place of the system's.
    pub ca: Option<PathBuf>,
    /// PEM files with this client's certificate chain and its private key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// Username and password.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// For Propeller: the client id once more.
    pub username: String,
    /// For Propeller: the client key. It never reaches a log or an error.
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

/// How long to wait before the next attempt: a random part of a ceiling that
/// doubles with each failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The first ceiling.
    pub first: Duration,
    /// The last ceiling.
    pub cap: Duration,
    /// A connection that lasted this long makes the next failure the first.
    pub stable: Duration,
}

impl Default for Backoff {
    fn default() -> Backoff {
        Backoff {
            first: Duration::from_secs(1),
            cap: Duration::from_secs(60),
            stable: Duration::from_secs(30),
        }
    }
}

/// All that a connection needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The broker.
    pub address: Address,
    /// TLS, or plain TCP.
    pub tls: Option<Tls>,
    /// This client's name at the broker, which drops an older connection of
    /// the same name.
    pub client_id: String,
    /// Who this is.
    pub credentials: Option<Credentials>,
    /// What to subscribe to, on every connection.
    pub subscriptions: Vec<String>,
    /// For the subscriptions and for all that is published, heartbeats apart.
    pub qos: Qos,
    /// Whether the broker forgets this client when the connection ends.
    pub clean_session: bool,
    /// An idle connection is tested this often; a dead one is noticed within
    /// twice this. From 1 s to 65,535 s. A test whose answer waits behind a
    /// large message that takes longer than this looks like a dead connection.
    pub keep_alive: Duration,
    /// For TCP, TLS and MQTT's own handshake together, and again for the
    /// subscriptions.
    pub connect_timeout: Duration,
    /// For handing one packet to the network. Doubled after a connection that
    /// failed of it, so that a slow line is slow and not a loop.
    pub write_timeout: Duration,
    /// The largest packet to send, in bytes. What is received may be as large
    /// as MQTT allows: a client that refuses a packet has to end the
    /// connection, and a broker that remembers the session would send the same
    /// one again, for ever. The receiver of the message refuses it instead,
    /// with an answer.
    pub max_packet_size: usize,
    /// The time between attempts.
    pub backoff: Backoff,
}

impl Options {
    /// Plain TCP without credentials, QoS 1, a clean session, 30 s of
    /// keep-alive and time to connect, packets of at most 144 MiB.
    pub fn new(address: Address, client_id: &str) -> Options {
        Options {
            address,
            tls: None,
            client_id: client_id.to_owned(),
            credentials: None,
            subscriptions: Vec::new(),
            qos: Qos::AtLeastOnce,
            clean_session: true,
            keep_alive: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(60),
            max_packet_size: 144 << 20,
            backoff: Backoff::default(),
        }
    }
}

/// What happens on the connection.
#[derive(Debug)]
pub enum Event {
    /// The broker has confirmed the connection and every subscription.
    Connected {
        /// Whether the broker still knew this client.
        session_present: bool,
    },
    /// A message of one of the subscriptions.
    Message(Message),
    /// There is no connection; another attempt follows by itself.
    Disconnected {
        /// What was tried, what happened, what to do.
        failure: Failure,
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
    /// An announcement whose connection ended first.
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

    fn send(&self, topic: &str, payload: Bytes, command: fn(Outgoing) -> Command) -> Delivery {
        let (done, delivery) = oneshot::channel();
        let outgoing = Outgoing { topic: topic.to_owned(), payload, done };
        if let Err(error) = outgoing.check(self.max_packet_size) {
            outgoing.resolve(Err(error));
        } else if let Err(mpsc::error::SendError(
            Command::Publish(outgoing) | Command::Announce(outgoing),
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
    tokio::spawn(connection::Connector::new(options, transport, command_rx, event_tx).run());
    Ok((Link { commands: command_tx, max_packet_size }, Events(event_rx)))
}

/// What a [`Link`] asks of the task that owns the connection.
#[derive(Debug)]
enum Command {
    Publish(Outgoing),
    Announce(Outgoing),
    Beat(String, Bytes),
    Ack(Ack),
    Close { deadline: tokio::time::Instant, done: oneshot::Sender<usize> },
}

/// A message on its way out.
#[derive(Debug)]
struct Outgoing {
    topic: String,
    payload: Bytes,
    done: oneshot::Sender<Result<(), PublishError>>,
}

impl Outgoing {
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
