//! A private certificate authority, and a server with its certificate.

use std::cell::Cell;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use crate::Folder;
use crate::redis::{RedisServer, free_port};

/// A certificate authority.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
}

impl Ca {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        // A unique name distinguishes it from other authorities.
        let name = uuid::Uuid::new_v4().to_string();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Issues a certificate for these names; returns it and its key as PEM.
    pub fn certificate(
        &self,
        names: &[&str],
        change: impl Fn(&mut CertificateParams),
    ) -> (String, String) {
        let names: Vec<String> = names.iter().copied().map(ToOwned::to_owned).collect();
        let mut params = CertificateParams::new(names).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

/// The files that a server with TLS needs.
pub struct TlsFiles {
    pub ca: Ca,
    pub ca_file: String,
    certificate_file: String,
    key_file: String,
    _folder: Folder,
}

impl TlsFiles {
    /// Creates a certificate for these names, issued by a new authority.
    pub fn new(names: &[&str], change: impl Fn(&mut CertificateParams)) -> Self {
        let ca = Ca::new();
        let (certificate, key) = ca.certificate(names, change);
        let folder = Folder::new();
        Self {
            ca_file: folder.write("ca.pem", &ca.pem),
            certificate_file: folder.write("certificate.pem", &certificate),
            key_file: folder.write("key.pem", &key),
            ca,
            _folder: folder,
        }
    }

    /// The server arguments for TLS on this port.
    pub fn arguments(&self, tls_port: u16) -> Vec<String> {
        [
            ["--tls-port", &tls_port.to_string()],
            ["--tls-cert-file", &self.certificate_file],
            ["--tls-key-file", &self.key_file],
            ["--tls-ca-cert-file", &self.ca_file],
            ["--tls-auth-clients", "no"],
        ]
        .concat()
        .into_iter()
        .map(ToOwned::to_owned)
        .collect()
    }
}

/// A server with a TLS port and a plain one.
pub struct TlsServer {
    pub redis: RedisServer,
    pub tls_port: u16,
    pub files: TlsFiles,
}

impl TlsServer {
    /// Starts a server with a certificate for these names, issued by its own CA.
    pub async fn start(
        names: &[&str],
        change: impl Fn(&mut CertificateParams),
        arguments: &[&str],
    ) -> Self {
        let files = TlsFiles::new(names, change);
        let tls_port = Cell::new(0);
        let redis = RedisServer::start_with(|_| {
            tls_port.set(free_port());
            let more = arguments.iter().copied().map(ToOwned::to_owned);
            files.arguments(tls_port.get()).into_iter().chain(more).collect()
        })
        .await;
        Self { redis, tls_port: tls_port.get(), files }
    }

    pub async fn good() -> Self {
        Self::start(&["localhost"], |_| (), &[]).await
    }

    pub fn url(&self) -> String {
        format!("rediss://localhost:{}", self.tls_port)
    }

    pub fn ca_file(&self) -> &str {
        &self.files.ca_file
    }
}
