//! The command line of `proplet submit`, and the tasks it asks for.

use crate::config;
use crate::flags::parse_duration;
use crate::task::{ModuleSource, TaskId, TaskRequest};
use clap::builder::RangedU64ValueParser;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// More at the same time than any worker's queue takes.
const MOST_PARALLEL: u64 = 10_000;

pub(in crate::cli) fn command() -> Command {
    let one = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).help(help)
    };
    Command::new("submit")
        .about("Send a task to the workers as the manager would, and print its result")
        .long_about(
            "Publishes a task as the manager would, waits for its result and prints it: the \
             guest's standard output and error as its own. It exits with 1 if the task failed, \
             and with 130 after Ctrl-C, which stops the task.\n\n\
             Without --proplet every worker of the channel runs the task, and the first result \
             counts.\n\n\
             It connects with the manager's credentials if they are set (MANAGER_DOMAIN_ID, \
             MANAGER_CHANNEL_ID, MANAGER_CLIENT_ID, MANAGER_CLIENT_KEY, or a section [manager]), \
             else with the worker's, under a client id of its own.",
        )
        .override_usage("proplet submit [OPTIONS] GUEST [-- CLI_ARGS...]")
        .after_help(
            "Directories in CLI_ARGS are the worker's, and must be among those that it allows.\n\n\
             Example:\n  proplet submit guest.wasm -- -S nn --dir=fixture",
        )
        .arg(
            Arg::new("guest")
                .value_name("GUEST")
                .required_unless_present_any(["image-url", "image"])
                .help("The WebAssembly module, or its text (`.wat`); `-` is standard input"),
        )
        .arg(one("image-url", "URL", "Have the worker fetch the module from this http(s) address instead").conflicts_with("guest"))
        .arg(
            one("image", "NAME", "Have it run this image of a registry, such as registry.example/team/guest:v1")
                .conflicts_with_all(["guest", "image-url"]),
        )
        .arg(
            Arg::new("cli-args")
                .value_name("CLI_ARGS")
                .last(true)
                .num_args(0..)
                .allow_hyphen_values(true)
                .help("Arguments as for `wasmtime run` before the module, such as -S nn --dir=fixture"),
        )
        .arg(one("name", "NAME", "The task's name [default: the guest's file name]"))
        .arg(
            one("env", "NAME=VALUE", "A variable for the guest; may be repeated")
                .action(ArgAction::Append)
                .value_parser(variable),
        )
        .arg(
            one("input", "VALUE", "An argument for the guest; may be repeated")
                .action(ArgAction::Append)
                .allow_hyphen_values(true),
        )
        .arg(one("proplet", "ID", "Send it to this worker alone, by its client id"))
        .arg(
            one("count", "N", "Send it N times and print latency and throughput")
                .default_value("1")
                .value_parser(RangedU64ValueParser::<u64>::new().range(1..=1_000_000_000)),
        )
        .arg(
            one("parallel", "N", "With --count: how many may be under way at the same time")
                .default_value("1")
                .value_parser(RangedU64ValueParser::<u64>::new().range(1..=MOST_PARALLEL)),
        )
        .arg(
            one("timeout", "DURATION", "Time to wait for each result; then the task is stopped")
                .default_value("5m")
                .value_parser(timeout),
        )
        .arg(
            Arg::new("json")
                .long("json")
                .action(ArgAction::SetTrue)
                .help("Print the whole result as one line of JSON; with --count, the summary")
                .value_parser(value_parser!(bool)),
        )
        .args(config::submit_args())
}

fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write NAME=VALUE".to_owned()),
    }
}

fn timeout(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        Duration::ZERO => Err("no time at all".to_owned()),
        duration => Ok(duration),
    }
}

/// What the command line asks for.
#[derive(Debug)]
pub(super) struct SubmitJob {
    /// What the task is called in messages.
    pub(super) name: String,
    /// The worker; none is every one of the channel.
    pub(super) to: Option<String>,
    /// How many tasks.
    pub(super) count: u64,
    /// How many at the same time.
    pub(super) parallel: u64,
    /// Time to wait for each result.
    pub(super) timeout: Duration,
    /// Whether a program reads the output.
    pub(super) json: bool,
    module: ModuleSource,
    inputs: Vec<String>,
    cli_args: Vec<String>,
    env: BTreeMap<String, String>,
}

