//! Asks a worker that runs on this machine.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::report::Report;
use anyhow::{Context as _, bail};
use serde::Deserialize;

/// A worker that is well answers in a millisecond.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The most bytes of an answer.
const HEALTH: u64 = 64 << 10;
const STATUS: u64 = 4 << 20;

/// A worker's answer.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct HealthReport {
    /// Such as `ok` or `draining`.
    pub(crate) status: String,
    /// Which worker it is, by its client id.
    pub(crate) proplet_id: String,
    /// Why it is not well.
    #[serde(default)]
    pub(crate) reason: Option<String>,
}

/// Asks the worker that listens at `listen` for `/health` or `/ready`. Not
/// being well is an answer, too: it has a reason.
pub(crate) fn ask(listen: SocketAddr, what: &str) -> anyhow::Result<HealthReport> {
    let url = format!("http://{}/{what}", towards(listen));
    let body = get(&url, HEALTH).with_context(|| {
        format!(
            "no worker answers at {url}; if one runs, its log says where it serves /health, \
             and PROPLET_METRICS_PORT and PROPLET_METRICS_BIND must be the same here"
        )
    })?;
    match serde_json::from_str(&body) {
        Ok(answer) => Ok(answer),
        Err(_) => {
            bail!("what answers at {url} is not a worker; choose another PROPLET_METRICS_PORT")
        }
    }
}

/// Asks the worker that listens at `listen` for its whole status, as JSON.
pub(crate) fn ask_status(listen: SocketAddr) -> anyhow::Result<(Report, String)> {
    let url = format!("http://{}/status", towards(listen));
    let body = get(&url, STATUS).with_context(|| {
        format!(
            "no worker answers at {url}; if one runs, its log says where it serves /status, \
             and PROPLET_METRICS_PORT and PROPLET_METRICS_BIND must be the same here"
        )
    })?;
    let report = serde_json::from_str(&body).with_context(|| {
        format!("what answers at {url} is not a worker of this version; choose another PROPLET_METRICS_PORT")
    })?;
    Ok((report, body))
}

/// Where to knock for one that listens everywhere, or there.
fn towards(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

fn get(url: &str, most: u64) -> anyhow::Result<String> {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_global(Some(TIMEOUT))
        .http_status_as_error(false)
        // What proxy the environment names is not meant for this machine.
        .proxy(None)
        .build()
        .into();
    let mut response = agent.get(url).call()?;
    Ok(response.body_mut().with_config().limit(most).read_to_string()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_listens_everywhere_is_asked_here() {
        let towards = |address: &str| towards(address.parse().expect("an address")).to_string();
        assert_eq!(towards("0.0.0.0:9092"), "127.0.0.1:9092");
        assert_eq!(towards("[::]:1"), "[::1]:1");
        assert_eq!(towards("10.0.0.7:9092"), "10.0.0.7:9092");
    }
}
