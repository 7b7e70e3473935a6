//! Against the embedded broker, against mosquitto (`--ignored`, with
//! `PROPLET_TEST_BROKER=host:port`), and against fakes that do what no real
//! broker can be made to do.

use std::net::SocketAddr;

use bytes::BytesMut;
use rumqttc::{
    ConnAck, ConnectReturnCode, Packet, PubAck, Publish, QoS, SubAck, SubscribeReasonCode,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::*;

mod brokers;
mod tls;

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
    loop {
        match soon("a message", events.next()).await {
            Some(Event::Message(message)) => return message,
            Some(Event::Acknowledged(_)) => {}
            other => panic!("expected a message: {other:?}"),
        }
    }
}

async fn failure(events: &mut Events) -> ConnectionFailure {
    loop {
        match soon("a failure", events.next()).await {
            Some(Event::Disconnected { failure, .. }) => return failure,
            Some(_) => {}
            None => panic!("the connection was closed"),
        }
    }
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
async fn only_an_answer_to_something_later_shows_that_an_acknowledgement_arrived() {
    let (fake, address) = Fake::start().await;
    let (link, mut events) = connect(options(address, "known")).expect("the options are right");
    let mut peer = fake.greet().await;
    let start = |id: u16| {
        let mut publish = Publish::new("t", QoS::AtLeastOnce, vec![0]);
        publish.pkid = id;
        publish.retain = id == 9;
        Packet::Publish(publish)
    };
    assert!(matches!(soon("connecting", events.next()).await, Some(Event::Connected { .. })));
    let before = link.publish("results", "before");
    let unrelated = peer.published().await;
    peer.write(start(5)).await;
    let first = message(&mut events).await;
    let receipt = first.ack.receipt();
    link.ack(first.ack);
    assert!(matches!(peer.read().await, Packet::PubAck(ack) if ack.pkid == 5));
    // Neither of these would differ if the acknowledgement had been lost.
    peer.write(Packet::PubAck(PubAck::new(unrelated.pkid))).await;
    assert_eq!(soon("delivery", before).await, Ok(()));
    peer.write(start(9)).await;
    let second = message(&mut events).await;
    assert_eq!((first.retained, second.retained), (false, true));
    let after = link.publish("results", "after");
    let answered = peer.published().await;
    peer.write(Packet::PubAck(PubAck::new(answered.pkid))).await;
    assert_eq!(soon("delivery", after).await, Ok(()));
    match soon("the word of it", events.next()).await {
        Some(Event::Acknowledged(known)) => {
            assert_eq!(Some(known), receipt);
            assert!(Some(known) < second.ack.receipt(), "the second is not even acknowledged");
        }
        other => panic!("expected an acknowledgement: {other:?}"),
    }
}

#[tokio::test]
async fn an_acknowledgement_with_nothing_after_it_is_known_by_the_next_ping() {
    let (fake, address) = Fake::start().await;
    let quick = Options { keep_alive: Duration::from_secs(1), ..options(address, "pinged") };
    let (link, mut events) = connect(quick).expect("the options are right");
    let mut peer = fake.greet().await;
    assert!(matches!(soon("connecting", events.next()).await, Some(Event::Connected { .. })));
    let mut publish = Publish::new("t", QoS::AtLeastOnce, vec![0]);
    publish.pkid = 5;
    peer.write(Packet::Publish(publish)).await;
    let ack = message(&mut events).await.ack;
    let receipt = ack.receipt();
    link.ack(ack);
    loop {
        match peer.read().await {
            Packet::PubAck(ack) => assert_eq!(ack.pkid, 5),
            Packet::PingReq => peer.write(Packet::PingResp).await,
            other => panic!("expected nothing else: {other:?}"),
        }
        if let Ok(event) = timeout(Duration::ZERO, events.next()).await {
            let Some(Event::Acknowledged(known)) = event else {
                panic!("expected an acknowledgement: {event:?}")
            };
            assert_eq!(Some(known), receipt);
            break;
        }
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
    assert!(matches!(soon("connecting", events.next()).await, Some(Event::Connected { .. })));
    assert_eq!(message(&mut events).await.payload, "early");
    let granted = vec![SubscribeReasonCode::Success(QoS::AtLeastOnce)];
    peer.write(Packet::SubAck(SubAck::new(subscribe.pkid, granted))).await;
    peer.write(Packet::Publish(Publish::new("t", QoS::AtMostOnce, "late"))).await;
    assert_eq!(message(&mut events).await.payload, "late");
}

#[tokio::test]
async fn subscriptions_are_waited_for_although_messages_came_before() {
    let (fake, address) = Fake::start().await;
    let impatient = Options {
        connect_timeout: Duration::from_millis(200),
        ..subscriber(address, "unconfirmed", "t")
    };
    let (_link, mut events) = connect(impatient).expect("the options are right");
    let mut peer = fake.greet().await;
    assert!(matches!(peer.read().await, Packet::Subscribe(_)));
    peer.write(Packet::Publish(Publish::new("t", QoS::AtMostOnce, "early"))).await;
    assert!(matches!(soon("connecting", events.next()).await, Some(Event::Connected { .. })));
    assert_eq!(failure(&mut events).await.kind, FailureKind::Timeout);
}

/// What a session has gathered may be gigabytes.
#[tokio::test]
async fn no_more_is_read_before_the_subscriptions_are_confirmed_either() {
    let (fake, address) = Fake::start().await;
    let patient =
        Options { keep_alive: Duration::from_secs(65_535), ..subscriber(address, "gathered", "t") };
    let (_link, mut events) = connect(patient).expect("the options are right");
    let mut peer = fake.greet().await;
    assert!(matches!(peer.read().await, Packet::Subscribe(_)));
    let flood = flood(peer, 100);
    assert!(matches!(soon("connecting", events.next()).await, Some(Event::Connected { .. })));
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(message(&mut events).await);
    }
    // Nobody tells that nothing more comes; too short a time shows too little.
    while let Ok(Some(Event::Message(message))) =
        timeout(Duration::from_millis(500), events.next()).await
    {
        held.push(message);
    }
    assert!(held.len() <= 16, "{} messages are held", held.len());
    flood.abort();
}

/// A peer that sends this many messages of 1 MiB, whatever the client does.
fn flood(mut peer: Peer, messages: u16) -> tokio::task::JoinHandle<Peer> {
    tokio::spawn(async move {
        for id in 1..=messages {
            let mut publish = Publish::new("t", QoS::AtLeastOnce, vec![0; 1 << 20]);
            publish.pkid = id;
            peer.write(Packet::Publish(publish)).await;
        }
        peer
    })
}

#[tokio::test]
async fn no_more_is_read_while_too_much_is_not_done_with() {
    const MESSAGES: u16 = 100;
    let (fake, address) = Fake::start().await;
    let patient = Options { keep_alive: Duration::from_secs(65_535), ..options(address, "full") };
    let (link, mut events) = connect(patient).expect("the options are right");
    let peer = flood(fake.greet().await, MESSAGES);
    assert!(matches!(soon("connecting", events.next()).await, Some(Event::Connected { .. })));
    let mut acks = Vec::new();
    for _ in 0..4 {
        acks.push(message(&mut events).await.ack);
    }
    // Nobody tells that nothing more comes; too short a time shows too little.
    while let Ok(Some(Event::Message(message))) =
        timeout(Duration::from_millis(500), events.next()).await
    {
        acks.push(message.ack);
    }
    assert!(acks.len() <= 16, "{} messages are held", acks.len());
    let mut come = acks.len();
    // Half of them are left to the broker.
    while let Some(ack) = acks.pop() {
        if come % 2 == 0 {
            link.ack(ack);
        }
        while acks.is_empty() && come < usize::from(MESSAGES) {
            acks.push(message(&mut events).await.ack);
            come += 1;
        }
    }
    assert_eq!(come, usize::from(MESSAGES));
    drop(soon("the last message", peer).await.expect("sent"));
}

#[tokio::test]
async fn what_can_not_be_done_with_holds_nothing_up_for_long() {
    let (fake, address) = Fake::start().await;
    let quick = Options { keep_alive: Duration::from_secs(1), ..options(address, "stuck") };
    let (link, mut events) = connect(quick).expect("the options are right");
    let peer = flood(fake.greet().await, 30);
    assert!(matches!(soon("connecting", events.next()).await, Some(Event::Connected { .. })));
    let mut held = Vec::new();
    while held.len() < 30 {
        held.push(message(&mut events).await);
    }
    drop(link.publish("results", "of another task"));
    let mut peer = soon("the last message", peer).await.expect("sent");
    while !matches!(peer.read().await, Packet::Publish(_)) {}
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
async fn a_connection_that_is_dropped_backs_off_and_does_not_blame_the_credentials_alone() {
    let (fake, address) = Fake::start().await;
    let (_link, mut events) = connect(options(address, "closed")).expect("the options are right");
    for n in 0..6_u32 {
        drop(fake.accept().await);
        let Some(Event::Disconnected { failure, retry_in }) =
            soon("a failure", events.next()).await
        else {
            panic!("expected a failure")
        };
        assert_eq!(failure.kind, FailureKind::Dropped);
        let text = failure.to_string();
        assert!(text.contains("`client_id not found`") && text.contains("a proxy"), "{text}");
        assert!(retry_in <= Duration::from_millis((20 << n).min(200)), "{n}: {retry_in:?}");
    }
}

#[tokio::test]
async fn no_answer_to_a_ping_is_noticed_within_two_keep_alives() {
    let (fake, address) = Fake::start().await;
    let quick = Options { keep_alive: Duration::from_secs(1), ..options(address, "half-open") };
    let (_link, mut events) = connect(quick).expect("the options are right");
    let _peer = fake.greet().await;
    let failure = failure(&mut events).await;
    assert_eq!(failure.kind, FailureKind::Timeout);
    assert!(failure.to_string().contains("keep-alive of 1s"), "{failure}");
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
