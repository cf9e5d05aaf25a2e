//! What is refused, with which words, and what is skipped.

use fettle_protocol::datum::{Capabilities, DownloadResult, ExecutionResult, Transfer, number};
use fettle_protocol::frame::{self, EncodeError};
use fettle_protocol::message::{DeviceInformation, Download, ErrorDetail, Location, UpgradeAt, kind};
use fettle_protocol::{DeviceMessage, Frame, FrameError, MessageError, ServerMessage};

use crate::goldens;

fn refused(bytes: &[u8]) -> FrameError {
    frame::decode(bytes).unwrap_err()
}

/// A whole datum of zeros, with these lengths in its header, after enough bytes of message.
fn datum_of_lengths(data_len: u8, value_len: u8) -> Vec<u8> {
    let mut bytes = vec![1, 1, 0, data_len, 2, data_len, value_len, 0];
    bytes.extend([0; 256]);
    bytes
}

#[test]
fn a_length_that_cannot_hold_the_data_is_refused_with_the_header() {
    let error = refused(&[1, 3, 0, 11]);
    assert_eq!(error, FrameError::LengthTooSmall { message: 1, length: 11, data_num: 3 });
    assert_eq!(error.to_string(), "malformed message 1 from the peer: LENGTH 11 cannot hold 3 data");
    assert_eq!(frame::decode(&[1, 3, 0, 12]), Ok(None));
}

#[test]
fn a_length_that_the_data_cannot_have_is_refused_with_the_header() {
    let error = refused(&[2, 0, 0, 4]);
    assert_eq!(error, FrameError::LengthTooLarge { message: 2, length: 4, data_num: 0 });
    assert_eq!(error.to_string(), "malformed message 2 from the peer: LENGTH 4 is more than 0 data can have");
    assert!(matches!(refused(&[1, 1, 0, 253]), FrameError::LengthTooLarge { .. }));
    assert_eq!(frame::decode(&[1, 1, 0, 252]), Ok(None));
}

#[test]
fn only_the_padded_length_with_its_header_fits_a_value_length() {
    for value_len in 0..=255u8 {
        let fitting = usize::from(value_len).next_multiple_of(4) + 4;
        for data_len in 4..=252u8 {
            let result = frame::decode(&datum_of_lengths(data_len, value_len));
            if usize::from(data_len) == fitting {
                let (frame, used) = result.unwrap().unwrap();
                assert_eq!(used, 4 + fitting, "VALUE_LEN {value_len}");
                assert_eq!(frame.data[0].1.len(), usize::from(value_len));
            } else {
                assert_eq!(result, Err(FrameError::DataLength { message: 1, datum: 2, data_len, value_len }));
            }
        }
    }
    assert_eq!(
        refused(&datum_of_lengths(8, 5)).to_string(),
        "malformed message 1 from the peer: datum 2 has DATA_LEN 8, which does not fit its VALUE_LEN 5"
    );
}

#[test]
fn other_readings_of_the_lengths_are_refused_and_not_guessed_at() {
    // DATA_LEN without the header, DATA_LEN without the padding, LENGTH with the message's header.
    assert!(matches!(refused(&[1, 1, 0, 12, 2, 8, 5, 0]), FrameError::DataLength { .. }));
    assert!(matches!(refused(&[1, 1, 0, 12, 2, 9, 5, 0]), FrameError::DataLength { .. }));
    assert_eq!(refused(&[1, 1, 0, 16, 2, 12, 5, 0]), FrameError::TrailingBytes { message: 1, extra: 4 });
    // Little-endian LENGTH.
    assert!(matches!(refused(&[1, 1, 12, 0]), FrameError::LengthTooLarge { .. }));
}

#[test]
fn a_datum_that_runs_past_the_length_is_refused_with_its_header() {
    let error = refused(&[1, 1, 0, 8, 2, 12, 5, 0]);
    assert_eq!(error, FrameError::DatumPastEnd { message: 1, datum: 2 });
    assert_eq!(error.to_string(), "malformed message 1 from the peer: LENGTH has no room for datum 2 and what follows");
}

