//! A wire that is cut: what a server sends gets through up to a length, and then the connection is gone. The next one gets
//! the next length; after the last, all of it gets through.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

pub struct Cutter {
    pub address: SocketAddr,
    connections: Arc<AtomicUsize>,
    _task: AbortOnDropHandle<()>,
}

impl Cutter {
    /// `lengths`: how much of what the server sends gets through, of each connection in turn.
    pub async fn new(server: SocketAddr, lengths: &[usize]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let (lengths, count) = (lengths.to_vec(), Arc::clone(&connections));
        let task = tokio::spawn(async move {
            let mut wires = tokio::task::JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let turn = count.fetch_add(1, Ordering::SeqCst);
                let left = lengths.get(turn).copied().unwrap_or(usize::MAX);
                wires.spawn(wire(client, server, left));
            }
        });
        Self { address, connections, _task: AbortOnDropHandle::new(task) }
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

async fn wire(client: TcpStream, server: SocketAddr, mut left: usize) {
    let Ok(server) = TcpStream::connect(server).await else { return };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let up = tokio::io::copy(&mut from_client, &mut to_server);
    let down = async {
        let mut buffer = vec![0; 16 * 1024];
        while left > 0 {
            let len = from_server.read(&mut buffer).await.unwrap_or(0).min(left);
            if len == 0 || to_client.write_all(&buffer[..len]).await.is_err() {
                break;
            }
            left -= len;
        }
    };
    tokio::select! {
        // A client that has said all may still be listening.
        Err(_) = up => {}
        () = down => {}
    }
}
