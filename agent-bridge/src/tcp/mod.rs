//! The device port: connections, and what keeps them within bounds. What devices say goes to the hub; what it wants said
//! comes from there. Nothing here knows what a message means.

mod connection;
pub mod descriptors;
mod limits;
mod listener;
mod orders;
mod socket;

use std::net::IpAddr;

use fettle_protocol::message::{DeviceInformation, DeviceMessage};
use fettle_protocol::session::ConnectionId;

use crate::metrics::Closed;

pub use listener::{Listener, ListenerConfig};
pub use orders::{Inbox, NotTaken, Order, Orders, orders};

/// What a connection tells the hub.
#[derive(Debug)]
pub enum Told {
    /// The first message 1.
    Called { info: Box<DeviceInformation>, address: IpAddr, orders: Orders },
    /// A further message.
    Said(DeviceMessage),
    /// It is gone. `acknowledged`: TCP has confirmed all that was sent on it, as far as can be known.
    Gone { reason: Closed, acknowledged: bool },
}

/// Something that a connection told.
pub type FromConnection = (ConnectionId, Told);