impl SubmitJob {
    /// Reads the guest, too.
    pub(super) fn from_matches(matches: &ArgMatches) -> anyhow::Result<SubmitJob> {
        let text = |name: &str| matches.get_one::<String>(name).cloned();
        let texts = |name: &str| matches.get_many::<String>(name).into_iter().flatten().cloned();
        let number = |name: &str| matches.get_one::<u64>(name).copied().unwrap_or(1);
        let (label, module) = match (text("image-url").or_else(|| text("image")), text("guest")) {
            (Some(url), _) => {
                let label = url.rsplit('/').next().unwrap_or_default().to_owned();
                (label, ModuleSource::Url(url))
            }
            (None, guest) => {
                let guest = guest.unwrap_or_default();
                let binary = super::super::run::module(&guest)?;
                let label = Path::new(&guest).file_name().map(|name| name.to_string_lossy());
                (label.unwrap_or_default().into_owned(), ModuleSource::Bytes(binary))
            }
        };
        Ok(SubmitJob {
            name: text("name").unwrap_or(label),
            to: text("proplet"),
            count: number("count"),
            parallel: number("parallel"),
            timeout: matches.get_one("timeout").copied().unwrap_or(Duration::from_secs(300)),
            json: matches.get_flag("json"),
            module,
            inputs: texts("input").collect(),
            cli_args: texts("cli-args").collect(),
            env: matches
                .get_many::<(String, String)>("env")
                .into_iter()
                .flatten()
                .cloned()
                .collect(),
        })
    }

    /// The task, under this id.
    pub(super) fn task(&self, id: TaskId) -> TaskRequest {
        TaskRequest {
            name: self.name.clone(),
            module: Some(self.module.clone()),
            inputs: self.inputs.clone(),
            cli_args: self.cli_args.clone(),
            env: self.env.clone(),
            ..TaskRequest::new(id)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(args: &[&str]) -> Result<SubmitJob, String> {
        let matches = command()
            .try_get_matches_from(std::iter::once("submit").chain(args.iter().copied()))
            .map_err(|e| e.to_string())?;
        SubmitJob::from_matches(&matches).map_err(|e| format!("{e:#}"))
    }

    #[test]
    fn a_command_line_becomes_the_task_that_it_describes() {
        let job = job(&[
            "--image-url=http://h/x.wasm",
            "--env",
            "A=b=c",
            "--input=-1",
            "--input",
            "-2",
            "--proplet",
            "w",
            "--timeout",
            "90s",
            "--",
            "-S",
            "nn",
            "--dir=fixture",
        ])
        .expect("a job");
        let task = job.task(TaskId::new("a").expect("an id"));
        assert_eq!(task.name, "x.wasm");
        assert_eq!(task.module, Some(ModuleSource::Url("http://h/x.wasm".into())));
        assert_eq!(task.inputs, ["-1", "-2"]);
        assert_eq!(task.cli_args, ["-S", "nn", "--dir=fixture"]);
        assert_eq!(task.env["A"], "b=c");
        assert_eq!((job.to.as_deref(), job.timeout), (Some("w"), Duration::from_secs(90)));
        assert_eq!((job.count, job.parallel, job.json), (1, 1, false));
    }

    #[test]
    fn what_can_not_be_is_refused_by_name() {
        for (args, words) in [
            (&[][..], "GUEST"),
            (&["g.wasm", "--image-url", "http://h/x"], "cannot be used with"),
            (&["missing.wasm"], "reading the guest missing.wasm"),
            (&["g", "--env", "A"], "write NAME=VALUE"),
            (&["g", "--count", "0"], "--count"),
            (&["g", "--parallel", "x"], "--parallel"),
            (&["g", "--timeout", "0"], "no time at all"),
        ] {
            let error = job(args).expect_err("refused");
            assert!(error.contains(words), "{args:?}: {error}");
        }
    }
}
