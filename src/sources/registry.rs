//! Images that are pulled from their registry, by the OCI distribution API.
//!
//! The crate `oci-client` speaks it, and checks what it gets against the digests
//! of name and manifest; what it may take of memory and time is held here. It reads
//! a manifest whole, so that one is bounded in time alone.

use super::failed;
use super::name;
use super::tunnel::Tunnel;
use crate::certificates::{self, PemFile};
use crate::digest::Digest;
use crate::disk::DiskCache;
use crate::network::{Connector, Hosts};
use oci_client::client::{Certificate, CertificateEncoding, ClientConfig, ClientProtocol};
use oci_client::errors::OciDistributionError;
use oci_client::manifest::{ImageIndexEntry, OciDescriptor, OciImageManifest, OciManifest};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference};
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::AsyncWrite;
use ureq::http::uri::Authority;

/// Time for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a pull looks whether somebody still wants the image.
const LOOK: Duration = Duration::from_millis(100);
/// How WebAssembly begins.
const WASM: &[u8] = b"\0asm";

/// How a registry knows this worker.
#[derive(Clone, PartialEq, Eq)]
pub enum RegistryLogin {
    /// Not at all.
    Anonymous,
    /// By a user and a password.
    User(String, String),
    /// By a token, as it is.
    Token(String),
}

impl fmt::Debug for RegistryLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RegistryLogin::Anonymous => "Anonymous",
            RegistryLogin::User(..) => "User(…)",
            RegistryLogin::Token(_) => "Token(…)",
        })
    }
}

/// The registry that this worker pulls from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryPlace {
    /// Host and, perhaps, port.
    pub host: String,
    /// Without TLS.
    pub plain: bool,
    /// What it asks for. No other registry is told.
    pub login: RegistryLogin,
    /// PEM file with the authorities to trust instead of the system's.
    pub ca: Option<PathBuf>,
}

impl RegistryPlace {
    /// Whoever names a registry for this worker has named its host.
    fn trusted_by(&self, hosts: &mut Hosts) {
        let Ok(authority) = self.host.parse::<Authority>() else { return };
        let default = if self.plain { 80 } else { 443 };
        hosts.trust(authority.host(), Some(authority.port_u16().unwrap_or(default)));
    }
}

/// Pulls images.
pub(super) struct Registry {
    place: Option<RegistryPlace>,
    /// How long a registry may be silent.
    patience: Duration,
    limit: u64,
    /// Manifests and code by their digests.
    kept: Option<Arc<DiskCache>>,
    /// What looks at addresses; none: nothing does.
    connector: Option<Arc<Connector>>,
}

impl Registry {
    pub(super) fn new(
        place: Option<RegistryPlace>,
        patience: Duration,
        limit: u64,
        kept: Option<Arc<DiskCache>>,
        hosts: Option<Hosts>,
    ) -> Registry {
        // For the client, which takes the process's.
        certificates::install_provider();
        let connector = hosts.map(|mut hosts| {
            if let Some(place) = &place {
                place.trusted_by(&mut hosts);
            }
            Arc::new(Connector::new(hosts))
        });
        Registry { place, patience, limit, kept, connector }
    }

