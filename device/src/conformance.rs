//! Whether what the server sends is what the tables say: the strict device's side of the contract. Pure.
//!
//! A device obeys what it can in spite of a violation; this module only names them. It knows no connection: what was
//! asked before, and so whether a message was due, is the agent's.

use fettle_protocol::datum::number;
use fettle_protocol::message::{Location, kind};
use fettle_protocol::{Frame, FrameError, MessageError, ServerMessage};
use serde::Serialize;

use crate::spec::Vocabulary;

/// Something that the server must never do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(tag = "violation", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Violation {
    #[error("message {message} is not one that this device knows")]
    UnknownMessage { message: u8 },
    #[error("message {message} has datum {datum}, which this device never said it takes")]
    UnknownDatum { message: u8, datum: u8 },
    #[error("message {message} does not have the data of its table in their order, but {data:?}")]
    DataOrder { message: u8, data: Vec<u8> },
    /// Values of data 6–9 are `[a-z0-9.-]`, at most 32 bytes: what the simplest of devices copes with.
    #[error("message {message}: datum {datum} has characters or a length that a device may not cope with")]
    UnsafeText { message: u8, datum: u8 },
    #[error("message {message} is not what its table says: {error}")]
    BadMessage { message: u8, error: String },
    #[error("bytes that are no message: {error}")]
    Malformed { error: String },
    #[error("message {message} came while another command was being done")]
    CommandWhileBusy { message: u8 },
    #[error("message 6 came without a 5=0 on this connection")]
    RestartWithoutDownload,
    #[error("message 8 came without a 7=0 on this connection")]
    UpgradeWithoutDownload,
}

impl From<FrameError> for Violation {
    fn from(error: FrameError) -> Self {
        Self::Malformed { error: error.to_string() }
    }
}

/// The data of each message in the order of the table, and the extensions that may follow them.
fn table(message: u8) -> Option<(&'static [u8], &'static [u8])> {
    use number::{
        ATTEMPT, BASE_VERSION, CONFIG_VERSION, CRC, DIFFERENCE_KIND, FILE_NAME, FILE_SIZE, LOG_KEY, NONCE, PASSWORD,
        PATH, PROOF, RETRY_AFTER, SERVER_ADDRESS, SERVER_PORT, SHA256, SIGNATURE, TRANSFER, UPGRADE_MODE, UPGRADE_TIME,
        URL, USER_NAME, VERSION,
    };
    const DOWNLOAD: &[u8] = &[TRANSFER, SERVER_ADDRESS, PATH, FILE_NAME, USER_NAME, PASSWORD, CRC];
    match message {
        kind::INTERRUPT => Some((&[], &[RETRY_AFTER])),
        kind::RESTART => Some((&[], &[])),
        kind::DOWNLOAD_VERSION => Some((
            DOWNLOAD,
            &[ATTEMPT, FILE_SIZE, SHA256, SIGNATURE, SERVER_PORT, URL, BASE_VERSION, DIFFERENCE_KIND, LOG_KEY],
        )),
        kind::DOWNLOAD_PROFILE => {
            Some((DOWNLOAD, &[CONFIG_VERSION, ATTEMPT, FILE_SIZE, SHA256, SERVER_PORT, URL, LOG_KEY]))
        }
        // Datum 12 is there where the mode is 1; what the mode is, the decoder checks.
        kind::UPGRADE_PROFILE => Some((&[UPGRADE_MODE], &[UPGRADE_TIME])),
        kind::UPLOAD_LOG => Some((
            &[TRANSFER, SERVER_ADDRESS, PATH, FILE_NAME, USER_NAME, PASSWORD],
            &[SERVER_PORT, URL, LOG_KEY, NONCE, PROOF],
        )),
        kind::ANNOUNCEMENT => Some((&[VERSION], &[FILE_SIZE])),
        _ => None,
    }
}

/// Whether the message is of the base protocol.
const fn is_base(message: u8) -> bool {
    message < kind::PROGRESS
}

