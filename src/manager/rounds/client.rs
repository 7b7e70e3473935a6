//! Requests to the services of federated rounds: what is answered, and whether what
//! was sent may have been taken.
//!
//! Each request waits, so it has a thread; the task that it is for leaves it behind
//! when it is to end. Redirects are not followed and no proxy is used.

use super::super::agent;
use super::services::{RoundServices, RoundTimes};
use crate::cancel::{Cancel, Reason};
use crate::task::humantime;
use std::io::{self, Read as _};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;
use ureq::{Agent, Error, Timeout};

/// How long a cancelled task may go on waiting.
const CANCEL_CHECK: Duration = Duration::from_millis(10);
/// Bytes that are told of an answer that says no.
const TOLD: u64 = 300;

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// 2xx, with its body.
    Ok(Vec<u8>),
    /// It has not been taken, and may be another time: no connection, 429, 5xx.
    Later(String),
    /// It will not be taken.
    No(String),
    /// It was sent, and there was no answer.
    Unknown(String),
}

/// The client. Clones share it.
#[derive(Clone)]
pub(super) struct RoundClient {
    agent: Agent,
    limit: u64,
    times: RoundTimes,
}

impl RoundClient {
    /// # Errors
    ///
    /// A certificate file that can't be read.
    pub(super) fn new(services: &RoundServices) -> anyhow::Result<RoundClient> {
        let mut config = agent::config(services.times.fetch).max_redirects_will_error(false);
        let urls = [&services.coordinator, &services.registry, &services.store];
        let encrypted = urls.into_iter().flatten().any(|url| url.starts_with("https://"));
        if encrypted || services.ca.is_some() || !services.hosts.is_empty() {
            config = agent::trusting(config, services.ca.as_deref(), "--round-ca-cert")?;
        }
        let agent = config.build().new_agent();
        Ok(RoundClient { agent, limit: services.data_size, times: services.times })
    }

    /// `GET url`, with a body within the limit.
    ///
    /// # Errors
    ///
    /// The reason for which the task is to end.
    pub(super) fn get(&self, url: &str, cancel: &Cancel) -> Result<Reply, Reason> {
        let (client, url) = (self.clone(), url.to_owned());
        apart(cancel, move || {
            let answer = client.agent.get(&url).call();
            // Nothing is changed by asking again.
            match client.read(&url, answer, client.times.fetch) {
                Reply::Unknown(reason) => Reply::Later(reason),
                reply => reply,
            }
        })
    }

    /// `POST url` with JSON.
    ///
    /// # Errors
    ///
    /// The reason for which the task is to end; what was sent may have been taken.
    pub(super) fn post(&self, url: &str, body: Vec<u8>, cancel: &Cancel) -> Result<Reply, Reason> {
        let (client, url) = (self.clone(), url.to_owned());
        apart(cancel, move || {
            let request = client.agent.post(&url).content_type("application/json");
            let within = client.times.update;
            let request = request.config().timeout_global(Some(within)).build();
            client.read(&url, request.send(&body[..]), within)
        })
    }

    fn read(
        &self,
        url: &str,
        answer: Result<ureq::http::Response<ureq::Body>, Error>,
        within: Duration,
    ) -> Reply {
        let late = || format!("{url} did not answer within {}", humantime(within));
        let answer = match answer {
            Ok(answer) => answer,
            Err(e) if was_not_sent(&e) => return Reply::Later(format!("no way to {url}: {e}")),
            Err(Error::Timeout(_)) => return Reply::Unknown(late()),
            Err(e) => return Reply::Unknown(format!("no answer from {url}: {e}")),
        };
        let status = answer.status();
        let length = answer.body().content_length();
        let mut body = answer.into_body().into_reader();
        if !status.is_success() {
            let mut text = Vec::new();
            // What it says helps, and need not.
            body.take(TOLD).read_to_end(&mut text).ok();
            let text = String::from_utf8_lossy(&text);
            let says = format!("{url} answers with {}", [status.as_str(), text.trim()].join(" "));
            let says = says.trim_end().to_owned();
            return match status.as_u16() {
                429 | 500.. => Reply::Later(says),
                300..400 => Reply::No(format!("{says}: a redirect is not followed")),
                _ => Reply::No(says),
            };
        }
        let too_large = |bytes: u64| {
            let limit = self.limit;
            Reply::No(format!(
                "{url} answers with {bytes} bytes or more, over the limit of {limit} (--round-data-size)"
            ))
        };
        if let Some(length) = length.filter(|length| *length > self.limit) {
            return too_large(length);
        }
        let mut bytes = Vec::new();
        match body.by_ref().take(self.limit + 1).read_to_end(&mut bytes) {
            Ok(_) if bytes.len() as u64 > self.limit => too_large(bytes.len() as u64),
            Ok(_) => Reply::Ok(bytes),
            Err(e) if is_late(&e) => Reply::Unknown(late()),
            Err(e) => Reply::Unknown(format!("the answer of {url} broke off: {e}")),
        }
    }
}

/// Whether an answer has not ended in time.
fn is_late(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|e| e.downcast_ref::<Error>());
    error.kind() == io::ErrorKind::TimedOut || matches!(inner, Some(Error::Timeout(_)))
}

/// Whether a request can't have reached anyone.
fn was_not_sent(error: &Error) -> bool {
    // The handshake ends with it, before anything is sent.
    let is_distrust = |e: &rustls::Error| matches!(e, rustls::Error::InvalidCertificate(_));
    match error {
        Error::HostNotFound
        | Error::ConnectionFailed
        | Error::BadUri(_)
        | Error::Http(_)
        | Error::Tls(_)
        | Error::Timeout(Timeout::Resolve | Timeout::Connect) => true,
        Error::Rustls(e) => is_distrust(e),
        Error::Io(e) => {
            let unreachable = matches!(
                e.kind(),
                io::ErrorKind::ConnectionRefused
                    | io::ErrorKind::HostUnreachable
                    | io::ErrorKind::NetworkUnreachable
                    | io::ErrorKind::AddrNotAvailable
            );
            let tls = e.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>());
            unreachable || tls.is_some_and(is_distrust)
        }
        _ => false,
    }
}

/// Has something done on a thread of its own; a task that is to end waits for it no
/// more.
fn apart(cancel: &Cancel, work: impl FnOnce() -> Reply + Send + 'static) -> Result<Reply, Reason> {
    let (done, reply) = channel();
    let thread = std::thread::Builder::new().name("round".into());
    // A task that was ended does not take it.
    let started = thread.spawn(move || done.send(work()).ok());
    if let Err(e) = started {
        return Ok(Reply::Later(format!("no thread for a request: {e}")));
    }
    loop {
        match reply.recv_timeout(CANCEL_CHECK) {
            Ok(reply) => return Ok(reply),
            Err(RecvTimeoutError::Timeout) => {
                if let Some(reason) = cancel.reason() {
                    return Err(reason);
                }
            }
            Err(RecvTimeoutError::Disconnected) => {
                return Ok(Reply::Unknown("the request's thread panicked; see the log".into()));
            }
        }
    }
}
