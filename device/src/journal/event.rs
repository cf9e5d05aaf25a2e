//! The things that can happen to a device, as data and in words.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};

use fettle_protocol::ServerMessage;
use fettle_protocol::datum::Transfer;
use fettle_protocol::message::{Release, UpgradeAt, kind};
use serde::{Serialize, Serializer};

use crate::conformance::{self, Violation};
use crate::faults::{FaultKind, Step};

/// A SHA-256, shown in hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest(pub [u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What is downloaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum FileKind {
    /// A version file: messages 3, 5 and 6.
    Image,
    /// A profile: messages 4, 7, 8 and 9.
    Profile,
}

/// Why a connection ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Disconnect {
    /// Message 2.
    Interrupted,
    /// Message 6: the device restarts.
    Restarting,
    /// The server closed.
    Closed,
    /// The network, or the server by a reset.
    Failed(String),
    /// The server sent bytes that are no message.
    Malformed,
    /// A fault, or the handle: the device let go.
    LetGo,
    /// The device lost its power.
    PowerCut,
    /// The simulator stops.
    Shutdown,
}

/// A command, without its password.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Received {
    /// MSG_TYPE.
    pub message: u8,
    /// Messages 3, 4 and 10.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub place: Option<Box<Place>>,
    /// Message 8, where it names a time: as it stands in datum 12.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<jiff::civil::DateTime>,
    /// Message 35.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub announced: Option<Box<Announced>>,
}

/// What the device is to run once its turn has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Announced {
    /// Empty where what was announced holds no longer.
    pub version: String,
    /// Bytes of its image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
}

/// Where a command sends the device for a file, and what it says of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Place {
    #[serde(serialize_with = "transfer_name")]
    pub transfer: Transfer,
    pub server: Ipv4Addr,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    pub path: String,
    pub file: String,
    pub user: String,
    /// Datum 14.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crc: Option<u32>,
    /// Datum 64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
    /// Datum 67.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
}

// The shape that serde asks for.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn transfer_name<S: Serializer>(transfer: &Transfer, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(match transfer {
        Transfer::Ftp => "FTP",
        Transfer::Tftp => "TFTP",
        Transfer::Http => "HTTP",
    })
}

