//! Federated rounds, for the worker and for `proplet run`.

use super::manager::url;
use super::reader::Reader;
use super::{choice, value};
use crate::manager::{HostPort, RoundServices, RoundTimes, place};

/// The settings of federated rounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoundsConfig {
    /// The services, with the certificate file as typed.
    pub services: RoundServices,
}

pub(super) fn read(reader: &mut Reader<'_>) -> Option<RoundsConfig> {
    let coordinator = reader.read_optional("coordinator-url", url);
    let registry = reader.read_optional("model-registry-url", url);
    let store = reader.read_optional("data-store-url", url);
    let ca = reader.read_optional("round-ca-cert", value::path);
    let hosts = reader.read_optional("round-hosts", hosts).unwrap_or_default();
    let data_size = reader.read("round-data-size", value::size_within(1 << 10, 1 << 30));
    let missing = reader.read("round-missing-data", choice::missing_data);
    let services = RoundServices {
        coordinator,
        registry,
        store,
        hosts,
        ca,
        data_size: data_size?,
        missing: missing?,
        times: RoundTimes::default(),
    };
    Some(RoundsConfig { services })
}

/// Reads hosts with their ports, between commas.
fn hosts(text: &str) -> Result<Vec<HostPort>, String> {
    let hosts = value::list(text)?;
    let host = |text: &String| {
        let has_port = text.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let found = place(&format!("http://{text}")).filter(|_| has_port && !text.contains('/'));
        found.ok_or_else(|| format!("`{text}` is not a host with a port, such as registry:8081"))
    };
    hosts.iter().map(host).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_have_ports() {
        let host = |host: &str, port| HostPort { host: host.into(), port };
        assert_eq!(hosts("A:81, [::1]:8080"), Ok(vec![host("a", 81), host("[::1]", 8080)]));
        for text in ["a", "a:b", "http://a:81", "a:81/x", "me@a:81", "a:81,b"] {
            assert!(hosts(text).is_err(), "{text}");
        }
    }
}
