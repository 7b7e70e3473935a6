//! The worker's answers over HTTP: `/health`, `/ready`, `/metrics`.
//!
//! ```text
//! GET /health   200 while the process lives and its loop turns, else 503
//! GET /ready    200 while it is connected, subscribed and takes tasks, else 503
//! GET /metrics  OpenMetrics
//! ```
//!
//! It only looks: nothing can be changed through it, and nothing that it shows
//! is a secret. The worker goes on without it where it can't have its port.
//!
//! Whoever connects is hostile: a connection serves one request and lasts a
//! bounded time, and where all places are taken the oldest one makes room. So
//! a probe is answered whatever other clients do.

mod ask;
mod health;
pub(crate) mod service;
mod state;

pub(crate) use ask::ask;
pub(crate) use health::{Health, State};

use crate::metrics::{self, Metrics};
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::json;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;
use tracing::{debug, info, warn};

/// Connections at a time; a scraper and a few probes need no more.
const CONNECTIONS: usize = 32;
/// Time for a connection in all: for its request to come and for its answer to
/// be read.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);

/// What the answers are made of.
pub(crate) struct Status {
    /// The worker, by its client id.
    pub(crate) proplet_id: String,
    pub(crate) health: Health,
    pub(crate) metrics: Metrics,
}

/// Serves until it is dropped.
pub(crate) struct Server(AbortHandle);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Starts to answer at `address`. Where that can't be had, the log says so.
pub(crate) async fn serve(address: SocketAddr, status: Arc<Status>) -> Option<Server> {
    let listener = match TcpListener::bind(address).await {
        Ok(listener) => listener,
        Err(e) => {
            warn!(
                "/health, /ready and /metrics are not served: {address} can't be listened on \
                 ({e}); choose another --metrics-port or --metrics-bind, or set \
                 PROPLET_METRICS_ENABLED=false"
            );
            return None;
        }
    };
    let address = listener.local_addr().unwrap_or(address);
    info!(%address, "serving /health, /ready and /metrics");
    Some(Server(tokio::spawn(accept(listener, status)).abort_handle()))
}

async fn accept(listener: TcpListener, status: Arc<Status>) {
    let mut open: VecDeque<AbortHandle> = VecDeque::with_capacity(CONNECTIONS);
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                open.retain(|connection| !connection.is_finished());
                // The oldest has had the most time, and an honest client needs
                // next to none.
                if open.len() == CONNECTIONS
                    && let Some(oldest) = open.pop_front()
                {
                    oldest.abort();
                }
                let connection = connection(stream, status.clone(), CONNECTION_TIMEOUT);
                open.push_back(tokio::spawn(connection).abort_handle());
            }
            Err(e) => {
                // Out of file descriptors, most likely: it passes.
                debug!("a connection to the status port was not taken: {e}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    status: Arc<Status>,
    timeout: Duration,
) {
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let answer = answer(request.method(), request.uri().path(), &status);
        std::future::ready(Ok::<_, Infallible>(answer))
    });
    let served = http1::Builder::new()
        // Nobody asks often enough to mind another connection.
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    // hyper limits the time for headers, but not that for an answer to be read.
    match tokio::time::timeout(timeout, served).await {
        Ok(Ok(())) => {}
        Ok(Err(e)) => debug!("a connection to the status port ended: {e}"),
        Err(_) => debug!("a connection to the status port lasted longer than {timeout:?}"),
    }
}

fn answer(method: &Method, path: &str, status: &Status) -> Response<Full<Bytes>> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered here\n");
    }
    match path {
        "/health" => match status.health.stuck() {
            None => report(StatusCode::OK, status, "ok", None),
            Some(idle) => {
                let why = format!("the worker's loop has not turned for {} s", idle.as_secs());
                report(StatusCode::SERVICE_UNAVAILABLE, status, "stuck", Some(&why))
            }
        },
        "/ready" => match status.health.state() {
            State::Serving if let Some(why) = status.health.unavailable() => {
                report(StatusCode::SERVICE_UNAVAILABLE, status, "unavailable", Some(&why))
            }
            State::Serving => {
                report(StatusCode::OK, status, "ready", status.health.note().as_deref())
            }
            State::Connecting => report(
                StatusCode::SERVICE_UNAVAILABLE,
                status,
                "connecting",
                Some("there is no connection to the broker; the log says why"),
            ),
            State::Draining => report(
                StatusCode::SERVICE_UNAVAILABLE,
                status,
                "draining",
                Some("the worker is shutting down and takes no new tasks"),
            ),
        },
        "/metrics" => match status.metrics.encode() {
            Ok(body) => respond(StatusCode::OK, metrics::CONTENT_TYPE, body),
            Err(e) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{e}\n")),
        },
        _ => text(StatusCode::NOT_FOUND, "there are /health, /ready and /metrics\n"),
    }
}

