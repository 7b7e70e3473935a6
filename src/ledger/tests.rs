//! Sequences of events: by hand, and at random against a world in one thread.

use super::*;
use crate::digest::Digest;
use crate::journal::{Arrival, Ending, Finished, Recovered, Waiting};
use crate::protocol::TaskResult;
use crate::queue::Admission;
use crate::task::{
    Captured, EntryPoint, Grant, Life, Limits, ModuleSource, Outcome, TaskRequest, TaskSpec, Weight,
};
use bytes::Bytes;
use proptest::prelude::*;
use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, SystemTime};

mod lives;
mod starts;
mod worker;
mod world;

fn id(name: &str) -> TaskId {
    TaskId::new(name).expect("an id")
}

fn state(number: u8) -> Option<ManagerState> {
    Some(ManagerState::from(number))
}

fn request(name: &str, content: &str) -> TaskRequest {
    TaskRequest { name: content.into(), ..TaskRequest::new(id(name)) }
}

fn arrival(name: &str, content: &str, state: Option<ManagerState>) -> Arrival {
    Arrival { id: id(name), fingerprint: Digest::of(content.as_bytes()), state }
}

fn spec(id: &TaskId) -> TaskSpec {
    let limits = Limits { timeout: None, run: None, memory: None, output: 0 };
    let grant = Grant {
        args: vec![],
        env: vec![],
        dirs: vec![],
        entry: EntryPoint::Label(String::new()),
        nn: None,
        serving: None,
        notes: vec![],
        limits,
    };
    TaskSpec::new(id.clone(), ModuleSource::Url(String::new()), grant)
}

fn printed(text: &str) -> Outcome {
    let stdout = Captured { bytes: text.into(), dropped: 0 };
    Outcome { verdict: Ok(()), stdout, ..Outcome::failed(Failure::Stopped) }
}

/// Whether this is that result, marked as replayed.
fn is_replay_of(replayed: &[u8], result: &[u8]) -> bool {
    replayed == TaskResult::replayed(result)
        && serde_json::from_slice::<serde_json::Value>(replayed)
            .is_ok_and(|json| json["replayed"] == true)
}
