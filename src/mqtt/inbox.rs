//! Which messages wait for their acknowledgement, and of which the broker is
//! known to have it. Pure state: no I/O, no time.
//!
//! MQTT wants acknowledgements in the order in which the messages came (3.1.1,
//! section 4.6), and some brokers end the connection otherwise; callers are
//! free to be done with them in any order.
//!
//! MQTT confirms no acknowledgement. But a broker reads what it is sent in
//! order: its answer to a packet that was written *after* an acknowledgement
//! shows that it has read both. That anything at all came shows nothing, for it
//! may have been under way already.

use std::collections::{HashMap, VecDeque};

use rumqttc::{Event, Outgoing, Packet, PubAck, SubAck};

use super::arrivals::{Arrivals, ArrivedBytes};

/// The right to acknowledge one message, once. Dropped unused, it leaves the
/// message with the broker, which sends it again on another connection.
///
/// Until it is used or dropped, the message counts as one that takes up memory.
#[derive(Debug)]
#[must_use = "the broker waits for the acknowledgement of each message"]
pub struct Ack {
    receipt: Option<Receipt>,
    _held: ArrivedBytes,
}

impl Ack {
    /// What [`super::Event::Acknowledged`] will name, this one or a later one
    /// of the same connection, once the broker is known to have the
    /// acknowledgement; `None` for a message of QoS 0, which has none.
    pub fn receipt(&self) -> Option<Receipt> {
        self.receipt
    }
}

/// A message's place in the order of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Receipt {
    /// Connections are counted from 1. What is known of one says nothing of
    /// the messages of another.
    pub connection: u64,
    /// Its messages are counted from 0.
    pub number: u64,
}

/// What a broker answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum SentPacket {
    /// A publish or a subscription, by its packet id.
    Packet(u16),
    Ping,
}

/// The messages of one connection that are not acknowledged yet, oldest first.
#[derive(Debug)]
pub(super) struct Inbox {
    connection: u64,
    /// The number of the first of `waiting`.
    first: u64,
    waiting: VecDeque<UnacknowledgedMessage>,
    /// Acknowledgements that have been written.
    written: u64,
    /// Of these, what the broker is known to have.
    known: u64,
    /// What the broker has not answered yet, with `written` as it was then.
    open: HashMap<SentPacket, u64>,
}

#[derive(Debug)]
struct UnacknowledgedMessage {
    id: u16,
    done: bool,
}

impl Inbox {
    pub(super) fn new(connection: u64) -> Inbox {
        Inbox {
            connection,
            first: 0,
            waiting: VecDeque::new(),
            written: 0,
            known: 0,
            open: HashMap::new(),
        }
    }

    /// A message of so many bytes came under this packet id; 0 is that of
    /// QoS 0, which is never acknowledged.
    pub(super) fn received(&mut self, id: u16, bytes: usize, arrivals: &Arrivals) -> Ack {
        let receipt = (id != 0).then(|| {
            let number = self.first + self.waiting.len() as u64;
            self.waiting.push_back(UnacknowledgedMessage { id, done: false });
            Receipt { connection: self.connection, number }
        });
        Ack { receipt, _held: arrivals.hold(bytes) }
    }

    /// Marks a message, and gives the packet ids to acknowledge now.
    pub(super) fn acknowledge(&mut self, ack: Ack) -> Vec<u16> {
        let Some(received) = ack.receipt.filter(|received| received.connection == self.connection)
        else {
            return Vec::new();
        };
        let index = received.number.checked_sub(self.first).and_then(|n| usize::try_from(n).ok());
        if let Some(waiting) = index.and_then(|index| self.waiting.get_mut(index)) {
            waiting.done = true;
        }
        let ready = self.waiting.iter().take_while(|waiting| waiting.done).count();
        self.first += ready as u64;
        self.waiting.drain(..ready).map(|waiting| waiting.id).collect()
    }

    /// Takes note of what rumqttc has written or read, in its order; gives what
    /// [`Inbox::answered`] does.
    pub(super) fn saw(&mut self, event: &Event) -> Option<Receipt> {
        match event {
            Event::Outgoing(Outgoing::PubAck(_)) => self.written(),
            // Of QoS 0, which is not answered.
            Event::Outgoing(Outgoing::Publish(0)) => {}
            Event::Outgoing(Outgoing::Publish(id) | Outgoing::Subscribe(id)) => {
                self.asked(SentPacket::Packet(*id));
            }
            Event::Outgoing(Outgoing::PingReq) => self.asked(SentPacket::Ping),
            Event::Incoming(Packet::PubAck(PubAck { pkid: id }))
            | Event::Incoming(Packet::SubAck(SubAck { pkid: id, .. })) => {
                return self.answered(SentPacket::Packet(*id));
            }
            Event::Incoming(Packet::PingResp) => return self.answered(SentPacket::Ping),
            Event::Incoming(_) | Event::Outgoing(_) => {}
        }
        None
    }

