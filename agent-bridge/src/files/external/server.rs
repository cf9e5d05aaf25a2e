//! What an operator says of a file server of theirs: where we put files, and what devices are told of it.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use tokio_rustls::TlsConnector;

/// What data 6 to 9 take of a device that knows only the base protocol.
const MAX_LEN: usize = 32;

/// Where we put files, and take them away again.
#[derive(Clone)]
pub struct PutServer {
    pub host: String,
    pub port: u16,
    /// From where the login begins; empty: there.
    pub folder: String,
    pub login: Login,
    /// To encrypt what is put there; `None`: it goes in the clear.
    pub tls: Option<Arc<TlsConnector>>,
}

impl fmt::Debug for PutServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PutServer").field("host", &self.host).field("port", &self.port).finish_non_exhaustive()
    }
}

impl fmt::Display for PutServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    pub user: String,
    pub password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("user", &self.user).finish_non_exhaustive()
    }
}

/// What devices are told: where what we put lies for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// Datum 5, and datum 71 for those that take it.
    pub address: SocketAddrV4,
    /// Datum 6; may be empty.
    pub folder: String,
    /// Data 8 and 9; empty over TFTP.
    pub login: Login,
}

/// An address as it is written: with a port, or at the standard one.
pub fn address(text: &str, standard_port: u16) -> Option<SocketAddrV4> {
    let alone = || text.parse::<Ipv4Addr>().ok().map(|address| SocketAddrV4::new(address, standard_port));
    text.parse().ok().or_else(alone)
}

/// Whether a device that knows only the base protocol takes it for one of data 6 to 9.
pub fn is_plain(text: &str) -> bool {
    text.len() <= MAX_LEN && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-'))
}
