//! The private upgrade protocol between network devices and Fettle: frames, messages, and the server's session.
//!
//! Everything here is pure: no I/O, no clock, no randomness. `docs/protocol.md` is the reference for the bytes;
//! this crate is its executable form. It is used by the bridge (server side) and by the reference device.
//!
//! An error says by its type whose fault it is: [`FrameError`] and [`MessageError`] are the peer's, [`EncodeError`] is
//! ours.
//!
//! - [`frame`]: how one message is laid out; [`dialect`]: the other ways in which that can be read; [`Decoder`]: messages
//!   from byte streams.
//! - [`datagram`]: the two messages that go over UDP.
//! - [`datum`]: the numbered data that messages carry.
//! - [`message`]: the messages themselves, as types, by direction.
//! - [`proof`]: of who asks for a log over UDP.
//! - [`crc`]: what is in datum 14, of each kind.
//! - [`session`]: what the server does about one device, as a state machine.

pub mod crc;
pub mod datagram;
pub mod datum;
mod decoder;
pub mod dialect;
pub mod frame;
mod mac;
pub mod message;
pub mod proof;
pub mod session;

pub use decoder::Decoder;
pub use dialect::Dialect;
pub use frame::{EncodeError, Frame, FrameError};
pub use mac::{Mac, ParseMacError};
pub use message::{DeviceMessage, MessageError, ServerMessage};
