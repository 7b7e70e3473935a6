//! A task that is part of a federated round: which one, and what became of the
//! update that its guest printed.

use super::TaskSpec;
use super::spec::Life;

/// The variable that makes a task part of a round.
const ROUND_ID: &str = "ROUND_ID";

/// The round that a task is part of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Round {
    /// The round's id.
    pub id: String,
    /// What the result says of the samples that the guest has learned from.
    pub samples: u64,
    /// What the result says of the update's form.
    pub format: String,
}

impl Round {
    /// The round of a task that runs once and names one.
    pub fn of(spec: &TaskSpec) -> Option<Round> {
        if spec.life() != Life::Once || spec.id().invocation().is_some() {
            return None;
        }
        let id = spec.variable(ROUND_ID).filter(|id| !id.is_empty())?.to_owned();
        let samples = spec.variable("FL_NUM_SAMPLES").and_then(|text| text.trim().parse().ok());
        let format = spec.variable("FL_FORMAT").filter(|text| !text.is_empty());
        Some(Round {
            id,
            samples: samples.unwrap_or(1),
            format: format.unwrap_or("f32-delta").to_owned(),
        })
    }

    /// What is to be said of a task that names a round and is no part of it.
    pub fn left_out(spec: &TaskSpec) -> Option<&'static str> {
        let named = spec.variable(ROUND_ID).is_some_and(|id| !id.is_empty());
        (named && Round::of(spec).is_none()).then_some(
            "`ROUND_ID` makes a task part of a federated round only if it runs once: an invocation of \
             a deployed task, a daemon or a server is given no model and no data set, and its output \
             is not sent as an update",
        )
    }

    /// Its end, with nothing known of an update.
    pub fn end(&self) -> RoundEnd {
        RoundEnd {
            round: self.clone(),
            update: UpdateFate::None,
            note: None,
            fetched: 0,
            unsent: None,
        }
    }
}

/// What became of an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpdateFate {
    /// There was none to send.
    None,
    /// The coordinator has counted it.
    Accepted,
    /// It went out on the round's topic.
    Published,
    /// The coordinator will not have it.
    Refused,
    /// It was sent, and nobody knows whether it was counted.
    Unknown,
}

impl UpdateFate {
    /// As results and metrics have it.
    pub fn name(self) -> &'static str {
        match self {
            UpdateFate::None => "none",
            UpdateFate::Accepted => "accepted",
            UpdateFate::Published => "published",
            UpdateFate::Refused => "refused",
            UpdateFate::Unknown => "unknown",
        }
    }
}

/// How a task of a round ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoundEnd {
    /// The round.
    pub round: Round,
    /// What became of the update.
    pub update: UpdateFate,
    /// What is to be known of that: one sentence.
    pub note: Option<String>,
    /// Bytes of the model and the data set.
    pub fetched: u64,
    /// The update that is to go out on the round's topic before the result.
    pub unsent: Option<Vec<u8>>,
}