#[test]
fn a_datum_that_leaves_no_room_for_the_next_is_refused_before_anything_beyond_the_length_arrives() {
    assert_eq!(
        refused(&[1, 2, 0, 12, 2, 12, 5, 0, b'4', b'.', b'9', b'.', b'0', 0, 0, 0]),
        FrameError::DatumPastEnd { message: 1, datum: 2 }
    );
    assert_eq!(refused(&[1, 2, 0, 12, 2, 12, 5, 0]), FrameError::DatumPastEnd { message: 1, datum: 2 });
}

#[test]
fn bytes_that_belong_to_no_datum_are_refused() {
    let error = refused(&[5, 1, 0, 9, 10, 8, 4, 0]);
    assert_eq!(error, FrameError::TrailingBytes { message: 5, extra: 1 });
    assert_eq!(error.to_string(), "malformed message 5 from the peer: its data end 1 bytes before LENGTH does");
    // Two data, of which the first shows already that the second would have to be longer than a datum can be.
    assert_eq!(refused(&[5, 2, 1, 5, 10, 4, 0, 0]), FrameError::TrailingBytes { message: 5, extra: 5 });
}

#[test]
fn rubbish_in_reserved_and_padding_is_ignored_and_sent_back_as_zero() {
    let bytes = [1, 1, 0, 12, 2, 12, 5, 0xff, b'4', b'.', b'9', b'.', b'0', 1, 2, 3];
    let (frame, _) = frame::decode(&bytes).unwrap().unwrap();
    assert_eq!(frame.data, [(2, b"4.9.0".to_vec())]);
    let mut canonical = Vec::new();
    frame.encode(&mut canonical).unwrap();
    assert_eq!(canonical, [1, 1, 0, 12, 2, 12, 5, 0, b'4', b'.', b'9', b'.', b'0', 0, 0, 0]);
}

#[test]
fn what_the_format_cannot_say_is_not_encoded() {
    let mut out = vec![1, 2, 3];
    let error = Frame { message: 3, data: vec![(6, vec![0; 249])] }.encode(&mut out).unwrap_err();
    assert_eq!(error, EncodeError::ValueTooLong { datum: 6, len: 249 });
    assert_eq!(error.to_string(), "cannot encode datum 6: its value has 249 bytes, the limit is 248");
    let error = Frame { message: 3, data: vec![(6, vec![]); 256] }.encode(&mut out).unwrap_err();
    assert_eq!(error, EncodeError::TooManyData(256));
    assert_eq!(error.to_string(), "cannot encode a message of 256 data, the limit is 255");
    assert_eq!(out, [1, 2, 3], "nothing was appended");
    let text = Some("x".repeat(249));
    assert!(DeviceMessage::Progress { percent: None, text }.encode(&mut out).is_err());
}

/// The frame of a golden.
fn golden(name: &str) -> Frame {
    frame::decode(&goldens::files()[name]).unwrap().unwrap().0
}

/// Reads a frame as the side to which its type goes.
fn read(frame: &Frame) -> Result<goldens::Message, MessageError> {
    match DeviceMessage::from_frame(frame) {
        Err(MessageError::WrongDirection { .. }) => ServerMessage::from_frame(frame).map(goldens::Message::Server),
        other => other.map(goldens::Message::Device),
    }
}

/// Every golden that is not about extensions, and so has nothing that could be left out.
fn strict_goldens() -> Vec<Frame> {
    ["01-strict", "02", "03-ftp", "03-tftp", "04-ftp", "05-verified", "06", "07-failed", "08-at-a-time", "09-success"]
        .into_iter()
        .chain(["10-ftp", "11-failure"])
        .map(golden)
        .collect()
}

#[test]
fn a_message_that_goes_the_other_way_is_refused() {
    for frame in goldens::files().values().map(|bytes| frame::decode(bytes).unwrap().unwrap().0) {
        let message = frame.message;
        let refused = Err(MessageError::WrongDirection { message });
        match message {
            2 | 3 | 4 | 6 | 8 | 10 | 35 => assert_eq!(DeviceMessage::from_frame(&frame).map(drop), refused),
            _ => assert_eq!(ServerMessage::from_frame(&frame).map(drop), refused),
        }
    }
    assert_eq!(
        MessageError::WrongDirection { message: 6 }.to_string(),
        "message 6 from the peer: it goes the other way"
    );
}

