//! Images by their names, for as many tasks as want one at the same time.
//!
//! ```text
//! name ─▶ came a moment ago ─────────────────────────▶ code
//!      ─▶ being fetched ─▶ wait ─────────────────────▶ code
//!      └▶ neither ─▶ fetch ─┬─ registry: --registry, or a digest in the name
//!                           └─ Propeller's proxy, over the channel
//! ```

use super::name;
use super::pinned::LastFetchedOnDisk;
use super::proxy::Proxy;
use super::registry::{Registry, RegistryPlace};
use super::{STACK, failed};
use crate::cache::{Cache, CacheLimits, LookUp};
use crate::cancel::Cancel;
use crate::digest::Digest;
use crate::disk::DiskCache;
use crate::network::Hosts;
use crate::task::Binary;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::UnboundedReceiver;

/// For so long an image is what its name means: tasks that come in a burst need
/// one fetch.
const FRESH: Duration = Duration::from_secs(10);
/// Bytes of such images.
const FRESH_BYTES: u64 = 64 << 20;
/// Images that are fetched at the same time.
const FETCHES: usize = 64;

/// How images are had.
#[derive(Debug)]
pub struct ImageSettings {
    /// The registry to pull from, where images do not come through the proxy.
    pub registry: Option<RegistryPlace>,
    /// Whether there is a channel with a proxy.
    pub channel: bool,
    /// How long a registry or the proxy may be silent.
    pub timeout: Duration,
    /// Bytes of the largest one.
    pub limit: u64,
    /// Where they are kept, by their digests.
    pub kept: Option<Arc<DiskCache>>,
    /// Where images may be pulled from, beside that registry; none: from anywhere.
    pub hosts: Option<Hosts>,
}

/// An image that came, or why it did not.
#[derive(Clone)]
struct Fetched {
    at: Instant,
    code: Result<Binary, String>,
}

/// See the module's documentation.
pub struct Images {
    fresh: Cache<Digest, Fetched>,
    fresh_for: Duration,
    sources: Arc<ImageSources>,
    kept: LastFetchedOnDisk,
}

struct ImageSources {
    proxy: Option<Proxy>,
    registry: Registry,
}

impl Images {
    /// With what the proxy is to be asked for, if images come through one.
    pub fn new(settings: ImageSettings) -> (Images, Option<UnboundedReceiver<String>>) {
        let ImageSettings { registry, channel, timeout, limit, kept, hosts } = settings;
        let by_proxy = channel && registry.is_none();
        let (proxy, asked) = by_proxy.then(|| Proxy::new(timeout, limit)).unzip();
        let registry = Registry::new(registry, timeout, limit, kept.clone(), hosts);
        let fresh = Cache::new(CacheLimits { bytes: FRESH_BYTES, entries: 1024, flights: FETCHES });
        let fresh_for = FRESH;
        let sources = Arc::new(ImageSources { proxy, registry });
        (Images { fresh, fresh_for, sources, kept: LastFetchedOnDisk::new(kept) }, asked)
    }

    /// What their names came to last.
    pub(super) fn kept(&self) -> &LastFetchedOnDisk {
        &self.kept
    }

    /// Whether somebody waits for parts of this image from the proxy.
    pub fn wants(&self, name: &str) -> bool {
        self.sources.proxy.as_ref().is_some_and(|proxy| proxy.wants(name))
    }

    /// A part of it has come.
    pub fn arrived(&self, name: &str, index: u64, total: u64, bytes: Vec<u8>) {
        if let Some(proxy) = &self.sources.proxy {
            proxy.arrived(name, index, total, bytes);
        }
    }

