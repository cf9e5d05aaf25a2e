//! Where content comes from: one file for each kind of source.
//!
//! A [`Source`] is whole, secrets included: whoever makes one has read them just now. Its texts name the place without them.

pub(super) mod file;
mod http;
mod oci;
mod s3;

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use reqwest::{Client, Url};
use tokio::sync::OnceCell;
use tokio::task::spawn_blocking;

use super::SourceError;
use http::Web;
use s3::Object;

/// A place that content is fetched from.
#[derive(Clone, PartialEq, Eq)]
pub enum Source {
    /// A regular file, named relative to the folder that is mounted for this.
    File { path: String },
    /// A file on a web server.
    Http(HttpSource),
    /// A file of an artifact in an OCI registry.
    Oci(OciSource),
    /// An object of S3, or of what speaks as S3 does.
    S3(S3Source),
}

/// A file on a web server.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct HttpSource {
    /// `http` or `https`.
    pub url: String,
    /// Sent over https only.
    pub auth: Auth,
    /// Certificates in PEM that are trusted in place of the system's.
    pub ca: Option<String>,
}

/// A file of an artifact in an OCI registry.
#[derive(Clone, PartialEq, Eq)]
pub struct OciSource {
    /// The name of the registry's server, with its port where that is not the usual one.
    pub registry: String,
    pub repository: String,
    /// `sha256:…`, of the manifest.
    pub digest: String,
    /// The title of the layer; `None`: the only one.
    pub file: Option<String>,
    pub auth: Auth,
    /// As [`HttpSource::ca`].
    pub ca: Option<String>,
    /// Over plain HTTP, and then without credentials.
    pub insecure: bool,
}

/// An object of S3, or of what speaks as S3 does.
#[derive(Clone, PartialEq, Eq)]
pub struct S3Source {
    pub bucket: String,
    pub key: String,
    pub region: String,
    /// `None`: AWS.
    pub endpoint: Option<String>,
    /// `None`: asked for as anybody may.
    pub keys: Option<S3Keys>,
    /// As [`HttpSource::ca`].
    pub ca: Option<String>,
}

/// What requests to S3 are signed with.
#[derive(Clone, PartialEq, Eq)]
pub struct S3Keys {
    pub id: String,
    pub secret: String,
    /// Of credentials that are temporary.
    pub token: Option<String>,
}

/// As whom a server is asked.
#[derive(Clone, PartialEq, Eq, Default)]
pub enum Auth {
    #[default]
    Nobody,
    Basic {
        user: String,
        password: String,
    },
    Bearer(String),
}

impl Source {
    /// Whether both name the same file, whatever they are asked as.
    pub(super) fn is_same_place(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::File { path }, Self::File { path: other }) => path == other,
            (Self::Http(source), Self::Http(other)) => source.url == other.url,
            (Self::Oci(source), Self::Oci(other)) => {
                (&source.registry, &source.repository, &source.digest, &source.file)
                    == (&other.registry, &other.repository, &other.digest, &other.file)
            }
            (Self::S3(source), Self::S3(other)) => {
                (&source.endpoint, &source.region, &source.bucket, &source.key)
                    == (&other.endpoint, &other.region, &other.bucket, &other.key)
            }
            (Self::File { .. } | Self::Http(_) | Self::Oci(_) | Self::S3(_), _) => false,
        }
    }
}

impl Source {
    /// The place alone, as nobody.
    pub(super) fn without_secrets(self) -> Self {
        match self {
            Self::File { path } => Self::File { path },
            Self::Http(source) => Self::Http(HttpSource { auth: Auth::Nobody, ..source }),
            Self::Oci(source) => Self::Oci(OciSource { auth: Auth::Nobody, ..source }),
            Self::S3(source) => Self::S3(S3Source { keys: None, ..source }),
        }
    }
}

