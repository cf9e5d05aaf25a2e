//! Every golden message, in both directions: these bytes decode to this value, and this value encodes to these bytes.

use std::collections::BTreeMap;
use std::path::Path;

use fettle_protocol::datum::{Capabilities, DifferenceKind, DownloadResult, ExecutionResult, Transfer};
use fettle_protocol::message::{DeviceInformation, Difference, Download, ErrorDetail, Location, Release, UpgradeAt};
use fettle_protocol::proof::LogKey;
use fettle_protocol::{DeviceMessage, Dialect, Frame, Mac, ServerMessage, frame};

use crate::annotated;

/// A message of either direction.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Message {
    Device(DeviceMessage),
    Server(ServerMessage),
}

impl Message {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Device(message) => message.encode(&mut out),
            Self::Server(message) => message.encode(&mut out),
        }
        .unwrap();
        out
    }

    /// Reads a frame as a message of the same direction.
    pub(crate) fn decode_like(&self, frame: &Frame) -> Self {
        match self {
            Self::Device(_) => Self::Device(DeviceMessage::from_frame(frame).unwrap()),
            Self::Server(_) => Self::Server(ServerMessage::from_frame(frame).unwrap()),
        }
    }
}

/// Name and bytes of every file in `tests/golden/`.
pub(crate) fn files() -> BTreeMap<String, Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut files = BTreeMap::new();
    for entry in folder.read_dir().unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "txt") {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            files.insert(name, annotated::bytes(&std::fs::read_to_string(&path).unwrap()));
        }
    }
    files
}

pub(crate) const SHA256_OF_CHECK_STRING: [u8; 32] = [
    0x15, 0xe2, 0xb0, 0xd3, 0xc3, 0x38, 0x91, 0xeb, 0xb0, 0xf1, 0xef, 0x60, 0x9e, 0xc4, 0x19, 0x42, 0x0c, 0x20, 0xe3,
    0x20, 0xce, 0x94, 0xc6, 0x5f, 0xbc, 0x8c, 0x33, 0x12, 0x44, 0x8e, 0xb2, 0x25,
];

/// Of "123456789", by the first key of RFC 8032, 7.1; made with OpenSSL.
const SIGNATURE_OF_CHECK_STRING: [u8; 64] = [
    0x17, 0x74, 0x35, 0xc3, 0x51, 0x55, 0xca, 0x96, 0xd7, 0xbb, 0x6c, 0x70, 0xc0, 0x28, 0xd8, 0x5e, 0x83, 0x88, 0x8f,
    0x92, 0xd4, 0x0c, 0xc8, 0x5a, 0x55, 0x76, 0x94, 0x97, 0x63, 0xa7, 0x13, 0xe9, 0xc8, 0x8c, 0x51, 0xe3, 0x9f, 0xf3,
    0x1d, 0x8d, 0xbc, 0xae, 0xea, 0x20, 0x45, 0x35, 0x28, 0xf3, 0xe6, 0x5a, 0x19, 0x54, 0x1f, 0x09, 0xcc, 0xf9, 0x89,
    0xe6, 0xe4, 0x52, 0x98, 0xf0, 0x89, 0x08,
];

pub(crate) fn information(version: &str, model: &str) -> DeviceInformation {
    DeviceInformation {
        mac: Mac::new([0x02, 0x00, 0x5e, 0x00, 0x53, 0x0e]),
        version: version.into(),
        model: model.into(),
        config: None,
        serial: None,
        capabilities: Capabilities::default(),
        dialect: Dialect::CANONICAL,
    }
}

pub(crate) fn ftp(path: &str, file: &str, user: &str, password: &str) -> Location {
    Location {
        transfer: Transfer::Ftp,
        server: [192, 0, 2, 1],
        path: path.into(),
        file: file.into(),
        user: user.into(),
        password: password.into(),
        port: None,
        url: None,
        log_key: None,
    }
}

pub(crate) fn tftp(path: &str, file: &str) -> Location {
    Location { transfer: Transfer::Tftp, ..ftp(path, file, "", "") }
}

pub(crate) fn http(path: &str, file: &str, url: &str) -> Location {
    Location { transfer: Transfer::Http, url: Some(url.into()), ..ftp(path, file, "", "") }
}

pub(crate) fn download(location: Location) -> Download {
    Download::base(location, 0xcbf4_3926)
}

fn detail(code: impl Into<Option<u32>>, text: &str) -> ErrorDetail {
    ErrorDetail { code: code.into(), text: Some(text.into()) }
}

