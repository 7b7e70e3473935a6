//! Where values come from: the flags, the process's environment, a section of
//! a TOML file. Finds the raw text of a setting and remembers its source.

use crate::nn::SearchEnv;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use clap::ArgMatches;

use super::setting::{Group, Setting};

/// What a process inherits: variables, working directory, cores, its own file. Everything in
/// this crate that depends on one of them is handed it from here, so a test can
/// have its own.
#[derive(Clone, Debug)]
pub struct Environment {
    variables: BTreeMap<String, OsString>,
    working_dir: PathBuf,
    cores: NonZeroUsize,
    executable: Option<PathBuf>,
}

impl Environment {
    /// This process's: the only place of the crate that asks.
    pub fn from_process() -> Environment {
        Environment {
            // No setting has a name that is not Unicode.
            variables: std::env::vars_os()
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
                .collect(),
            // A working directory that was deleted has no name; what is
            // relative to it fails where it is used, with its own name.
            working_dir: std::env::current_dir().unwrap_or_else(|_| PathBuf::from(".")),
            cores: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            executable: crate::process::executable(),
        }
    }

    /// An empty one with a single core.
    pub fn new(working_dir: impl Into<PathBuf>) -> Environment {
        Environment {
            variables: BTreeMap::new(),
            working_dir: working_dir.into(),
            cores: NonZeroUsize::MIN,
            executable: None,
        }
    }

    /// The same with one variable more.
    pub fn with(mut self, name: &str, value: impl Into<OsString>) -> Environment {
        self.variables.insert(name.to_owned(), value.into());
        self
    }

    /// The same with this program.
    pub fn with_executable(mut self, path: impl Into<PathBuf>) -> Environment {
        self.executable = Some(path.into());
        self
    }

    /// The same with so many cores.
    pub fn with_cores(mut self, cores: NonZeroUsize) -> Environment {
        self.cores = cores;
        self
    }

    /// A variable; an empty one is an unset one.
    pub fn variable(&self, name: &str) -> Option<&OsStr> {
        self.variables.get(name).map(OsString::as_os_str).filter(|value| !value.is_empty())
    }

    /// All variables, as `-S inherit-env` hands them on.
    pub fn variables(&self) -> impl Iterator<Item = (&str, &OsStr)> {
        self.variables.iter().map(|(name, value)| (name.as_str(), value.as_os_str()))
    }

    /// What the search for native libraries needs to know.
    pub fn library_search(&self) -> SearchEnv {
        SearchEnv::from_lookup(self.executable.clone(), |name| {
            self.variable(name).map(OsStr::to_owned)
        })
    }

    /// The working directory.
    pub fn working_dir(&self) -> &Path {
        &self.working_dir
    }

    /// The program's own file, where the system tells.
    pub fn executable(&self) -> Option<&Path> {
        self.executable.as_deref()
    }

    /// How many threads can run at the same time.
    pub fn cores(&self) -> NonZeroUsize {
        self.cores
    }
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The command line.
    Flag,
    /// This environment variable.
    Environment(String),
    /// This key of this section of this file.
    File {
        /// As it was named.
        path: PathBuf,
        /// Without brackets.
        section: String,
        /// Without its value.
        key: String,
    },
    /// Nobody set it.
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Flag => f.write_str("a flag"),
            Source::Environment(name) => write!(f, "the variable {name}"),
            Source::File { path, section, key } => {
                write!(f, "`{key}` in section [{section}] of {}", path.display())
            }
            Source::Default => f.write_str("the default"),
        }
    }
}

/// A value as it was found.
#[derive(Clone, Debug)]
pub(super) struct Raw {
    pub(super) text: String,
    pub(super) source: Source,
    /// Quotation marks were around it and have been taken off.
    pub(super) quoted: bool,
}

/// A TOML file that has been read.
pub(super) struct File {
    path: PathBuf,
    /// Whether somebody asked for this file.
    named: bool,
    table: toml::Table,
}

