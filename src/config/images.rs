//! Where images come from, for the worker and for `proplet run`.

use super::reader::Reader;
use super::{HOUR, MILLI, Secret, value};
use crate::network::Hosts;
use std::path::PathBuf;
use std::time::Duration;

/// The settings of images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImagesConfig {
    /// The registry to pull from; none: through Propeller's proxy.
    pub registry: Option<RegistryConfig>,
    /// How long a registry or the proxy may be silent.
    pub timeout: Duration,
    /// Bytes of pulled images kept in the state directory.
    pub cache: u64,
    /// Where code may be fetched from, beside that registry.
    pub hosts: Hosts,
}

/// A registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryConfig {
    /// Host and, perhaps, port.
    pub host: String,
    /// Without TLS.
    pub plain: bool,
    /// User and password.
    pub user: Option<(String, Secret)>,
    /// In place of them.
    pub token: Option<Secret>,
    /// PEM file with the authorities to trust instead of the system's.
    pub ca_cert: Option<PathBuf>,
}

pub(super) fn read(reader: &mut Reader<'_>) -> Option<ImagesConfig> {
    let place = reader.read_optional("registry", place);
    let user = reader.read_optional("registry-user", value::text);
    let password = reader.read_optional("registry-password", value::text).map(Secret::new);
    let token = reader.read_optional("registry-token", value::text).map(Secret::new);
    let ca_cert = reader.read_optional("registry-ca-cert", value::path);
    let timeout = reader.read("image-timeout", value::duration_within(MILLI * 100, HOUR));
    let cache = reader.read("image-cache", value::size);
    let hosts = reader.read("image-hosts", super::http::hosts);
    if user.is_some() != password.is_some() {
        reader.problem("registry-user and registry-password belong together".into());
    }
    if token.is_some() && user.is_some() {
        reader.warn("registry-token and registry-user are both set: the token is used".into());
    }
    let secret = user.is_some() || token.is_some();
    match &place {
        None if secret || ca_cert.is_some() => reader.warn(
            "registry-user, registry-password, registry-token and registry-ca-cert have no effect \
             without registry, such as registry.example:5000"
                .into(),
        ),
        Some((host, true)) if secret => reader.warn(format!(
            "what {host} asks for goes there unencrypted, where anyone on the way can read it"
        )),
        _ => {}
    }
    let registry = place.map(|(host, plain)| RegistryConfig {
        host,
        plain,
        user: user.zip(password),
        token,
        ca_cert,
    });
    Some(ImagesConfig { registry, timeout: timeout?, cache: cache?, hosts: hosts? })
}

/// Reads a host with an optional port, and whether it is without TLS.
fn place(text: &str) -> Result<(String, bool), String> {
    let form = "write it like registry.example, registry.example:5000 or http://localhost:5000";
    let (plain, host) = match text.split_once("://") {
        None => (false, text),
        Some((scheme, host)) if scheme.eq_ignore_ascii_case("https") => (false, host),
        Some((scheme, host)) if scheme.eq_ignore_ascii_case("http") => (true, host),
        Some((scheme, _)) => return Err(format!("`{scheme}://` is not supported: {form}")),
    };
    let host = host.trim_end_matches('/');
    if host.contains('@') {
        return Err("a user name and a password do not belong into it: set registry-user and \
             registry-password"
            .into());
    }
    let parsed: ureq::http::uri::Authority =
        host.parse().map_err(|_| format!("not a host with an optional port: {form}"))?;
    let port = host.rsplit_once(':').map(|(_, port)| port);
    if parsed.host().is_empty() || port.is_some() && parsed.port_u16().is_none_or(|port| port == 0)
    {
        return Err(format!("not a host with an optional port: {form}"));
    }
    Ok((host.to_owned(), plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_is_a_host() {
        for (text, read) in [
            ("registry.example", ("registry.example", false)),
            ("https://registry.example:5000/", ("registry.example:5000", false)),
            ("HTTP://localhost:5000", ("localhost:5000", true)),
        ] {
            assert_eq!(place(text), Ok((read.0.to_owned(), read.1)), "{text}");
        }
        for text in ["", "ftp://x", "r.example/team", "r.example:port", "r.example:0", "a b"] {
            assert!(place(text).is_err(), "{text}");
        }
        let error = place("https://me:secret@r.example").expect_err("a password");
        assert!(error.contains("registry-user") && !error.contains("secret"), "{error}");
    }
}
