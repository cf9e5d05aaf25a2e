//! The device port: connections, and what keeps them within bounds. What devices say goes to the hub; what it wants said
//! comes from there. Nothing here knows what a message means.

mod connection;
mod limits;
mod listener;
mod socket;

use fettle_protocol::message::{DeviceInformation, DeviceMessage};
use fettle_protocol::session::ConnectionId;
use std::net::IpAddr;
use tokio::sync::mpsc;

use crate::metrics::Closed;

pub use listener::{Listener, ListenerConfig};

/// What a connection tells the hub.
#[derive(Debug)]
pub enum Told {
    /// The first message 1.
    Called { info: Box<DeviceInformation>, address: IpAddr, orders: mpsc::Sender<Order> },
    /// A further message.
    Said(DeviceMessage),
    /// It is gone. `acknowledged`: TCP has confirmed all that was sent on it, as far as can be known.
    Gone { acknowledged: bool },
}

/// What the hub orders a connection to do, one after the other.
#[derive(Debug)]
pub enum Order {
    /// Send these bytes, after a while where one is given.
    Send { bytes: Box<[u8]>, after: std::time::Duration },
    /// Shut the sending side, drain, close at the peer's FIN or after 5 s.
    Finish,
    /// Close at once.
    Close(Closed),
    /// Find out quickly whether the peer is still there.
    Probe,
    /// Whether a command is outstanding: its deadline counts then, and keep-alive does not.
    Outstanding(bool),
}

/// Orders that may wait in a connection: more than the hub ever gives in one go (send, finish, outstanding, probe).
pub const ORDERS: usize = 8;

/// Something that a connection told.
pub type FromConnection = (ConnectionId, Told);
