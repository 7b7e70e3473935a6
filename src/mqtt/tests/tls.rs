//! TLS with certificates that are made for each test.

use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
};
use rumqttc::tokio_rustls::TlsAcceptor;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

use super::*;

/// An authority, a server at 127.0.0.1 and a client, as PEM files.
struct Pki(tempfile::TempDir);

impl Pki {
    fn new() -> Pki {
        let pki = Pki(tempfile::tempdir().expect("a directory"));
        let mut authority = CertificateParams::new(vec![]).expect("parameters");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        pki.write("ca.pem", authority.self_signed(&key).expect("a certificate").pem());
        let authority = Issuer::new(authority, key);
        for (name, usage) in [
            ("server", ExtendedKeyUsagePurpose::ServerAuth),
            ("client", ExtendedKeyUsagePurpose::ClientAuth),
        ] {
            let address = vec!["127.0.0.1".to_owned()];
            let mut params = CertificateParams::new(address).expect("parameters");
            params.extended_key_usages.push(usage);
            params.distinguished_name.push(DnType::CommonName, name);
            let key = KeyPair::generate().expect("a key");
            let certificate = params.signed_by(&key, &authority).expect("signed");
            pki.write(&format!("{name}.pem"), certificate.pem());
            pki.write(&format!("{name}.key"), key.serialize_pem());
        }
        pki
    }

    fn write(&self, name: &str, pem: String) {
        std::fs::write(self.file(name), pem).expect("written");
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn trusting(&self, ca: &str, identity: bool) -> Tls {
        let identity = identity.then(|| (self.file("client.pem"), self.file("client.key")));
        Tls { ca: Some(self.file(ca)), identity }
    }
}

/// A broker behind TLS that asks for a client certificate, and greets
/// whoever shows one.
async fn broker(pki: &Pki) -> (SocketAddr, tokio::task::JoinHandle<()>) {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let certificate = |name| CertificateDer::from_pem_file(pki.file(name)).expect("a certificate");
    let mut roots = RootCertStore::empty();
    roots.add(certificate("ca.pem")).expect("an authority");
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let key = PrivateKeyDer::from_pem_file(pki.file("server.key")).expect("a key");
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_client_cert_verifier(verifier.build().expect("a verifier"))
        .with_single_cert(vec![certificate("server.pem")], key)
        .expect("the key of the certificate");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let serve = async move {
        loop {
            let (stream, _) = listener.accept().await.expect("accepted");
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut answer = BytesMut::new();
            let connack = Packet::ConnAck(ConnAck::new(ConnectReturnCode::Success, false));
            connack.write(&mut answer, LARGEST_PACKET).expect("a valid packet");
            stream.write_all(&answer).await.expect("writable");
            stream.flush().await.expect("writable");
            // Open until the client goes.
            while stream.read_buf(&mut BytesMut::with_capacity(1024)).await.is_ok_and(|n| n > 0) {}
        }
    };
    (address, tokio::spawn(serve))
}

#[tokio::test]
async fn a_broker_that_asks_for_a_certificate_gets_it() {
    let pki = Pki::new();
    let (address, _broker) = broker(&pki).await;
    connected(Options { tls: Some(pki.trusting("ca.pem", true)), ..options(address, "tls") }).await;
}

#[tokio::test]
async fn a_missing_or_an_unknown_certificate_is_a_tls_failure() {
    let pki = Pki::new();
    let (address, _broker) = broker(&pki).await;
    for (tls, words) in [
        (pki.trusting("ca.pem", false), "certificate"),
        (pki.trusting("client.pem", true), "UnknownIssuer"),
    ] {
        let options = Options { tls: Some(tls), ..options(address, "tls") };
        let (_link, mut events) = connect(options).expect("the options are right");
        let failure = failure(&mut events).await;
        assert_eq!(failure.kind, FailureKind::Tls, "{failure}");
        assert!(failure.to_string().contains(words), "{failure}");
    }
}

#[tokio::test]
async fn a_port_without_tls_is_a_tls_failure() {
    let pki = Pki::new();
    let (fake, address) = Fake::start().await;
    let encrypted = Options { tls: Some(pki.trusting("ca.pem", false)), ..options(address, "tls") };
    let (_link, mut events) = connect(encrypted).expect("the options are right");
    let (mut stream, _) = fake.listener.accept().await.expect("accepted");
    stream.write_all(b"\x20\x02\x00\x00 and no handshake").await.expect("writable");
    let failure = failure(&mut events).await;
    assert_eq!(failure.kind, FailureKind::Tls, "{failure}");
    assert!(failure.to_string().contains("PROPLET_MQTT_TLS_CA_CERT"), "{failure}");
}

#[tokio::test]
async fn files_that_can_not_work_are_errors_before_any_connection() {
    let pki = Pki::new();
    let address = SocketAddr::from(([127, 0, 0, 1], 1));
    let error = |ca: &str, key: &str| {
        let identity = Some((pki.file("client.pem"), pki.file(key)));
        let tls = Some(Tls { ca: Some(pki.file(ca)), identity });
        let error = connect(Options { tls, ..options(address, "tls") }).expect_err("refused");
        format!("{error:#}")
    };
    assert!(
        error("none.pem", "client.key").contains("none.pem (--mqtt-tls-ca-cert) can't be read")
    );
    assert!(
        error("client.key", "client.key")
            .contains("client.key (--mqtt-tls-ca-cert) holds no PEM certificate")
    );
    assert!(
        error("ca.pem", "client.pem").contains("client.pem (--mqtt-tls-client-key) can't be read")
    );
    assert!(error("ca.pem", "server.key").contains("can't be used together"));
}
