//! Against the embedded broker, against mosquitto (`--ignored`, with
//! `PROPLET_TEST_BROKER=host:port`), and against fakes that do what no real
//! broker can be made to do.

use std::collections::HashMap;
use std::net::SocketAddr;

use bytes::BytesMut;
use rumqttc::{
    ConnAck, ConnectReturnCode, Packet, PubAck, Publish, QoS, SubAck, SubscribeReasonCode,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::*;

/// For what takes milliseconds, on machines of any speed.
const SOON: Duration = Duration::from_secs(60);

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(SOON, future).await.unwrap_or_else(|_| panic!("{what} took more than {SOON:?}"))
}

fn options(address: SocketAddr, client_id: &str) -> Options {
    Options {
        backoff: Backoff {
            first: Duration::from_millis(20),
            cap: Duration::from_millis(200),
            ..Backoff::default()
        },
        ..Options::new(Address { host: address.ip().to_string(), port: address.port() }, client_id)
    }
}

fn subscriber(address: SocketAddr, client_id: &str, topic: &str) -> Options {
    Options { subscriptions: vec![topic.to_owned()], ..options(address, client_id) }
}

async fn connected(options: Options) -> (Link, Events) {
    let (link, mut events) = connect(options).expect("the options are right");
    match soon("connecting", events.next()).await {
        Some(Event::Connected { .. }) => (link, events),
        other => panic!("expected a connection: {other:?}"),
    }
}

async fn message(events: &mut Events) -> Message {
    match soon("a message", events.next()).await {
        Some(Event::Message(message)) => message,
        other => panic!("expected a message: {other:?}"),
    }
}

async fn failure(events: &mut Events) -> Failure {
    loop {
        match soon("a failure", events.next()).await {
            Some(Event::Disconnected { failure, .. }) => return failure,
            Some(_) => {}
            None => panic!("the connection was closed"),
        }
    }
}

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
            clean_session: false,
            ..subscriber(broker, &format!("resumed-{}", broker.port()), "resumed")
        };
        // What an earlier run left behind.
        let (link, _events) = connected(Options { clean_session: true, ..again() }).await;
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
            Some(Event::Connected { session_present }) => assert!(session_present),
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
            credentials: Some(Credentials { username: "user".into(), password: password.into() }),
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

/// A broker that does as the test says, one packet at a time.
struct Fake {
    listener: TcpListener,
}

struct Peer {
    stream: TcpStream,
    buffer: BytesMut,
}

impl Fake {
    async fn start() -> (Fake, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        (Fake { listener }, address)
    }

    /// The next connection, with its CONNECT read.
    async fn accept(&self) -> Peer {
        let (stream, _) = soon("a connection", self.listener.accept()).await.expect("accepted");
        let mut peer = Peer { stream, buffer: BytesMut::new() };
        assert!(matches!(peer.read().await, Packet::Connect(_)));
        peer
    }

    /// The next connection, confirmed, without subscriptions.
    async fn greet(&self) -> Peer {
        let mut peer = self.accept().await;
        peer.write(Packet::ConnAck(ConnAck::new(ConnectReturnCode::Success, false))).await;
        peer
    }
}

impl Peer {
    async fn read(&mut self) -> Packet {
        loop {
            match Packet::read(&mut self.buffer, LARGEST_PACKET) {
                Ok(packet) => return packet,
                Err(rumqttc::mqttbytes::Error::InsufficientBytes(_)) => {}
                Err(error) => panic!("the client sent nonsense: {error}"),
            }
            let read = soon("a packet", self.stream.read_buf(&mut self.buffer)).await;
            assert_ne!(read.expect("readable"), 0, "the client closed the connection");
        }
    }

    /// The next packet, which is a publish.
    async fn published(&mut self) -> Publish {
        match self.read().await {
            Packet::Publish(publish) => publish,
            other => panic!("expected a publish: {other:?}"),
        }
    }

    async fn write(&mut self, packet: Packet) {
        let mut bytes = BytesMut::new();
        packet.write(&mut bytes, LARGEST_PACKET).expect("a valid packet");
        self.stream.write_all(&bytes).await.expect("writable");
    }
}

#[tokio::test]
async fn what_was_not_acknowledged_is_sent_again_in_order() {
    let (fake, address) = Fake::start().await;
    let (link, _events) = connect(options(address, "again")).expect("the options are right");
    let mut peer = fake.greet().await;
    let deliveries: Vec<Delivery> = (0..3_u8).map(|n| link.publish("t", vec![n])).collect();
    let first = peer.published().await;
    peer.write(Packet::PubAck(PubAck::new(first.pkid))).await;
    for n in 1..3_u8 {
        assert_eq!(peer.published().await.payload[..], [n]);
    }
    drop(peer);
    let mut peer = fake.greet().await;
    // The broker has closed the connection, so they come one at a time.
    for n in 1..3_u8 {
        let publish = peer.published().await;
        assert_eq!(publish.payload[..], [n]);
        peer.write(Packet::PubAck(PubAck::new(publish.pkid))).await;
    }
    for delivery in deliveries {
        assert_eq!(soon("delivery", delivery).await, Ok(()));
    }
}

