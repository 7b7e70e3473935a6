//! Each way in which a broker refuses or goes, against its sentence.

use super::*;
use crate::mqtt::{Address, MqttLogin};

fn options() -> Options {
    Options {
        login: Some(MqttLogin { username: "me".into(), password: "s3cret".into() }),
        ..Options::new(Address { host: "h".into(), port: 1883 }, "worker-1")
    }
}

fn io(kind: io::ErrorKind, text: &str) -> ConnectionError {
    ConnectionError::Io(io::Error::new(kind, text.to_owned()))
}

#[test]
fn each_kind_has_a_sentence_that_names_the_broker_and_what_to_do() {
    use FailureKind as Kind;
    use Phase::{Connecting, Ready, Subscribing};
    let reset = || StateError::Io(io::ErrorKind::ConnectionReset.into());
    let cases: Vec<(ConnectionError, Phase, FailureKind, &str)> = vec![
        (
            io(io::ErrorKind::ConnectionRefused, "refused"),
            Connecting,
            Kind::Unreachable,
            "is the broker running",
        ),
        (
            io(
                io::ErrorKind::Other,
                "failed to lookup address information: Name or service not known",
            ),
            Connecting,
            Kind::Dns,
            "can't be resolved",
        ),
        (
            io(io::ErrorKind::HostUnreachable, "no route"),
            Connecting,
            Kind::Unreachable,
            "PROPLET_MQTT_ADDRESS",
        ),
        (ConnectionError::NetworkTimeout, Connecting, Kind::Timeout, "within 30s"),
        (ConnectionError::FlushTimeout, Ready, Kind::Timeout, "too slowly"),
        (
            ConnectionError::ConnectionRefused(ConnectReturnCode::NotAuthorized),
            Connecting,
            Kind::Credentials,
            "refused the credentials of client id worker-1: check PROPLET_CLIENT_ID and PROPLET_CLIENT_KEY",
        ),
        (
            ConnectionError::ConnectionRefused(ConnectReturnCode::ServiceUnavailable),
            Connecting,
            Kind::Unavailable,
            "full",
        ),
        (
            StateError::ConnectionAborted.into(),
            Connecting,
            Kind::Dropped,
            "it may keep no sessions, refuse the credentials of client id worker-1",
        ),
        (
            StateError::ConnectionAborted.into(),
            Subscribing,
            Kind::Subscription,
            "PROPLET_CHANNEL_ID",
        ),
        (StateError::ConnectionAborted.into(), Ready, Kind::Closed, "restarted"),
        (reset().into(), Ready, Kind::Closed, "closed the connection"),
        (StateError::AwaitPingResp.into(), Ready, Kind::Timeout, "keep-alive of 30s"),
        (StateError::Unsolicited(3).into(), Ready, Kind::Protocol, "does not follow MQTT"),
    ];
    for (error, phase, kind, words) in cases {
        let failure = ConnectionFailure::of(&error, phase, SessionKind::Persistent, &options());
        let text = failure.to_string();
        assert_eq!(failure.kind, kind, "{text}");
        assert!(text.contains(words), "{text}");
        assert!(!text.contains("s3cret") && !text.ends_with('.'), "{text}");
    }
}

#[test]
fn the_password_is_in_no_debug_output() {
    assert!(!format!("{:?}", options()).contains("s3cret"));
}
