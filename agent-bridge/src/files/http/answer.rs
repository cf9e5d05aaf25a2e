//! What a request is answered with.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use jiff::Timestamp;
use tokio::time::Instant;

use super::account::{Account, Transfer};
use super::body::{Content, Part};
use super::range::{Ranges, Selection};
use super::upload;
use crate::files::credentials::{Operation, Permission};
use crate::files::metrics::{Outcome, Protocol};
use crate::files::server::Service;

/// When a device may come again that has too much under way.
const LATER: HeaderValue = HeaderValue::from_static("5");

pub(super) struct Handler {
    pub(super) service: Arc<Service>,
    pub(super) account: Arc<Account>,
}

/// What a request names.
enum Wanted {
    File(Permission),
    Log(Permission),
}

impl Handler {
    pub(super) async fn answer(&self, request: Request<Incoming>) -> Response<Content> {
        let operation = match *request.method() {
            Method::GET | Method::HEAD => Operation::Download,
            Method::PUT => Operation::Upload,
            _ => {
                let refused = plain(StatusCode::METHOD_NOT_ALLOWED, "There is no such method here.\n");
                return with(refused, header::ALLOW, HeaderValue::from_static("GET, HEAD, PUT"));
            }
        };
        // Whoever has a query or an escape in it was told something else.
        let path = if request.uri().query().is_none() { request.uri().path() } else { "" };
        let wanted = match (self.service.authorise(Protocol::Http, path, operation, None), operation) {
            (Ok(permission), Operation::Download) => Wanted::File(permission),
            (Ok(permission), Operation::Upload) => Wanted::Log(permission),
            (Err(_), _) => return refusal(Outcome::Refused),
        };
        match wanted {
            Wanted::File(permission) => self.file(&permission, &request).await,
            Wanted::Log(permission) => match self.service.devices.take(permission.device) {
                Some(_place) => upload::receive(&self.service, &permission, request).await,
                None => self.too_many(&permission),
            },
        }
    }

    async fn file(&self, permission: &Permission, request: &Request<Incoming>) -> Response<Content> {
        let Some(place) = self.service.devices.take(permission.device) else { return self.too_many(permission) };
        let readable = match self.service.open(Protocol::Http, permission).await {
            Ok(readable) => readable,
            Err(outcome) => return refusal(outcome),
        };
        let size = readable.size();
        let tag = format!("\"{}\"", data_encoding::HEXLOWER.encode(permission.content.as_bytes()));
        let (is_get, ranges) = match *request.method() {
            Method::GET => (true, Ranges::Honoured),
            _ => (false, Ranges::Ignored),
        };
        let selection = Selection::of(request.headers(), ranges, &tag, size);
        let (status, range) = match selection {
            Selection::Whole => (StatusCode::OK, 0..size),
            Selection::Part(range) => (StatusCode::PARTIAL_CONTENT, range),
            Selection::NotModified => return described(empty(StatusCode::NOT_MODIFIED), &tag),
            Selection::Failed => return plain(StatusCode::PRECONDITION_FAILED, "It is another file.\n"),
            Selection::Unsatisfiable => {
                let refused = plain(StatusCode::RANGE_NOT_SATISFIABLE, "The file ends before that.\n");
                return with(described(refused, &tag), header::CONTENT_RANGE, text(&format!("bytes */{size}")));
            }
        };
        let mut response = described(empty(status), &tag);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(range.end - range.start));
        if status == StatusCode::PARTIAL_CONTENT {
            let which = format!("bytes {}-{}/{size}", range.start, range.end - 1);
            headers.insert(header::CONTENT_RANGE, text(&which));
        }
        if is_get {
            let deadline = Instant::now() + permission.remaining(Timestamp::now());
            self.account.begin(Transfer {
                permission: *permission,
                record: self.service.transfers.begin(permission),
                active: self.service.metrics.begin(Protocol::Http, Operation::Download),
                _place: place,
                left: range.clone(),
                handed: 0,
                deadline,
            });
            *response.body_mut() =
                Content::File(Box::new(Part::new(readable, range, Arc::clone(&self.account), deadline)));
        }
        response
    }

    fn too_many(&self, permission: &Permission) -> Response<Content> {
        let Permission { device, command, operation, .. } = *permission;
        tracing::warn!(%device, command, "HTTP request refused: too many transfers of this device");
        self.service.metrics.refused(Protocol::Http, operation, Outcome::Refused);
        busy("Too many transfers of this device.\n")
    }
}

/// What is known of a file whatever becomes of the request. Nobody between may keep it: it was for this device, now.
fn described(mut response: Response<Content>, tag: &str) -> Response<Content> {
    let headers = response.headers_mut();
    headers.insert(header::ETAG, text(tag));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

pub(super) fn refusal(outcome: Outcome) -> Response<Content> {
    match outcome {
        Outcome::Refused | Outcome::NotFound => plain(StatusCode::NOT_FOUND, "No such file.\n"),
        Outcome::Full => plain(StatusCode::INSUFFICIENT_STORAGE, "There is no room.\n"),
        Outcome::TooLarge => plain(StatusCode::PAYLOAD_TOO_LARGE, "The file is too large.\n"),
        Outcome::Complete | Outcome::Aborted | Outcome::TimedOut | Outcome::Failed => {
            plain(StatusCode::INTERNAL_SERVER_ERROR, "The server has a fault.\n")
        }
    }
}

pub(super) fn busy(sentence: &'static str) -> Response<Content> {
    with(plain(StatusCode::SERVICE_UNAVAILABLE, sentence), header::RETRY_AFTER, LATER)
}

pub(super) fn plain(status: StatusCode, sentence: &'static str) -> Response<Content> {
    let mut response = empty(status);
    *response.body_mut() = Content::Text(Some(sentence));
    with(response, header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"))
}

pub(super) fn empty(status: StatusCode) -> Response<Content> {
    let mut response = Response::new(Content::Text(None));
    *response.status_mut() = status;
    response
}

fn with(mut response: Response<Content>, name: HeaderName, value: HeaderValue) -> Response<Content> {
    response.headers_mut().insert(name, value);
    response
}

/// Digits, punctuation and lower-case letters, of which a field can be made.
fn text(value: &str) -> HeaderValue {
    HeaderValue::from_str(value).unwrap_or(HeaderValue::from_static(""))
}