#[tokio::test]
async fn an_acknowledgement_just_before_the_end_counts() {
    let (fake, address) = Fake::start().await;
    let (link, _events) = connect(options(address, "counts")).expect("the options are right");
    for n in 0..20_u8 {
        let mut peer = fake.greet().await;
        let delivery = link.publish("t", vec![n]);
        let publish = peer.published().await;
        assert_eq!(publish.payload[..], [n], "message {n} is the next one");
        peer.write(Packet::PubAck(PubAck::new(publish.pkid))).await;
        drop(peer);
        assert_eq!(soon("delivery", delivery).await, Ok(()));
    }
}

#[tokio::test]
async fn acknowledgements_are_sent_in_the_order_of_arrival() {
    let (fake, address) = Fake::start().await;
    let (link, mut events) = connect(options(address, "order")).expect("the options are right");
    let mut peer = fake.greet().await;
    for id in [5, 9, 7] {
        let mut publish = Publish::new("t", QoS::AtLeastOnce, vec![0]);
        publish.pkid = id;
        publish.dup = id == 9;
        peer.write(Packet::Publish(publish)).await;
    }
    assert!(matches!(soon("connecting", events.next()).await, Some(Event::Connected { .. })));
    let first = message(&mut events).await;
    let second = message(&mut events).await;
    let third = message(&mut events).await;
    assert_eq!((first.duplicate, second.duplicate), (false, true));
    for ack in [third.ack, second.ack, first.ack] {
        link.ack(ack);
    }
    for id in [5, 9, 7] {
        assert!(matches!(peer.read().await, Packet::PubAck(ack) if ack.pkid == id));
    }
}

#[tokio::test]
async fn a_message_before_the_subscriptions_are_confirmed_comes_after_the_connection() {
    let (fake, address) = Fake::start().await;
    let (_link, mut events) =
        connect(subscriber(address, "early", "t")).expect("the options are right");
    let mut peer = fake.greet().await;
    let Packet::Subscribe(subscribe) = peer.read().await else { panic!("expected a subscription") };
    peer.write(Packet::Publish(Publish::new("t", QoS::AtMostOnce, "early"))).await;
    let granted = vec![SubscribeReasonCode::Success(QoS::AtLeastOnce)];
    peer.write(Packet::SubAck(SubAck::new(subscribe.pkid, granted))).await;
    assert!(matches!(soon("connecting", events.next()).await, Some(Event::Connected { .. })));
    assert_eq!(message(&mut events).await.payload, "early");
}

#[tokio::test]
async fn a_refused_subscription_is_named_and_tried_again() {
    let (fake, address) = Fake::start().await;
    let mut options = subscriber(address, "refused", "one");
    options.subscriptions.push("two".to_owned());
    let (_link, mut events) = connect(options).expect("the options are right");
    for codes in [
        vec![SubscribeReasonCode::Success(QoS::AtLeastOnce), SubscribeReasonCode::Failure],
        vec![SubscribeReasonCode::Success(QoS::AtLeastOnce)],
    ] {
        let mut peer = fake.greet().await;
        let Packet::Subscribe(subscribe) = peer.read().await else {
            panic!("expected a subscription")
        };
        peer.write(Packet::SubAck(SubAck::new(subscribe.pkid, codes))).await;
        let failure = failure(&mut events).await;
        assert_eq!(failure.kind, FailureKind::Subscription);
        assert!(failure.to_string().contains("`two`"), "{failure}");
    }
}

#[tokio::test]
async fn a_connection_that_is_closed_at_once_backs_off_and_names_the_credentials() {
    let (fake, address) = Fake::start().await;
    let (_link, mut events) = connect(options(address, "closed")).expect("the options are right");
    for n in 0..6_u32 {
        drop(fake.accept().await);
        let Some(Event::Disconnected { failure, retry_in }) =
            soon("a failure", events.next()).await
        else {
            panic!("expected a failure")
        };
        assert_eq!(failure.kind, FailureKind::Credentials);
        assert!(failure.to_string().contains("`client_id not found`"), "{failure}");
        assert!(retry_in <= Duration::from_millis((20 << n).min(200)), "{n}: {retry_in:?}");
    }
}