    /// The code of an image. Waits for it, or until the task is to end.
    ///
    /// # Errors
    ///
    /// A sentence for the task's result.
    pub(super) fn get(&self, name: &str, cancel: &Cancel) -> Result<Binary, String> {
        let name = name::without_scheme(name);
        let key = Digest::of(name.as_bytes());
        let is_fresh =
            |fetched: &Fetched| fetched.code.is_err() || fetched.at.elapsed() < self.fresh_for;
        let cancelled = |_| failed(name, "cancelled");
        let waiter = match self.fresh.look_up(key, is_fresh, cancel).map_err(cancelled)? {
            LookUp::Found(fetched) => return fetched.code,
            LookUp::Claimed(flight) => {
                let waiter = flight.join();
                let deserted = Arc::<AtomicBool>::default();
                flight.when_deserted({
                    let deserted = deserted.clone();
                    move || {
                        deserted.store(true, Ordering::Relaxed);
                        true
                    }
                });
                let (sources, image) = (self.sources.clone(), name.to_owned());
                let kept = self.kept.clone();
                let fetch = move || {
                    let wanted = || !deserted.load(Ordering::Relaxed);
                    let code = sources.get(&image, wanted).map(Binary::new);
                    let at = Instant::now();
                    match code {
                        Ok(code) => {
                            // One with a digest is found by that.
                            if !name::has_digest(&image) {
                                kept.put(&image, &code);
                            }
                            let weight = code.len() as u64;
                            flight.land(Fetched { at, code: Ok(code) }, weight);
                        }
                        // The next one tries again.
                        Err(e) => flight.give(Fetched { at, code: Err(e) }),
                    }
                };
                let thread = std::thread::Builder::new().name("fetch".into()).stack_size(STACK);
                let started = thread.spawn(fetch);
                started.map_err(|e| failed(name, &format!("no thread for it: {e}")))?;
                waiter
            }
        };
        match waiter.wait(cancel).map_err(cancelled)? {
            Some(fetched) => fetched.code,
            None => Err(failed(name, "the fetch's thread panicked; see the log")),
        }
    }
}

impl ImageSources {
    fn get(&self, name: &str, wanted: impl Fn() -> bool) -> Result<Vec<u8>, String> {
        match &self.proxy {
            Some(proxy) if !name::has_digest(name) => proxy.get(name, wanted),
            _ => self.registry.get(name, wanted),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cancel::Reason;

    fn images() -> (Images, UnboundedReceiver<String>) {
        let (mut images, asked) = Images::new(ImageSettings {
            registry: None,
            channel: true,
            timeout: Duration::from_secs(600),
            limit: 100,
            kept: None,
            hosts: Some(Hosts::any()),
        });
        images.fresh_for = Duration::MAX;
        (images, asked.expect("by the proxy"))
    }

    #[test]
    fn who_wants_the_same_image_shares_one_fetch() {
        let (images, mut asked) = images();
        let cancel = Cancel::default();
        std::thread::scope(|scope| {
            let get = || images.get("r.example/a:1", &cancel).map(|code| code.to_vec());
            let all: Vec<_> = (0..4).map(|_| scope.spawn(get)).collect();
            assert_eq!(asked.blocking_recv().as_deref(), Some("r.example/a:1"));
            assert!(images.wants("r.example/a:1") && !images.wants("r.example/b:1"));
            images.arrived("r.example/b:1", 0, 1, vec![9]);
            images.arrived("r.example/a:1", 1, 2, vec![2]);
            images.arrived("r.example/a:1", 0, 2, vec![1]);
            for one in all {
                assert_eq!(one.join().expect("no panic"), Ok(vec![1, 2]));
            }
        });
        assert!(asked.try_recv().is_err(), "it was asked for once");
        assert!(!images.wants("r.example/a:1"));
    }

    #[test]
    fn a_failure_is_for_those_who_wait_and_a_cancelled_task_leaves() {
        let (images, mut asked) = images();
        let images = &images;
        let cancel = Cancel::default();
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| images.get("a", &cancel).map(drop));
            asked.blocking_recv();
            images.arrived("a", 0, 1, vec![0; 101]);
            let error = waits.join().expect("no panic").expect_err("too large");
            assert!(error.contains("over the limit of 100"), "{error}");
            let leaves = scope.spawn(|| images.get("a", &cancel).map(drop));
            asked.blocking_recv();
            cancel.cancel(Reason::Stopped);
            assert!(leaves.join().expect("no panic").is_err());
            // Whoever comes next has it, although the one that has left is still about.
            let another = Cancel::default();
            let next = scope.spawn(move || images.get("a", &another).map(|code| code.to_vec()));
            asked.blocking_recv();
            images.arrived("a", 0, 1, vec![7]);
            assert_eq!(next.join().expect("no panic"), Ok(vec![7]));
        });
    }
}
