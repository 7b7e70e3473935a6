//! Modules from the web: `image_url` over http or https.

use crate::cancel::Cancel;
use std::io::Read as _;
use std::time::Duration;
use ureq::Agent;

/// How long a server may keep a task waiting in all.
const TIMEOUT: Duration = Duration::from_secs(120);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A client for modules. Connections are kept for the next task.
pub(super) struct Fetcher {
    agent: Agent,
    limit: u64,
}

impl Fetcher {
    /// Refuses modules over `limit` bytes.
    pub(super) fn new(limit: u64) -> Fetcher {
        let agent = Agent::config_builder()
            .timeout_global(Some(TIMEOUT))
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .user_agent(concat!("proplet/", env!("CARGO_PKG_VERSION")))
            .build()
            .new_agent();
        Fetcher { agent, limit }
    }

    /// The bytes at `url`. The error is a sentence for the task's result; a
    /// task that is cancelled gets one too, and its reason goes before it.
    pub(super) fn get(&self, url: &str, cancel: &Cancel) -> Result<Vec<u8>, String> {
        let failed = |e: &dyn std::fmt::Display| format!("fetching the module from {url}: {e}");
        let response = self.agent.get(url).call().map_err(|e| failed(&e))?;
        if let Some(length) = response.body().content_length()
            && length > self.limit
        {
            return Err(self.too_large(url, length));
        }
        let mut body = response.into_body().into_reader();
        let mut bytes = Vec::new();
        let mut chunk = vec![0; 64 << 10];
        loop {
            if cancel.reason().is_some() {
                return Err(failed(&"cancelled"));
            }
            match body.read(&mut chunk) {
                Ok(0) => return Ok(bytes),
                Ok(n) => bytes.extend_from_slice(&chunk[..n]),
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(failed(&e)),
            }
            if bytes.len() as u64 > self.limit {
                return Err(self.too_large(url, bytes.len() as u64));
            }
        }
    }

    fn too_large(&self, url: &str, at_least: u64) -> String {
        format!(
            "the module at {url} has {at_least} bytes or more, over the limit of {} (--module-size)",
            self.limit
        )
    }
}
