//! HTTP and HTTPS, by hyper: one connection for each attempt, and a download that breaks off is taken up where it did.
//!
//! Without a pool and without a client that lives on: a fleet of thousands has no more than its transfers that run.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use fettle_protocol::message::Location;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{self, HeaderValue};
use hyper::http::uri::Scheme;
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Route, Sink, TransferError, ftp};

/// Attempts in a row that bring nothing, after which a download that broke off is given up.
const FRUITLESS: u32 = 5;

/// Before the first of them; twice as long before each next.
const PAUSE: Duration = Duration::from_millis(200);

/// Where datum 72 leads.
struct Place {
    uri: Uri,
    /// What `Host` says: as the URL does.
    host: HeaderValue,
    server: SocketAddr,
    /// Whom TLS is spoken with, where the URL says `https`.
    secure: Option<ServerName<'static>>,
}

/// How far a download has come.
#[derive(Default)]
struct Progress {
    at: u64,
    /// Which file it is, once that is known.
    tag: Option<HeaderValue>,
}

pub(super) async fn fetch(route: &Route, location: &Location, sink: &mut impl Sink) -> Result<(), TransferError> {
    let place = Place::of(location).await?;
    let mut progress = Progress::default();
    let mut fruitless = 0;
    loop {
        let before = progress.at;
        let error = match part(route, &place, &mut progress, sink).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        // Where nothing ever came, there is nothing to take up: that is for the server to try again.
        if progress.at == 0 || !is_break(&error) || fruitless == FRUITLESS {
            return Err(error);
        }
        fruitless = if progress.at > before { 0 } else { fruitless + 1 };
        tracing::debug!(at = progress.at, %error, "download broke off, taking it up");
        tokio::time::sleep(PAUSE * (1 << fruitless)).await;
    }
}

pub(super) async fn send(route: &Route, location: &Location, content: &[u8]) -> Result<(), TransferError> {
    let place = Place::of(location).await?;
    let request = place.request(Method::PUT, Full::new(Bytes::copy_from_slice(content)))?;
    over(route, &place, request, async |response: Response<Incoming>| {
        if response.status().is_success() { Ok(()) } else { Err(TransferError::HttpStatus(response.status().as_u16())) }
    })
    .await
}

/// Whether the way to the server is what failed, and not what it says.
fn is_break(error: &TransferError) -> bool {
    match error {
        TransferError::Network(_) | TransferError::Http(_) | TransferError::Silent(_) => true,
        TransferError::Ftp(_)
        | TransferError::Tftp(_)
        | TransferError::HttpStatus(_)
        | TransferError::Changed
        | TransferError::Url
        | TransferError::NoAuthority
        | TransferError::Name
        | TransferError::Store(_) => false,
    }
}

/// What is left of the file, as far as it comes.
async fn part(
    route: &Route,
    place: &Place,
    progress: &mut Progress,
    sink: &mut impl Sink,
) -> Result<(), TransferError> {
    let mut request = place.request(Method::GET, Full::default())?;
    let headers = request.headers_mut();
    if progress.at > 0 {
        let rest = HeaderValue::from_str(&format!("bytes={}-", progress.at)).map_err(|_| TransferError::Url)?;
        headers.insert(header::RANGE, rest);
        if let Some(tag) = &progress.tag {
            headers.insert(header::IF_RANGE, tag.clone());
        }
    }
    over(route, place, request, async |response: Response<Incoming>| {
        continues(&response, progress)?;
        progress.tag = response.headers().get(header::ETAG).cloned();
        let mut body = response.into_body();
        while let Some(frame) = route.patient(async { body.frame().await.transpose() }).await? {
            let Ok(piece) = frame.into_data() else { continue };
            sink.take(&piece).await?;
            progress.at += piece.len() as u64;
        }
        Ok(())
    })
    .await
}

/// Whether an answer goes on where the download is.
fn continues(response: &Response<Incoming>, progress: &Progress) -> Result<(), TransferError> {
    match response.status() {
        StatusCode::OK if progress.at == 0 => Ok(()),
        // All that there was had come before it broke off; or the file is another, and the digest will tell.
        StatusCode::PARTIAL_CONTENT => {
            let field = response.headers().get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
            let first = field.and_then(|field| field.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok());
            if first == Some(progress.at) { Ok(()) } else { Err(TransferError::Changed) }
        }
        StatusCode::OK => Err(TransferError::Changed),
        status => Err(TransferError::HttpStatus(status.as_u16())),
    }
}

impl Place {
    async fn of(location: &Location) -> Result<Self, TransferError> {
        let uri: Uri = location.url.as_deref().and_then(|url| url.parse().ok()).ok_or(TransferError::Url)?;
        let authority = uri.authority().ok_or(TransferError::Url)?;
        let (secure, standard) = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTP => (None, 80),
            Some(scheme) if *scheme == Scheme::HTTPS => {
                let name = ServerName::try_from(authority.host().to_owned()).map_err(|_| TransferError::Url)?;
                (Some(name), 443)
            }
            _ => return Err(TransferError::Url),
        };
        let host = HeaderValue::from_str(authority.as_str()).map_err(|_| TransferError::Url)?;
        let port = authority.port_u16().unwrap_or(standard);
        let address = match authority.host().parse::<Ipv4Addr>() {
            Ok(address) => address,
            Err(_) => resolved(authority.host(), port).await.unwrap_or(location.server.into()),
        };
        let server = SocketAddr::new(IpAddr::V4(address), port);
        Ok(Self { uri, host, server, secure })
    }

    fn request(&self, method: Method, body: Full<Bytes>) -> Result<Request<Full<Bytes>>, TransferError> {
        let path = self.uri.path_and_query().map_or("/", |path| path.as_str());
        let builder = Request::builder().method(method).uri(path).header(header::HOST, self.host.clone());
        builder.header(header::USER_AGENT, "fettle-device").body(body).map_err(|_| TransferError::Url)
    }
}

/// The first IPv4 address of a name, where there is one.
async fn resolved(name: &str, port: u16) -> Option<Ipv4Addr> {
    let mut found = tokio::net::lookup_host((name, port)).await.ok()?;
    found.find_map(|address| match address.ip() {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    })
}

/// Asks on a new connection, and takes the answer.
async fn over<T>(
    route: &Route,
    place: &Place,
    request: Request<Full<Bytes>>,
    take: impl AsyncFnOnce(Response<Incoming>) -> Result<T, TransferError>,
) -> Result<T, TransferError> {
    let stream = route.patient(ftp::connect(route.local(), place.server)).await?;
    let Some(name) = place.secure.clone() else { return ask(route, stream, request, take).await };
    let authorities = route.authorities.as_ref().ok_or(TransferError::NoAuthority)?;
    let stream = route.patient(authorities.connect(stream, name)).await?;
    ask(route, stream, request, take).await
}

async fn ask<S, T>(
    route: &Route,
    stream: S,
    request: Request<Full<Bytes>>,
    take: impl AsyncFnOnce(Response<Incoming>) -> Result<T, TransferError>,
) -> Result<T, TransferError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let asked = async {
        let response = route.patient(sender.send_request(request)).await?;
        take(response).await
    };
    let mut asked = pin!(asked);
    // What came before the connection ended is still to be taken, and how it ended is told there.
    tokio::select! {
        biased;
        taken = &mut asked => return taken,
        _ended = connection => {}
    }
    asked.await
}
