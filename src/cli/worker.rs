//! `proplet worker`: serves tasks until a signal says stop.

use super::logging::{self, Log};
use super::native;
use crate::config::{self, Config, Environment, Isolation, LogConfig};
use crate::process;
use crate::status::service;
use crate::worker::{self, Reloader};
use anyhow::Context as _;
use clap::{Arg, ArgAction, ArgMatches, Command};
use std::io::Write as _;
use std::process::ExitCode;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{oneshot, watch};
use tracing::{Level, enabled, error, info, warn};

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
             at once. SIGHUP has it read its configuration again: the log, limits, directories, \
             graphs, key and certificates take effect, and the log names what needs a restart.\n\n\
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
    let mut config = Config::load(matches, &env)?;
    if matches.get_flag(PRINT_POLICY) {
        let permissions = worker::permissions(&config);
        let text = match matches.get_flag("json") {
            true => serde_json::to_string_pretty(&permissions).context("writing JSON")?,
            false => permissions.to_string(),
        };
        writeln!(std::io::stdout(), "{text}").context("printing the policy")?;
        return Ok(ExitCode::SUCCESS);
    }
    process::raise_descriptors();
    // Where models run, libraries write to standard error, too.
    let mut captured = match config.isolation {
        Isolation::None => Some(native::capture()?),
        Isolation::Process => None,
    };
    let log = logging::start(&config.log, captured.as_ref())?;
    if let Some(captured) = &mut captured {
        captured.listen()?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(IO_THREADS)
        .enable_all()
        .build()
        .context("starting the I/O threads")?;
    runtime.block_on(async {
        let shutdown = shutdown()?;
        let hangups = signal(SignalKind::hangup()).context("listening for SIGHUP")?;
        let sources = Sources { flags: matches.clone(), env };
        let (level, changes) = watch::channel(config.log.directives.clone());
        config.log_changes = Some(changes);
        let (reloader, reloads) = worker::reloads();
        tokio::spawn(reload(hangups, sources, log, config.log.clone(), level, reloader));
        worker::run_reloading(config, reloads, shutdown).await
    })?;
    // A thread that is stuck in a native call must not keep the process.
    runtime.shutdown_background();
    process::leave(0)
}

/// Where the configuration came from.
#[derive(Clone)]
struct Sources {
    flags: ArgMatches,
    env: Environment,
}

/// At each SIGHUP the configuration is read again, and the worker takes over what
/// it can; the log has what that was, and what needs a restart.
async fn reload(
    mut hangups: Signal,
    sources: Sources,
    log: Log,
    mut holds: LogConfig,
    level: watch::Sender<String>,
    reloader: Reloader,
) {
    while hangups.recv().await.is_some() {
        service::reloading();
        let Sources { flags, env } = sources.clone();
        // The file may be on a disk that does not answer.
        let loaded = tokio::task::spawn_blocking(move || Config::load(&flags, &env)).await;
        match loaded {
            Ok(Ok(config)) => {
                take(&log, &mut holds, &reloader, config).await;
                // Another process follows.
                level.send_replace(holds.directives.clone());
            }
            Ok(Err(e)) => {
                error!("SIGHUP: all stays as it is, because of the configuration: {e}");
            }
            // What panicked has been reported by the panic hook.
            Err(_) => {}
        }
        service::reloaded();
    }
}

async fn take(log: &Log, holds: &mut LogConfig, reloader: &Reloader, config: Config) {
    let warnings = config.warnings.clone();
    let new = config.log.clone();
    let changes = match reloader.reload(config).await {
        Ok(changes) => changes,
        Err(e) => return error!("SIGHUP: all stays as it is: {e:#}"),
    };
    for warning in warnings {
        warn!("{warning}");
    }
    let restart = match changes.restart.as_slice() {
        [] => String::new(),
        names => format!("; a restart is needed for {}", names.join(", ")),
    };
    let say = || match changes.taken.as_slice() {
        [] => info!("SIGHUP: nothing has changed that takes effect at once{restart}"),
        names => info!("SIGHUP: {} took effect{restart}", names.join(", ")),
    };
    log.set_format(new.format);
    let set = log.set_level(&new.directives).and_then(|()| {
        if enabled!(Level::INFO) {
            say();
            return Ok(());
        }
        // The old level may show it where the new one does not.
        log.set_level(&holds.directives)?;
        say();
        log.set_level(&new.directives)
    });
    match set {
        Ok(()) => *holds = new,
        Err(e) => error!("SIGHUP: the log level stays {}: {e:#}", holds.directives),
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
            process::leave(INTERRUPTED);
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
