//! What takes effect while the worker runs when its configuration is read again:
//! what tasks may have, what the runtime is made of, how the broker hears who
//! this is. The rest is for the next start, and named.

use super::runtime::Tasker;
use super::setup;
use super::status as told;
use crate::config::{Config, Isolation};
use crate::mqtt::{self, Link};
use crate::policy::{Policy, Resolve};
use crate::status::Status;
use anyhow::Context as _;
use std::sync::{Arc, PoisonError, RwLock};
use tokio::sync::{mpsc, oneshot};

/// Settings that hold for tasks that are admitted from now on, wherever they run.
const POLICY: [&str; 3] = ["dirs", "task-timeout", "task-output"];
/// Settings that a new process of the runtime is started with, so that without
/// one they need a restart, those of the policy apart.
const RUNTIME: [&str; 22] = [
    "dirs",
    "task-memory",
    "task-output",
    "task-graphs",
    "task-graph-memory",
    "task-contexts",
    "task-tensor-memory",
    "runtime-memory",
    "model-size",
    "module-cache",
    "file-cache",
    "graph-cache",
    "nn-backend",
    "openvino-lib",
    "nn-hint",
    "nn-precision",
    "nn-operators",
    "nn-devices",
    "nn-load-bytes",
    "nn-graphs",
    "allow-hosts",
    "http-tls-ca-cert",
];
/// Settings that the next connection to the broker is made with, which reads
/// files of certificates anew whether they have changed or not.
const CONNECTION: [&str; 4] =
    ["client-key", "mqtt-tls-ca-cert", "mqtt-tls-client-cert", "mqtt-tls-client-key"];
/// The log's, which are the program's to take over.
const LOG: [&str; 2] = ["log-level", "log-format"];
/// Where the configuration is read from says nothing by itself.
const PLACES: [&str; 2] = ["config-file", "config-section"];

/// What a configuration that was read again changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Settings that have taken effect.
    pub taken: Vec<&'static str>,
    /// Settings that need a restart.
    pub restart: Vec<&'static str>,
}

/// Hands configurations to a worker that runs.
#[derive(Clone, Debug)]
pub struct Reloader(mpsc::UnboundedSender<Reload>);

/// The worker's end.
#[derive(Debug)]
pub struct Reloads(mpsc::UnboundedReceiver<Reload>);

#[derive(Debug)]
struct Reload {
    config: Box<Config>,
    changes: oneshot::Sender<anyhow::Result<Changes>>,
}

/// A way to hand configurations to a worker.
pub fn reloads() -> (Reloader, Reloads) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (Reloader(sender), Reloads(receiver))
}

impl Reloader {
    /// Has the worker take over what it can.
    ///
    /// # Errors
    ///
    /// What can't work; nothing has been taken over then. The worker has ended.
    pub async fn reload(&self, config: Config) -> anyhow::Result<Changes> {
        let (changes, answer) = oneshot::channel();
        let reload = Reload { config: Box::new(config), changes };
        self.0.send(reload).ok().context("the worker has ended")?;
        answer.await.context("the worker has ended")?
    }
}

/// What tasks may have, which may change while the worker runs.
#[derive(Clone)]
pub(super) struct SharedPolicy(Arc<RwLock<Arc<Policy>>>);

impl SharedPolicy {
    pub(super) fn new(policy: Policy) -> SharedPolicy {
        SharedPolicy(Arc::new(RwLock::new(Arc::new(policy))))
    }

    /// As it is now.
    pub(super) fn now(&self) -> Arc<Policy> {
        // It is replaced in one step.
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn replace(&self, policy: Policy) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(policy);
    }
}

/// What has to hear of a new configuration.
pub(super) struct Reloading {
    /// The one that holds.
    pub(super) config: Config,
    pub(super) policy: SharedPolicy,
    pub(super) resolve: Resolve,
    pub(super) tasker: Arc<Tasker>,
    pub(super) link: Link,
    pub(super) status: Arc<Status>,
}

impl Reloading {
    /// Takes over one configuration after the other.
    pub(super) async fn run(mut self, mut reloads: Reloads) {
        while let Some(Reload { config, changes }) = reloads.0.recv().await {
            // Directories may be on a disk that does not answer.
            let taken = tokio::task::spawn_blocking(move || {
                let taken = self.take(*config);
                (self, taken)
            });
            // What panicked has been reported by the panic hook.
            let Ok((this, taken)) = taken.await else { return };
            self = this;
            // Whoever asked may be gone.
            changes.send(taken).ok();
        }
    }

