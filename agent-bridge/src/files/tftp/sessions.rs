//! Which transfers run, by the client's address and port: what tells a repeated request from a new one, and what finds
//! the transfer of a packet in single-port mode.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::options::DEFAULT_BLOCK;
use crate::files::credentials::{Operation, Permission};

/// Packets that wait for a transfer in single-port mode: acknowledgements are tiny and one or two; blocks are at most a
/// window, of which the rest is lost and sent again.
const ACK_INBOX: usize = 4;
const DATA_INBOX: usize = 16;

/// Bounds what waits for an upload in single-port mode: longer blocks are not granted there. A common block, as it fits into a
/// packet on Ethernet.
pub(super) const MAX_SHARED_BLOCK: usize = 1_468;
const _: () = assert!(MAX_SHARED_BLOCK >= DEFAULT_BLOCK);

#[derive(Debug, Default)]
pub(super) struct Sessions {
    running: Mutex<Running>,
}

#[derive(Debug, Default)]
struct Running {
    sessions: HashMap<SocketAddr, Entry>,
    next_id: u64,
}

#[derive(Debug)]
struct Entry {
    id: u64,
    permission: Permission,
    answered: Arc<AtomicBool>,
    superseded: CancellationToken,
    inbox: Option<mpsc::Sender<Vec<u8>>>,
}

/// A transfer that may begin.
pub(super) struct Registered {
    pub(super) session: Session,
    pub(super) inbox: Option<mpsc::Receiver<Vec<u8>>>,
}

impl Sessions {
    /// A place for a transfer; with an inbox for packets of this operation, in single-port mode. `None`: the request repeats one
    /// that is being answered. A new request from the same port, or the same after the transfer was under way, ends the
    /// former transfer: its client has begun again.
    pub(super) fn register(
        self: &Arc<Self>,
        peer: SocketAddr,
        permission: Permission,
        inbox: Option<Operation>,
    ) -> Option<Registered> {
        let mut running = self.lock();
        if let Some(former) = running.sessions.get(&peer) {
            if former.permission == permission && !former.answered.load(Ordering::Relaxed) {
                return None;
            }
            former.superseded.cancel();
        }
        let id = running.next_id;
        running.next_id += 1;
        let (sender, receiver) = match inbox {
            None => (None, None),
            Some(operation) => {
                let (sender, receiver) = mpsc::channel(match operation {
                    Operation::Download => ACK_INBOX,
                    Operation::Upload => DATA_INBOX,
                });
                (Some(sender), Some(receiver))
            }
        };
        let answered = Arc::new(AtomicBool::new(false));
        let superseded = CancellationToken::new();
        let session = Session {
            sessions: Arc::clone(self),
            peer,
            id,
            answered: Arc::clone(&answered),
            superseded: superseded.clone(),
        };
        running.sessions.insert(peer, Entry { id, permission, answered, superseded, inbox: sender });
        Some(Registered { session, inbox: receiver })
    }

    /// Hands a packet to the transfer that it belongs to. What does not fit is lost, as it may be on any network.
    pub(super) fn deliver(&self, peer: SocketAddr, packet: &[u8]) {
        let running = self.lock();
        if let Some(inbox) = running.sessions.get(&peer).and_then(|entry| entry.inbox.as_ref())
            && packet.len() <= super::packet::DATA_HEADER + MAX_SHARED_BLOCK
            && let Ok(place) = inbox.try_reserve()
        {
            place.send(packet.to_vec());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A transfer's entry, until it is dropped.
#[derive(Debug)]
pub(super) struct Session {
    sessions: Arc<Sessions>,
    peer: SocketAddr,
    id: u64,
    answered: Arc<AtomicBool>,
    superseded: CancellationToken,
}

impl Session {
    /// The client has answered: a further request is a new one.
    pub(super) fn answered(&self) {
        self.answered.store(true, Ordering::Relaxed);
    }

    /// Cancelled when the client has begun again.
    pub(super) fn superseded(&self) -> CancellationToken {
        self.superseded.clone()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let mut running = self.sessions.lock();
        if running.sessions.get(&self.peer).is_some_and(|entry| entry.id == self.id) {
            running.sessions.remove(&self.peer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::credentials::DeviceId;
    use jiff::Timestamp;

    fn permission(command: u32) -> Permission {
        Permission::download(DeviceId::of_uid("uid"), &[1; 32], command, Timestamp::MAX)
    }

    fn peer() -> SocketAddr {
        "192.0.2.1:1069".parse().unwrap()
    }

    #[test]
    fn a_repeated_request_is_none_until_the_client_has_answered() {
        let sessions = Arc::new(Sessions::default());
        let first = sessions.register(peer(), permission(1), None).unwrap().session;
        assert!(sessions.register(peer(), permission(1), None).is_none());
        first.answered();
        let second = sessions.register(peer(), permission(1), None).unwrap().session;
        assert!(first.superseded().is_cancelled());
        drop(first);
        assert!(sessions.register(peer(), permission(1), None).is_none(), "the second one still runs");
        drop(second);
        assert!(sessions.lock().sessions.is_empty());
    }

    #[test]
    fn a_request_for_another_file_ends_the_former_transfer() {
        let sessions = Arc::new(Sessions::default());
        let first = sessions.register(peer(), permission(1), None).unwrap().session;
        let second = sessions.register(peer(), permission(2), None).unwrap().session;
        assert!(first.superseded().is_cancelled() && !second.superseded().is_cancelled());
    }

    #[test]
    fn packets_find_their_transfer_and_what_is_too_many_or_too_long_is_lost() {
        let sessions = Arc::new(Sessions::default());
        let mut registered = sessions.register(peer(), permission(1), Some(Operation::Download)).unwrap();
        let inbox = registered.inbox.as_mut().unwrap();
        sessions.deliver(peer(), &[0; 5_000]);
        sessions.deliver("192.0.2.2:1069".parse().unwrap(), b"other");
        for number in 0..10 {
            sessions.deliver(peer(), &[number]);
        }
        let mut received = Vec::new();
        while let Ok(packet) = inbox.try_recv() {
            received.push(packet);
        }
        assert_eq!(received, [[0], [1], [2], [3]]);
    }
}
