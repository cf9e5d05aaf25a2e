//! Fetching and sending files, with other people's FTP, TFTP and HTTP clients.
//!
//! This module gets bytes from a server to a [`Sink`], or to a server, and says whether that worked. Whether they are the
//! right bytes is [`crate::checked`]'s.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use fettle_protocol::datum::Transfer;
use fettle_protocol::message::Location;

use crate::hardware::HardwareError;
use crate::spec::{DeviceSpec, FilePorts, PathStyle};

mod ftp;
mod http;
mod tftp;
mod tls;

pub use tls::{Authorities, AuthoritiesError};

/// Why a transfer failed.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The network.
    #[error("cannot reach the file server")]
    Network(#[from] std::io::Error),
    /// The server, or what it says.
    #[error("the FTP server refused or failed")]
    Ftp(#[from] suppaftp::FtpError),
    #[error("the TFTP server refused: {0}")]
    Tftp(String),
    #[error("the HTTP server broke off")]
    Http(#[from] hyper::Error),
    #[error("the HTTP server refused: {0}")]
    HttpStatus(u16),
    #[error("the HTTP server does not go on with the file that it began with")]
    Changed,
    #[error("the file server said nothing for {0:?}")]
    Silent(Duration),
    /// The command that ordered it.
    #[error("the file's name cannot be sent to a server")]
    Name,
    #[error("the file's URL cannot be used")]
    Url,
    #[error("the file's URL is https, and the device has no authority to believe")]
    NoAuthority,
    /// This device.
    #[error("cannot keep what comes")]
    Store(#[from] HardwareError),
}

/// Takes what comes, in order.
pub(crate) trait Sink: Send {
    fn take(&mut self, chunk: &[u8]) -> impl Future<Output = Result<(), HardwareError>> + Send;
}

/// How a device reaches file servers.
#[derive(Debug, Clone)]
pub(crate) struct Route {
    local: Ipv4Addr,
    ports: FilePorts,
    style: PathStyle,
    idle: Duration,
    authorities: Option<Authorities>,
}

impl Route {
    pub(crate) fn of(spec: &DeviceSpec) -> Self {
        Self {
            local: spec.local_address.unwrap_or(Ipv4Addr::UNSPECIFIED),
            ports: spec.file_ports,
            style: spec.path_style,
            idle: spec.timings.transfer_idle,
            authorities: spec.authorities.clone(),
        }
    }

    fn local(&self) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.local), 0)
    }

    /// Where FTP or TFTP is; HTTP has a URL.
    fn server(&self, location: &Location) -> SocketAddr {
        let standard = match location.transfer {
            Transfer::Ftp | Transfer::Http => self.ports.ftp,
            Transfer::Tftp => self.ports.tftp,
        };
        SocketAddr::new(IpAddr::V4(location.server.into()), location.port.unwrap_or(standard))
    }

    /// Data 6 and 7 as one name.
    fn name(&self, location: &Location) -> String {
        let Location { path, file, .. } = location;
        let path = path.trim_matches('/');
        match self.style {
            PathStyle::Concatenated => format!("{path}{file}"),
            PathStyle::Absolute if path.is_empty() => format!("/{file}"),
            PathStyle::Absolute => format!("/{path}/{file}"),
            PathStyle::Relative | PathStyle::ChangeDirectory if path.is_empty() => file.clone(),
            PathStyle::Relative | PathStyle::ChangeDirectory => format!("{path}/{file}"),
        }
    }

    /// A server that says nothing has failed.
    async fn patient<T, E>(&self, step: impl Future<Output = Result<T, E>>) -> Result<T, TransferError>
    where
        TransferError: From<E>,
    {
        match tokio::time::timeout(self.idle, step).await {
            Ok(done) => Ok(done?),
            Err(_elapsed) => Err(TransferError::Silent(self.idle)),
        }
    }
}

/// Fetches the file into `sink`, to its end.
pub(crate) async fn fetch(route: &Route, location: &Location, sink: &mut impl Sink) -> Result<(), TransferError> {
    match location.transfer {
        Transfer::Ftp => ftp::fetch(route, location, sink).await,
        Transfer::Tftp => tftp::fetch(route, location, sink).await,
        Transfer::Http => http::fetch(route, location, sink).await,
    }
}

/// Sends `content` as the file.
pub(crate) async fn send(route: &Route, location: &Location, content: &[u8]) -> Result<(), TransferError> {
    match location.transfer {
        Transfer::Ftp => ftp::send(route, location, content).await,
        Transfer::Tftp => tftp::send(route, location, content).await,
        Transfer::Http => http::send(route, location, content).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_and_file_are_joined_in_each_way_that_the_protocol_leaves_open() {
        let spec = DeviceSpec::new(fettle_protocol::Mac::new([2; 6]), "m", "1");
        let location = |path: &str| Location {
            transfer: Transfer::Ftp,
            server: [127, 0, 0, 1],
            path: path.to_owned(),
            file: "f.bin".to_owned(),
            user: String::new(),
            password: String::new(),
            port: None,
            url: None,
            log_key: None,
        };
        for (style, with, without) in [
            (PathStyle::Relative, "a/f.bin", "f.bin"),
            (PathStyle::Absolute, "/a/f.bin", "/f.bin"),
            (PathStyle::Concatenated, "af.bin", "f.bin"),
            (PathStyle::ChangeDirectory, "a/f.bin", "f.bin"),
        ] {
            let route = Route { style, ..Route::of(&spec) };
            assert_eq!(route.name(&location("a")), with);
            assert_eq!(route.name(&location("")), without);
        }
    }

    #[test]
    fn a_port_that_is_told_comes_before_the_standard_one() {
        let mut spec = DeviceSpec::new(fettle_protocol::Mac::new([2; 6]), "m", "1");
        let location = |transfer, port| Location {
            transfer,
            server: [127, 0, 0, 1],
            path: String::new(),
            file: String::new(),
            user: String::new(),
            password: String::new(),
            port,
            url: None,
            log_key: None,
        };
        let server = |spec: &DeviceSpec, transfer, port| Route::of(spec).server(&location(transfer, port)).port();
        assert_eq!(server(&spec, Transfer::Ftp, None), 21);
        assert_eq!(server(&spec, Transfer::Tftp, None), 69);
        spec.file_ports = FilePorts { ftp: 2121, tftp: 6969 };
        assert_eq!(server(&spec, Transfer::Ftp, None), 2121);
        assert_eq!(server(&spec, Transfer::Tftp, None), 6969);
        assert_eq!(server(&spec, Transfer::Tftp, Some(7)), 7);
    }
}