    /// The oldest acknowledgement that was not written yet has been.
    fn written(&mut self) {
        self.written += 1;
    }

    /// Something has been written that the broker answers.
    fn asked(&mut self, question: SentPacket) {
        self.open.insert(question, self.written);
    }

    /// The broker has answered; gives the last message whose acknowledgement
    /// it is now known to have, if that was not known before.
    fn answered(&mut self, question: SentPacket) -> Option<Receipt> {
        let written = self.open.remove(&question)?;
        if written <= self.known {
            return None;
        }
        self.known = written;
        Some(Receipt { connection: self.connection, number: written - 1 })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn received(inbox: &mut Inbox, id: u16) -> Ack {
        inbox.received(id, 0, &Arrivals::default())
    }

    #[test]
    fn an_ack_of_an_earlier_connection_means_nothing() {
        let ack = received(&mut Inbox::new(1), 7);
        let mut inbox = Inbox::new(2);
        let own = received(&mut inbox, 7);
        assert!(inbox.acknowledge(ack).is_empty());
        assert_eq!(inbox.acknowledge(own), [7]);
    }

    #[test]
    fn a_message_of_qos_0_has_no_receipt() {
        let mut inbox = Inbox::new(1);
        assert_eq!(received(&mut inbox, 0).receipt(), None);
        assert_eq!(received(&mut inbox, 7).receipt(), Some(Receipt { connection: 1, number: 0 }));
    }

    #[test]
    fn an_answer_to_what_went_before_the_acknowledgement_shows_nothing() {
        let mut inbox = Inbox::new(3);
        let ack = received(&mut inbox, 7);
        let receipt = ack.receipt();
        inbox.asked(SentPacket::Packet(1));
        assert_eq!(inbox.acknowledge(ack), [7]);
        inbox.written();
        assert_eq!(inbox.answered(SentPacket::Packet(1)), None);
        inbox.asked(SentPacket::Ping);
        assert_eq!(inbox.answered(SentPacket::Ping), receipt);
        inbox.asked(SentPacket::Ping);
        assert_eq!(inbox.answered(SentPacket::Ping), None, "that was known");
        assert_eq!(inbox.answered(SentPacket::Packet(9)), None, "that was not asked");
    }

    proptest! {
        /// A broker that reads in order and answers in any order: what is
        /// known is what it has read, and all of it once it has answered the
        /// last question.
        #[test]
        fn what_is_known_is_what_the_broker_has_read(
            steps in proptest::collection::vec((0..4_u8, any::<prop::sample::Index>()), 0..200),
        ) {
            enum Wire { Ack, Question(SentPacket) }
            let mut inbox = Inbox::new(1);
            let (mut wire, mut next, mut asked) = (VecDeque::new(), 0, 0);
            let (mut unanswered, mut read, mut known) = (Vec::new(), 0, None);
            for (step, index) in steps {
                match step {
                    0 => {
                        next += 1;
                        let ack = received(&mut inbox, next);
                        for _ in inbox.acknowledge(ack) {
                            inbox.written();
                            wire.push_back(Wire::Ack);
                        }
                    }
                    1 => {
                        asked += 1;
                        inbox.asked(SentPacket::Packet(asked));
                        wire.push_back(Wire::Question(SentPacket::Packet(asked)));
                    }
                    2 => match wire.pop_front() {
                        Some(Wire::Ack) => read += 1,
                        Some(Wire::Question(question)) => unanswered.push((question, read)),
                        None => {}
                    },
                    _ if unanswered.is_empty() => {}
                    _ => {
                        let (question, shown) = unanswered.swap_remove(index.index(unanswered.len()));
                        if let Some(receipt) = inbox.answered(question) {
                            prop_assert!(known < Some(receipt) && receipt.number < read);
                            known = Some(receipt);
                        }
                        prop_assert!(known.map_or(0, |known| known.number + 1) >= shown);
                    }
                }
            }
        }

        #[test]
        fn acknowledgements_leave_in_the_order_of_arrival(
            order in Just((0..30_u16).collect::<Vec<_>>()).prop_shuffle(),
        ) {
            let mut inbox = Inbox::new(0);
            let mut acks: Vec<_> = (1..=30).map(|id| Some(received(&mut inbox, id))).collect();
            let mut left = Vec::new();
            for index in order {
                if let Some(ack) = acks[usize::from(index)].take() {
                    left.extend(inbox.acknowledge(ack));
                }
            }
            prop_assert_eq!(left, (1..=30).collect::<Vec<_>>());
        }
    }
}
