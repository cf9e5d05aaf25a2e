//! The messages, as types, by direction (`docs/protocol.md`, "Messages").
//!
//! A message that we decode has every datum that its table entry names, once, of the right length; data that the entry
//! does not name are skipped. A message that we encode has them in the order of the table. Message types that this
//! version does not know decode to `Unknown`, which the session counts and skips.

mod fields;

use std::fmt;

use self::fields::{Builder, Data};
use crate::datum::{self, Capabilities, DifferenceKind, DownloadResult, ExecutionResult, Transfer, number};
use crate::dialect::Dialect;
use crate::frame::{EncodeError, Frame};
use crate::mac::Mac;
use crate::proof::LogKey;

/// MSG_TYPE numbers. 1–11 are the base protocol, 32 and up are extensions.
pub mod kind {
    pub const DEVICE_INFORMATION: u8 = 1;
    pub const INTERRUPT: u8 = 2;
    pub const DOWNLOAD_VERSION: u8 = 3;
    pub const DOWNLOAD_PROFILE: u8 = 4;
    pub const VERSION_RESULT: u8 = 5;
    pub const RESTART: u8 = 6;
    pub const PROFILE_RESULT: u8 = 7;
    pub const UPGRADE_PROFILE: u8 = 8;
    pub const UPGRADE_RESULT: u8 = 9;
    pub const UPLOAD_LOG: u8 = 10;
    pub const LOG_RESULT: u8 = 11;
    pub const PROGRESS: u8 = 32;
    pub const RESTART_COMPLETE: u8 = 33;
    pub const KEEP_ALIVE: u8 = 34;
    pub const ANNOUNCEMENT: u8 = 35;
}

/// Why a frame is not a message that its sender may send. The peer's fault; ends the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// A known message, from the side that does not send it.
    #[error("message {message} from the peer: it goes the other way")]
    WrongDirection { message: u8 },
    #[error("message {message} from the peer: it lacks datum {datum}")]
    Missing { message: u8, datum: u8 },
    /// A datum that the message's entry names is there more than once.
    #[error("message {message} from the peer: it has datum {datum} more than once")]
    Repeated { message: u8, datum: u8 },
    #[error("message {message} from the peer: datum {datum} has {len} bytes, which is not its length")]
    ValueLength { message: u8, datum: u8, len: usize },
    #[error("message {message} from the peer: datum {datum} has a value that it cannot have")]
    Value { message: u8, datum: u8 },
}

/// Message 1: who the device is and what it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceInformation {
    /// Datum 1.
    pub mac: Mac,
    /// Datum 2, trimmed: at most 248 bytes.
    pub version: String,
    /// Datum 3, trimmed: at most 248 bytes.
    pub model: String,
    /// Datum 64: the configuration it runs, where it can tell.
    pub config: Option<String>,
    /// Datum 65.
    pub serial: Option<String>,
    /// Datum 66; no bits where it is absent.
    pub capabilities: Capabilities,
    /// The dialect that it was said in, where whoever read the bytes notes it. No part of what is said: canonical in what
    /// is made from a [`Frame`], and without effect on the frame that is made.
    pub dialect: Dialect,
}

/// What a capable device adds to a result that is not success.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ErrorDetail {
    /// Datum 75: the vendor's own number.
    pub code: Option<u32>,
    /// Datum 76: a sentence, at most 248 bytes.
    pub text: Option<String>,
}

/// What a device says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceMessage {
    /// 1
    Information(DeviceInformation),
    /// 5: of the download that 3 ordered.
    VersionDownloaded(DownloadResult, ErrorDetail),
    /// 7: of the download that 4 ordered.
    ProfileDownloaded(DownloadResult, ErrorDetail),
    /// 9: of the upgrade that 8 ordered.
    ProfileUpgraded(ExecutionResult, ErrorDetail),
    /// 11: of the upload that 10 ordered.
    LogUploaded(ExecutionResult, ErrorDetail),
    /// 32: how far it has come; percent (0–100) or text or both.
    Progress { percent: Option<u8>, text: Option<String> },
    /// 33
    RestartComplete,
    /// 34
    KeepAlive,
    /// A type that this version does not know.
    Unknown(u8),
}

