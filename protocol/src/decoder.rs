//! From a stream of bytes to [`Frame`]s, in a dialect that is known or that the stream shows.

use crate::dialect::Dialect;
use crate::frame::{self, Frame, FrameError};
use crate::message::kind;

/// Turns a stream of bytes into [`Frame`]s.
///
/// Whoever takes all messages out after each [`push`](Self::push) bounds its memory: what then remains is the beginning
/// of one message, less than [`frame::MAX_FRAME_LEN`] bytes.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    /// How much of the beginning of `buffer` was taken out: moved away with the next push and not with each message,
    /// so that a read full of the shortest messages costs no more than its length.
    taken: usize,
    reading: Reading,
}

/// In which dialect the peer speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// In this one.
    Settled(Dialect),
    /// Message 1 will show; what came last was in this one.
    Open(Dialect),
}

impl Default for Reading {
    fn default() -> Self {
        Self::Settled(Dialect::CANONICAL)
    }
}

impl Decoder {
    /// An empty decoder of the canonical dialect. It allocates when bytes arrive, and gives the memory back when all of
    /// them are consumed.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty decoder of this dialect.
    pub fn of(dialect: Dialect) -> Self {
        Self { reading: Reading::Settled(dialect), ..Self::default() }
    }

    /// An empty decoder that finds out the dialect of a device. The first message 1 decides, for all that follows it: the
    /// MAC address, whose six bytes are no multiple of four, shows what DATA_LEN counts, and the sum of the data what
    /// LENGTH counts and in which order. Where a message fits several dialects, the first of [`Dialect::all`] is meant;
    /// of messages 1 this can happen to those of more than a KiB alone, whose LENGTH may read the same in both orders.
    pub fn inferring() -> Self {
        Self { reading: Reading::Open(Dialect::CANONICAL), ..Self::default() }
    }

    /// The dialect in which the last message was, or, after an error, the one that came closest.
    pub fn dialect(&self) -> Dialect {
        match self.reading {
            Reading::Settled(dialect) | Reading::Open(dialect) => dialect,
        }
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
    /// [`FrameError`] as [`frame::decode_in`] says; where the dialect is open, that of the dialect in which most of the
    /// message could be read. The decoder gives the same error ever after.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let bytes = &self.buffer[self.taken..];
        let (found, dialect) = match self.reading {
            Reading::Settled(dialect) => (frame::decode_in(dialect, bytes), dialect),
            Reading::Open(_) => {
                let (found, dialect) = infer(bytes);
                self.reading = Reading::Open(dialect);
                (found, dialect)
            }
        };
        let Some((frame, used)) = found? else { return Ok(None) };
        if frame.message == kind::DEVICE_INFORMATION {
            self.reading = Reading::Settled(dialect);
        }
        self.taken += used;
        if self.taken == self.buffer.len() {
            (self.buffer, self.taken) = (Vec::new(), 0);
        }
        Ok(Some(frame))
    }
}

/// The message that `bytes` begins with in whichever dialect, and that dialect.
///
/// A dialect fits while no header contradicts it. All that fit see the headers of the data at the same places, and the end
/// of the message at the same byte: so the first that finds it is the first that fits.
fn infer(bytes: &[u8]) -> (Result<Option<(Frame, usize)>, FrameError>, Dialect) {
    let mut partial = None;
    let mut closest: Option<(usize, FrameError, Dialect)> = None;
    for dialect in Dialect::all() {
        match frame::read(dialect, bytes) {
            Ok(Some(whole)) => return (Ok(Some(whole)), dialect),
            Ok(None) => partial = partial.or(Some(dialect)),
            Err((error, data)) if closest.is_none_or(|(most, ..)| data > most) => {
                closest = Some((data, error, dialect));
            }
            Err(_) => {}
        }
    }
    match (partial, closest) {
        (None, Some((_, error, dialect))) => (Err(error), dialect),
        (dialect, _) => (Ok(None), dialect.unwrap_or_default()),
    }
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
