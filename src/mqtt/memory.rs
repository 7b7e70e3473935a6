//! What brokers have granted to this client before, by their address: a file
//! in the state directory.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use super::address::Address;
use super::session_kind::SessionKind;

/// What one of them has granted.
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
    use super::SessionKind::{Clean, Persistent};
    use super::*;

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
}
