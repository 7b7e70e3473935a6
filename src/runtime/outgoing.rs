//! Requests that guests send: none, so far.

use hyper::{Request, Response};
use wasmtime_wasi_http::{Error, RequestOptions, Result, WasiBody, WasiHttpHooks};

/// What a guest may send, and what it was refused.
#[derive(Default)]
pub(super) struct Outgoing {
    refused: Option<String>,
}

impl Outgoing {
    /// What is told of a request that was refused.
    pub(super) fn refusal(&self) -> Option<String> {
        self.refused.clone()
    }
}

type Sent = Result<(Response<WasiBody>, Box<dyn Future<Output = Result<(), Error>> + Send>)>;

impl WasiHttpHooks for Outgoing {
    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        _: Option<RequestOptions>,
        _: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        let authority = request.uri().authority().map(ToString::to_string).unwrap_or_default();
        self.refused = Some(format!("network: a request to {authority} was refused"));
        Box::new(std::future::ready(Err(Error::HttpRequestDenied)))
    }
}
