//! Why there is no connection, in sentences: what was tried, what happened,
//! what to do. No sentence holds a password.

use std::fmt;
use std::io;
use std::time::Duration;

use rumqttc::mqttbytes::Error as PacketError;
use rumqttc::{ConnectReturnCode, ConnectionError, StateError, TlsError};

use super::options::Options;
use super::session_kind::SessionKind;

/// A connection that could not be made, or was lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionFailure {
    /// What kind it is, for callers that give up on some.
    pub kind: FailureKind,
    text: String,
}

impl fmt::Display for ConnectionFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for ConnectionFailure {}

/// What ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The broker's name has no address.
    Dns,
    /// Nothing takes connections there.
    Unreachable,
    /// No answer in time.
    Timeout,
    /// The TLS handshake failed.
    Tls,
    /// The broker refused the client's id, name or password.
    Credentials,
    /// The broker has no place, or refuses for now.
    Unavailable,
    /// The broker refused a subscription.
    Subscription,
    /// The broker ended the connection before it answered at all.
    Dropped,
    /// The broker ended the connection.
    Closed,
    /// The broker keeps ending the connection soon after it was made.
    TakenOver,
    /// What came is not what MQTT allows.
    Protocol,
}

/// How far a connection had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// No CONNACK yet.
    Connecting,
    /// CONNACK, but not every SUBACK.
    Subscribing,
    /// All confirmed.
    Ready,
}

impl ConnectionFailure {
    pub(super) fn new(kind: FailureKind, text: String) -> ConnectionFailure {
        ConnectionFailure { kind, text }
    }

    /// rumqttc's error as a sentence.
    pub(super) fn of(
        error: &ConnectionError,
        phase: Phase,
        session: SessionKind,
        options: &Options,
    ) -> ConnectionFailure {
        let at = &options.address;
        match error {
            ConnectionError::Io(error) => unreachable_broker(error, options),
            ConnectionError::NetworkTimeout => ConnectionFailure::no_answer(options),
            ConnectionError::FlushTimeout => ConnectionFailure::new(
                FailureKind::Timeout,
                format!("the broker at {at} took a packet too slowly, or the network is stuck"),
            ),
            ConnectionError::Tls(error) => tls(error, options),
            ConnectionError::ConnectionRefused(code) => refused(*code, options),
            ConnectionError::MqttState(error) => state(error, phase, session, options),
            ConnectionError::NotConnAck(_) => {
                protocol(options, "it answered CONNECT with something other than CONNACK")
            }
            ConnectionError::RequestsDone => protocol(options, "the client's own queue ended"),
        }
    }

    /// A connection that could not be made in time.
    pub(crate) fn no_answer(options: &Options) -> ConnectionFailure {
        ConnectionFailure::new(
            FailureKind::Timeout,
            format!(
                "the broker at {} did not answer within {}; check PROPLET_MQTT_ADDRESS, and whether that \
                 port speaks {}",
                options.address,
                seconds(options.connect_timeout),
                if options.tls.is_some() { "MQTT over TLS" } else { "MQTT without TLS" },
            ),
        )
    }

    /// A connection that was confirmed and then closed by the broker, for the
    /// `times`th time in a row shortly after it was made.
    pub(super) fn taken_over(times: u32, options: &Options) -> ConnectionFailure {
        ConnectionFailure::new(
            FailureKind::TakenOver,
            format!(
                "the broker at {} closed the connection {times} times in a row soon after it was made: is there \
                 a second worker with the same client id {}? Each needs its own PROPLET_CLIENT_ID",
                options.address, options.client_id
            ),
        )
    }

    /// A connection that the broker closed while it was sent a large message.
    pub(super) fn message_refused(
        topic: &str,
        size: usize,
        options: &Options,
    ) -> ConnectionFailure {
        ConnectionFailure::new(
            FailureKind::Closed,
            format!(
                "the broker at {} closed the connection while it was sent a message of {size} bytes to `{topic}`; \
                 its packet limit may be smaller than that",
                options.address
            ),
        )
    }

    pub(super) fn subscription_refused(topic: &str, options: &Options) -> ConnectionFailure {
        ConnectionFailure::new(
            FailureKind::Subscription,
            format!(
                "the broker at {} refused the subscription to `{topic}`; {}",
                options.address,
                membership(options)
            ),
        )
    }

    pub(super) fn subscription_timeout(options: &Options) -> ConnectionFailure {
        ConnectionFailure::new(
            FailureKind::Timeout,
            format!(
                "the broker at {} did not confirm the subscriptions within {}",
                options.address,
                seconds(options.connect_timeout)
            ),
        )
    }
}

fn seconds(duration: Duration) -> String {
    crate::task::humantime(duration)
}

fn unreachable_broker(error: &io::Error, options: &Options) -> ConnectionFailure {
    let at = &options.address;
    let text = error.to_string();
    // The standard library has no kind for it.
    if text.contains("failed to lookup address") || text.contains("could not resolve") {
        return ConnectionFailure::new(
            FailureKind::Dns,
            format!(
                "the broker's name `{}` can't be resolved ({error}); check PROPLET_MQTT_ADDRESS and the network",
                at.host
            ),
        );
    }
    let advice = match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            "nothing listens there: is the broker running, and are host and port of PROPLET_MQTT_ADDRESS right?"
        }
        _ => "check PROPLET_MQTT_ADDRESS, the network and firewalls",
    };
    ConnectionFailure::new(
        FailureKind::Unreachable,
        format!("the broker at {at} can't be reached ({error}): {advice}"),
    )
}

