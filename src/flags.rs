//! The argument grammar of `wasmtime run`, as text: what was typed becomes
//! [`RunFlags`]. Whether any of it is allowed is for [`crate::policy`] to say.
//! No I/O.
//!
//! The grammar is that of Wasmtime 48 (`crates/cli-flags`), with two forms from
//! before Wasmtime 14 that deployments still carry. The tables in `options`
//! hold every flag and every option once, for the parser and for [`help`].

mod errors;
mod grammar;
mod help;
mod options;
mod value;

use std::net::SocketAddr;
use std::time::Duration;

use errors::{invalid, stray_argument, unknown_flag, unknown_option};
use grammar::{Flag, OptionDesc, OptionEffect, OptionGroup, Shape};

pub use help::help;
pub(crate) use value::{closest, closest_within, parse_duration, parse_integer};

/// What the arguments of `wasmtime run` before the module ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunFlags {
    /// `-S nn`, or that a graph asks for it; `Some(false)` is `-S nn=n`.
    pub nn: Option<bool>,
    /// `-S nn-graph=ENCODING::DIR`, in order.
    pub graphs: Vec<GraphFlag>,
    /// `--dir HOST[::GUEST]`, in order.
    pub dirs: Vec<DirFlag>,
    /// `--env NAME[=VALUE]`, in order; no value means: inherit the host's.
    pub env: Vec<(String, Option<String>)>,
    /// `--invoke NAME`.
    pub invoke: Option<String>,
    /// `--addr HOST:PORT`: where an HTTP server listens.
    pub addr: Option<SocketAddr>,
    /// `--port N`: the same, at the worker's own address.
    pub port: Option<u16>,
    /// `-W timeout=…`.
    pub timeout: Option<Duration>,
    /// `-W max-memory-size=…`, in bytes.
    pub max_memory: Option<u64>,
    /// `-W max-wasm-stack=…`, in bytes.
    pub max_wasm_stack: Option<u64>,
    /// `-S` options that would reach the host and are on, by name
    /// (`inherit-env`, `inherit-network`, `tcp`, …), each once.
    pub host_access: Vec<String>,
    /// Settings of an engine that the worker owns, written `-O opt-level=2`:
    /// without effect.
    pub ignored: Vec<String>,
}

/// One `-S nn-graph`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GraphFlag {
    /// As typed, such as `openvino`.
    pub encoding: String,
    /// As typed.
    pub dir: String,
}

impl GraphFlag {
    /// Reads `ENCODING::DIR`. The error says what is missing and names no flag.
    pub fn parse(text: &str) -> Result<GraphFlag, String> {
        match text.split_once("::") {
            Some((encoding, dir)) if !encoding.is_empty() && !dir.is_empty() => {
                Ok(GraphFlag { encoding: encoding.to_owned(), dir: dir.to_owned() })
            }
            _ => Err("a graph is written ENCODING::DIR, such as `openvino::/models/resnet`".into()),
        }
    }
}

/// One `--dir`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirFlag {
    /// The host's path, as typed.
    pub host: String,
    /// The guest's path: as typed behind `::`, else the host's.
    pub guest: String,
}

/// Why arguments became no [`RunFlags`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlagError {
    /// `-S help` and its like: the caller prints [`help`] of this letter, or
    /// has nothing to run. `h` stands for `--help`.
    #[error("`{}` lists what there is and runs nothing: leave it out", help::help_flag(*.0))]
    Help(char),
    /// Arguments that were not understood. The text names the argument.
    #[error("{0}")]
    Invalid(String),
}

/// Reads a task's `cli_args`, one argument an element. All of them are flags:
/// there is no module among them, and the guest's own arguments are the task's
/// `inputs`.
pub fn parse(args: &[String]) -> Result<RunFlags, FlagError> {
    let mut parser = Parser::default();
    match parser.take(args)? {
        [] => parser.finish(),
        [stray, ..] => Err(stray_argument(stray)),
    }
}

