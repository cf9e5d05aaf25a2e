//! TLS to an HTTP server: whom a device believes about the server's name or address.

use std::fmt;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, pem};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// The authorities that a device believes. Clones are the same ones: a fleet has them once.
#[derive(Clone)]
pub struct Authorities(Arc<ClientConfig>);

/// Why nobody can be believed.
#[derive(Debug, thiserror::Error)]
pub enum AuthoritiesError {
    #[error("they are not certificates in PEM")]
    Pem(#[source] pem::Error),
    #[error("there is no certificate in it")]
    Empty,
    #[error("a certificate cannot be used")]
    Unusable(#[from] rustls::Error),
}

impl Authorities {
    /// From certificates in PEM, one after another.
    ///
    /// # Errors
    /// [`AuthoritiesError`]: there are none, or one that cannot be used.
    pub fn from_pem(pem: &[u8]) -> Result<Self, AuthoritiesError> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            roots.add(certificate.map_err(AuthoritiesError::Pem)?)?;
        }
        if roots.is_empty() {
            return Err(AuthoritiesError::Empty);
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self(Arc::new(config)))
    }

    /// Goes on over TLS with a server that is who it should be.
    pub(super) async fn connect(
        &self,
        stream: TcpStream,
        server: ServerName<'static>,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        TlsConnector::from(Arc::clone(&self.0)).connect(server, stream).await
    }
}

impl fmt::Debug for Authorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authorities").finish_non_exhaustive()
    }
}

impl PartialEq for Authorities {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}
