//! What the network takes by itself, and what of a message's way is not its doing.

use super::Address;
use std::io;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// How long a segment waits whose predecessor has not been acknowledged, which
/// the other end's kernel does after this time: Nagle's algorithm over delayed
/// acknowledgements.
const DELAY: Duration = Duration::from_millis(40);
/// As much earlier it may come.
const TOLERANCE: Duration = Duration::from_millis(5);

/// How long it takes to connect, which is one way there and back.
///
/// # Errors
///
/// The system's; none in time.
pub async fn network_round_trip(address: &Address, within: Duration) -> io::Result<Duration> {
    let begun = Instant::now();
    let connected = TcpStream::connect((address.host.as_str(), address.port));
    tokio::time::timeout(within, connected).await.map_err(|_| io::ErrorKind::TimedOut)??;
    Ok(begun.elapsed())
}

/// Whether a message that took so long waited for acknowledgements, by what the
/// network takes alone.
pub fn is_delayed(took: Duration, network: Duration) -> bool {
    let over = took.saturating_sub(network * 2);
    over + TOLERANCE >= DELAY && over <= 3 * DELAY && network < DELAY / 2
}
