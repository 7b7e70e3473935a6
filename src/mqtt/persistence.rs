//! Whether the broker is to keep a session for this client, so that what is
//! sent while it is away waits for it: what is asked for next.
//!
//! ```text
//! nothing known ── persistent ── accepted ─▶ persistent from now on
//!                      │ dropped without an answer, twice in a row
//!                      ▼
//!                    clean ── accepted ─▶ clean; the next process asks once for a persistent one
//!                      │ anything else
//!                      └─▶ as before
//! ```
//!
//! A clean session deletes what the broker has kept. A drop without an answer
//! may also be a proxy whose broker is down, so a broker that has kept a
//! session once is never asked for a clean one.

use super::address::Address;
use super::failure::FailureKind;
use super::memory::SessionMemory;
use super::options::Options;
use super::session_kind::{CleanSession, SessionKind};

/// Drops in a row after which a clean session is tried.
const DROPS: u32 = 2;

/// What to ask for. Pure state.
#[derive(Debug)]
struct Choice {
    wanted: CleanSession,
    known: Option<SessionKind>,
    /// Whether this process has asked for a persistent session and seen what
    /// comes of it.
    asked: bool,
    /// Requests for a persistent session in a row that were dropped without an
    /// answer.
    drops: u32,
}

impl Choice {
    fn new(wanted: CleanSession, known: Option<SessionKind>) -> Choice {
        Choice { wanted, known, asked: false, drops: 0 }
    }

    fn next(&self) -> SessionKind {
        use SessionKind::{Clean, Persistent};
        match (self.wanted, self.known) {
            (CleanSession::Always, _) => Clean,
            (CleanSession::Never, _) | (_, Some(Persistent)) => Persistent,
            (_, Some(Clean)) if self.asked => Clean,
            (_, None) if self.drops >= DROPS => Clean,
            _ => Persistent,
        }
    }

    /// The broker has granted what was asked for; says whether that is new.
    fn granted(&mut self, kind: SessionKind) -> bool {
        self.asked |= kind == SessionKind::Persistent;
        self.drops = 0;
        // A clean session that was ordered shows nothing of the other kind.
        let shown = kind == SessionKind::Persistent || self.wanted == CleanSession::Auto;
        let new = shown && self.known != Some(kind);
        if new {
            self.known = Some(kind);
        }
        new
    }

    /// The broker has ended the connection without an answer; gives how often
    /// it has done so in a row if a persistent session was asked for.
    fn dropped(&mut self, kind: SessionKind) -> u32 {
        match kind {
            SessionKind::Persistent => {
                self.asked = true;
                self.drops = self.drops.saturating_add(1);
            }
            SessionKind::Clean => self.drops = 0,
        }
        self.drops
    }

    /// The attempt came to another end.
    fn failed(&mut self) {
        self.drops = 0;
    }

    /// Whether a session that the broker has kept is what forbids a clean one.
    fn is_bound(&self) -> bool {
        self.wanted == CleanSession::Auto && self.known == Some(SessionKind::Persistent)
    }
}

/// [`Choice`] for a broker: remembers what was granted, and logs it.
#[derive(Debug)]
pub(super) struct Persistence {
    choice: Choice,
    memory: Option<SessionMemory>,
    broker: Address,
}

impl Persistence {
    pub(super) fn new(options: &Options) -> Persistence {
        let memory = options.sessions.clone();
        let known = memory.as_ref().and_then(SessionMemory::known);
        let choice = Choice::new(options.clean_session, known);
        Persistence { choice, memory, broker: options.address.clone() }
    }

    /// What to ask for.
    pub(super) fn next(&self) -> SessionKind {
        self.choice.next()
    }

    /// The broker has granted what was asked for.
    pub(super) fn granted(&mut self, kind: SessionKind) {
        if !self.choice.granted(kind) {
            return;
        }
        let broker = &self.broker;
        match kind {
            SessionKind::Persistent => tracing::info!(
                "the broker at {broker} keeps a session for this client: what is sent while it is \
                 away comes later"
            ),
            SessionKind::Clean => tracing::warn!(
                "the broker at {broker} grants a clean session only: tasks that are started while \
                 this worker is away or reconnects are lost; PROPLET_MQTT_CLEAN_SESSION=true asks \
                 for it at once"
            ),
        }
        if let Some(memory) = &mut self.memory {
            memory.remember(kind);
        }
    }

