//! The way to the broker: plain TCP, or TLS as it is set.

use std::sync::Arc;

use rumqttc::{TlsConfiguration, Transport};

use super::Tls;
use crate::certificates::{self, Identity, PemFile};

pub(super) fn transport(tls: Option<&Tls>) -> anyhow::Result<Transport> {
    let Some(tls) = tls else {
        return Ok(Transport::Tcp);
    };
    let identity = tls.identity.as_ref().map(|(certificate, key)| Identity {
        certificate: PemFile { path: certificate, setting: "--mqtt-tls-client-cert" },
        key: PemFile { path: key, setting: "--mqtt-tls-client-key" },
    });
    let authorities = certificates::authorities(tls.ca.as_deref(), "--mqtt-tls-ca-cert")?;
    let config = certificates::client_config(authorities, identity)?;
    Ok(Transport::tls_with_config(TlsConfiguration::Rustls(Arc::new(config))))
}
