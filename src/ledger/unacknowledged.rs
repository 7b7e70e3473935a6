//! Starts whose acknowledgement is not known to have reached the broker.

use crate::journal::Run;
use crate::mqtt::Receipt;
use crate::task::TaskId;
use std::collections::VecDeque;

/// What a start was to a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// It began the run.
    Start,
    /// It got the run's result again.
    Answer,
}

/// In the order of their arrival. The broker sends only so many messages ahead
/// of their acknowledgements, so there are few.
#[derive(Debug, Default)]
pub(super) struct Receipts(VecDeque<(Receipt, TaskId, Run, Role)>);

impl Receipts {
    /// A start has come. One of QoS 0 has no receipt, and never comes again.
    pub(super) fn expect(&mut self, receipt: Option<Receipt>, id: &TaskId, run: Run, role: Role) {
        if let Some(receipt) = receipt {
            self.0.push_back((receipt, id.clone(), run, role));
        }
    }

    /// The next one whose acknowledgement the broker has, if it has those of
    /// its connection up to this one.
    pub(super) fn known(&mut self, upto: Receipt) -> Option<(Receipt, TaskId, Run, Role)> {
        while self.0.front().is_some_and(|(receipt, ..)| *receipt <= upto) {
            let next = self.0.pop_front()?;
            // What an earlier connection took with it will never be known.
            if next.0.connection == upto.connection {
                return Some(next);
            }
        }
        None
    }
}
