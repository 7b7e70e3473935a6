//! Where the code of tasks comes from, if not with the message: over http or
//! https so far. It belongs to the worker: the runtime is handed a way to get
//! the bytes, and knows nothing of addresses and servers.

mod kept;
mod url;

pub use url::Fetcher;
