//! The task that owns the connection: connects, polls, and connects again.
//!
//! ```text
//!              ┌────────── back-off ◀─────────────┐
//!              ▼                                  │ failure
//!   Connecting ──CONNACK──▶ Subscribing ──SUBACK, or a message──▶ Ready ──outbox empty──▶ DISCONNECT
//! ```
//!
//! rumqttc's `poll` can't be cancelled without losing what it was writing, so
//! commands are taken *beside* a poll in progress; what they make for the
//! client goes through its request queue, which is larger than all that may
//! be under way and so never full.

use std::ops::ControlFlow;
use std::pin::pin;
use std::time::Duration;

use rumqttc::{
    ConnectionError, Event as ClientEvent, EventLoop, Outgoing as Sent, Packet, QoS,
    SubscribeReasonCode, Transport,
};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use super::failure::Phase;
use super::inbox::Arrivals;
use super::outbox::Outbox;
use super::persistence::Persistence;
use super::session::{Session, set_timeout};
use super::{Backoff, Command, ConnectionFailure, Event, FailureKind, Message, Options};

/// Connections in a row that the broker ended before they were stable, after
/// which another client with the same id is the likely reason.
const TAKEOVERS: u32 = 3;

/// Bytes of messages that have come and are not done with, above which no more
/// is read for a while.
const ARRIVALS: usize = 4 << 20;
/// How long at most, after each message, as a part of the keep-alive: as long
/// as nothing is read nothing is written either, and rumqttc reads ten messages
/// at a time. Whoever can't be done with any message, on a disk that is full,
/// must still publish results.
const PAUSE: u32 = 100;

/// Most that the time for a write grows by.
const SLOWEST: u32 = 32;

pub(super) struct Connector {
    options: Options,
    transport: Transport,
    commands: mpsc::UnboundedReceiver<Command>,
    events: mpsc::UnboundedSender<Event>,
    outbox: Outbox,
    closing: Option<Closing>,
    /// Whether there may be more commands.
    open: bool,
    /// Failures since the last stable connection.
    failures: u32,
    /// Of these, consecutive ones of a connection that had been confirmed and
    /// was closed by the broker.
    closed_early: u32,
    /// Connections so far: tells their acknowledgements apart.
    connections: u64,
    /// What the time for a write is multiplied by.
    slowness: u32,
    persistence: Persistence,
    arrivals: Arrivals,
}

struct Closing {
    deadline: Instant,
    done: oneshot::Sender<usize>,
}

/// How a connection ended.
enum ConnectionEnd {
    /// As asked for.
    Left,
    /// By itself.
    Failed(ConnectionFailure),
}

impl Connector {
    pub(super) fn new(
        options: Options,
        transport: Transport,
        commands: mpsc::UnboundedReceiver<Command>,
        events: mpsc::UnboundedSender<Event>,
    ) -> Connector {
        Connector {
            persistence: Persistence::new(&options),
            options,
            transport,
            commands,
            events,
            outbox: Outbox::default(),
            closing: None,
            open: true,
            failures: 0,
            closed_early: 0,
            connections: 0,
            slowness: 1,
            arrivals: Arrivals::default(),
        }
    }

    /// Runs until the link is closed.
    pub(super) async fn run(mut self) {
        loop {
            let failure = match self.connection().await {
                ConnectionEnd::Left => break,
                ConnectionEnd::Failed(failure) => failure,
            };
            let retry_in = delay(&self.options.backoff, self.failures);
            self.failures = self.failures.saturating_add(1);
            tracing::warn!(
                "connection error: {failure}; next attempt in {:.1} s",
                retry_in.as_secs_f64()
            );
            self.tell(Event::Disconnected { failure, retry_in });
            if self.pause(Instant::now() + retry_in).await.is_break() {
                break;
            }
        }
        if let Some(closing) = self.closing.take() {
            // Whoever stopped waiting does not want to know.
            closing.done.send(self.outbox.len()).ok();
        }
    }

    fn tell(&self, event: Event) {
        // Events that no one takes are of no use to anyone.
        self.events.send(event).ok();
    }

