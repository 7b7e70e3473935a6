//! What is on its way to the broker. Pure state: no I/O, no time.
//!
//! A published message stays here until its PUBACK. rumqttc chooses the
//! packet ids, and tells them in the order in which it was handed the
//! messages; so each message goes from `entries` through `handed` (id not yet
//! known) to `in_flight` (by id), and out, or back to `entries` when the
//! connection is lost.
use std::collections::{BTreeMap, HashMap, VecDeque};

use bytes::Bytes;

use super::{PublishError, PublishRequest};

/// Unacknowledged messages at a time. mosquitto's default is 20; more gains
/// nothing, and each is sent again after a lost connection.
pub(super) const WINDOW: usize = 20;

/// Connections that a message may end, sent all alone, before it is given up.
const ATTEMPTS: u32 = 3;

/// Messages smaller than this are never given up: no broker's limit is as low,
/// so something else ends those connections. (AWS IoT, the lowest in use, takes
/// 128 KiB.)
const SUSPECT_SIZE: usize = 64 * 1024;

/// Heartbeats that may wait inside rumqttc before more of them are dropped.
const BEATS: usize = 2;

#[derive(Debug, Default)]
pub(super) struct Outbox {
    entries: BTreeMap<u64, PendingMessage>,
    next: u64,
    announcements: VecDeque<PublishRequest>,
    once: VecDeque<PublishRequest>,
    /// The first of `entries` that this connection has not been handed.
    unsent: u64,
    handed: VecDeque<Handed>,
    in_flight: HashMap<u16, Handed>,
    beats: usize,
    /// The broker ended a connection with messages in flight: until all is
    /// delivered they go one at a time, so that one which it does not take can
    /// be told from the others.
    cautious: bool,
}

#[derive(Debug)]
struct PendingMessage {
    message: PublishRequest,
    attempts: u32,
}

#[derive(Debug)]
enum Handed {
    Entry(u64),
    Announcement(PublishRequest),
    Once(PublishRequest),
    Beat,
}

impl Outbox {
    pub(super) fn publish(&mut self, message: PublishRequest) {
        self.entries.insert(self.next, PendingMessage { message, attempts: 0 });
        self.next += 1;
    }

    pub(super) fn announce(&mut self, message: PublishRequest) {
        self.announcements.push_back(message);
    }

    pub(super) fn once(&mut self, message: PublishRequest) {
        self.once.push_back(message);
    }

    /// What was to be sent once is not sent any more.
    pub(super) fn drop_once(&mut self) {
        self.once.drain(..).for_each(|message| message.resolve(Err(PublishError::Disconnected)));
    }

