//! One setting: its names, its default and its flag.

use clap::{Arg, ArgAction};

/// The heading under which a setting is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Who the worker is to the broker and the manager.
    Credentials,
    /// The way to the broker.
    Connection,
    /// How results reach the manager.
    Manager,
    /// How many tasks there may be.
    Tasks,
    /// What survives the process.
    State,
    /// What one task may use.
    Limits,
    /// Federated rounds.
    Rounds,
    /// Where images come from.
    Images,
    /// HTTP servers.
    Http,
    /// What stays in memory between tasks.
    Caches,
    /// wasi-nn and its backend.
    Inference,
    /// What the manager is told about this machine.
    Description,
    /// What tells how the worker does.
    Monitoring,
    /// The log.
    Logging,
    /// Where the TOML section is.
    File,
}

impl Group {
    /// The heading in `--help`.
    pub fn heading(self) -> &'static str {
        match self {
            Group::Credentials => "Credentials",
            Group::Connection => "Connection",
            Group::Manager => "Manager",
            Group::Tasks => "Tasks",
            Group::State => "State",
            Group::Limits => "Limits of a task",
            Group::Rounds => "Federated rounds",
            Group::Images => "Images",
            Group::Http => "HTTP",
            Group::Caches => "Caches",
            Group::Inference => "Inference",
            Group::Description => "Description of this worker",
            Group::Monitoring => "Monitoring",
            Group::Logging => "Logging",
            Group::File => "Configuration file",
        }
    }
}

/// What a setting is when nobody sets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultValue {
    /// Nothing; whether that will do is for who reads it.
    Absent,
    /// This text, read like any other value.
    Text(&'static str),
    /// Found out at the start, as described.
    Computed(&'static str),
}

/// One setting. Its flag is `--{name}`, its variable `PROPLET_{NAME}` and its
/// TOML key `{name}` with underscores; aliases likewise.
#[derive(Debug)]
pub struct Setting {
    /// With hyphens, such as `task-timeout`.
    pub name: &'static str,
    /// Other names that deployments use for the same thing.
    pub aliases: &'static [&'static str],
    /// What stands for the value in `--help`.
    pub value: &'static str,
    /// Variables of Propeller's that mean it, too, in full.
    pub foreign: &'static [&'static str],
    /// The value when nobody sets it.
    pub default: DefaultValue,
    /// One sentence.
    pub help: &'static str,
    /// The heading.
    pub group: Group,
    /// Never shown or logged.
    pub secret: bool,
}

impl Setting {
    /// The environment variables with this prefix (`PROPLET_`), the first being
    /// the one that is advertised, then those of Propeller's.
    pub(super) fn variables(&self, prefix: &str) -> impl Iterator<Item = String> {
        let own = move |name: &str| format!("{prefix}{}", name.replace('-', "_").to_uppercase());
        let foreign = self.foreign.iter().map(|name| (*name).to_owned());
        self.names().map(own).chain(foreign)
    }

    /// The TOML keys, the first being the one that is advertised.
    pub(super) fn keys(&self) -> impl Iterator<Item = String> {
        self.names().map(|name| name.replace('-', "_"))
    }

    /// The variable that is advertised.
    pub fn variable(&self) -> String {
        format!("PROPLET_{}", self.name.replace('-', "_").to_uppercase())
    }

    /// A value as it may be shown: no secret, and no password that somebody put
    /// into an address.
    pub(super) fn shown(&self, value: &str) -> String {
        match value.rsplit_once('@') {
            _ if self.secret => "…".to_owned(),
            Some((_, host)) if matches!(self.name, "mqtt-address" | "manager-url" | "registry") => {
                format!("…@{host}")
            }
            _ => value.to_owned(),
        }
    }

    /// Whether the TOML section may hold it; the place of the section itself
    /// can't be read from there.
    pub(super) fn in_file(&self) -> bool {
        self.group != Group::File
    }

    fn names(&self) -> impl Iterator<Item = &'static str> {
        std::iter::once(self.name).chain(self.aliases.iter().copied())
    }

    /// Its flag.
    pub(super) fn arg(&self) -> Arg {
        let default = match self.default {
            DefaultValue::Absent => String::new(),
            DefaultValue::Text(text) | DefaultValue::Computed(text) => format!("default: {text}, "),
        };
        let arg = Arg::new(self.name)
            .long(self.name)
            .aliases(self.aliases)
            .value_name(self.value)
            .help(format!("{} [{default}variable: {}]", self.help, self.variable()))
            .help_heading(self.group.heading())
            .action(ArgAction::Set);
        if self.value == BOOLEAN {
            // `--collect-system-info` alone switches on.
            arg.num_args(0..=1).require_equals(true).default_missing_value("true")
        } else {
            arg
        }
    }
}

/// What stands for the value of a switch.
pub(super) const BOOLEAN: &str = "BOOL";

pub(super) const fn setting(
    group: Group,
    name: &'static str,
    value: &'static str,
    default: DefaultValue,
    help: &'static str,
) -> Setting {
    Setting { name, aliases: &[], foreign: &[], value, default, help, group, secret: false }
}

pub(super) const fn credential(
    name: &'static str,
    aliases: &'static [&'static str],
    secret: bool,
    help: &'static str,
) -> Setting {
    let value = if secret { "KEY" } else { "ID" };
    Setting {
        name,
        aliases,
        value,
        foreign: &[],
        default: DefaultValue::Absent,
        help,
        group: Group::Credentials,
        secret,
    }
}
