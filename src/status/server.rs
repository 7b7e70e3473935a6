//! The HTTP server of the status. The worker goes on without it where it can't have
//! its port.
//!
//! Whoever connects is hostile: a connection serves one request and lasts a
//! bounded time, and where all places are taken the oldest one makes room. So
//! a probe is answered whatever other clients do.

use super::{Status, WorkerState, prometheus, stuck};
use crate::metrics;
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderValue};
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

/// Serves until it is dropped.
pub(crate) struct StatusServer(AbortHandle);

impl Drop for StatusServer {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Starts to answer at `address`. Where that can't be had, the log says so.
pub(crate) async fn serve(address: SocketAddr, status: Arc<Status>) -> Option<StatusServer> {
    let listener = match TcpListener::bind(address).await {
        Ok(listener) => listener,
        Err(e) => {
            warn!(
                "/health, /ready, /status and /metrics are not served: {address} can't be listened on \
                 ({e}); choose another --metrics-port or --metrics-bind, or set \
                 PROPLET_METRICS_ENABLED=false"
            );
            return None;
        }
    };
    let address = listener.local_addr().unwrap_or(address);
    info!(%address, "serving /health, /ready, /status and /metrics");
    Some(StatusServer(tokio::spawn(accept(listener, status)).abort_handle()))
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
        let status = status.clone();
        async move { Ok::<_, Infallible>(answer(&request, &status).await) }
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

async fn answer<B>(request: &Request<B>, status: &Arc<Status>) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered here\n");
    }
    match request.uri().path() {
        "/health" => match status.health.stuck() {
            None => word_and_reasons(StatusCode::OK, status, "ok", vec![]),
            Some(idle) => word_and_reasons(
                StatusCode::SERVICE_UNAVAILABLE,
                status,
                "stuck",
                vec![stuck(idle)],
            ),
        },
        "/ready" => {
            let missing = status.missing();
            let word = match status.health.state() {
                WorkerState::Serving if missing.is_empty() => {
                    let note = status.health.note().into_iter().collect();
                    return word_and_reasons(StatusCode::OK, status, "ready", note);
                }
                WorkerState::Serving => "unavailable",
                WorkerState::Connecting => "connecting",
                WorkerState::Draining => "draining",
            };
            word_and_reasons(StatusCode::SERVICE_UNAVAILABLE, status, word, missing)
        }
        "/status" => match serde_json::to_string(&status.report().await) {
            Ok(body) => respond(StatusCode::OK, "application/json", body + "\n"),
            Err(e) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{e}\n")),
        },
        "/metrics" => match status.metrics.encode() {
            Ok(body) if wants_open_metrics(request.headers()) => {
                respond(StatusCode::OK, metrics::CONTENT_TYPE, body)
            }
            Ok(body) => respond(StatusCode::OK, prometheus::CONTENT_TYPE, prometheus::text(&body)),
            Err(e) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{e}\n")),
        },
        _ => text(StatusCode::NOT_FOUND, "there are /health, /ready, /status and /metrics\n"),
    }
}

/// Whether the client takes OpenMetrics; others get the older text.
fn wants_open_metrics(headers: &HeaderMap) -> bool {
    let accept = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accept.into_iter().any(|value| value.contains("application/openmetrics-text"))
}

