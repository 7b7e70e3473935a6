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

mod packets;

use std::ops::ControlFlow;
use std::pin::pin;

use rumqttc::{ConnectionError, EventLoop, QoS, Transport};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use super::arrivals::Arrivals;
use super::failure::Phase;
use super::outbox::Outbox;
use super::persistence::Persistence;
use super::session::Session;
use super::{Command, ConnectionFailure, Event, FailureKind, Options};

/// Connections in a row that the broker ended before they were stable, after
/// which another client with the same id is the likely reason.
const TAKEOVERS: u32 = 3;

/// Most that the time for a write grows by.
const SLOWEST: u32 = 32;

pub(super) struct ConnectionLoop {
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
    /// The next attempt has what the last one lacked, perhaps.
    renewed: bool,
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

impl ConnectionLoop {
    pub(super) fn new(
        options: Options,
        transport: Transport,
        commands: mpsc::UnboundedReceiver<Command>,
        events: mpsc::UnboundedSender<Event>,
    ) -> ConnectionLoop {
        ConnectionLoop {
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
            renewed: false,
        }
    }

    /// Runs until the link is closed.
    pub(super) async fn run(mut self) {
        loop {
            let failure = match self.connection().await {
                ConnectionEnd::Left => break,
                ConnectionEnd::Failed(failure) => failure,
            };
            let retry_in = self.options.backoff.delay(self.failures);
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
                command = self.commands.recv(), if self.open => {
                    self.take(command, None).await?;
                    if std::mem::take(&mut self.renewed) {
                        return ControlFlow::Continue(());
                    }
                }
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
    /// done with.
    async fn make_room(&mut self, session: &mut Session) -> ControlFlow<()> {
        let come = std::mem::take(&mut session.come);
        if !(come && session.phase == Phase::Ready) {
            return ControlFlow::Continue(());
        }
        let mut room = pin!(self.arrivals.room(self.options.keep_alive));
        loop {
            tokio::select! {
                biased;
                () = &mut room => return ControlFlow::Continue(()),
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
            Some(Command::Renew(renewal)) => {
                self.options.login = renewal.login;
                self.transport = renewal.transport;
                self.renewed = true;
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
}
