//! What `proplet submit` connects with: the manager's credentials if there are
//! any, for it publishes as the manager does, else the worker's.

use clap::ArgMatches;

use super::reader::{self, Reader};
use super::settings::{self, CREDENTIALS};
use super::sources::{Environment, Scope, Source};
use super::{ConfigError, Connection, Credentials, LogConfig, Secret, connection, worker};

/// What `proplet submit` runs with.
#[derive(Clone, Debug)]
pub struct SubmitConfig {
    /// The way to the broker: the worker's settings.
    pub connection: Connection,
    /// First level of the topics.
    pub domain: String,
    /// Second level of the topics.
    pub channel: String,
    /// The credentials' client id.
    pub username: String,
    /// The credentials' client key.
    pub password: Secret,
    /// A client id that nobody else has: a broker ends the connection of whoever
    /// held the same one, and that would be the worker's or the manager's.
    pub client_id: String,
    /// Where the user name came from.
    pub source: Source,
    /// The log.
    pub log: LogConfig,
    /// What the user should know, one full sentence each.
    pub warnings: Vec<String>,
}

/// The variables of the manager, and its section.
const MANAGER: &str = "MANAGER_";
const SECTION: &str = "manager";

impl SubmitConfig {
    /// Reads the configuration of `proplet submit`, whose flags include
    /// [`super::submit_args`].
    pub fn load(flags: &ArgMatches, env: &Environment) -> Result<SubmitConfig, ConfigError> {
        let open = reader::open_file(Some(flags), env)?;
        let scope = |flags| Scope {
            flags,
            env,
            prefix: MANAGER,
            section: open.file().and_then(|file| file.existing_section(SECTION)),
        };
        // A flag alone does not say whose credentials it goes with.
        let of_manager = ["client-id", "client-key"]
            .iter()
            .filter_map(|name| settings::find(name))
            .any(|setting| !matches!(scope(None).find(setting), Ok(None)));
        let mut worker = match Reader::for_worker(Some(flags), env, &open) {
            Ok(reader) => reader,
            // Who has the manager's credentials need not have a worker's section.
            Err(_) if of_manager => {
                let scope =
                    Scope { flags: Some(flags), env, prefix: reader::WORKER, section: None };
                Reader::new(scope, None)
            }
            Err(error) => return Err(error),
        };
        let connection = connection::read(&mut worker);
        let log = worker::log(&mut worker);
        let mut manager = Reader::new(scope(Some(flags)), None);
        let credentials = if of_manager {
            // The manager and its workers share the domain and the channel.
            for name in CREDENTIALS.iter().take(2) {
                if manager.peek(name).is_none()
                    && let Some(raw) = worker.peek(name)
                {
                    manager.lend(name, raw);
                }
            }
            manager.credentials()
        } else {
            worker.credentials()
        };
        if credentials.is_none() && !of_manager {
            worker.hint(
                "`proplet submit` also takes the manager's: MANAGER_DOMAIN_ID, MANAGER_CHANNEL_ID, \
                 MANAGER_CLIENT_ID, MANAGER_CLIENT_KEY, or a section [manager]",
            );
        }
        let source = if of_manager { &manager } else { &worker }.source("client-id");
        let (mut problems, mut warnings) = worker.into_findings();
        let (more_problems, more_warnings) = manager.into_findings();
        problems.extend(more_problems);
        warnings.extend(more_warnings);
        let config = submit(connection, log, credentials, source);
        match config {
            Some(config) if problems.is_empty() => Ok(SubmitConfig { warnings, ..config }),
            _ => Err(ConfigError { problems }),
        }
    }
}

fn submit(
    connection: Option<Connection>,
    log: Option<LogConfig>,
    credentials: Option<Credentials>,
    source: Source,
) -> Option<SubmitConfig> {
    let Credentials { domain, channel, client_id, client_key } = credentials?;
    let random = uuid::Uuid::new_v4().simple().to_string();
    Some(SubmitConfig {
        connection: connection?,
        domain,
        channel,
        client_id: format!("{client_id}-submit-{}", random.get(..8).unwrap_or(&random)),
        username: client_id,
        password: client_key,
        source,
        log: log?,
        warnings: Vec::new(),
    })
}
