//! How guests reach others: by connections that the worker makes, to hosts that the
//! operator has named.

use crate::certificates::{self, PemFile};
use crate::config::OutboundConfig;
use crate::network::{Connector, Hosts};
use crate::runtime::{Connect, Outbound};
use std::path::Path;
use std::sync::Arc;

/// For guests of this process; none where they reach nobody.
///
/// # Errors
///
/// The certificates can't be read.
pub(crate) fn outbound(
    config: &OutboundConfig,
    working_dir: &Path,
) -> anyhow::Result<Option<Outbound>> {
    let trusted = trusted(config, working_dir)?;
    trusted.map(|roots| Outbound::new(connect(config.hosts.clone()), &roots)).transpose()
}

/// Connects to these hosts.
pub(super) fn connect(hosts: Hosts) -> Arc<Connect> {
    let connector = Arc::new(Connector::new(hosts));
    Arc::new(move |host, port| {
        let connector = connector.clone();
        Box::pin(async move { connector.connect(&host, port).await })
    })
}

/// Whom guests' requests trust, in the binary form; none where they send none.
///
/// # Errors
///
/// The file that is set can't be read.
pub(super) fn trusted(
    config: &OutboundConfig,
    working_dir: &Path,
) -> anyhow::Result<Option<Vec<Vec<u8>>>> {
    if config.hosts.is_empty() {
        return Ok(None);
    }
    let certificates = match &config.ca_cert {
        Some(file) => {
            let path = &working_dir.join(file);
            PemFile { path, setting: "--http-tls-ca-cert" }.authorities()?
        }
        None => certificates::of_the_system(),
    };
    Ok(Some(certificates.into_iter().map(|certificate| certificate.to_vec()).collect()))
}