#[test]
fn every_datum_of_the_base_tables_is_needed() {
    for frame in strict_goldens() {
        let message = frame.message;
        for (at, (datum, _)) in frame.data.iter().enumerate() {
            let mut without = frame.clone();
            without.data.remove(at);
            let error = read(&without).unwrap_err();
            assert_eq!(error, MessageError::Missing { message, datum: *datum });
            assert_eq!(error.to_string(), format!("message {message} from the peer: it lacks datum {datum}"));
        }
    }
}

#[test]
fn a_datum_that_stands_twice_is_refused() {
    for name in goldens::files().into_keys() {
        let frame = golden(&name);
        let message = frame.message;
        for (datum, value) in &frame.data {
            let mut twice = frame.clone();
            twice.data.push((*datum, value.clone()));
            let error = read(&twice).unwrap_err();
            assert_eq!(error, MessageError::Repeated { message, datum: *datum }, "{name}");
            assert_eq!(
                error.to_string(),
                format!("message {message} from the peer: it has datum {datum} more than once")
            );
        }
    }
}

#[test]
fn a_datum_of_fixed_length_has_no_other() {
    let variable = [
        number::VERSION,
        number::MODEL,
        number::PATH,
        number::FILE_NAME,
        number::USER_NAME,
        number::PASSWORD,
        number::CONFIG_VERSION,
        number::SERIAL,
        number::URL,
        number::ERROR_TEXT,
        number::TEXT,
        number::BASE_VERSION,
    ];
    for name in goldens::files().into_keys() {
        let frame = golden(&name);
        let message = frame.message;
        for at in 0..frame.data.len() {
            let (datum, value) = &frame.data[at];
            if variable.contains(datum) {
                continue;
            }
            for len in [0, value.len() - 1, value.len() + 1] {
                let mut other = frame.clone();
                other.data[at].1.resize(len, 0);
                let error = read(&other).unwrap_err();
                assert_eq!(error, MessageError::ValueLength { message, datum: *datum, len }, "{name}");
                assert_eq!(
                    error.to_string(),
                    format!("message {message} from the peer: datum {datum} has {len} bytes, which is not its length")
                );
            }
        }
    }
}

#[test]
fn what_is_no_percentage_says_nothing_and_breaks_nothing_off() {
    for percent in [101u32, 256, u32::MAX] {
        let mut frame = golden("32-both");
        for (number, value) in &mut frame.data {
            if *number == number::PERCENT {
                *value = percent.to_be_bytes().to_vec();
            }
        }
        let said = DeviceMessage::Progress { percent: None, text: Some("done".into()) };
        assert_eq!(DeviceMessage::from_frame(&frame), Ok(said));
    }
}

#[test]
fn a_value_that_its_table_does_not_have_is_refused() {
    for (name, datum, value) in [
        ("03-ftp", number::TRANSFER, 3u32.to_be_bytes().to_vec()),
        ("10-tftp", number::TRANSFER, u32::MAX.to_be_bytes().to_vec()),
        ("03-extended", number::SERVER_PORT, 0u32.to_be_bytes().to_vec()),
        ("10-extended", number::SERVER_PORT, 65536u32.to_be_bytes().to_vec()),
        ("08-immediately", number::UPGRADE_MODE, 2u32.to_be_bytes().to_vec()),
        ("08-at-a-time", number::UPGRADE_TIME, b"2026-02-29 03:00:00".to_vec()),
        ("08-at-a-time", number::UPGRADE_TIME, b"2026-12-31 24:00:00".to_vec()),
        ("08-at-a-time", number::UPGRADE_TIME, b"2026-12-31 23:59:60".to_vec()),
        ("08-at-a-time", number::UPGRADE_TIME, b"2026-12-31T03:00:00".to_vec()),
        ("08-at-a-time", number::UPGRADE_TIME, b"2026-12-31  3:00:00".to_vec()),
        ("08-at-a-time", number::UPGRADE_TIME, b"-001-12-31 03:00:00".to_vec()),
        ("08-at-a-time", number::UPGRADE_TIME, b"2026-12-31 03:00\0\0\0".to_vec()),
        ("08-at-a-time", number::UPGRADE_TIME, vec![0xff; 19]),
    ] {
        let mut frame = golden(name);
        let message = frame.message;
        frame.data.iter_mut().find(|(number, _)| *number == datum).unwrap().1 = value.clone();
        let error = read(&frame).unwrap_err();
        assert_eq!(error, MessageError::Value { message, datum }, "{name} with {value:?}");
        assert_eq!(
            error.to_string(),
            format!("message {message} from the peer: datum {datum} has a value that it cannot have")
        );
    }
}

