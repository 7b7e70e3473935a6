//! The code of a task, wherever it is; and modules from the web, `image_url` over
//! http or https.
//!
//! Each fetch has a thread of its own, since neither the search for an address
//! nor the wait for an answer can be interrupted: a task that is ended leaves
//! its fetch behind, which ends within [`TIMEOUT`].

use super::STACK;
use super::images::Images;
use super::kept::Kept;
use crate::cancel::Cancel;
use crate::task::{Binary, Code, Life, TaskSpec, is_web_address};
use std::io::Read as _;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;
use ureq::Agent;

/// How long a server may keep a task waiting in all.
const TIMEOUT: Duration = Duration::from_secs(120);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Fetches at the same time, those that tasks have left behind included.
const MAX_FETCHES: usize = 64;

/// How long a cancelled task may go on waiting.
const CANCEL_CHECK: Duration = Duration::from_millis(10);

/// Gets modules. Connections are kept for the next task.
pub struct Fetcher {
    client: Client,
    images: Option<Images>,
    /// For invocations of deployed tasks.
    kept: Kept,
    /// Each fetch that is under way holds it.
    under_way: Arc<()>,
}

#[derive(Clone)]
struct Client {
    agent: Agent,
    limit: u64,
}

impl Fetcher {
    /// Refuses modules over `limit` bytes, and images without `images`.
    pub fn new(limit: u64, images: Option<Images>) -> Fetcher {
        let agent = Agent::config_builder()
            .timeout_global(Some(TIMEOUT))
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .user_agent(concat!("proplet/", env!("CARGO_PKG_VERSION")))
            .build()
            .new_agent();
        let client = Client { agent, limit };
        Fetcher { client, images, kept: Kept::default(), under_way: Arc::default() }
    }

    /// The images, if it gets some.
    pub fn images(&self) -> Option<&Images> {
        self.images.as_ref()
    }

    /// The code of a task that came without it.
    ///
    /// # Errors
    ///
    /// As for [`Fetcher::get`].
    pub fn code(&self, spec: &TaskSpec, cancel: &Arc<Cancel>) -> Result<Binary, String> {
        match spec.code() {
            Code::Bytes(binary) => Ok(binary.clone()),
            Code::Url(url) => self.by_life(url, spec, cancel),
            Code::Held(digest) => Err(format!("nobody here has the module {digest}")),
        }
    }

    /// An invocation runs what was fetched when its task was prepared.
    fn by_life(&self, url: &str, spec: &TaskSpec, cancel: &Arc<Cancel>) -> Result<Binary, String> {
        let id = spec.id();
        if id.invocation().is_some()
            && let Some(kept) = self.kept.get(id)
        {
            return Ok(kept);
        }
        let binary = match &self.images {
            _ if is_web_address(url) => self.get(url, cancel)?,
            Some(images) => images.get(url, cancel)?,
            None => return Err(failed(url, &"there is no way to images of a registry here")),
        };
        super::count_fetched(binary.len());
        if id.invocation().is_some() || spec.life() == Life::Latent {
            self.kept.put(id, binary.clone());
        }
        Ok(binary)
    }

    /// The module at `url`.
    ///
    /// # Errors
    ///
    /// A sentence for the task's result; a task that is cancelled gets one
    /// too, and its reason goes before it.
    pub fn get(&self, url: &str, cancel: &Arc<Cancel>) -> Result<Binary, String> {
        let slot = self.under_way.clone();
        // This one and ours apart.
        let others = Arc::strong_count(&slot) - 2;
        if others >= MAX_FETCHES {
            return Err(failed(url, &format!("{others} fetches are under way; try again later")));
        }
        let (fetched, answer) = mpsc::channel();
        let fetch = {
            let (client, url) = (self.client.clone(), url.to_owned());
            let cancel = cancel.clone();
            move || {
                // A task that was ended waits no more.
                fetched.send(client.get(&url, &cancel).map(Binary::new)).ok();
                drop(slot);
            }
        };
        std::thread::Builder::new()
            .name("fetch".into())
            .stack_size(STACK)
            .spawn(fetch)
            .map_err(|e| failed(url, &format!("no thread for it: {e}")))?;
        loop {
            match answer.recv_timeout(CANCEL_CHECK) {
                Ok(fetched) => return fetched,
                Err(RecvTimeoutError::Timeout) if cancel.reason().is_none() => {}
                Err(RecvTimeoutError::Timeout) => return Err(failed(url, &"cancelled")),
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(failed(url, &"the fetch's thread panicked; see the log"));
                }
            }
        }
    }
}

impl Client {
    fn get(&self, url: &str, cancel: &Cancel) -> Result<Vec<u8>, String> {
        let response = self.agent.get(url).call().map_err(|e| failed(url, &e))?;
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
                return Err(failed(url, &"cancelled"));
            }
            match body.read(&mut chunk) {
                Ok(0) => return Ok(bytes),
                Ok(n) => bytes.extend_from_slice(&chunk[..n]),
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(failed(url, &e)),
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

fn failed(url: &str, error: &dyn std::fmt::Display) -> String {
    format!("fetching the module from {url}: {error}")
}
