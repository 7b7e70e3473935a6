//! Connections to hosts that may be reached.

use super::Hosts;
use serde::{Deserialize, Serialize};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// Time for a name's addresses.
const RESOLVE: Duration = Duration::from_secs(5);
/// Time for each of them.
const CONNECT: Duration = Duration::from_secs(10);
/// Addresses of a name that are tried.
const ADDRESSES: usize = 4;
/// Connections that are being made at the same time.
const MOST: usize = 128;

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum ConnectError {
    /// The host is not in the list.
    #[error("it is not among the hosts that may be reached")]
    NotAllowed,
    /// The host is, but this is no public address, nor in the list.
    #[error("its address {0} is not public, and is not listed as an address itself")]
    Prohibited(String),
    /// The name has no address.
    #[error("its name could not be resolved: {0}")]
    Name(String),
    /// Nobody answers there.
    #[error("no connection: {0}")]
    Refused(String),
    /// It took too long.
    #[error("no connection in time")]
    Timeout,
    /// Too many are being made.
    #[error("too many connections are being made at the same time")]
    Busy,
}

/// Makes connections to hosts that may be reached, a number of them at the same
/// time.
#[derive(Debug)]
pub struct Connector {
    hosts: Hosts,
    places: Arc<Semaphore>,
}

impl Connector {
    /// To these.
    pub fn new(hosts: Hosts) -> Connector {
        Connector { hosts, places: Arc::new(Semaphore::new(MOST)) }
    }

    /// Connects to a host, whose name is resolved once: what was looked at is what
    /// is connected to. To be called from within Tokio.
    ///
    /// # Errors
    ///
    /// It may not be reached, or can't be.
    pub async fn connect(&self, host: &str, port: u16) -> Result<TcpStream, ConnectError> {
        if !self.hosts.allow(host, port) {
            return Err(ConnectError::NotAllowed);
        }
        let place = self.places.clone().try_acquire_owned().map_err(|_| ConnectError::Busy)?;
        let (addresses, _place) = match super::literal(host) {
            Some(address) => (vec![SocketAddr::new(address, port)], place),
            None => resolve(host, port, place).await?,
        };
        let public = |at: &SocketAddr| self.hosts.allow_resolved(host, at.ip(), port);
        let (allowed, others): (Vec<_>, Vec<_>) = addresses.into_iter().partition(public);
        let mut failed = match others.first() {
            Some(other) => ConnectError::Prohibited(other.ip().to_string()),
            None => ConnectError::Name("it has no address".into()),
        };
        for address in allowed.into_iter().take(ADDRESSES) {
            match timeout(CONNECT, tokio::net::TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    stream.set_nodelay(true).ok();
                    return stream.into_std().map_err(|e| ConnectError::Refused(e.to_string()));
                }
                Ok(Err(e)) => failed = ConnectError::Refused(e.to_string()),
                Err(_) => failed = ConnectError::Timeout,
            }
        }
        Err(failed)
    }
}

/// The addresses of a name. A search that takes too long keeps its place until it
/// has ended, since its thread does.
async fn resolve(
    host: &str,
    port: u16,
    place: OwnedSemaphorePermit,
) -> Result<(Vec<SocketAddr>, OwnedSemaphorePermit), ConnectError> {
    let host = host.to_owned();
    let search = tokio::task::spawn_blocking(move || {
        let found = (host.as_str(), port).to_socket_addrs().map(Iterator::collect);
        (found, place)
    });
    let found = timeout(RESOLVE, search).await;
    let found = found.map_err(|_| ConnectError::Name("no answer in time".into()))?;
    let (found, place) = found.map_err(|e| ConnectError::Name(e.to_string()))?;
    Ok((found.map_err(|e: std::io::Error| ConnectError::Name(e.to_string()))?, place))
}
