//! Files on web servers: asked for from where an earlier answer broke off, as one who has credentials, and never followed
//! to where credentials or bytes would be in the open.

use std::error::Error;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use reqwest::header::{ACCEPT_ENCODING, CONTENT_RANGE, ETAG, HeaderMap, IF_MATCH, IF_RANGE, LAST_MODIFIED, RANGE};
use reqwest::{Certificate, Client, RequestBuilder, Response, StatusCode, Url, redirect};

use super::super::SourceError;
use super::{Auth, HttpSource, Network, Opened};

/// Redirects that are followed: enough for a release page that points at a store that points at a mirror.
pub(in crate::files::store) const MAX_REDIRECTS: usize = 5;

/// The largest answer that is looked at for why something is refused.
const MAX_REFUSAL: usize = 8 << 10;

/// A web server, ready to be asked for one file.
#[derive(Clone)]
pub(in crate::files::store) struct Web {
    client: Client,
    url: Url,
    auth: Auth,
    manners: Manners,
    origin: String,
    limit: u64,
    stall: Duration,
}

/// In what servers differ that are asked for a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Manners {
    /// Any web server: `If-Range` says which state of a file is to go on.
    Web,
    /// `If-Match` says it, and a refusal has a code.
    S3,
    /// What this names never changes.
    Registry(String),
}

/// Why a redirect is not followed.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("it redirects more than {MAX_REDIRECTS} times")]
    TooMany,
    #[error("it redirects from https to http")]
    InTheOpen,
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    #[error("the Secret of caSecret holds no certificates in PEM")]
    Certificates,
    #[error("the HTTP client cannot be made: {0}")]
    Build(reqwest::Error),
}

/// A client that trusts these certificates, or those of the system. Blocks.
pub(super) fn client(stall: Duration, ca: Option<&str>) -> Result<Client, ClientError> {
    // main installs the provider first thing; tests of this crate alone have no main.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = Client::builder()
        .user_agent(concat!("fettle-bridge/", env!("CARGO_PKG_VERSION")))
        // Where a redirect leads to another host, the client itself leaves the credentials out.
        .redirect(redirect::Policy::custom(follow))
        .referer(false)
        .connect_timeout(stall)
        // A source is asked once in a long while: no connection is kept for the next time.
        .pool_max_idle_per_host(0);
    let builder = match ca {
        Some(ca) => {
            let certificates = Certificate::from_pem_bundle(ca.as_bytes()).unwrap_or_default();
            if certificates.is_empty() {
                return Err(ClientError::Certificates);
            }
            builder.tls_certs_only(certificates)
        }
        None => builder,
    };
    builder.build().map_err(ClientError::Build)
}

fn follow(attempt: redirect::Attempt<'_>) -> redirect::Action {
    if attempt.previous().len() > MAX_REDIRECTS {
        return attempt.error(Refused::TooMany);
    }
    if attempt.url().scheme() != "https" && attempt.previous().iter().any(|url| url.scheme() == "https") {
        return attempt.error(Refused::InTheOpen);
    }
    attempt.follow()
}

impl Web {
    pub(super) async fn new(network: &Network, source: &HttpSource, origin: &str) -> Result<Self, SourceError> {
        let invalid =
            |detail: &str| SourceError::InvalidSource { origin: origin.to_owned(), detail: detail.to_owned() };
        let url = Url::parse(&source.url).map_err(|_| invalid("it is not a URL"))?;
        if source.auth != Auth::Nobody && url.scheme() != "https" {
            return Err(invalid("credentials are sent over https only"));
        }
        let client = network.client(source.ca.as_deref(), origin).await?;
        Self::with(network, client, url, source.auth.clone(), Manners::Web, origin)
    }

