//! A request and its answer: what both sides, the client's connection and the
//! guest's thread, know of it.

use super::Server;
use crate::cancel::{Cancel, Reason, TaskChange};
use crate::escape::escaped;
use crate::task::Failure;
use hyper::body::{Body, Bytes, Frame, SizeHint};
use hyper::{Method, Request, StatusCode};
use std::error::Error;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;

/// Bytes of a path that the log shows.
const SHOWN: usize = 200;

/// See the module's documentation.
pub(super) struct Exchange {
    /// By which the guest is ended.
    pub(super) cancel: Arc<Cancel>,
    /// Its number in the server's list.
    pub(super) number: u64,
    server: Arc<Server>,
    began: Instant,
    method: Method,
    path: String,
    /// What the guest has written of its answer is not all of it.
    cut: AtomicBool,
    /// The client went away.
    left: AtomicBool,
    sent: AtomicU64,
    /// Of the answer, once there is one. Counted when that has ended.
    status: Mutex<Option<StatusCode>>,
    /// What the client has all of, until the guest has ended: it is not to see a
    /// stream that was closed.
    read: Mutex<Option<HyperOutgoingBody>>,
}

impl Exchange {
    pub(super) fn new<B>(server: &Arc<Server>, request: &Request<B>) -> Arc<Exchange> {
        let whole = server.cancel.clone();
        // So that a crash of the process can be told with what was at work.
        let cancel = Arc::new(Cancel::shown(move |change| match change {
            TaskChange::Doing(doing) => whole.set_doing(doing.clone()),
            TaskChange::Memory(_) => {}
        }));
        let number = server.list(&cancel);
        let path = request.uri().path();
        Arc::new(Exchange {
            cancel,
            number,
            server: server.clone(),
            began: Instant::now(),
            method: request.method().clone(),
            path: escaped(&path[..path.len().min(SHOWN)]),
            cut: AtomicBool::new(false),
            left: AtomicBool::new(false),
            sent: AtomicU64::new(0),
            status: Mutex::default(),
            read: Mutex::default(),
        })
    }

    /// While it lives the guest runs: what ends before is not whole.
    pub(super) fn guest_runs(&self) -> GuestRuns<'_> {
        GuestRuns(self)
    }

    /// The guest has ended. Gives the status for a client that it left without
    /// an answer.
    pub(super) fn guest_ended(&self, ended: Result<(), Failure>) -> StatusCode {
        self.server.delist(self.number);
        let left = self.left.load(Ordering::Relaxed);
        match ended {
            Ok(()) => StatusCode::INTERNAL_SERVER_ERROR,
            Err(Failure::Stopped | Failure::ShuttingDown) => StatusCode::SERVICE_UNAVAILABLE,
            Err(failure) => {
                if !left {
                    self.complain(&failure.to_string());
                }
                match failure {
                    Failure::Timeout(_) => StatusCode::GATEWAY_TIMEOUT,
                    _ => StatusCode::INTERNAL_SERVER_ERROR,
                }
            }
        }
    }

    /// Has the log say what became of the request.
    pub(super) fn complain(&self, why: &str) {
        let Exchange { method, path, .. } = self;
        let line = format!("{method} {path}: {}\n", why.replace('\n', ";"));
        match &self.server.faults {
            Some(log) => log.write(line.as_bytes()),
            None => eprint!("proplet: {line}"),
        }
    }

    /// The client is answered so.
    pub(super) fn answered(&self, status: StatusCode) {
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = Some(status);
    }

    /// The answer is with the client as far as it gets there. Once.
    fn over(&self) {
        // One value, set in one step.
        let status = self.status.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(status) = status else { return };
        let (took, sent) = (self.began.elapsed(), self.sent.load(Ordering::Relaxed));
        self.server.served.over(status, took);
        if self.server.serving.access_log {
            let Exchange { method, path, .. } = self;
            let task = self.server.spec.id();
            tracing::info!(%task, %method, path, status = status.as_u16(), bytes = sent, ?took, "request");
        }
    }

    /// Nobody waits for the rest of the answer.
    pub(super) fn client_left(&self) {
        self.left.store(true, Ordering::Relaxed);
        self.cancel.cancel(Reason::Stopped);
    }

    /// The client has all of the answer. Its guest may go on.
    fn has_all(&self, body: HyperOutgoingBody) {
        // One value, set in one step.
        *self.read.lock().unwrap_or_else(PoisonError::into_inner) = Some(body);
    }

    /// Whether an answer of this status has a body.
    pub(super) fn has_body(&self, status: StatusCode) -> bool {
        self.method != Method::HEAD
            && !status.is_informational()
            && !matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
    }
}

/// See [`Exchange::guest_runs`].
pub(super) struct GuestRuns<'a>(&'a Exchange);

impl GuestRuns<'_> {
    /// It has ended well.
    pub(super) fn well(self) {
        std::mem::forget(self);
    }
}

impl Drop for GuestRuns<'_> {
    fn drop(&mut self) {
        self.0.cut.store(true, Ordering::Release);
    }
}

/// The body of an answer.
pub(super) struct Answered {
    body: Option<HyperOutgoingBody>,
    text: Option<Bytes>,
    /// Nobody reads it.
    unread: bool,
    /// How many bytes the head says that there are.
    length: Option<u64>,
    exchange: Arc<Exchange>,
}

impl Answered {
    /// A guest's, of so many bytes if its head says so.
    pub(super) fn guests(
        body: HyperOutgoingBody,
        exchange: Arc<Exchange>,
        read: bool,
        length: Option<u64>,
    ) -> Answered {
        Answered { body: Some(body), text: None, unread: !read, length, exchange }
    }

    /// Our own.
    pub(super) fn text(text: &'static str, exchange: Arc<Exchange>) -> Answered {
        let text = Some(Bytes::from_static(text.as_bytes()));
        Answered { body: None, text, unread: false, length: None, exchange }
    }
}

impl Body for Answered {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let Some(body) = &mut self.body else {
            return Poll::Ready(self.text.take().map(|text| Ok(Frame::data(text))));
        };
        let frame = std::task::ready!(Pin::new(body).poll_frame(context));
        Poll::Ready(match frame {
            Some(Ok(frame)) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                self.exchange.sent.fetch_add(bytes as u64, Ordering::Relaxed);
                Some(Ok(frame))
            }
            Some(Err(error)) => {
                self.body = None;
                Some(Err(format!("{error}").into()))
            }
            None => {
                self.body = None;
                let cut = self.exchange.cut.load(Ordering::Acquire);
                // So that the client does not take a part for the whole.
                cut.then(|| Err("the guest did not end its answer".into()))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        match &self.body {
            Some(body) => body.is_end_stream(),
            None => self.text.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.body, &self.text) {
            (Some(body), _) => body.size_hint(),
            (None, Some(text)) => SizeHint::with_exact(text.len() as u64),
            (None, None) => SizeHint::with_exact(0),
        }
    }
}

impl Drop for Answered {
    fn drop(&mut self) {
        if let Some(body) = self.body.take().filter(|body| !body.is_end_stream()) {
            let sent = self.exchange.sent.load(Ordering::Relaxed);
            if self.length.is_some_and(|length| sent >= length) {
                // hyper asks for no end where it knows the length.
                self.exchange.has_all(body);
            } else if !self.unread {
                self.exchange.client_left();
            }
        }
        self.exchange.over();
    }
}