/// Reads a frame as the device does, and says all that is wrong with it. The message is what a device of this vocabulary
/// sees: without what it does not know, and `None` where nothing can be obeyed.
pub(crate) fn read(frame: &Frame, vocabulary: Vocabulary) -> (Option<ServerMessage>, Vec<Violation>) {
    let message = frame.message;
    let knows = |message: u8| vocabulary == Vocabulary::Extended || is_base(message);
    let Some((base, more)) = table(message).filter(|_| knows(message)) else {
        return (None, vec![Violation::UnknownMessage { message }]);
    };
    let mut violations = Vec::new();
    let numbers: Vec<u8> = frame.data.iter().map(|(datum, _)| *datum).collect();
    let known = |datum: u8| match vocabulary {
        Vocabulary::Strict => base.contains(&datum) || datum == number::UPGRADE_TIME && more.contains(&datum),
        Vocabulary::Extended => base.contains(&datum) || more.contains(&datum),
    };
    violations.extend(
        numbers.iter().filter(|datum| !known(**datum)).map(|datum| Violation::UnknownDatum { message, datum: *datum }),
    );
    if !numbers.starts_with(base) {
        violations.push(Violation::DataOrder { message, data: numbers });
    }
    let seen =
        Frame { message, data: frame.data.iter().filter(|(datum, _)| known(*datum)).cloned().collect::<Vec<_>>() };
    match ServerMessage::from_frame(&seen) {
        Ok(read) => {
            if let Some(location) = location(&read) {
                violations.extend(unsafe_texts(message, location));
            }
            (Some(read), violations)
        }
        Err(
            error @ (MessageError::WrongDirection { .. }
            | MessageError::Missing { .. }
            | MessageError::Repeated { .. }
            | MessageError::ValueLength { .. }
            | MessageError::Value { .. }),
        ) => {
            violations.push(Violation::BadMessage { message, error: error.to_string() });
            (None, violations)
        }
    }
}

/// Where a message sends the device for a file.
pub(crate) fn location(message: &ServerMessage) -> Option<&Location> {
    match message {
        ServerMessage::DownloadVersion(download) | ServerMessage::DownloadProfile(download) => Some(&download.location),
        ServerMessage::UploadLog(location) => Some(location),
        ServerMessage::Interrupt(_)
        | ServerMessage::Restart
        | ServerMessage::UpgradeProfile(_)
        | ServerMessage::Announcement(_)
        | ServerMessage::Unknown(_) => None,
    }
}

/// The longest of our values of data 6–9, in bytes.
const MAX_SAFE_TEXT: usize = 32;

fn unsafe_texts(message: u8, location: &Location) -> impl Iterator<Item = Violation> {
    let is_safe = |text: &str| {
        text.len() <= MAX_SAFE_TEXT
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'.' || b == b'-')
    };
    [
        (number::PATH, &location.path),
        (number::FILE_NAME, &location.file),
        (number::USER_NAME, &location.user),
        (number::PASSWORD, &location.password),
    ]
    .into_iter()
    .filter(move |(_, text)| !is_safe(text))
    .map(move |(datum, _)| Violation::UnsafeText { message, datum })
}

#[cfg(test)]
mod tests {
    use fettle_protocol::datum::Transfer;
    use fettle_protocol::message::{Download, UpgradeAt};

    use super::*;

    fn location() -> Location {
        Location {
            transfer: Transfer::Ftp,
            server: [127, 0, 0, 1],
            path: "a".to_owned(),
            file: "b.bin".to_owned(),
            user: "c-1".to_owned(),
            password: String::new(),
            port: None,
            url: None,
            log_key: None,
        }
    }

    fn download() -> Download {
        Download::base(location(), 1)
    }