impl File {
    /// Reads a file; one that is missing is an error only if it was named.
    pub(super) fn read(
        path: &Path,
        named: Option<&Source>,
        env: &Environment,
    ) -> Result<Option<File>, String> {
        let text = match std::fs::read_to_string(env.working_dir().join(path)) {
            Ok(text) => text,
            Err(error) => {
                let missing = error.kind() == std::io::ErrorKind::NotFound;
                return match named {
                    None if missing => Ok(None),
                    None => Err(format!(
                        "the configuration file {} in {} can't be read: {error}",
                        path.display(),
                        env.working_dir().display()
                    )),
                    Some(source) => Err(format!(
                        "the configuration file {} (named by {source}) can't be read: {error}",
                        env.working_dir().join(path).display()
                    )),
                };
            }
        };
        // The error's own text would show the line, which may hold a key.
        let table = text.parse().map_err(|error: toml::de::Error| {
            let line = error
                .span()
                .map(|span| text.get(..span.start).unwrap_or_default().matches('\n').count() + 1)
                .map_or_else(String::new, |line| format!(" in line {line}"));
            format!(
                "the configuration file {} is not valid TOML{line}: {}",
                path.display(),
                error.message()
            )
        })?;
        Ok(Some(File { path: path.to_owned(), named: named.is_some(), table }))
    }

    /// The section of this name. A missing one is an error if it or the file
    /// was asked for; else the reason why it is not used.
    pub(super) fn section<'a>(
        &'a self,
        name: &str,
        named: bool,
    ) -> Result<Result<Section<'a>, String>, String> {
        match self.table.get(name) {
            Some(toml::Value::Table(table)) => {
                Ok(Ok(Section { path: &self.path, name: name.to_owned(), table }))
            }
            Some(_) => Err(format!("`{name}` in {} is not a section", self.path.display())),
            None => {
                let present: Vec<_> = self.sections().map(|name| format!("[{name}]")).collect();
                let present = if present.is_empty() {
                    "it has no sections".to_owned()
                } else {
                    format!("it has {}; choose one with PROPLET_CONFIG_SECTION", present.join(", "))
                };
                let text =
                    format!("there is no section [{name}] in {}: {present}", self.path.display());
                if self.named || named { Err(text) } else { Ok(Err(text)) }
            }
        }
    }

    /// The section of this name, if it is there.
    pub(super) fn existing_section(&self, name: &str) -> Option<Section<'_>> {
        let table = self.table.get(name)?.as_table()?;
        Some(Section { path: &self.path, name: name.to_owned(), table })
    }

    fn sections(&self) -> impl Iterator<Item = &str> {
        self.table.iter().filter(|(_, value)| value.is_table()).map(|(name, _)| name.as_str())
    }
}

/// A section of a file.
#[derive(Clone)]
pub(super) struct Section<'a> {
    path: &'a Path,
    name: String,
    table: &'a toml::Table,
}

impl Section<'_> {
    /// The keys that are there.
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.table.keys().map(String::as_str)
    }

    /// For messages: `[proplet] of config.toml`.
    pub(super) fn place(&self) -> String {
        format!("[{}] of {}", self.name, self.path.display())
    }

    /// The value of a key as text; nothing if it is not one.
    pub(super) fn shown(&self, key: &str) -> String {
        self.table.get(key).and_then(scalar).unwrap_or_default()
    }

    fn text(&self, key: &str, setting: &Setting) -> Result<Option<String>, String> {
        let text = match self.table.get(key) {
            None => return Ok(None),
            // Directories stand between colons in the variable, other lists
            // between commas.
            Some(toml::Value::Array(items)) => {
                let separator = if setting.name == "dirs" { ":" } else { "," };
                items.iter().map(scalar).collect::<Option<Vec<_>>>().map(|all| all.join(separator))
            }
            Some(value) => scalar(value),
        };
        text.map(Some).ok_or_else(|| {
            format!(
                "`{key}` in section {} is neither text nor a number nor a boolean",
                self.place()
            )
        })
    }
}

