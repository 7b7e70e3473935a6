//! `proplet run`: a guest with the rights of its user, as `wasmtime run` runs it,
//! or with those that a worker would give it.

mod as_worker;
mod report;
mod serve;

use self::report::RunReport;
use crate::config::{self, Environment, ImagesConfig, Inference, RunConfig};
use crate::flags::{self, FlagError, RunFlags};
use crate::manager::RoundServices;
use crate::network::Hosts;
use crate::nn::NnConfig;
use crate::policy::{self, Policy, Trust};
use crate::runtime::{MAX_WASM_STACK, Requests, RuntimeConfig, Stdio};
use crate::sources::{Fetcher, ImageSettings, Images};
use crate::task::{
    Binary, Bind, Limits, ModuleSource, Rejection, Round, Serving, TaskId, TaskSpec,
};
use crate::worker::{self, registry_place, round_services};
use anyhow::{Context as _, anyhow};
use clap::builder::RangedU64ValueParser;
use clap::{Arg, ArgAction, ArgMatches, Command};
use std::collections::BTreeMap;
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// The most bytes of each output stream that is shown at its end, not as it comes;
/// the output of a client in a federated round is its update.
const OUTPUT: usize = 64 << 20;

/// Where a server listens without `--addr`, as that of `wasmtime serve` does.
const ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 8080);
/// The time of a request without `-W timeout`: that of no guest of one's own.
const REQUEST: Duration = Duration::from_secs(365 * 86_400);
/// Requests of a server at once.
const REQUESTS: Requests = Requests { at_once: 64, nice: 0, memory: u64::MAX };

pub(super) fn command() -> Command {
    Command::new("run")
        .about("Run a guest here and now, without a broker")
        .long_about(
            "Runs a guest as `wasmtime run` does: its output passes through as it comes, and its \
             exit code is this program's (134 after a trap). Any directory may be given and is \
             writable, and there are no limits but those that you set. A guest that imports \
             wasi-nn has it. It is a file, or oci:// and the name of an image, which is pulled \
             from its registry. A component that is an HTTP server is served until it is \
             interrupted, as `wasmtime serve` serves it.\n\n\
             A task runs the same way on a worker, where directories and limits are the \
             operator's; with --as-worker they are here, too.",
        )
        .override_usage("proplet run [OPTIONS] [WASMTIME-RUN ARGUMENTS] GUEST [ARGS]...")
        .after_help(
            "Arguments before the guest, as for `wasmtime run`:\n  \
             -S nn-graph=openvino::DIR    a graph that the guest loads by DIR's last component\n  \
             --dir HOST[::GUEST]          a directory for the guest\n  \
             --env NAME[=VALUE]           a variable; without a value, the one that is set here\n  \
             --invoke NAME                call this export, with ARGS as its values (WAVE for\n  \
                                          a component, which also takes --invoke 'f(\"a\", 1)')\n  \
             --addr ADDRESS:PORT          where a server listens (0.0.0.0:8080)\n  \
             -W timeout=DURATION          end it after this time; a server: each request\n  \
             -S help, -W help             list the options\n\n\
             The options come before them, and are a worker's: as flags, as variables \
             (PROPLET_NN_PRECISION, …) or from the section of config.toml.\n\n\
             Examples:\n  proplet run --dir=fixture guest.wasm\n  \
             proplet run --as-worker --timings --repeat 5 --dir=fixture guest.wasm",
        )
        .arg(switch(
            "as-worker",
            "Run it as a task of the worker that the configuration here describes: with its \
             limits, directories, backends and precision",
        ))
        .arg(switch("timings", "Say on standard error where the time went"))
        .arg(switch(
            "json",
            "Print the result as the manager gets it, as one line of JSON; standard input is \
             closed then",
        ))
        .arg(
            Arg::new("repeat")
                .long("repeat")
                .value_name("N")
                .default_value("1")
                .value_parser(RangedU64ValueParser::<u64>::new().range(1..=1_000_000))
                .help("Run it N times, with what was compiled and loaded kept in between"),
        )
        .args(config::run_args())
        .arg(
            Arg::new("command")
                .value_name("ARGUMENTS")
                .hide(true)
                .required(true)
                .num_args(1..)
                .trailing_var_arg(true)
                .allow_hyphen_values(true)
                .action(ArgAction::Append),
        )
}