    #[test]
    fn what_the_codec_writes_for_a_plain_device_has_no_fault_for_a_strict_one() {
        for message in [
            ServerMessage::Interrupt(None),
            ServerMessage::DownloadVersion(download()),
            ServerMessage::DownloadProfile(download()),
            ServerMessage::Restart,
            ServerMessage::UpgradeProfile(UpgradeAt::Immediately),
            ServerMessage::UpgradeProfile(UpgradeAt::Time("2026-12-01 03:00:00".parse().unwrap())),
            ServerMessage::UploadLog(location()),
        ] {
            assert_eq!(read(&message.to_frame(), Vocabulary::Strict), (Some(message.clone()), vec![]));
            assert_eq!(read(&message.to_frame(), Vocabulary::Extended), (Some(message.clone()), vec![]));
        }
    }

    #[test]
    fn an_extension_is_for_those_who_announced_it() {
        let extended = Download {
            location: Location { port: Some(2121), ..location() },
            config: Some("17+77c0d1e2".to_owned()),
            attempt: Some(1),
            size: Some(2),
            sha256: Some([3; 32]),
            ..download()
        };
        let frame = ServerMessage::DownloadProfile(extended.clone()).to_frame();
        assert_eq!(read(&frame, Vocabulary::Extended), (Some(ServerMessage::DownloadProfile(extended)), vec![]));
        let (message, violations) = read(&frame, Vocabulary::Strict);
        assert_eq!(message, Some(ServerMessage::DownloadProfile(download())), "a strict device does not see them");
        let unknown = |datum| Violation::UnknownDatum { message: 4, datum };
        assert_eq!(violations, [unknown(64), unknown(67), unknown(68), unknown(69), unknown(71)]);
        let again = ServerMessage::Interrupt(Some(60));
        assert_eq!(read(&again.to_frame(), Vocabulary::Extended), (Some(again.clone()), vec![]));
        let (message, violations) = read(&again.to_frame(), Vocabulary::Strict);
        assert_eq!(message, Some(ServerMessage::Interrupt(None)));
        assert_eq!(violations, [Violation::UnknownDatum { message: 2, datum: 77 }]);
    }

    #[test]
    fn data_out_of_order_are_a_violation_and_are_understood_all_the_same() {
        let mut frame = ServerMessage::UploadLog(location()).to_frame();
        frame.data.swap(0, 5);
        let (message, violations) = read(&frame, Vocabulary::Strict);
        assert_eq!(message, Some(ServerMessage::UploadLog(location())));
        assert_eq!(violations, [Violation::DataOrder { message: 10, data: vec![9, 5, 6, 7, 8, 4] }]);
    }

    #[test]
    fn types_from_nowhere_or_of_the_wrong_direction_are_unknown() {
        for message in [0, 1, 5, 12, 32, 33, 34, 255] {
            let frame = Frame { message, data: vec![] };
            for vocabulary in [Vocabulary::Strict, Vocabulary::Extended] {
                assert_eq!(read(&frame, vocabulary), (None, vec![Violation::UnknownMessage { message }]));
            }
        }
    }

    #[test]
    fn names_that_a_simple_device_may_trip_over_are_a_violation() {
        for (path, fault) in
            [("a/b", true), ("A", true), ("a b", true), (&"a".repeat(33), true), (&"a".repeat(32), false)]
        {
            let message = ServerMessage::UploadLog(Location { path: path.to_owned(), ..location() });
            let (_, violations) = read(&message.to_frame(), Vocabulary::Strict);
            assert_eq!(violations == [Violation::UnsafeText { message: 10, datum: 6 }], fault, "{path}");
        }
    }

    #[test]
    fn a_message_that_lacks_what_it_needs_is_not_obeyed() {
        let mut frame = ServerMessage::DownloadVersion(download()).to_frame();
        frame.data.pop();
        let (message, violations) = read(&frame, Vocabulary::Strict);
        assert_eq!(message, None);
        assert!(
            matches!(violations[..], [Violation::DataOrder { .. }, Violation::BadMessage { .. }]),
            "{violations:?}"
        );
    }
}