    /// There was no CONNACK that grants what was asked for.
    pub(super) fn refused(&mut self, kind: SessionKind, failure: FailureKind) {
        if failure != FailureKind::Dropped {
            return self.choice.failed();
        }
        let broker = &self.broker;
        let drops = self.choice.dropped(kind);
        if kind == SessionKind::Persistent && self.next() == SessionKind::Clean {
            tracing::warn!(
                "the broker at {broker} drops the connection when it is asked for a persistent \
                 session ({drops}× in a row): trying a clean one"
            );
        } else if drops == DROPS && self.choice.is_bound() {
            tracing::warn!(
                "the broker at {broker} has kept a session for this client before, so a clean one, \
                 which would lose what waits in it, is not tried; if it is another broker now that \
                 keeps none, set PROPLET_MQTT_CLEAN_SESSION=true"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::SessionKind::{Clean, Persistent};
    use super::*;

    #[test]
    fn two_drops_in_a_row_lead_to_one_try_with_a_clean_session() {
        let mut choice = Choice::new(CleanSession::Auto, None);
        for _ in 0..3 {
            assert_eq!(choice.next(), Persistent);
            choice.dropped(Persistent);
            // A refused connection in between: the broker was away.
            choice.failed();
            for drops in 1..=2 {
                assert_eq!(choice.next(), Persistent);
                assert_eq!(choice.dropped(Persistent), drops);
            }
            assert_eq!(choice.next(), Clean);
            choice.dropped(Clean);
        }
        assert_eq!(choice.next(), Persistent);
    }

    #[test]
    fn what_served_is_tried_first_and_each_process_asks_once_for_a_persistent_session() {
        let mut choice = Choice::new(CleanSession::Auto, None);
        choice.dropped(Persistent);
        choice.dropped(Persistent);
        assert!(choice.granted(Clean), "that is new");
        for _ in 0..5 {
            assert_eq!(choice.next(), Clean);
            choice.dropped(Clean);
        }
        let mut next = Choice::new(CleanSession::Auto, Some(Clean));
        // A broker that is not there can't be asked.
        next.failed();
        assert_eq!(next.next(), Persistent);
        next.dropped(Persistent);
        assert_eq!(next.next(), Clean);
        assert!(!next.granted(Clean), "that was known");
        let mut better = Choice::new(CleanSession::Auto, Some(Clean));
        assert!(better.granted(Persistent));
        assert_eq!((better.next(), better.is_bound()), (Persistent, true));
    }

    #[test]
    fn an_order_is_carried_out() {
        let mut always = Choice::new(CleanSession::Always, Some(Persistent));
        assert_eq!(always.next(), Clean);
        assert!(!always.granted(Clean), "it shows nothing");
        let mut never = Choice::new(CleanSession::Never, Some(Clean));
        never.dropped(Persistent);
        never.dropped(Persistent);
        assert_eq!(never.next(), Persistent);
        assert!(never.granted(Persistent), "the next process may be left to choose");
    }

    proptest! {
        /// Whatever happens: a broker that has kept a session is not asked for
        /// a clean one, and no clean one is tried before two drops in a row.
        #[test]
        fn a_session_is_never_given_up(ends in proptest::collection::vec(0..3_u8, 0..100)) {
            let mut choice = Choice::new(CleanSession::Auto, None);
            let (mut kept, mut served, mut drops) = (false, false, 0);
            for end in ends {
                let kind = choice.next();
                if kind == Clean {
                    prop_assert!(!kept && (served || drops >= 2));
                }
                match end {
                    0 => {
                        choice.granted(kind);
                        kept |= kind == Persistent;
                        served |= kind == Clean;
                        drops = 0;
                    }
                    1 => {
                        choice.dropped(kind);
                        drops = if kind == Persistent { drops + 1 } else { 0 };
                    }
                    _ => {
                        choice.failed();
                        drops = 0;
                    }
                }
            }
        }
    }
}
