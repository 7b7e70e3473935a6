//! The manager's HTTP side: whether it answers, and whether it hears the worker.

use super::Finding;
use crate::config::Config;
use crate::manager::{DEAF, Heard, ManagerClient};
use crate::task::humantime;
use crate::worker;

/// Nothing without `--manager-url`.
pub(super) async fn check(config: &Config) -> Vec<Finding> {
    let Some(place) = worker::manager_place(config) else { return Vec::new() };
    let worker = config.credentials.client_id.clone();
    let url = place.url.clone();
    let asked = tokio::task::spawn_blocking(move || {
        let client = match ManagerClient::new(&place) {
            Ok(client) => client,
            Err(e) => return Finding::failed("manager", format!("{e:#}")),
        };
        finding(&url, &worker, client.version(), || client.heard(&worker))
    });
    vec![asked.await.unwrap_or_else(|e| Finding::failed("manager", format!("internal error: {e}")))]
}

fn finding(
    url: &str,
    worker: &str,
    version: Result<String, String>,
    heard: impl FnOnce() -> Result<Heard, String>,
) -> Finding {
    let version = match version {
        Ok(version) => version,
        Err(reason) => {
            return Finding::warning(
                "manager",
                format!(
                    "{reason}; until it answers nobody knows whether results have arrived (is \
                     --manager-url right, and can it be reached from here?)"
                ),
            );
        }
    };
    let reached = format!("{url} was reached (version {version})");
    match heard() {
        Ok(Heard::Ago(ago)) if ago < DEAF => Finding::ok(
            "manager",
            format!("{reached} and heard the worker {worker} {} ago", humantime(ago)),
        ),
        Ok(Heard::Ago(ago)) => Finding::warning(
            "manager",
            format!(
                "{reached}, but heard the worker {worker} last {} ago: the worker does not run, or \
                 the manager does not hear it, because it lost its subscriptions when the broker \
                 restarted (kill it and start it again), or has another domain, channel or broker",
                humantime(ago)
            ),
        ),
        Ok(Heard::Never) => Finding::warning(
            "manager",
            format!(
                "{reached}, but does not know the worker {worker}: it will once the worker runs, \
                 unless it has another domain, channel or broker, or keeps its tasks elsewhere"
            ),
        ),
        Err(reason) => Finding::warning(
            "manager",
            format!("{reached}, but whether it hears the worker {worker} is not known: {reason}"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;
    use std::time::Duration;

    #[test]
    fn what_the_manager_knows_of_the_worker_is_told() {
        let seconds = |n| Ok(Heard::Ago(Duration::from_secs(n)));
        for (heard, verdict, words) in [
            (seconds(3), Verdict::Ok, "heard the worker wrk 3s ago"),
            (seconds(60), Verdict::Warning, "kill it and start it again"),
            (Ok(Heard::Never), Verdict::Warning, "does not know the worker wrk"),
            (Err("forbidden (403)".into()), Verdict::Warning, "403"),
        ] {
            let finding = finding("http://m", "wrk", Ok("1.2".into()), || heard);
            assert_eq!(finding.verdict, verdict, "{finding:?}");
            assert!(finding.message.contains(words), "{finding:?}");
            assert!(finding.message.contains("http://m was reached (version 1.2)"), "{finding:?}");
        }
        let away = finding("http://m", "wrk", Err("no answer from http://m".into()), || seconds(1));
        assert_eq!(away.verdict, Verdict::Warning);
        assert!(away.message.contains("no answer from http://m; until it answers"), "{away:?}");
    }
}
