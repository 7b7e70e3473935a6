//! When the connection reads: not while too many bytes have come that the worker
//! is not done with, for brokers send far ahead of the acknowledgements.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

/// Bytes of messages that have come and are not done with, above which no more
/// is read for a while.
const LIMIT: usize = 4 << 20;
/// How long at most, after each message, as a part of the keep-alive: as long
/// as nothing is read nothing is written either, and rumqttc reads ten messages
/// at a time. Whoever can't be done with any message, on a disk that is full,
/// must still publish results.
const PAUSE: u32 = 100;

/// Bytes of the messages that have come and are not done with.
#[derive(Debug, Default)]
pub(super) struct Arrivals(watch::Sender<usize>);

/// What a message takes up at the least. So the number of messages is bounded,
/// too: each that is small waits for the same steps as a large one.
const LEAST: usize = 8 << 10;

impl Arrivals {
    pub(super) fn hold(&self, bytes: usize) -> ArrivedBytes {
        let bytes = bytes.max(LEAST);
        self.0.send_modify(|held| *held += bytes);
        ArrivedBytes { bytes, arrivals: self.0.clone() }
    }

    /// Waits for a moment while they are too many.
    pub(super) fn room(&self, keep_alive: Duration) -> impl Future<Output = ()> + use<> {
        let mut held = self.0.subscribe();
        async move {
            // Without a sender there are none.
            timeout(keep_alive / PAUSE, held.wait_for(|held| *held <= LIMIT)).await.ok();
        }
    }
}

/// The part of one message in [`Arrivals`], as long as this exists.
#[derive(Debug)]
pub(super) struct ArrivedBytes {
    bytes: usize,
    arrivals: watch::Sender<usize>,
}

impl Drop for ArrivedBytes {
    fn drop(&mut self) {
        self.arrivals.send_modify(|held| *held -= self.bytes);
    }
}
