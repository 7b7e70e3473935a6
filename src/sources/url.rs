//! The code of a task, wherever it is; and modules from the web, `image_url` over
//! http or https.
//!
//! Each fetch has a thread of its own, since neither the search for an address
//! nor the wait for an answer can be interrupted: a task that is ended leaves
//! its fetch behind, which ends within [`TIMEOUT`].

use super::STACK;
use super::images::Images;
use super::name;
use super::pinned::{LastFetched, LastFetchedOnDisk};
use crate::cancel::Cancel;
use crate::network::{ConnectError, Hosts};
use crate::task::{Binary, Code, Life, TaskSpec, is_web_address};
use std::io::Read as _;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;
use ureq::Agent;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::http::uri::Scheme;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};

/// How long a server may keep a task waiting in all.
const TIMEOUT: Duration = Duration::from_secs(120);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Fetches at the same time, those that tasks have left behind included.
const MAX_FETCHES: usize = 64;

/// How long a cancelled task may go on waiting.
const CANCEL_CHECK: Duration = Duration::from_millis(10);

/// Gets modules. Connections are kept for the next task.
pub struct Fetcher {
    client: HttpClient,
    images: Option<Images>,
    /// For invocations of deployed tasks.
    kept: LastFetched,
    kept_on_disk: LastFetchedOnDisk,
    /// Each fetch that is under way holds it.
    under_way: Arc<()>,
}

#[derive(Clone)]
struct HttpClient {
    agent: Agent,
    limit: u64,
}

impl Fetcher {
    /// Refuses modules over `limit` bytes, images without `images`, and addresses
    /// that `hosts` do not allow; without those, none.
    pub fn new(limit: u64, images: Option<Images>, hosts: Option<Hosts>) -> Fetcher {
        let config = Agent::config_builder()
            .timeout_global(Some(TIMEOUT))
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .user_agent(concat!("proplet/", env!("CARGO_PKG_VERSION")))
            .build();
        let agent = match hosts {
            Some(hosts) => {
                let resolver = LookingResolver { hosts, inner: DefaultResolver::default() };
                Agent::with_parts(config, DefaultConnector::default(), resolver)
            }
            None => config.new_agent(),
        };
        let client = HttpClient { agent, limit };
        let kept_on_disk = images.as_ref().map(|images| images.kept().clone()).unwrap_or_default();
        Fetcher {
            client,
            images,
            kept: LastFetched::default(),
            kept_on_disk,
            under_way: Arc::default(),
        }
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

    /// An invocation runs what was fetched when its task was prepared, by an earlier
    /// process, too.
    fn by_life(&self, url: &str, spec: &TaskSpec, cancel: &Arc<Cancel>) -> Result<Binary, String> {
        let id = spec.id();
        let invoked = id.invocation().is_some();
        if invoked && let Some(kept) = self.kept.get(id) {
            return Ok(kept);
        }
        if invoked && let Some(kept) = self.kept_on_disk.get(name::without_scheme(url)) {
            self.kept.put(id, kept.clone());
            return Ok(kept);
        }
        let is_web = is_web_address(url);
        let binary = match &self.images {
            _ if is_web => self.get(url, cancel)?,
            Some(images) => images.get(url, cancel)?,
            None => return Err(failed(url, &"there is no way to images of a registry here")),
        };
        super::count_fetched(binary.len());
        if invoked || spec.life() == Life::Latent {
            self.kept.put(id, binary.clone());
            if is_web {
                self.kept_on_disk.put(url, &binary);
            }
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

impl HttpClient {
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

/// Looks at the addresses of a host before anybody connects to them, of each that
/// a redirect leads to, too.
#[derive(Debug)]
struct LookingResolver {
    hosts: Hosts,
    inner: DefaultResolver,
}

impl Resolver for LookingResolver {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        // The operator's proxy finds its own way to a host.
        if config.proxy().is_some_and(|proxy| proxy.uri().authority() == uri.authority()) {
            return self.inner.resolve(uri, config, timeout);
        }
        let refused =
            |why: ConnectError| ureq::Error::Other(format!("{why} (--image-hosts)").into());
        let host = uri.host().unwrap_or_default();
        let default = if uri.scheme() == Some(&Scheme::HTTPS) { 443 } else { 80 };
        let port = uri.port_u16().unwrap_or(default);
        if !self.hosts.allow(host, port) {
            return Err(refused(ConnectError::NotAllowed));
        }
        let found = self.inner.resolve(uri, config, timeout)?;
        let mut allowed = self.empty();
        for at in found.iter().filter(|at| self.hosts.allow_resolved(host, at.ip(), port)) {
            allowed.push(*at);
        }
        if allowed.is_empty() {
            let prohibited = found.first().map(|at| at.ip().to_string()).unwrap_or_default();
            return Err(refused(ConnectError::Prohibited(prohibited)));
        }
        Ok(allowed)
    }
}

fn failed(url: &str, error: &dyn std::fmt::Display) -> String {
    format!("fetching the module from {url}: {error}")
}
