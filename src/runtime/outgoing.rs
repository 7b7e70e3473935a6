//! Requests that guests send (`wasi:http/outgoing-handler`): each on a connection
//! of its own, which somebody else makes who knows where one may lead. TLS and HTTP
//! are spoken here, where the guest is. Who answers may be hostile, as the guest
//! may: heads are bounded, bodies go on as the guest reads them, and all of it ends
//! with the guest.

use crate::certificates;
use crate::network::ConnectError;
use hyper::body::{Body, Bytes, Frame, SizeHint};
use hyper::http::uri::Scheme;
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, ServerName};
use std::net::TcpStream;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep, timeout};
use tokio_rustls::TlsConnector;
use wasmtime_wasi::runtime::spawn;
use wasmtime_wasi_http::{Error, RequestOptions, Result, WasiBody, WasiHttpHooks};

/// Requests of one guest that are under way at the same time.
const OF_ONE: usize = 32;
/// Those of all guests.
const OF_ALL: usize = 256;
/// Bytes of an answer's head.
const HEAD: usize = 64 << 10;
/// Time for a connection, for the head of the answer and between two pieces of it,
/// where the guest sets none. It ends with the guest in any case.
const PATIENCE: Duration = Duration::from_secs(600);

/// Makes a connection to a host and port, if it may be reached.
pub type Connect = dyn Fn(String, u16) -> Connecting + Send + Sync;
/// See [`Connect`].
pub type Connecting =
    Pin<Box<dyn Future<Output = std::result::Result<TcpStream, ConnectError>> + Send>>;

/// How guests reach others, if they may.
#[derive(Clone)]
pub struct Outbound {
    connect: Arc<Connect>,
    tls: Arc<ClientConfig>,
    /// For requests of all guests.
    places: Arc<Semaphore>,
}

impl Outbound {
    /// Trusts these certificates, in the binary form.
    ///
    /// # Errors
    ///
    /// TLS can't be set up.
    pub fn new(connect: Arc<Connect>, roots: &[Vec<u8>]) -> anyhow::Result<Outbound> {
        let authorities = roots.iter().cloned().map(CertificateDer::from).collect();
        let tls = certificates::client_config(authorities, None)?;
        Ok(Outbound { connect, tls: Arc::new(tls), places: Arc::new(Semaphore::new(OF_ALL)) })
    }
}

/// What one guest may send, and what it was refused.
pub(super) struct GuestRequests {
    outbound: Option<Outbound>,
    places: Arc<Semaphore>,
    refused: Arc<Mutex<Option<String>>>,
}

impl GuestRequests {
    pub(super) fn new(outbound: Option<Outbound>) -> GuestRequests {
        let places = Arc::new(Semaphore::new(OF_ONE));
        GuestRequests { outbound, places, refused: Arc::default() }
    }

