//! How requests to the manager and to the services of its federated rounds are made.

use anyhow::Context as _;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
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

/// Trusts the authorities of this file, or the system's; `variable` names the file.
///
/// # Errors
///
/// The file can't be read, or there are none.
pub(super) fn trusting(
    config: ConfigBuilder<AgentScope>,
    ca: Option<&Path>,
    variable: &str,
) -> anyhow::Result<ConfigBuilder<AgentScope>> {
    let roots = RootCerts::Specific(Arc::new(roots(ca, variable)?));
    Ok(config.tls_config(TlsConfig::builder().root_certs(roots).build()))
}

fn roots(ca: Option<&Path>, variable: &str) -> anyhow::Result<Vec<Certificate<'static>>> {
    let found = match ca {
        Some(path) => CertificateDer::pem_file_iter(path)
            .and_then(|certificates| certificates.collect::<Result<Vec<_>, _>>())
            .with_context(|| format!("reading the certificate file {}", path.display()))?,
        // Systems carry the odd certificate that can't be read.
        None => rustls_native_certs::load_native_certs().certs,
    };
    anyhow::ensure!(
        !found.is_empty(),
        "there is no certificate to trust the other side by; install the system's (Debian: \
         ca-certificates), or name its own in {variable}"
    );
    Ok(found.iter().map(|der| Certificate::from_der(der).to_owned()).collect())
}
