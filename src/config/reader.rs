//! Reads settings one by one, and collects what is wrong instead of stopping
//! at the first problem.

use std::path::Path;

use clap::ArgMatches;

use super::setting::{DefaultValue, Setting};
use super::settings::{self, CREDENTIALS};
use super::sources::{Environment, File, Raw, Scope, Section, Source};
use super::{Config, ConfigError, Credentials, Resolved, Secret, value};

/// The variables of the worker.
pub(super) const WORKER: &str = "PROPLET_";

/// The TOML file, where it is and what is not used of it.
pub(super) struct OpenFile {
    file: Option<File>,
    section: Raw,
    section_named: bool,
}

impl OpenFile {
    /// The file that was read, if there is one.
    pub(super) fn file(&self) -> Option<&File> {
        self.file.as_ref()
    }
}

/// Reads the TOML file that flags and environment name, or the default one if
/// it is there.
pub(super) fn open_file(
    flags: Option<&ArgMatches>,
    env: &Environment,
) -> Result<OpenFile, ConfigError> {
    let scope = Scope { flags, env, prefix: WORKER, section: None };
    let find = |name: &str, default: &str| {
        let found = match settings::find(name) {
            Some(setting) => scope.find(setting),
            None => Ok(None),
        };
        let default = Raw { text: default.into(), source: Source::Default, quoted: false };
        found
            .map(|raw| raw.unwrap_or(default))
            .map_err(|problem| ConfigError { problems: vec![problem] })
    };
    let path = find("config-file", "config.toml")?;
    let section = find("config-section", "proplet")?;
    let named = (path.source != Source::Default).then_some(&path.source);
    let file = File::read(Path::new(&path.text), named, env)
        .map_err(|problem| ConfigError { problems: vec![problem] })?;
    let section_named = section.source != Source::Default;
    Ok(OpenFile { file, section, section_named })
}