fn refused(code: ConnectReturnCode, options: &Options) -> ConnectionFailure {
    let at = &options.address;
    match code {
        ConnectReturnCode::BadUserNamePassword | ConnectReturnCode::NotAuthorized => {
            ConnectionFailure::new(FailureKind::Credentials, credentials(options))
        }
        ConnectReturnCode::BadClientId => ConnectionFailure::new(
            FailureKind::Credentials,
            format!(
                "the broker at {at} does not take {} as a client id; check PROPLET_CLIENT_ID",
                options.client_id
            ),
        ),
        ConnectReturnCode::ServiceUnavailable => ConnectionFailure::new(
            FailureKind::Unavailable,
            format!("the broker at {at} takes no connections for now; it may be full or starting"),
        ),
        ConnectReturnCode::RefusedProtocolVersion => {
            protocol(options, "it does not speak MQTT 3.1.1")
        }
        ConnectReturnCode::Success => protocol(options, "it refused the connection with success"),
    }
}

fn credentials(options: &Options) -> String {
    let given = if options.login.is_some() { "" } else { " (none are set)" };
    format!(
        "the broker at {} refused the credentials of client id {}{given}: check PROPLET_CLIENT_ID and PROPLET_CLIENT_KEY \
         against the config.toml that `propeller-cli provision` wrote; `client_id not found` in the broker's log \
         means that it does not know this id",
        options.address, options.client_id
    )
}

fn membership(options: &Options) -> String {
    format!(
        "check that client {} is connected to the channel in PROPLET_CHANNEL_ID, in the domain in PROPLET_DOMAIN_ID",
        options.client_id
    )
}

fn state(
    error: &StateError,
    phase: Phase,
    session: SessionKind,
    options: &Options,
) -> ConnectionFailure {
    let at = &options.address;
    match error {
        StateError::ConnectionAborted => closed(phase, session, options),
        StateError::Io(error) | StateError::Deserialization(PacketError::Io(error)) => {
            if let Some(error) = rustls_error(error) {
                return tls_sentence(error, options);
            }
            match error.kind() {
                io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::BrokenPipe
                | io::ErrorKind::UnexpectedEof => closed(phase, session, options),
                // The kernel's word for a peer that answers no more.
                io::ErrorKind::TimedOut => silent(options),
                // The codec's word for an end in the middle of a packet.
                _ if error.to_string().contains("bytes remaining on stream") => {
                    closed(phase, session, options)
                }
                _ => ConnectionFailure::new(
                    FailureKind::Unreachable,
                    format!("the connection to the broker at {at} was lost ({error})"),
                ),
            }
        }
        StateError::Deserialization(PacketError::PayloadSizeLimitExceeded(size)) => {
            protocol(options, &format!("it sent a packet of {size} bytes, more than MQTT allows"))
        }
        StateError::AwaitPingResp | StateError::CollisionTimeout => silent(options),
        error => protocol(options, &error.to_string()),
    }
}

fn silent(options: &Options) -> ConnectionFailure {
    ConnectionFailure::new(
        FailureKind::Timeout,
        format!(
            "the broker at {} did not answer within the keep-alive of {}; the network may be down",
            options.address,
            seconds(options.keep_alive)
        ),
    )
}

fn closed(phase: Phase, session: SessionKind, options: &Options) -> ConnectionFailure {
    let at = &options.address;
    match phase {
        Phase::Connecting => dropped(session, options),
        Phase::Subscribing => ConnectionFailure::new(
            FailureKind::Subscription,
            format!(
                "the broker at {at} closed the connection instead of confirming the subscriptions; {}",
                membership(options)
            ),
        ),
        Phase::Ready => ConnectionFailure::new(
            FailureKind::Closed,
            format!("the broker at {at} closed the connection; it may have restarted"),
        ),
    }
}

/// Why is not to be known: Propeller's MQTT adapter refuses credentials in this
/// way, FluxMQ without a cluster persistent sessions, and a proxy does so while
/// its broker is down.
fn dropped(session: SessionKind, options: &Options) -> ConnectionFailure {
    let sessions = match session {
        SessionKind::Persistent => "it may keep no sessions, ",
        SessionKind::Clean => "it may ",
    };
    let given = if options.login.is_some() { "" } else { ", of which none are set" };
    ConnectionFailure::new(
        FailureKind::Dropped,
        format!(
            "the broker at {} closed the connection without an answer: {sessions}refuse the \
             credentials of client id {} (PROPLET_CLIENT_ID, PROPLET_CLIENT_KEY{given}; look for \
             `client_id not found` in its log), or be down behind a proxy",
            options.address, options.client_id
        ),
    )
}

fn protocol(options: &Options, what: &str) -> ConnectionFailure {
    ConnectionFailure::new(
        FailureKind::Protocol,
        format!(
            "the broker at {} does not follow MQTT: {what}; is PROPLET_MQTT_ADDRESS that of an MQTT port?",
            options.address
        ),
    )
}

fn tls(error: &TlsError, options: &Options) -> ConnectionFailure {
    match error {
        TlsError::TLS(error) => tls_sentence(error, options),
        TlsError::Io(error) => match rustls_error(error) {
            Some(error) => tls_sentence(error, options),
            None => tls_sentence(error, options),
        },
        error => tls_sentence(error, options),
    }
}

fn rustls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

fn tls_sentence(error: &dyn std::error::Error, options: &Options) -> ConnectionFailure {
    ConnectionFailure::new(
        FailureKind::Tls,
        format!(
            "the TLS handshake with the broker at {} failed ({error}); check PROPLET_MQTT_TLS_CA_CERT, the client \
             certificate if the broker asks for one, and whether that port speaks TLS",
            options.address
        ),
    )
}

#[cfg(test)]
mod tests;
