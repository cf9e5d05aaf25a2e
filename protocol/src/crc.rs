//! The check of a file in datum 14 (`docs/protocol.md`, "Kinds of CRC"): CRC-32, of the kind that the vendor means by it.
//!
//! The names are those of the API; the parameters are those of the catalogue of parametrised CRC algorithms under the name
//! that each kind gives.

use std::fmt;
use std::str::FromStr;

use ::crc::{
    CRC_32_AUTOSAR, CRC_32_BZIP2, CRC_32_CKSUM, CRC_32_ISCSI, CRC_32_MPEG_2, CRC_32_XFER, Crc, Digest as Catalogued,
};

/// A kind of CRC-32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub enum CrcKind {
    /// CRC-32/ISO-HDLC: IEEE 802.3, Ethernet, ZIP, PNG. What a device that is built anew uses.
    #[default]
    Ieee,
    /// CRC-32/BZIP2: that of IEEE without reflection.
    Bzip2,
    /// CRC-32/MPEG-2: that of BZIP2 without its inversion at the end.
    Mpeg2,
    /// CRC-32/CKSUM, of the file alone.
    Cksum,
    /// CRC-32/CKSUM of the file and then of its length, the lowest byte first and without leading zeros: what the POSIX
    /// utility `cksum` prints.
    Posix,
    /// CRC-32/ISCSI: Castagnoli's polynomial, CRC-32C.
    Castagnoli,
    /// CRC-32/JAMCRC: that of IEEE without its inversion at the end.
    Jamcrc,
    /// CRC-32/XFER.
    Xfer,
    /// CRC-32/AUTOSAR.
    Autosar,
}

impl CrcKind {
    /// Every kind with its name.
    pub const NAMES: [(Self, &'static str); 9] = [
        (Self::Ieee, "IEEE"),
        (Self::Bzip2, "BZIP2"),
        (Self::Mpeg2, "MPEG2"),
        (Self::Cksum, "CKSUM"),
        (Self::Posix, "POSIX"),
        (Self::Castagnoli, "Castagnoli"),
        (Self::Jamcrc, "JAMCRC"),
        (Self::Xfer, "XFER"),
        (Self::Autosar, "AUTOSAR"),
    ];

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ieee => "IEEE",
            Self::Bzip2 => "BZIP2",
            Self::Mpeg2 => "MPEG2",
            Self::Cksum => "CKSUM",
            Self::Posix => "POSIX",
            Self::Castagnoli => "Castagnoli",
            Self::Jamcrc => "JAMCRC",
            Self::Xfer => "XFER",
            Self::Autosar => "AUTOSAR",
        }
    }

    /// Of bytes that are all there.
    pub fn of(self, bytes: &[u8]) -> u32 {
        let mut digest = self.digest();
        digest.update(bytes);
        digest.finalize()
    }

    /// For bytes that come in pieces.
    pub fn digest(self) -> Digest {
        let state = match self {
            Self::Ieee => State::Ieee(crc32fast::Hasher::new()),
            Self::Jamcrc => State::Jamcrc(crc32fast::Hasher::new()),
            Self::Bzip2 => State::Catalogued(BZIP2.digest()),
            Self::Mpeg2 => State::Catalogued(MPEG_2.digest()),
            Self::Cksum => State::Catalogued(CKSUM.digest()),
            Self::Posix => State::Posix(CKSUM.digest(), 0),
            Self::Castagnoli => State::Catalogued(ISCSI.digest()),
            Self::Xfer => State::Catalogued(XFER.digest()),
            Self::Autosar => State::Catalogued(AUTOSAR.digest()),
        };
        Digest(state)
    }
}

static BZIP2: Crc<u32> = Crc::<u32>::new(&CRC_32_BZIP2);
static MPEG_2: Crc<u32> = Crc::<u32>::new(&CRC_32_MPEG_2);
static CKSUM: Crc<u32> = Crc::<u32>::new(&CRC_32_CKSUM);
static ISCSI: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);
static XFER: Crc<u32> = Crc::<u32>::new(&CRC_32_XFER);
static AUTOSAR: Crc<u32> = Crc::<u32>::new(&CRC_32_AUTOSAR);

/// A CRC of bytes that come in pieces.
#[derive(Clone)]
pub struct Digest(State);

#[derive(Clone)]
enum State {
    Ieee(crc32fast::Hasher),
    Jamcrc(crc32fast::Hasher),
    Catalogued(Catalogued<'static, u32>),
    /// With the length so far.
    Posix(Catalogued<'static, u32>, u64),
}

impl Digest {
    /// The next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            State::Ieee(hasher) | State::Jamcrc(hasher) => hasher.update(bytes),
            State::Catalogued(digest) => digest.update(bytes),
            State::Posix(digest, len) => {
                digest.update(bytes);
                *len += bytes.len() as u64;
            }
        }
    }

    /// The CRC of all of them.
    pub fn finalize(self) -> u32 {
        match self.0 {
            State::Ieee(hasher) => hasher.finalize(),
            State::Jamcrc(hasher) => !hasher.finalize(),
            State::Catalogued(digest) => digest.finalize(),
            State::Posix(mut digest, len) => {
                let bytes = len.to_le_bytes();
                let zeros = bytes.iter().rev().take_while(|byte| **byte == 0).count();
                digest.update(&bytes[..bytes.len() - zeros]);
                digest.finalize()
            }
        }
    }
}

impl fmt::Display for CrcKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no kind of CRC.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no kind of CRC: {0:?}; give IEEE, BZIP2, MPEG2, CKSUM, POSIX, Castagnoli, JAMCRC, XFER or AUTOSAR")]
pub struct ParseCrcKindError(String);

/// By its name; capitals do not matter.
impl FromStr for CrcKind {
    type Err = ParseCrcKindError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = Self::NAMES.into_iter().find(|(_, name)| name.eq_ignore_ascii_case(text));
        known.map(|(kind, _)| kind).ok_or_else(|| ParseCrcKindError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_check_value() {
        // Of `123456789`, as the catalogue has them; POSIX as `printf 123456789 | cksum` prints it.
        for (kind, check) in [
            (CrcKind::Ieee, 0xcbf4_3926),
            (CrcKind::Bzip2, 0xfc89_1918),
            (CrcKind::Mpeg2, 0x0376_e6e7),
            (CrcKind::Cksum, 0x765e_7680),
            (CrcKind::Posix, 930_766_865),
            (CrcKind::Castagnoli, 0xe306_9283),
            (CrcKind::Jamcrc, 0x340b_c6d9),
            (CrcKind::Xfer, 0xbd0b_e338),
            (CrcKind::Autosar, 0x1697_d06a),
        ] {
            assert_eq!(kind.of(b"123456789"), check, "{kind}");
            let mut pieces = kind.digest();
            for piece in b"123456789".chunks(4) {
                pieces.update(piece);
            }
            assert_eq!(pieces.finalize(), check, "{kind} in pieces");
        }
    }

    #[test]
    fn the_length_counts_for_posix_and_nothing_is_no_exception() {
        // printf '' | cksum; head -c 256 /dev/zero | cksum
        assert_eq!(CrcKind::Posix.of(b""), 4_294_967_295);
        assert_eq!(CrcKind::Posix.of(&[0; 256]), 4_215_202_376);
    }

    #[test]
    fn every_kind_has_a_name_by_which_it_is_found() {
        for (kind, name) in CrcKind::NAMES {
            assert_eq!((kind.as_str(), name.to_lowercase().parse()), (name, Ok(kind)));
        }
        assert!("CRC-16".parse::<CrcKind>().is_err());
    }
}