fn switch(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
}

pub(super) fn main(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    let arguments: Vec<String> =
        matches.get_many::<String>("command").into_iter().flatten().cloned().collect();
    let (flags, rest) = match flags::parse_command(&arguments) {
        Ok(parsed) => parsed,
        Err(FlagError::Help(group)) => {
            match flags::help(group) {
                Some(text) => print!("{text}"),
                None => command().print_long_help().context("printing the help")?,
            }
            return Ok(ExitCode::SUCCESS);
        }
        Err(e) => return Err(anyhow!("{e}\nFor more, try `proplet run --help`.")),
    };
    let [guest, inputs @ ..] = rest.as_slice() else {
        return Err(anyhow!("no guest was named\nFor more, try `proplet run --help`."));
    };
    let report = RunReport::from_matches(matches);
    let env = Environment::from_process();
    let job = if matches.get_flag("as-worker") {
        let flags = &arguments[..arguments.len() - rest.len()];
        as_worker::job(matches, &env, guest, flags, inputs)?
    } else {
        let RunConfig { inference, images, rounds, outbound } = RunConfig::load(matches, &env)?;
        let policy = policy(&env);
        let spec = spec(&policy, &flags, guest, inputs)?;
        let fetcher = Arc::new(fetcher(&images, &policy.working_dir, u64::MAX, None));
        let round = Round::of(&spec).map(|round| InRound {
            round,
            fetcher: fetcher.clone(),
            services: round_services(&rounds, &policy.working_dir),
        });
        let captured = report.json || round.is_some();
        let stdio = if captured { Stdio::Captured } else { Stdio::Inherited };
        Job {
            nn: nn_config(inference, &policy),
            spec,
            runtime: RuntimeConfig {
                outbound: worker::outbound(&outbound, &policy.working_dir)?,
                ..runtime_config(stdio, fetcher)
            },
            proplet_id: String::new(),
            round,
        }
    };
    let code = report.run(guest, job)?;
    if code != ExitCode::SUCCESS
        && let Some(option) = inputs.iter().find(|input| flags::is_flag(input))
    {
        eprintln!(
            "proplet: `{option}` stands behind the guest, so that it is an argument of the \
             guest's: options come before the guest"
        );
    }
    Ok(code)
}

/// A guest, and what runs it.
struct Job {
    spec: TaskSpec,
    nn: NnConfig,
    runtime: RuntimeConfig,
    /// The worker that results name.
    proplet_id: String,
    /// The federated round that it is a client in.
    round: Option<InRound>,
}

/// A client's part in a federated round.
struct InRound {
    round: Round,
    fetcher: Arc<Fetcher>,
    services: RoundServices,
}

fn policy(env: &Environment) -> Policy {
    Policy {
        trust: Trust::Local {
            // WASI's variables are text.
            env: env
                .variables()
                .filter_map(|(name, value)| Some((name.to_owned(), value.to_str()?.to_owned())))
                .collect(),
        },
        proplet_id: None,
        limits: Limits { timeout: None, run: None, memory: None, output: OUTPUT },
        serving: Some(Serving {
            bind: Bind::Exactly(ADDRESS),
            timeout: REQUEST,
            drain: Duration::ZERO,
            body: u64::MAX,
            access_log: false,
        }),
        private: vec![],
        kernel: policy::kernel_file_systems(),
        module_size: u64::MAX,
        working_dir: env.working_dir().to_owned(),
        max_wasm_stack: MAX_WASM_STACK as u64,
        resolve: policy::resolve_dir,
        subdirectories: policy::subdirectories,
    }
}

fn nn_config(inference: Inference, policy: &Policy) -> NnConfig {
    let graphs = inference.graphs.iter().filter_map(|graph| {
        let found = policy.trusted_graph(&graph.encoding, &graph.dir);
        let unused = |e: &Rejection| {
            eprintln!("proplet: nn-graphs: {e}; the guest can't load it by name");
        };
        found.inspect_err(unused).ok()
    });
    NnConfig {
        backend: inference.backend,
        openvino: inference.openvino(),
        torch_library: inference.torch_lib.clone(),
        load_bytes: inference.load_bytes.clone(),
        graphs: graphs.collect(),
        cache_bytes: u64::MAX,
        model_bytes: u64::MAX,
        ..NnConfig::default()
    }
}