#[test]
fn results_that_the_tables_do_not_know_are_failures_and_keep_their_number() {
    for kind in [kind::VERSION_RESULT, kind::PROFILE_RESULT] {
        let frame = Frame { message: kind, data: vec![(number::DOWNLOAD_RESULT, vec![0, 0, 1, 2])] };
        match DeviceMessage::from_frame(&frame).unwrap() {
            DeviceMessage::VersionDownloaded(result, _) | DeviceMessage::ProfileDownloaded(result, _) => {
                assert_eq!(result, DownloadResult::Failed(258));
            }
            other => panic!("{other:?}"),
        }
    }
    for kind in [kind::UPGRADE_RESULT, kind::LOG_RESULT] {
        let frame = Frame { message: kind, data: vec![(number::EXECUTION_RESULT, vec![0, 0, 1, 2])] };
        match DeviceMessage::from_frame(&frame).unwrap() {
            DeviceMessage::ProfileUpgraded(result, _) | DeviceMessage::LogUploaded(result, _) => {
                assert_eq!(result, ExecutionResult::Failure(258));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_failure_is_never_sent_as_success() {
    for code in [0, 1] {
        let sent = DeviceMessage::VersionDownloaded(DownloadResult::Failed(code), ErrorDetail::default()).to_frame();
        assert_eq!(sent, golden("05-failed"));
    }
    let sent = DeviceMessage::ProfileUpgraded(ExecutionResult::Failure(0), ErrorDetail::default()).to_frame();
    assert_eq!(sent, golden("09-failure"));
}

#[test]
fn message_types_that_are_not_known_are_told_apart_from_errors_whatever_they_hold() {
    for message in (0..=255).filter(|message| !matches!(message, 1..=11 | 32..=35)) {
        for data in [vec![], vec![(1, vec![]), (1, vec![0; 248])]] {
            let frame = Frame { message, data };
            assert_eq!(DeviceMessage::from_frame(&frame), Ok(DeviceMessage::Unknown(message)));
            assert_eq!(ServerMessage::from_frame(&frame), Ok(ServerMessage::Unknown(message)));
        }
    }
}

#[test]
fn data_that_a_message_does_not_name_are_skipped_wherever_and_however_often_they_stand() {
    for (name, value) in goldens::values() {
        let frame = golden(&name);
        for at in 0..=frame.data.len() {
            let mut more = frame.clone();
            // Numbers of no meaning.
            more.data.splice(at..at, [(200, vec![0xff; 9]), (200, vec![]), (61, vec![1]), (61, vec![1])]);
            assert_eq!(read(&more).as_ref(), Ok(&value), "{name}");
        }
    }
    let mut frame = golden("03-ftp");
    frame.data.push((number::CONFIG_VERSION, b"17".to_vec()));
    frame.data.push((number::CONFIG_VERSION, b"18".to_vec()));
    assert_eq!(read(&frame), read(&golden("03-ftp")), "message 3 has no configuration");
}

#[test]
fn data_may_come_in_any_order() {
    for (name, value) in goldens::values() {
        let mut frame = golden(&name);
        frame.data.reverse();
        assert_eq!(read(&frame).as_ref(), Ok(&value), "{name}");
    }
}

fn information(version: &[u8]) -> DeviceInformation {
    let mut frame = golden("01-strict");
    frame.data[1].1 = version.to_vec();
    match DeviceMessage::from_frame(&frame).unwrap() {
        DeviceMessage::Information(information) => information,
        other => panic!("{other:?}"),
    }
}

#[test]
fn text_is_cut_of_trailing_nul_and_blanks_and_of_nothing_else() {
    for (sent, read) in [
        (&b"4.9.0"[..], "4.9.0"),
        (b"4.9.0\0", "4.9.0"),
        (b"4.9.0\0\0 \t\r\n\0", "4.9.0"),
        (b"  4.9 .0  ", "  4.9 .0"),
        (b"", ""),
        (b"\0\0\0\0", ""),
    ] {
        assert_eq!(information(sent).version, read);
    }
    assert_eq!(information(&[b' '; 248]).version, "");
}

#[test]
fn text_that_would_disturb_a_log_or_deceive_a_reader_is_replaced() {
    for (sent, read) in [
        (&b"4.9\x1b[2J"[..], "4.9\u{fffd}[2J"),
        (b"4.9\nfake line", "4.9\u{fffd}fake line"),
        (b"4.9\0x", "4.9\u{fffd}x"),
        (b"\xff4.9\xc3", "\u{fffd}4.9\u{fffd}"),
        ("4.9\u{202e}0.1".as_bytes(), "4.9\u{fffd}0.1"),
        ("4.9\u{200b}".as_bytes(), "4.9\u{fffd}"),
        ("4.9\u{feff}".as_bytes(), "4.9\u{fffd}"),
    ] {
        assert_eq!(information(sent).version, read);
    }
}

#[test]
fn text_that_replacements_make_longer_than_a_datum_is_cut_so_that_it_can_be_sent_again() {
    // The second is cut right after a blank, which is then trailing.
    for sent in [[0xff; 248].to_vec(), [&[0xff; 82][..], b" ", &[0xff; 100]].concat()] {
        let information = information(&sent);
        assert_eq!(information.version, "\u{fffd}".repeat(82));
        let again = DeviceMessage::Information(information);
        again.encode(&mut Vec::new()).unwrap();
        assert_eq!(DeviceMessage::from_frame(&again.to_frame()), Ok(again));
    }
}

#[test]
fn capability_bits_that_are_not_known_are_kept_and_have_no_name() {
    let mut frame = golden("01-extended");
    frame.data[5].1 = vec![0x80, 0, 0, 0x09];
    let Ok(DeviceMessage::Information(DeviceInformation { capabilities, .. })) = DeviceMessage::from_frame(&frame)
    else {
        panic!("message 1");
    };
    assert_eq!(capabilities, Capabilities(0x8000_0009));
    assert_eq!(capabilities.names().collect::<Vec<_>>(), ["Progress", "ConfigVersion"]);
    assert!(capabilities.has(Capabilities::PROGRESS.with(Capabilities::CONFIG_VERSION)));
    assert!(!capabilities.has(Capabilities::PROGRESS.with(Capabilities::KEEP_ALIVE)));
}

#[test]
fn an_upgrade_at_once_does_not_look_at_a_time() {
    let mut frame = golden("08-immediately");
    frame.data.push((number::UPGRADE_TIME, vec![]));
    assert_eq!(ServerMessage::from_frame(&frame), Ok(ServerMessage::UpgradeProfile(UpgradeAt::Immediately)));
}

#[test]
fn what_opens_a_file_is_not_shown_for_debugging() {
    let location = Location {
        transfer: Transfer::Tftp,
        server: [192, 0, 2, 1],
        path: "secret-path".into(),
        file: "image.bin".into(),
        user: "secret-user".into(),
        password: "secret-password".into(),
        port: Some(69),
        url: None,
        log_key: None,
    };
    let download = Download::base(location, 1);
    let shown = format!("{:?}", ServerMessage::DownloadVersion(download));
    assert!(!shown.contains("secret"), "{shown}");
    assert!(shown.contains("image.bin") && shown.contains("Tftp"), "{shown}");
}

#[test]
fn a_difference_is_of_a_version_and_of_a_kind_or_there_is_none() {
    let frame = golden("03-extended-difference");
    for datum in [number::BASE_VERSION, number::DIFFERENCE_KIND] {
        let mut frame = frame.clone();
        frame.data.retain(|(number, _)| *number != datum);
        assert_eq!(ServerMessage::from_frame(&frame), Err(MessageError::Missing { message: 3, datum }));
    }
    let profile = Frame { message: 4, ..frame };
    let Ok(ServerMessage::DownloadProfile(download)) = ServerMessage::from_frame(&profile) else { panic!("message 4") };
    assert_eq!(download.difference, None, "a profile has none");
}
