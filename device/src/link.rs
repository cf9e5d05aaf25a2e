//! A device's TCP connection: bytes in and out. It knows frames, and no messages.

use std::io;
use std::time::Duration;

use fettle_protocol::{Decoder, Dialect};
use socket2::SockRef;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::Instant;

/// A peer that takes nothing for so long is gone.
const WRITE_LIMIT: Duration = Duration::from_secs(30);
/// What is read at once. A command has about 200 bytes.
const READ_CHUNK: usize = 2048;

/// How a device behaves on a connection, apart from what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manners {
    Normal,
    /// Reads and throws away, and says nothing.
    Mute,
    /// Neither reads nor says anything.
    Deaf,
}

/// How a device lets go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Closing {
    /// FIN.
    Finish,
    /// RST.
    Reset,
}

/// What one read brought.
pub(crate) enum Reading {
    /// Into the decoder.
    Some,
    /// Nothing yet.
    Nothing,
    End,
}

pub(crate) struct Link {
    stream: TcpStream,
    pub(crate) decoder: Decoder,
    pub(crate) manners: Manners,
    /// When the device last said something, or began something that takes long.
    pub(crate) quiet_since: Instant,
}

impl Link {
    /// What is read is in this dialect; anything else is malformed.
    pub(crate) fn new(stream: TcpStream, dialect: Dialect) -> Self {
        Self { stream, decoder: Decoder::of(dialect), manners: Manners::Normal, quiet_since: Instant::now() }
    }

    pub(crate) fn reads(&self) -> bool {
        match self.manners {
            Manners::Normal | Manners::Mute => true,
            Manners::Deaf => false,
        }
    }

    /// Returns when a read would bring something, be it the end or an error.
    pub(crate) async fn readable(&self) {
        // An error shows in the read that follows.
        let _ = self.stream.readable().await;
    }

    /// Reads what is there. The buffer is on the stack of this call, so that an idle connection has none.
    pub(crate) fn read(&mut self) -> io::Result<Reading> {
        let mut buffer = [0; READ_CHUNK];
        match self.stream.try_read(&mut buffer) {
            Ok(0) => Ok(Reading::End),
            Ok(read) => {
                match self.manners {
                    Manners::Normal => self.decoder.push(&buffer[..read]),
                    Manners::Mute | Manners::Deaf => {}
                }
                Ok(Reading::Some)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Reading::Nothing),
            Err(error) => Err(error),
        }
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match tokio::time::timeout(WRITE_LIMIT, self.stream.write_all(bytes)).await {
            Ok(written) => written,
            Err(_elapsed) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    pub(crate) async fn close(&mut self, closing: Closing) {
        match closing {
            Closing::Finish => {
                // The peer may have gone first.
                let _ = self.stream.shutdown().await;
            }
            Closing::Reset => {
                // Without it, closing sends a FIN: no harm.
                let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
            }
        }
    }
}
