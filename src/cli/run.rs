//! `proplet run`: a guest with the rights of its user, as `wasmtime run` runs it.

use crate::cancel::Cancel;
use crate::config::{self, Environment, ImagesConfig, Inference, RoundsConfig};
use crate::flags::{self, FlagError, RunFlags};
use crate::manager::{RoundServices, Rounds};
use crate::nn::{Nn, NnConfig};
use crate::policy::{self, Policy, Trust};
use crate::runtime::{MAX_WASM_STACK, Runtime, RuntimeConfig, Stdio, THREAD_STACK};
use crate::sources::{Fetcher, ImageSettings, Images};
use crate::task::{
    Binary, Failure, Limits, ModuleSource, Outcome, Rejection, Round, TaskId, TaskSpec, UpdateFate,
};
use crate::worker::{registry_place, round_services};
use anyhow::{Context as _, anyhow};
use clap::{Arg, ArgAction, ArgMatches, Command};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

/// The most bytes of the output of a client in a federated round, which is its
/// update.
const UPDATE: usize = 64 << 20;
/// What a shell reports of a program that aborted, which `wasmtime run` makes
/// of a trap.
const TRAPPED: u8 = 134;

pub(super) fn command() -> Command {
    Command::new("run")
        .about("Run a guest here and now, without a broker")
        .long_about(
            "Runs a guest as `wasmtime run` does: its output passes through as it comes, and its \
             exit code is this program's (134 after a trap). Any directory may be given and is \
             writable, and there are no limits but those that you set. A guest that imports \
             wasi-nn has it. It is a file, or oci:// and the name of an image, which is pulled \
             from its registry.\n\n\
             A task runs the same way on a worker, where directories and limits are the \
             operator's.",
        )
        .override_usage("proplet run [OPTIONS] [WASMTIME-RUN ARGUMENTS] GUEST [ARGS]...")
        .after_help(
            "Arguments before the guest, as for `wasmtime run`:\n  \
             -S nn-graph=openvino::DIR    a graph that the guest loads by DIR's last component\n  \
             --dir HOST[::GUEST]          a directory for the guest\n  \
             --env NAME[=VALUE]           a variable; without a value, the one that is set here\n  \
             --invoke NAME                call this export, with ARGS as its values (WAVE for\n  \
                                          a component, which also takes --invoke 'f(\"a\", 1)')\n  \
             -W timeout=DURATION          end it after this time\n  \
             -S help, -W help             list the options\n\n\
             The options come before them, and are a worker's: as flags, as variables \
             (PROPLET_NN_PRECISION, …) or from the section of config.toml.\n\n\
             Example:\n  proplet run --dir=fixture guest.wasm",
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
    let env = Environment::from_process();
    let inference = Inference::load(matches, &env)?;
    let mut policy = policy(&env);
    if flags.env.iter().any(|(name, _)| name == "ROUND_ID") {
        policy.limits.output = UPDATE;
    }
    let nn = nn_config(inference, &policy);
    let images = ImagesConfig::load(matches, &env)?;
    let rounds = RoundsConfig::load(matches, &env)?;
    let spec = spec(&policy, &flags, guest, inputs)?;
    let mut outcome = run(spec, nn, images, rounds, &policy.working_dir)?;
    tell_round(&mut outcome)?;
    if outcome.verdict.is_err()
        && let Some(option) = inputs.iter().find(|input| flags::is_flag(input))
    {
        eprintln!(
            "proplet: `{option}` stands behind the guest, so that it is an argument of the \
             guest's: options come before the guest"
        );
    }
    Ok(report(guest, &outcome))
}

fn policy(env: &Environment) -> Policy {
    Policy {
        trust: Trust::OwnHand {
            // WASI's variables are text.
            env: env
                .variables()
                .filter_map(|(name, value)| Some((name.to_owned(), value.to_str()?.to_owned())))
                .collect(),
        },
        proplet_id: None,
        limits: Limits { timeout: None, run: None, memory: None, output: 0 },
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
        named_only: !inference.load_bytes,
        graphs: graphs.collect(),
        cache_bytes: u64::MAX,
        model_bytes: u64::MAX,
        ..NnConfig::default()
    }
}

fn spec(
    policy: &Policy,
    flags: &RunFlags,
    guest: &str,
    inputs: &[String],
) -> anyhow::Result<TaskSpec> {
    let module = if is_image(guest) {
        ModuleSource::Url(guest.to_owned())
    } else {
        let module = read(guest).with_context(|| format!("reading the guest {guest}"))?;
        ModuleSource::Bytes(Binary::new(binary(guest, module)?))
    };
    let name = Path::new(guest).file_name().map_or(guest.into(), |name| name.to_string_lossy());
    let args = std::iter::once(name.to_string()).chain(inputs.iter().cloned()).collect();
    // A label that names no function: here only `--invoke` does.
    let grant = policy.grant(flags, args, String::new(), BTreeMap::new())?;
    let id = TaskId::new("run").map_err(|e| anyhow!(e))?;
    Ok(TaskSpec::new(id, module, grant))
}

fn is_image(guest: &str) -> bool {
    guest.get(..6).is_some_and(|scheme| scheme.eq_ignore_ascii_case("oci://"))
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

/// A file's bytes; `-` is standard input.
pub(super) fn read(guest: &str) -> std::io::Result<Vec<u8>> {
    if guest == "-" {
        let mut bytes = Vec::new();
        std::io::stdin().read_to_end(&mut bytes)?;
        return Ok(bytes);
    }
    std::fs::read(guest)
}

fn run(
    spec: TaskSpec,
    nn: NnConfig,
    images: ImagesConfig,
    rounds: RoundsConfig,
    working_dir: &Path,
) -> anyhow::Result<Outcome> {
    let (images, _) = Images::new(ImageSettings {
        registry: registry_place(&images, working_dir),
        channel: false,
        timeout: images.timeout,
        limit: u64::MAX,
        kept: None,
    });
    let fetcher = Arc::new(Fetcher::new(u64::MAX, Some(images)));
    let fetch = fetcher.clone();
    let round = Round::of(&spec);
    let config = RuntimeConfig {
        module_cache: u64::MAX,
        file_cache: 0,
        disk: None,
        compilers: 1,
        compile_apart: None,
        fetch: Arc::new(move |spec, cancel| fetch.code(spec, cancel)),
        stdio: if round.is_some() { Stdio::Captured } else { Stdio::Inherited },
        pool: None,
    };
    let runtime = Runtime::new(&config, Nn::new(nn))?;
    let services = round_services(&rounds, working_dir);
    std::thread::Builder::new()
        .name("guest".into())
        .stack_size(THREAD_STACK)
        .spawn(move || match round {
            None => Ok(runtime.run(&spec, &Arc::<Cancel>::default())),
            Some(round) => in_round(&runtime, &fetcher, &spec, &round, services),
        })
        .context("starting the guest's thread")?
        .join()
        .map_err(|_| anyhow!("the worker's own code panicked; see above"))?
}

/// As a worker does for a task of a federated round.
fn in_round(
    runtime: &Runtime,
    fetcher: &Fetcher,
    spec: &TaskSpec,
    round: &Round,
    services: RoundServices,
) -> anyhow::Result<Outcome> {
    let cancel = Arc::<Cancel>::default();
    let code = fetcher.code(spec, &cancel).map_err(|e| anyhow!(e))?;
    let worker = spec.variable("PROPLET_ID").unwrap_or("proplet");
    let rounds = Rounds::new(services, worker, None)?;
    let spec = spec.clone().with_code(code);
    let run = |spec: &TaskSpec| Ok::<_, Infallible>(runtime.run(spec, &cancel));
    let Ok(outcome) = rounds.part(&spec, round, None, &cancel, run);
    Ok(outcome)
}

/// What the guest wrote passes through only now, and there is no broker for an
/// update that no coordinator took.
fn tell_round(outcome: &mut Outcome) -> anyhow::Result<()> {
    let Some(end) = &mut outcome.round else { return Ok(()) };
    if end.unsent.take().is_some() {
        end.update = UpdateFate::None;
        let note = end.note.clone().unwrap_or_default();
        let failure = format!("the update was not sent: {note}, and there is no broker here");
        outcome.verdict = Err(Failure::Round(failure));
        outcome.diagnostics.clear();
    }
    std::io::stdout().write_all(&outcome.stdout.bytes).context("writing the guest's output")?;
    std::io::stderr().write_all(&outcome.stderr.bytes).context("writing the guest's errors")
}

/// Says on standard error what went wrong beyond what the guest said itself.
fn report(guest: &str, outcome: &Outcome) -> ExitCode {
    for diagnostic in &outcome.diagnostics {
        eprintln!("proplet: {diagnostic}");
    }
    match &outcome.verdict {
        Ok(()) => ExitCode::SUCCESS,
        // The system keeps the lowest byte, too.
        Err(Failure::Exit(code)) => ExitCode::from(code.to_le_bytes()[0]),
        Err(failure) => {
            eprintln!("proplet: {guest}: {failure}");
            match failure {
                Failure::Trap(_) | Failure::Timeout(_) => ExitCode::from(TRAPPED),
                _ => ExitCode::FAILURE,
            }
        }
    }
}
