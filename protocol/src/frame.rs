//! How a message is laid out on the wire (`docs/protocol.md`, "Frames").
//!
//! All integers are big-endian. A [`Frame`] knows no dialect: reading and writing in another one than this, which is the
//! canonical one, changes the bytes and not what they say.
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
//! This module knows no message, and of data only which are numbers: what they mean is [`crate::message`]'s.

use crate::datum;
use crate::dialect::Dialect;

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
    /// DATA_TYPE and unpadded value of each datum, numbers big-endian.
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
    /// DATA_LEN is not 4 + VALUE_LEN, rounded up to a multiple of four, or what stands for it in the dialect.
    #[error(
        "malformed message {message} from the peer: datum {datum} has DATA_LEN {data_len}, \
         which does not fit its VALUE_LEN {value_len}"
    )]
    DataLength { message: u8, datum: u8, data_len: u8, value_len: u8 },
    /// VALUE_LEN is more than a datum can have in the canonical dialect, where DATA_LEN could not say it.
    #[error("malformed message {message} from the peer: datum {datum} has VALUE_LEN {value_len}, the limit is 248")]
    ValueTooLong { message: u8, datum: u8, value_len: u8 },
    /// The datum takes more of LENGTH than is left, or leaves too little for the headers of the data that follow.
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

/// From the byte order of a frame to that of the wire, or back.
fn in_order(dialect: Dialect, datum: u8, value: &mut [u8]) {
    if dialect.has(Dialect::LITTLE_ENDIAN) && datum::is_number(datum) {
        value.reverse();
    }
}

impl Frame {
    /// Appends the bytes of this message, in the canonical dialect.
    ///
    /// # Errors
    /// [`EncodeError`] where a value or their number exceeds what the format can say; nothing is appended then.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        self.encode_in(Dialect::CANONICAL, out)
    }

    /// Appends the bytes of this message, in this dialect.
    ///
    /// # Errors
    /// As [`encode`](Self::encode): what cannot be said in the canonical dialect is said in none.
    pub fn encode_in(&self, dialect: Dialect, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let data_num = u8::try_from(self.data.len()).map_err(|_| EncodeError::TooManyData(self.data.len()))?;
        let mut body = Vec::new();
        for (datum, value) in &self.data {
            if value.len() > MAX_VALUE_LEN {
                return Err(EncodeError::ValueTooLong { datum: *datum, len: value.len() });
            }
            let padded = padded(value.len());
            // Both fit: the value was just checked to be at most 248 bytes long.
            body.extend([*datum, dialect.data_len(value.len(), padded) as u8, value.len() as u8, 0]);
            let at = body.len();
            body.extend_from_slice(value);
            in_order(dialect, *datum, &mut body[at..]);
            body.resize(at + padded, 0);
        }
        // At most 4 + 255 × 252: fits.
        let [first, second] = dialect.u16_bytes((dialect.length_beyond_data() + body.len()) as u16);
        out.extend([self.message, data_num, first, second]);
        out.append(&mut body);
        Ok(())
    }
}

/// Decodes the message that `bytes` begins with, in the canonical dialect: the message and how many bytes it took, or
/// `None` where `bytes` is a proper beginning of one.
///
/// # Errors
/// [`FrameError`] as soon as a header shows it, whether or not the message is complete: a peer that lied about a length
/// is not waited for.
pub fn decode(bytes: &[u8]) -> Result<Option<(Frame, usize)>, FrameError> {
    decode_in(Dialect::CANONICAL, bytes)
}

/// As [`decode`], in this dialect.
///
/// # Errors
/// As [`decode`].
pub fn decode_in(dialect: Dialect, bytes: &[u8]) -> Result<Option<(Frame, usize)>, FrameError> {
    read(dialect, bytes).map_err(|(error, _)| error)
}

/// As [`decode_in`]; with the error comes how many data had headers that agree.
pub(crate) fn read(dialect: Dialect, bytes: &[u8]) -> Result<Option<(Frame, usize)>, (FrameError, usize)> {
    let Some((&[message, data_num, first, second], mut rest)) = bytes.split_first_chunk::<HEADER_LEN>() else {
        return Ok(None);
    };
    let length = dialect.u16_value([first, second]);
    let number = usize::from(data_num);
    let body = usize::from(length)
        .checked_sub(dialect.length_beyond_data())
        .filter(|body| *body >= number * DATUM_HEADER_LEN)
        .ok_or((FrameError::LengthTooSmall { message, length, data_num }, 0))?;
    if body > number * (DATUM_HEADER_LEN + MAX_VALUE_LEN) {
        return Err((FrameError::LengthTooLarge { message, length, data_num }, 0));
    }
    // Of an incomplete message the lengths are checked and nothing is copied: it will be looked at again from its
    // beginning with each read, which must stay cheap for a peer that sends it byte by byte.
    let complete = rest.len() >= body;
    let mut left = body;
    let mut data = Vec::with_capacity(if complete { number } else { 0 });
    for index in 0..number {
        let following = number - 1 - index;
        let Some((&[datum, data_len, value_len, _reserved], after)) = rest.split_first_chunk::<DATUM_HEADER_LEN>()
        else {
            return Ok(None);
        };
        let len = usize::from(value_len);
        let room = padded(len);
        if usize::from(data_len) != dialect.data_len(len, room) {
            return Err((FrameError::DataLength { message, datum, data_len, value_len }, index));
        }
        if len > MAX_VALUE_LEN {
            return Err((FrameError::ValueTooLong { message, datum, value_len }, index));
        }
        left = left
            .checked_sub(DATUM_HEADER_LEN + room)
            .filter(|left| *left >= following * DATUM_HEADER_LEN)
            .ok_or((FrameError::DatumPastEnd { message, datum }, index))?;
        if let extra @ 1.. = left.saturating_sub(following * (DATUM_HEADER_LEN + MAX_VALUE_LEN)) {
            // Fits: it is less than LENGTH.
            return Err((FrameError::TrailingBytes { message, extra: extra as u16 }, index));
        }
        let Some((value, after)) = after.split_at_checked(room) else { return Ok(None) };
        if complete {
            let mut value = value[..len].to_vec();
            in_order(dialect, datum, &mut value);
            data.push((datum, value));
        }
        rest = after;
    }
    // Nothing is left: the last datum had to take exactly what was.
    Ok(Some((Frame { message, data }, HEADER_LEN + body)))
}
