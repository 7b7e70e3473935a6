//! `proplet worker`: serves tasks until a signal says stop.

use super::logging;
use crate::config::{self, Config, Environment};
use crate::process;
use crate::worker;
use anyhow::Context as _;
use clap::{Arg, ArgAction, ArgMatches, Command};
use std::io::Write as _;
use std::process::ExitCode;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tracing::warn;

/// Exit code after a second signal, as a shell reports an interrupt.
const INTERRUPTED: i32 = 130;

/// Threads for messages and results; tasks have their own.
const IO_THREADS: usize = 2;

const PRINT_POLICY: &str = "print-policy";

pub(super) fn command() -> Command {
    Command::new("worker")
        .about("Connect to the broker and run the tasks that the manager sends")
        .long_about(
            "Connects to the MQTT broker, registers with the manager, and runs the tasks that it \
             sends, until SIGTERM or SIGINT: then it takes no new tasks, lets running ones \
             finish until --drain-timeout, and publishes their results. A second signal ends it \
             at once.\n\n\
             Each setting may be given as a flag, as an environment variable, or as a key of the \
             TOML section that `propeller-cli provision` writes; the first of these wins.",
        )
        .args(config::worker_args())
        .arg(
            Arg::new(PRINT_POLICY)
                .long(PRINT_POLICY)
                .action(ArgAction::SetTrue)
                .help("Print what tasks may have with these settings, and exit"),
        )
        .arg(
            Arg::new("json")
                .long("json")
                .action(ArgAction::SetTrue)
                .requires(PRINT_POLICY)
                .help("Print it as JSON"),
        )
}

pub(super) fn main(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    let env = Environment::from_process();
    // No other thread has been started.
    process::empty_variables(config::is_secret);
    let config = Config::load(matches, &env)?;
    if matches.get_flag(PRINT_POLICY) {
        let effective = worker::effective(&config);
        let text = match matches.get_flag("json") {
            true => serde_json::to_string_pretty(&effective).context("writing JSON")?,
            false => effective.to_string(),
        };
        writeln!(std::io::stdout(), "{text}").context("printing the policy")?;
        return Ok(ExitCode::SUCCESS);
    }
    logging::start(&config.log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(IO_THREADS)
        .enable_all()
        .build()
        .context("starting the I/O threads")?;
    runtime.block_on(async {
        let shutdown = shutdown()?;
        worker::run(config, shutdown).await
    })?;
    // A thread that is stuck in a native call must not keep the process.
    runtime.shutdown_background();
    leave(0)
}

/// Ends the process with this code and nothing else. What native libraries
/// clean up at a usual end is pulled from under the threads that are still in
/// them, as one that compiles a model and can't be interrupted: they crash.
fn leave(code: i32) -> ! {
    // SAFETY: it takes a number and does not return. Standard error, the log,
    // has no buffer, and nothing is written to standard output.
    #[allow(unsafe_code, reason = "the standard library has no end without a clean-up")]
    unsafe {
        libc::_exit(code)
    }
}

/// Ready at the first SIGTERM or SIGINT; once what it gives is dropped, the
/// second one ends the process.
fn shutdown() -> anyhow::Result<impl Future<Output = oneshot::Sender<()>>> {
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    Ok(async move {
        either(&mut interrupt, &mut terminate).await;
        let (noted, dropped) = oneshot::channel();
        tokio::spawn(async move {
            // Nothing is ever sent.
            dropped.await.ok();
            either(&mut interrupt, &mut terminate).await;
            warn!("a second signal: ending at once");
            leave(INTERRUPTED);
        });
        noted
    })
}

async fn either(a: &mut Signal, b: &mut Signal) {
    tokio::select! {
        _ = a.recv() => {}
        _ = b.recv() => {}
    }
}
