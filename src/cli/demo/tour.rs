//! The demo itself: broker, worker, tasks, and how to go on.

use super::place::{Files, Place};
use super::show::{self, TimedResult, quoted, short};
use crate::broker::{Broker, Settings};
use crate::cli::{logging, signals};
use crate::client::Client;
use crate::config::{AllowedDir, Config, Environment, LogConfig, LogFormat};
use crate::nn::Hint;
use crate::protocol::Output;
use crate::task::{Binary, ModuleSource, TaskId, TaskRequest};
use crate::worker;
use anyhow::{Context as _, anyhow, bail};
use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

const FILE_TYPE: &[u8] = include_bytes!("../../../fixtures/guests/bin/file-type.wasm");
const CLASSIFICATION: &[u8] = include_bytes!("../../../fixtures/guests/bin/classification.wasm");

/// Names on the demo's own broker.
const CHANNEL: &str = "demo";
const WORKER: &str = "demo-worker";

/// Runs after the first one of each task.
const WARM: usize = 20;

/// The first run compiles a program and loads a model, on a small machine, too.
const PATIENCE: Duration = Duration::from_secs(120);

/// The worker and the client take leave within this time.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) fn main(names: &[String], keep: bool) -> anyhow::Result<ExitCode> {
    let env = Environment::from_process();
    // What is there to be said, the demo says.
    let quiet = "warn,proplet::mqtt=error,rumqttd=off".to_owned();
    logging::start(&LogConfig { directives: quiet, format: LogFormat::Text }, None)?;
    let named = match names {
        [] => None,
        names => Some(Files::named(names, env.working_dir())?),
    };
    let place = Place::prepare(&env)?;
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
    let demo = Demo { place, files, config, env, key: key.to_owned() };
    let ended = runtime.block_on(demo.run(broker.address(), keep));
    // A task that was broken off need not be waited for.
    runtime.shutdown_background();
    ended.map(|()| ExitCode::SUCCESS)
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
    files: Files,
    config: Config,
    env: Environment,
    key: String,
}

