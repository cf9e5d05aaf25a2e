//! How a message is laid out on the wire (`docs/protocol.md`, "Frames"), and a decoder for byte streams.
//!
//! All integers are big-endian.
//!
//! ```text
//! MSG_TYPE u8 | DATA_NUM u8 | LENGTH u16 | DATA_INFO × DATA_NUM          LENGTH = bytes of all DATA_INFO
//! DATA_INFO:  DATA_TYPE u8 | DATA_LEN u8 | VALUE_LEN u8 | RESERVED u8 | DATA_VALUE, zero-padded to four bytes
//!             DATA_LEN = 4 + padded length     VALUE_LEN = unpadded length, at most 248
//! ```
//!
//! Lengths are checked strictly, before anything is kept. The contents of RESERVED and of the padding are written as
//! zero and not looked at: a device that leaves rubbish there says nothing different by it.

/// Bytes of the header that begins every message.
pub const HEADER_LEN: usize = 4;
/// Bytes of the header that begins every datum.
pub const DATUM_HEADER_LEN: usize = 4;
/// The longest value of a datum, in bytes: the largest that, padded and with its header, DATA_LEN can say.
pub const MAX_VALUE_LEN: usize = 248;
/// The longest message that can be well formed, in bytes.
pub const MAX_FRAME_LEN: usize = HEADER_LEN + 255 * (DATUM_HEADER_LEN + MAX_VALUE_LEN);

/// One message, not yet interpreted: its type and its data in the order of the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// MSG_TYPE.
    pub message: u8,
    /// DATA_TYPE and unpadded value of each datum.
    pub data: Vec<(u8, Vec<u8>)>,
}

/// Why bytes are not a message. The peer's fault, always; the stream cannot be read on after one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("message type {message}: LENGTH {length} cannot hold {data_num} data")]
    LengthTooSmall { message: u8, length: u16, data_num: u8 },
    #[error("message type {message}: LENGTH {length} is more than {data_num} data can have")]
    LengthTooLarge { message: u8, length: u16, data_num: u8 },
    #[error("message type {message}, datum {datum}: DATA_LEN {data_len} does not fit VALUE_LEN {value_len}")]
    DataLength { message: u8, datum: u8, data_len: u8, value_len: u8 },
    #[error("message type {message}, datum {datum}: runs past LENGTH")]
    DatumPastEnd { message: u8, datum: u8 },
    #[error("message type {message}: {extra} bytes after the last datum")]
    TrailingBytes { message: u8, extra: u16 },
}

/// The value is too long for a datum, or there are too many data for a message. Our own fault: nothing that we build
/// from checked input comes near the limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    #[error("datum {datum}: {len} bytes, the limit is {MAX_VALUE_LEN}")]
    ValueTooLong { datum: u8, len: usize },
    #[error("{0} data, the limit is 255")]
    TooManyData(usize),
}

const fn padded(len: usize) -> usize {
    len.next_multiple_of(4)
}

impl Frame {
    /// Appends the bytes of this message.
    ///
    /// # Errors
    /// [`EncodeError`] where a value or their number exceeds what the format can say; nothing is appended then.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let data_num = u8::try_from(self.data.len()).map_err(|_| EncodeError::TooManyData(self.data.len()))?;
        let mut body = Vec::new();
        for (datum, value) in &self.data {
            if value.len() > MAX_VALUE_LEN {
                return Err(EncodeError::ValueTooLong { datum: *datum, len: value.len() });
            }
            let padding = padded(value.len()) - value.len();
            // Both fit: the value was just checked to be at most 248 bytes long.
            body.extend([*datum, (DATUM_HEADER_LEN + value.len() + padding) as u8, value.len() as u8, 0]);
            body.extend_from_slice(value);
            body.extend_from_slice(&[0; 3][..padding]);
        }
        // At most 255 × 252 bytes: fits.
        let length = (body.len() as u16).to_be_bytes();
        out.extend([self.message, data_num, length[0], length[1]]);
        out.append(&mut body);
        Ok(())
    }
}

/// Turns a stream of bytes into [`Frame`]s. Holds at most one message's bytes ([`MAX_FRAME_LEN`]) and what came with
/// its last read; allocates no more than has arrived.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
}

impl Decoder {
    /// An empty decoder. It allocates when bytes arrive, and gives the memory back when all of them are consumed.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends what was read from the peer.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Whether a message has begun and is not complete: the peer owes bytes.
    pub fn is_partial(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// The next whole message, or `None` until more bytes are pushed.
    ///
    /// # Errors
    /// [`FrameError`] at the first byte that cannot be part of a message; the decoder is of no use afterwards.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some((frame, used)) = decode(&self.buffer)? else { return Ok(None) };
        if used == self.buffer.len() {
            self.buffer = Vec::new();
        } else {
            self.buffer.drain(..used);
        }
        Ok(Some(frame))
    }
}

/// Decodes the message that `bytes` begins with: the message and how many bytes it took, or `None` where `bytes` is a
/// proper beginning of one.
///
/// # Errors
/// [`FrameError`] as soon as the bytes show it, be the message complete or not.
pub fn decode(bytes: &[u8]) -> Result<Option<(Frame, usize)>, FrameError> {
    let Some((&[message, data_num, high, low], mut rest)) = bytes.split_first_chunk::<HEADER_LEN>() else {
        return Ok(None);
    };
    let length = u16::from_be_bytes([high, low]);
    let number = usize::from(data_num);
    if usize::from(length) < number * DATUM_HEADER_LEN {
        return Err(FrameError::LengthTooSmall { message, length, data_num });
    }
    if usize::from(length) > number * (DATUM_HEADER_LEN + MAX_VALUE_LEN) {
        return Err(FrameError::LengthTooLarge { message, length, data_num });
    }
    let mut left = usize::from(length);
    let mut data = Vec::new();
    for _ in 0..number {
        let Some((&[datum, data_len, value_len, _reserved], after)) = rest.split_first_chunk::<DATUM_HEADER_LEN>()
        else {
            return Ok(None);
        };
        let value_room = padded(usize::from(value_len));
        if usize::from(data_len) != DATUM_HEADER_LEN + value_room {
            return Err(FrameError::DataLength { message, datum, data_len, value_len });
        }
        left = left.checked_sub(usize::from(data_len)).ok_or(FrameError::DatumPastEnd { message, datum })?;
        let Some((value, after)) = after.split_at_checked(value_room) else { return Ok(None) };
        data.push((datum, value[..usize::from(value_len)].to_vec()));
        rest = after;
    }
    match left {
        0 => Ok(Some((Frame { message, data }, HEADER_LEN + usize::from(length)))),
        extra => Err(FrameError::TrailingBytes { message, extra: extra as u16 }),
    }
}
