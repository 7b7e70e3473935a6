//! Whether the manager hears this worker.
//!
//! A manager that has lost its subscriptions looks well: it answers over HTTP,
//! the broker acknowledges what is sent to it, and nothing arrives. Its own
//! list of heartbeats tells.

use std::time::{Duration, Instant};

/// Time between two questions.
const EVERY: Duration = Duration::from_secs(10);
/// Silence from which on it is no delay: twelve heartbeats.
pub const DEAF: Duration = Duration::from_secs(60);
/// Time between two warnings that the manager does not answer.
const REMIND: Duration = Duration::from_secs(600);

/// When the manager heard a worker last, by its own clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// It does not know the worker.
    Never,
    /// That long ago, in whole seconds.
    Ago(Duration),
}

/// What there is to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The manager does not hear this worker.
    Deaf(Heard),
    /// It hears it again.
    Hears,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Hearing {
    next: Instant,
    asking: bool,
    /// Since when the broker takes this worker's messages.
    connected: Option<Instant>,
    deaf: bool,
}

impl Hearing {
    /// Asks for the first time at once.
    pub fn new(now: Instant) -> Hearing {
        Hearing { next: now, asking: false, connected: None, deaf: false }
    }

    /// The broker has acknowledged a message of this connection.
    pub fn connected(&mut self, now: Instant) {
        self.connected = Some(now);
    }

    /// There is no connection.
    pub fn disconnected(&mut self) {
        self.connected = None;
    }

    /// When the manager is to be asked.
    pub fn due(&self) -> Option<Instant> {
        (!self.asking).then_some(self.next)
    }

    /// Whether the manager is to be asked now. [`Hearing::answered`] is to
    /// follow.
    pub fn ask(&mut self, now: Instant) -> bool {
        let ask = !self.asking && self.next <= now;
        if ask {
            self.asking = true;
            self.next = now + EVERY;
        }
        ask
    }

    /// The answer; none if there was none that says anything.
    pub fn answered(&mut self, heard: Option<Heard>, now: Instant) -> Option<Change> {
        self.asking = false;
        let heard = heard?;
        let silent = match heard {
            Heard::Never => true,
            Heard::Ago(ago) => ago >= DEAF,
        };
        // Who has not been connected for that long has nothing to be heard.
        let speaking = self.connected.is_some_and(|since| now >= since + DEAF);
        match (silent, self.deaf) {
            (true, false) if speaking => {
                self.deaf = true;
                Some(Change::Deaf(heard))
            }
            (false, true) => {
                self.deaf = false;
                Some(Change::Hears)
            }
            _ => None,
        }
    }
}

/// Sees to it that what fails again and again is said once.
#[derive(Debug, Default)]
pub struct Complaint {
    failing: bool,
    said: Option<Instant>,
}

impl Complaint {
    /// It has failed. Whether that is to be said.
    pub fn failed(&mut self, now: Instant) -> bool {
        let recent = self.said.is_some_and(|said| now < said + REMIND);
        let say = !self.failing && !recent;
        self.failing = true;
        if say {
            self.said = Some(now);
        }
        say
    }

    /// It works.
    pub fn worked(&mut self) {
        self.failing = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_manager_that_hears_nothing_for_a_minute_is_deaf_once() {
        let start = Instant::now();
        let mut hearing = Hearing::new(start);
        hearing.connected(start);
        let mut changes = Vec::new();
        for second in 0..300_u32 {
            let now = start + second * SECOND;
            if hearing.ask(now) {
                // It has heard the worker up to the 20th second, and again from the 200th on.
                let ago = if (20..200).contains(&second) { second - 20 } else { 1 };
                changes.extend(hearing.answered(Some(Heard::Ago(ago * SECOND)), now));
            }
        }
        assert_eq!(changes, [Change::Deaf(Heard::Ago(DEAF)), Change::Hears]);
    }

    #[test]
    fn who_is_not_connected_for_long_is_not_missed() {
        let start = Instant::now();
        let mut hearing = Hearing::new(start);
        assert_eq!(hearing.answered(Some(Heard::Never), start + 100 * SECOND), None);
        hearing.connected(start + 100 * SECOND);
        assert_eq!(hearing.answered(Some(Heard::Never), start + 159 * SECOND), None);
        hearing.disconnected();
        assert_eq!(hearing.answered(Some(Heard::Never), start + 200 * SECOND), None);
        hearing.connected(start + 200 * SECOND);
        let deaf = hearing.answered(Some(Heard::Never), start + 260 * SECOND);
        assert_eq!(deaf, Some(Change::Deaf(Heard::Never)));
        // No answer is no news.
        assert_eq!(hearing.answered(None, start + 270 * SECOND), None);
        let heard = hearing.answered(Some(Heard::Ago(SECOND)), start + 280 * SECOND);
        assert_eq!(heard, Some(Change::Hears));
    }

    #[test]
    fn one_question_is_asked_at_a_time_every_ten_seconds() {
        let start = Instant::now();
        let mut hearing = Hearing::new(start);
        assert_eq!(hearing.due(), Some(start));
        assert!(hearing.ask(start) && !hearing.ask(start + 60 * SECOND));
        assert_eq!(hearing.due(), None);
        hearing.answered(None, start + SECOND);
        assert_eq!(hearing.due(), Some(start + EVERY));
        assert!(!hearing.ask(start + SECOND) && hearing.ask(start + EVERY));
    }

    #[test]
    fn a_failure_is_said_once() {
        let (mut complaint, start) = (Complaint::default(), Instant::now());
        assert!(complaint.failed(start) && !complaint.failed(start + REMIND));
        complaint.worked();
        assert!(complaint.failed(start + 2 * REMIND));
        complaint.worked();
        assert!(!complaint.failed(start + 2 * REMIND + SECOND));
    }
}
