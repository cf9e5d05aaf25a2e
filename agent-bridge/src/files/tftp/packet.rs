//! TFTP packets (RFC 1350, 2347). Pure.

const RRQ: u16 = 1;
const WRQ: u16 = 2;
const DATA: u16 = 3;
const ACK: u16 = 4;
const ERROR: u16 = 5;
const OACK: u16 = 6;

/// Options in a request at most; there are five that anybody knows.
const MAX_OPTIONS: usize = 16;

/// Before the bytes of a block.
pub(super) const DATA_HEADER: usize = 4;

/// What a client asks for.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) direction: Direction,
    pub(super) path: String,
    pub(super) mode: Mode,
    /// In the order of the request, names and values as they came.
    pub(super) options: Vec<(String, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Read,
    Write,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Octet,
    /// Text, in which line ends are changed on the way; no mode for a file whose CRC must hold.
    Netascii,
    Other,
}

/// A packet of a client.
pub(super) enum Packet<'a> {
    Request(Request),
    Data { block: u16, bytes: &'a [u8] },
    Ack { block: u16 },
    Error { code: u16 },
}

/// It is not a packet that a client sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

/// The errors that we send, by their numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ErrorCode {
    NotDefined = 0,
    FileNotFound = 1,
    DiskFull = 3,
    IllegalOperation = 4,
}

impl<'a> Packet<'a> {
    pub(super) fn parse(packet: &'a [u8]) -> Result<Self, Malformed> {
        let (opcode, rest) = number(packet)?;
        Ok(match opcode {
            RRQ => Self::Request(request(Direction::Read, rest)?),
            WRQ => Self::Request(request(Direction::Write, rest)?),
            DATA => {
                let (block, bytes) = number(rest)?;
                Self::Data { block, bytes }
            }
            // Some clients pad what they send.
            ACK => Self::Ack { block: number(rest)?.0 },
            ERROR => Self::Error { code: number(rest)?.0 },
            _ => return Err(Malformed),
        })
    }
}

fn number(bytes: &[u8]) -> Result<(u16, &[u8]), Malformed> {
    let (number, rest) = bytes.split_first_chunk::<2>().ok_or(Malformed)?;
    Ok((u16::from_be_bytes(*number), rest))
}

fn request(direction: Direction, bytes: &[u8]) -> Result<Request, Malformed> {
    // Every string ends with NUL. What follows the last one is padding.
    let end = bytes.iter().rposition(|b| *b == 0).ok_or(Malformed)?;
    let mut strings = bytes[..end].split(|b| *b == 0).map(|string| String::from_utf8_lossy(string).into_owned());
    let path = strings.next().ok_or(Malformed)?;
    let mode = match strings.next().ok_or(Malformed)?.to_ascii_lowercase().as_str() {
        "octet" => Mode::Octet,
        "netascii" => Mode::Netascii,
        _ => Mode::Other,
    };
    let mut options = Vec::new();
    while options.len() < MAX_OPTIONS
        && let (Some(name), Some(value)) = (strings.next(), strings.next())
    {
        options.push((name, value));
    }
    Ok(Request { direction, path, mode, options })
}

/// Writes the packet of a block in place of what is in `packet`.
pub(super) fn data(packet: &mut Vec<u8>, block: u16, bytes: &[u8]) {
    packet.clear();
    packet.extend_from_slice(&DATA.to_be_bytes());
    packet.extend_from_slice(&block.to_be_bytes());
    packet.extend_from_slice(bytes);
}

pub(super) fn ack(block: u16) -> [u8; 4] {
    let ([a, b], [c, d]) = (ACK.to_be_bytes(), block.to_be_bytes());
    [a, b, c, d]
}

pub(super) fn error(code: ErrorCode, text: &str) -> Vec<u8> {
    let mut packet = Vec::with_capacity(5 + text.len());
    packet.extend_from_slice(&ERROR.to_be_bytes());
    packet.extend_from_slice(&(code as u16).to_be_bytes());
    packet.extend_from_slice(text.as_bytes());
    packet.push(0);
    packet
}

pub(super) fn oack(options: &[(String, String)]) -> Vec<u8> {
    let mut packet = OACK.to_be_bytes().to_vec();
    for text in options.iter().flat_map(|(name, value)| [name, value]) {
        packet.extend_from_slice(text.as_bytes());
        packet.push(0);
    }
    packet
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse_request(packet: &[u8]) -> Option<Request> {
        match Packet::parse(packet) {
            Ok(Packet::Request(request)) => Some(request),
            _ => None,
        }
    }

    #[test]
    fn a_request_is_read_with_its_options_in_order() {
        let request = parse_request(b"\0\x01a/b\0OCTET\0blksize\x001468\0TSize\x000\0").unwrap();
        assert!(request.direction == Direction::Read && request.path == "a/b" && request.mode == Mode::Octet);
        assert_eq!(request.options, [("blksize".into(), "1468".into()), ("TSize".into(), "0".into())]);
        assert!(parse_request(b"\0\x02a\0netascii\0").unwrap().mode == Mode::Netascii);
        assert!(parse_request(b"\0\x02a\0mail\0").unwrap().mode == Mode::Other);
    }

    #[test]
    fn padding_and_half_an_option_are_left_out() {
        let request = parse_request(b"\0\x01a\0octet\0blksize\0xx").unwrap();
        assert_eq!(request.options, []);
        let many = [b"\0\x01a\0octet\0".to_vec(), b"x\0y\0".repeat(100)].concat();
        assert_eq!(parse_request(&many).unwrap().options.len(), MAX_OPTIONS);
    }

    #[test]
    fn what_a_client_does_not_send_is_malformed() {
        for packet in [
            &b""[..],
            b"\0",
            b"\0\x01",
            b"\0\x01a",
            b"\0\x01a\0octet",
            b"\0\x03\0",
            b"\0\x04\0",
            b"\0\x06a\0b\0",
            b"\0\x07",
        ] {
            assert!(Packet::parse(packet).is_err(), "{packet:?}");
        }
    }

    #[test]
    fn what_we_send_is_as_the_rfc_has_it() {
        let mut packet = vec![9; 9];
        data(&mut packet, 0x0102, b"xy");
        assert_eq!(packet, b"\0\x03\x01\x02xy");
        assert_eq!(ack(0xfffe), *b"\0\x04\xff\xfe");
        assert_eq!(error(ErrorCode::DiskFull, "full"), b"\0\x05\0\x03full\0");
        assert_eq!(oack(&[("blksize".into(), "512".into())]), b"\0\x06blksize\x00512\0");
    }

    proptest! {
        #[test]
        fn no_bytes_are_more_than_malformed(packet in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = Packet::parse(&packet);
        }
    }
}
