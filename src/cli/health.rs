//! `proplet health`: asks the running worker how it is, for the health check of
//! a container. It starts nothing and connects to no broker.

use crate::config::{self, Environment, HealthConfig};
use crate::status;
use anyhow::bail;
use clap::{Arg, ArgAction, ArgMatches, Command};
use std::process::ExitCode;

pub(super) fn command() -> Command {
    Command::new("health")
        .about("Ask the worker that runs on this machine whether it is well")
        .long_about(
            "Asks the running worker over HTTP, where PROPLET_METRICS_BIND and \
             PROPLET_METRICS_PORT say, and ends with 0 if it is well, else with 1. With \
             PROPLET_METRICS_ENABLED=false nothing can be asked, and that is no failure.",
        )
        .arg(
            Arg::new("ready")
                .long("ready")
                .action(ArgAction::SetTrue)
                .help("Ask whether it is connected and takes tasks, not only whether it lives"),
        )
        .args(config::health_args())
}

pub(super) fn main(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    let config = HealthConfig::load(matches, &Environment::from_process())?;
    let Some(listen) = config.listen else {
        println!("unknown: PROPLET_METRICS_ENABLED is false, so the worker can't be asked");
        return Ok(ExitCode::SUCCESS);
    };
    let what = if matches.get_flag("ready") { "ready" } else { "health" };
    let answer = status::ask(listen, what)?;
    if let Some(expected) = config.client_id.filter(|expected| *expected != answer.proplet_id) {
        bail!(
            "the worker that answers at {listen} is {} and not {expected}; two workers on one machine \
             each need a PROPLET_METRICS_PORT",
            answer.proplet_id
        );
    }
    if let Some(reason) = answer.reason {
        bail!("{}: {reason}", answer.status);
    }
    println!("{}", answer.status);
    Ok(ExitCode::SUCCESS)
}
