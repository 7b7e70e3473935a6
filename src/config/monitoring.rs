//! How a worker is watched: where it answers over HTTP, and what the manager
//! hears of it.

use std::net::SocketAddr;
use std::time::Duration;

use clap::ArgMatches;

use super::reader::{self, Reader};
use super::sources::Environment;
use super::{ConfigError, HOUR, SECOND, value};

/// How a worker is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MonitoringConfig {
    /// Where `/health`, `/ready` and `/metrics` are served, if they are.
    pub listen: Option<SocketAddr>,
    /// Time between two reports to the manager, if it gets any.
    pub report_every: Option<Duration>,
}

/// What `proplet health` needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthConfig {
    /// Where the worker answers, if it does.
    pub listen: Option<SocketAddr>,
    /// Which worker it should be, where that is known.
    pub client_id: Option<String>,
}

impl HealthConfig {
    /// Reads the configuration of `proplet health`, whose flags include
    /// [`super::health_args`].
    pub fn load(flags: &ArgMatches, env: &Environment) -> Result<HealthConfig, ConfigError> {
        reader::load(flags, env, |reader| {
            let client_id = reader.read_optional("client-id", value::topic_level);
            Some(HealthConfig { listen: listen(reader)?, client_id })
        })
    }
}

pub(super) fn read(reader: &mut Reader<'_>) -> Option<MonitoringConfig> {
    let listen = listen(reader);
    let reports = reader.read("enable-monitoring", value::boolean);
    let interval = reader.read("metrics-interval", value::duration_within(SECOND, HOUR));
    Some(MonitoringConfig { listen: listen?, report_every: reports?.then_some(interval?) })
}

fn listen(reader: &mut Reader<'_>) -> Option<Option<SocketAddr>> {
    let enabled = reader.read("metrics-enabled", value::boolean);
    let port = reader.read("metrics-port", value::count_within(0, usize::from(u16::MAX)));
    let address = reader.read("metrics-bind", value::ip);
    let port = u16::try_from(port?).ok()?;
    let listen = SocketAddr::new(address?, port);
    Some(enabled?.then_some(listen))
}