    /// Waits for the next attempt, taking commands meanwhile.
    async fn pause(&mut self, until: Instant) -> ControlFlow<()> {
        loop {
            let closing = self.closing.as_ref().map(|closing| closing.deadline);
            if closing.is_some_and(|deadline| self.outbox.is_empty() || deadline <= Instant::now())
            {
                return ControlFlow::Break(());
            }
            let wake = closing.map_or(until, |deadline| until.min(deadline));
            tokio::select! {
                command = self.commands.recv(), if self.open => self.take(command, None).await?,
                () = sleep_until(wake) => {
                    if wake == until {
                        return ControlFlow::Continue(());
                    }
                }
            }
        }
    }

    /// Makes one connection and stays in it to its end.
    async fn connection(&mut self) -> ConnectionEnd {
        self.connections += 1;
        let (mut session, mut eventloop) = Session::start(
            &self.options,
            &self.transport,
            self.persistence.next(),
            self.connections,
        );
        let ended = loop {
            if self.make_room(&mut session).await.is_break() {
                return ConnectionEnd::Left;
            }
            let polled = {
                let mut poll = pin!(eventloop.poll());
                loop {
                    let deadline = self.deadline(&session);
                    tokio::select! {
                        polled = &mut poll => break Some(polled),
                        command = self.commands.recv(), if self.open => {
                            if self.take(command, Some(&mut session)).await.is_break() {
                                return ConnectionEnd::Left;
                            }
                        }
                        () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                            break None;
                        }
                    }
                }
            };
            let step = match polled {
                Some(Ok(event)) => self.handle(event, &mut session, &mut eventloop).await,
                Some(Err(error)) => self.lost(&error, &mut session, &mut eventloop).await,
                None if self
                    .closing
                    .as_ref()
                    .is_some_and(|closing| closing.deadline <= Instant::now()) =>
                {
                    ControlFlow::Break(ConnectionEnd::Left)
                }
                None => ControlFlow::Break(ConnectionEnd::Failed(
                    ConnectionFailure::subscription_timeout(&self.options),
                )),
            };
            if let ControlFlow::Break(ended) = step {
                break ended;
            }
        };
        let by_the_broker = matches!(&ended, ConnectionEnd::Failed(failure)
            if matches!(failure.kind, FailureKind::Closed | FailureKind::TakenOver));
        self.outbox.connection_lost(by_the_broker);
        ended
    }

    /// Reads nothing more, for a moment, while too much of what has come is not
    /// done with: brokers send far ahead of the acknowledgements.
    async fn make_room(&mut self, session: &mut Session) -> ControlFlow<()> {
        let come = std::mem::take(&mut session.come);
        if !(come && session.phase == Phase::Ready && self.arrivals.exceed(ARRIVALS)) {
            return ControlFlow::Continue(());
        }
        let end = Instant::now() + self.options.keep_alive / PAUSE;
        let mut room = pin!(self.arrivals.at_most(ARRIVALS));
        loop {
            tokio::select! {
                () = &mut room => return ControlFlow::Continue(()),
                () = sleep_until(end) => return ControlFlow::Continue(()),
                command = self.commands.recv(), if self.open => {
                    self.take(command, Some(session)).await?;
                }
            }
        }
    }

    fn deadline(&self, session: &Session) -> Option<Instant> {
        let closing = self.closing.as_ref().map(|closing| closing.deadline);
        [closing, session.deadline].into_iter().flatten().min()
    }

    /// Takes a command; a break is the end of everything.
    async fn take(
        &mut self,
        command: Option<Command>,
        session: Option<&mut Session>,
    ) -> ControlFlow<()> {
        match command {
            Some(Command::Publish(message)) => self.outbox.publish(message),
            Some(Command::Announce(message)) => match &session {
                Some(session) if session.phase == Phase::Ready => self.outbox.announce(message),
                _ => message.resolve(Err(super::PublishError::Disconnected)),
            },
            Some(Command::Once(message)) => match &session {
                Some(session) if session.phase == Phase::Ready && self.closing.is_none() => {
                    self.outbox.once(message);
                }
                _ => message.resolve(Err(super::PublishError::Disconnected)),
            },
            Some(Command::Beat(topic, payload)) => {
                if let Some(session) = session
                    && session.phase == Phase::Ready
                    && self.outbox.take_beat()
                {
                    session.publish(topic, QoS::AtMostOnce, payload).await;
                }
                return ControlFlow::Continue(());
            }
            Some(Command::Ack(ack)) => {
                if let Some(session) = session {
                    for id in session.inbox.acknowledge(ack) {
                        session.acknowledge(id).await;
                    }
                }
                return ControlFlow::Continue(());
            }
            Some(Command::Close { deadline, done }) => {
                // The links that are left can't ask for anything any more.
                self.commands.close();
                self.closing = Some(Closing { deadline, done });
                self.outbox.drop_once();
            }
            None => {
                self.open = false;
                if self.closing.is_none() {
                    // All links are gone.
                    return ControlFlow::Break(());
                }
            }
        }
        match session {
            Some(session) => self.pump(session).await,
            None => ControlFlow::Continue(()),
        }
    }

    /// Hands the client what the window allows, or takes leave.
    async fn pump(&mut self, session: &mut Session) -> ControlFlow<()> {
        if session.phase == Phase::Ready {
            while let Some((topic, payload)) = self.outbox.take() {
                session.publish(topic, self.options.qos.into(), payload).await;
            }
            while let Some((topic, payload)) = self.outbox.take_once() {
                session.publish(topic, QoS::AtMostOnce, payload).await;
            }
        }
        if self.closing.is_some() && self.outbox.is_empty() && !session.leaving {
            if session.phase == Phase::Connecting {
                return ControlFlow::Break(());
            }
            session.leave().await;
        }
        ControlFlow::Continue(())
    }

    /// The connection is gone. What rumqttc had read before it noticed still
    /// counts: an acknowledgement that is forgotten is a message sent twice.
    async fn lost(
        &mut self,
        error: &ConnectionError,
        session: &mut Session,
        eventloop: &mut EventLoop,
    ) -> ControlFlow<ConnectionEnd> {
        for event in std::mem::take(&mut eventloop.state.events) {
            self.absorb(event, session, eventloop).await?;
        }
        if session.leaving {
            // Some brokers close faster than rumqttc reports its DISCONNECT.
            return ControlFlow::Break(ConnectionEnd::Left);
        }
        if matches!(error, ConnectionError::FlushTimeout) {
            self.slowness = (self.slowness * 2).min(SLOWEST);
        }
        let failure = ConnectionFailure::of(error, session.phase, session.kind, &self.options);
        if session.phase == Phase::Connecting {
            self.persistence.refused(session.kind, failure.kind);
        }
        let stable =
            session.ready_since.is_some_and(|since| since.elapsed() >= self.options.backoff.stable);
        if stable {
            self.failures = 0;
        }
        if failure.kind != FailureKind::Closed || stable {
            self.closed_early = 0;
            return ControlFlow::Break(ConnectionEnd::Failed(failure));
        }
        if let Some((topic, size)) = self.outbox.suspect() {
            return ControlFlow::Break(ConnectionEnd::Failed(ConnectionFailure::message_refused(
                topic,
                size,
                &self.options,
            )));
        }
        self.closed_early += 1;
        ControlFlow::Break(ConnectionEnd::Failed(if self.closed_early < TAKEOVERS {
            failure
        } else {
            ConnectionFailure::taken_over(self.closed_early, &self.options)
        }))
    }

    async fn handle(
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
    async fn absorb(
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

/// A random part of a ceiling that doubles with each failure: workers that lost
/// the same broker must not come back in the same instant. Never less than a
/// tenth of it, or a refusal that is quick would make a busy loop.
fn delay(backoff: &Backoff, failures: u32) -> Duration {
    let ceiling = backoff.first.saturating_mul(1 << failures.min(16)).min(backoff.cap);
    ceiling.mul_f64(0.1 + 0.9 * fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_back_off_grows_to_its_cap_and_is_never_nothing() {
        let backoff = Backoff::default();
        for failures in 0..100 {
            let ceiling = Duration::from_secs(1 << failures.min(6)).min(backoff.cap);
            for _ in 0..50 {
                let delay = delay(&backoff, failures);
                assert!(delay <= ceiling && delay >= ceiling / 10, "{failures}: {delay:?}");
            }
        }
    }
}
