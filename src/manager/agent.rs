//! How requests to the manager and to the services of its federated rounds are made.

use crate::certificates;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use ureq::Agent;
use ureq::config::ConfigBuilder;
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::typestate::AgentScope;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Redirects are not followed and no proxy is used. An answer may take `timeout`.
pub(super) fn config(timeout: Duration) -> ConfigBuilder<AgentScope> {
    Agent::config_builder()
        .timeout_global(Some(timeout))
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .http_status_as_error(false)
        .max_redirects(0)
        .proxy(None)
        // One that is kept is dead when the other side was started again, and
        // what is sent on it lost.
        .max_idle_connections(0)
        .user_agent(concat!("proplet/", env!("CARGO_PKG_VERSION")))
}

/// Trusts the authorities of this file, or the system's; `setting` names the file.
///
/// # Errors
///
/// The file can't be read, or there are none.
pub(super) fn trusting(
    config: ConfigBuilder<AgentScope>,
    ca: Option<&Path>,
    setting: &str,
) -> anyhow::Result<ConfigBuilder<AgentScope>> {
    let authorities = certificates::authorities(ca, setting)?;
    let roots = authorities.iter().map(|der| Certificate::from_der(der).to_owned()).collect();
    let roots = RootCerts::Specific(Arc::new(roots));
    Ok(config.tls_config(TlsConfig::builder().root_certs(roots).build()))
}
