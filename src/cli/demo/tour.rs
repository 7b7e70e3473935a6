//! The demo itself: broker, worker, tasks, and how to go on.

use super::place::{Files, Place};
use super::rows::{self, Row};
use super::show::{self, Shown, TimedResult, quoted, short};
use crate::broker::{Broker, Settings};
use crate::cli::{logging, signals};
use crate::client::Client;
use crate::config::{AllowedDir, Config, Environment, LogConfig, LogFormat};
use crate::nn::Hint;
use crate::protocol::Output;
use crate::task::{Binary, ModuleSource, TaskId, TaskRequest};
use crate::worker;
use anyhow::{Context as _, anyhow, bail};
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Names on the demo's own broker.
const CHANNEL: &str = "demo";
const WORKER: &str = "demo-worker";

/// Runs after the first one of each task.
const WARM: usize = 10;

/// The first run compiles a program and loads a model, on a small machine, too.
const PATIENCE: Duration = Duration::from_secs(120);

/// The worker and the client take leave within this time.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// What was asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct TourOptions {
    pub(super) keep: bool,
    /// JSON alone on standard output.
    pub(super) json: bool,
}

pub(super) fn main(names: &[String], options: TourOptions) -> anyhow::Result<ExitCode> {
    let env = Environment::from_process();
    // What is there to be said, the demo says.
    let quiet = "warn,proplet::mqtt=error,rumqttd=off".to_owned();
    logging::start(&LogConfig { directives: quiet, format: LogFormat::Text }, None)?;
    let named = match names {
        [] => None,
        names => Some(Files::named(names, env.working_dir())?),
    };
    let place = Place::prepare(&env)?;
    let (rows, left_out): (Vec<Row>, Vec<Row>) =
        rows::rows(&place, named.as_ref()).into_iter().partition(|row| rows::served(row.encoding));
    let left_out = left_out.iter().map(|row| row.title).collect();
    let files = named.unwrap_or_else(|| Files::shown(&place));
    let key = uuid::Uuid::new_v4().simple().to_string();
    let key = key.get(..12).unwrap_or(&key);
    let broker = Broker::start_with(Settings {
        credentials: [(WORKER.to_owned(), key.to_owned())].into(),
        ..Settings::default()
    })?;
    let config = worker_config(&env, &place, &files, broker.address(), key)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("starting the I/O threads")?;
    let demo = Demo { place, rows, left_out, config, env, options, key: key.to_owned() };
    let ended = runtime.block_on(demo.run(broker.address()));
    // A task that was broken off need not be waited for.
    runtime.shutdown_background();
    ended.map(|all_ran| if all_ran { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The worker's configuration: of what the process inherits only the machine
/// and the ways to OpenVINO, and no deployment's credentials.
fn worker_config(
    env: &Environment,
    place: &Place,
    files: &Files,
    broker: SocketAddr,
    key: &str,
) -> anyhow::Result<Config> {
    // A config.toml in the working directory would be somebody's worker's.
    let own = Environment::new(&place.models)
        .with_cores(env.cores())
        .with("PROPLET_DOMAIN_ID", CHANNEL)
        .with("PROPLET_CHANNEL_ID", CHANNEL)
        .with("PROPLET_CLIENT_ID", WORKER)
        .with("PROPLET_CLIENT_KEY", key)
        // What it runs is its own.
        .with("PROPLET_ISOLATION", "none")
        // It ends with the demo, and leaves nothing behind.
        .with("PROPLET_STATELESS", "true")
        .with("PROPLET_METRICS_ENABLED", "false")
        // The demo hears each result, and shows how long it took.
        .with("PROPLET_RESULT_HOLD", "0")
        .with("PROPLET_RESULT_REPEAT", "0")
        .with("PROPLET_MQTT_ADDRESS", format!("tcp://{broker}"));
    let mut config = Config::from_environment(&own)?;
    config.library_search = env.library_search();
    config.openvino_lib = place.library.clone();
    // The demo sends one task at a time.
    config.nn_hint = Hint::Latency;
    let roots = [&place.models].into_iter().chain(&place.checkout);
    let dirs = roots.chain(files.dirs.iter().map(|(host, _)| host));
    config.dirs =
        Some(dirs.map(|path| AllowedDir { path: path.clone(), writable: false }).collect());
    Ok(config)
}

struct Demo {
    place: Place,
    rows: Vec<Row>,
    /// Titles of what nothing in this build runs.
    left_out: Vec<&'static str>,
    config: Config,
    env: Environment,
    options: TourOptions,
    key: String,
}

impl Demo {
    /// Whether all the tasks ran well.
    async fn run(self, broker: SocketAddr) -> anyhow::Result<bool> {
        let mut interrupted = pin!(signals::interrupted()?);
        let (stop, stopped) = oneshot::channel::<()>();
        let Config { connection, credentials, .. } = &self.config;
        // First the client, so that it hears the worker introduce itself.
        let client = Client::connect(connection, credentials, "demo-client").await?;
        let mut worker = pin!(worker::run(self.config.clone(), async {
            // A sender that is gone says the same.
            stopped.await.ok();
        }));
        let TourOptions { keep, json } = self.options;
        let tour = async {
            client.hear(WORKER, PATIENCE).await?;
            let all_ran = if json {
                self.json(&client, broker).await?
            } else {
                say(&format!("A worker is running, and an MQTT broker at {broker}.\n\n"))?;
                self.table(&client).await?
            };
            match (keep, json) {
                (true, false) => self.say_what_to_try(broker)?,
                (false, false) => self.say_how_to_go_on()?,
                (_, true) => {}
            }
            if keep { std::future::pending().await } else { anyhow::Ok(all_ran) }
        };
        let ended = tokio::select! {
            ended = tour => ended,
            ended = &mut worker => return ended.and_then(|()| bail!("the worker has ended")),
            () = &mut interrupted => {
                client.stop_all();
                Ok(true)
            }
        };
        drop(stop);
        // Nobody waits for an end that takes longer.
        tokio::select! {
            stopped = tokio::time::timeout(CLOSE_TIMEOUT, worker) => { stopped.ok(); }
            () = signals::interrupted()? => {}
        }
        client.close(CLOSE_TIMEOUT).await;
        ended
    }

    /// Each row as its task has run, and what the columns are.
    async fn table(&self, client: &Client) -> anyhow::Result<bool> {
        say(&show::heading())?;
        let mut all_ran = true;
        for row in &self.rows {
            let shown = shown(client, row).await?;
            all_ran &= shown.has_run();
            say(&shown.text())?;
        }
        say(&format!(
            "\nAnswers with their probability. Times in milliseconds, from sending a task to\n\
             having its result: of the first run, which compiles the guest and loads the\n\
             model, and the median of the next {WARM}, each in a fresh sandbox. --json has all.\n"
        ))?;
        if !self.left_out.is_empty() {
            say(&format!(
                "\nLeft out, since it needs OpenVINO on Linux: {}.\n\
                 `cargo run --features openvino -- demo` has all.\n",
                self.left_out.join(", ")
            ))?;
        }
        Ok(all_ran)
    }

    async fn json(&self, client: &Client, broker: SocketAddr) -> anyhow::Result<bool> {
        let mut tasks = Vec::new();
        let mut all_ran = true;
        for row in &self.rows {
            let shown = shown(client, row).await?;
            all_ran &= shown.has_run();
            tasks.push(shown.json());
        }
        let all = serde_json::json!({
            "broker": broker.to_string(), "tasks": tasks, "left_out": self.left_out
        });
        say(&format!("{all:#}\n"))?;
        Ok(all_ran)
    }

    fn say_how_to_go_on(&self) -> anyhow::Result<()> {
        let here = self.env.working_dir();
        let program = self.program(|path| short(path, here));
        let mut text = String::from("\nGo on:\n");
        let mut line = |what: &str, arguments: &str| {
            text += &format!("  # {what}\n  {program} {arguments}\n");
        };
        let by_hand = self.guest("classification.wasm").filter(|_| rows::served("openvino"));
        if let Some(guest) = by_hand {
            let model = short(&self.place.model("mobilenet"), here);
            let dir = quoted(&format!("--dir={model}::fixture"));
            let guest = quoted(&short(&guest, here));
            line("the same guest by hand, without a broker", &format!("run {dir} {guest}"));
        }
        line("your own photos (PNG, JPEG), sound (WAV, 16 kHz) and files", "demo FILE...");
        line("leave the worker running, and send it tasks from another terminal", "demo --keep");
        line("a worker for your own Propeller", "worker --help");
        say(&text)
    }

    /// The line that works from anywhere.
    fn say_what_to_try(&self, broker: SocketAddr) -> anyhow::Result<()> {
        let program = self.program(|path| path.display().to_string());
        let key = &self.key;
        // Any file is for the types of files.
        let title = |row: &&Row| row.title == "file types";
        let Some(row) = self.rows.iter().find(title).or(self.rows.first()) else { return Ok(()) };
        let guest = match self.guest(row.guest.file) {
            Some(guest) => quoted(&guest.display().to_string()),
            None => "GUEST.wasm".to_owned(),
        };
        // For a person, not for a program.
        let env = row.env.iter().filter(|(name, _)| *name != "JSON");
        let mut words: Vec<_> = env
            .map(|(name, value)| format!("--env {}", quoted(&format!("{name}={value}"))))
            .collect();
        words.extend(row.paths.iter().take(2).map(|path| format!("--input {}", quoted(path))));
        let args: Vec<_> = row.cli_args.iter().map(|arg| quoted(arg)).collect();
        say(&format!(
            "\nBroker and worker stay until Ctrl-C. In another terminal:\n\n\
             {program} submit \\\n  \
               --mqtt-address tcp://{broker} --domain-id {CHANNEL} --channel-id {CHANNEL} \\\n  \
               --client-id {WORKER} --client-key {key} --proplet {WORKER} \\\n  \
               {} \\\n  \
               {guest} \\\n  \
               -- {}\n\n\
             With `--count 1000 --parallel 8` before `--` it measures.\n",
            words.join(" "),
            args.join(" "),
        ))
    }

    fn program(&self, shown: impl Fn(&Path) -> String) -> String {
        quoted(&self.env.executable().map_or_else(|| "proplet".to_owned(), shown))
    }

    fn guest(&self, name: &str) -> Option<PathBuf> {
        let path = self.place.checkout.as_ref()?.join("fixtures/guests/bin").join(name);
        path.is_file().then_some(path)
    }
}

/// Runs the row's task, and again and again.
async fn shown(client: &Client, row: &Row) -> anyhow::Result<Shown> {
    let first = run(client, row).await?;
    if let Some(error) = &first.1.error {
        return Ok(Shown::failed(row, error.clone()));
    }
    let mut next = Vec::with_capacity(WARM);
    for _ in 0..WARM {
        let (took, result) = run(client, row).await?;
        if let Some(error) = result.error {
            return Ok(Shown::failed(row, error));
        }
        next.push((took, result));
    }
    let lines = row.lines(&text(&first.1.results))?;
    Ok(Shown::ran(row, lines, &first, &next))
}

async fn run(client: &Client, row: &Row) -> anyhow::Result<TimedResult> {
    let request = TaskRequest {
        name: row.title.replace(' ', "-"),
        module: Some(ModuleSource::Bytes(Binary::new(row.guest.code))),
        inputs: row.paths.clone(),
        cli_args: row.cli_args.clone(),
        env: row.env.clone(),
        ..TaskRequest::new(TaskId::new(&uuid::Uuid::new_v4().to_string()).map_err(|e| anyhow!(e))?)
    };
    let sent = Instant::now();
    let result = client.submit(&request, Some(WORKER), PATIENCE).await?;
    Ok((sent.elapsed(), result))
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.clone().into_bytes()).into_owned()
}

/// Prints at once: what comes next may take a while.
fn say(text: &str) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).context("writing to stdout")
}
