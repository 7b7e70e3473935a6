//! What becomes of a result that the broker does not take: a smaller one.

use crate::mqtt::PublishError;
use crate::protocol::TaskResult;

/// What is tried before a result's outputs are given up: less than any broker
/// in use refuses.
const SHORT: usize = 100 << 10;

/// The result to send in place of this message; none if it is not one.
pub(super) fn smaller(message: &[u8], error: &PublishError) -> Option<TaskResult> {
    let mut result = TaskResult::decode(message).ok()?;
    if message.len() <= SHORT || !matches!(error, PublishError::Rejected { .. }) {
        return Some(result.without_output(format!("the result can't be sent: {error}")));
    }
    result.diagnostics.push(format!(
        "the result was cut to {SHORT} bytes: {error}; PROPLET_RESULT_SIZE cuts results before they \
         are sent"
    ));
    Some(result.cut_to(SHORT))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::{Captured, Failure, Outcome, TaskId};

    #[test]
    fn a_rejected_result_is_cut_once_and_then_given_up() {
        let outcome = Outcome {
            verdict: Ok(()),
            stdout: Captured { bytes: vec![b'x'; 500_000], dropped: 0 },
            ..Outcome::failed(Failure::Stopped)
        };
        let whole = TaskResult::new(&TaskId::new("id").expect("an id"), "w", outcome).encode();
        let rejected = |size| PublishError::Rejected { topic: "t".into(), size, attempts: 3 };
        let cut = smaller(&whole, &rejected(whole.len())).expect("a result");
        assert_eq!(cut.error, None, "it stays what it is");
        assert!(cut.diagnostics[0].contains("closed the connection 3 times"), "{cut:?}");
        let cut = cut.encode();
        assert!(cut.len() <= SHORT && cut.len() > SHORT - 1000, "{}", cut.len());
        let last = smaller(&cut, &rejected(cut.len())).expect("a result");
        assert!(last.error.as_deref().is_some_and(|error| error.contains("can't be sent")));
        assert!(last.encode().len() < 2000);
        // One that is larger than a packet may be is not the broker's to refuse.
        let too_large = PublishError::TooLarge { topic: "t".into(), size: whole.len(), limit: 1 };
        assert!(smaller(&whole, &too_large).is_some_and(|result| result.error.is_some()));
        assert_eq!(smaller(b"{", &too_large), None);
    }
}
