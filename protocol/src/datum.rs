//! The numbers and values of the data that messages carry (`docs/protocol.md`, "Data").

use crate::frame::MAX_VALUE_LEN;
use crate::mac::Mac;

/// DATA_TYPE numbers. 1–14 are the base protocol; 64 and up are extensions, sent only to a device that announced the
/// capability.
pub mod number {
    pub const MAC: u8 = 1;
    pub const VERSION: u8 = 2;
    pub const MODEL: u8 = 3;
    pub const TRANSFER: u8 = 4;
    pub const SERVER_ADDRESS: u8 = 5;
    pub const PATH: u8 = 6;
    pub const FILE_NAME: u8 = 7;
    pub const USER_NAME: u8 = 8;
    pub const PASSWORD: u8 = 9;
    pub const DOWNLOAD_RESULT: u8 = 10;
    pub const UPGRADE_MODE: u8 = 11;
    pub const UPGRADE_TIME: u8 = 12;
    pub const EXECUTION_RESULT: u8 = 13;
    pub const CRC: u8 = 14;

    pub const CONFIG_VERSION: u8 = 64;
    pub const SERIAL: u8 = 65;
    pub const CAPABILITIES: u8 = 66;
    pub const ATTEMPT: u8 = 67;
    pub const FILE_SIZE: u8 = 68;
    pub const SHA256: u8 = 69;
    pub const SIGNATURE: u8 = 70;
    pub const SERVER_PORT: u8 = 71;
    pub const URL: u8 = 72;
    pub const BASE_VERSION: u8 = 73;
    pub const DIFFERENCE_KIND: u8 = 74;
    pub const ERROR_CODE: u8 = 75;
    pub const ERROR_TEXT: u8 = 76;
    pub const RETRY_AFTER: u8 = 77;
    pub const PERCENT: u8 = 78;
    pub const TEXT: u8 = 79;
    pub const NONCE: u8 = 80;
    pub const PROOF: u8 = 81;
    pub const LOG_KEY: u8 = 82;
}

/// Whether the value of a datum is a number, whose bytes have an order. Addresses, and what has no known meaning, are bytes
/// as they stand.
pub(crate) const fn is_number(datum: u8) -> bool {
    matches!(
        datum,
        number::TRANSFER
            | number::DOWNLOAD_RESULT
            | number::UPGRADE_MODE
            | number::EXECUTION_RESULT
            | number::CRC
            | number::CAPABILITIES
            | number::ATTEMPT
            | number::FILE_SIZE
            | number::SERVER_PORT
            | number::DIFFERENCE_KIND
            | number::ERROR_CODE
            | number::RETRY_AFTER
            | number::PERCENT
    )
}

/// Datum 4: how a file is transferred.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transfer {
    /// 0
    Ftp,
    /// 1
    Tftp,
    /// 2: HTTP or HTTPS, as datum 72 says. An extension.
    Http,
}

impl Transfer {
    pub(crate) const fn code(self) -> u32 {
        match self {
            Self::Ftp => 0,
            Self::Tftp => 1,
            Self::Http => 2,
        }
    }
}

/// Datum 74: how an image is made from the one that runs and a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DifferenceKind {
    /// 1: one frame of Zstandard (RFC 8878) that refers to the image that runs as its prefix.
    Zstd,
    /// A number that this version does not know.
    Other(u32),
}

impl DifferenceKind {
    pub(crate) const fn from_code(code: u32) -> Self {
        match code {
            1 => Self::Zstd,
            other => Self::Other(other),
        }
    }

    pub(crate) const fn code(self) -> u32 {
        match self {
            Self::Zstd => 1,
            Self::Other(code) => code,
        }
    }
}

/// Datum 10: what became of a download.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DownloadResult {
    /// 0: downloaded, and the CRC is right.
    Verified,
    /// 1: downloaded, but the CRC is wrong.
    CrcMismatch,
    /// 2, and every number that the table does not know. Sent as 2 where it holds 0 or 1: a failure never reads as
    /// one of the others.
    Failed(u32),
}

impl DownloadResult {
    pub(crate) const fn from_code(code: u32) -> Self {
        match code {
            0 => Self::Verified,
            1 => Self::CrcMismatch,
            other => Self::Failed(other),
        }
    }

    pub(crate) const fn code(self) -> u32 {
        match self {
            Self::Verified => 0,
            Self::CrcMismatch => 1,
            Self::Failed(0 | 1) => 2,
            Self::Failed(code) => code,
        }
    }
}

/// Datum 13: what became of a profile upgrade or a log upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ExecutionResult {
    /// 0
    Success,
    /// 1, and every number that the table does not know. Sent as 1 where it holds 0: a failure never reads as success.
    Failure(u32),
}

impl ExecutionResult {
    pub(crate) const fn from_code(code: u32) -> Self {
        match code {
            0 => Self::Success,
            other => Self::Failure(other),
        }
    }