/// The guest's code.
pub(super) fn module(guest: &str) -> anyhow::Result<Binary> {
    let bytes = read(guest).with_context(|| format!("reading the guest {guest}"))?;
    Ok(Binary::new(binary(guest, bytes)?))
}

fn spec(
    policy: &Policy,
    flags: &RunFlags,
    guest: &str,
    inputs: &[String],
) -> anyhow::Result<TaskSpec> {
    let module = source(guest)?;
    let name = Path::new(guest).file_name().map_or(guest.into(), |name| name.to_string_lossy());
    let args = std::iter::once(name.to_string()).chain(inputs.iter().cloned()).collect();
    // A label that names no function: here only `--invoke` does.
    let grant = policy.grant(flags, args, String::new(), BTreeMap::new())?;
    let id = TaskId::new("run").map_err(|e| anyhow!(e))?;
    Ok(TaskSpec::new(id, module, grant))
}

/// The guest's code, or the image that has it.
fn source(guest: &str) -> anyhow::Result<ModuleSource> {
    if guest.get(..6).is_some_and(|scheme| scheme.eq_ignore_ascii_case("oci://")) {
        return Ok(ModuleSource::Url(guest.to_owned()));
    }
    module(guest).map(ModuleSource::Bytes)
}

/// The module of a file that ends in `.wat`; any other file is one already.
#[cfg(feature = "wat")]
fn binary(guest: &str, bytes: Vec<u8>) -> anyhow::Result<Vec<u8>> {
    if Path::new(guest).extension().is_none_or(|extension| extension != "wat") {
        return Ok(bytes);
    }
    let path = Path::new(guest);
    let parsed = wat::Parser::new().parse_bytes(Some(path), &bytes).map(|binary| binary.to_vec());
    parsed.with_context(|| format!("reading the text of {guest}"))
}

#[cfg(not(feature = "wat"))]
fn binary(_: &str, bytes: Vec<u8>) -> anyhow::Result<Vec<u8>> {
    Ok(bytes)
}

/// The code of what is a guest by its name or by how it begins.
pub(super) fn guest(path: &str) -> anyhow::Result<Option<Vec<u8>>> {
    let named = |suffix: &str| Path::new(path).extension().is_some_and(|own| own == suffix);
    let begins = || {
        let mut start = [0; 4];
        let read = std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut start));
        read.is_ok() && start == *b"\0asm"
    };
    if path != "-" && !named("wasm") && !named("wat") && !begins() {
        return Ok(None);
    }
    let bytes = read(path).with_context(|| format!("reading the guest {path}"))?;
    binary(path, bytes).map(Some)
}

/// A file's bytes; `-` is standard input.
fn read(guest: &str) -> std::io::Result<Vec<u8>> {
    if guest == "-" {
        let mut bytes = Vec::new();
        std::io::stdin().read_to_end(&mut bytes)?;
        return Ok(bytes);
    }
    std::fs::read(guest)
}

/// What gets images of registries, from anywhere or from the hosts that a worker
/// would get them from.
fn fetcher(images: &ImagesConfig, working_dir: &Path, limit: u64, hosts: Option<Hosts>) -> Fetcher {
    let (images, _) = Images::new(ImageSettings {
        registry: registry_place(images, working_dir),
        channel: false,
        timeout: images.timeout,
        limit,
        kept: None,
        hosts: hosts.clone(),
    });
    Fetcher::new(limit, Some(images), hosts)
}

fn runtime_config(stdio: Stdio, fetcher: Arc<Fetcher>) -> RuntimeConfig {
    RuntimeConfig {
        module_cache: u64::MAX,
        file_cache: 0,
        disk: None,
        compilers: 1,
        compile_apart: None,
        fetch: Arc::new(move |spec, cancel| fetcher.code(spec, cancel)),
        stdio,
        pool: None,
        requests: REQUESTS,
        outbound: None,
    }
}