/// Where a file is and how to get it, or put it: data 4–9. Its `Debug` keeps what opens the file to itself: user name and
/// password, and path and URL, which stand in for a password with TFTP and HTTP.
#[derive(Clone, PartialEq, Eq)]
pub struct Location {
    /// Datum 4.
    pub transfer: Transfer,
    /// Datum 5: the IPv4 address of the file server.
    pub server: [u8; 4],
    /// Datum 6.
    pub path: String,
    /// Datum 7.
    pub file: String,
    /// Datum 8; empty for TFTP and HTTP.
    pub user: String,
    /// Datum 9; empty for TFTP and HTTP.
    pub password: String,
    /// Datum 71, not 0, for a device that can take it; else it uses the standard ports 21 and 69. Means nothing for HTTP.
    pub port: Option<u16>,
    /// Datum 72, for HTTP and for nothing else: the whole way to the file.
    pub url: Option<String>,
    /// Datum 82: the key by which requests for logs over UDP are proven. Never sent over UDP.
    pub log_key: Option<LogKey>,
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { transfer, server, path: _, file, user: _, password: _, port, url: _, log_key: _ } = self;
        f.debug_struct("Location")
            .field("transfer", transfer)
            .field("server", server)
            .field("file", file)
            .field("port", port)
            .finish_non_exhaustive()
    }
}

/// A file to download: data 4–9 and 14, and what a capable device takes besides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Download {
    pub location: Location,
    /// Datum 14: CRC-32 (IEEE 802.3) of the file, of a difference where it is one.
    pub crc: u32,
    /// Datum 64, in message 4 alone (message 3 neither carries it nor is searched for it): the identity of the
    /// configuration.
    pub config: Option<String>,
    /// Datum 67.
    pub attempt: Option<u32>,
    /// Datum 68: bytes of the file, of a difference where it is one.
    pub size: Option<u64>,
    /// Datum 69: of the file, or of the image that a difference makes.
    pub sha256: Option<[u8; 32]>,
    /// Datum 70, in message 3 alone: Ed25519 (RFC 8032, without prehash or context) over all bytes of the image.
    pub signature: Option<Box<[u8; 64]>>,
    /// Data 73 and 74, in message 3 alone: the file is no image, but what makes one from another.
    pub difference: Option<Box<Difference>>,
}

impl Download {
    /// With what the base protocol has, and nothing besides.
    pub const fn base(location: Location, crc: u32) -> Self {
        Self { location, crc, config: None, attempt: None, size: None, sha256: None, signature: None, difference: None }
    }
}

/// What a file that is a difference is applied to, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Datum 73: the version whose image it was made from, as the device reports it.
    pub base: String,
    /// Datum 74.
    pub kind: DifferenceKind,
}

/// Data 11 and 12: when a downloaded profile is put into force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpgradeAt {
    /// 0
    Immediately,
    /// 1: at that time in the device's own clock, years 0 to 9999, whole seconds.
    Time(jiff::civil::DateTime),
}

impl UpgradeAt {
    /// The time that `text` says as datum 12 does, `yyyy-mm-dd hh:mm:ss`.
    pub fn parse_time(text: &str) -> Option<jiff::civil::DateTime> {
        fields::parse_time(text)
    }
}

/// What a device will run once its turn has come, for its display and for nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// Datum 2: what the device will report then. Not empty, at most 248 bytes.
    pub version: String,
    /// Datum 68: bytes of its image.
    pub size: Option<u64>,
}

/// What the server says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerMessage {
    /// 2; with datum 77, in how many seconds to call again, for a device that takes it.
    Interrupt(Option<u32>),
    /// 3
    DownloadVersion(Download),
    /// 4
    DownloadProfile(Download),
    /// 6
    Restart,
    /// 8
    UpgradeProfile(UpgradeAt),
    /// 10
    UploadLog(Location),
    /// 35; `None`, which is an empty datum 2: what was announced holds no longer.
    Announcement(Option<Release>),
    /// A type that this version does not know.
    Unknown(u8),
}