    /// Messages that the broker has not acknowledged.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing at all is under way.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
            && self.announcements.is_empty()
            && self.handed.is_empty()
            && self.in_flight.is_empty()
    }

    /// The next message to hand to rumqttc, if the window allows one. It
    /// counts as handed.
    pub(super) fn take(&mut self) -> Option<(String, Bytes)> {
        if self.under_way() >= if self.cautious { 1 } else { WINDOW } {
            return None;
        }
        if let Some(message) = self.announcements.pop_front() {
            let copy = (message.topic.clone(), message.payload.clone());
            self.handed.push_back(Handed::Announcement(message));
            return Some(copy);
        }
        let (&number, entry) = self.entries.range(self.unsent..).next()?;
        self.unsent = number + 1;
        self.handed.push_back(Handed::Entry(number));
        Some((entry.message.topic.clone(), entry.message.payload.clone()))
    }

    /// The next message to send once, if all others are under way. It counts as
    /// handed.
    pub(super) fn take_once(&mut self) -> Option<(String, Bytes)> {
        // One that the broker does not take must stay alone.
        if self.cautious || self.under_way() >= WINDOW {
            return None;
        }
        let message = self.once.pop_front()?;
        let copy = (message.topic.clone(), message.payload.clone());
        self.handed.push_back(Handed::Once(message));
        Some(copy)
    }

    fn under_way(&self) -> usize {
        self.handed.len() - self.beats + self.in_flight.len()
    }

    /// Whether a heartbeat may be handed to rumqttc. It then counts as handed.
    pub(super) fn take_beat(&mut self) -> bool {
        let allowed = self.beats < BEATS;
        if allowed {
            self.beats += 1;
            self.handed.push_back(Handed::Beat);
        }
        allowed
    }

    /// rumqttc has sent the oldest of what it was handed, under this id; 0 is
    /// that of QoS 0, which is never acknowledged.
    pub(super) fn sent(&mut self, id: u16) {
        match self.handed.pop_front() {
            Some(Handed::Beat) => self.beats -= 1,
            Some(message) if id == 0 => self.delivered(message),
            Some(message) => {
                self.in_flight.insert(id, message);
            }
            None => tracing::error!("rumqttc sent packet {id}, which it was not handed"),
        }
    }

    /// The broker has acknowledged this id.
    pub(super) fn acknowledged(&mut self, id: u16) {
        if let Some(message) = self.in_flight.remove(&id) {
            self.delivered(message);
        }
    }

    fn delivered(&mut self, message: Handed) {
        match message {
            Handed::Entry(number) => {
                if let Some(entry) = self.entries.remove(&number) {
                    entry.message.resolve(Ok(()));
                }
                self.cautious &= !self.entries.is_empty();
            }
            Handed::Announcement(message) | Handed::Once(message) => message.resolve(Ok(())),
            Handed::Beat => {}
        }
    }

    /// The largest message on the wire, if brokers with a limit that it
    /// exceeds are in use.
    pub(super) fn suspect(&self) -> Option<(&str, usize)> {
        let messages = self.in_flight.values().filter_map(|handed| match handed {
            Handed::Entry(number) => self.entries.get(number).map(|entry| &entry.message),
            Handed::Announcement(message) => Some(message),
            // Of these none is acknowledged.
            Handed::Once(_) | Handed::Beat => None,
        });
        let largest = messages.max_by_key(|message| message.packet_size())?;
        let size = largest.packet_size();
        (size >= SUSPECT_SIZE).then_some((&largest.topic, size))
    }

    /// The connection is gone: everything unacknowledged is to be sent again,
    /// in the order in which it was published.
    pub(super) fn connection_lost(&mut self, by_the_broker: bool) {
        let mut sent = Vec::new();
        for (_, message) in self.in_flight.drain() {
            match message {
                Handed::Entry(number) => sent.push(number),
                Handed::Announcement(message) | Handed::Once(message) => {
                    message.resolve(Err(PublishError::Disconnected));
                }
                Handed::Beat => {}
            }
        }
        // What rumqttc never wrote can't be what ended the connection.
        let unwritten = self.handed.drain(..).filter_map(|handed| match handed {
            Handed::Announcement(message) | Handed::Once(message) => Some(message),
            Handed::Entry(_) | Handed::Beat => None,
        });
        let waiting = self.announcements.drain(..).chain(self.once.drain(..));
        for message in unwritten.chain(waiting) {
            message.resolve(Err(PublishError::Disconnected));
        }
        self.beats = 0;
        self.unsent = 0;
        if by_the_broker && !sent.is_empty() {
            if let ([number], true) = (&sent[..], self.cautious) {
                self.blame(*number);
            }
            self.cautious = !self.entries.is_empty();
        }
    }

    /// Counts a connection that ended while this message alone was under way.
    fn blame(&mut self, number: u64) {
        let Some(entry) = self.entries.get_mut(&number) else {
            return;
        };
        entry.attempts += 1;
        let size = entry.message.packet_size();
        if size < SUSPECT_SIZE || entry.attempts < ATTEMPTS {
            return;
        }
        let attempts = entry.attempts;
        if let Some(PendingMessage { message, .. }) = self.entries.remove(&number) {
            let topic = message.topic.clone();
            let error = PublishError::Rejected { topic, size, attempts };
            tracing::error!("{error}");
            message.resolve(Err(error));
        }
    }
}

#[cfg(test)]
mod tests;