fn word_and_reasons(
    code: StatusCode,
    status: &Status,
    word: &str,
    why: Vec<String>,
) -> Response<Full<Bytes>> {
    let mut body = json!({ "status": word, "proplet_id": status.proplet_id });
    if !why.is_empty() {
        body["reason"] = why.join("; ").into();
        if code != StatusCode::OK {
            body["missing"] = why.into();
        }
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
    use crate::metrics::{Metrics, RuntimeLevels};
    use crate::status::{Health, Sources, ask, report};
    use std::sync::RwLock;
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpStream;

    fn status() -> Status {
        let metrics = Metrics::new(RuntimeLevels::default);
        let sources = Sources {
            fixed: RwLock::new(report::Report {
                broker: "mqtt://b:1883".into(),
                ..report::Report::default()
            }),
            // A loop that is gone.
            work: tokio::sync::mpsc::unbounded_channel().0,
            runtime: Box::new(Default::default),
            journal: Box::new(|| None),
        };
        Status { proplet_id: "w".into(), health: Health::default(), metrics, sources }
    }

    async fn asked(
        method: Method,
        path: &str,
        accept: &str,
        status: &Arc<Status>,
    ) -> (u16, String, String) {
        use http_body_util::BodyExt as _;
        let request = Request::builder().method(method).uri(path).header(ACCEPT, accept);
        let answer = answer(&request.body(()).expect("a request"), status).await;
        let code = answer.status().as_u16();
        let media = answer.headers()[CONTENT_TYPE].to_str().expect("text").to_owned();
        let body = answer.into_body().collect().await.expect("a body").to_bytes();
        (code, media, String::from_utf8(body.to_vec()).expect("text"))
    }

    async fn code(path: &str, status: &Arc<Status>) -> u16 {
        asked(Method::GET, path, "*/*", status).await.0
    }

    #[tokio::test]
    async fn ready_is_connected_and_not_draining_and_says_what_is_missing() {
        let status = Arc::new(status());
        assert_eq!((code("/health", &status).await, code("/ready", &status).await), (200, 503));
        status.health.set_failure(Some("10.0.0.1:1883 refused the key".into()));
        let (_, _, body) = asked(Method::GET, "/ready", "*/*", &status).await;
        let body: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(body["status"], "connecting");
        let missing = "there is no connection to the broker: 10.0.0.1:1883 refused the key";
        assert_eq!(body["missing"], json!([missing]));
        status.health.set(WorkerState::Serving);
        assert_eq!(code("/ready", &status).await, 200);
        status.health.set_unavailable(Some("all executors are stuck".into()));
        let (_, _, body) = asked(Method::GET, "/ready", "*/*", &status).await;
        assert!(body.contains("\"unavailable\"") && body.contains("are stuck"), "{body}");
        status.health.set(WorkerState::Draining);
        status.health.set(WorkerState::Serving);
        assert_eq!((code("/health", &status).await, code("/ready", &status).await), (200, 503));
    }

    #[tokio::test]
    async fn a_worker_that_serves_is_ready_whatever_else_is_wrong() {
        let status = Arc::new(status());
        status.health.set(WorkerState::Serving);
        status.health.set_note(Some("the manager is deaf".into()));
        let (code, _, body) = asked(Method::GET, "/ready", "*/*", &status).await;
        assert_eq!(code, 200);
        let body: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(
            (&body["status"], &body["reason"]),
            (&json!("ready"), &json!("the manager is deaf"))
        );
    }

    #[tokio::test]
    async fn what_is_not_there_says_what_is() {
        let status = Arc::new(status());
        assert_eq!(code("/", &status).await, 404);
        assert_eq!(asked(Method::POST, "/ready", "*/*", &status).await.0, 405);
        assert_eq!(code("/metrics", &status).await, 200);
    }

    #[tokio::test]
    async fn who_asks_for_open_metrics_gets_it_and_others_the_older_text() {
        let status = Arc::new(status());
        let open = "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;q=0.4";
        let (_, media, body) = asked(Method::GET, "/metrics", open, &status).await;
        assert_eq!(media, metrics::CONTENT_TYPE);
        assert!(body.ends_with("# EOF\n"), "{body}");
        let (_, media, body) = asked(Method::GET, "/metrics", "*/*", &status).await;
        assert!(media.starts_with("text/plain") && !body.contains("# EOF"), "{media}");
    }

    /// Whatever the loop does: whoever looks because of that gets an answer.
    #[tokio::test]
    async fn the_status_is_told_without_the_loop_too() {
        let status = Arc::new(status());
        let (code, media, body) = asked(Method::GET, "/status", "*/*", &status).await;
        assert_eq!((code, media.as_str()), (200, "application/json"));
        let report: report::Report = serde_json::from_str(&body).expect("the schema");
        assert_eq!((report.schema, report.state.as_str()), (report::SCHEMA, "connecting"));
        assert_eq!((report.proplet_id.as_str(), report.broker.as_str()), ("w", "mqtt://b:1883"));
        assert_eq!((report.ready, report.work), (false, None));
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
        let _server =
            StatusServer(tokio::spawn(accept(listener, Arc::new(status()))).abort_handle());
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
