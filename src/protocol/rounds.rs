//! The result of a task of a federated round, and the topic for updates.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::task::{Captured, RoundEnd, TaskId};

/// The field of the envelope that holds the guest's output.
pub(super) const UPDATE: &str = "update_b64";

/// What stands in `results`: the update, and what became of it.
pub(super) fn envelope(id: &TaskId, proplet_id: &str, end: &RoundEnd, stdout: &Captured) -> Value {
    let mut envelope = json!({
        "task_id": id.as_str(),
        "round_id": end.round.id,
        "proplet_id": proplet_id,
        "num_samples": end.round.samples,
        UPDATE: STANDARD.encode(&stdout.bytes),
        "format": end.round.format,
        "metrics": {},
        "update": end.update.name(),
    });
    if let Some(note) = &end.note {
        envelope["note"] = note.as_str().into();
    }
    envelope
}

/// Where updates go that no coordinator is there for. It is no topic of a channel.
pub fn update_topic(round: &str, proplet_id: &str) -> String {
    format!("fl/rounds/{round}/updates/{proplet_id}")
}