impl Demo {
    async fn run(self, broker: SocketAddr, keep: bool) -> anyhow::Result<()> {
        let mut interrupted = pin!(signals::interrupted()?);
        let (stop, stopped) = oneshot::channel::<()>();
        let Config { connection, credentials, .. } = &self.config;
        // First the client, so that it hears the worker introduce itself.
        let client = Client::connect(connection, credentials, "demo-client").await?;
        let mut worker = pin!(worker::run(self.config.clone(), async {
            // A sender that is gone says the same.
            stopped.await.ok();
        }));
        let tour = async {
            client.hear(WORKER, PATIENCE).await?;
            say(&format!("A worker is running, and an MQTT broker at {broker}.\n\n"))?;
            self.tasks(&client).await?;
            if keep { self.say_what_to_try(broker) } else { self.say_how_to_go_on() }?;
            if keep { std::future::pending().await } else { anyhow::Ok(()) }
        };
        let ended = tokio::select! {
            ended = tour => ended,
            ended = &mut worker => return ended.and_then(|()| bail!("the worker has ended")),
            () = &mut interrupted => {
                client.stop_all();
                Ok(())
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

    /// Both tasks, cold and warm, with what they print and where the time went.
    async fn tasks(&self, client: &Client) -> anyhow::Result<()> {
        say("What kinds of files are these? (Magika, a model with 3 MB of weights)\n\n")?;
        let file_types = Task {
            client,
            what: "file-type",
            guest: FILE_TYPE,
            inputs: &self.files.paths,
            // The files' own names must not be in the model's way.
            env: BTreeMap::from([("MODEL_DIR".to_owned(), "/model".to_owned())]),
            cli_args: self.file_type_args("/model"),
        };
        let first = file_types.run().await?;
        say(&show::file_types(&text(&first.1.results)))?;
        let next = file_types.repeat().await?;

        say("\nWhat is in the picture? (the guide's example; MobileNet, 14 MB of weights, which \
             here are\nnot trained: its cost is real, its classes are not)\n\n")?;
        let classification = Task {
            client,
            what: "classification",
            guest: CLASSIFICATION,
            inputs: &[],
            env: BTreeMap::new(),
            cli_args: dir_args(&[(self.place.model("mobilenet"), "fixture")]),
        };
        let guide_first = classification.run().await?;
        say(&show::indented(&text(&guide_first.1.results)))?;
        let guide_next = classification.repeat().await?;

        say("\nWhere the time went, in milliseconds; of the later runs the median\n\n")?;
        say(&show::table(&[
            ("file types", first, next),
            ("classification", guide_first, guide_next),
        ]))?;
        say(
            "\n  queued: until a thread was free; compiled: the WebAssembly program; loaded: the model;\n  \
             ran: the rest of the guest's time; total: from sending the task to having its result\n",
        )
    }

    fn file_type_args(&self, model: &str) -> Vec<String> {
        let mut dirs = vec![(self.place.model("magika"), model)];
        dirs.extend(self.files.dirs.iter().map(|(host, guest)| (host.clone(), guest.as_str())));
        dir_args(&dirs)
    }

    fn say_how_to_go_on(&self) -> anyhow::Result<()> {
        let here = self.env.working_dir();
        let program = self.program(|path| short(path, here));
        let mut text = String::from("\nGo on:\n");
        let mut line = |what: &str, arguments: &str| {
            text += &format!("  # {what}\n  {program} {arguments}\n");
        };
        if let Some(guest) = self.guest("classification.wasm") {
            let model = short(&self.place.model("mobilenet"), here);
            let dir = quoted(&format!("--dir={model}::fixture"));
            let guest = quoted(&short(&guest, here));
            line("the same guest by hand, without a broker", &format!("run {dir} {guest}"));
        }
        line("the types of your own files", "demo FILE...");
        line("leave the worker running, and send it tasks from another terminal", "demo --keep");
        line("a worker for your own Propeller", "worker --help");
        say(&text)
    }

    /// The line that works from anywhere.
    fn say_what_to_try(&self, broker: SocketAddr) -> anyhow::Result<()> {
        let program = self.program(|path| path.display().to_string());
        let key = &self.key;
        let guest = match self.guest("file-type.wasm") {
            Some(guest) => quoted(&guest.display().to_string()),
            None => "GUEST.wasm".to_owned(),
        };
        let files = self.files.paths.iter().take(2);
        let inputs: Vec<_> = files.map(|path| format!("--input {}", quoted(path))).collect();
        let args: Vec<_> = self.file_type_args("/model").iter().map(|arg| quoted(arg)).collect();
        say(&format!(
            "\nBroker and worker stay until Ctrl-C. In another terminal:\n\n\
             {program} submit \\\n  \
               --mqtt-address tcp://{broker} --domain-id {CHANNEL} --channel-id {CHANNEL} \\\n  \
               --client-id {WORKER} --client-key {key} --proplet {WORKER} \\\n  \
               --env MODEL_DIR=/model {} \\\n  \
               {guest} \\\n  \
               -- {}\n\n\
             With `--count 1000 --parallel 8` before `--` it measures.\n",
            inputs.join(" "),
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

/// A `--dir` for each directory. Importing wasi-nn is asking for it.
fn dir_args(dirs: &[(PathBuf, &str)]) -> Vec<String> {
    dirs.iter().map(|(host, guest)| format!("--dir={}::{guest}", host.display())).collect()
}

/// A task that is sent more than once.
struct Task<'a> {
    client: &'a Client,
    what: &'static str,
    guest: &'static [u8],
    inputs: &'a [String],
    env: BTreeMap<String, String>,
    cli_args: Vec<String>,
}

impl Task<'_> {
    async fn run(&self) -> anyhow::Result<TimedResult> {
        let request = TaskRequest {
            name: self.what.to_owned(),
            module: Some(ModuleSource::Bytes(Binary::new(self.guest))),
            inputs: self.inputs.to_vec(),
            cli_args: self.cli_args.clone(),
            env: self.env.clone(),
            ..TaskRequest::new(
                TaskId::new(&uuid::Uuid::new_v4().to_string()).map_err(|e| anyhow!(e))?,
            )
        };
        let sent = Instant::now();
        let result = self.client.submit(&request, Some(WORKER), PATIENCE).await?;
        let took = sent.elapsed();
        match &result.error {
            Some(error) => {
                say(&show::indented(&text(&result.results)))?;
                bail!("the {} task failed: {error}", self.what)
            }
            None => Ok((took, result)),
        }
    }

    async fn repeat(&self) -> anyhow::Result<Vec<TimedResult>> {
        let mut runs = Vec::with_capacity(WARM);
        for _ in 0..WARM {
            runs.push(self.run().await?);
        }
        Ok(runs)
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.clone().into_bytes()).into_owned()
}

/// Prints at once: what comes next may take a while.
fn say(text: &str) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).context("writing to stdout")
}
