//! HTTP servers: whether there are any, where they listen, what a request may use.

use super::reader::Reader;
use super::{HOUR, MILLI, value};
use crate::network::Hosts;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// See the module's documentation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpConfig {
    /// Whether components are served.
    pub enabled: bool,
    /// The address, and the first port that is tried.
    pub from: SocketAddr,
    /// The time of a request.
    pub timeout: Duration,
    /// Requests at once.
    pub requests: usize,
    /// Bytes of a request's body.
    pub body: u64,
    /// Whether the log has a line for each request.
    pub access_log: bool,
    /// Requests that guests send.
    pub outbound: OutboundConfig,
}

/// Requests that guests send.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutboundConfig {
    /// Where they may lead.
    pub hosts: Hosts,
    /// PEM file with the authorities to trust instead of the system's.
    pub ca_cert: Option<PathBuf>,
}

pub(super) fn read(reader: &mut Reader<'_>) -> Option<HttpConfig> {
    let enabled = reader.read("http-enabled", value::boolean);
    let bind: Option<IpAddr> = reader.read("http-bind", value::ip);
    let port = reader.read("http-proxy-port", value::count_within(1, usize::from(u16::MAX)));
    let timeout = reader.read("http-timeout", value::duration_within(MILLI, HOUR * 24));
    let requests = reader.read("http-requests", value::count_within(1, 1024));
    let body = reader.read("http-body", value::size_within(0, 1 << 32));
    let outbound = outbound(reader);
    let access_log = reader.read("http-access-log", value::boolean);
    Some(HttpConfig {
        enabled: enabled?,
        from: SocketAddr::new(bind?, u16::try_from(port?).unwrap_or(u16::MAX)),
        timeout: timeout?,
        requests: requests?,
        body: body?,
        access_log: access_log?,
        outbound,
    })
}

pub(super) fn outbound(reader: &mut Reader<'_>) -> OutboundConfig {
    let hosts = reader.read_optional("allow-hosts", hosts).unwrap_or_default();
    let ca_cert = reader.read_optional("http-tls-ca-cert", value::path);
    if ca_cert.is_some() && hosts.is_empty() {
        reader.warn("http-tls-ca-cert has no effect without allow-hosts".into());
    }
    OutboundConfig { hosts, ca_cert }
}

/// Reads a list of hosts.
pub(super) fn hosts(text: &str) -> Result<Hosts, String> {
    let mut hosts = Hosts::default();
    for host in value::list(text)? {
        hosts.add(&host)?;
    }
    Ok(hosts)
}
