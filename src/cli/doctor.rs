//! `proplet doctor`: what is wrong with this set-up, and how to mend it.

use crate::config::{self, Config, Environment};
use crate::doctor::{self, Finding, Verdict};
use crate::flags::parse_duration;
use anyhow::{Context as _, anyhow};
use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::json;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

pub(super) fn command() -> Command {
    Command::new("doctor")
        .about("Check this set-up and say what to do about what is wrong")
        .long_about(
            "Checks the configuration and where each value came from, OpenVINO, the directories \
             that tasks may open, the machine and the broker, and runs two tasks. It takes the \
             settings of `proplet worker`, without its credentials too, and may run beside one: to the broker it has a client \
             id of its own, and it publishes only to a topic of its own.\n\n\
             Ends with 0 if nothing failed; warnings are no failure.",
        )
        .arg(
            Arg::new("json")
                .long("json")
                .action(ArgAction::SetTrue)
                .help("Print one JSON object in place of the lines"),
        )
        .arg(
            Arg::new("watch")
                .long("watch")
                .value_name("DURATION")
                .default_value("3s")
                .hide_default_value(true)
                .help("How long to listen for a manager [default: 3s]"),
        )
        .args(config::worker_args())
}

pub(super) fn main(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    let as_json = matches.get_flag("json");
    let watch = matches.get_one::<String>("watch").map_or("3s", String::as_str);
    let watch: Duration =
        parse_duration(watch).map_err(|_| anyhow!("`--watch {watch}` is not a duration"))?;
    let env = Environment::from_process();
    let (config, missing) = match Config::load(matches, &env) {
        Ok(config) => (Ok(config), None),
        // What needs no credentials can be looked at without.
        Err(error) => match Config::load_offline(matches, &env) {
            Ok((config, missing @ Some(_))) => (Ok(config), missing),
            _ => (Err(error), None),
        },
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("starting the I/O threads")?;
    let mut findings = Vec::new();
    let looked = doctor::SetUp { config: &config, missing: missing.as_deref(), env: &env };
    runtime.block_on(doctor::examine(&looked, watch, &mut |finding: Finding| {
        if !as_json {
            print(&finding);
        }
        findings.push(finding);
    }));
    runtime.shutdown_background();
    let count = |verdict| findings.iter().filter(|finding| finding.verdict == verdict).count();
    let (ok, warnings, failed) =
        (count(Verdict::Ok), count(Verdict::Warning), count(Verdict::Failed));
    if as_json {
        let settings: Vec<_> = config.iter().flat_map(|config| &config.report).collect();
        let settings: Vec<_> = settings
            .iter()
            .map(|resolved| {
                let name = resolved.setting.name;
                json!({ "name": name, "value": resolved.value, "source": resolved.source.to_string() })
            })
            .collect();
        let report = json!({
            "ok": failed == 0,
            "findings": findings,
            "settings": settings,
        });
        say(&format!("{report:#}"));
    } else {
        let plural = if warnings == 1 { "" } else { "s" };
        say(&format!("\n{ok} ok, {warnings} warning{plural}, {failed} failed"));
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(finding: &Finding) {
    let word = match finding.verdict {
        Verdict::Ok => "ok",
        Verdict::Warning => "warning",
        Verdict::Failed => "FAILED",
    };
    let mut text = format!("{word:<8} {:<14} {}", finding.check, finding.message);
    for detail in &finding.details {
        text.push_str(&format!("\n{:24}{detail}", ""));
    }
    say(&text);
}

/// A reader that has gone away wants no more lines, and still an exit code.
fn say(line: &str) {
    writeln!(std::io::stdout(), "{line}").ok();
}