fn report(
    code: StatusCode,
    status: &Status,
    word: &str,
    why: Option<&str>,
) -> Response<Full<Bytes>> {
    let mut body = json!({ "status": word, "proplet_id": status.proplet_id });
    if let Some(why) = why {
        body["reason"] = why.into();
    }
    respond(code, "application/json", format!("{body}\n"))
}

fn text(code: StatusCode, body: &str) -> Response<Full<Bytes>> {
    respond(code, "text/plain; charset=utf-8", body.to_owned())
}

fn respond(code: StatusCode, media: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::RuntimeLevels;
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpStream;

    fn status() -> Status {
        let metrics = Metrics::new(RuntimeLevels::default);
        Status { proplet_id: "w".into(), health: Health::default(), metrics }
    }

    fn code(path: &str, status: &Status) -> u16 {
        answer(&Method::GET, path, status).status().as_u16()
    }

    #[test]
    fn ready_is_connected_and_not_draining() {
        let status = status();
        assert_eq!((code("/health", &status), code("/ready", &status)), (200, 503));
        status.health.set(State::Serving);
        assert_eq!(code("/ready", &status), 200);
        status.health.set(State::Draining);
        status.health.set(State::Serving);
        assert_eq!((code("/health", &status), code("/ready", &status)), (200, 503));
    }

    #[tokio::test]
    async fn a_worker_that_serves_is_ready_whatever_else_is_wrong() {
        use http_body_util::BodyExt as _;
        let status = status();
        status.health.set(State::Serving);
        status.health.set_note(Some("the manager is deaf".into()));
        let ready = answer(&Method::GET, "/ready", &status);
        assert_eq!(ready.status(), 200);
        let body = ready.into_body().collect().await.expect("a body").to_bytes();
        let body: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!(
            (&body["status"], &body["reason"]),
            (&json!("ready"), &json!("the manager is deaf"))
        );
    }

    #[test]
    fn what_is_not_there_says_what_is() {
        assert_eq!(code("/", &status()), 404);
        assert_eq!(answer(&Method::POST, "/ready", &status()).status(), 405);
        assert_eq!(code("/metrics", &status()), 200);
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_no_reason_to_stop() {
        let taken = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = taken.local_addr().expect("its address");
        assert!(serve(address, Arc::new(status())).await.is_none());
    }

    /// `asked` is what the client writes before it stands still. Its end of a
    /// pipe of 64 bytes is kept open and never read.
    async fn ends_by_itself(asked: &[u8]) {
        let (mut client, server) = tokio::io::duplex(64);
        let timeout = Duration::from_millis(50);
        let served = tokio::spawn(connection(server, Arc::new(status()), timeout));
        client.write_all(asked).await.expect("a server that reads");
        // As long as a test waits for anything.
        tokio::time::timeout(Duration::from_secs(90), served)
            .await
            .unwrap_or_else(|_| panic!("{} keeps its connection", asked.escape_ascii()))
            .expect("no panic");
    }

    #[tokio::test]
    async fn a_client_that_never_reads_or_never_asks_loses_its_connection() {
        ends_by_itself(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n").await;
        ends_by_itself(b"GET /metrics HTTP/1.1\r\nHost: a\r\n").await;
        ends_by_itself(b"").await;
    }

    /// ARCHITECTURE.md, case 72.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn health_is_answered_while_other_clients_hold_every_place() {
        let here = "127.0.0.1:0".parse().expect("an address");
        let listener = TcpListener::bind::<SocketAddr>(here).await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let _server = Server(tokio::spawn(accept(listener, Arc::new(status()))).abort_handle());
        // They say nothing, half a request, or more than they ever read.
        let never_read = b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n".repeat(1000);
        let mut clients = Vec::new();
        for asked in [&b""[..], b"GET /metrics HTTP/1.1\r\nHo", &never_read] {
            for _ in 0..2 * CONNECTIONS {
                let mut client = TcpStream::connect(address).await.expect("a connection");
                // The server may have made room for another one already.
                client.write_all(asked).await.ok();
                clients.push(client);
            }
            let answer = tokio::task::spawn_blocking(move || ask(address, "health"));
            let answer = answer.await.expect("no panic").expect("an answer");
            assert_eq!(answer.status, "ok");
        }
    }
}