impl DeviceMessage {
    /// Reads a frame that a device sent.
    ///
    /// # Errors
    /// [`MessageError`]: the frame is of a known type and not what the table says of it.
    pub fn from_frame(frame: &Frame) -> Result<Self, MessageError> {
        let data = Data::of(frame);
        Ok(match frame.message {
            kind::DEVICE_INFORMATION => Self::Information(DeviceInformation {
                mac: data.required(number::MAC, datum::mac)?,
                version: data.text(number::VERSION)?,
                model: data.text(number::MODEL)?,
                config: data.optional_text(number::CONFIG_VERSION)?,
                serial: data.optional_text(number::SERIAL)?,
                capabilities: Capabilities(data.parsed(number::CAPABILITIES, datum::u32_value)?.unwrap_or(0)),
                dialect: Dialect::CANONICAL,
            }),
            kind::VERSION_RESULT => Self::VersionDownloaded(data.download_result()?, data.error_detail()?),
            kind::PROFILE_RESULT => Self::ProfileDownloaded(data.download_result()?, data.error_detail()?),
            kind::UPGRADE_RESULT => Self::ProfileUpgraded(data.execution_result()?, data.error_detail()?),
            kind::LOG_RESULT => Self::LogUploaded(data.execution_result()?, data.error_detail()?),
            kind::PROGRESS => Self::Progress {
                // What is no percentage says nothing, and is no reason to break off what the device is at.
                percent: data
                    .parsed(number::PERCENT, datum::u32_value)?
                    .and_then(|percent| u8::try_from(percent).ok().filter(|percent| *percent <= 100)),
                text: data.optional_text(number::TEXT)?,
            },
            kind::RESTART_COMPLETE => Self::RestartComplete,
            kind::KEEP_ALIVE => Self::KeepAlive,
            message @ (kind::INTERRUPT
            | kind::DOWNLOAD_VERSION
            | kind::DOWNLOAD_PROFILE
            | kind::RESTART
            | kind::UPGRADE_PROFILE
            | kind::UPLOAD_LOG
            | kind::ANNOUNCEMENT) => return Err(MessageError::WrongDirection { message }),
            other => Self::Unknown(other),
        })
    }

    /// The frame that says this.
    pub fn to_frame(&self) -> Frame {
        let builder = match self {
            Self::Information(info) => Builder::new(kind::DEVICE_INFORMATION)
                .bytes(number::MAC, &info.mac.octets())
                .text(number::VERSION, &info.version)
                .text(number::MODEL, &info.model)
                .maybe(info.config.as_deref(), |b, config| b.text(number::CONFIG_VERSION, config))
                .maybe(info.serial.as_deref(), |b, serial| b.text(number::SERIAL, serial))
                .maybe((info.capabilities.0 != 0).then_some(info.capabilities.0), |b, bits| {
                    b.int(number::CAPABILITIES, bits)
                }),
            Self::VersionDownloaded(result, detail) => {
                Builder::new(kind::VERSION_RESULT).int(number::DOWNLOAD_RESULT, result.code()).error_detail(detail)
            }
            Self::ProfileDownloaded(result, detail) => {
                Builder::new(kind::PROFILE_RESULT).int(number::DOWNLOAD_RESULT, result.code()).error_detail(detail)
            }
            Self::ProfileUpgraded(result, detail) => {
                Builder::new(kind::UPGRADE_RESULT).int(number::EXECUTION_RESULT, result.code()).error_detail(detail)
            }
            Self::LogUploaded(result, detail) => {
                Builder::new(kind::LOG_RESULT).int(number::EXECUTION_RESULT, result.code()).error_detail(detail)
            }
            Self::Progress { percent, text } => Builder::new(kind::PROGRESS)
                .maybe(*percent, |b, percent| b.int(number::PERCENT, u32::from(percent)))
                .maybe(text.as_deref(), |b, text| b.text(number::TEXT, text)),
            Self::RestartComplete => Builder::new(kind::RESTART_COMPLETE),
            Self::KeepAlive => Builder::new(kind::KEEP_ALIVE),
            Self::Unknown(message) => Builder::new(*message),
        };
        builder.build()
    }

    /// Appends the bytes of this message, in the canonical dialect.
    ///
    /// # Errors
    /// [`EncodeError`] where a text is longer than a datum can be.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        self.to_frame().encode(out)
    }

    /// Appends the bytes of this message, in this dialect.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_in(&self, dialect: Dialect, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        self.to_frame().encode_in(dialect, out)
    }

    /// MSG_TYPE.
    pub const fn kind(&self) -> u8 {
        match self {
            Self::Information(_) => kind::DEVICE_INFORMATION,
            Self::VersionDownloaded(..) => kind::VERSION_RESULT,
            Self::ProfileDownloaded(..) => kind::PROFILE_RESULT,
            Self::ProfileUpgraded(..) => kind::UPGRADE_RESULT,
            Self::LogUploaded(..) => kind::LOG_RESULT,
            Self::Progress { .. } => kind::PROGRESS,
            Self::RestartComplete => kind::RESTART_COMPLETE,
            Self::KeepAlive => kind::KEEP_ALIVE,
            Self::Unknown(kind) => *kind,
        }
    }
}

