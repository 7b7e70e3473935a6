//! Against real brokers.

#[cfg(feature = "broker")]
use std::collections::HashMap;

use super::*;

/// The tests that any broker passes.
mod any_broker {
    use super::*;

    pub(super) async fn messages_come_as_they_were_sent(broker: SocketAddr) {
        let (receiver, mut events) = connected(subscriber(broker, "rt-receiver", "rt/+")).await;
        let (sender, _sent) = connected(options(broker, "rt-sender")).await;
        let mut deliveries = Vec::new();
        for n in 0..3000_u32 {
            deliveries.push(sender.publish("rt/x", n.to_string().into_bytes()));
        }
        for n in 0..3000_u32 {
            let message = message(&mut events).await;
            assert_eq!(
                (message.topic.as_str(), &message.payload[..]),
                ("rt/x", n.to_string().as_bytes())
            );
            receiver.ack(message.ack);
        }
        for delivery in deliveries {
            assert_eq!(soon("delivery", delivery).await, Ok(()));
        }
    }

    pub(super) async fn large_messages_cross_each_other(broker: SocketAddr) {
        const SIZE: usize = 8 << 20;
        let (left, mut to_left) = connected(subscriber(broker, "large-left", "large/left")).await;
        let (right, mut to_right) =
            connected(subscriber(broker, "large-right", "large/right")).await;
        let payload = |fill: u8| Bytes::from(vec![fill; SIZE]);
        let mut deliveries = Vec::new();
        for n in 0..3 {
            deliveries.push(left.publish("large/right", payload(n)));
            deliveries.push(right.publish("large/left", payload(n)));
        }
        for n in 0..3 {
            for (link, events) in [(&left, &mut to_left), (&right, &mut to_right)] {
                let message = message(events).await;
                assert!(message.payload == payload(n), "message {n} was changed");
                link.ack(message.ack);
            }
        }
        for delivery in deliveries {
            assert_eq!(soon("delivery", delivery).await, Ok(()));
        }
    }

    pub(super) async fn taking_leave_delivers_the_outbox_first(broker: SocketAddr) {
        let (receiver, mut events) = connected(subscriber(broker, "bye-receiver", "bye")).await;
        let (sender, mut sent) = connected(options(broker, "bye-sender")).await;
        let other = sender.clone();
        for n in 0..100_u8 {
            drop(sender.publish("bye", vec![n]));
        }
        assert_eq!(sender.disconnect(SOON).await, Ok(()));
        assert!(soon("the end", sent.next()).await.is_none());
        assert_eq!(other.publish("bye", "late").await, Err(PublishError::Closed));
        for n in 0..100_u8 {
            let message = message(&mut events).await;
            assert_eq!(message.payload[..], [n]);
            receiver.ack(message.ack);
        }
    }

    pub(super) async fn a_second_client_with_the_same_id_is_said(broker: SocketAddr) {
        let (_first, mut first) = connected(options(broker, "twin")).await;
        let (_second, mut second) = connected(options(broker, "twin")).await;
        let told = async {
            loop {
                let failure = tokio::select! {
                    failure = failure(&mut first) => failure,
                    failure = failure(&mut second) => failure,
                };
                if failure.kind == FailureKind::TakenOver {
                    return failure.to_string();
                }
            }
        };
        let text = soon("the word of the twin", told).await;
        assert!(text.contains("a second worker with the same client id twin?"), "{text}");
    }

    pub(super) async fn unacknowledged_messages_come_again_on_a_resumed_session(
        broker: SocketAddr,
    ) {
        let again = || Options {
            clean_session: CleanSession::Never,
            ..subscriber(broker, &format!("resumed-{}", broker.port()), "resumed")
        };
        // What an earlier run left behind.
        let (link, _events) =
            connected(Options { clean_session: CleanSession::Always, ..again() }).await;
        assert_eq!(link.disconnect(SOON).await, Ok(()));
        let (link, mut events) = connected(again()).await;
        let (sender, _sent) = connected(options(broker, "resumed-sender")).await;
        for n in 0..3_u8 {
            assert_eq!(soon("delivery", sender.publish("resumed", vec![n])).await, Ok(()));
        }
        let acks: Vec<Ack> = [
            message(&mut events).await.ack,
            message(&mut events).await.ack,
            message(&mut events).await.ack,
        ]
        .into();
        // Only the first is acknowledged: the third has to wait for the second.
        let mut acks = acks.into_iter();
        link.ack(acks.next().expect("three"));
        link.ack(acks.next_back().expect("three"));
        assert_eq!(link.disconnect(SOON).await, Ok(()));
        let (link, mut events) = connect(again()).expect("the options are right");
        match soon("connecting", events.next()).await {
            Some(Event::Connected { session_present, session }) => {
                assert_eq!((session_present, session), (true, SessionKind::Persistent));
            }
            other => panic!("expected a connection: {other:?}"),
        }
        for n in 1..3_u8 {
            let message = message(&mut events).await;
            assert_eq!(message.payload[..], [n]);
            link.ack(message.ack);
        }
        assert_eq!(link.disconnect(SOON).await, Ok(()));
    }
}