    pub(crate) const fn code(self) -> u32 {
        match self {
            Self::Success => 0,
            Self::Failure(0) => 1,
            Self::Failure(code) => code,
        }
    }
}

/// What a device can do beyond the base protocol: the bits of datum 66. Bits that this version does not know are
/// kept and mean nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Capabilities(pub u32);

impl Capabilities {
    /// Sends message 32 (progress).
    pub const PROGRESS: Self = Self(1 << 0);
    /// Sends message 33 (restart complete).
    pub const RESTART_COMPLETE: Self = Self(1 << 1);
    /// Sends message 34 (keep-alive).
    pub const KEEP_ALIVE: Self = Self(1 << 2);
    /// Reports datum 64 (configuration version) in message 1, and takes it in message 4.
    pub const CONFIG_VERSION: Self = Self(1 << 3);
    /// Takes datum 67 (attempt id) in messages 3 and 4.
    pub const ATTEMPT: Self = Self(1 << 4);
    /// Takes data 68 and 69 (file size, SHA-256) in messages 3 and 4.
    pub const FILE_FACTS: Self = Self(1 << 5);
    /// Takes datum 71 (server port) in messages 3, 4 and 10.
    pub const SERVER_PORT: Self = Self(1 << 6);
    /// Takes datum 72 (a URL), and with it 2 in datum 4, in messages 3, 4 and 10.
    pub const HTTP: Self = Self(1 << 7);
    /// Takes datum 70 (a signature) in message 3.
    pub const SIGNATURE: Self = Self(1 << 8);
    /// Takes datum 77 (when to call again) in message 2.
    pub const RETRY_AFTER: Self = Self(1 << 9);
    /// Takes message 35 (announcement).
    pub const ANNOUNCEMENT: Self = Self(1 << 10);
    /// Takes datum 82 (a key) in messages 3, 4 and 10, and over UDP no message 10 that is not proven by it.
    pub const LOG_REQUEST_AUTH: Self = Self(1 << 11);

    /// Takes data 73 and 74 (a difference) in message 3. Means nothing without [`FILE_FACTS`](Self::FILE_FACTS).
    pub const DELTA: Self = Self(1 << 12);

    /// Every known capability with the name by which it stands in `Device.status.reported.capabilities`.
    pub const NAMES: [(Self, &'static str); 13] = [
        (Self::PROGRESS, "Progress"),
        (Self::RESTART_COMPLETE, "RestartComplete"),
        (Self::KEEP_ALIVE, "KeepAlive"),
        (Self::CONFIG_VERSION, "ConfigVersion"),
        (Self::ATTEMPT, "Attempt"),
        (Self::FILE_FACTS, "FileFacts"),
        (Self::SERVER_PORT, "ServerPort"),
        (Self::HTTP, "Http"),
        (Self::SIGNATURE, "Signature"),
        (Self::RETRY_AFTER, "RetryAfter"),
        (Self::ANNOUNCEMENT, "Announcement"),
        (Self::LOG_REQUEST_AUTH, "LogRequestAuth"),
        (Self::DELTA, "Delta"),
    ];

    /// Whether all bits of `other` are set.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The bits of both.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// These bits, less those of `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The capability of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::NAMES.into_iter().find(|(_, known)| *known == name).map(|(bit, _)| bit)
    }

    /// The names of the known bits that are set, in the order of the bits.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES.into_iter().filter(move |(bit, _)| self.has(*bit)).map(|(_, name)| name)
    }
}

/// Text as devices send it: padded at its end with NUL or blanks to the width of a field of theirs, which are cut off.
/// What is not UTF-8, and what would not be seen or would disturb its surroundings, becomes U+FFFD: the text goes into a
/// status, into logs and onto terminals. At most 248 bytes, so that it can be sent again: a replacement takes three bytes
/// for one, and what that pushes beyond the limit is cut off.
pub(crate) fn text(value: &[u8]) -> String {
    let lossy = String::from_utf8_lossy(value);
    let trimmed = lossy.trim_end_matches(['\0', ' ', '\t', '\r', '\n']);
    let mut text = String::with_capacity(trimmed.len().min(MAX_VALUE_LEN));
    for c in trimmed.chars().map(|c| if is_unfit_to_show(c) { char::REPLACEMENT_CHARACTER } else { c }) {
        if text.len() + c.len_utf8() > MAX_VALUE_LEN {
            break;
        }
        text.push(c);
    }
    text.truncate(text.trim_end_matches(' ').len());
    text
}

/// Control characters, and those of Unicode's format characters that reorder or break lines or take no room: with them
/// two texts that differ look the same.
fn is_unfit_to_show(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

pub(crate) fn mac(value: &[u8]) -> Option<Mac> {
    value.try_into().ok().map(Mac::new)
}

pub(crate) fn u64_value(value: &[u8]) -> Option<u64> {
    value.try_into().ok().map(u64::from_be_bytes)
}

pub(crate) fn u32_value(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_be_bytes)
}
