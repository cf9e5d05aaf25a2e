//! Ports for data connections.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::files::listener::listen_with;

/// Connections that wait on one data port: its client's, and room for strangers' that are turned away.
const BACKLOG: u32 = 8;

/// How long a client waits for a port where all are taken. Each is taken for about a round trip.
const PORT_DEADLINE: Duration = Duration::from_secs(10);

/// How soon ports are tried again that other programs have: outgoing connections of this host may come from the range too.
const RETRY: Duration = Duration::from_millis(50);

/// The range from which data ports are taken, at random: who wants to get ahead of a client on its data port has to guess.
#[derive(Debug)]
pub(super) struct PassivePorts {
    local: IpAddr,
    free: Mutex<Vec<u16>>,
    turns: Arc<Semaphore>,
    any: bool,
}

impl PassivePorts {
    pub(super) fn new(local: IpAddr, range: RangeInclusive<u16>) -> Self {
        let any = range == (0..=0);
        let free: Vec<u16> = range.filter(|port| *port != 0).collect();
        let turns = Arc::new(Semaphore::new(if any { Semaphore::MAX_PERMITS } else { free.len() }));
        Self { local, free: Mutex::new(free), turns, any }
    }

    pub(super) async fn listen(self: &Arc<Self>) -> io::Result<Passive> {
        if self.any {
            let listener = listen_with(SocketAddr::new(self.local, 0), BACKLOG)?;
            return Ok(Passive { listener, _lease: None });
        }
        timeout(PORT_DEADLINE, async {
            let turn = Arc::clone(&self.turns).acquire_owned().await.map_err(|_| io::ErrorKind::AddrInUse)?;
            let mut lease = Lease { ports: Arc::clone(self), port: None, _turn: turn };
            loop {
                if let Some(listener) = self.try_listen(&mut lease)? {
                    return Ok(Passive { listener, _lease: Some(lease) });
                }
                // All that are free with us are other programs': they come back by and by.
                tokio::time::sleep(RETRY).await;
            }
        })
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::AddrInUse.into()))
    }

    /// Tries each free port once, in random order.
    fn try_listen(&self, lease: &mut Lease) -> io::Result<Option<TcpListener>> {
        let mut free = self.free();
        let mut untried = free.len();
        while untried > 0 {
            let index = rand::random_range(0..untried);
            let port = free[index];
            match listen_with(SocketAddr::new(self.local, port), BACKLOG) {
                Ok(listener) => {
                    lease.port = Some(free.swap_remove(index));
                    return Ok(Some(listener));
                }
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                    untried -= 1;
                    free.swap(index, untried);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    fn free(&self) -> std::sync::MutexGuard<'_, Vec<u16>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A port that is taken from the range until this is dropped.
#[derive(Debug)]
struct Lease {
    ports: Arc<PassivePorts>,
    port: Option<u16>,
    _turn: OwnedSemaphorePermit,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.ports.free().extend(self.port);
    }
}

/// A port that waits for one data connection.
#[derive(Debug)]
pub(super) struct Passive {
    listener: TcpListener,
    _lease: Option<Lease>,
}

impl Passive {
    pub(super) fn port(&self) -> io::Result<u16> {
        self.listener.local_addr().map(|address| address.port())
    }

    /// The data connection of this peer. Others that connect are turned away.
    pub(super) async fn accept(self, peer: IpAddr, patience: Duration) -> io::Result<TcpStream> {
        timeout(patience, async {
            loop {
                let (stream, from) = self.listener.accept().await?;
                if from.ip().to_canonical() == peer {
                    return Ok(stream);
                }
                tracing::warn!(%from, %peer, "data connection from another address turned away");
            }
        })
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOPBACK: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    /// A few ports that are free now, outside the range from which the kernel gives others away by itself.
    fn free_range(len: u16) -> RangeInclusive<u16> {
        for first in (20_000..30_000).step_by(usize::from(len)) {
            let range = first..=first + len - 1;
            let listen = |port| std::net::TcpListener::bind((LOOPBACK, port));
            if range.clone().map(listen).all(|listener| listener.is_ok()) {
                return range;
            }
        }
        panic!("no {len} neighbouring ports are free");
    }

    #[tokio::test(start_paused = true)]
    async fn a_range_serves_as_many_at_once_as_it_has_ports_and_the_next_waits() {
        let range = free_range(3);
        let occupied = std::net::TcpListener::bind((LOOPBACK, *range.start())).unwrap();
        let ports = Arc::new(PassivePorts::new(LOOPBACK, range.clone()));
        let first = ports.listen().await.unwrap();
        let second = ports.listen().await.unwrap();
        assert!(range.contains(&first.port().unwrap()) && range.contains(&second.port().unwrap()));
        assert_eq!(ports.listen().await.unwrap_err().kind(), io::ErrorKind::AddrInUse, "another program has the third");
        drop(occupied);
        let third = ports.listen().await.unwrap();
        assert_eq!(ports.listen().await.unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let (fourth, ()) = tokio::join!(ports.listen(), async { drop(third) });
        fourth.unwrap();
        drop((first, second));
        assert_eq!(ports.free().len(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_peer_of_the_control_connection_gets_the_data_connection() {
        let ports = Arc::new(PassivePorts::new(LOOPBACK, 0..=0));
        let passive = ports.listen().await.unwrap();
        let address = SocketAddr::new(LOOPBACK, passive.port().unwrap());
        let stranger = TcpStream::connect(address).await.unwrap();
        let elsewhere: IpAddr = "192.0.2.1".parse().unwrap();
        let refused = passive.accept(elsewhere, Duration::from_secs(10)).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::TimedOut);
        drop(stranger);
    }
}
