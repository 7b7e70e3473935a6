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

mod ask;
mod health;

pub(crate) use ask::ask;
pub(crate) use health::{Health, State};

use crate::metrics::{self, Metrics};
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tracing::{debug, info, warn};

/// Connections at a time; a scraper and a few probes need no more.
const CONNECTIONS: usize = 32;
/// Time for a request to come.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

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
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // Never closed, so there will be a place.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let status = status.clone();
                tokio::spawn(async move {
                    connection(stream, status).await;
                    drop(place);
                });
            }
            Err(e) => {
                // Out of file descriptors, most likely: it passes.
                debug!("a connection to the status port was not taken: {e}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, status: Arc<Status>) {
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let answer = answer(request.method(), request.uri().path(), &status);
        std::future::ready(Ok::<_, Infallible>(answer))
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(e) = served {
        debug!("a connection to the status port ended: {e}");
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
            State::Serving => report(StatusCode::OK, status, "ready", None),
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
    use crate::metrics::CacheLevels;
    use crate::nn::Nn;

    fn status() -> Status {
        let metrics = Metrics::new(Nn::fake().inference_times(), CacheLevels::default);
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
}
