//! What a connection needs to know.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::address::Address;
use super::backoff::Backoff;
use super::memory::SessionMemory;
use super::session_kind::CleanSession;

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
pub struct MqttLogin {
    /// For Propeller: the client id once more.
    pub username: String,
    /// For Propeller: the client key. It never reaches a log or an error.
    pub password: String,
}

impl fmt::Debug for MqttLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("username", &self.username).finish_non_exhaustive()
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
    pub login: Option<MqttLogin>,
    /// What to subscribe to, on every connection.
    pub subscriptions: Vec<String>,
    /// For the subscriptions and for all that is published, heartbeats apart.
    pub qos: Qos,
    /// Whether the broker forgets this client when the connection ends.
    pub clean_session: CleanSession,
    /// What this broker has granted before.
    pub sessions: Option<SessionMemory>,
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
            login: None,
            subscriptions: Vec::new(),
            qos: Qos::AtLeastOnce,
            clean_session: CleanSession::Always,
            sessions: None,
            keep_alive: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(60),
            max_packet_size: 144 << 20,
            backoff: Backoff::default(),
        }
    }
}
