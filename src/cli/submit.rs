//! `proplet submit`: publishes a task as the manager would, and waits for what
//! comes of it.

mod args;
mod progress;
mod summary;

use self::args::SubmitJob;
use self::progress::Progress;
use self::summary::{Summary, TimedAnswer};
use super::{logging, signals};
use crate::client::{Client, HEARTBEAT_PATIENCE, NoResult};
use crate::config::{Credentials, Environment, LogConfig, SubmitConfig};
use crate::mqtt::{Address, ConnectionFailure, FailureKind, is_delayed, network_round_trip};
use crate::protocol::TaskResult;
use crate::task::TaskId;
use anyhow::{Context as _, anyhow};
use clap::ArgMatches;
use std::io::Write as _;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::warn;

pub(super) use self::args::command;

/// How long a connection may take that measures the network.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is said at the end, stops included, may take this long to go.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) fn main(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    let config = SubmitConfig::load(matches, &Environment::from_process())?;
    start_log(matches, &config.log)?;
    for warning in &config.warnings {
        warn!("{warning}");
    }
    let job = SubmitJob::from_matches(matches)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("starting the I/O threads")?;
    runtime.block_on(run(&config, job))
}

/// The variable and the file say how the worker logs; here only what fails is
/// told, unless the flag asks for more.
fn start_log(matches: &ArgMatches, config: &LogConfig) -> anyhow::Result<()> {
    let mut config = config.clone();
    if !matches.contains_id("log-level") {
        config.directives = "error,proplet::mqtt=off".into();
    }
    logging::start(&config, None).map(drop)
}

async fn run(config: &SubmitConfig, job: SubmitJob) -> anyhow::Result<ExitCode> {
    let mut interrupted = pin!(signals::interrupted()?);
    let client = tokio::select! {
        client = connect(config) => Arc::new(client?),
        () = &mut interrupted => return Ok(signals::INTERRUPTED.into()),
    };
    let job = Arc::new(job);
    let ended = {
        let mut work = pin!(work(&client, &job, &config.connection.address));
        let mut patience = pin!(tokio::time::sleep(HEARTBEAT_PATIENCE));
        let mut patient = true;
        loop {
            tokio::select! {
                biased;
                ended = &mut work => break ended,
                () = &mut interrupted => {
                    client.stop_all();
                    break Ok(signals::INTERRUPTED.into());
                }
                () = &mut patience, if patient => {
                    patient = false;
                    if !client.has_heard(job.to.as_deref()) {
                        say_that_nobody_was_heard(&client, &job);
                    }
                }
            }
        }
    };
    client.close(CLOSE_TIMEOUT).await;
    ended
}

async fn connect(config: &SubmitConfig) -> anyhow::Result<Client> {
    let credentials = Credentials {
        domain: config.domain.clone(),
        channel: config.channel.clone(),
        client_id: config.username.clone(),
        client_key: config.password.clone(),
    };
    let client = Client::connect(&config.connection, &credentials, &config.client_id).await;
    client.map_err(|error| {
        match error.downcast_ref::<ConnectionFailure>().map(|failure| failure.kind) {
            Some(FailureKind::Credentials | FailureKind::Dropped | FailureKind::Subscription) => {
                anyhow!("{error:#} (user name {}, from {})", config.username, config.source)
            }
            _ => error,
        }
    })
}

fn say_that_nobody_was_heard(client: &Client, job: &SubmitJob) {
    let who = match &job.to {
        Some(worker) => format!("worker {worker} has"),
        None => "no worker has".into(),
    };
    let not = if job.to.is_some() { "not " } else { "" };
    eprintln!(
        "proplet: {who} {not}been heard for {} s on {}; still waiting (--timeout)",
        HEARTBEAT_PATIENCE.as_secs(),
        client.place()
    );
}

