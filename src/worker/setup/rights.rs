//! What tasks may have by the configuration, and what the process that runs them may
//! reach.

use crate::config::Config;
use crate::host::confine::{self, Confinement, GrantedRoot};
use crate::nn::NnConfig;
use crate::policy::{self, Policy, Root, Trust};
use crate::runtime::MAX_WASM_STACK;
use crate::task::{Bind, Limits, Serving};
use anyhow::bail;
use std::path::PathBuf;
use tracing::warn;

/// What tasks may have, by the configuration.
pub fn policy(config: &Config) -> Policy {
    let roots = match &config.dirs {
        Some(dirs) => {
            dirs.iter().map(|dir| Root { path: dir.path.clone(), writable: dir.writable }).collect()
        }
        None => vec![Root { path: PathBuf::from("."), writable: false }],
    };
    Policy {
        trust: Trust::Remote { roots },
        proplet_id: Some(config.credentials.client_id.clone()),
        limits: Limits {
            timeout: config.limits.timeout,
            run: None,
            memory: Some(config.limits.memory),
            output: config.limits.output,
        },
        serving: config.http.enabled.then_some(Serving {
            bind: Bind::From(config.http.from),
            timeout: config.http.timeout,
            drain: config.drain_timeout,
            body: config.http.body,
            access_log: config.http.access_log,
        }),
        private: private(config),
        kernel: policy::kernel_file_systems(),
        module_size: config.module_size,
        working_dir: config.working_dir.clone(),
        max_wasm_stack: MAX_WASM_STACK as u64,
        resolve: policy::resolve_dir,
        subdirectories: policy::subdirectories,
    }
}

/// What the process with the guests and models may reach: the directories that
/// tasks may open, without the worker's secrets, the graphs of the
/// configuration, OpenVINO. What it keeps on the disk it is given when it starts.
pub fn confinement(policy: &Policy, nn: &NnConfig) -> Confinement {
    let allowed = match &policy.trust {
        Trust::Remote { roots } => roots.as_slice(),
        Trust::Local { .. } => &[],
    };
    let allowed = allowed.iter().filter_map(|root| {
        let host = (policy.resolve)(&policy.working_dir.join(&root.path)).ok()?;
        // Tasks get nothing of it; see `check_roots`.
        policy.kernel_at(&host).is_none().then_some((host, root.writable))
    });
    let roots = allowed.flat_map(|(host, writable)| {
        let parts = confine::without(&host, &policy.private);
        parts.into_iter().map(move |path| GrantedRoot { path, writable })
    });
    let graphs =
        nn.graphs.iter().map(|graph| GrantedRoot { path: graph.dir.clone(), writable: false });
    Confinement {
        roots: roots.chain(graphs).collect(),
        libraries: nn.libraries(),
        ..Confinement::default()
    }
}

/// The files with the worker's secrets, as far as they are there, and the
/// folder of its journal, which holds other tasks' modules and results.
fn private(config: &Config) -> Vec<PathBuf> {
    let file = config.report.iter().find(|known| known.setting.name == "config-file");
    let file = file.and_then(|file| file.value.as_ref()).map(PathBuf::from);
    let key = config.connection.client_cert.as_ref().map(|client| client.key.clone());
    let files = file.into_iter().chain(key);
    let files = files.filter_map(|file| config.working_dir.join(file).canonicalize().ok());
    // Made at the start, so it may not be there yet.
    let state = config.state_dir.as_ref().map(|dir| config.working_dir.join(dir));
    files.chain(state.map(|dir| dir.canonicalize().unwrap_or(dir))).collect()
}

/// Says which roots can't be used.
///
/// # Errors
///
/// One that reaches a file system of the kernel: whoever lists it gives more
/// away than he can mean.
pub(in crate::worker) fn check_roots(config: &Config, policy: &Policy) -> anyhow::Result<()> {
    let Trust::Remote { roots } = &policy.trust else { return Ok(()) };
    for root in roots {
        let path = policy.working_dir.join(&root.path);
        match (policy.resolve)(&path) {
            Err(e) => warn!(
                "the allowed directory {} can't be used: {e}; tasks will not find it until it is \
                 there (a volume mount with an absolute path?)",
                root.path.display()
            ),
            Ok(host) if let Some(place) = policy.kernel_at(&host) => {
                let problem = format!(
                    "the allowed directory {} reaches {}, which shows all processes and devices \
                     of this machine",
                    root.path.display(),
                    place.display()
                );
                let cure = "list those that tasks need in PROPLET_DIRS (--dirs)";
                if config.dirs.is_some() {
                    bail!("{problem}: {cure}");
                }
                warn!("{problem}, so tasks get no directory: {cure}");
            }
            // Nobody has asked for the working directory itself.
            Ok(host) if config.dirs.is_some() => {
                if let Some(file) = policy.private_below(&host) {
                    warn!(
                        "the allowed directory {} holds {}, which has this worker's secrets, so \
                         tasks only get directories below it: move the file elsewhere",
                        root.path.display(),
                        file.display()
                    );
                }
            }
            Ok(_) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Environment;
    use crate::worker::setup::nn_config;

    /// The state directory lies in a root, and so does a file with a key.
    #[test]
    fn the_runtime_reaches_what_tasks_may_open_and_none_of_the_workers_secrets() {
        let dir = tempfile::tempdir().expect("a directory");
        let home = dir.path().canonicalize().expect("a directory");
        for below in ["models/tiny", "files", "state", "graphs/named"] {
            std::fs::create_dir_all(home.join(below)).expect("made");
        }
        std::fs::write(home.join("config.toml"), "[proplet]\n").expect("written");
        let mut env = Environment::new(&home);
        for (name, value) in [
            ("DOMAIN_ID", "d"),
            ("CHANNEL_ID", "c"),
            ("CLIENT_ID", "i"),
            ("CLIENT_KEY", "k"),
            ("CONFIG_FILE", "config.toml"),
            ("STATE_DIR", "state"),
            ("DIRS", ".:files:rw:missing"),
            ("NN_GRAPHS", "openvino::graphs/named"),
            ("OPENVINO_LIB", "files/libopenvino_c.so"),
        ] {
            env = env.with(&format!("PROPLET_{name}"), value);
        }
        let config = Config::from_environment(&env).expect("a configuration");
        let state = config.state_dir.clone().expect("a state directory");
        std::fs::create_dir_all(home.join(&state)).expect("made");
        let policy = policy(&config);
        let mut confinement = confinement(&policy, &nn_config(&config, &policy));
        confinement.roots.sort_by(|a, b| (&a.path, a.writable).cmp(&(&b.path, b.writable)));
        let root = |path: &str, writable| GrantedRoot { path: home.join(path), writable };
        assert_eq!(
            confinement.roots,
            [
                root("files", false),
                root("files", true),
                root("graphs", false),
                root("graphs/named", false),
                root("models", false),
            ]
        );
        assert!(confinement.caches.is_empty(), "{confinement:?}");
        assert_eq!(confinement.memory, None);
    }
}
