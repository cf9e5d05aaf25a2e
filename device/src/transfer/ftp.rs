//! FTP, passive, by suppaftp.

use std::net::SocketAddr;
use std::time::Duration;

use fettle_protocol::message::Location;
use suppaftp::FtpError;
use suppaftp::tokio::AsyncFtpStream;
use suppaftp::types::FileType;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::{Route, Sink, TransferError};
use crate::spec::PathStyle;

/// What is read at once: a few segments of a fast network; there is one such buffer for each transfer that runs.
const CHUNK: usize = 32 * 1024;
/// The file is there; whether the server says goodbye is not worth more.
const QUIT: Duration = Duration::from_secs(2);

pub(super) async fn fetch(route: &Route, location: &Location, sink: &mut impl Sink) -> Result<(), TransferError> {
    let mut session = log_in(route, location).await?;
    let name = enter(route, location, &mut session).await?;
    let mut data = route.patient(session.retr_as_stream(name)).await?;
    let mut buffer = vec![0; CHUNK];
    loop {
        match route.patient(data.read(&mut buffer)).await? {
            0 => break,
            read => sink.take(&buffer[..read]).await?,
        }
    }
    // Only its reply tells a file that was sent whole from one that broke off.
    route.patient(data.finish()).await?;
    let _ = tokio::time::timeout(QUIT, session.quit()).await;
    Ok(())
}

pub(super) async fn send(route: &Route, location: &Location, content: &[u8]) -> Result<(), TransferError> {
    let mut session = log_in(route, location).await?;
    let name = enter(route, location, &mut session).await?;
    let mut data = route.patient(session.put_with_stream(name)).await?;
    for chunk in content.chunks(CHUNK) {
        route.patient(data.write_all(chunk)).await?;
    }
    route.patient(data.finish()).await?;
    let _ = tokio::time::timeout(QUIT, session.quit()).await;
    Ok(())
}

async fn log_in(route: &Route, location: &Location) -> Result<AsyncFtpStream, TransferError> {
    let stream = route.patient(connect(route.local(), route.server(location))).await?;
    let mut session = route.patient(AsyncFtpStream::connect_with_stream(stream)).await?;
    let local = route.local();
    if !local.ip().is_unspecified() {
        session = session.passive_stream_builder(move |server| {
            Box::pin(async move { connect(local, server).await.map_err(FtpError::ConnectionError) })
        });
    }
    // RFC 1635: what a server that wants no name expects.
    let user = if location.user.is_empty() { "anonymous" } else { &location.user };
    route.patient(session.login(user, location.password.as_str())).await?;
    route.patient(session.transfer_type(FileType::Binary)).await?;
    Ok(session)
}

pub(super) async fn connect(local: SocketAddr, server: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = if server.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if !local.ip().is_unspecified() {
        socket.bind(local)?;
    }
    socket.connect(server).await
}

/// Goes where the file is, if the device does so; the name by which to ask for it there.
async fn enter(route: &Route, location: &Location, session: &mut AsyncFtpStream) -> Result<String, TransferError> {
    match route.style {
        PathStyle::ChangeDirectory if !location.path.is_empty() => {
            route.patient(session.cwd(&location.path)).await?;
            Ok(location.file.clone())
        }
        PathStyle::ChangeDirectory | PathStyle::Relative | PathStyle::Absolute | PathStyle::Concatenated => {
            Ok(route.name(location))
        }
    }
}
