//! The manager's connection to the broker: a clean session, a fresh client for
//! each connection, publications that wait for the broker's completion.

use super::tasks::{Desk, lock};
use rumqttc::{
    AsyncClient, ConnectReturnCode, Event, EventLoop, MqttOptions, Outgoing, Packet, QoS,
};
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{OwnedMutexGuard, oneshot};

/// Its time between attempts to connect.
const RETRY: Duration = Duration::from_millis(100);

/// The largest packet that MQTT can express.
const LARGEST: usize = 268_435_455;

#[derive(Default)]
pub struct Line {
    connection: Mutex<Option<Connection>>,
    /// The broker has confirmed the subscription, of this connection or, for
    /// one that is deaf after a reconnect, of an earlier one.
    subscribed: AtomicBool,
    /// Locked while it hears a message, or none.
    hearing: Arc<tokio::sync::Mutex<()>>,
}

struct Connection {
    client: AsyncClient,
    /// Who waits for what has no packet id yet, in the order of publication.
    waiting: VecDeque<oneshot::Sender<()>>,
}

/// As long as it is there, the manager hears nothing.
pub struct Still {
    _hearing: OwnedMutexGuard<()>,
}

impl Line {
    /// Publishes at QoS 2 and waits until the broker has it. It may have it
    /// also if the connection ends before.
    pub async fn publish(&self, topic: String, payload: String) -> Result<(), ()> {
        let (completed, completion) = oneshot::channel();
        {
            let mut connection = lock(&self.connection);
            let connection = connection.as_mut().ok_or(())?;
            let sent = connection.client.try_publish(topic, QoS::ExactlyOnce, false, payload);
            sent.map_err(drop)?;
            connection.waiting.push_back(completed);
        }
        completion.await.map_err(drop)
    }

    pub fn listens(&self) -> bool {
        self.subscribed.load(Ordering::SeqCst) && lock(&self.connection).is_some()
    }

    pub fn stand_still(&self) -> Still {
        Still { _hearing: self.hearing.clone().blocking_lock_owned() }
    }
}

/// Connects, over and over.
pub async fn listen(client_id: String, broker: SocketAddr, desk: Arc<Desk>) {
    loop {
        connection(&client_id, broker, &desk).await;
        // Who waits for a completion hears that there is none.
        *lock(&desk.line.connection) = None;
        if !desk.habits.deaf_after_reconnect {
            desk.line.subscribed.store(false, Ordering::SeqCst);
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// One connection, until it ends.
async fn connection(client_id: &str, broker: SocketAddr, desk: &Arc<Desk>) {
    let (client, mut events) = connect(client_id, broker);
    let mut in_flight = HashMap::new();
    loop {
        match events.poll().await {
            Ok(Event::Incoming(Packet::ConnAck(ack))) if ack.code == ConnectReturnCode::Success => {
                if !desk.line.subscribed.load(Ordering::SeqCst) {
                    let subscribed =
                        client.subscribe(desk.topics.from_workers(), QoS::ExactlyOnce).await;
                    subscribed.expect("the event loop is there");
                }
                let connection = Connection { client: client.clone(), waiting: VecDeque::new() };
                *lock(&desk.line.connection) = Some(connection);
            }
            Ok(Event::Incoming(Packet::SubAck(_))) => {
                desk.line.subscribed.store(true, Ordering::SeqCst);
            }
            Ok(Event::Incoming(Packet::Publish(message))) => {
                let _hearing = desk.line.hearing.lock().await;
                desk.heard(&message.topic, &message.payload);
            }
            Ok(Event::Outgoing(Outgoing::Publish(id))) => {
                let mut connection = lock(&desk.line.connection);
                let waiting = connection.as_mut().and_then(|line| line.waiting.pop_front());
                in_flight.extend(waiting.map(|completed| (id, completed)));
            }
            Ok(Event::Incoming(Packet::PubComp(ack))) => {
                if let Some(completed) = in_flight.remove(&ack.pkid) {
                    // It may have been killed meanwhile.
                    completed.send(()).ok();
                }
            }
            Ok(_) => {}
            Err(_) => return,
        }
    }
}

fn connect(client_id: &str, broker: SocketAddr) -> (AsyncClient, EventLoop) {
    let mut options = MqttOptions::new(client_id, broker.ip().to_string(), broker.port());
    options
        .set_clean_session(true)
        .set_keep_alive(Duration::from_secs(60))
        .set_max_packet_size(LARGEST, LARGEST);
    let (client, mut events) = AsyncClient::new(options, 1000);
    let mut network = events.network_options();
    network.set_tcp_nodelay(true);
    network.set_connection_timeout(60);
    events.set_network_options(network);
    (client, events)
}