    fn take(&mut self, new: Config) -> anyhow::Result<Changes> {
        let changed = changed(&self.config, &new);
        let has = |names: &[&str]| changed.iter().any(|name| names.contains(name));
        let apart = self.config.isolation == Isolation::Process;
        // What can't be taken over stays as it is.
        let mut config = new.clone();
        config.executors = self.config.executors;
        config.daemons = self.config.daemons;
        config.isolation = self.config.isolation;
        config.state_dir.clone_from(&self.config.state_dir);
        config.disk_cache = self.config.disk_cache;
        config.module_size = self.config.module_size;
        if !apart {
            // The slots for memories are there.
            config.limits.memory = self.config.limits.memory;
        }
        config.credentials.client_id.clone_from(&self.config.credentials.client_id);
        let policy = Policy { resolve: self.resolve, ..setup::policy(&config) };
        setup::check_roots(&config, &policy)?;
        let connection =
            config.connection.options(&config.credentials.client_id, &config.credentials);
        let connection = mqtt::Renewal::new(&connection)?;
        // What is logged, the process hears of by itself.
        if apart && (has(&RUNTIME) || has(&["log-format"])) {
            self.tasker.renew(&config, &policy)?;
        }
        self.policy.replace(policy);
        self.link.renew(connection);
        let is_taken = |name: &&str| {
            POLICY.contains(name)
                || RUNTIME.contains(name) && apart
                || CONNECTION.contains(name)
                || LOG.contains(name)
        };
        let (taken, restart): (Vec<_>, Vec<_>) = changed.into_iter().partition(is_taken);
        self.status.set_fixed(told::fixed(&config));
        self.config = config;
        // What needs a restart is told each time until there is one.
        self.config.report = new
            .report
            .into_iter()
            .map(|known| {
                let old =
                    self.config.report.iter().find(|old| old.setting.name == known.setting.name);
                match old {
                    Some(old) if restart.contains(&known.setting.name) => old.clone(),
                    _ => known,
                }
            })
            .collect();
        Ok(Changes { taken, restart })
    }
}

/// The settings that have another value.
fn changed(old: &Config, new: &Config) -> Vec<&'static str> {
    let value = |config: &Config, name: &str| {
        let known = config.report.iter().find(|known| known.setting.name == name);
        known.and_then(|known| known.value.clone())
    };
    let names = new.report.iter().map(|known| known.setting.name);
    let names = names.filter(|name| !PLACES.contains(name));
    let mut changed: Vec<_> = names.filter(|name| value(old, name) != value(new, name)).collect();
    // Their values are not in the report.
    if old.credentials.client_key != new.credentials.client_key {
        changed.push("client-key");
    }
    let token = |config: &Config| config.manager.http.as_ref().and_then(|http| http.token.clone());
    if token(old) != token(new) {
        changed.push("manager-token");
    }
    changed.dedup();
    changed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Environment, SETTINGS};

    fn config(set: &[(&str, &str)]) -> Config {
        let mut env = Environment::new("/work")
            .with("PROPLET_DOMAIN_ID", "d")
            .with("PROPLET_CHANNEL_ID", "c")
            .with("PROPLET_CLIENT_ID", "w")
            .with("PROPLET_CLIENT_KEY", "k");
        for (name, value) in set {
            env = env.with(name, value);
        }
        Config::from_environment(&env).expect("a configuration")
    }

    #[test]
    fn the_settings_that_are_said_to_be_taken_over_are_settings() {
        for name in [POLICY.as_slice(), &RUNTIME, &CONNECTION, &LOG, &PLACES].concat() {
            assert!(SETTINGS.iter().any(|setting| setting.name == name), "{name}");
        }
    }

    #[test]
    fn what_has_changed_is_found_secrets_included_and_none_is_shown() {
        let old = config(&[]);
        let new = config(&[
            ("PROPLET_TASK_MEMORY", "64MiB"),
            ("PROPLET_QUEUE", "7"),
            ("PROPLET_CLIENT_KEY", "other"),
        ]);
        let mut changed = changed(&old, &new);
        changed.sort_unstable();
        assert_eq!(changed, ["client-key", "queue", "task-memory"]);
        assert!(super::changed(&new, &new).is_empty());
    }
}