#[cfg(feature = "broker")]
mod embedded {
    use super::*;
    use crate::broker::{Broker, Settings};

    macro_rules! with_the_embedded_broker {
        ($($test:ident),* $(,)?) => {$(
            #[tokio::test]
            async fn $test() {
                let broker = Broker::start().expect("a broker on a free port");
                any_broker::$test(broker.address()).await;
            }
        )*};
    }

    with_the_embedded_broker!(
        messages_come_as_they_were_sent,
        large_messages_cross_each_other,
        taking_leave_delivers_the_outbox_first,
        a_second_client_with_the_same_id_is_said,
        unacknowledged_messages_come_again_on_a_resumed_session,
    );

    #[tokio::test]
    async fn the_outbox_survives_a_restart_of_the_broker() {
        let broker = Broker::start().expect("a broker on a free port");
        let address = broker.address();
        let (link, mut events) = connected(options(address, "survivor")).await;
        drop(broker);
        failure(&mut events).await;
        let delivery = link.publish("t", "kept");
        failure(&mut events).await;
        let settings = Settings { listen: address, ..Settings::default() };
        let _broker = Broker::start_with(settings).expect("the same port again");
        assert_eq!(soon("delivery", delivery).await, Ok(()));
    }

    #[tokio::test]
    async fn refused_credentials_are_said_without_the_password() {
        let settings = Settings {
            credentials: HashMap::from([("user".to_owned(), "right".to_owned())]),
            ..Settings::default()
        };
        let broker = Broker::start_with(settings).expect("a broker on a free port");
        let with = |password: &str| Options {
            login: Some(MqttLogin { username: "user".into(), password: password.into() }),
            ..options(broker.address(), "user")
        };
        let (_link, mut events) = connect(with("wr0ng")).expect("the options are right");
        let failure = failure(&mut events).await;
        assert_eq!(failure.kind, FailureKind::Credentials);
        let text = failure.to_string();
        assert!(text.contains("PROPLET_CLIENT_KEY") && !text.contains("wr0ng"), "{text}");
        connected(with("right")).await;
    }

    #[tokio::test]
    async fn a_packet_over_the_limit_never_reaches_the_connection() {
        let broker = Broker::start().expect("a broker on a free port");
        let limited = Options { max_packet_size: 1000, ..options(broker.address(), "limited") };
        let (link, mut events) = connected(limited).await;
        let sizes = |payload: usize| link.publish("topic", vec![0; payload]);
        // 1 + 2 + (2 + 5 + 2 + 988) = 1000
        assert_eq!(soon("delivery", sizes(988)).await, Ok(()));
        let error = soon("refusal", sizes(989)).await.expect_err("too large");
        let expected = PublishError::TooLarge { topic: "topic".into(), size: 1001, limit: 1000 };
        assert_eq!(error, expected);
        assert!(error.to_string().contains("1001 bytes") && error.to_string().contains("1000"));
        for topic in ["", "a/+", "#", "a\0"] {
            assert_eq!(link.publish(topic, "").await, Err(PublishError::Topic(topic.into())));
        }
        assert_eq!(soon("delivery", sizes(1)).await, Ok(()));
        assert!(timeout(Duration::ZERO, events.next()).await.is_err(), "nothing happened");
    }
}

mod mosquitto {
    use super::*;

    fn broker() -> SocketAddr {
        std::env::var("PROPLET_TEST_BROKER")
            .expect("PROPLET_TEST_BROKER=host:port names the mosquitto to test against")
            .parse()
            .expect("PROPLET_TEST_BROKER is an address with a port")
    }

    macro_rules! with_mosquitto {
        ($($test:ident),* $(,)?) => {$(
            #[tokio::test]
            #[ignore = "needs mosquitto at PROPLET_TEST_BROKER"]
            async fn $test() {
                any_broker::$test(broker()).await;
            }
        )*};
    }

    with_mosquitto!(
        messages_come_as_they_were_sent,
        large_messages_cross_each_other,
        taking_leave_delivers_the_outbox_first,
        a_second_client_with_the_same_id_is_said,
        unacknowledged_messages_come_again_on_a_resumed_session,
    );
}
