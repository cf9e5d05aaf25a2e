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
//! Lengths are checked strictly, and nothing is allocated for a message before all of it has arrived. The contents of
//! RESERVED and of the padding are written as zero and not looked at: a device that leaves rubbish there says nothing
//! different by it.
//!
//! This module knows no message and no datum: what the numbers mean is [`crate::message`]'s.

/// Bytes of the header that begins every message.
pub const HEADER_LEN: usize = 4;
/// Bytes of the header that begins every datum.
pub const DATUM_HEADER_LEN: usize = 4;
/// The longest value of a datum, in bytes: the largest that, padded and with its header, DATA_LEN can say.
pub const MAX_VALUE_LEN: usize = 248;
/// The longest message that can be well formed, in bytes.
pub const MAX_FRAME_LEN: usize = HEADER_LEN + 255 * (DATUM_HEADER_LEN + MAX_VALUE_LEN);

/// One message, not yet interpreted: its type and its data in the order of the wire. Its `Debug` shows all values,
/// passwords too: log [`Frame::message`] and no more.
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
    /// LENGTH is less than the headers of DATA_NUM data take.
    #[error("malformed message {message} from the peer: LENGTH {length} cannot hold {data_num} data")]
    LengthTooSmall { message: u8, length: u16, data_num: u8 },
    /// LENGTH is more than DATA_NUM data of the greatest length take.
    #[error("malformed message {message} from the peer: LENGTH {length} is more than {data_num} data can have")]
    LengthTooLarge { message: u8, length: u16, data_num: u8 },
    /// DATA_LEN is not 4 + VALUE_LEN, rounded up to a multiple of four.
    #[error(
        "malformed message {message} from the peer: datum {datum} has DATA_LEN {data_len}, \
         which does not fit its VALUE_LEN {value_len}"
    )]
    DataLength { message: u8, datum: u8, data_len: u8, value_len: u8 },
    /// DATA_LEN takes more of LENGTH than is left, or leaves too little for the headers of the data that follow.
    #[error("malformed message {message} from the peer: LENGTH has no room for datum {datum} and what follows")]
    DatumPastEnd { message: u8, datum: u8 },
    /// The data that came, and the longest that can follow, are shorter than LENGTH, by so much.
    #[error("malformed message {message} from the peer: its data end {extra} bytes before LENGTH does")]
    TrailingBytes { message: u8, extra: u16 },
}

/// The value is too long for a datum, or there are too many data for a message. Our own fault: nothing that we build
/// from checked input comes near the limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    #[error("cannot encode datum {datum}: its value has {len} bytes, the limit is {MAX_VALUE_LEN}")]
    ValueTooLong { datum: u8, len: usize },
    #[error("cannot encode a message of {0} data, the limit is 255")]
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

/// Turns a stream of bytes into [`Frame`]s.
///
/// Whoever takes all messages out after each [`push`](Self::push) bounds its memory: what then remains is the beginning
/// of one message, less than [`MAX_FRAME_LEN`] bytes.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    /// How much of the beginning of `buffer` was taken out: moved away with the next push and not with each message,
    /// so that a read full of the shortest messages costs no more than its length.
    taken: usize,
}

impl Decoder {
    /// An empty decoder. It allocates when bytes arrive, and gives the memory back when all of them are consumed.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends what was read from the peer.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.taken);
        self.taken = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// How many bytes were pushed and are not yet part of a message that was taken out.
    pub fn buffered(&self) -> usize {
        self.buffer.len() - self.taken
    }

    /// Whether bytes are left over. After [`next_frame`](Self::next_frame) said `None` this means that a message has
    /// begun and is not complete: the peer owes the rest.
    pub fn is_partial(&self) -> bool {
        self.buffered() > 0
    }

    /// The next whole message, or `None` until more bytes are pushed.
    ///
    /// # Errors
    /// [`FrameError`] as [`decode`] says; the decoder gives the same error ever after.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some((frame, used)) = decode(&self.buffer[self.taken..])? else { return Ok(None) };
        self.taken += used;
        if self.taken == self.buffer.len() {
            *self = Self::default();
        }
        Ok(Some(frame))
    }
}

/// Decodes the message that `bytes` begins with: the message and how many bytes it took, or `None` where `bytes` is a
/// proper beginning of one.
///
/// # Errors
/// [`FrameError`] as soon as a header shows it, whether or not the message is complete: a peer that lied about a length
/// is not waited for.
pub fn decode(bytes: &[u8]) -> Result<Option<(Frame, usize)>, FrameError> {
    let Some((&[message, data_num, high, low], mut rest)) = bytes.split_first_chunk::<HEADER_LEN>() else {
        return Ok(None);
    };
    let length = u16::from_be_bytes([high, low]);
    let mut left = usize::from(length);
    let number = usize::from(data_num);
    if left < number * DATUM_HEADER_LEN {
        return Err(FrameError::LengthTooSmall { message, length, data_num });
    }
    if left > number * (DATUM_HEADER_LEN + MAX_VALUE_LEN) {
        return Err(FrameError::LengthTooLarge { message, length, data_num });
    }
    // Of an incomplete message the lengths are checked and nothing is copied: it will be looked at again from its
    // beginning with each read, which must stay cheap for a peer that sends it byte by byte.
    let complete = rest.len() >= left;
    let mut data = Vec::with_capacity(if complete { number } else { 0 });
    for following in (0..number).rev() {
        let Some((&[datum, data_len, value_len, _reserved], after)) = rest.split_first_chunk::<DATUM_HEADER_LEN>()
        else {
            return Ok(None);
        };
        let room = padded(usize::from(value_len));
        if usize::from(data_len) != DATUM_HEADER_LEN + room {
            return Err(FrameError::DataLength { message, datum, data_len, value_len });
        }
        left = left
            .checked_sub(usize::from(data_len))
            .filter(|left| *left >= following * DATUM_HEADER_LEN)
            .ok_or(FrameError::DatumPastEnd { message, datum })?;
        if let extra @ 1.. = left.saturating_sub(following * (DATUM_HEADER_LEN + MAX_VALUE_LEN)) {
            // Fits: it is less than LENGTH.
            return Err(FrameError::TrailingBytes { message, extra: extra as u16 });
        }
        let Some((value, after)) = after.split_at_checked(room) else { return Ok(None) };
        if complete {
            data.push((datum, value[..usize::from(value_len)].to_vec()));
        }
        rest = after;
    }
    // Nothing is left: the last datum had to take exactly what was.
    Ok(Some((Frame { message, data }, HEADER_LEN + usize::from(length))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decoder_that_waits_for_nothing_holds_no_memory() {
        let mut decoder = Decoder::new();
        assert_eq!(decoder.buffer.capacity(), 0);
        decoder.push(&[34, 0, 0, 0, 34, 0, 0, 0]);
        while decoder.next_frame() != Ok(None) {}
        assert_eq!(decoder.buffer.capacity(), 0);
    }
}
