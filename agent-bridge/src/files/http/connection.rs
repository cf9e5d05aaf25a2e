//! One connection: its TLS, its requests one after the other, its end.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::account::Account;
use super::answer::Handler;
use super::wire::Wire;
use crate::files::server::Service;
use crate::files::tls::Acceptor;

/// The longest head of a request; a device's has some hundred bytes. Also how much of a log is read at once.
const MAX_HEAD: usize = 16 * 1024;

/// The most fields that a head has; curl sends three.
const MAX_FIELDS: usize = 64;

/// How much the kernel may hold that it has not sent yet: else it takes up to 4 MiB for each of thousands of slow devices,
/// and we would believe to have sent what is still here.
const UNSENT: u32 = 128 * 1024;

/// How long a client that was refused may go on sending what nobody wants. Were the connection closed while that is under
/// way, the refusal would not arrive.
const LINGER: Duration = Duration::from_secs(2);

pub(super) async fn run(stream: TcpStream, peer: SocketAddr, tls: Option<Acceptor>, service: Arc<Service>) {
    let socket = socket2::SockRef::from(&stream);
    for set in [socket.set_tcp_notsent_lowat(UNSENT), socket.set_tcp_nodelay(true)] {
        if let Err(error) = set {
            tracing::debug!(%error, "an option of a connection cannot be set");
        }
    }
    let Some(acceptor) = tls else { return requests(stream, peer, service).await };
    match timeout(service.config.deadlines.head, acceptor.now().accept(stream)).await {
        Ok(Ok(stream)) => requests(stream, peer, service).await,
        Ok(Err(error)) => tracing::debug!(%peer, %error, "TLS handshake failed"),
        Err(_) => tracing::debug!(%peer, "TLS handshake not finished in time"),
    }
}

async fn requests<S>(stream: S, peer: SocketAddr, service: Arc<Service>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let account = Arc::new(Account::default());
    let deadlines = service.config.deadlines;
    let wire = Wire::new(stream, Arc::clone(&account), deadlines.stall);
    let handler = Arc::new(Handler { service, account });
    let answering = service_fn(move |request| {
        let handler = Arc::clone(&handler);
        async move { Ok::<_, Infallible>(handler.answer(request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // From the moment at which a request may come: this is also how long a connection may be idle.
        .header_read_timeout(deadlines.head)
        .max_headers(MAX_FIELDS)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(wire), answering)
        .without_shutdown();
    match connection.await {
        Ok(parts) => end(parts.io.into_inner().into_inner()).await,
        Err(error) => tracing::debug!(%peer, %error, "HTTP connection ended"),
    }
}

/// Says that nothing follows, and takes what still comes.
async fn end<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) {
    let ended = async {
        stream.shutdown().await?;
        let mut ignored = [0; 4096];
        while stream.read(&mut ignored).await? > 0 {
            tokio::task::consume_budget().await;
        }
        Ok::<(), std::io::Error>(())
    };
    // Whoever does not close in time is closed.
    let _ = timeout(LINGER, ended).await;
}
