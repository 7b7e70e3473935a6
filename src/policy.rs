//! What a task may have: [`TaskRequest`] → [`TaskSpec`] or [`Rejection`].
//!
//! The one place that grants anything. Where a grant depends on what is on the
//! disk (a directory's canonical path), the lookup is a [`Resolve`] that tests
//! replace. What is promised of guests with that, what is not, and how it is tested
//! is in `SECURITY.md`.

use crate::flags::{self, RunFlags};
use crate::task::{
    Bind, EntryPoint, Grant, GraphDir, Life, Limits, ModuleSource, Rejection, Round, Serving,
    TaskRequest, TaskSpec, humantime, is_web_address,
};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

mod directories;
mod kernel;
use directories::cant_open;
pub use directories::{Granted, Resolve, resolve_dir, subdirectories};
pub use kernel::kernel_file_systems;

/// The variables that guests get beside those of their task, unless it sets
/// them: the worker's client id, and of a task in a workflow the results of
/// those that it depends on, as a JSON object by their ids.
const PROPLET_ID: &str = "PROPLET_ID";
const PARENT_RESULTS: &str = "PARENT_RESULTS";
/// The most bytes of the latter.
const MAX_PARENT_RESULTS: usize = 1 << 20;

/// A directory that tasks may be given, with everything below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// As the operator wrote it.
    pub path: PathBuf,
    /// Whether guests may change it.
    pub writable: bool,
}

/// Whose tasks these are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Tasks that came from the broker: only what the roots, the limits and the list
    /// of arguments allow.
    Remote {
        /// Directories that `--dir` may name, and that a task gets without it.
        roots: Vec<Root>,
    },
    /// A guest that the user runs at a terminal: any directory, read-write, and
    /// `--env NAME` inherits from `env`.
    Local {
        /// The environment to inherit from.
        env: BTreeMap<String, String>,
    },
}

/// See the module's documentation.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Whose tasks these are.
    pub trust: Trust,
    /// The worker's client id, which every guest is told; none for a guest that
    /// its user runs by hand.
    pub proplet_id: Option<String>,
    /// What no task gets past; a task may tighten each.
    pub limits: Limits,
    /// How HTTP servers serve, with the address of one that asks for none; none:
    /// there are none.
    pub serving: Option<Serving>,
    /// Files that hold the worker's own secrets: no directory above one of them
    /// is granted. Canonical paths.
    pub private: Vec<PathBuf>,
    /// Where the kernel's own file systems are, by their canonical paths: no
    /// root is, holds or lies below one.
    pub kernel: Vec<PathBuf>,
    /// Bytes of the largest module.
    pub module_size: u64,
    /// Relative directories are resolved against this.
    pub working_dir: PathBuf,
    /// Stack of WebAssembly code in bytes, which is the engine's.
    pub max_wasm_stack: u64,
    /// How directories are found.
    pub resolve: Resolve,
    /// The names of the directories in a directory, in order, links and hidden
    /// ones apart.
    pub subdirectories: fn(&Path) -> io::Result<Vec<String>>,
}

impl Policy {
    /// Grants what was asked for, or says what is not granted and why.
    pub fn admit(&self, request: TaskRequest) -> Result<TaskSpec, Rejection> {
        not_built_yet(&request)?;
        let life = request.life();
        let flags =
            flags::parse(&request.cli_args).map_err(|e| Rejection::Argument(e.to_string()))?;
        if !flags.ignored.is_empty() {
            let ignored = flags.ignored.join(", ");
            tracing::debug!(task = %request.id, "without effect, the engine is the worker's: {ignored}");
        }
        let module = self.module(request.module)?;
        let mut args = vec![format!("{}.wasm", request.id)];
        args.extend(request.inputs);
        let mut env = request.env;
        if let Some(id) = &self.proplet_id {
            env.entry(PROPLET_ID.into()).or_insert_with(|| id.clone());
        }
        let mut told = Vec::new();
        match request.parent_results {
            Some(results) if results.len() > MAX_PARENT_RESULTS => told.push(format!(
                "the results of the tasks before this one have {} bytes, more than \
                 {MAX_PARENT_RESULTS}: the guest was not given {PARENT_RESULTS}",
                results.len()
            )),
            Some(results) => drop(env.entry(PARENT_RESULTS.into()).or_insert(results)),
            None => {}
        }
        let mut grant = self.grant(&flags, args, request.name, env)?;
        grant.notes.extend(told);
        if life == Life::Daemon {
            // Until it is stopped, unless the task itself says for how long.
            grant.limits.timeout = None;
        }
        let spec = TaskSpec::new(request.id, module, grant).living(life);
        let no_round = Round::left_out(&spec);
        Ok(spec.monitored(request.monitoring).noting(no_round))
    }

