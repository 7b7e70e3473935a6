//! The services of federated rounds: whether each answers.

use super::Finding;
use crate::config::Config;
use crate::manager::{Rounds, Service};
use crate::worker;

/// Nothing without any.
pub(super) async fn check(config: &Config) -> Vec<Finding> {
    let services = worker::round_services(&config.rounds, &config.working_dir);
    let worker = config.credentials.client_id.clone();
    let asked = tokio::task::spawn_blocking(move || {
        let rounds = match Rounds::new(services, &worker, None) {
            Ok(rounds) => rounds,
            Err(e) => return vec![Finding::failed("rounds", format!("{e:#}"))],
        };
        let asked = rounds.ask().into_iter();
        asked.map(|(service, url, answer)| finding(service, &url, answer)).collect()
    });
    asked.await.unwrap_or_else(|e| vec![Finding::failed("rounds", format!("internal error: {e}"))])
}

/// The answer is its status, or why there is none.
fn finding(service: Service, url: &str, answer: Result<(), String>) -> Finding {
    let name = service.name();
    match answer {
        Ok(()) => Finding::ok("rounds", format!("the {name} at {url} was reached")),
        Err(reason) => Finding::warning(
            "rounds",
            format!(
                "the {name} of federated rounds: {reason}; tasks of a round will fail or keep their \
                 updates (is its address right, and can it be reached from here?)"
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    #[test]
    fn what_does_not_answer_is_a_warning_that_says_so() {
        let ok = finding(Service::Store, "http://s", Ok(()));
        assert!(ok.verdict == Verdict::Ok && ok.message.contains("data store at http://s"));
        let away = finding(Service::Coordinator, "http://c", Err("no way to http://c: x".into()));
        assert_eq!(away.verdict, Verdict::Warning);
        assert!(away.message.contains("coordinator of federated rounds: no way to http://c: x"));
    }
}
