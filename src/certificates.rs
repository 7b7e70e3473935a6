//! Whom a TLS connection trusts, and how this side is known there: PEM files and the
//! system's certificates, read here alone for the broker, the manager, the services of
//! federated rounds, registries and the requests of guests; and rustls, set up from them.
//!
//! A setting names each file, and each error names the setting.

use anyhow::Context as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use std::path::Path;
use std::sync::Arc;

/// A file, and the setting that names it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PemFile<'a> {
    pub(crate) path: &'a Path,
    /// As it is typed: `--mqtt-tls-ca-cert`.
    pub(crate) setting: &'a str,
}

/// What this side shows of itself: its certificate, with the chain, and the key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity<'a> {
    pub(crate) certificate: PemFile<'a>,
    pub(crate) key: PemFile<'a>,
}

/// The authorities of the file that `setting` names, or the system's without one.
///
/// # Errors
///
/// The file can't be read, or nobody is trusted.
pub(crate) fn authorities(
    file: Option<&Path>,
    setting: &str,
) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    if let Some(path) = file {
        return PemFile { path, setting }.authorities();
    }
    let found = of_the_system();
    anyhow::ensure!(
        !found.is_empty(),
        "this system has no trusted certificates: install them (Debian: ca-certificates), or name \
         a file with {setting}"
    );
    Ok(found)
}

/// The authorities that the system trusts; it may have none.
pub(crate) fn of_the_system() -> Vec<CertificateDer<'static>> {
    // Systems carry the odd certificate that can't be read.
    rustls_native_certs::load_native_certs().certs
}

impl PemFile<'_> {
    /// The authorities of this file: one at least.
    ///
    /// # Errors
    ///
    /// It can't be read, or has one that can't be trusted, or none.
    pub(crate) fn authorities(&self) -> anyhow::Result<Vec<CertificateDer<'static>>> {
        let certificates = self.certificates()?;
        let mut trusted = RootCertStore::empty();
        for certificate in &certificates {
            let added = trusted.add(certificate.clone());
            added.with_context(|| format!("a certificate in {} can't be trusted", self.shown()))?;
        }
        Ok(certificates)
    }

    fn certificates(&self) -> anyhow::Result<Vec<CertificateDer<'static>>> {
        let certificates = CertificateDer::pem_file_iter(self.path)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .with_context(|| format!("the certificate file {} can't be read", self.shown()))?;
        anyhow::ensure!(!certificates.is_empty(), "{} holds no PEM certificate", self.shown());
        Ok(certificates)
    }

    fn private_key(&self) -> anyhow::Result<PrivateKeyDer<'static>> {
        PrivateKeyDer::from_pem_file(self.path)
            .with_context(|| format!("the private key file {} can't be read", self.shown()))
    }

    fn shown(&self) -> String {
        format!("{} ({})", self.path.display(), self.setting)
    }
}

/// rustls for connections to whoever these authorities vouch for.
///
/// # Errors
///
/// The identity's files can't be read or don't go together.
pub(crate) fn client_config(
    authorities: Vec<CertificateDer<'static>>,
    identity: Option<Identity<'_>>,
) -> anyhow::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    // Those of a file have been added once already; the system's may be odd.
    roots.add_parsable_certificates(authorities);
    // Without an installed default rustls panics where two providers are linked in.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("TLS could not be set up")?
        .with_root_certificates(roots);
    let Some(Identity { certificate, key }) = identity else {
        return Ok(builder.with_no_client_auth());
    };
    builder.with_client_auth_cert(certificate.certificates()?, key.private_key()?).with_context(
        || {
            let (certificate, key) = (certificate.shown(), key.shown());
            format!("the client certificate {certificate} and the key {key} can't be used together")
        },
    )
}

/// Sets the provider of cryptography for libraries that take the process's.
pub(crate) fn install_provider() {
    // One that is there already is the same.
    rustls::crypto::ring::default_provider().install_default().ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_can_not_be_used_is_told_with_its_setting() {
        let folder = tempfile::tempdir().expect("a folder");
        let key = rcgen::KeyPair::generate().expect("a key");
        let params = rcgen::CertificateParams::new(vec![]).expect("parameters");
        let certificate = params.self_signed(&key).expect("signed").pem();
        let odd = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let cut = "-----BEGIN CERTIFICATE-----\nAAAA\n";
        let path = folder.path().join("ca.pem");
        let read = |text: &str| {
            std::fs::write(&path, text).expect("written");
            authorities(Some(&path), "--some-ca-cert").map_err(|e| format!("{e:#}"))
        };
        assert_eq!(read(&certificate.repeat(2)).expect("two").len(), 2);
        for (text, what) in [
            ("", "holds no PEM certificate"),
            (key.serialize_pem().as_str(), "holds no PEM certificate"),
            (cut, "can't be read"),
            (odd, "can't be trusted"),
        ] {
            let error = read(text).expect_err(what);
            assert!(error.contains(&format!("ca.pem (--some-ca-cert) {what}")), "{error}");
        }
        std::fs::remove_file(&path).expect("removed");
        let error = authorities(Some(&path), "--some-ca-cert").expect_err("it is gone");
        assert!(format!("{error:#}").contains("ca.pem (--some-ca-cert) can't be read"), "{error}");
    }
}