    /// What is told of the last request that was refused.
    pub(super) fn refusal(&self) -> Option<String> {
        // A text, which is set in one step.
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

type Sent = Result<(Response<WasiBody>, Box<dyn Future<Output = Result<(), Error>> + Send>)>;

impl WasiHttpHooks for GuestRequests {
    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        let refused = self.refused.clone();
        let authority = request.uri().authority().map(ToString::to_string).unwrap_or_default();
        let refuse = move |why: &str| {
            let text = format!("network: a request to {authority} was refused: {why}");
            *refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
        };
        let Some(outbound) = self.outbound.clone() else {
            refuse("no guest reaches any host unless --allow-hosts has it");
            return Box::new(std::future::ready(Err(Error::HttpRequestDenied)));
        };
        let Some(place) = Place::take(&self.places, &outbound.places) else {
            refuse(&format!("{OF_ONE} of this guest, or {OF_ALL} in all, are under way"));
            return Box::new(std::future::ready(Err(Error::ConnectionLimitReached)));
        };
        Box::new(async move {
            let sent = send(&outbound, request, options, place).await;
            sent.map_err(|error| match error {
                Unsent::Connection(error) => {
                    match error {
                        ConnectError::NotAllowed | ConnectError::Prohibited(_) => {
                            refuse(&format!("{error} (--allow-hosts)"));
                        }
                        _ => refuse(&error.to_string()),
                    }
                    match error {
                        ConnectError::NotAllowed => Error::HttpRequestDenied,
                        ConnectError::Prohibited(_) => Error::DestinationIpProhibited,
                        ConnectError::Name(why) => {
                            Error::DnsError { rcode: Some(why), info_code: None }
                        }
                        ConnectError::Refused(_) => Error::ConnectionRefused,
                        ConnectError::Timeout => Error::ConnectionTimeout,
                        ConnectError::Busy => Error::ConnectionLimitReached,
                    }
                }
                Unsent::Other(error) => error,
            })
        })
    }
}

/// A request that is under way, of its guest's and of all.
struct Place {
    _of_one: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

impl Place {
    fn take(one: &Arc<Semaphore>, all: &Arc<Semaphore>) -> Option<Place> {
        let _of_one = one.clone().try_acquire_owned().ok()?;
        let _of_all = all.clone().try_acquire_owned().ok()?;
        Some(Place { _of_one, _of_all })
    }
}

/// Why there is no answer.
enum Unsent {
    Connection(ConnectError),
    Other(Error),
}

impl<E: Into<Error>> From<E> for Unsent {
    fn from(error: E) -> Unsent {
        Unsent::Other(error.into())
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

async fn send(
    outbound: &Outbound,
    mut request: Request<WasiBody>,
    options: Option<RequestOptions>,
    place: Place,
) -> std::result::Result<
    (Response<WasiBody>, Box<dyn Future<Output = Result<(), Error>> + Send>),
    Unsent,
> {
    let connect = options.and_then(|o| o.connect_timeout).unwrap_or(PATIENCE);
    let first_byte = options.and_then(|o| o.first_byte_timeout).unwrap_or(PATIENCE);
    let between = options.and_then(|o| o.between_bytes_timeout).unwrap_or(PATIENCE);
    let uri = request.uri().clone();
    let tls = uri.scheme() == Some(&Scheme::HTTPS);
    // No name is longer.
    let host = uri.host().filter(|host| host.len() < 256).ok_or(Error::HttpRequestUriInvalid)?;
    let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
    let connecting = (outbound.connect)(host.to_owned(), port);
    // A guest that leaves it keeps its place until it has been made: it could have
    // any number of them made else.
    let connection = tokio::spawn(async move { (connecting.await, place) });
    let connection = timeout(connect, connection).await.map_err(|_| Error::ConnectionTimeout)?;
    let (stream, place) = connection.map_err(|_| Error::ConnectionTerminated)?;
    let stream = stream.map_err(Unsent::Connection)?;
    let stream = tokio::net::TcpStream::from_std(stream).map_err(Error::Connect)?;
    let stream: Box<dyn Stream> = if tls {
        let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let name = ServerName::try_from(inner.unwrap_or(host).to_owned());
        let name = name.map_err(|_| Error::HttpRequestUriInvalid)?;
        let shaken =
            timeout(connect, TlsConnector::from(outbound.tls.clone()).connect(name, stream));
        Box::new(shaken.await.map_err(|_| Error::ConnectionTimeout)?.map_err(Error::Tls)?)
    } else {
        Box::new(stream)
    };
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(HEAD)
        .handshake(TokioIo::new(stream))
        .await?;
    // It ends with the guest's handle of the answer.
    let connection = spawn(connection);
    // The host has been found; what it is asked for is a path.
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    *request.uri_mut() = path.parse::<Uri>().map_err(|_| Error::HttpRequestUriInvalid)?;
    let response = timeout(first_byte, sender.send_request(request)).await;
    let response = response.map_err(|_| Error::ConnectionReadTimeout)??;
    let response = response.map(|body| WasiBody::new(Timed { body, between, waits: None }));
    let driven = async move {
        let _place = place;
        // What went wrong is the body's error, too, which the guest sees.
        connection.await.ok();
        Ok(())
    };
    Ok((response, Box::new(driven)))
}

/// The body of an answer, whose pieces come in time.
struct Timed {
    body: hyper::body::Incoming,
    between: Duration,
    waits: Option<Pin<Box<Sleep>>>,
}

impl Body for Timed {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let Timed { body, between, waits } = &mut *self;
        match Pin::new(body).poll_frame(context) {
            Poll::Ready(frame) => {
                *waits = None;
                Poll::Ready(frame.map(|frame| frame.map_err(Error::from)))
            }
            Poll::Pending => {
                let waits = waits.get_or_insert_with(|| Box::pin(sleep(*between)));
                std::task::ready!(waits.as_mut().poll(context));
                Poll::Ready(Some(Err(Error::ConnectionReadTimeout)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
