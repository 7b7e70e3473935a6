//! A certificate for a server of a test, and the authority that vouches for it.

use rcgen::{BasicConstraints, Certificate, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use std::sync::Arc;

/// See the module's documentation.
pub struct Certified {
    /// The authority's own certificate, as PEM.
    pub authority: String,
    pub certificate: Certificate,
    pub key: KeyPair,
}

impl Certified {
    /// For a server of these names and addresses.
    pub fn new(names: &[&str]) -> Certified {
        let mut params = CertificateParams::new(vec![]).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let authority = params.self_signed(&key).expect("signed").pem();
        let issuer = Issuer::new(params, key);
        let key = KeyPair::generate().expect("a key");
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let params = CertificateParams::new(names).expect("parameters");
        let certificate = params.signed_by(&key, &issuer).expect("signed");
        Certified { authority, certificate, key }
    }

    /// How a server here shows it.
    pub fn server(&self) -> Arc<rustls::ServerConfig> {
        let key = PrivateKeyDer::try_from(self.key.serialize_der()).expect("a key");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let versions = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions();
        let config = versions.expect("versions").with_no_client_auth();
        let config = config.with_single_cert(vec![self.certificate.der().clone()], key);
        Arc::new(config.expect("the key of the certificate"))
    }
}
