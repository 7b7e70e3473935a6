//! What is written of a task, and how. Pure: bytes in, bytes out.
//!
//! A record is JSON behind a checksum of its own: the store's checksums are
//! looked at only when it repairs itself, and one bad page must cost one
//! record.

use super::Run;
use crate::digest::Digest;
use crate::task::{Life, ManagerState, ModuleSource, Monitoring, TaskId, TaskRequest, Weight};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

/// Bytes of the checksum in front of a record or a result.
const CHECKSUM: usize = 8;

/// What identifies a message: two that ask for the same have the same.
pub type Fingerprint = Digest;

/// A start message that has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// The task that it names.
    pub id: TaskId,
    /// Its content, without `state`.
    pub fingerprint: Fingerprint,
    /// The state that the manager showed for the task when it sent the
    /// message; none if the message had none.
    pub state: Option<ManagerState>,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ending {
    /// When, by the wall clock, because it is compared after a restart; none
    /// if that is not known.
    pub at: Option<SystemTime>,
    /// Without an error.
    pub success: bool,
}

/// A task that was accepted, and whose end is not recorded. What it asked for
/// is read when its turn comes: [`super::JournalReader::request`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The run.
    pub run: Run,
    /// The message.
    pub arrival: Arrival,
    /// What running it means.
    pub life: Life,
    /// The port of an HTTP server.
    pub port: Option<u16>,
    /// A stop came for it.
    pub stopped: bool,
    /// The broker is known to have the acknowledgement of its message.
    pub acknowledged: bool,
    /// It was running when a process died, so it may have been the cause.
    pub suspect: bool,
    /// How often the process died while it ran, with no other task beside it.
    pub deaths: u32,
    /// What it takes on the disk.
    pub weight: Weight,
}

/// A latent task that is deployed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deployed {
    /// The run that prepared it.
    pub run: Run,
    /// The message.
    pub arrival: Arrival,
    /// What it takes on the disk.
    pub weight: Weight,
}

/// A task whose result is recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// The run.
    pub run: Run,
    /// The message.
    pub arrival: Arrival,
    /// How it ended.
    pub ending: Ending,
    /// The result as it is published.
    pub result: bytes::Bytes,
    /// The broker has acknowledged it.
    pub delivered: bool,
    /// When it left, if nobody knows yet whether it has arrived where it is
    /// meant for.
    pub unconfirmed: Option<SystemTime>,
    /// A stop came for it after its end.
    pub stopped: bool,
    /// The broker is known to have the acknowledgement of its message.
    pub acknowledged: bool,
    /// It has answered a start of a task that the manager showed as running.
    pub replayed: bool,
}

