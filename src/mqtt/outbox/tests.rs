//! The outbox by itself: what is handed on, acknowledged, lost and suspected.

use proptest::prelude::*;
use tokio::sync::oneshot;

use super::*;
use crate::mqtt::Delivery;

fn message(size: usize) -> (PublishRequest, Delivery) {
    let (done, delivery) = oneshot::channel();
    let payload = Bytes::from(vec![0; size]);
    (PublishRequest { topic: "t".into(), payload, done }, Delivery(delivery))
}

fn result(delivery: &mut Delivery) -> Option<Result<(), PublishError>> {
    delivery.0.try_recv().ok()
}

#[test]
fn no_more_than_the_window_is_under_way() {
    let mut outbox = Outbox::default();
    for _ in 0..WINDOW + 5 {
        outbox.publish(message(1).0);
    }
    let taken = std::iter::from_fn(|| outbox.take()).count();
    assert_eq!(taken, WINDOW);
    outbox.sent(1);
    assert!(outbox.take().is_none());
    outbox.acknowledged(1);
    assert!(outbox.take().is_some());
    assert!(outbox.take().is_none());
}

#[test]
fn an_announcement_goes_first_and_dies_with_its_connection() {
    let mut outbox = Outbox::default();
    outbox.publish(message(1).0);
    let (announcement, mut delivery) = message(2);
    outbox.announce(announcement);
    assert_eq!(outbox.take().map(|(_, payload)| payload.len()), Some(2));
    outbox.connection_lost(false);
    assert_eq!(result(&mut delivery), Some(Err(PublishError::Disconnected)));
    assert_eq!(outbox.take().map(|(_, payload)| payload.len()), Some(1));
}

#[test]
fn what_is_sent_once_goes_behind_all_others_and_dies_with_its_connection() {
    let mut outbox = Outbox::default();
    let [(first, mut sent), (second, mut lost)] = [message(2), message(3)];
    outbox.once(first);
    outbox.once(second);
    for _ in 0..WINDOW {
        outbox.publish(message(1).0);
    }
    assert_eq!(std::iter::from_fn(|| outbox.take()).count(), WINDOW);
    assert!(outbox.take_once().is_none());
    (1..=WINDOW as u16).for_each(|id| outbox.sent(id));
    outbox.acknowledged(1);
    assert_eq!(outbox.take_once().map(|(_, payload)| payload.len()), Some(2));
    assert!(outbox.take_once().is_none());
    outbox.sent(0);
    assert_eq!(result(&mut sent), Some(Ok(())));
    outbox.connection_lost(true);
    assert_eq!(result(&mut lost), Some(Err(PublishError::Disconnected)));
    // Until it is known what the broker does not take, others stay away.
    let (message, mut dropped) = message(4);
    outbox.once(message);
    assert!(outbox.take_once().is_none());
    outbox.drop_once();
    assert_eq!(result(&mut dropped), Some(Err(PublishError::Disconnected)));
}

#[test]
fn heartbeats_that_do_not_get_through_are_dropped() {
    let mut outbox = Outbox::default();
    assert!(outbox.take_beat() && outbox.take_beat());
    assert!(!outbox.take_beat());
    outbox.sent(0);
    assert!(outbox.take_beat());
}

#[test]
fn a_large_message_that_ends_three_connections_alone_is_given_up() {
    let mut outbox = Outbox::default();
    let (large, mut delivery) = message(SUSPECT_SIZE);
    outbox.publish(message(1).0);
    outbox.publish(large);
    outbox.publish(message(1).0);
    // Together with others: no one can say which it was.
    assert_eq!(std::iter::from_fn(|| outbox.take()).count(), 3);
    (1..=3).for_each(|id| outbox.sent(id));
    outbox.connection_lost(true);
    // The first one passes, alone.
    assert!(outbox.take().is_some() && outbox.take().is_none());
    outbox.sent(1);
    outbox.acknowledged(1);
    for _ in 0..ATTEMPTS {
        assert_eq!(result(&mut delivery), None);
        assert!(outbox.take().is_some() && outbox.take().is_none());
        // A connection that ends before it is written does not count.
        outbox.connection_lost(true);
        assert!(outbox.take().is_some() && outbox.take().is_none());
        outbox.sent(1);
        outbox.connection_lost(true);
    }
    assert!(matches!(result(&mut delivery), Some(Err(PublishError::Rejected { .. }))));
    assert!(outbox.take().is_some());
    outbox.sent(1);
    outbox.acknowledged(1);
    assert!(outbox.is_empty());
}

#[test]
fn a_small_message_is_never_given_up() {
    let mut outbox = Outbox::default();
    let (small, mut delivery) = message(1000);
    outbox.publish(small);
    for _ in 0..50 {
        assert!(outbox.take().is_some());
        outbox.sent(1);
        outbox.connection_lost(true);
    }
    assert_eq!(result(&mut delivery), None);
    assert_eq!(outbox.len(), 1);
}

proptest! {
    /// Whatever the connections do: each message is delivered once, in
    /// order, and none is forgotten.
    #[test]
    fn every_message_is_delivered_exactly_once(steps in proptest::collection::vec(0..5_u8, 0..200)) {
        let mut outbox = Outbox::default();
        let mut deliveries = Vec::new();
        let mut ids = VecDeque::new();
        let mut next_id = 0;
        for step in steps {
            match step {
                0 => {
                    let (message, delivery) = message(1);
                    outbox.publish(message);
                    deliveries.push(delivery);
                }
                1 | 2 => {
                    if outbox.take().is_some() {
                        next_id += 1;
                        outbox.sent(next_id);
                        ids.push_back(next_id);
                    }
                }
                3 => {
                    if let Some(id) = ids.pop_front() {
                        outbox.acknowledged(id);
                    }
                }
                _ => {
                    outbox.connection_lost(next_id % 2 == 0);
                    ids.clear();
                }
            }
        }
        outbox.connection_lost(false);
        while outbox.take().is_some() {
            outbox.sent(1);
            outbox.acknowledged(1);
        }
        prop_assert!(outbox.is_empty());
        for mut delivery in deliveries {
            prop_assert_eq!(result(&mut delivery), Some(Ok(())));
        }
    }
}