    /// Grants `flags` to a guest with these `args` (argv\[0\] first), label and
    /// environment.
    pub fn grant(
        &self,
        flags: &RunFlags,
        args: Vec<String>,
        label: String,
        env: BTreeMap<String, String>,
    ) -> Result<Grant, Rejection> {
        self.host_access(flags)?;
        let graphs = flags.graphs.iter().map(|graph| {
            let dir = self.directory("-S nn-graph", &graph.dir)?.0;
            self.graph(&graph.encoding, &graph.dir, dir)
        });
        let graphs = graphs.collect::<Result<Vec<_>, _>>()?;
        let Granted { dirs, mut notes } = self.directories(&flags.dirs)?;
        notes.extend(no_network(flags));
        Ok(Grant {
            args,
            env: self.environment(flags, env)?,
            dirs,
            entry: flags.invoke.clone().map_or(EntryPoint::Label(label), EntryPoint::Invoke),
            nn: flags.nn.unwrap_or(true).then_some(graphs),
            limits: self.limits(flags)?,
            serving: self.serving(flags),
            notes,
        })
    }

    /// How the task serves, if it is a server.
    fn serving(&self, flags: &RunFlags) -> Option<Serving> {
        let mut serving = self.serving.clone()?;
        let (Bind::Exactly(own) | Bind::From(own)) = serving.bind;
        if let Some(port) = flags.port {
            serving.bind = Bind::Exactly(SocketAddr::new(own.ip(), port));
        }
        if let Some(address) = flags.addr {
            serving.bind = Bind::Exactly(address);
        }
        Some(serving)
    }

    /// A graph directory of the operator's own, which need not be under a root.
    pub fn trusted_graph(&self, encoding: &str, dir: &str) -> Result<GraphDir, Rejection> {
        let found = (self.resolve)(&self.working_dir.join(dir));
        let found = found.map_err(|e| cant_open("the graph directory", dir, &e))?;
        self.graph(encoding, dir, found)
    }

    fn graph(&self, encoding: &str, typed: &str, dir: PathBuf) -> Result<GraphDir, Rejection> {
        // The name is the last component as typed, link or not; `.` has none.
        let name = Path::new(typed).file_name().or(dir.file_name()).and_then(OsStr::to_str);
        let name = name.map(str::to_owned).ok_or_else(|| {
            Rejection::Argument(format!("the graph directory `{typed}` has no name to load it by"))
        })?;
        Ok(GraphDir { encoding: encoding.to_owned(), dir, name })
    }

    fn module(&self, source: Option<ModuleSource>) -> Result<ModuleSource, Rejection> {
        match source {
            None => Err(Rejection::Unsupported(
                "the task has neither `file` nor `image_url`: \
                 upload the module, or give an http(s) address or the name of an image"
                    .into(),
            )),
            Some(ModuleSource::Bytes(bytes)) if bytes.len() as u64 > self.module_size => {
                Err(Rejection::Module(format!(
                    "the module has {} bytes, over the limit of {} (--module-size)",
                    bytes.len(),
                    self.module_size
                )))
            }
            Some(ModuleSource::Url(url)) if !is_web_address(&url) && has_other_scheme(&url) => {
                Err(Rejection::Unsupported(format!(
                    "`image_url` {url} is neither an http(s) address nor the name of an image, \
                     such as registry.example/team/guest:v1"
                )))
            }
            Some(source) => Ok(source),
        }
    }

    fn host_access(&self, flags: &RunFlags) -> Result<(), Rejection> {
        match (&self.trust, flags.host_access.first()) {
            (Trust::Remote { .. }, Some(option)) => Err(Rejection::Argument(format!(
                "`-S {option}` would let the guest reach the host: this worker grants no network, \
                 no inherited environment and no descriptors"
            ))),
            _ => Ok(()),
        }
    }

