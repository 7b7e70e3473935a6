//! How guests reach others: by connections that the worker makes, to hosts that the
//! operator has named.

use crate::config::OutboundConfig;
use crate::network::{Connector, Hosts};
use crate::runtime::{Connect, Outbound};
use anyhow::Context as _;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
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
        Some(file) => of_file(&working_dir.join(file))?,
        None => rustls_native_certs::load_native_certs().certs,
    };
    Ok(Some(certificates.into_iter().map(|certificate| certificate.to_vec()).collect()))
}

fn of_file(file: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let read = read.with_context(|| {
        format!("the certificate file {} (--http-tls-ca-cert) can't be read", file.display())
    })?;
    let none = || format!("{} (--http-tls-ca-cert) holds no PEM certificate", file.display());
    anyhow::ensure!(!read.is_empty(), none());
    Ok(read)
}
