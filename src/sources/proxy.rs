//! Images from Propeller's registry proxy, which answers on the channel: in parts,
//! in any order, to all workers, and not at all when it fails.
//!
//! Who wants an image waits here ([`Proxy::get`]); the worker's loop publishes what
//! is to be asked for, and hands over the parts as they come ([`Proxy::arrived`]).

use super::assembly::Assembly;
use super::failed;
use crate::task::humantime;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// After so long without any part the proxy is asked once more: it may have been
/// started meanwhile. It passes over what it is at.
const ASK_AGAIN: Duration = Duration::from_secs(15);
/// How often a wait looks whether somebody still wants the image.
const LOOK: Duration = Duration::from_millis(100);

/// An image that somebody waits for.
struct Wanted {
    /// Who: one whom nobody wants it for any more may be about to leave while
    /// another has come.
    number: u64,
    assembly: Assembly,
}

/// See the module's documentation.
pub(super) struct Proxy {
    waiting: Mutex<HashMap<String, Wanted>>,
    changed: Condvar,
    asks: UnboundedSender<String>,
    numbers: AtomicU64,
    /// How long it may be silent.
    patience: Duration,
    limit: u64,
}

impl Proxy {
    /// For images of up to `limit` bytes; gives what is to be asked for.
    pub(super) fn new(patience: Duration, limit: u64) -> (Proxy, UnboundedReceiver<String>) {
        let (asks, asked) = unbounded_channel();
        let (waiting, changed) = (Mutex::default(), Condvar::new());
        let numbers = AtomicU64::new(0);
        (Proxy { waiting, changed, asks, numbers, patience, limit }, asked)
    }

    /// Whether somebody waits for this image.
    pub(super) fn wants(&self, name: &str) -> bool {
        self.lock().contains_key(name)
    }

    /// A part has come.
    pub(super) fn arrived(&self, name: &str, index: u64, total: u64, bytes: Vec<u8>) {
        if let Some(wanted) = self.lock().get_mut(name) {
            wanted.assembly.add(index, total, bytes, self.limit);
        }
        self.changed.notify_all();
    }

    /// Asks for an image and waits for it. Only one at a time asks for a name.
    ///
    /// # Errors
    ///
    /// A sentence for the task's result.
    pub(super) fn get(&self, name: &str, wanted: impl Fn() -> bool) -> Result<Vec<u8>, String> {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let listed = Listed { proxy: self, name, number };
        let mut waiting = self.lock();
        let begun = Wanted { number, assembly: Assembly::default() };
        waiting.insert(name.to_owned(), begun);
        self.ask(name);
        let (mut heard, mut asked) = (Instant::now(), Instant::now());
        while let Some(Wanted { assembly, .. }) =
            waiting.get_mut(name).filter(|wanted| wanted.number == number)
        {
            if let Some(ended) = assembly.ended() {
                drop(waiting);
                drop(listed);
                return ended.map_err(|e| failed(name, &e));
            }
            if !wanted() {
                break;
            }
            if assembly.take_progress() {
                heard = Instant::now();
            }
            if heard.elapsed() >= self.patience {
                return Err(self.silence(name, assembly));
            }
            if assembly.is_empty() && asked.elapsed() >= ASK_AGAIN {
                self.ask(name);
                asked = Instant::now();
            }
            let rest = self.patience.saturating_sub(heard.elapsed()).min(LOOK);
            let woken = self.changed.wait_timeout(waiting, rest);
            waiting = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        Err(failed(name, "nobody waits for it any more"))
    }

    fn ask(&self, name: &str) {
        // A worker that ends asks for nothing.
        self.asks.send(name.to_owned()).ok();
    }

    fn silence(&self, name: &str, assembly: &Assembly) -> String {
        let patience = humantime(self.patience);
        let came = assembly.describe();
        failed(
            name,
            &format!(
                "Propeller's registry proxy did not answer within {patience} (--image-timeout): \
                 {came}; it says nothing when it fails, so see its log, or have the worker pull \
                 images itself (--registry)"
            ),
        )
    }

    // Entries come and go whole.
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Wanted>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes an image from the list of those that are waited for.
struct Listed<'a> {
    proxy: &'a Proxy,
    name: &'a str,
    number: u64,
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        let mut waiting = self.proxy.lock();
        if waiting.get(self.name).is_some_and(|wanted| wanted.number == self.number) {
            waiting.remove(self.name);
        }
    }
}