    fn environment(
        &self,
        flags: &RunFlags,
        mut env: BTreeMap<String, String>,
    ) -> Result<Vec<(String, String)>, Rejection> {
        if let Trust::Local { env: host } = &self.trust
            && flags.host_access.iter().any(|option| option == "inherit-env")
        {
            for (name, value) in host {
                env.entry(name.clone()).or_insert_with(|| value.clone());
            }
        }
        for (name, value) in &flags.env {
            let value = match (value, &self.trust) {
                (Some(value), _) => Some(value.clone()),
                // What the shell-out worker inherited was the task's own.
                (None, _) if env.contains_key(name) => continue,
                (None, Trust::Local { env: host }) => host.get(name).cloned(),
                (None, Trust::Remote { .. }) => {
                    return Err(Rejection::Argument(format!(
                        "`--env {name}` would hand the worker's own environment to the guest: \
                         write `--env {name}=VALUE`, or put it into the task's `env`"
                    )));
                }
            };
            if let Some(value) = value {
                env.insert(name.clone(), value);
            }
        }
        check_environment(&env)?;
        Ok(env.into_iter().collect())
    }

    fn limits(&self, flags: &RunFlags) -> Result<Limits, Rejection> {
        if let Some(asked) = flags.max_wasm_stack
            && asked < self.max_wasm_stack
        {
            return Err(Rejection::Argument(format!(
                "`-W max-wasm-stack={asked}`: the stack belongs to the engine that all tasks \
                 share and has {} bytes; it can't be smaller for one task",
                self.max_wasm_stack
            )));
        }
        if flags.timeout.is_some_and(|timeout| timeout.is_zero()) {
            return Err(Rejection::Argument(format!(
                "`-W timeout={}` leaves the guest no time",
                humantime(flags.timeout.unwrap_or_default())
            )));
        }
        Ok(Limits {
            timeout: self.limits.timeout,
            run: tighter(self.limits.run, flags.timeout),
            memory: tighter(self.limits.memory, flags.max_memory),
            output: self.limits.output,
        })
    }
}

/// Whether a guest can be given these variables.
///
/// # Errors
///
/// The first one that it can't.
pub fn check_environment(env: &BTreeMap<String, String>) -> Result<(), Rejection> {
    let bad = |(name, value): (&String, &String)| {
        name.is_empty() || name.contains(['=', '\0']) || value.contains('\0')
    };
    match env.iter().find(|variable| bad(*variable)) {
        Some((name, _)) => Err(Rejection::Argument(format!(
            "the environment variable {name:?} can't be passed on: a name is not empty and \
             holds no `=`, and neither name nor value holds a NUL"
        ))),
        None => Ok(()),
    }
}

/// Whether it is an address that is none of the web, nor the name of an image.
fn has_other_scheme(url: &str) -> bool {
    url.split_once("://").is_some_and(|(scheme, _)| !scheme.eq_ignore_ascii_case("oci"))
}

/// What is said of options that ask for the network, where they are not refused.
fn no_network(flags: &RunFlags) -> Option<String> {
    let network = flags.host_access.iter().filter(|option| *option != "inherit-env");
    let options: Vec<_> = network.map(|option| format!("`-S {option}`")).collect();
    (!options.is_empty())
        .then(|| format!("{}: without effect, since no guest has a network", options.join(", ")))
}

fn tighter<T: Ord>(limit: Option<T>, asked: Option<T>) -> Option<T> {
    match (limit, asked) {
        (Some(limit), Some(asked)) => Some(limit.min(asked)),
        (limit, asked) => limit.or(asked),
    }
}

/// What no version of this worker runs so far, or what contradicts itself.
fn not_built_yet(request: &TaskRequest) -> Result<(), Rejection> {
    if request.daemon && request.latent {
        return Err(Rejection::Argument(
            "the task is to go on (`daemon`) and to wait for invocations (`latent`): set one of them"
                .into(),
        ));
    }
    if request.encrypted {
        return Err(Rejection::Unsupported(
            "this version of the worker does not run encrypted modules (`encrypted`) yet".into(),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