async fn work(
    client: &Arc<Client>,
    job: &Arc<SubmitJob>,
    broker: &Address,
) -> anyhow::Result<ExitCode> {
    if job.count > 1 {
        return many(client, job, broker).await;
    }
    let task = job.task(fresh_id());
    let result = client.submit(&task, job.to.as_deref(), job.timeout).await?;
    let failed = result.error.is_some();
    report(&job.name, result, job.json)?;
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn fresh_id() -> TaskId {
    TaskId::new(&uuid::Uuid::new_v4().to_string()).expect("a UUID is a task's id")
}

/// What the guest wrote goes where the guest would have written it.
fn report(name: &str, result: TaskResult, json: bool) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    if json {
        stdout.write_all(&result.encode()).context("writing to stdout")?;
        writeln!(stdout).context("writing to stdout")?;
    }
    let failure = result.failure().map(str::to_owned);
    if !json {
        stdout.write_all(&result.results.into_bytes()).context("writing to stdout")?;
        let written = result.stderr.into_bytes();
        let mut stderr = std::io::stderr().lock();
        stderr.write_all(&written).context("writing to stderr")?;
        if written.last().is_some_and(|last| *last != b'\n') {
            writeln!(stderr).context("writing to stderr")?;
        }
        for diagnostic in &result.diagnostics {
            writeln!(stderr, "proplet: {diagnostic}").context("writing to stderr")?;
        }
    }
    stdout.flush().context("writing to stdout")?;
    if let Some(failure) = failure {
        eprintln!("proplet: {name} failed on worker {}: {failure}", result.proplet_id);
    }
    Ok(())
}

/// Runs the job's tasks, so many at a time, and sums them up.
async fn many(
    client: &Arc<Client>,
    job: &Arc<SubmitJob>,
    broker: &Address,
) -> anyhow::Result<ExitCode> {
    let mut progress = Progress::new(job.count);
    let started = Instant::now();
    let mut summary = Summary::default();
    let (sender, mut answers) = mpsc::unbounded_channel();
    let next = Arc::new(AtomicU64::new(0));
    let mut lanes = JoinSet::new();
    for _ in 0..job.parallel.min(job.count) {
        lanes.spawn(lane(Arc::clone(client), Arc::clone(job), Arc::clone(&next), sender.clone()));
    }
    drop(sender);
    while let Some((latency, answer)) = answers.recv().await {
        match &answer {
            // Nobody is there: the other tasks would wait just as long.
            Err(NoResult::Silence(why)) if summary.answered() == 0 => {
                progress.clear();
                client.stop_all();
                return Err(anyhow!("{why}"));
            }
            _ => {}
        }
        summary.add(TimedAnswer::new(latency, answer));
        progress.advance(summary.failed());
    }
    progress.clear();
    summary.took(started.elapsed());
    for (error, times) in summary.errors() {
        eprintln!("proplet: {times}× {error}");
    }
    if let (Some(way), Ok(network)) = (summary.way(), network_round_trip(broker, PATIENCE).await)
        && job.parallel == 1
        && is_delayed(way, network)
    {
        eprintln!(
            "proplet: some 40 ms of each task's way are those of a broker without TCP_NODELAY, which \
             waits for acknowledgements (mosquitto: `set_tcp_nodelay true`)"
        );
    }
    let text = if job.json { format!("{}\n", summary.to_json()) } else { summary.to_string() };
    std::io::stdout().lock().write_all(text.as_bytes()).context("writing to stdout")?;
    Ok(if summary.failed() > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// One task after the other, until all have been taken.
async fn lane(
    client: Arc<Client>,
    job: Arc<SubmitJob>,
    next: Arc<AtomicU64>,
    answers: mpsc::UnboundedSender<(Duration, Result<TaskResult, NoResult>)>,
) {
    while next.fetch_add(1, Ordering::Relaxed) < job.count {
        let task = job.task(fresh_id());
        let sent = Instant::now();
        let answer = client.submit(&task, job.to.as_deref(), job.timeout).await;
        if answers.send((sent.elapsed(), answer)).is_err() {
            return;
        }
    }
}
