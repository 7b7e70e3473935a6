//! Whether the broker is to keep a session for this client, so that what is
//! sent while it is away waits for it: what is asked for next, and what each
//! broker has shown before, in a file of the state directory.
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

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Address;

/// Whether the broker is asked to forget this client when a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CleanSession {
    /// Only if it drops connections that ask for anything else, and has never
    /// accepted one.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// What a broker has granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SessionKind {
    /// It outlives the connection: messages that come meanwhile wait.
    Persistent,
    /// It ends with the connection: messages that come meanwhile are lost.
    Clean,
}

/// Drops in a row after which a clean session is tried.
pub(super) const DROPS: u32 = 2;

/// What to ask for. Pure state.
#[derive(Debug)]
pub(super) struct Choice {
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
    pub(super) fn new(wanted: CleanSession, known: Option<SessionKind>) -> Choice {
        Choice { wanted, known, asked: false, drops: 0 }
    }

    pub(super) fn next(&self) -> SessionKind {
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
    pub(super) fn granted(&mut self, kind: SessionKind) -> bool {
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
    pub(super) fn dropped(&mut self, kind: SessionKind) -> u32 {
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
    pub(super) fn failed(&mut self) {
        self.drops = 0;
    }

    /// Whether a session that the broker has kept is what forbids a clean one.
    pub(super) fn is_bound(&self) -> bool {
        self.wanted == CleanSession::Auto && self.known == Some(SessionKind::Persistent)
    }
}

/// What brokers have granted to this client, by their address, on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionMemory {
    path: PathBuf,
    broker: String,
    known: Option<SessionKind>,
}

impl SessionMemory {
    /// Looks up `broker` in the state directory. Without a memory `otherwise`
    /// is what is known of it.
    pub fn read(
        directory: &Path,
        broker: &Address,
        otherwise: Option<SessionKind>,
    ) -> SessionMemory {
        let broker = broker.to_string();
        let path = directory.join("sessions.json");
        let known = match load(&path) {
            Ok(brokers) => brokers.get(&broker).copied(),
            Err(e) => {
                if e.kind() != io::ErrorKind::NotFound {
                    tracing::error!(
                        "{} can't be read ({e}), so what the broker has granted before is not known",
                        path.display()
                    );
                }
                otherwise
            }
        };
        SessionMemory { path, broker, known }
    }

    /// The same, and sees to it that there is a memory from now on.
    pub fn open(
        directory: &Path,
        broker: &Address,
        otherwise: Option<SessionKind>,
    ) -> SessionMemory {
        let memory = SessionMemory::read(directory, broker, otherwise);
        if !memory.path.exists() {
            memory.keep();
        }
        memory
    }

    /// What this broker is known to grant.
    pub fn known(&self) -> Option<SessionKind> {
        self.known
    }

    fn keep(&self) {
        if let Err(e) = self.store() {
            tracing::warn!(
                "{} can't be written ({e}), so the next start does not know what session the \
                 broker at {} grants",
                self.path.display(),
                self.broker
            );
        }
    }

    /// Keeps what the broker has granted, beside the caller's work.
    pub(super) fn remember(&mut self, kind: SessionKind) {
        self.known = Some(kind);
        let memory = self.clone();
        tokio::task::spawn_blocking(move || memory.keep());
    }

    fn store(&self) -> io::Result<()> {
        if let Some(directory) = self.path.parent() {
            // As the journal would, which comes after this.
            DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        }
        let mut brokers = load(&self.path).unwrap_or_default();
        match self.known {
            Some(kind) => brokers.insert(self.broker.clone(), kind),
            None => brokers.remove(&self.broker),
        };
        let new = self.path.with_extension("new");
        let mut file = File::create(&new)?;
        serde_json::to_writer(&mut file, &brokers)?;
        file.flush()?;
        file.sync_all()?;
        fs::rename(&new, &self.path)
    }
}

fn load(path: &Path) -> io::Result<BTreeMap<String, SessionKind>> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
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

    #[test]
    fn what_a_broker_has_granted_is_remembered_by_its_address() {
        let dir = tempfile::tempdir().expect("a folder");
        let state = dir.path().join("a/b");
        let [one, two] = ["one", "two"].map(|host| Address { host: host.into(), port: 1883 });
        let read = |broker, otherwise| SessionMemory::read(&state, broker, otherwise);
        // A journal from before there was a memory.
        let old = SessionMemory::open(&state, &one, Some(Persistent));
        assert_eq!(old.known(), Some(Persistent));
        let new = read(&two, Some(Persistent));
        assert_eq!(new.known(), None, "there is a memory, and it knows nothing of this one");
        SessionMemory { known: Some(Clean), ..new }.keep();
        assert_eq!(read(&one, None).known(), Some(Persistent));
        assert_eq!(read(&two, None).known(), Some(Clean));
        fs::write(state.join("sessions.json"), "{").expect("written");
        assert_eq!(read(&two, Some(Persistent)).known(), Some(Persistent));
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