impl ServerMessage {
    /// Reads a frame that a server sent.
    ///
    /// # Errors
    /// [`MessageError`]: the frame is of a known type and not what the table says of it.
    pub fn from_frame(frame: &Frame) -> Result<Self, MessageError> {
        let data = Data::of(frame);
        Ok(match frame.message {
            kind::INTERRUPT => Self::Interrupt(data.parsed(number::RETRY_AFTER, datum::u32_value)?),
            kind::DOWNLOAD_VERSION => Self::DownloadVersion(Download {
                signature: data.parsed(number::SIGNATURE, |value| <[u8; 64]>::try_from(value).ok().map(Box::new))?,
                difference: data.difference()?,
                ..data.download(None)?
            }),
            kind::DOWNLOAD_PROFILE => {
                Self::DownloadProfile(data.download(data.optional_text(number::CONFIG_VERSION)?)?)
            }
            kind::RESTART => Self::Restart,
            kind::UPGRADE_PROFILE => Self::UpgradeProfile(data.upgrade_at()?),
            kind::UPLOAD_LOG => Self::UploadLog(data.location()?),
            kind::ANNOUNCEMENT => {
                let (version, size) = (data.text(number::VERSION)?, data.parsed(number::FILE_SIZE, datum::u64_value)?);
                Self::Announcement((!version.is_empty()).then_some(Release { version, size }))
            }
            message @ (kind::DEVICE_INFORMATION
            | kind::VERSION_RESULT
            | kind::PROFILE_RESULT
            | kind::UPGRADE_RESULT
            | kind::LOG_RESULT
            | kind::PROGRESS
            | kind::RESTART_COMPLETE
            | kind::KEEP_ALIVE) => return Err(MessageError::WrongDirection { message }),
            other => Self::Unknown(other),
        })
    }

    /// The frame that says this.
    pub fn to_frame(&self) -> Frame {
        let builder = match self {
            Self::Interrupt(again) => {
                Builder::new(kind::INTERRUPT).maybe(*again, |b, seconds| b.int(number::RETRY_AFTER, seconds))
            }
            Self::DownloadVersion(download) => Builder::new(kind::DOWNLOAD_VERSION).download(
                download,
                None,
                download.signature.as_deref(),
                download.difference.as_deref(),
            ),
            Self::DownloadProfile(download) => {
                Builder::new(kind::DOWNLOAD_PROFILE).download(download, download.config.as_deref(), None, None)
            }
            Self::Restart => Builder::new(kind::RESTART),
            Self::UpgradeProfile(UpgradeAt::Immediately) => {
                Builder::new(kind::UPGRADE_PROFILE).int(number::UPGRADE_MODE, 0)
            }
            Self::UpgradeProfile(UpgradeAt::Time(time)) => {
                Builder::new(kind::UPGRADE_PROFILE).int(number::UPGRADE_MODE, 1).time(number::UPGRADE_TIME, *time)
            }
            Self::UploadLog(location) => {
                Builder::new(kind::UPLOAD_LOG).location(location).reached_at(location).known_by(location)
            }
            Self::Announcement(None) => Builder::new(kind::ANNOUNCEMENT).text(number::VERSION, ""),
            Self::Announcement(Some(Release { version, size })) => Builder::new(kind::ANNOUNCEMENT)
                .text(number::VERSION, version)
                .maybe(*size, |b, size| b.bytes(number::FILE_SIZE, &size.to_be_bytes())),
            Self::Unknown(message) => Builder::new(*message),
        };
        builder.build()
    }

    /// Appends the bytes of this message, in the canonical dialect.
    ///
    /// # Errors
    /// [`EncodeError`] where a text is longer than a datum can be.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        self.to_frame().encode(out)
    }

    /// Appends the bytes of this message, in this dialect.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_in(&self, dialect: Dialect, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        self.to_frame().encode_in(dialect, out)
    }

    /// MSG_TYPE.
    pub const fn kind(&self) -> u8 {
        match self {
            Self::Interrupt(_) => kind::INTERRUPT,
            Self::DownloadVersion(_) => kind::DOWNLOAD_VERSION,
            Self::DownloadProfile(_) => kind::DOWNLOAD_PROFILE,
            Self::Restart => kind::RESTART,
            Self::UpgradeProfile(_) => kind::UPGRADE_PROFILE,
            Self::UploadLog(_) => kind::UPLOAD_LOG,
            Self::Announcement(_) => kind::ANNOUNCEMENT,
            Self::Unknown(kind) => *kind,
        }
    }
}