impl From<&ServerMessage> for Received {
    fn from(message: &ServerMessage) -> Self {
        let place = conformance::location(message).map(|location| {
            let download = match message {
                ServerMessage::DownloadVersion(download) | ServerMessage::DownloadProfile(download) => Some(download),
                ServerMessage::UploadLog(_)
                | ServerMessage::Interrupt(_)
                | ServerMessage::Restart
                | ServerMessage::UpgradeProfile(_)
                | ServerMessage::Announcement(_)
                | ServerMessage::Unknown(_) => None,
            };
            Box::new(Place {
                transfer: location.transfer,
                server: location.server.into(),
                port: location.port,
                path: location.path.clone(),
                file: location.file.clone(),
                user: location.user.clone(),
                crc: download.map(|download| download.crc),
                config: download.and_then(|download| download.config.clone()),
                attempt: download.and_then(|download| download.attempt),
            })
        });
        let at = match message {
            ServerMessage::UpgradeProfile(UpgradeAt::Time(time)) => Some(*time),
            _ => None,
        };
        let announced = match message {
            ServerMessage::Announcement(Some(Release { version, size })) => {
                Some(Box::new(Announced { version: version.clone(), size: *size }))
            }
            ServerMessage::Announcement(None) => Some(Box::new(Announced { version: String::new(), size: None })),
            _ => None,
        };
        Self { message: message.kind(), place, at, announced }
    }
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Event {
    /// The device exists, or has its power back.
    PoweredOn,
    PoweredOff,
    Connected {
        bridge: SocketAddr,
        local: SocketAddr,
    },
    ConnectFailed {
        bridge: SocketAddr,
        error: String,
    },
    Disconnected {
        reason: Disconnect,
    },
    /// A message has been handed to the network.
    Sent {
        message: u8,
        /// Datum 10 or 13.
        #[serde(skip_serializing_if = "Option::is_none")]
        result: Option<u32>,
    },
    Received(Received),
    /// All of the file has come; what is right or wrong with it is here too.
    Downloaded {
        file: FileKind,
        bytes: u64,
        crc_ok: bool,
        sha256: Digest,
    },
    DownloadFailed {
        file: FileKind,
        error: String,
    },
    /// A transfer was stopped: its connection is lost, or another command came.
    GivenUp,
    FlashBegan,
    FlashEnded {
        version: Option<String>,
    },
    /// The device goes down, because message 6 said so.
    RestartBegan,
    Booted {
        version: String,
    },
    /// It cannot boot what is in its flash, and never will.
    Bricked {
        reason: String,
    },
    /// Gone, by a fault: nothing but the handle brings it back.
    Vanished,
    ConfigApplied {
        sha256: Digest,
        bytes: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        identity: Option<String>,
    },
    ApplyFailed {
        error: String,
    },
    LogUploaded {
        bytes: u64,
    },
    UploadFailed {
        error: String,
    },
    /// A request over UDP that is not proven, or has come before.
    RequestRefused {
        error: String,
    },
    /// The server did what it must never do.
    Violation(Violation),
    /// A fault struck.
    Fault {
        at: Step,
        kind: FaultKind,
    },
}

impl Event {
    /// Talk, of which there may be much, apart from what changes the device, of which there is little: so that a flood of
    /// the one never pushes the other out of the journal.
    pub(super) fn is_talk(&self) -> bool {
        match self {
            Self::Connected { .. }
            | Self::ConnectFailed { .. }
            | Self::Disconnected { .. }
            | Self::Sent { .. }
            | Self::Received(_)
            | Self::DownloadFailed { .. }
            | Self::UploadFailed { .. }
            | Self::RequestRefused { .. }
            | Self::GivenUp => true,
            Self::PoweredOn
            | Self::PoweredOff
            | Self::Downloaded { .. }
            | Self::FlashBegan
            | Self::FlashEnded { .. }
            | Self::RestartBegan
            | Self::Booted { .. }
            | Self::Bricked { .. }
            | Self::Vanished
            | Self::ConfigApplied { .. }
            | Self::ApplyFailed { .. }
            | Self::LogUploaded { .. }
            | Self::Violation(_)
            | Self::Fault { .. } => false,
        }
    }
}

/// A message type by name.
fn name(message: u8) -> &'static str {
    match message {
        kind::DEVICE_INFORMATION => "device information",
        kind::INTERRUPT => "interrupt",
        kind::DOWNLOAD_VERSION => "download version",
        kind::DOWNLOAD_PROFILE => "download profile",
        kind::VERSION_RESULT => "version download result",
        kind::RESTART => "restart",
        kind::PROFILE_RESULT => "profile download result",
        kind::UPGRADE_PROFILE => "upgrade profile",
        kind::UPGRADE_RESULT => "profile upgrade result",
        kind::UPLOAD_LOG => "upload log",
        kind::LOG_RESULT => "log upload result",
        kind::PROGRESS => "progress",
        kind::RESTART_COMPLETE => "restart complete",
        kind::KEEP_ALIVE => "keep-alive",
        kind::ANNOUNCEMENT => "announcement",
        _ => "unknown message",
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PoweredOn => f.write_str("powered on"),
            Self::PoweredOff => f.write_str("power cut"),
            Self::Connected { bridge, local } => write!(f, "connected to {bridge} from {local}"),
            Self::ConnectFailed { bridge, error } => write!(f, "cannot connect to {bridge}: {error}"),
            Self::Disconnected { reason: Disconnect::Failed(error) } => write!(f, "disconnected: {error}"),
            Self::Disconnected { reason } => write!(f, "disconnected: {reason:?}"),
            Self::Sent { message, result: None } => write!(f, "> {message} {}", name(*message)),
            Self::Sent { message, result: Some(result) } => write!(f, "> {message} {}: {result}", name(*message)),
            Self::Received(Received { message, place, at, announced }) => {
                write!(f, "< {message} {}", name(*message))?;
                if let Some(place) = place {
                    let Place { transfer, server, port, path, file, user: _, crc: _, config, attempt: _ } = &**place;
                    write!(f, " {transfer:?} {server}")?;
                    if let Some(port) = port {
                        write!(f, ":{port}")?;
                    }
                    write!(f, " {path}/{file}")?;
                    if let Some(config) = config {
                        write!(f, " configuration {config}")?;
                    }
                }
                if let Some(at) = at {
                    write!(f, " at {at}")?;
                }
                match announced.as_deref() {
                    Some(Announced { version, size: Some(size) }) => write!(f, ": {version}, {size} bytes"),
                    Some(Announced { version, size: None }) if version.is_empty() => f.write_str(": nothing any more"),
                    Some(Announced { version, size: None }) => write!(f, ": {version}"),
                    None => Ok(()),
                }
            }
            Self::Downloaded { file, bytes, crc_ok, sha256: _ } => {
                write!(f, "downloaded {file:?}: {bytes} bytes, CRC {}", if *crc_ok { "right" } else { "wrong" })
            }
            Self::DownloadFailed { file, error } => write!(f, "cannot download {file:?}: {error}"),
            Self::GivenUp => f.write_str("transfer given up"),
            Self::FlashBegan => f.write_str("writing the flash"),
            Self::FlashEnded { version: Some(version) } => write!(f, "flash written: {version}"),
            Self::FlashEnded { version: None } => f.write_str("flash written: not an image"),
            Self::RestartBegan => f.write_str("restarting"),
            Self::Booted { version } => write!(f, "booted {version}"),
            Self::Bricked { reason } => write!(f, "bricked: {reason}"),
            Self::Vanished => f.write_str("vanished"),
            Self::ConfigApplied { sha256, bytes, identity } => {
                write!(f, "configuration applied: {bytes} bytes, sha256 {sha256}")?;
                match identity {
                    Some(identity) => write!(f, ", {identity}"),
                    None => Ok(()),
                }
            }
            Self::ApplyFailed { error } => write!(f, "cannot apply the configuration: {error}"),
            Self::LogUploaded { bytes } => write!(f, "log uploaded: {bytes} bytes"),
            Self::UploadFailed { error } => write!(f, "cannot upload the log: {error}"),
            Self::RequestRefused { error } => write!(f, "request over UDP refused: {error}"),
            Self::Violation(violation) => write!(f, "VIOLATION: {violation}"),
            Self::Fault { at, kind } => write!(f, "fault at {at}: {kind:?}"),
        }
    }
}