    pub(super) fn with(
        network: &Network,
        client: Client,
        url: Url,
        auth: Auth,
        manners: Manners,
        origin: &str,
    ) -> Result<Self, SourceError> {
        let (limit, stall) = (network.limit, network.stall);
        let web = Self { client, url, auth, manners, origin: origin.to_owned(), limit, stall };
        if !matches!(web.url.scheme(), "http" | "https") {
            return Err(web.invalid("only http and https URLs are fetched"));
        }
        if !web.url.username().is_empty() || web.url.password().is_some() {
            return Err(web.invalid("a URL must not hold a user or a password: they belong into a Secret"));
        }
        Ok(web)
    }

    /// The same file at another URL, such as one that was signed just now.
    pub(super) fn at(&self, url: Url) -> Self {
        Self { url, ..self.clone() }
    }

    pub(super) fn invalid(&self, detail: &str) -> SourceError {
        SourceError::InvalidSource { origin: self.origin.clone(), detail: detail.to_owned() }
    }

    pub(super) async fn open(&self, offset: u64, version: Option<&str>) -> Result<Opened, SourceError> {
        if let Some(version) = version.filter(|_| offset > 0) {
            let request = self.get().header(RANGE, format!("bytes={offset}-"));
            let request = match &self.manners {
                Manners::Web => request.header(IF_RANGE, version),
                Manners::S3 => request.header(IF_MATCH, version),
                Manners::Registry(_) => request,
            };
            let response = self.ask(request).await?;
            match response.status() {
                // It is another file by now, or the server knows no ranges.
                StatusCode::OK => return self.opened(response, 0),
                StatusCode::PARTIAL_CONTENT if begins_at(response.headers(), offset) => {
                    return self.opened(response, offset);
                }
                // Other bytes than were asked for, or fewer than there were, or of another file: from the beginning.
                StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE | StatusCode::PRECONDITION_FAILED => {}
                _ => return Err(self.refused(response).await),
            }
        }
        let response = self.ask(self.get()).await?;
        match response.status() {
            StatusCode::OK => self.opened(response, 0),
            _ => Err(self.refused(response).await),
        }
    }

    pub(super) fn get(&self) -> RequestBuilder {
        // The bytes as they are: a range of a compressed file would be of no use.
        let request = self.client.get(self.url.clone()).header(ACCEPT_ENCODING, "identity");
        match &self.auth {
            Auth::Nobody => request,
            Auth::Basic { user, password } => request.basic_auth(user, Some(password)),
            Auth::Bearer(token) => request.bearer_auth(token),
        }
    }

    pub(super) async fn ask(&self, request: RequestBuilder) -> Result<Response, SourceError> {
        tokio::time::timeout(self.stall, request.send())
            .await
            .map_err(|_| SourceError::Stalled { origin: self.origin.clone(), after: self.stall })?
            .map_err(|error| client_error(error, &self.origin, self.stall))
    }

    fn opened(&self, response: Response, offset: u64) -> Result<Opened, SourceError> {
        let total = response.content_length().map(|length| length.saturating_add(offset));
        if total.is_some_and(|total| total > self.limit) {
            return Err(SourceError::TooLarge { origin: self.origin.clone(), limit: self.limit });
        }
        let version = match &self.manners {
            Manners::Web | Manners::S3 => version(response.headers()),
            Manners::Registry(digest) => Some(digest.clone()),
        };
        Ok(Opened { offset, total, version, body: self.body(response) })
    }

