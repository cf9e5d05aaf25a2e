//! A wire between a device and a bridge that a test can cut at a message: before it arrives, or right after.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use fettle_protocol::Decoder;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// When the wire is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// The message of this type never arrives.
    Before(u8),
    /// It arrives, and nothing after it.
    After(u8),
}

/// The wire. It is cut once; later connections pass.
pub struct Wire {
    pub address: SocketAddr,
    cut: Arc<CutState>,
    task: tokio::task::JoinHandle<()>,
}

struct CutState {
    armed: Mutex<Option<Cut>>,
    done: Notify,
    on_cut: Box<dyn Fn() + Send + Sync>,
}

impl Wire {
    /// A wire to `bridge` that is cut as `cut` says; `on_cut` runs at that moment, before either end notices.
    pub async fn to(bridge: SocketAddr, cut: Cut, on_cut: impl Fn() + Send + Sync + 'static) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let state = Arc::new(CutState { armed: Mutex::new(Some(cut)), done: Notify::new(), on_cut: Box::new(on_cut) });
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            while let Ok((device, _)) = listener.accept().await {
                let shared = Arc::clone(&shared);
                tokio::spawn(async move {
                    // A bridge that is down takes no connection: the device notices as it would without the wire.
                    if let Ok(bridge) = TcpStream::connect(bridge).await {
                        carry(device, bridge, &shared).await;
                    }
                });
            }
        });
        Ok(Self { address, cut: state, task })
    }

    /// Returns when the wire has been cut.
    pub async fn was_cut(&self) {
        self.cut.done.notified().await;
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(mut device: TcpStream, mut bridge: TcpStream, state: &CutState) {
    let (mut from_device, mut from_bridge) = (Direction::default(), Direction::default());
    let (mut up, mut down) = ([0; 2048], [0; 2048]);
    loop {
        let goes_on = tokio::select! {
            read = device.read(&mut up) => match read {
                Ok(count) if count > 0 => from_device.pass(&up[..count], &mut bridge, state).await,
                _ => false,
            },
            read = bridge.read(&mut down) => match read {
                Ok(count) if count > 0 => from_bridge.pass(&down[..count], &mut device, state).await,
                _ => false,
            },
        };
        if !goes_on {
            return;
        }
    }
}

/// The messages of one direction.
#[derive(Default)]
struct Direction {
    decoder: Decoder,
}

impl Direction {
    /// Passes whole messages on, up to the cut. Whether the wire still stands.
    async fn pass(&mut self, bytes: &[u8], to: &mut TcpStream, state: &CutState) -> bool {
        self.decoder.push(bytes);
        while let Ok(Some(frame)) = self.decoder.next_frame() {
            let cut = state
                .armed
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take_if(|cut| *cut == Cut::Before(frame.message) || *cut == Cut::After(frame.message));
            let mut encoded = Vec::new();
            if frame.encode(&mut encoded).is_err() {
                return false;
            }
            if !matches!(cut, Some(Cut::Before(_))) && to.write_all(&encoded).await.is_err() {
                return false;
            }
            if cut.is_some() {
                (state.on_cut)();
                state.done.notify_one();
                return false;
            }
        }
        true
    }
}
