//! The command line, one file a verb.

#[cfg(target_os = "linux")]
mod compile_server;
mod completions;
#[cfg(feature = "broker")]
mod demo;
mod doctor;
mod health;
mod inspect;
mod logging;
mod native;
mod run;
mod signals;
mod status;
mod submit;
mod worker;

#[cfg(target_os = "linux")]
use crate::host;
#[cfg(target_os = "linux")]
use crate::runtime::COMPILE_VERB;
use crate::version;
use clap::{Arg, ArgAction, Command};
use std::process::ExitCode;

/// Parses the command line, runs the verb, and reports an error in one line.
pub fn main() -> ExitCode {
    let matches = command().get_matches();
    let result = match matches.subcommand() {
        Some(("worker", matches)) => worker::main(matches),
        Some(("run", matches)) => run::main(matches),
        Some(("submit", matches)) => submit::main(matches),
        #[cfg(feature = "broker")]
        Some(("demo", matches)) => demo::main(matches),
        Some(("health", matches)) => health::main(matches),
        Some(("status", matches)) => status::main(matches),
        Some(("doctor", matches)) => doctor::main(matches),
        Some(("inspect", matches)) => inspect::main(matches),
        Some(("completions", matches)) => completions::main(matches, &mut command()),
        Some((completions::MAN, matches)) => completions::man(matches, command()),
        #[cfg(target_os = "linux")]
        Some((COMPILE_VERB, matches)) => compile_server::main(matches),
        #[cfg(target_os = "linux")]
        Some((host::VERB, _)) => host::child::main(logging::start_as).map(|()| ExitCode::SUCCESS),
        _ => unreachable!("clap requires one of the verbs"),
    };
    result.unwrap_or_else(|e| {
        eprintln!("proplet: {e:#}");
        ExitCode::FAILURE
    })
}

/// The whole command line, for parsing and for help.
fn command() -> Command {
    let command = Command::new("proplet")
        .about("A Propeller worker that runs WebAssembly inference tasks in one process")
        .version(version::VERSION)
        .long_version(version::LONG)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .disable_version_flag(true)
        .arg(
            Arg::new("version")
                .short('V')
                .long("version")
                .action(ArgAction::Version)
                .help("Print the version, the commit and the backends of this build"),
        )
        .subcommand(worker::command())
        .subcommand(run::command())
        .subcommand(submit::command())
        .subcommand(health::command())
        .subcommand(status::command())
        .subcommand(doctor::command())
        .subcommand(inspect::command())
        .subcommand(completions::command())
        .subcommand(completions::man_command());
    #[cfg(target_os = "linux")]
    let command = command
        .subcommand(compile_server::command())
        .subcommand(Command::new(host::VERB).hide(true));
    #[cfg(feature = "broker")]
    let command = command.subcommand(demo::command());
    command
}
