//! The manager's API.

use super::tasks::{Desk, Reply};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE};
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::Arc;

/// Listens until the runtime ends.
pub async fn serve(listener: std::net::TcpListener, desk: Arc<Desk>) {
    listener.set_nonblocking(true).expect("a socket");
    let listener = tokio::net::TcpListener::from_std(listener).expect("a socket");
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let desk = desk.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| answer(request, &desk));
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service);
            // A client may go at any time.
            connection.await.ok();
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    desk: &Arc<Desk>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (status, body) = route(request, desk)
        .await
        .unwrap_or_else(|(status, error)| (status, json!({ "error": error })));
    let response = Response::builder().status(status).header(CONTENT_TYPE, "application/json");
    Ok(response.body(Full::from(body.to_string())).expect("a response"))
}

async fn route(request: Request<Incoming>, desk: &Arc<Desk>) -> Reply {
    let (head, body) = request.into_parts();
    desk.requested(format!("{} {}", head.method, head.uri));
    let header = |name| head.headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(token) = &desk.habits.token
        && header(AUTHORIZATION) != Some(&format!("Bearer {token}"))
    {
        return Err((401, "unauthorized".into()));
    }
    let body = body.collect().await.map_err(|e| (400, e.to_string()))?.to_bytes();
    let path: Vec<String> = head.uri.path().trim_matches('/').split('/').map(decoded).collect();
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    let query = head.uri.query().unwrap_or_default();
    match (&head.method, path.as_slice()) {
        (&Method::POST, ["tasks"]) => desk.create(&parse(&body)?),
        (&Method::GET, ["tasks", id]) => desk.task(uuid(id)?),
        (&Method::PUT, ["tasks", id]) => desk.update(uuid(id)?, &parse(&body)?),
        (&Method::PUT, ["tasks", id, "upload"]) => {
            let module = uploaded(header(CONTENT_TYPE).unwrap_or_default(), &body);
            let module = module.ok_or_else(malformed)?;
            desk.update(uuid(id)?, &json!({ "file": STANDARD.encode(module) }))
        }
        (&Method::POST, ["tasks", id, "start"]) => finish(desk, uuid(id)?, Deed::Start).await,
        (&Method::POST, ["tasks", id, "stop"]) => finish(desk, uuid(id)?, Deed::Stop).await,
        (&Method::POST, ["tasks", id, "invoke"]) => desk.invoke(uuid(id)?, &parse(&body)?).await,
        (&Method::POST, ["jobs"]) => desk.create_job(&parse(&body)?),
        (&Method::POST, ["jobs", id, "start"]) => desk.start_job(id).await,
        (&Method::GET, ["proplets"]) => workers(desk, query),
        (&Method::GET, ["proplets", id]) => {
            let id = uuid(id)?;
            let records = desk.records();
            let worker = records.workers.get(id).ok_or((404, "not found".to_owned()))?;
            Ok((200, worker.shown(id)))
        }
        (&Method::GET, ["proplets", id, "alive-history"]) => history(desk, id, query),
        (&Method::GET, ["health"]) => Ok((
            200,
            json!({
                "status": "pass", "version": "dev", "commit": "none",
                "description": "manager service", "build_time": "unknown", "instance_id": "mgr",
            }),
        )),
        _ => Err((404, "not found".into())),
    }
}

enum Deed {
    Start,
    Stop,
}

/// Does it to the end, also if the client has gone.
async fn finish(desk: &Arc<Desk>, id: &str, deed: Deed) -> Reply {
    let (desk, id) = (desk.clone(), id.to_owned());
    let done = tokio::spawn(async move {
        match deed {
            Deed::Start => desk.start(&id).await,
            Deed::Stop => desk.stop(&id).await,
        }
    });
    done.await.unwrap_or_else(|e| Err((500, e.to_string())))
}

fn workers(desk: &Desk, query: &str) -> Reply {
    let (offset, limit) = page(query);
    let records = desk.records();
    let page = records.workers.iter().skip(offset).take(limit);
    let shown: Vec<Value> = page.map(|(id, worker)| worker.shown(id)).collect();
    let total = records.workers.len();
    Ok((200, json!({ "offset": offset, "limit": limit, "total": total, "proplets": shown })))
}

fn history(desk: &Desk, id: &str, query: &str) -> Reply {
    let (offset, limit) = page(query);
    let records = desk.records();
    let history = &records.workers.get(id).ok_or((404, "not found".to_owned()))?.history;
    let shown: Vec<_> = history.iter().skip(offset).take(limit).collect();
    let total = history.len();
    Ok((200, json!({ "offset": offset, "limit": limit, "total": total, "history": shown })))
}

/// Offset and limit.
fn page(query: &str) -> (usize, usize) {
    let number = |name: &str| {
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|(key, _)| *key == name).and_then(|(_, value)| value.parse().ok())
    };
    (number("offset").unwrap_or(0), number("limit").unwrap_or(100))
}

/// Without the percent signs of a URL.
fn decoded(segment: &str) -> String {
    let mut parts = segment.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let code = part.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match code {
            Some(byte) => {
                bytes.push(byte);
                bytes.extend_from_slice(&part.as_bytes()[2..]);
            }
            None => bytes.extend_from_slice(format!("%{part}").as_bytes()),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn parse(body: &[u8]) -> Result<Value, (u16, String)> {
    serde_json::from_slice(body).map_err(|_| malformed())
}

fn uuid(id: &str) -> Result<&str, (u16, String)> {
    uuid::Uuid::parse_str(id).map(|_| id).map_err(|_| malformed())
}

fn malformed() -> (u16, String) {
    (400, "something went wrong with the request\ninvalid query parameters".into())
}

/// The part `file` of a form, whose name ends in `.wasm`.
fn uploaded<'a>(kind: &str, body: &'a [u8]) -> Option<&'a [u8]> {
    let boundary = kind.strip_prefix("multipart/form-data;")?.trim().strip_prefix("boundary=")?;
    let delimiter = format!("--{}", boundary.trim_matches('"')).into_bytes();
    let end = [b"\r\n", delimiter.as_slice()].concat();
    let mut rest = body.strip_prefix(delimiter.as_slice())?;
    loop {
        let part = rest.strip_prefix(b"\r\n")?;
        let (part, next) = split(part, &end)?;
        let (head, content) = split(part, b"\r\n\r\n")?;
        let head = std::str::from_utf8(head).ok()?;
        if head.contains(" name=\"file\"") && head.contains(".wasm\"") {
            return Some(content);
        }
        rest = next;
    }
}

/// What is before and after the first `by`.
fn split<'a>(bytes: &'a [u8], by: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let at = bytes.windows(by.len()).position(|window| window == by)?;
    Some((&bytes[..at], &bytes[at + by.len()..]))
}
