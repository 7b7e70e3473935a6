//! The way to the broker.

use super::reader::Reader;
use super::{Credentials, HOUR, SECOND, address, choice, value};
use crate::mqtt::{self, Qos};
use crate::task::humantime;
use std::path::PathBuf;
use std::time::Duration;

/// The way to the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// The broker.
    pub address: mqtt::Address,
    /// Whether the connection is encrypted.
    pub tls: bool,
    /// Time for connecting and for writing one packet. A publish of 100 MB needs
    /// more than the client's own 5 s.
    pub timeout: Duration,
    /// Quality of service of subscriptions and publishes.
    pub qos: Qos,
    /// Whole seconds. The answer to a ping waits behind a large publish, so a
    /// short one takes a busy broker for a dead one.
    pub keep_alive: Duration,
    /// Largest packet in bytes, in both directions. The default carries a
    /// module of 100 MiB as base64 (134 MiB) and what stands around it.
    pub max_packet_size: usize,
    /// PEM file with the authorities to trust instead of the system's.
    pub ca_cert: Option<PathBuf>,
    /// For mutual TLS.
    pub client_cert: Option<ClientCert>,
}

impl Connection {
    /// Where the broker is, as a URL.
    pub fn url(&self) -> String {
        address::url(&self.address, self.tls)
    }

    /// The same for a client that is called `client_id` and logs in with these
    /// credentials; what it subscribes to is the caller's.
    pub fn options(&self, client_id: &str, credentials: &Credentials) -> mqtt::Options {
        let identity = self.client_cert.as_ref();
        mqtt::Options {
            tls: self.tls.then(|| mqtt::Tls {
                ca: self.ca_cert.clone(),
                identity: identity.map(|client| (client.cert.clone(), client.key.clone())),
            }),
            login: Some(mqtt::MqttLogin {
                username: credentials.client_id.clone(),
                password: credentials.client_key.expose().to_owned(),
            }),
            qos: self.qos,
            keep_alive: self.keep_alive,
            connect_timeout: self.timeout,
            max_packet_size: self.max_packet_size,
            ..mqtt::Options::new(self.address.clone(), client_id)
        }
    }
}

/// PEM files of a client's certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCert {
    /// The certificate, with its chain.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// Reads it, with what the operator should know of it.
pub(super) fn read(reader: &mut Reader<'_>) -> Option<Connection> {
    let address = reader.read("mqtt-address", address::parse);
    let timeout = reader.read("mqtt-timeout", value::duration_within(SECOND, HOUR));
    let qos = reader.read("mqtt-qos", choice::qos);
    if let Some((_, true)) = qos {
        reader.warn(
            "mqtt-qos is 2 and is taken as 1: QoS 2 does not survive a reconnect, and repeated \
             messages are known by the task's id"
                .into(),
        );
    }
    // MQTT counts whole seconds in 16 bits.
    let keep_alive = reader.read("mqtt-keep-alive", |text| {
        let duration = value::duration_within(SECOND, SECOND * 65_535)(text)?;
        match duration.subsec_nanos() {
            0 => Ok(duration),
            _ => Err("MQTT counts the keep-alive in whole seconds".into()),
        }
    });
    if let Some(short) = keep_alive.filter(|duration| *duration < SECOND * 30) {
        reader.warn(format!(
            "mqtt-keep-alive is {}: below 30 s a large message can look like a dead broker",
            humantime(short)
        ));
    }
    // 256 MiB less a byte is the most that MQTT can express.
    let max_packet_size =
        reader.read("mqtt-max-packet-size", value::length_within(1 << 10, (1 << 28) - 1));
    let ca_cert = reader.read_optional("mqtt-tls-ca-cert", value::path);
    let cert = reader.read_optional("mqtt-tls-client-cert", value::path);
    let key = reader.read_optional("mqtt-tls-client-key", value::path);
    if cert.is_some() != key.is_some() {
        let (set, missing) = if cert.is_some() { ("cert", "key") } else { ("key", "cert") };
        reader.problem(format!(
            "mqtt-tls-client-{set} is set, but mqtt-tls-client-{missing} is not: mutual TLS needs both"
        ));
    }
    let (address, tls) = address?;
    if !tls && (ca_cert.is_some() || cert.is_some()) {
        reader.warn(format!(
            "the connection to {} is not encrypted, so the mqtt-tls-* settings have no effect; \
             for TLS, write the address as ssl://{}:8883",
            address::url(&address, tls),
            address.host
        ));
    }
    Some(Connection {
        address,
        tls,
        timeout: timeout?,
        qos: qos?.0,
        keep_alive: keep_alive?,
        max_packet_size: max_packet_size?,
        ca_cert,
        client_cert: cert.zip(key).map(|(cert, key)| ClientCert { cert, key }),
    })
}