/// What each file of `tests/golden/` says.
pub(crate) fn values() -> BTreeMap<String, Message> {
    let longest = format!("v{}z", (0..82).map(|n| format!(".{n:02}")).collect::<String>());
    let version_image = ftp("v7k2m9x4", "s5700.bin", "d14.7", "q8w3e6r1t5y2");
    let profile_over_tftp = tftp("c3n8b5z1a1s9d4f7g2h6", "profile.cfg");
    let log = ftp("l5j2h8", "02-00-5e-00-53-0e.log", "d14.l", "z4x7c1v9");
    let device = [
        ("01-strict", DeviceMessage::Information(information("4.9.0", "S5700"))),
        ("01-no-padding", DeviceMessage::Information(information("V5.2.1-P3.01", "Größe 2"))),
        ("01-longest-text", DeviceMessage::Information(information(&longest, ""))),
        (
            "01-extended",
            DeviceMessage::Information(DeviceInformation {
                config: Some("16+1f3a09c2".into()),
                serial: Some("SN-2026-000917".into()),
                capabilities: Capabilities::PROGRESS
                    .with(Capabilities::RESTART_COMPLETE)
                    .with(Capabilities::KEEP_ALIVE)
                    .with(Capabilities::CONFIG_VERSION)
                    .with(Capabilities::ATTEMPT)
                    .with(Capabilities::FILE_FACTS)
                    .with(Capabilities::SERVER_PORT),
                ..information("4.9.0", "S5700")
            }),
        ),
        (
            "01-extended-http",
            DeviceMessage::Information(DeviceInformation {
                capabilities: Capabilities::SERVER_PORT.with(Capabilities::HTTP),
                ..information("4.9.0", "S5700")
            }),
        ),
        ("05-verified", DeviceMessage::VersionDownloaded(DownloadResult::Verified, ErrorDetail::default())),
        ("05-crc-mismatch", DeviceMessage::VersionDownloaded(DownloadResult::CrcMismatch, ErrorDetail::default())),
        ("05-failed", DeviceMessage::VersionDownloaded(DownloadResult::Failed(2), ErrorDetail::default())),
        (
            "05-failed-with-detail",
            DeviceMessage::VersionDownloaded(DownloadResult::Failed(2), detail(550, "no space on flash")),
        ),
        ("07-verified", DeviceMessage::ProfileDownloaded(DownloadResult::Verified, ErrorDetail::default())),
        ("07-crc-mismatch", DeviceMessage::ProfileDownloaded(DownloadResult::CrcMismatch, ErrorDetail::default())),
        ("07-failed", DeviceMessage::ProfileDownloaded(DownloadResult::Failed(2), ErrorDetail::default())),
        (
            "07-crc-mismatch-with-detail",
            DeviceMessage::ProfileDownloaded(DownloadResult::CrcMismatch, detail(None, "got 1a2b3c4d")),
        ),
        ("09-success", DeviceMessage::ProfileUpgraded(ExecutionResult::Success, ErrorDetail::default())),
        ("09-failure", DeviceMessage::ProfileUpgraded(ExecutionResult::Failure(1), ErrorDetail::default())),
        (
            "09-failure-with-detail",
            DeviceMessage::ProfileUpgraded(
                ExecutionResult::Failure(1),
                detail(4_294_967_294, "line 12: unknown keyword"),
            ),
        ),
        ("11-success", DeviceMessage::LogUploaded(ExecutionResult::Success, ErrorDetail::default())),
        ("11-failure", DeviceMessage::LogUploaded(ExecutionResult::Failure(1), ErrorDetail::default())),
        (
            "11-failure-with-detail",
            DeviceMessage::LogUploaded(ExecutionResult::Failure(1), detail(4_294_967_294, "disk full")),
        ),
        ("32-percent", DeviceMessage::Progress { percent: Some(25), text: None }),
        ("32-text", DeviceMessage::Progress { percent: None, text: Some("erasing slot B".into()) }),
        ("32-both", DeviceMessage::Progress { percent: Some(100), text: Some("done".into()) }),
        ("33", DeviceMessage::RestartComplete),
        ("34", DeviceMessage::KeepAlive),
    ];
    let server = [
        ("02", ServerMessage::Interrupt(None)),
        ("02-extended", ServerMessage::Interrupt(Some(300))),
        ("03-ftp", ServerMessage::DownloadVersion(download(version_image.clone()))),
        ("03-tftp", ServerMessage::DownloadVersion(download(tftp("v7k2m9x4q8w3e6r1t5y2", "s5700.bin")))),
        (
            "03-extended",
            ServerMessage::DownloadVersion(Download {
                attempt: Some(7),
                size: Some(0x1_0000_0009),
                sha256: Some(SHA256_OF_CHECK_STRING),
                ..download(Location { port: Some(2121), ..version_image })
            }),
        ),
        ("04-ftp", ServerMessage::DownloadProfile(download(ftp("c3n8b5z1", "profile.cfg", "d14.8", "a1s9d4f7g2h6")))),
        ("04-tftp", ServerMessage::DownloadProfile(download(profile_over_tftp.clone()))),
        (
            "04-extended",
            ServerMessage::DownloadProfile(Download {
                config: Some("17+77c0d1e2".into()),
                attempt: Some(7),
                size: Some(9),
                sha256: Some(SHA256_OF_CHECK_STRING),
                ..download(Location { port: Some(6969), ..profile_over_tftp })
            }),
        ),
        (
            "03-extended-http",
            ServerMessage::DownloadVersion(Download {
                size: Some(9),
                sha256: Some(SHA256_OF_CHECK_STRING),
                ..download(http("v7k2m9x4q8w3e6r1", "s5700.bin", "http://192.0.2.1:8080/v7k2m9x4q8w3e6r1/s5700.bin"))
            }),
        ),
        (
            "03-extended-signature",
            ServerMessage::DownloadVersion(Download {
                sha256: Some(SHA256_OF_CHECK_STRING),
                signature: Some(Box::new(SIGNATURE_OF_CHECK_STRING)),
                ..download(Location { port: Some(2121), ..ftp("v7k2m9x4", "s5700.bin", "d14.7", "q8w3e6r1") })
            }),
        ),
        (
            "04-extended-http",
            ServerMessage::DownloadProfile(Download {
                config: Some("17+77c0d1e2".into()),
                ..download(http("c3n8b5z1", "profile.cfg", "https://files.example.net/c3n8b5z1/profile.cfg"))
            }),
        ),
        ("06", ServerMessage::Restart),
        ("08-immediately", ServerMessage::UpgradeProfile(UpgradeAt::Immediately)),
        (
            "08-at-a-time",
            ServerMessage::UpgradeProfile(UpgradeAt::Time(jiff::civil::date(2026, 12, 31).at(3, 0, 59, 0))),
        ),
        ("10-ftp", ServerMessage::UploadLog(log.clone())),
        ("10-tftp", ServerMessage::UploadLog(tftp("l5j2h8z4x7c1v9", "02-00-5e-00-53-0e.log"))),
        ("10-extended", ServerMessage::UploadLog(Location { port: Some(65535), ..log })),
        (
            "10-extended-log-key",
            ServerMessage::UploadLog(Location {
                log_key: Some(LogKey::new(std::array::from_fn(|index| index as u8))),
                ..ftp("l5j2h8", "device.log", "d14.l", "z4x7c1v9")
            }),
        ),
        (
            "10-extended-http",
            ServerMessage::UploadLog(http("l5j2h8z4", "device.log", "http://192.0.2.1:8080/l5j2h8z4/device.log")),
        ),
    ];
    let announced = |size| ServerMessage::Announcement(Some(Release { version: "5.2.1".into(), size }));
    let announcements = [
        ("35", announced(None)),
        ("35-with-size", announced(Some(0x1_0000_0009))),
        ("35-nothing", ServerMessage::Announcement(None)),
    ];
    let difference = Difference { base: "4.9.0".into(), kind: DifferenceKind::Zstd };
    let of_difference = Download {
        size: Some(34),
        sha256: Some(SHA256_OF_CHECK_STRING),
        difference: Some(Box::new(difference)),
        ..download(Location {
            port: Some(2121),
            log_key: Some(LogKey::new(std::array::from_fn(|index| index as u8))),
            ..ftp("v7k2m9x4", "s5700.bin", "d14.7", "q8w3e6r1")
        })
    };
    let differences = [("03-extended-difference", ServerMessage::DownloadVersion(of_difference))];
    let server = server.into_iter().chain(announcements).chain(differences);
    let device = device.map(|(name, message)| (name.to_owned(), Message::Device(message)));
    let server = server.map(|(name, message)| (name.to_owned(), Message::Server(message)));
    device.into_iter().chain(server).collect()
}

