//! A network between one TFTP client and the server, which loses packets, doubles them and lets them come late, the same
//! ones in each run. Any client may be behind it, for it is an address to talk to.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio_util::task::AbortOnDropHandle;

const RRQ: u8 = 1;
const WRQ: u8 = 2;
const DATA: u8 = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Passes,
    IsLost,
    ComesTwice,
    /// Others pass it by.
    ComesLate(Duration),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Way {
    ToServer,
    ToClient,
}

/// By way and by what a packet begins with.
type Sent = Arc<Mutex<HashMap<(Way, Vec<u8>), usize>>>;

/// A network between one client and the server. It counts, for each packet that was sent, how often.
pub struct Network {
    pub address: SocketAddr,
    sent: Sent,
    _task: AbortOnDropHandle<()>,
}

impl Network {
    pub async fn new(server: SocketAddr, mut fate: impl FnMut(Way, &[u8]) -> Fate + Send + 'static) -> Self {
        let near = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let far = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let address = near.local_addr().unwrap();
        let sent = Sent::default();
        let counts = Arc::clone(&sent);
        let task = tokio::spawn(async move {
            let (mut client, mut transfer) = (None, server);
            let (mut out, mut back) = (vec![0; 65_536], vec![0; 65_536]);
            let mut late = tokio::task::JoinSet::new();
            loop {
                let (way, packet, to) = tokio::select! {
                    Ok((len, from)) = near.recv_from(&mut out) => {
                        // A request goes to the server's port, also when it comes again.
                        let packet = &out[..len];
                        client = Some(from);
                        (Way::ToServer, packet, if matches!(packet[1], RRQ | WRQ) { server } else { transfer })
                    }
                    Ok((len, from)) = far.recv_from(&mut back) => {
                        transfer = from;
                        let Some(client) = client else { continue };
                        (Way::ToClient, &back[..len], client)
                    }
                    Some(_) = late.join_next() => continue,
                    else => continue,
                };
                *counts.lock().unwrap().entry((way, packet[..4].to_vec())).or_default() += 1;
                let socket = match way {
                    Way::ToServer => &far,
                    Way::ToClient => &near,
                };
                let times = match fate(way, packet) {
                    Fate::IsLost => 0,
                    Fate::Passes => 1,
                    Fate::ComesTwice => 2,
                    Fate::ComesLate(delay) => {
                        let (socket, packet) = (Arc::clone(socket), packet.to_vec());
                        late.spawn(async move {
                            tokio::time::sleep(delay).await;
                            let _ = socket.send_to(&packet, to).await;
                        });
                        0
                    }
                };
                for _ in 0..times {
                    // The other side may have closed its port.
                    let _ = socket.send_to(packet, to).await;
                }
            }
        });
        Self { address, sent, _task: AbortOnDropHandle::new(task) }
    }

    /// How often each data block was sent by the server.
    pub fn blocks(&self) -> Vec<usize> {
        let sent = self.sent.lock().unwrap();
        sent.iter()
            .filter(|((way, head), _)| *way == Way::ToClient && head[1] == DATA)
            .map(|(_, count)| *count)
            .collect()
    }
}

/// Numbers below ten, the same ones in each run.
fn dice() -> impl FnMut() -> u64 + Send {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % 10
    }
}

/// Loses one packet of ten and doubles one of ten.
pub fn loses_and_doubles() -> impl FnMut(Way, &[u8]) -> Fate + Send {
    let mut dice = dice();
    move |_, _| match dice() {
        0 => Fate::IsLost,
        1 => Fate::ComesTwice,
        _ => Fate::Passes,
    }
}

/// Loses one packet of ten, doubles one of ten, and lets two of ten come so late that others overtake them.
pub fn does_it_all() -> impl FnMut(Way, &[u8]) -> Fate + Send {
    let mut dice = dice();
    move |_, _| match dice() {
        0 => Fate::IsLost,
        1 => Fate::ComesTwice,
        2 => Fate::ComesLate(Duration::from_millis(3)),
        3 => Fate::ComesLate(Duration::from_millis(40)),
        _ => Fate::Passes,
    }
}
