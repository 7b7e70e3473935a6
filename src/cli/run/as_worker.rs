//! A guest as a task of the worker that the configuration describes: admitted by
//! its policy and run with its limits, in this process and without a broker.

use super::{Job, fetcher, source};
use crate::cancel::Cancel;
use crate::config::{Config, Environment};
use crate::runtime::RuntimeConfig;
use crate::task::{TaskId, TaskRequest, TaskSpec};
use crate::worker;
use anyhow::anyhow;
use clap::ArgMatches;
use std::sync::Arc;

/// What a worker would make of a task with these arguments.
///
/// # Errors
///
/// What is wrong with the configuration, or why the worker would refuse the task.
pub(super) fn job(
    matches: &ArgMatches,
    env: &Environment,
    guest: &str,
    flags: &[String],
    inputs: &[String],
) -> anyhow::Result<Job> {
    let (config, missing) = Config::load_offline(matches, env)?;
    let mut policy = worker::policy(&config);
    if missing.is_some() {
        policy.proplet_id = None;
    }
    let nn = worker::nn_config(&config, &policy);
    let request = TaskRequest {
        module: Some(source(guest)?),
        cli_args: flags.to_vec(),
        inputs: inputs.to_vec(),
        ..TaskRequest::new(TaskId::new("run").map_err(|e| anyhow!(e))?)
    };
    let spec = policy.admit(request)?;
    let hosts = Some(config.images.hosts.clone());
    let fetcher = fetcher(&config.images, &config.working_dir, config.module_size, hosts);
    let fetch = Arc::new(move |spec: &TaskSpec, cancel: &Arc<Cancel>| fetcher.code(spec, cancel));
    Ok(Job {
        spec,
        nn,
        runtime: RuntimeConfig {
            fetch,
            outbound: worker::outbound(&config.http.outbound, &config.working_dir)?,
            ..worker::runtime_config(&config)
        },
        proplet_id: policy.proplet_id.unwrap_or_default(),
        // Its services would hear of an update that no manager has asked for.
        round: None,
    })
}
