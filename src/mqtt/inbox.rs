//! Which messages wait for their acknowledgement. Pure state: no I/O, no time.
//!
//! MQTT wants acknowledgements in the order in which the messages came (3.1.1,
//! section 4.6), and some brokers end the connection otherwise; callers are
//! free to be done with them in any order.

use std::collections::VecDeque;

/// The right to acknowledge one message, once. Dropped unused, it leaves the
/// message with the broker, which sends it again on another connection.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the broker waits for the acknowledgement of each message"]
pub struct Ack(Option<Received>);

#[derive(Debug, PartialEq, Eq)]
struct Received {
    connection: u64,
    number: u64,
}

/// The messages of one connection that are not acknowledged yet, oldest first.
#[derive(Debug)]
pub(super) struct Inbox {
    connection: u64,
    /// The number of the first of `waiting`.
    first: u64,
    waiting: VecDeque<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    id: u16,
    done: bool,
}

impl Inbox {
    pub(super) fn new(connection: u64) -> Inbox {
        Inbox { connection, first: 0, waiting: VecDeque::new() }
    }

    /// A message came under this packet id; 0 is that of QoS 0, which is never
    /// acknowledged.
    pub(super) fn received(&mut self, id: u16) -> Ack {
        if id == 0 {
            return Ack(None);
        }
        let number = self.first + self.waiting.len() as u64;
        self.waiting.push_back(Waiting { id, done: false });
        Ack(Some(Received { connection: self.connection, number }))
    }

    /// Marks a message, and gives the packet ids to acknowledge now.
    pub(super) fn acknowledge(&mut self, ack: Ack) -> Vec<u16> {
        let Some(received) = ack.0.filter(|received| received.connection == self.connection) else {
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
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_ack_of_an_earlier_connection_means_nothing() {
        let ack = Inbox::new(1).received(7);
        let mut inbox = Inbox::new(2);
        let own = inbox.received(7);
        assert!(inbox.acknowledge(ack).is_empty());
        assert_eq!(inbox.acknowledge(own), [7]);
    }

    proptest! {
        #[test]
        fn acknowledgements_leave_in_the_order_of_arrival(
            order in Just((0..30_u16).collect::<Vec<_>>()).prop_shuffle(),
        ) {
            let mut inbox = Inbox::new(0);
            let mut acks: Vec<_> = (1..=30).map(|id| Some(inbox.received(id))).collect();
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
