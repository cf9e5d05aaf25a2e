//! The control connection: lines in, replies out, both bounded.

use std::io;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;

use super::wire::Wire;

/// A line with its end. The longest that we ask for is a path of 65 characters.
const MAX_LINE: usize = 512;

/// A peer that does not take a reply of a few bytes for so long is gone.
const REPLY_DEADLINE: Duration = Duration::from_secs(10);

/// How long and how much a peer may go on after the last reply.
const DRAIN_DEADLINE: Duration = Duration::from_secs(2);
const MAX_DRAIN: usize = 64 * 1024;

/// Telnet commands (RFC 854), which RFC 959 lets clients put before `ABOR`.
const IAC: u8 = 0xff;
const WILL: u8 = 0xfb;
const DONT: u8 = 0xfe;

/// A peer that wants TLS and does not finish its handshake in this time is gone.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);

/// Why no further command comes.
#[derive(Debug)]
pub(super) enum ControlEnd {
    Closed,
    TimedOut,
    TooLong,
    Broken(io::Error),
}

pub(super) struct Control {
    /// `None` after a handshake that failed.
    wire: Option<Wire>,
    /// What has arrived and was not taken: at most one line and the beginnings of others.
    buffer: [u8; MAX_LINE],
    filled: usize,
}

impl Control {
    pub(super) fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        // Clients send the last byte of ABOR out of band, where it would be missing from the line.
        rustix::net::sockopt::set_socket_oobinline(&stream, true)?;
        Ok(Self { wire: Some(Wire::Plain(stream)), buffer: [0; MAX_LINE], filled: 0 })
    }

    /// The next line, without its end. May be dropped and called again: nothing is lost.
    pub(super) async fn line(&mut self, deadline: Instant) -> Result<String, ControlEnd> {
        timeout_at(deadline, async {
            loop {
                if let Some(end) = self.line_end() {
                    let line = text(&self.buffer[..end]);
                    self.buffer.copy_within(end + 1..self.filled, 0);
                    self.filled -= end + 1;
                    return Ok(line);
                }
                self.fill().await?;
            }
        })
        .await
        .unwrap_or(Err(ControlEnd::TimedOut))
    }

    /// Returns when the client asks to abort, while a transfer runs; that line is taken. Any other line is left for later, and
    /// so is the end of the connection: a client that has gone has its data connection gone too.
    pub(super) async fn abort(&mut self) {
        loop {
            if let Some(end) = self.line_end() {
                if !text(&self.buffer[..end]).trim_end().eq_ignore_ascii_case("ABOR") {
                    break;
                }
                self.buffer.copy_within(end + 1..self.filled, 0);
                self.filled -= end + 1;
                return;
            }
            if self.fill().await.is_err() {
                break;
            }
        }
        std::future::pending::<()>().await;
    }

    fn line_end(&self) -> Option<usize> {
        self.buffer[..self.filled].iter().position(|b| *b == b'\n')
    }

    async fn fill(&mut self) -> Result<(), ControlEnd> {
        if self.filled == MAX_LINE {
            return Err(ControlEnd::TooLong);
        }
        let wire = self.wire.as_mut().ok_or(ControlEnd::Closed)?;
        match wire.read(&mut self.buffer[self.filled..]).await {
            Ok(0) => Err(ControlEnd::Closed),
            Ok(len) => {
                self.filled += len;
                Ok(())
            }
            Err(error) => Err(ControlEnd::Broken(error)),
        }
    }

    pub(super) fn is_secure(&self) -> bool {
        self.wire.as_ref().is_some_and(Wire::is_secure)
    }

    /// Goes on within TLS. What came in the clear after the request for it is nobody's word: the connection ends.
    pub(super) async fn secure(&mut self, tls: &TlsAcceptor) -> Result<(), ControlEnd> {
        let wire = self.wire.take().filter(|_| self.filled == 0).ok_or(ControlEnd::Closed)?;
        match timeout(HANDSHAKE_DEADLINE, wire.secured(tls)).await {
            Ok(Ok(wire)) => {
                self.wire = Some(wire);
                Ok(())
            }
            Ok(Err(error)) => Err(ControlEnd::Broken(error)),
            Err(_) => Err(ControlEnd::TimedOut),
        }
    }

    /// Sends a reply: a code and a text, or several lines in the form of RFC 959.
    pub(super) async fn reply(&mut self, reply: &str) -> Result<(), ControlEnd> {
        let mut line = Vec::with_capacity(reply.len() + 2);
        line.extend_from_slice(reply.as_bytes());
        line.extend_from_slice(b"\r\n");
        let wire = self.wire.as_mut().ok_or(ControlEnd::Closed)?;
        match timeout(REPLY_DEADLINE, wire.write_all(&line)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(ControlEnd::Broken(error)),
            Err(_) => Err(ControlEnd::TimedOut),
        }
    }

    /// Closes so that the last reply arrives: a reset, which unread input would cause, could destroy it.
    pub(super) async fn close(mut self) {
        let Some(wire) = self.wire.as_mut() else { return };
        if !matches!(timeout(DRAIN_DEADLINE, wire.shutdown()).await, Ok(Ok(()))) {
            return;
        }
        let mut drained = 0;
        let _ = timeout(DRAIN_DEADLINE, async {
            while drained < MAX_DRAIN {
                self.filled = 0;
                if self.fill().await.is_err() {
                    return;
                }
                drained += self.filled;
            }
        })
        .await;
    }
}

/// A line as text, without Telnet commands and its end. What is not UTF-8 is no path of ours and need not survive.
fn text(line: &[u8]) -> String {
    let mut plain = Vec::with_capacity(line.len());
    let mut bytes = line.iter().copied();
    while let Some(byte) = bytes.next() {
        if byte == IAC {
            match bytes.next() {
                Some(IAC) => plain.push(IAC),
                Some(WILL..=DONT) => {
                    bytes.next();
                }
                _ => {}
            }
        } else {
            plain.push(byte);
        }
    }
    if plain.last() == Some(&b'\r') {
        plain.pop();
    }
    String::from_utf8_lossy(&plain).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn telnet_commands_are_not_part_of_a_line() {
        assert_eq!(text(b"\xff\xf4\xff\xf2ABOR\r"), "ABOR");
        assert_eq!(text(b"\xff\xfb\x01NOOP"), "NOOP");
        assert_eq!(text(b"NOOP\xff"), "NOOP");
        assert_eq!(text(b"\xff\xfb"), "");
        assert_eq!(text(b"a\rb\r"), "a\rb");
        assert_eq!(text(b"RETR \xc3"), "RETR \u{fffd}");
    }
}
