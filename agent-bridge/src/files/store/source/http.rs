//! Files on web servers: asked for from where an earlier answer broke off, as one who has credentials, and never followed
//! to where credentials or bytes would be in the open.

use std::error::Error;
use std::io;
use std::time::Duration;

use futures::StreamExt;
use reqwest::header::{ACCEPT_ENCODING, CONTENT_RANGE, ETAG, HeaderMap, IF_RANGE, LAST_MODIFIED, RANGE};
use reqwest::{Certificate, Client, RequestBuilder, Response, StatusCode, Url, redirect};

use super::super::SourceError;
use super::{Auth, HttpSource, Network, Opened};

/// Redirects that are followed: enough for a release page that points at a store that points at a mirror.
pub(in crate::files::store) const MAX_REDIRECTS: usize = 5;

/// A web server, ready to be asked for one file.
pub(in crate::files::store) struct Web {
    client: Client,
    url: Url,
    auth: Auth,
    origin: String,
    limit: u64,
    stall: Duration,
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
        if !matches!(url.scheme(), "http" | "https") {
            return Err(invalid("only http and https URLs are fetched"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(invalid("a URL must not hold a user or a password: they belong into a Secret"));
        }
        if source.auth != Auth::Nobody && url.scheme() != "https" {
            return Err(invalid("credentials are sent over https only"));
        }
        let client = network.client(source.ca.as_deref(), origin).await?;
        let (limit, stall) = (network.limit, network.stall);
        Ok(Self { client, url, auth: source.auth.clone(), origin: origin.to_owned(), limit, stall })
    }

    pub(super) async fn open(&self, offset: u64, version: Option<&str>) -> Result<Opened, SourceError> {
        if let Some(version) = version.filter(|_| offset > 0) {
            let request = self.get().header(RANGE, format!("bytes={offset}-")).header(IF_RANGE, version);
            let response = self.ask(request).await?;
            match response.status() {
                // It is another file by now, or the server knows no ranges.
                StatusCode::OK => return self.opened(response, 0),
                StatusCode::PARTIAL_CONTENT if begins_at(response.headers(), offset) => {
                    return self.opened(response, offset);
                }
                // Other bytes than were asked for, or fewer than there were: from the beginning.
                StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {}
                status => return Err(self.refused(status)),
            }
        }
        let response = self.ask(self.get()).await?;
        match response.status() {
            StatusCode::OK => self.opened(response, 0),
            status => Err(self.refused(status)),
        }
    }

    fn get(&self) -> RequestBuilder {
        // The bytes as they are: a range of a compressed file would be of no use.
        let request = self.client.get(self.url.clone()).header(ACCEPT_ENCODING, "identity");
        match &self.auth {
            Auth::Nobody => request,
            Auth::Basic { user, password } => request.basic_auth(user, Some(password)),
            Auth::Bearer(token) => request.bearer_auth(token),
        }
    }

    async fn ask(&self, request: RequestBuilder) -> Result<Response, SourceError> {
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
        let version = version(response.headers());
        let (origin, stall) = (self.origin.clone(), self.stall);
        let body = response.bytes_stream();
        let body = body.map(move |chunk| chunk.map_err(|error| client_error(error, &origin, stall))).boxed();
        Ok(Opened { offset, total, version, body })
    }

    fn refused(&self, status: StatusCode) -> SourceError {
        let origin = self.origin.clone();
        match status {
            StatusCode::NOT_FOUND | StatusCode::GONE => {
                SourceError::NotFound { origin, detail: format!(" (the server answered {status})") }
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                SourceError::Unauthorized { origin, status: status.as_u16() }
            }
            status => SourceError::Unreachable { origin, detail: format!("the server answered {status}") },
        }
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

/// The first answer to a question about a cause of this kind. I/O errors hide what they wrap.
fn find<E: Error + 'static, T>(error: &(dyn Error + 'static), ask: impl Fn(&E) -> Option<T>) -> Option<T> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let found = error.downcast_ref::<E>().or_else(|| wrapped.and_then(|wrapped| wrapped.downcast_ref::<E>()));
        if let Some(answer) = found.and_then(&ask) {
            return Some(answer);
        }
        cause = error.source();
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
