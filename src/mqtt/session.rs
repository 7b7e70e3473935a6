//! One connection: a fresh rumqttc client, and how far it has come.

use std::time::Duration;

use bytes::Bytes;
use rumqttc::{AsyncClient, EventLoop, MqttOptions, Publish, QoS, SubscribeFilter, Transport};
use tokio::time::Instant;

use super::failure::Phase;
use super::inbox::Inbox;
use super::{LARGEST_PACKET, Options, Qos, SessionKind};

/// Requests that rumqttc may hold: the acknowledgements of as many messages as
/// there are packet ids, and some. It allocates none of it ahead.
const REQUESTS: usize = 1 << 17;

/// Packet ids that rumqttc cycles through. Far more than the window, so that
/// an id is long free when its turn comes again, also with a broker that does
/// not acknowledge in order.
const PACKET_IDS: u16 = 1000;

pub(super) struct Session {
    pub(super) client: AsyncClient,
    /// What the broker was asked for.
    pub(super) kind: SessionKind,
    pub(super) phase: Phase,
    pub(super) ready_since: Option<Instant>,
    /// For the subscriptions to be confirmed.
    pub(super) deadline: Option<Instant>,
    pub(super) session_present: bool,
    pub(super) inbox: Inbox,
    /// A message has come since the last look.
    pub(super) come: bool,
    /// DISCONNECT has been handed to the client.
    pub(super) leaving: bool,
}

impl Session {
    /// Begins a connection; polling the event loop makes it. `number` tells
    /// its acknowledgements from those of other connections.
    pub(super) fn start(
        options: &Options,
        transport: &Transport,
        kind: SessionKind,
        number: u64,
    ) -> (Session, EventLoop) {
        let mut mqtt =
            MqttOptions::new(&options.client_id, &options.address.host, options.address.port);
        mqtt.set_transport(transport.clone())
            .set_clean_session(kind == SessionKind::Clean)
            // rumqttc panics below a second, and MQTT counts to 65,535.
            .set_keep_alive(
                options.keep_alive.clamp(Duration::from_secs(1), Duration::from_secs(65_535)),
            )
            .set_max_packet_size(LARGEST_PACKET, LARGEST_PACKET)
            .set_inflight(PACKET_IDS)
            .set_manual_acks(true);
        if let Some(login) = &options.login {
            mqtt.set_credentials(&login.username, &login.password);
        }
        let (client, mut eventloop) = AsyncClient::new(mqtt, REQUESTS);
        set_timeout(&mut eventloop, options.connect_timeout);
        let session = Session {
            client,
            kind,
            phase: Phase::Connecting,
            ready_since: None,
            deadline: None,
            session_present: false,
            inbox: Inbox::new(number),
            come: false,
            leaving: false,
        };
        (session, eventloop)
    }

    // The requests below wait only for space in rumqttc's queue, of which there
    // always is some; they fail only once its event loop is gone, and then the
    // next poll says so.

    pub(super) async fn publish(&self, topic: String, qos: QoS, payload: Bytes) {
        self.client.publish_bytes(topic, qos, false, payload).await.ok();
    }

    pub(super) async fn acknowledge(&self, id: u16) {
        let mut publish = Publish::new("", QoS::AtLeastOnce, Vec::new());
        publish.pkid = id;
        self.client.ack(&publish).await.ok();
    }

    pub(super) async fn subscribe(&self, options: &Options) {
        let topics = options.subscriptions.iter();
        let filters = topics.map(|topic| SubscribeFilter::new(topic.clone(), options.qos.into()));
        self.client.subscribe_many(filters).await.ok();
    }

    pub(super) async fn leave(&mut self) {
        self.leaving = true;
        self.client.disconnect().await.ok();
    }
}

impl From<Qos> for QoS {
    fn from(qos: Qos) -> QoS {
        match qos {
            Qos::AtMostOnce => QoS::AtMostOnce,
            Qos::AtLeastOnce => QoS::AtLeastOnce,
        }
    }
}

pub(super) fn set_timeout(eventloop: &mut EventLoop, timeout: Duration) {
    let mut network = eventloop.network_options();
    network.set_tcp_nodelay(true);
    // It counts in whole seconds, and uses the time for connecting and writing.
    network.set_connection_timeout(timeout.as_secs_f64().ceil().max(1.0) as u64);
    eventloop.set_network_options(network);
}
