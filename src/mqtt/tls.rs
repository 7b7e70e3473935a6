//! Certificates to a rustls configuration.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use rumqttc::{TlsConfiguration, Transport};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::Tls;

pub(super) fn transport(tls: Option<&Tls>) -> anyhow::Result<Transport> {
    let Some(tls) = tls else {
        return Ok(Transport::Tcp);
    };
    // Named, because without an installed default rustls panics where two
    // providers are linked in.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("TLS could not be set up")?
        .with_root_certificates(roots(tls.ca.as_deref())?);
    let config = match &tls.identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => builder
            .with_client_auth_cert(certificates(certificate)?, private_key(key)?)
            .with_context(|| {
                format!(
                    "the client certificate {} and the key {} can't be used together",
                    certificate.display(),
                    key.display()
                )
            })?,
    };
    Ok(Transport::tls_with_config(TlsConfiguration::Rustls(Arc::new(config))))
}

fn roots(ca: Option<&Path>) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = ca {
        for certificate in certificates(path)? {
            roots
                .add(certificate)
                .with_context(|| format!("a certificate in {} can't be trusted", path.display()))?;
        }
        return Ok(roots);
    }
    let native = rustls_native_certs::load_native_certs();
    // Systems carry the odd certificate that rustls does not read.
    roots.add_parsable_certificates(native.certs);
    anyhow::ensure!(
        !roots.is_empty(),
        "this system has no trusted certificates; install them (Debian: ca-certificates), or name \
         the broker's in PROPLET_MQTT_TLS_CA_CERT"
    );
    Ok(roots)
}

fn certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(|certificates| certificates.collect::<Result<Vec<_>, _>>())
        .with_context(|| format!("the certificate file {} can't be read", path.display()))?;
    anyhow::ensure!(!certificates.is_empty(), "{} holds no PEM certificate", path.display());
    Ok(certificates)
}

fn private_key(path: &Path) -> anyhow::Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_file(path)
        .with_context(|| format!("the private key file {} can't be read", path.display()))
}
