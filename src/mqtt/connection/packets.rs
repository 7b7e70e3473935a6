//! What each packet that comes or goes changes.

use std::ops::ControlFlow;

use rumqttc::{Event as ClientEvent, EventLoop, Outgoing as Sent, Packet, SubscribeReasonCode};
use tokio::time::Instant;

use super::{ConnectionEnd, ConnectionLoop};
use crate::mqtt::failure::Phase;
use crate::mqtt::session::{Session, set_timeout};
use crate::mqtt::{ConnectionFailure, Event, Message};

impl ConnectionLoop {
    /// Takes an event of the client, then sends what it makes possible.
    pub(super) async fn handle(
        &mut self,
        event: ClientEvent,
        session: &mut Session,
        eventloop: &mut EventLoop,
    ) -> ControlFlow<ConnectionEnd> {
        self.absorb(event, session, eventloop).await?;
        match self.pump(session).await {
            ControlFlow::Continue(()) => ControlFlow::Continue(()),
            ControlFlow::Break(()) => ControlFlow::Break(ConnectionEnd::Left),
        }
    }

    /// Takes note of an event.
    pub(super) async fn absorb(
        &mut self,
        event: ClientEvent,
        session: &mut Session,
        eventloop: &mut EventLoop,
    ) -> ControlFlow<ConnectionEnd> {
        if let Some(receipt) = session.inbox.saw(&event) {
            self.tell(Event::Acknowledged(receipt));
        }
        match event {
            ClientEvent::Incoming(Packet::ConnAck(connack)) => {
                session.session_present = connack.session_present;
                self.persistence.granted(session.kind);
                session.phase = Phase::Subscribing;
                set_timeout(eventloop, self.options.write_timeout * self.slowness);
                if self.options.subscriptions.is_empty() {
                    self.ready(session);
                } else {
                    session.deadline = Some(Instant::now() + self.options.connect_timeout);
                    session.subscribe(&self.options).await;
                }
            }
            ClientEvent::Incoming(Packet::SubAck(suback)) => {
                for (index, topic) in self.options.subscriptions.iter().enumerate() {
                    let Some(SubscribeReasonCode::Success(_)) = suback.return_codes.get(index)
                    else {
                        let failure = ConnectionFailure::subscription_refused(topic, &self.options);
                        return ControlFlow::Break(ConnectionEnd::Failed(failure));
                    };
                    tracing::info!("Subscribed to topic {topic}");
                }
                session.deadline = None;
                self.ready(session);
            }
            ClientEvent::Incoming(Packet::Publish(publish)) => {
                session.come = true;
                let size = publish.topic.len() + publish.payload.len();
                let message = Message {
                    ack: session.inbox.received(publish.pkid, size, &self.arrivals),
                    topic: publish.topic,
                    payload: publish.payload,
                    duplicate: publish.dup,
                    retained: publish.retain,
                };
                // A broker may send what a session has gathered before it confirms
                // the subscriptions, gigabytes of it: it has to wait like all others.
                self.ready(session);
                if let Some(deadline) = &mut session.deadline {
                    *deadline = Instant::now() + self.options.connect_timeout;
                }
                self.tell(Event::Message(message));
            }
            ClientEvent::Incoming(Packet::PubAck(puback)) => {
                self.outbox.acknowledged(puback.pkid);
                if self.outbox.is_empty() {
                    self.slowness = 1;
                }
            }
            ClientEvent::Outgoing(Sent::Publish(id)) => self.outbox.sent(id),
            ClientEvent::Outgoing(Sent::Disconnect) => {
                return ControlFlow::Break(ConnectionEnd::Left);
            }
            ClientEvent::Incoming(_) | ClientEvent::Outgoing(_) => {}
        }
        ControlFlow::Continue(())
    }

    fn ready(&mut self, session: &mut Session) {
        if session.phase == Phase::Ready {
            return;
        }
        session.phase = Phase::Ready;
        session.ready_since = Some(Instant::now());
        self.tell(Event::Connected {
            session_present: session.session_present,
            session: session.kind,
        });
    }
}
