//! Looks for what is wrong with a set-up and says how to mend it: the guide's
//! verification checklist as a program.
//!
//! Each check is a function from what it looks at to [`Finding`]s. None of them
//! changes anything: the broker is asked under a client id of its own, so that
//! a worker that runs keeps its connection, and the one message that is
//! published goes to a topic that only a doctor reads.

mod broker;
mod files;
mod host;
mod inference;
mod manager;
mod rounds;
mod settings;
mod state;

use crate::config::{Config, ConfigError, Environment};
use crate::nn::{Nn, NnConfig, OpenVinoConfig};
use crate::worker;
use serde::Serialize;
use std::time::Duration;

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    /// As it should be.
    Ok,
    /// The worker works, but perhaps not as it was meant to.
    Warning,
    /// Tasks will fail, or there will be no worker.
    Failed,
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// What was looked at, in a word or two.
    pub(crate) check: &'static str,
    /// How it came out.
    pub(crate) verdict: Verdict,
    /// One sentence; if something is wrong, with what to do.
    pub(crate) message: String,
    /// More of it, one line each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) details: Vec<String>,
}

impl Finding {
    fn ok(check: &'static str, message: impl Into<String>) -> Finding {
        Finding { check, verdict: Verdict::Ok, message: message.into(), details: Vec::new() }
    }

    fn warning(check: &'static str, message: impl Into<String>) -> Finding {
        Finding { verdict: Verdict::Warning, ..Finding::ok(check, message) }
    }

    fn failed(check: &'static str, message: impl Into<String>) -> Finding {
        Finding { verdict: Verdict::Failed, ..Finding::ok(check, message) }
    }

    fn with(mut self, details: Vec<String>) -> Finding {
        self.details = details;
        self
    }
}

/// What is looked at.
pub(crate) struct SetUp<'a> {
    /// The configuration, or what is wrong with it.
    pub(crate) config: &'a Result<Config, ConfigError>,
    /// What is said of credentials that are missing, if they are.
    pub(crate) missing: Option<&'a str>,
    /// The rest of the process's environment.
    pub(crate) env: &'a Environment,
}

/// Runs all checks, telling each finding as it comes. `watch` is how long the
/// channel is listened to for a manager.
pub(crate) async fn examine(
    &SetUp { config, missing, env }: &SetUp<'_>,
    watch: Duration,
    tell: &mut impl FnMut(Finding),
) {
    let mut each = |findings: Vec<Finding>| findings.into_iter().for_each(&mut *tell);
    each(settings::check(config, missing));
    each(settings::build());
    let Ok(config) = config else {
        // What can be said without a configuration.
        let named = env.variable("PROPLET_OPENVINO_LIB").is_some();
        let nn = Nn::new(NnConfig {
            openvino: OpenVinoConfig {
                library: env.variable("PROPLET_OPENVINO_LIB").map(Into::into),
                search: env.library_search(),
                ..OpenVinoConfig::default()
            },
            ..NnConfig::default()
        });
        each(inference::libraries(&nn, named));
        each(vec![Finding::warning(
            "other checks",
            "tasks, directories, machine and broker were not looked at: they need a configuration \
             without mistakes",
        )]);
        return;
    };
    let policy = worker::policy(config);
    let nn = Nn::new(worker::nn_config(config, &policy));
    each(files::directories(&policy));
    if missing.is_none() {
        each(state::check(config));
    }
    each(inference::libraries(&nn, config.openvino_lib.is_some()));
    each(inference::operators(&nn, config.nn_operators));
    each(inference::tasks(config, &policy, &nn).await);
    each(inference::graphs(config, &policy, &nn).await);
    each(host::check(config, env));
    each(host::clock());
    each(host::port(config));
    if missing.is_some() {
        each(broker::reach(config).await);
        each(vec![Finding::warning(
            "other checks",
            "state, topics, channel, session and manager were not looked at: they need the \
             worker's credentials",
        )]);
        return;
    }
    each(broker::check(config, watch).await);
    each(manager::check(config).await);
    each(rounds::check(config).await);
}