#[test]
fn every_file_has_a_value_and_every_value_a_file() {
    let files: Vec<_> = files().into_keys().collect();
    let values: Vec<_> = values().into_keys().collect();
    assert_eq!(files, values);
}

#[test]
fn every_message_of_the_protocol_has_a_golden() {
    let mut kinds: Vec<u8> = files().values().map(|bytes| bytes[0]).collect();
    kinds.dedup();
    assert_eq!(kinds, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 32, 33, 34, 35]);
}

#[test]
fn golden_bytes_decode_to_their_value() {
    let values = values();
    for (name, bytes) in files() {
        let (frame, used) = frame::decode(&bytes).unwrap().unwrap_or_else(|| panic!("{name} is incomplete"));
        assert_eq!(used, bytes.len(), "{name}");
        let value = &values[&name];
        assert!(value.decode_like(&frame) == *value, "{name}: {:?}", value.decode_like(&frame));
    }
}

#[test]
fn values_encode_to_their_golden_bytes() {
    let files = files();
    for (name, value) in values() {
        assert_eq!(rows(&value.encode()), rows(&files[&name]), "{name}");
    }
}

#[test]
fn a_message_knows_its_number() {
    let files = files();
    for (name, value) in values() {
        let kind = match &value {
            Message::Device(message) => message.kind(),
            Message::Server(message) => message.kind(),
        };
        assert_eq!(kind, files[&name][0], "{name}");
    }
}

/// Bytes as rows of four, which is how a message is laid out: for a failure that can be read.
fn rows(bytes: &[u8]) -> Vec<String> {
    bytes.chunks(4).map(|row| format!("{row:02x?}")).collect()
}
