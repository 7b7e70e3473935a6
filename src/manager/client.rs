//! Questions to the manager's HTTP side.
//!
//! Each call waits for the answer, for some seconds at most, so a thread of its
//! own asks ([`Asker`]); the worker's loop never does. Redirects are not
//! followed and no proxy is used: the token goes to the place that was named.

use super::answer::{self, TaskAnswer};
use super::confirm::Question;
use super::liveness::Heard;
use super::{PATH, agent};
use crate::journal::Run;
use anyhow::Context as _;
use percent_encoding::utf8_percent_encode;
use serde::Deserialize;
use std::fmt;
use std::io::Read as _;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use ureq::Agent;
use ureq::http::{HeaderValue, Response, header};

/// Time for one answer. The manager may be storing a burst of results.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes that are read of an answer that is not a task.
const SMALL: u64 = 64 << 10;

/// Where the manager is.
#[derive(Clone, PartialEq, Eq)]
pub struct ManagerPlace {
    /// `http://` or `https://`, without a slash at its end.
    pub url: String,
    /// For a proxy before it that asks for one.
    pub token: Option<String>,
    /// PEM file with the authorities to trust instead of the system's.
    pub ca: Option<PathBuf>,
}

impl fmt::Debug for ManagerPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ManagerPlace")
            .field("url", &self.url)
            .field("ca", &self.ca)
            .finish_non_exhaustive()
    }
}

/// Asks the manager.
#[derive(Debug)]
pub struct ManagerClient {
    agent: Agent,
    url: String,
    authorization: Option<HeaderValue>,
}

impl ManagerClient {
    /// # Errors
    ///
    /// A certificate file that can't be read, or a token that can't be sent.
    pub fn new(place: &ManagerPlace) -> anyhow::Result<ManagerClient> {
        ManagerClient::patient(place, TIMEOUT)
    }

    /// One that waits for so long.
    fn patient(place: &ManagerPlace, timeout: Duration) -> anyhow::Result<ManagerClient> {
        let mut config = agent::config(timeout);
        if place.url.starts_with("https://") {
            config = agent::trusting(config, place.ca.as_deref(), "--manager-ca-cert")?;
        }
        let authorization = place.token.as_ref().map(|token| {
            let value = HeaderValue::from_str(&format!("Bearer {token}"));
            let mut value = value.context(
                "PROPLET_MANAGER_TOKEN can't be sent: it holds more than visible ASCII characters",
            )?;
            value.set_sensitive(true);
            anyhow::Ok(value)
        });
        Ok(ManagerClient {
            agent: config.build().new_agent(),
            url: place.url.clone(),
            authorization: authorization.transpose()?,
        })
    }

    /// `GET /tasks/{id}`.
    pub fn task(&self, id: &str) -> TaskAnswer {
        let path = format!("/tasks/{}", utf8_percent_encode(id, PATH));
        match self.get(&path) {
            Ok(response) => {
                let status = response.status().as_u16();
                let date = date(&response).map(str::to_owned);
                answer::read(status, date.as_deref(), response.into_body().into_reader())
            }
            Err(reason) => TaskAnswer::Failed(reason),
        }
    }

    /// When the manager heard a worker last.
    ///
    /// # Errors
    ///
    /// A sentence on why that is not known.
    pub fn heard(&self, worker: &str) -> Result<Heard, String> {
        #[derive(Deserialize)]
        struct History {
            history: Option<Vec<String>>,
        }
        let worker = utf8_percent_encode(worker, PATH);
        let response = self.get(&format!("/proplets/{worker}/alive-history?offset=0&limit=100"))?;
        let now = date(&response).and_then(|date| httpdate::parse_http_date(date).ok());
        match response.status().as_u16() {
            200 => {}
            404 => return Ok(Heard::Never),
            status => return Err(refused(status, response)),
        }
        let History { history } = json(response)?;
        let now = now.ok_or("the manager's answer has no `Date`")?;
        let times = history.iter().flatten().filter_map(|time| answer::timestamp(time));
        // Heartbeats of a moment ago may be later than the answer's whole second.
        Ok(times.max().map_or(Heard::Never, |last| {
            let ago = answer::seconds(now).saturating_sub(last);
            Heard::Ago(Duration::from_secs(u64::try_from(ago).unwrap_or_default()))
        }))
    }

    /// The manager's version.
    ///
    /// # Errors
    ///
    /// A sentence on why that is not known.
    pub fn version(&self) -> Result<String, String> {
        #[derive(Deserialize)]
        struct Health {
            version: String,
        }
        let response = self.get("/health")?;
        match response.status().as_u16() {
            200 => json(response).map(|Health { version }| version),
            status => Err(refused(status, response)),
        }
    }

    fn get(&self, path: &str) -> Result<Response<ureq::Body>, String> {
        let mut request = self.agent.get(format!("{}{path}", self.url));
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        request.call().map_err(|e| format!("no answer from {}: {e}", self.url))
    }
}

fn date(response: &Response<ureq::Body>) -> Option<&str> {
    response.headers().get(header::DATE)?.to_str().ok()
}

fn json<T: serde::de::DeserializeOwned>(response: Response<ureq::Body>) -> Result<T, String> {
    let body = std::io::BufReader::new(response.into_body().into_reader().take(SMALL));
    serde_json::from_reader(body).map_err(|e| format!("the manager's answer can't be read: {e}"))
}

fn refused(status: u16, response: Response<ureq::Body>) -> String {
    match answer::read(status, None, response.into_body().into_reader()) {
        TaskAnswer::Failed(reason) => reason,
        TaskAnswer::NoTask | TaskAnswer::Task(..) => format!("the manager answers with {status}"),
    }
}

/// What the worker wants to know.
#[derive(Debug)]
pub enum Ask {
    /// Whether a result has arrived.
    Task(Question),
    /// Whether the manager hears this worker.
    Heard,
}

/// What came of it.
#[derive(Debug)]
pub enum ManagerReply {
    /// Of a task.
    Task(Run, answer::Decision),
    /// Of this worker.
    Heard(Result<Heard, String>),
}

/// The thread that asks, one question after the other. It ends after its
/// question when this is dropped.
#[derive(Debug)]
pub struct Asker(std::sync::mpsc::Sender<Ask>);

impl Asker {
    /// Starts it, for the worker of this id.
    ///
    /// # Errors
    ///
    /// The settings can't work, or there is no thread to be had.
    pub fn start(
        place: &ManagerPlace,
        worker: &str,
    ) -> anyhow::Result<(Asker, UnboundedReceiver<ManagerReply>)> {
        let client = ManagerClient::new(place).context("the way to the manager (--manager-url)")?;
        let (questions, asked) = std::sync::mpsc::channel();
        let (tell, told) = unbounded_channel();
        let worker = worker.to_owned();
        std::thread::Builder::new()
            .name("manager".into())
            .spawn(move || ask(&client, &worker, &asked, &tell))
            .context("starting the thread that asks the manager")?;
        Ok((Asker(questions), told))
    }

    /// Has a question asked.
    pub fn ask(&self, question: Ask) {
        // The thread ends after this end of the channel only.
        self.0.send(question).ok();
    }
}

fn ask(
    client: &ManagerClient,
    worker: &str,
    asked: &std::sync::mpsc::Receiver<Ask>,
    tell: &UnboundedSender<ManagerReply>,
) {
    for question in asked {
        let told = match question {
            Ask::Task(Question { run, id, age }) => {
                ManagerReply::Task(run, answer::decide(&client.task(id.as_str()), worker, age))
            }
            Ask::Heard => ManagerReply::Heard(client.heard(worker)),
        };
        if tell.send(told).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