/// The record of a run.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Header {
    id: String,
    fingerprint: Fingerprint,
    #[serde(default)]
    state: Option<u8>,
    /// When the run ended, in milliseconds since 1970.
    #[serde(default)]
    at: Option<u64>,
    #[serde(default)]
    success: bool,
    /// None once there is a result.
    pub(super) request: Option<Request>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Request {
    name: String,
    pub(super) module: Module,
    inputs: Vec<String>,
    cli_args: Vec<String>,
    env: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    parent_results: Option<String>,
    daemon: bool,
    latent: bool,
    encrypted: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    monitoring: Option<Monitoring>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Module {
    Absent,
    /// Kept beside the records, once for all that use it.
    Kept(Digest),
    Url(String),
}

impl Header {
    /// Of a run that has been accepted.
    pub(super) fn accepted(arrival: &Arrival, request: &TaskRequest) -> Header {
        Header {
            id: arrival.id.as_str().to_owned(),
            fingerprint: arrival.fingerprint,
            state: arrival.state.map(u8::from),
            at: None,
            success: false,
            request: Some(Request::new(request)),
        }
    }

    /// Of a run that has ended.
    pub(super) fn finished(arrival: &Arrival, ending: Ending) -> Header {
        let at = ending.at.map(|at| {
            let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        });
        Header {
            id: arrival.id.as_str().to_owned(),
            fingerprint: arrival.fingerprint,
            state: arrival.state.map(u8::from),
            at,
            success: ending.success,
            request: None,
        }
    }

    /// The message that the record is of; none if it can't have been one.
    pub(super) fn arrival(&self) -> Option<Arrival> {
        let id = TaskId::new(&self.id).ok()?;
        let state = self.state.map(ManagerState::from);
        Some(Arrival { id, fingerprint: self.fingerprint, state })
    }

    /// How the run ended, if it has.
    pub(super) fn ending(&self) -> Ending {
        let at = |at| SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(at));
        Ending { at: self.at.and_then(at), success: self.success }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        // Strings, numbers and lists can't fail.
        sealed(&serde_json::to_vec(self).expect("a record is valid JSON"))
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Header> {
        serde_json::from_slice(opened(bytes)?).ok()
    }
}

impl Request {
    fn new(request: &TaskRequest) -> Request {
        Request {
            name: request.name.clone(),
            module: match &request.module {
                Some(ModuleSource::Url(url)) => Module::Url(url.clone()),
                Some(ModuleSource::Bytes(bytes)) => Module::Kept(bytes.digest()),
                None => Module::Absent,
            },
            inputs: request.inputs.clone(),
            cli_args: request.cli_args.clone(),
            env: request.env.clone(),
            parent_results: request.parent_results.clone(),
            daemon: request.daemon,
            latent: request.latent,
            encrypted: request.encrypted,
            monitoring: request.monitoring,
        }
    }

    /// What running it means.
    pub(super) fn life(&self) -> Life {
        match (self.latent, self.daemon) {
            (true, _) => Life::Latent,
            (false, true) => Life::Daemon,
            (false, false) => Life::Once,
        }
    }

    /// The request as it came, given its module, without the manager's state:
    /// that decides whether a start is a new run, which this one is.
    pub(super) fn restore(self, id: TaskId, module: Option<ModuleSource>) -> TaskRequest {
        TaskRequest {
            id,
            state: None,
            name: self.name,
            module,
            inputs: self.inputs,
            cli_args: self.cli_args,
            env: self.env,
            parent_results: self.parent_results,
            daemon: self.daemon,
            latent: self.latent,
            encrypted: self.encrypted,
            monitoring: self.monitoring,
        }
    }
}

/// What a request is known by; the manager's state of the task is no part of it.
pub fn fingerprint(request: &TaskRequest) -> Fingerprint {
    let content = (request.id.as_str(), Request::new(request));
    Digest::of(&serde_json::to_vec(&content).expect("a request is valid JSON"))
}

/// A time as it is written: milliseconds since 1970.
pub(super) fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The time that was written so.
pub(super) fn time(millis: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(millis)
}

/// Puts a checksum in front.
pub(super) fn sealed(bytes: &[u8]) -> Vec<u8> {
    let mut sealed = Vec::with_capacity(CHECKSUM + bytes.len());
    sealed.extend_from_slice(&Digest::of(bytes).as_bytes()[..CHECKSUM]);
    sealed.extend_from_slice(bytes);
    sealed
}

/// What is behind the checksum, if that is right.
pub(super) fn opened(sealed: &[u8]) -> Option<&[u8]> {
    let (checksum, bytes) = sealed.split_at_checked(CHECKSUM)?;
    (checksum == &Digest::of(bytes).as_bytes()[..CHECKSUM]).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::Binary;
    use proptest::prelude::*;

    fn request(id: &str, inputs: Vec<String>, module: Option<ModuleSource>) -> TaskRequest {
        TaskRequest {
            name: "name".into(),
            module,
            inputs,
            cli_args: vec!["-S".into(), "nn".into()],
            env: BTreeMap::from([("K".into(), "V".into())]),
            parent_results: Some(r#"{"a": 1}"#.into()),
            monitoring: Some(Monitoring {
                interval: Duration::from_millis(1500),
                cpu: true,
                memory: false,
                disk: true,
                threads: false,
                files: true,
            }),
            ..TaskRequest::new(TaskId::new(id).expect("an id"))
        }
    }

    proptest! {
        #[test]
        fn a_request_is_restored_as_it_came(
            id in "\\PC{1,20}",
            inputs in prop::collection::vec("\\PC{0,20}", 0..4),
        ) {
            let module = ModuleSource::Bytes(Binary::new(*b"wasm"));
            let request = request(&id, inputs, Some(module.clone()));
            let digest = Digest::of(b"wasm");
            let (fingerprint, state) = (fingerprint(&request), Some(ManagerState::Running));
            let arrival = Arrival { id: request.id.clone(), fingerprint, state };
            let header = Header::accepted(&arrival, &request);
            let read = Header::decode(&header.encode()).expect("a record");
            prop_assert_eq!(read.arrival(), Some(arrival));
            let stored = read.request.expect("a request");
            prop_assert_eq!(&stored.module, &Module::Kept(digest));
            prop_assert_eq!(stored.restore(request.id.clone(), Some(module)), request);
        }

        #[test]
        fn a_damaged_record_is_noticed(at in 0_usize..100, bit in 0_u8..8) {
            let mut sealed = sealed(&[7; 92]);
            sealed[at] ^= 1 << bit;
            prop_assert_eq!(opened(&sealed), None);
            prop_assert_eq!(opened(&sealed[..at]), None);
        }
    }

    #[test]
    fn other_content_has_another_fingerprint() {
        let plain = fingerprint(&request("a", vec![], None));
        assert_eq!(plain, fingerprint(&request("a", vec![], None)));
        assert_ne!(plain, fingerprint(&request("a", vec!["1".into()], None)));
        assert_ne!(
            plain,
            fingerprint(&request("a", vec![], Some(ModuleSource::Url("http://x".into()))))
        );
    }
}
