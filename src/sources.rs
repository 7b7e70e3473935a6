//! Where the code of tasks comes from, if not with the message: over http or
//! https, or an image from a registry, pulled or through Propeller's proxy. It
//! belongs to the worker: the runtime is handed a way to get the bytes, and knows
//! nothing of addresses and servers.

mod assembly;
mod images;
mod kept;
mod name;
mod proxy;
mod registry;
mod url;

pub use images::{ImageSettings, Images};
pub use registry::{Login, RegistryPlace};
pub use url::Fetcher;

/// Stack of a fetch's thread.
const STACK: usize = 1 << 20;

/// The sentence of a task whose image can't be had.
fn failed(name: &str, error: &str) -> String {
    format!("fetching the image {name}: {error}")
}
