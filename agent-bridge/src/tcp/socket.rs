//! Socket options that decide when a silent peer counts as gone, and what the kernel knows of it.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

/// An idle connection is probed after this: below the time-outs of common NATs.
const IDLE: Duration = Duration::from_secs(60);
/// And then three times so far apart.
const IDLE_INTERVAL: Duration = Duration::from_secs(10);
const PROBES: u32 = 3;
/// A holder of a MAC that is asked for is probed at once, three times a second apart.
const PROBE: Duration = Duration::from_secs(1);
/// What was sent and is not acknowledged after so long has not reached a peer that is there.
pub(super) const UNANSWERED: Duration = PROBE.saturating_mul(PROBES);

/// The table of connections is text of 150 bytes for each connection of the machine: it is read by one at a time.
static TABLE: Semaphore = Semaphore::const_new(1);

/// For a connection on which nothing is outstanding.
pub(super) fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    SockRef::from(stream)
        .set_tcp_keepalive(&TcpKeepalive::new().with_time(IDLE).with_interval(IDLE_INTERVAL).with_retries(PROBES))
}

/// For a connection on which a command is outstanding: a device that writes its flash may be deaf for minutes.
pub(super) fn be_patient(stream: &TcpStream) -> io::Result<()> {
    SockRef::from(stream).set_keepalive(false)
}

/// Lets the kernel find out within four seconds whether the peer is there. It does not probe where something is sent and
/// unacknowledged: for that there is [`is_acknowledged`]. (`TCP_USER_TIMEOUT` is no help: on a connection that was idle it
/// gives up at the first lost probe, and one that has begun to retransmit waits for its next turn, minutes later.)
pub(super) fn probe(stream: &TcpStream) -> io::Result<()> {
    SockRef::from(stream)
        .set_tcp_keepalive(&TcpKeepalive::new().with_time(PROBE).with_interval(PROBE).with_retries(PROBES))
}

/// Whether the peer has ended its side, and nothing that it said before is left to read: asked of the kernel, which knows
/// it before the runtime does.
pub(super) fn is_ended(stream: &TcpStream) -> bool {
    matches!(SockRef::from(stream).peek(&mut [std::mem::MaybeUninit::uninit()]), Ok(0))
}

/// Whether all that was sent is acknowledged, from the kernel's own table (`/proc/net/tcp`, `tcp6`: tx_queue). True where
/// the socket is not found: then there is nothing to show that it is not.
pub(super) async fn is_acknowledged(stream: &TcpStream) -> bool {
    let (Ok(local), Ok(peer)) = (stream.local_addr(), stream.peer_addr()) else { return true };
    // Never closed.
    let Ok(_turn) = TABLE.acquire().await else { return true };
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let Ok(text) = tokio::fs::read_to_string(table).await else { continue };
        if let Some(unacknowledged) = text.lines().skip(1).find_map(|line| send_queue(line, local, peer)) {
            return unacknowledged == 0;
        }
    }
    true
}

/// The bytes in the send queue, where this line of the table is of this connection.
fn send_queue(line: &str, local: SocketAddr, peer: SocketAddr) -> Option<u64> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (ours, theirs, _state, queues) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let same = |text: &str, address: SocketAddr| {
        let port = text.rsplit_once(':').and_then(|(_, port)| u16::from_str_radix(port, 16).ok());
        port == Some(address.port())
    };
    if !(same(ours, local) && same(theirs, peer) && is_address(theirs, peer)) {
        return None;
    }
    u64::from_str_radix(queues.split_once(':')?.0, 16).ok()
}

/// Whether the last four bytes of the address are those of `peer`; the table has them in host order, word by word.
fn is_address(text: &str, peer: SocketAddr) -> bool {
    let Some((address, _)) = text.rsplit_once(':') else { return false };
    let Some(last) = address.get(address.len().saturating_sub(8)..) else { return false };
    let Ok(word) = u32::from_str_radix(last, 16) else { return false };
    let wanted: [u8; 4] = match peer.ip() {
        std::net::IpAddr::V4(ip) => ip.octets(),
        std::net::IpAddr::V6(ip) => {
            let [.., a, b, c, d] = ip.octets();
            [a, b, c, d]
        }
    };
    word.to_ne_bytes() == wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_send_queue_is_found_by_both_ends() {
        let line = "   3: 0100007F:1B9E 0100007F:D431 01 0000002A:00000000 00:00000000 00000000     0        0 9 1";
        let (local, peer) = ("127.0.0.1:7070".parse().unwrap(), "127.0.0.1:54321".parse().unwrap());
        assert_eq!(send_queue(line, local, peer), Some(42));
        assert_eq!(send_queue(line, local, "127.0.0.1:54322".parse().unwrap()), None);
        assert_eq!(send_queue(line, local, "127.0.0.2:54321".parse().unwrap()), None);
        assert_eq!(send_queue("nonsense", local, peer), None);
    }

    #[tokio::test]
    async fn a_peer_that_reads_nothing_still_acknowledges() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        stream.try_write(b"hello").unwrap();
        let acknowledged = async { while !is_acknowledged(&stream).await {} };
        tokio::time::timeout(Duration::from_secs(10), acknowledged).await.unwrap();
    }

    #[tokio::test]
    async fn what_a_full_peer_has_no_room_for_is_not_acknowledged() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let _peer = listener.accept().await.unwrap();
        while stream.try_write(&[0; 65_536]).is_ok() {}
        assert!(!is_acknowledged(&stream).await);
    }

    #[tokio::test]
    async fn probing_and_patience_replace_each_other() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let socket = SockRef::from(&stream);
        keep_alive(&stream).unwrap();
        assert_eq!((socket.keepalive().unwrap(), socket.tcp_keepalive_time().unwrap()), (true, IDLE));
        be_patient(&stream).unwrap();
        assert!(!socket.keepalive().unwrap());
        probe(&stream).unwrap();
        assert_eq!((socket.keepalive().unwrap(), socket.tcp_keepalive_time().unwrap()), (true, PROBE));
        assert_eq!(
            (socket.tcp_keepalive_interval().unwrap(), socket.tcp_keepalive_retries().unwrap()),
            (PROBE, PROBES)
        );
    }
}
