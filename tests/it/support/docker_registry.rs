//! Docker's registry, started for a test.

use super::Certified;
use super::PATIENCE;
use oci_client::client::{
    Certificate, CertificateEncoding, ClientConfig, ClientProtocol, Config, ImageLayer,
};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What a registry asks of who pulls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Anyone,
    /// The user `me` with the password `secret`.
    User,
    /// Whoever shows something.
    Token,
}

/// `me` and `secret`, with bcrypt.
const USER: &str = "me:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";

/// See the module's documentation. Dropping it ends the registry.
pub struct DockerRegistry {
    child: Child,
    address: SocketAddr,
    access: Access,
    tls: bool,
    folder: tempfile::TempDir,
}

impl DockerRegistry {
    pub fn start(access: Access, tls: bool) -> DockerRegistry {
        // The client for HTTP takes the process's; the worker does the same.
        rustls::crypto::ring::default_provider().install_default().ok();
        let folder = tempfile::tempdir().expect("a folder");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("an address");
        drop(listener);
        let file = |name: &str| folder.path().join(name).display().to_string();
        let auth = match access {
            Access::Anyone => String::new(),
            Access::User => {
                std::fs::write(file("users"), USER).expect("written");
                format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", file("users"))
            }
            Access::Token => "auth:\n  silly:\n    realm: test\n    service: test\n".to_owned(),
        };
        let certificate = if tls {
            certify(&folder);
            format!(
                "  tls:\n    certificate: {}\n    key: {}\n",
                file("server.pem"),
                file("server.key")
            )
        } else {
            String::new()
        };
        let config = format!(
            "version: 0.1\nlog:\n  level: warn\nstorage:\n  filesystem:\n    rootdirectory: {}\n\
             http:\n  addr: {address}\n{certificate}{auth}",
            file("data")
        );
        std::fs::write(file("config.yml"), config).expect("written");
        let log = std::fs::File::create(file("log")).expect("a file");
        let started = Command::new("docker-registry")
            .args(["serve", &file("config.yml")])
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        let child = started.unwrap_or_else(|e| {
            panic!("docker-registry does not start ({e}): install Debian's package docker-registry, or run .ci/run")
        });
        let mut registry = DockerRegistry { child, address, access, tls, folder };
        let end = Instant::now() + PATIENCE;
        while TcpStream::connect(address).is_err() {
            let ended = registry.child.try_wait().expect("a child");
            assert!(
                ended.is_none() && Instant::now() < end,
                "it does not listen: {}",
                std::fs::read_to_string(registry.file("log")).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        registry
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The authority of its certificate.
    pub fn ca(&self) -> String {
        self.file("ca.pem").display().to_string()
    }

    /// What the setting `registry` says of it.
    pub fn place(&self) -> String {
        match self.tls {
            true => self.address.to_string(),
            false => format!("http://{}", self.address),
        }
    }

    /// The name of an image in it.
    pub fn name(&self, image: &str) -> String {
        format!("{}/{image}", self.address)
    }

    /// Pushes an image of these layers, each with its media type; gives the digest
    /// of its manifest.
    pub fn push(&self, image: &str, layers: &[(&str, &[u8])]) -> String {
        let certificates = if self.tls {
            let data = std::fs::read(self.file("ca.pem")).expect("a file");
            vec![Certificate { encoding: CertificateEncoding::Pem, data }]
        } else {
            vec![]
        };
        let client = Client::try_from(ClientConfig {
            protocol: if self.tls { ClientProtocol::Https } else { ClientProtocol::Http },
            tls_certs_only: certificates,
            ..ClientConfig::default()
        })
        .expect("a client");
        let auth = match self.access {
            Access::Anyone => RegistryAuth::Anonymous,
            Access::User => RegistryAuth::Basic("me".into(), "secret".into()),
            Access::Token => RegistryAuth::Bearer("token".into()),
        };
        let reference: Reference = self.name(image).parse().expect("a name");
        let layers: Vec<_> = layers
            .iter()
            .map(|(kind, bytes)| ImageLayer::new(bytes.to_vec(), (*kind).to_owned(), None))
            .collect();
        let config = Config::new(
            br#"{"architecture":"wasm","os":"wasip1"}"#.to_vec(),
            "application/vnd.wasm.config.v0+json".into(),
            None,
        );
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a Tokio runtime");
        runtime.block_on(async {
            client.push(&reference, &layers, config, &auth, None).await.expect("pushed");
            client.fetch_manifest_digest(&reference, &auth).await.expect("it is there")
        })
    }

    /// Ends it.
    pub fn end(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        self.end();
    }
}

/// An authority, and a certificate of it for this address.
fn certify(folder: &tempfile::TempDir) {
    let write = |name: &str, pem: String| {
        std::fs::write(folder.path().join(name), pem).expect("written");
    };
    let certified = Certified::new(&["127.0.0.1"]);
    write("ca.pem", certified.authority.clone());
    write("server.pem", certified.certificate.pem());
    write("server.key", certified.key.serialize_pem());
}