/// Reads a command line: flags, then whatever stands behind them, which is
/// returned. As in `wasmtime run`, the first argument that is no flag is the
/// module, everything after it is the guest's, and `--` ends the flags.
pub fn parse_command(args: &[String]) -> Result<(RunFlags, Vec<String>), FlagError> {
    let mut parser = Parser::default();
    let rest = parser.take(args)?.to_vec();
    Ok((parser.finish()?, rest))
}

/// Whether this is a flag of `wasmtime run`: one that stands behind the module
/// is an argument of the guest's.
pub fn is_flag(arg: &str) -> bool {
    arg.starts_with('-') && options::flag(split_flag(arg).0).is_some()
}

/// The flags read so far.
#[derive(Default)]
struct Parser {
    flags: RunFlags,
}

impl Parser {
    /// Reads flags up to the first argument that is not a flag; gives back that one
    /// and what follows.
    fn take<'a>(&mut self, args: &'a [String]) -> Result<&'a [String], FlagError> {
        let mut rest = args;
        while let [arg, behind @ ..] = rest {
            if arg == "--" {
                return Ok(behind);
            }
            // A lone `-` is the module on standard input.
            if arg == "-" || !arg.starts_with('-') {
                return Ok(rest);
            }
            let taken = self.flag(arg, behind)?;
            rest = &behind[taken..];
        }
        Ok(rest)
    }

    /// Reads one flag; says how many of the arguments behind it were its value.
    fn flag(&mut self, arg: &str, behind: &[String]) -> Result<usize, FlagError> {
        let (name, attached) = split_flag(arg);
        let Some(desc) = options::flag(name) else {
            return Err(unknown_flag(arg, name));
        };
        if matches!(desc.flag, Flag::Help) {
            return Err(FlagError::Help('h'));
        }
        if let Flag::Unsupported(why) = desc.flag {
            return Err(invalid(format!("`{name}` is not supported here: {why}")));
        }
        let (value, taken) = match (attached, behind) {
            (Some(value), _) => (value, 0),
            (None, [next, ..]) if next == "-" || !next.starts_with('-') => (next.as_str(), 1),
            (None, [next, ..]) => {
                return Err(invalid(format!(
                    "`{name}` needs a value ({}), but the next argument is the flag `{next}`; \
                     a value that starts with `-` is written `{name}={next}`",
                    desc.value
                )));
            }
            (None, []) => {
                return Err(invalid(format!(
                    "`{name}` needs a value ({}), but it is the last argument",
                    desc.value
                )));
            }
        };
        match desc.flag {
            Flag::Group(group) => self.group(group, name, value)?,
            Flag::Dir => self.dir(value)?,
            Flag::MapDir => self.mapdir(value)?,
            Flag::Env => self.env(value)?,
            Flag::Invoke => self.invoke(value)?,
            Flag::Addr => self.flags.addr = Some(self.address(value)?),
            Flag::Port => self.flags.port = Some(self.port(value)?),
            Flag::WasiModules => self.wasi_modules(value)?,
            Flag::Help | Flag::Unsupported(_) => {}
        }
        Ok(taken)
    }

    /// Reads the value of `-S`, `-W`, `-O`, `-C` or `-D`: options, separated by
    /// commas.
    fn group(&mut self, group: OptionGroup, flag: &str, value: &str) -> Result<(), FlagError> {
        if value == "help" || value == "help-long" {
            return Err(FlagError::Help(group.letter()));
        }
        for item in value.split(',') {
            let (key, text) = match item.split_once('=') {
                Some((key, text)) => (key, Some(text)),
                None => (item, None),
            };
            match options::of(group) {
                // The engine's own settings are not even listed: whatever they
                // are, the worker's engine is made already.
                None if !key.is_empty() && !key.contains(char::is_whitespace) => {
                    self.ignore(group, item);
                }
                None => return Err(unknown_option(group, flag, value, key, &[])),
                Some(options) => match options.iter().find(|desc| desc.name == key) {
                    Some(desc) => self.option(group, desc, item, text)?,
                    None => return Err(unknown_option(group, flag, value, key, options)),
                },
            }
        }
        Ok(())
    }

    fn option(
        &mut self,
        group: OptionGroup,
        desc: &OptionDesc,
        item: &str,
        text: Option<&str>,
    ) -> Result<(), FlagError> {
        let letter = group.letter();
        let wrong = |reason: String| invalid(format!("`-{letter} {item}`: {reason}"));
        let needed = || {
            text.ok_or_else(|| {
                wrong(format!("a value is missing: `-{letter} {}{}`", desc.name, desc.shape.form()))
            })
        };
        let on = match desc.shape {
            Shape::Switch => value::parse_switch(text).map_err(wrong)?,
            Shape::Integer => {
                value::parse_integer(needed()?).map_err(wrong)?;
                true
            }
            Shape::Duration => {
                value::parse_duration(needed()?).map_err(wrong)?;
                true
            }
            Shape::Text | Shape::Graph => {
                needed()?;
                true
            }
        };
        match desc.effect {
            OptionEffect::Nn => self.flags.nn = Some(on),
            OptionEffect::Graph => {
                self.flags.graphs.push(GraphFlag::parse(needed()?).map_err(wrong)?);
            }
            OptionEffect::Timeout => {
                self.flags.timeout = Some(value::parse_duration(needed()?).map_err(wrong)?);
            }
            OptionEffect::MaxMemory => {
                self.flags.max_memory = Some(value::parse_integer(needed()?).map_err(wrong)?);
            }
            OptionEffect::MaxStack => {
                self.flags.max_wasm_stack = Some(value::parse_integer(needed()?).map_err(wrong)?);
            }
            OptionEffect::Host => {
                // The last one wins.
                self.flags.host_access.retain(|name| name != desc.name);
                if on {
                    self.flags.host_access.push(desc.name.to_owned());
                }
            }
            OptionEffect::Ignored => self.ignore(group, item),
            OptionEffect::Refused(why) if on => return Err(wrong(why.to_owned())),
            OptionEffect::AlwaysOn(why) if !on => return Err(wrong(why.to_owned())),
            OptionEffect::Refused(_) | OptionEffect::AlwaysOn(_) => self.ignore(group, item),
        }
        Ok(())
    }

    fn ignore(&mut self, group: OptionGroup, item: &str) {
        self.flags.ignored.push(format!("-{} {item}", group.letter()));
    }

    fn dir(&mut self, value: &str) -> Result<(), FlagError> {
        let (host, guest) = value.split_once("::").unwrap_or((value, value));
        self.push_dir("--dir", value, host, guest)
    }

    fn mapdir(&mut self, value: &str) -> Result<(), FlagError> {
        let Some((guest, host)) = value.split_once("::") else {
            return Err(invalid(format!(
                "`--mapdir {value}`: write it GUEST::HOST, or use `--dir HOST::GUEST`"
            )));
        };
        self.push_dir("--mapdir", value, host, guest)
    }

    fn push_dir(
        &mut self,
        flag: &str,
        value: &str,
        host: &str,
        guest: &str,
    ) -> Result<(), FlagError> {
        if host.is_empty() || guest.is_empty() {
            return Err(invalid(format!("`{flag} {value}`: the name of a directory is missing")));
        }
        // Wasmtime drops what stands behind a second `::`: a mistake that is
        // better said than run.
        if value.matches("::").count() > 1 {
            return Err(invalid(format!("`{flag} {value}`: there is more than one `::` in it")));
        }
        self.flags.dirs.push(DirFlag { host: host.to_owned(), guest: guest.to_owned() });
        Ok(())
    }

    fn env(&mut self, value: &str) -> Result<(), FlagError> {
        let (name, text) = match value.split_once('=') {
            Some((name, text)) => (name, Some(text.to_owned())),
            None => (value, None),
        };
        if name.is_empty() {
            return Err(invalid(format!("`--env {value}`: the variable's name is missing")));
        }
        self.flags.env.push((name.to_owned(), text));
        Ok(())
    }

    fn invoke(&mut self, name: &str) -> Result<(), FlagError> {
        if let Some(first) = &self.flags.invoke {
            return Err(invalid(format!(
                "`--invoke {name}`: there is a `--invoke {first}` already, and only one export is called"
            )));
        }
        if name.is_empty() {
            return Err(invalid("`--invoke` needs the name of an export, not an empty one".into()));
        }
        self.flags.invoke = Some(name.to_owned());
        Ok(())
    }

    fn address(&self, value: &str) -> Result<SocketAddr, FlagError> {
        self.listens_once(&format!("--addr {value}"))?;
        let local = value.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
        local.as_deref().unwrap_or(value).parse().map_err(|_| {
            invalid(format!(
                "`--addr {value}`: write it ADDRESS:PORT, such as `127.0.0.1:8080`, `0.0.0.0:8080` \
                 or `[::]:8080`"
            ))
        })
    }

    fn port(&self, value: &str) -> Result<u16, FlagError> {
        self.listens_once(&format!("--port {value}"))?;
        value
            .parse()
            .map_err(|_| invalid(format!("`--port {value}`: a port is a number from 0 to 65535")))
    }

    fn listens_once(&self, again: &str) -> Result<(), FlagError> {
        match (self.flags.addr, self.flags.port) {
            (None, None) => Ok(()),
            _ => Err(invalid(format!("`{again}`: a server listens at one address"))),
        }
    }

    /// `--wasi-modules=LIST`, as Wasmtime 0.40 to 13 had it: names that are on,
    /// or off with `-` in front, on top of the default set, which is WASI
    /// itself.
    fn wasi_modules(&mut self, list: &str) -> Result<(), FlagError> {
        for item in list.trim().split(',').map(str::trim) {
            let (name, on) = match item.strip_prefix('-') {
                Some(name) => (name, false),
                None => (item, true),
            };
            let option = match name {
                "" | "default" | "wasi-common" => continue,
                "experimental-wasi-nn" => "nn",
                "experimental-wasi-threads" => "threads",
                "experimental-wasi-http" => "http",
                _ => {
                    return Err(invalid(format!(
                        "`--wasi-modules={list}`: there is no WASI module `{name}`; today's form is \
                         `-S nn`, and `proplet run -S help` lists the options"
                    )));
                }
            };
            let item = if on { option.to_owned() } else { format!("{option}=n") };
            self.group(OptionGroup::Wasi, "-S", &item)?;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<RunFlags, FlagError> {
        if let Some(graph) = self.flags.graphs.first() {
            if self.flags.nn == Some(false) {
                return Err(invalid(format!(
                    "`-S nn-graph={}::{}` asks for wasi-nn, which `-S nn=n` forbids: leave one of \
                     them out",
                    graph.encoding, graph.dir
                )));
            }
            self.flags.nn = Some(true);
        }
        Ok(self.flags)
    }
}

/// Splits `--name=value`, `-Nvalue` and `-N=value`.
fn split_flag(arg: &str) -> (&str, Option<&str>) {
    if arg.starts_with("--") {
        return match arg.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (arg, None),
        };
    }
    // The dash and one character, which need not be ASCII.
    let end = arg.char_indices().nth(2).map_or(arg.len(), |(at, _)| at);
    let (name, rest) = arg.split_at(end);
    match rest {
        "" => (name, None),
        _ => (name, Some(rest.strip_prefix('=').unwrap_or(rest))),
    }
}

#[cfg(test)]
mod tests;
