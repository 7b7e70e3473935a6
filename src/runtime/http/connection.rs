//! A client's connection: its requests, one after the other, and what is
//! answered where the guest does not.

use super::Server;
use super::client::ClientStream;
use super::exchange::{Answered, Exchange};
use super::request;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderValue, RETRY_AFTER};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{oneshot, watch};
use tracing::debug;
use wasmtime_wasi_http::Error;

/// Bytes of a request's line and headers together.
const HEAD: usize = 64 << 10;
/// For how long a connection may say nothing before a request, or not end the
/// head of one; and for each 64 KiB of an answer.
const SLOW: Duration = Duration::from_secs(30);
/// How long a guest may take to end that is over its time, before its client
/// hears of it.
const GRACE: Duration = Duration::from_secs(2);

/// Serves a connection to its end, which is near once `closed` says so.
pub(super) async fn serve(
    server: Arc<Server>,
    stream: TcpStream,
    mut closed: watch::Receiver<bool>,
) {
    // An answer must not wait for more of it to come.
    stream.set_nodelay(true).ok();
    let service = service_fn(move |request| {
        let server = server.clone();
        async move { Ok::<_, Infallible>(answer(&server, request).await) }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(SLOW)
            .max_buf_size(HEAD)
            .serve_connection(TokioIo::new(ClientStream::new(stream, SLOW)), service)
    );
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = said(&mut closed) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(e) = ended {
        debug!("a connection ended: {e}");
    }
}

/// Ready once it is so.
async fn said(so: &mut watch::Receiver<bool>) {
    so.wait_for(|so| *so).await.ok();
}

/// Ends the guest of a client that does not wait for its answer.
struct Waits<'a>(Option<&'a Exchange>);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        if let Some(exchange) = self.0 {
            exchange.client_left();
        }
    }
}

async fn answer(server: &Arc<Server>, request: Request<Incoming>) -> Response<Answered> {
    let exchange = Exchange::new(server, &request);
    let instead = |status: StatusCode| instead(status, exchange.clone());
    let refuse = |status| {
        server.delist(exchange.number);
        instead(status)
    };
    if request.uri().authority().is_none() && !request.headers().contains_key(HOST) {
        return refuse(StatusCode::BAD_REQUEST);
    }
    let limit = server.serving.body;
    if request.body().size_hint().lower() > limit {
        return refuse(StatusCode::PAYLOAD_TOO_LARGE);
    }
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let request = request.map(|body| {
        let body = Limited::new(body, limit);
        body.map_err(|e| match e.downcast::<hyper::Error>() {
            Ok(e) => Error::Hyper(*e),
            Err(_) => Error::HttpRequestBodySize(None),
        })
        .boxed_unsync()
    });
    let ((reply, replied), (over, ended)) = (oneshot::channel(), oneshot::channel());
    let job = {
        let (server, exchange) = (server.clone(), exchange.clone());
        move || {
            let status = request::run(&server, &exchange, request, reply);
            // Who has an answer does not listen.
            over.send(status).ok();
        }
    };
    if server.crew.submit(Box::new(job)).is_err() {
        return refuse(StatusCode::SERVICE_UNAVAILABLE);
    }
    let mut waits = Waits(Some(&exchange));
    let late = server.serving.timeout.saturating_add(GRACE);
    let replied = tokio::time::timeout(late, replied).await;
    let answer = match replied {
        Ok(Ok(Ok(response))) => {
            let status = response.status();
            exchange.answered(status);
            let read = exchange.has_body(status);
            let length = response.headers().get(CONTENT_LENGTH);
            let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
            response.map(|body| Answered::guests(body, exchange.clone(), read, length))
        }
        Ok(Ok(Err(code))) => {
            exchange.complain(&format!("the guest answered with an error: {code:?}"));
            instead(StatusCode::INTERNAL_SERVER_ERROR)
        }
        Ok(Err(_)) => match tokio::time::timeout(GRACE, ended).await {
            Ok(Ok(status)) => instead(status),
            _ => instead(StatusCode::INTERNAL_SERVER_ERROR),
        },
        Err(_) => instead(StatusCode::GATEWAY_TIMEOUT),
    };
    waits.0 = None;
    answer
}

/// An answer of our own.
fn instead(status: StatusCode, exchange: Arc<Exchange>) -> Response<Answered> {
    let text = match status {
        StatusCode::BAD_REQUEST => "the request names no host\n",
        StatusCode::PAYLOAD_TOO_LARGE => "the body is larger than is taken here\n",
        StatusCode::SERVICE_UNAVAILABLE => "busy: try again soon\n",
        StatusCode::GATEWAY_TIMEOUT => "the guest took too long\n",
        _ => "the guest failed\n",
    };
    exchange.answered(status);
    let mut response = Response::new(Answered::text(text, exchange));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}
