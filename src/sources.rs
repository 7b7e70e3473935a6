//! Where the code of tasks comes from, if not with the message: over http or
//! https, or an image from a registry, pulled or through Propeller's proxy. It
//! belongs to the worker: the runtime is handed a way to get the bytes, and knows
//! nothing of addresses and servers.

mod assembly;
mod images;
mod name;
mod pinned;
mod proxy;
mod registry;
mod tunnel;
mod url;

pub use images::{ImageSettings, Images};
pub use registry::{RegistryLogin, RegistryPlace};

use std::sync::atomic::{AtomicU64, Ordering};
pub use url::Fetcher;

/// Stack of a fetch's thread.
const STACK: usize = 1 << 20;

/// The sentence of a task whose image can't be had.
fn failed(name: &str, error: &str) -> String {
    format!("fetching the image {name}: {error}")
}

/// Bytes of code that this process has fetched.
static FETCHED: AtomicU64 = AtomicU64::new(0);

/// Bytes of code that this process has fetched since its start.
pub fn fetched_bytes() -> u64 {
    FETCHED.load(Ordering::Relaxed)
}

fn count_fetched(bytes: usize) {
    FETCHED.fetch_add(bytes as u64, Ordering::Relaxed);
}
