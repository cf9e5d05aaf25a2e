//! Certificate and key of a file server, from two files in PEM that somebody renews: read again when they change, so that
//! nothing has to be restarted. What cannot be used is said in the log, and what was served before stays.
//!
//! TLS 1.2 and 1.3, by rustls with ring; who a client is, its path says, and no certificate of its.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// How often the files are looked at. A certificate is renewed days before it ends.
const LOOK: Duration = Duration::from_secs(10);

/// The most of a file that is taken for a certificate or a key: a chain of many has 20 KiB.
const MAX_FILE: usize = 1024 * 1024;

/// Where certificate and key are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's certificate, and after it those between it and its root. PEM.
    pub certificate: PathBuf,
    /// Its private key. PEM.
    pub key: PathBuf,
}

/// Why certificate and key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{} cannot be read", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{} is no certificate in PEM", path.display())]
    Certificate { path: PathBuf, source: pem::Error },
    #[error("{} has no certificate in it", path.display())]
    Empty { path: PathBuf },
    #[error("{} is no private key in PEM", path.display())]
    Key { path: PathBuf, source: pem::Error },
    #[error("certificate and key cannot be used")]
    Unusable(#[from] rustls::Error),
}

/// What the files held.
#[derive(Clone, PartialEq, Eq)]
struct Held {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

/// Keeps up with the files.
pub(super) struct Keeper {
    files: TlsFiles,
    /// Whether it could be used or not.
    seen: Option<Held>,
    current: watch::Sender<Arc<ServerConfig>>,
}

/// Accepts with the newest certificate.
#[derive(Clone)]
pub(super) struct Acceptor(watch::Receiver<Arc<ServerConfig>>);

impl Acceptor {
    pub(super) fn now(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.0.borrow()))
    }
}

impl Keeper {
    /// Reads the files. Blocks.
    pub(super) fn load(files: TlsFiles) -> Result<Self, TlsError> {
        let held = read(&files)?;
        let current = watch::Sender::new(config(&files, &held)?);
        Ok(Self { files, seen: Some(held), current })
    }

    pub(super) fn acceptor(&self) -> Acceptor {
        Acceptor(self.current.subscribe())
    }

    /// Looks at the files until it is told to stop.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let looking = async {
            loop {
                tokio::time::sleep(LOOK).await;
                self.look().await;
            }
        };
        stop.run_until_cancelled(looking).await;
    }

    async fn look(&mut self) {
        let files = self.files.clone();
        let held = match tokio::task::spawn_blocking(move || read(&files)).await {
            Ok(Ok(held)) => Some(held),
            Ok(Err(error)) => {
                if self.seen.is_some() {
                    tracing::warn!(error = %fettle_runtime::chain(&error), "certificate not renewed");
                }
                None
            }
            Err(_stopping) => return,
        };
        if held == self.seen {
            return;
        }
        if let Some(held) = &held {
            match config(&self.files, held) {
                Ok(config) => {
                    tracing::info!(certificate = %self.files.certificate.display(), "certificate renewed");
                    self.current.send_replace(config);
                }
                // Somebody may have written one of the two and not yet the other.
                Err(error) => tracing::warn!(error = %fettle_runtime::chain(&error), "certificate not renewed"),
            }
        }
        self.seen = held;
    }
}

fn read(files: &TlsFiles) -> Result<Held, TlsError> {
    let read = |path: &PathBuf| {
        let unreadable = |source| TlsError::Unreadable { path: path.clone(), source };
        let file = std::fs::File::open(path).map_err(unreadable)?;
        let mut content = Vec::new();
        io::Read::read_to_end(&mut io::Read::take(file, MAX_FILE as u64), &mut content).map_err(unreadable)?;
        Ok::<_, TlsError>(content)
    };
    Ok(Held { certificate: read(&files.certificate)?, key: read(&files.key)? })
}

fn config(files: &TlsFiles, held: &Held) -> Result<Arc<ServerConfig>, TlsError> {
    let path = || files.certificate.clone();
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&held.certificate)
        .collect::<Result<_, _>>()
        .map_err(|source| TlsError::Certificate { path: path(), source })?;
    if chain.is_empty() {
        return Err(TlsError::Empty { path: path() });
    }
    let key =
        PrivateKeyDer::from_pem_slice(&held.key).map_err(|source| TlsError::Key { path: files.key.clone(), source })?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    fn files(dir: &TempDir) -> TlsFiles {
        TlsFiles { certificate: dir.path().join("tls.crt"), key: dir.path().join("tls.key") }
    }

    fn issue(files: &TlsFiles) {
        let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(&files.key, issued.signing_key.serialize_pem()).unwrap();
        std::fs::write(&files.certificate, issued.cert.pem()).unwrap();
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let files = files(&dir);
        let error = |files: &TlsFiles| Keeper::load(files.clone()).err().unwrap();
        assert!(matches!(error(&files), TlsError::Unreadable { path, .. } if path == files.certificate));
        issue(&files);
        let (certificate, key) = (std::fs::read(&files.certificate).unwrap(), std::fs::read(&files.key).unwrap());
        std::fs::write(&files.certificate, "nothing").unwrap();
        assert!(matches!(error(&files), TlsError::Empty { path } if path == files.certificate));
        std::fs::write(&files.certificate, &certificate).unwrap();
        std::fs::write(&files.key, &certificate).unwrap();
        assert!(matches!(error(&files), TlsError::Key { path, .. } if path == files.key));
        std::fs::write(&files.key, key).unwrap();
        assert!(Keeper::load(files.clone()).is_ok());
        let other = tempfile::tempdir().unwrap();
        let others = TlsFiles { certificate: other.path().join("tls.crt"), key: other.path().join("tls.key") };
        issue(&others);
        let mixed = TlsFiles { certificate: files.certificate, key: others.key };
        assert!(matches!(error(&mixed), TlsError::Unusable(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewed_certificate_is_served_and_one_that_cannot_be_used_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let files = files(&dir);
        issue(&files);
        let keeper = Keeper::load(files.clone()).unwrap();
        let Acceptor(mut current) = keeper.acceptor();
        let stop = CancellationToken::new();
        let running = tokio::spawn(keeper.run(stop.clone()));
        std::fs::write(&files.certificate, "half of it").unwrap();
        let unchanged = tokio::time::timeout(LOOK * 3, current.changed()).await;
        assert!(unchanged.is_err(), "what cannot be used is served");
        issue(&files);
        tokio::time::timeout(LOOK * 3, current.changed()).await.expect("it is not renewed").unwrap();
        stop.cancel();
        running.await.unwrap();
    }
}