/// Names the place without what may be secret in it: user, password and query of a URL.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path } => write!(f, "file {path}"),
            Self::Http(HttpSource { url, .. }) => match Url::parse(url) {
                Ok(url) => {
                    write!(f, "{}://{}", url.scheme(), url.host_str().unwrap_or_default())?;
                    if let Some(port) = url.port() {
                        write!(f, ":{port}")?;
                    }
                    f.write_str(url.path())
                }
                Err(_) => f.write_str("the URL"),
            },
            Self::Oci(OciSource { registry, repository, digest, .. }) => write!(f, "{registry}/{repository}@{digest}"),
            Self::S3(S3Source { bucket, key, .. }) => write!(f, "s3://{bucket}/{key}"),
        }
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Source({self})")
    }
}

/// What all sources over a network are asked with.
#[derive(Debug)]
pub(super) struct Network {
    /// A source that sends nothing for so long has stalled.
    pub(super) stall: Duration,
    /// The largest file, in bytes.
    pub(super) limit: u64,
    /// For all who trust what the system trusts.
    client: OnceCell<Client>,
}

/// A source over a network, ready to be asked.
pub(super) enum Remote {
    Web(Web),
    Object(Object),
}

/// What a source answers.
pub(super) struct Opened {
    /// Where the bytes begin: what was asked for, or 0 where the source begins anew.
    pub(super) offset: u64,
    /// The size of the whole file, where the source says so.
    pub(super) total: Option<u64>,
    /// What the source calls this state of the file. Without it nothing can be resumed.
    pub(super) version: Option<String>,
    pub(super) body: BoxStream<'static, Result<Bytes, SourceError>>,
}

impl Network {
    pub(super) fn new(stall: Duration, limit: u64) -> Self {
        Self { stall, limit, client: OnceCell::new() }
    }

    /// The client that trusts these certificates, or the system's.
    async fn client(&self, ca: Option<&str>, origin: &str) -> Result<Client, SourceError> {
        let invalid = |detail| SourceError::InvalidSource { origin: origin.to_owned(), detail };
        let stall = self.stall;
        // Building one blocks: it reads the certificates that the system trusts.
        let build = async |ca: Option<String>| {
            let built = spawn_blocking(move || http::client(stall, ca.as_deref()));
            built.await.map_err(|error| invalid(error.to_string()))?.map_err(|error| invalid(error.to_string()))
        };
        match ca {
            Some(ca) => build(Some(ca.to_owned())).await,
            None => self.client.get_or_try_init(|| build(None)).await.cloned(),
        }
    }

    /// Gets a source ready to be asked for content of this hash. `None`: it is a file of this machine.
    pub(super) async fn remote(&self, source: &Source, expected: &[u8; 32]) -> Result<Option<Remote>, SourceError> {
        let origin = source.to_string();
        Ok(match source {
            Source::File { .. } => None,
            Source::Http(web) => Some(Remote::Web(Web::new(self, web, &origin).await?)),
            Source::Oci(oci) => Some(Remote::Web(oci::layer(self, oci, expected, &origin).await?)),
            Source::S3(s3) => Some(Remote::Object(Object::new(self, s3, &origin).await?)),
        })
    }
}

impl Remote {
    /// Asks for the bytes from `offset` on, as long as the file is still in this state; else for all of it.
    pub(super) async fn open(&self, offset: u64, version: Option<&str>) -> Result<Opened, SourceError> {
        match self {
            Self::Web(web) => web.open(offset, version).await,
            Self::Object(object) => object.open(offset, version).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_named_without_its_secrets() {
        let named = |url: &str| {
            let auth = Auth::Basic { user: "u5er".into(), password: "pa55".into() };
            let source = Source::Http(HttpSource { url: url.into(), auth, ca: None });
            (source.to_string(), format!("{source:?}"))
        };
        let plain = "https://images.example:8443/s5700.bin";
        for url in ["https://user:pa55@images.example:8443/s5700.bin?token=t0k#x", plain] {
            assert_eq!(named(url), (plain.to_owned(), format!("Source({plain})")));
        }
        assert_eq!(named("pa55").0, "the URL");
    }
}