    /// The code of an image. Waits for it, on a thread of its own.
    ///
    /// # Errors
    ///
    /// A sentence for the task's result.
    pub(super) fn get(&self, name: &str, wanted: impl Fn() -> bool) -> Result<Vec<u8>, String> {
        let host = self.place.as_ref().map(|place| place.host.as_str());
        let image = name::parse(name, host).map_err(|e| failed(name, &e))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| failed(name, &format!("no runtime for it: {e}")))?;
        let unwanted = async {
            while wanted() {
                tokio::time::sleep(LOOK).await;
            }
        };
        runtime.block_on(async {
            tokio::select! {
                pulled = self.pull_there(&image) => pulled.map_err(|e| failed(name, &e)),
                () = unwanted => Err(failed(name, "nobody waits for it any more")),
            }
        })
    }

    /// Pulls it from where it may come from.
    async fn pull_there(&self, image: &Reference) -> Result<Vec<u8>, String> {
        let Some(connector) = &self.connector else { return self.pull(image, None).await };
        // The operator's proxy finds its own way to a host.
        if ureq::Proxy::try_from_env().is_some() {
            return self.pull(image, None).await;
        }
        let tunnel = Tunnel::open(connector.clone()).await?;
        let pulled = self.pull(image, Some(tunnel.address())).await;
        pulled.map_err(|e| match tunnel.refusal() {
            Some(why) => format!("{why} (--image-hosts)"),
            None => e,
        })
    }

    async fn pull(&self, image: &Reference, tunnel: Option<String>) -> Result<Vec<u8>, String> {
        let place = self.place.as_ref().filter(|place| place.host == image.registry());
        let client = self.client(place, tunnel)?;
        let login = match place.map(|place| &place.login) {
            None | Some(RegistryLogin::Anonymous) => RegistryAuth::Anonymous,
            Some(RegistryLogin::User(user, password)) => {
                RegistryAuth::Basic(user.clone(), password.clone())
            }
            Some(RegistryLogin::Token(token)) => RegistryAuth::Bearer(token.clone()),
        };
        let manifest = self.manifest(&client, image, &login).await?;
        let layer = code(&manifest)?;
        let size = u64::try_from(layer.size).unwrap_or(u64::MAX);
        if size > self.limit {
            return Err(self.too_large(size));
        }
        if let Some(bytes) = self.kept(&layer.digest) {
            return Ok(bytes);
        }
        let mut bytes = Bounded { bytes: Vec::new(), limit: size };
        // Without its list of other places: those are anyone's.
        let pulled = client.pull_blob(image, layer.digest.as_str(), &mut bytes).await;
        pulled.map_err(|e| told(image, &e))?;
        let bytes = bytes.bytes;
        if bytes.len() as u64 != size {
            return Err(format!("it has {} bytes, and was to have {size}", bytes.len()));
        }
        if !bytes.starts_with(WASM) && !layer.media_type.contains("wasm") {
            return Err(format!(
                "its layer of {} is no WebAssembly, but perhaps a container's files: push the \
                 module or component itself, with `wkg oci push` or `oras push`",
                layer.media_type
            ));
        }
        self.keep(&layer.digest, &bytes);
        Ok(bytes)
    }

    /// What the name says which one it is has not changed since it was kept.
    async fn manifest(
        &self,
        client: &Client,
        image: &Reference,
        login: &RegistryAuth,
    ) -> Result<OciImageManifest, String> {
        if let Some(digest) = image.digest()
            && let Some(kept) = self.kept(digest)
            && let Ok(OciManifest::Image(manifest)) = serde_json::from_slice(&kept)
        {
            return Ok(manifest);
        }
        let pulled = tokio::time::timeout(self.patience, client.pull_image_manifest(image, login));
        let (manifest, digest) = pulled
            .await
            .map_err(|_| {
                format!(
                    "{} did not answer within {} (--image-timeout)",
                    image.resolve_registry(),
                    crate::task::humantime(self.patience)
                )
            })?
            .map_err(|e| told(image, &e))?;
        if let Ok(bytes) = serde_json::to_vec(&manifest) {
            self.keep(&digest, &bytes);
        }
        Ok(manifest)
    }

    fn client(
        &self,
        place: Option<&RegistryPlace>,
        tunnel: Option<String>,
    ) -> Result<Client, String> {
        let protocol = match place {
            Some(place) if place.plain => ClientProtocol::Http,
            _ => ClientProtocol::Https,
        };
        let config = ClientConfig {
            protocol,
            tls_certs_only: place.and_then(|place| place.ca.as_ref()).map_or(Ok(vec![]), roots)?,
            platform_resolver: Some(Box::new(for_wasm)),
            read_timeout: Some(self.patience),
            connect_timeout: Some(CONNECT_TIMEOUT.min(self.patience)),
            user_agent: concat!("proplet/", env!("CARGO_PKG_VERSION")),
            http_proxy: tunnel.clone(),
            https_proxy: tunnel,
            ..ClientConfig::default()
        };
        Client::try_from(config).map_err(|e| format!("the client can't be set up: {e}"))
    }

    fn too_large(&self, size: u64) -> String {
        format!("it has {size} bytes, over the limit of {} (--module-size)", self.limit)
    }

    fn kept(&self, digest: &str) -> Option<Vec<u8>> {
        self.kept.as_ref()?.get(&Digest::of(digest.as_bytes()))
    }

    fn keep(&self, digest: &str, bytes: &[u8]) {
        if let Some(kept) = &self.kept {
            let bytes = bytes.to_vec();
            kept.keep(Digest::of(digest.as_bytes()), move || Ok(bytes));
        }
    }
}

/// The layer with the code: what a tool for WebAssembly has marked so, else the
/// largest one, as Propeller's proxy takes it.
fn code(manifest: &OciImageManifest) -> Result<&OciDescriptor, String> {
    let marked = manifest.layers.iter().filter(|layer| layer.media_type.contains("wasm"));
    marked
        .max_by_key(|layer| layer.size)
        .or_else(|| manifest.layers.iter().max_by_key(|layer| layer.size))
        .ok_or_else(|| "its manifest lists no layer".to_owned())
}

/// The image for WebAssembly among those for several platforms, or the only one.
fn for_wasm(entries: &[ImageIndexEntry]) -> Option<String> {
    let is_wasm = |entry: &&ImageIndexEntry| {
        let platform = entry.platform.as_ref();
        platform.is_some_and(|platform| platform.architecture.to_string() == "wasm")
    };
    let found = entries.iter().find(is_wasm).or(match entries {
        [only] => Some(only),
        _ => None,
    });
    found.map(|entry| entry.digest.clone())
}

fn roots(ca: &PathBuf) -> Result<Vec<Certificate>, String> {
    let file = PemFile { path: ca, setting: "--registry-ca-cert" };
    let found = file.authorities().map_err(|e| format!("{e:#}"))?;
    let certificate =
        |der: &[u8]| Certificate { encoding: CertificateEncoding::Der, data: der.to_vec() };
    Ok(found.iter().map(|der| certificate(der)).collect())
}

/// What happened, and what to do about it.
fn told(image: &Reference, error: &OciDistributionError) -> String {
    use OciDistributionError as Error;
    let registry = image.resolve_registry();
    match error {
        Error::UnauthorizedError { .. } | Error::AuthenticationFailure(_) => format!(
            "{registry} refuses access: {error}; it is told --registry-user with \
             --registry-password, or --registry-token, where it is the one of --registry"
        ),
        // Of the client for HTTP: what is below says more.
        Error::RequestError(e) => {
            let mut text = format!("no answer from {registry}: {e}");
            let mut source = std::error::Error::source(e);
            while let Some(e) = source {
                text.push_str(&format!(": {e}"));
                source = e.source();
            }
            text
        }
        Error::IoError(e) => format!("from {registry}: {e}"),
        e => format!("{registry} answers: {e}"),
    }
}

/// Bytes, no more than were promised.
struct Bounded {
    bytes: Vec<u8>,
    limit: u64,
}

impl AsyncWrite for Bounded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if (self.bytes.len() + bytes.len()) as u64 > self.limit {
            let promised = self.limit;
            let error = format!("its layer has more than the {promised} bytes of its manifest");
            return Poll::Ready(Err(io::Error::other(error)));
        }
        self.bytes.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
