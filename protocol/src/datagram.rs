//! Messages 10 and 11 over UDP, for a device whose TCP connection is gone (`docs/protocol.md`, "Without a connection").
//!
//! A datagram is one message in the dialect of the device, and nothing after it. Everything else than 10 from the server and
//! 11 from the device is refused.

use crate::dialect::Dialect;
use crate::frame::{self, EncodeError, Frame, FrameError};
use crate::message::{DeviceMessage, MessageError, ServerMessage, kind};

/// The longest datagram that is looked at: no 10 or 11 comes near it, and it goes through every network in one piece.
pub const MAX_LEN: usize = 1200;

/// Why a datagram is not what may come over UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DatagramError {
    #[error("it is longer than {MAX_LEN} bytes")]
    TooLong,
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("it is not one whole message")]
    NotOne,
    #[error("message {0} does not come over UDP")]
    Kind(u8),
    #[error(transparent)]
    Message(#[from] MessageError),
}

/// What a datagram of the server asks a device: message 10.
///
/// # Errors
/// [`DatagramError`]: nothing is answered to it.
pub fn read_request(dialect: Dialect, datagram: &[u8]) -> Result<ServerMessage, DatagramError> {
    let frame = read(dialect, datagram, kind::UPLOAD_LOG)?;
    Ok(ServerMessage::from_frame(&frame)?)
}

/// What a device answers: message 11.
///
/// # Errors
/// [`DatagramError`]: it counts for nothing.
pub fn read_reply(dialect: Dialect, datagram: &[u8]) -> Result<DeviceMessage, DatagramError> {
    let frame = read(dialect, datagram, kind::LOG_RESULT)?;
    Ok(DeviceMessage::from_frame(&frame)?)
}

/// The datagram that is this message.
///
/// # Errors
/// [`EncodeError`] where a text is longer than a datum can be.
pub fn write(dialect: Dialect, frame: &Frame) -> Result<Vec<u8>, EncodeError> {
    let mut datagram = Vec::new();
    frame.encode_in(dialect, &mut datagram)?;
    Ok(datagram)
}

/// The frame of a datagram that is to be of this type, 10 or 11.
///
/// # Errors
/// [`DatagramError`].
pub fn read(dialect: Dialect, datagram: &[u8], wanted: u8) -> Result<Frame, DatagramError> {
    if datagram.len() > MAX_LEN {
        return Err(DatagramError::TooLong);
    }
    match frame::decode_in(dialect, datagram)? {
        Some((frame, used)) if used == datagram.len() => {
            if frame.message == wanted {
                Ok(frame)
            } else {
                Err(DatagramError::Kind(frame.message))
            }
        }
        Some(_) | None => Err(DatagramError::NotOne),
    }
}