    pub(super) fn body(&self, response: Response) -> BoxStream<'static, Result<Bytes, SourceError>> {
        let (origin, stall) = (self.origin.clone(), self.stall);
        let body = response.bytes_stream();
        body.map(move |chunk| chunk.map_err(|error| client_error(error, &origin, stall))).boxed()
    }

    /// What an answer says that is not the file.
    pub(super) async fn refused(&self, response: Response) -> SourceError {
        let status = response.status();
        let origin = self.origin.clone();
        let code = match self.manners {
            Manners::S3 => self.code(response).await,
            Manners::Web | Manners::Registry(_) => None,
        };
        match (status, code) {
            (StatusCode::NOT_FOUND | StatusCode::GONE, code) => {
                let code = code.map(|code| format!(", {code}")).unwrap_or_default();
                SourceError::NotFound { origin, detail: format!(" (the server answered {status}{code})") }
            }
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, code) => {
                SourceError::Unauthorized { origin, status: status.as_u16(), code }
            }
            // AWS answers 400 to temporary credentials that have expired or are no such.
            (StatusCode::BAD_REQUEST, Some(code)) if matches!(code.as_str(), "ExpiredToken" | "InvalidToken") => {
                SourceError::Unauthorized { origin, status: status.as_u16(), code: Some(code) }
            }
            (status, Some(code)) => {
                SourceError::Unreachable { origin, detail: format!("the server answered {status}, {code}") }
            }
            (status, None) => SourceError::Unreachable { origin, detail: format!("the server answered {status}") },
        }
    }

    /// The code of a refusal: `<Error><Code>NoSuchKey</Code>…`. The rest of it may repeat what was sent, and is not kept.
    async fn code(&self, response: Response) -> Option<String> {
        let mut body = self.body(response);
        let mut bytes = Vec::new();
        while let Ok(Some(Ok(chunk))) = tokio::time::timeout(self.stall, body.next()).await {
            bytes.extend_from_slice(&chunk[..chunk.len().min(MAX_REFUSAL - bytes.len())]);
            if bytes.len() == MAX_REFUSAL {
                break;
            }
        }
        let text = String::from_utf8_lossy(&bytes);
        let (code, _) = text.split_once("<Code>")?.1.split_once("</Code>")?;
        let is_code = (1..=64).contains(&code.len()) && code.bytes().all(|byte| byte.is_ascii_alphanumeric());
        is_code.then(|| code.to_owned())
    }
}

/// What `If-Range` can name (RFC 9110, section 13.1.5): a strong tag, else the time of the last change. That the latter is
/// not exact does no harm: the whole is hashed, and what does not fit together is fetched anew.
fn version(headers: &HeaderMap) -> Option<String> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let tag = text(ETAG).filter(|tag| !tag.starts_with("W/"));
    tag.or_else(|| text(LAST_MODIFIED)).map(str::to_owned)
}

/// Whether `Content-Range: bytes FIRST-LAST/TOTAL` begins where it was to.
fn begins_at(headers: &HeaderMap, offset: u64) -> bool {
    let range = headers.get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
    let first = range.and_then(|range| range.strip_prefix("bytes ")?.split_once('-'));
    first.is_some_and(|(first, _)| first.parse() == Ok(offset))
}

/// An error of the HTTP client as ours, without the URL, which may hold a secret.
pub(super) fn client_error(error: reqwest::Error, origin: &str, stall: Duration) -> SourceError {
    let origin = origin.to_owned();
    if error.is_timeout() {
        return SourceError::Stalled { origin, after: stall };
    }
    let redirect = error.is_redirect();
    let error = error.without_url();
    if let Some(detail) = find::<rustls::Error, _>(&error, certificate) {
        return SourceError::CertificateInvalid { origin, detail };
    }
    let detail = innermost(&error);
    if redirect {
        return SourceError::RedirectRefused { origin, detail };
    }
    SourceError::Unreachable { origin, detail }
}

/// What is wrong with a certificate, where that is what a TLS error speaks of.
fn certificate(error: &rustls::Error) -> Option<String> {
    match error {
        rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented => Some(error.to_string()),
        _ => None,
    }
}

/// The first answer to a question about a cause of this kind. I/O errors hide what they wrap from who asks for their source.
fn find<E: Error + 'static, T>(error: &(dyn Error + 'static), ask: impl Fn(&E) -> Option<T>) -> Option<T> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(answer) = error.downcast_ref::<E>().and_then(&ask) {
            return Some(answer);
        }
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        cause = wrapped.map(|wrapped| wrapped as &(dyn Error + 'static)).or_else(|| error.source());
    }
    None
}

/// Clients say what they were doing, and only their innermost cause says what was wrong.
pub(super) fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
