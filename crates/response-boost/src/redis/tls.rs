//! TLS settings: which roots to trust, and which certificate to present.

use std::fmt;
use std::io;
use std::sync::{Arc, OnceLock};

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

/// The bytes are not a PEM file of certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("certificates in PEM form")]
pub struct InvalidCa;

/// The client certificate or the key is malformed, or they do not match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a certificate in PEM form, and its private key in PEM form")]
pub struct InvalidClientCertificate;

#[derive(Default)]
pub(super) struct Tls {
    /// `None`: the public roots that are compiled in. The system's roots would be read again for each connection.
    own_ca: Option<Arc<RootCertStore>>,
    client: Option<ClientCertificate>,
    /// Created once, so that a new connection can resume the previous TLS session.
    config: OnceLock<Arc<ClientConfig>>,
}

struct ClientCertificate {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Clone for ClientCertificate {
    fn clone(&self) -> Self {
        Self { chain: self.chain.clone(), key: self.key.clone_key() }
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("has_own_ca", &self.own_ca.is_some())
            .field("has_client_certificate", &self.client.is_some())
            .finish_non_exhaustive()
    }
}

impl Tls {
    pub(super) fn with_own_ca(&self, pem: &[u8]) -> Result<Self, InvalidCa> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(pem).ok_or(InvalidCa)? {
            roots.add(certificate).map_err(|_| InvalidCa)?;
        }
        Ok(Self { own_ca: Some(Arc::new(roots)), client: self.client.clone(), ..Self::default() })
    }

    pub(super) fn with_client_certificate(
        &self,
        certificate: &[u8],
        key: &[u8],
    ) -> Result<Self, InvalidClientCertificate> {
        let chain = certificates(certificate).ok_or(InvalidClientCertificate)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| InvalidClientCertificate)?;
        let tls = Self {
            own_ca: self.own_ca.clone(),
            client: Some(ClientCertificate { chain, key }),
            config: OnceLock::new(),
        };
        // Everything else is valid by construction, so an error means that certificate and key do not match.
        tls.new_config().map_err(|_| InvalidClientCertificate)?;
        Ok(tls)
    }

    /// The configuration that all connections share.
    pub(super) fn config(&self) -> Result<Arc<ClientConfig>, rustls::Error> {
        if let Some(config) = self.config.get() {
            return Ok(Arc::clone(config));
        }
        let config = Arc::new(self.new_config()?);
        Ok(Arc::clone(self.config.get_or_init(|| config)))
    }

    fn new_config(&self) -> Result<ClientConfig, rustls::Error> {
        let roots = self
            .own_ca
            .clone()
            .unwrap_or_else(|| Arc::new(webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect()));
        // Names the provider explicitly: a program that links a second one has no default.
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        match self.client.clone() {
            Some(ClientCertificate { chain, key }) => config.with_client_auth_cert(chain, key),
            None => Ok(config.with_no_client_auth()),
        }
    }
}

/// One or more certificates; `None`: the bytes are not a PEM file of certificates.
fn certificates(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let certificates = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>().ok()?;
    Some(certificates).filter(|certificates| !certificates.is_empty())
}

/// Wraps a plain stream in TLS. The certificate must be for the host in the address.
pub(super) async fn handshake<S>(
    tls: &Tls,
    host: &str,
    stream: S,
) -> io::Result<tokio_rustls::client::TlsStream<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let config = tls.config().map_err(io::Error::other)?;
    TlsConnector::from(config).connect(name, stream).await
}