fn scalar(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Float(number) => Some(number.to_string()),
        toml::Value::Boolean(value) => Some(value.to_string()),
        _ => None,
    }
}

/// The places where settings are looked up, in order.
pub(super) struct Scope<'a> {
    pub(super) flags: Option<&'a ArgMatches>,
    pub(super) env: &'a Environment,
    /// `PROPLET_` or `MANAGER_`.
    pub(super) prefix: &'static str,
    pub(super) section: Option<Section<'a>>,
}

impl Scope<'_> {
    /// The text of a setting: the flag's, else the variable's, else the file's.
    /// Two names of the setting, or two places of a credential, must not
    /// contradict each other.
    pub(super) fn find(&self, setting: &Setting) -> Result<Option<Raw>, String> {
        if let Some(text) = self.flag(setting.name) {
            return Ok(Some(Raw { text, source: Source::Flag, quoted: false }));
        }
        let variable = self.in_environment(setting)?;
        let key = self.in_section(setting)?;
        match (variable, key) {
            (Some(variable), Some(key))
                if setting.group == Group::Credentials && variable.text != key.text =>
            {
                Err(format!(
                    "the {} differs between {} and {}: a worker that mixes two sets of credentials is \
                     refused by the broker; leave one of them out",
                    setting.name.replace('-', " "),
                    variable.source,
                    key.source
                ))
            }
            (Some(variable), _) => Ok(Some(variable)),
            (None, key) => Ok(key),
        }
    }

    fn flag(&self, name: &str) -> Option<String> {
        // A verb need not have every flag.
        let value = self.flags?.try_get_one::<String>(name).ok().flatten()?;
        Some(value.trim().to_owned()).filter(|value| !value.is_empty())
    }

    fn in_environment(&self, setting: &Setting) -> Result<Option<Raw>, String> {
        let mut found: Vec<Raw> = Vec::new();
        for name in setting.variables(self.prefix) {
            let Some(value) = self.env.variable(&name) else { continue };
            let text = value
                .to_str()
                .ok_or_else(|| format!("the variable {name} is not valid UTF-8"))?
                .trim();
            let bare = unquoted(text);
            if !bare.is_empty() {
                found.push(Raw {
                    text: bare.to_owned(),
                    source: Source::Environment(name),
                    quoted: bare != text,
                });
            }
        }
        one_of(found)
    }

    fn in_section(&self, setting: &Setting) -> Result<Option<Raw>, String> {
        let Some(section) = self.section.as_ref().filter(|_| setting.in_file()) else {
            return Ok(None);
        };
        let mut found = Vec::new();
        for key in setting.keys() {
            let Some(text) = section.text(&key, setting)? else { continue };
            let text = text.trim().to_owned();
            if !text.is_empty() {
                let (path, section) = (section.path.to_owned(), section.name.clone());
                found.push(Raw {
                    text,
                    source: Source::File { path, section, key },
                    quoted: false,
                });
            }
        }
        one_of(found)
    }
}

/// Takes off quotation marks: `docker run --env-file` hands on those that the
/// guide's `.env` has, while compose and shells remove them.
fn unquoted(text: &str) -> &str {
    ['"', '\'']
        .into_iter()
        .find_map(|mark| text.strip_prefix(mark)?.strip_suffix(mark))
        .map_or(text, str::trim)
}

/// The value that all names of one setting agree on.
fn one_of(mut found: Vec<Raw>) -> Result<Option<Raw>, String> {
    let values: BTreeSet<&str> = found.iter().map(|raw| raw.text.as_str()).collect();
    if values.len() > 1 {
        let names: Vec<_> = found.iter().map(|raw| raw.source.to_string()).collect();
        return Err(format!(
            "{} are names of the same setting and have different values: leave one of them out",
            names.join(" and ")
        ));
    }
    Ok((!found.is_empty()).then(|| found.swap_remove(0)))
}