#[tokio::test]
async fn no_answer_to_a_ping_is_noticed_within_two_keep_alives() {
    let (fake, address) = Fake::start().await;
    let quick = Options { keep_alive: Duration::from_secs(1), ..options(address, "half-open") };
    let (_link, mut events) = connect(quick).expect("the options are right");
    let _peer = fake.greet().await;
    let started = std::time::Instant::now();
    let failure = failure(&mut events).await;
    assert_eq!(failure.kind, FailureKind::Timeout);
    assert!(failure.to_string().contains("keep-alive of 1s"), "{failure}");
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn a_broker_without_an_answer_is_a_timeout() {
    let (fake, address) = Fake::start().await;
    let impatient =
        Options { connect_timeout: Duration::from_secs(1), ..options(address, "silent") };
    let (_link, mut events) = connect(impatient).expect("the options are right");
    let _peer = fake.accept().await;
    let failure = failure(&mut events).await;
    assert_eq!(failure.kind, FailureKind::Timeout);
    assert!(failure.to_string().contains("within 1s"), "{failure}");
}

#[tokio::test]
async fn heartbeats_and_announcements_are_not_kept_for_later() {
    let (fake, address) = Fake::start().await;
    let (link, mut events) = connect(options(address, "beats")).expect("the options are right");
    let mut peer = fake.accept().await;
    link.beat("alive", "1");
    assert_eq!(link.announce("create", "1").await, Err(PublishError::Disconnected));
    let kept = link.publish("results", "1");
    peer.write(Packet::ConnAck(ConnAck::new(ConnectReturnCode::Success, false))).await;
    assert_eq!(peer.published().await.topic, "results");
    assert!(matches!(soon("connecting", events.next()).await, Some(Event::Connected { .. })));
    link.beat("alive", "2");
    let beat = peer.published().await;
    assert_eq!((beat.topic.as_str(), beat.qos), ("alive", QoS::AtMostOnce));
    let announced = link.announce("create", "2");
    assert_eq!(peer.published().await.topic, "create");
    drop(peer);
    assert_eq!(soon("the end", announced).await, Err(PublishError::Disconnected));
    let mut peer = fake.greet().await;
    let again = peer.published().await;
    assert_eq!(again.topic, "results");
    peer.write(Packet::PubAck(PubAck::new(again.pkid))).await;
    assert_eq!(soon("delivery", kept).await, Ok(()));
}

#[tokio::test]
async fn a_message_that_the_broker_never_takes_is_given_up() {
    let (fake, address) = Fake::start().await;
    let (link, mut events) = connect(options(address, "rejected")).expect("the options are right");
    let large = link.publish("t", vec![0; 200_000]);
    for _ in 0..4 {
        let mut peer = fake.greet().await;
        assert_eq!(peer.published().await.payload.len(), 200_000);
        drop(peer);
        let failure = failure(&mut events).await;
        assert!(failure.to_string().contains("a message of 200009 bytes to `t`"), "{failure}");
    }
    let error = soon("the verdict", large).await.expect_err("given up");
    assert!(matches!(error, PublishError::Rejected { attempts: 3, .. }), "{error}");
    let small = link.publish("t", "small");
    let mut peer = fake.greet().await;
    let publish = peer.published().await;
    peer.write(Packet::PubAck(PubAck::new(publish.pkid))).await;
    assert_eq!(soon("delivery", small).await, Ok(()));
}

#[tokio::test]
async fn an_unreachable_broker_is_said_and_leaving_does_not_wait_for_it() {
    let (fake, address) = Fake::start().await;
    drop(fake);
    let (link, mut events) = connect(options(address, "nobody")).expect("the options are right");
    let failure = failure(&mut events).await;
    assert_eq!(failure.kind, FailureKind::Unreachable);
    assert!(failure.to_string().contains(&address.to_string()), "{failure}");
    drop(link.publish("t", "lost"));
    let left = link.clone().disconnect(Duration::from_millis(100));
    assert_eq!(soon("leave", left).await, Err(Undelivered(1)));
    assert_eq!(link.publish("t", "late").await, Err(PublishError::Closed));
}

#[tokio::test]
async fn without_a_link_the_connection_ends() {
    let (fake, address) = Fake::start().await;
    let (link, mut events) = connect(options(address, "gone")).expect("the options are right");
    let _peer = fake.greet().await;
    let delivery = link.publish("t", "never acknowledged");
    drop(link);
    let end = async { while events.next().await.is_some() {} };
    soon("the end", end).await;
    assert_eq!(delivery.await, Err(PublishError::Closed));
}

#[tokio::test]
async fn with_qos_0_a_message_is_delivered_when_it_is_written() {
    let (fake, address) = Fake::start().await;
    let at_most_once = Options { qos: Qos::AtMostOnce, ..options(address, "qos0") };
    let (link, _events) = connect(at_most_once).expect("the options are right");
    let mut peer = fake.greet().await;
    let deliveries: Vec<Delivery> = (0..100_u8).map(|n| link.publish("t", vec![n])).collect();
    for n in 0..100_u8 {
        let publish = peer.published().await;
        assert_eq!((publish.qos, &publish.payload[..]), (QoS::AtMostOnce, &[n][..]));
    }
    for delivery in deliveries {
        assert_eq!(soon("delivery", delivery).await, Ok(()));
    }
}

#[tokio::test]
async fn an_empty_client_id_is_an_error() {
    assert!(connect(options(SocketAddr::from(([127, 0, 0, 1], 1)), "")).is_err());
}

/// TLS with the certificates of `testdata`, which `make.sh` there makes.
mod tls {
    use std::sync::Arc;

    use rumqttc::tokio_rustls::TlsAcceptor;
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use rustls::server::WebPkiClientVerifier;
    use rustls::{RootCertStore, ServerConfig};

    use super::*;

    fn file(name: &str) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/mqtt/testdata").join(name)
    }

    fn trusting(ca: &str, identity: bool) -> Tls {
        let identity = identity.then(|| (file("client.pem"), file("client.key")));
        Tls { ca: Some(file(ca)), identity }
    }

    /// A broker behind TLS that asks for a client certificate, and greets
    /// whoever shows one.
    async fn broker() -> (SocketAddr, tokio::task::JoinHandle<()>) {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let certificate = |name| CertificateDer::from_pem_file(file(name)).expect("a certificate");
        let mut roots = RootCertStore::empty();
        roots.add(certificate("ca.pem")).expect("an authority");
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        let key = PrivateKeyDer::from_pem_file(file("server.key")).expect("a key");
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_client_cert_verifier(verifier.build().expect("a verifier"))
            .with_single_cert(vec![certificate("server.pem")], key)
            .expect("the key of the certificate");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let serve = async move {
            loop {
                let (stream, _) = listener.accept().await.expect("accepted");
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let mut answer = BytesMut::new();
                let connack = Packet::ConnAck(ConnAck::new(ConnectReturnCode::Success, false));
                connack.write(&mut answer, LARGEST_PACKET).expect("a valid packet");
                stream.write_all(&answer).await.expect("writable");
                stream.flush().await.expect("writable");
                // Open until the client goes.
                while stream.read_buf(&mut BytesMut::with_capacity(1024)).await.is_ok_and(|n| n > 0)
                {
                }
            }
        };
        (address, tokio::spawn(serve))
    }

    #[tokio::test]
    async fn a_broker_that_asks_for_a_certificate_gets_it() {
        let (address, _broker) = broker().await;
        connected(Options { tls: Some(trusting("ca.pem", true)), ..options(address, "tls") }).await;
    }

    #[tokio::test]
    async fn a_missing_or_an_unknown_certificate_is_a_tls_failure() {
        let (address, _broker) = broker().await;
        for (tls, words) in [
            (trusting("ca.pem", false), "certificate"),
            (trusting("client.pem", true), "UnknownIssuer"),
        ] {
            let options = Options { tls: Some(tls), ..options(address, "tls") };
            let (_link, mut events) = connect(options).expect("the options are right");
            let failure = failure(&mut events).await;
            assert_eq!(failure.kind, FailureKind::Tls, "{failure}");
            assert!(failure.to_string().contains(words), "{failure}");
        }
    }

    #[tokio::test]
    async fn a_port_without_tls_is_a_tls_failure() {
        let (fake, address) = Fake::start().await;
        let encrypted = Options { tls: Some(trusting("ca.pem", false)), ..options(address, "tls") };
        let (_link, mut events) = connect(encrypted).expect("the options are right");
        let (mut stream, _) = fake.listener.accept().await.expect("accepted");
        stream.write_all(b"\x20\x02\x00\x00 and no handshake").await.expect("writable");
        let failure = failure(&mut events).await;
        assert_eq!(failure.kind, FailureKind::Tls, "{failure}");
        assert!(failure.to_string().contains("PROPLET_MQTT_TLS_CA_CERT"), "{failure}");
    }

    #[tokio::test]
    async fn files_that_can_not_work_are_errors_before_any_connection() {
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let error = |ca: &str, key: &str| {
            let identity = Some((file("client.pem"), file(key)));
            let tls = Some(Tls { ca: Some(file(ca)), identity });
            let error = connect(Options { tls, ..options(address, "tls") }).expect_err("refused");
            format!("{error:#}")
        };
        assert!(error("none.pem", "client.key").contains("none.pem can't be read"));
        assert!(error("client.key", "client.key").contains("client.key holds no PEM certificate"));
        assert!(error("ca.pem", "client.pem").contains("client.pem can't be read"));
        assert!(error("ca.pem", "server.key").contains("can't be used together"));
    }
}