/// Some of the worker's settings, for a command that needs no others.
pub(super) fn load<T>(
    flags: &ArgMatches,
    env: &Environment,
    read: impl FnOnce(&mut Reader<'_>) -> Option<T>,
) -> Result<T, ConfigError> {
    let open = open_file(Some(flags), env)?;
    let mut reader = Reader::for_worker(Some(flags), env, &open)?;
    let settings = read(&mut reader);
    let (problems, _) = reader.into_findings();
    settings.filter(|_| problems.is_empty()).ok_or(ConfigError { problems })
}

/// Finds, converts and remembers.
pub(super) struct Reader<'a> {
    pub(super) scope: Scope<'a>,
    /// Why the file is not used, if it is there and unasked for.
    pub(super) unused: Option<String>,
    /// Values from another reader, for what this one's places do not have.
    lent: Vec<(&'static str, Raw)>,
    problems: Vec<String>,
    warnings: Vec<String>,
    report: Vec<Resolved>,
    /// Whether credentials may be missing, and what is said if they are.
    offline: bool,
    credentials_missing: Option<String>,
}

/// Who a worker is without credentials.
const NOBODY: &str = "unprovisioned";

impl<'a> Reader<'a> {
    /// For the worker's own settings.
    pub(super) fn for_worker(
        flags: Option<&'a ArgMatches>,
        env: &'a Environment,
        open: &'a OpenFile,
    ) -> Result<Reader<'a>, ConfigError> {
        let found = match &open.file {
            Some(file) => file
                .section(&open.section.text, open.section_named)
                .map_err(|problem| ConfigError { problems: vec![problem] })?,
            None if open.section_named => Err(format!(
                "there is no config.toml in {}, so section [{}] is not read",
                env.working_dir().display(),
                open.section.text
            )),
            None => Err(String::new()),
        };
        let (section, unused) = match found {
            Ok(section) => (Some(section), None),
            Err(unused) => (None, Some(unused).filter(|text| !text.is_empty())),
        };
        Ok(Reader::new(Scope { flags, env, prefix: WORKER, section }, unused))
    }

    /// For settings that are looked up elsewhere.
    pub(super) fn new(scope: Scope<'a>, unused: Option<String>) -> Reader<'a> {
        Reader {
            scope,
            unused,
            lent: Vec::new(),
            problems: Vec::new(),
            warnings: Vec::new(),
            report: Vec::new(),
            offline: false,
            credentials_missing: None,
        }
    }

    /// From now on missing credentials are no problem.
    pub(super) fn allow_missing_credentials(&mut self) {
        self.offline = true;
    }

    /// What is said of credentials that are missing and may be.
    pub(super) fn credentials_missing(&self) -> Option<&str> {
        self.credentials_missing.as_deref()
    }

    /// The section that is read.
    pub(super) fn section(&self) -> Option<&Section<'a>> {
        self.scope.section.as_ref()
    }

    /// Adds a problem.
    pub(super) fn problem(&mut self, problem: String) {
        self.problems.push(problem);
    }

    /// Adds advice to the last problem.
    pub(super) fn hint(&mut self, hint: &str) {
        if let Some(last) = self.problems.last_mut() {
            last.push_str("; ");
            last.push_str(hint);
        }
    }

    /// Adds a warning.
    pub(super) fn warn(&mut self, warning: String) {
        self.warnings.push(warning);
    }

    /// Reads a setting, or its default. Nothing means that there is a problem.
    pub(super) fn read<T>(
        &mut self,
        name: &str,
        convert: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let (setting, raw) = self.find(name)?;
        match (raw, setting.default) {
            (Some(raw), _) => self.convert(setting, raw, convert),
            (None, DefaultValue::Text(text)) => {
                let raw = Raw { text: text.into(), source: Source::Default, quoted: false };
                self.convert(setting, raw, convert)
            }
            (None, _) => {
                self.problem(format!(
                    "`--{name}` is missing; its variable is {}",
                    setting.variable()
                ));
                None
            }
        }
    }

    /// Reads a setting whose default was found out.
    pub(super) fn read_or(
        &mut self,
        name: &str,
        default: usize,
        convert: impl Fn(&str) -> Result<usize, String>,
    ) -> Option<usize> {
        let (setting, raw) = self.find(name)?;
        match raw {
            Some(raw) => self.convert(setting, raw, convert),
            None => {
                self.note(setting, Some(default.to_string()), Source::Default);
                Some(default)
            }
        }
    }

    /// Reads a setting that may be absent.
    pub(super) fn read_optional<T>(
        &mut self,
        name: &str,
        convert: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let (setting, raw) = self.find(name)?;
        match raw {
            Some(raw) => self.convert(setting, raw, convert),
            None => {
                self.note(setting, None, Source::Default);
                None
            }
        }
    }

    /// Reads the four credentials; those that are missing are one problem.
    pub(super) fn credentials(&mut self) -> Option<Credentials> {
        let before = self.problems.len();
        let domain = self.read_optional("domain-id", value::topic_level);
        let channel = self.read_optional("channel-id", value::topic_level);
        let client_id = self.read_optional("client-id", value::topic_level);
        let client_key = self.read_optional("client-key", value::text).map(Secret::new);
        match (domain, channel, client_id, client_key) {
            (Some(domain), Some(channel), Some(client_id), Some(client_key)) => {
                Some(Credentials { domain, channel, client_id, client_key })
            }
            // Something was set and is wrong: that has been said.
            _ if self.problems.len() > before => None,
            _ if self.offline => {
                self.credentials_missing = Some(self.missing_credentials());
                let nobody = || NOBODY.to_owned();
                Some(Credentials {
                    domain: nobody(),
                    channel: nobody(),
                    client_id: nobody(),
                    client_key: Secret::new(""),
                })
            }
            _ => {
                self.problem(self.missing_credentials());
                None
            }
        }
    }

    fn missing_credentials(&self) -> String {
        let missing: Vec<String> = self
            .report
            .iter()
            .filter(|resolved| CREDENTIALS.contains(&resolved.setting.name))
            .filter(|resolved| resolved.value.is_none())
            .filter_map(|resolved| resolved.setting.variables(self.scope.prefix).next())
            .collect();
        let verb = if missing.len() == 1 { "is" } else { "are" };
        let place = match (self.section(), &self.unused) {
            (Some(section), _) => {
                format!("; section {} does not have them either", section.place())
            }
            (None, Some(unused)) => format!("; {unused}"),
            (None, None) => String::new(),
        };
        format!(
            "{} {verb} not set{place}; `propeller-cli provision` writes a config.toml with them: copy \
             its values to the environment, or name the file with PROPLET_CONFIG_FILE",
            missing.join(", ")
        )
    }

    /// The configuration, unless something was wrong.
    pub(super) fn finish(self, config: Option<Config>) -> Result<Config, ConfigError> {
        match config {
            Some(config) if self.problems.is_empty() => {
                Ok(Config { warnings: self.warnings, report: self.report, ..config })
            }
            _ => Err(ConfigError { problems: self.problems }),
        }
    }

    /// The text of a setting, if it is set and not contradictory.
    pub(super) fn peek(&self, name: &str) -> Option<Raw> {
        self.scope.find(settings::find(name)?).ok().flatten()
    }

    /// Has a setting read from elsewhere if it is not set here.
    pub(super) fn lend(&mut self, name: &'static str, raw: Raw) {
        self.lent.push((name, raw));
    }

    /// Where a setting that was read came from.
    pub(super) fn source(&self, name: &str) -> Source {
        let found = self.report.iter().find(|resolved| resolved.setting.name == name);
        found.map_or(Source::Default, |resolved| resolved.source.clone())
    }

    /// The problems and warnings so far.
    pub(super) fn into_findings(self) -> (Vec<String>, Vec<String>) {
        (self.problems, self.warnings)
    }

    fn find(&mut self, name: &str) -> Option<(&'static Setting, Option<Raw>)> {
        let Some(setting) = settings::find(name) else {
            self.problem(format!("internal error: there is no setting `{name}`"));
            return None;
        };
        match self.scope.find(setting) {
            Ok(raw) => {
                let lent = self.lent.iter().find(|(lent, _)| *lent == name);
                Some((setting, raw.or_else(|| lent.map(|(_, raw)| raw.clone()))))
            }
            Err(problem) => {
                self.problem(problem);
                None
            }
        }
    }

    fn convert<T>(
        &mut self,
        setting: &'static Setting,
        raw: Raw,
        convert: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        if raw.quoted {
            self.warn(format!(
                "the value of {} is in quotation marks, which have been taken off; `docker run \
                 --env-file` hands them on, compose does not",
                raw.source
            ));
        }
        let shown = setting.shown(&raw.text);
        let converted = convert(&raw.text).map_err(|reason| match &raw.source {
            Source::Flag => format!("`--{} {shown}`: {reason}", setting.name),
            Source::Environment(variable) => {
                format!("`{variable}={shown}` (from the environment): {reason}")
            }
            Source::File { path, section, key } => {
                format!(
                    "`{key} = {shown}` (in section [{section}] of {}): {reason}",
                    path.display()
                )
            }
            Source::Default => format!("`--{}` has the default `{shown}`: {reason}", setting.name),
        });
        self.note(setting, Some(shown), raw.source);
        match converted {
            Ok(value) => Some(value),
            Err(problem) => {
                self.problem(problem);
                None
            }
        }
    }

    fn note(&mut self, setting: &'static Setting, value: Option<String>, source: Source) {
        self.report.push(Resolved { setting, value, source });
    }
}
