//! The other readings of the layout: their goldens, how they are told apart, and what is refused in each.

use std::collections::BTreeMap;
use std::path::Path;

use fettle_protocol::datum::{Capabilities, DownloadResult};
use fettle_protocol::frame::{self, MAX_FRAME_LEN, MAX_VALUE_LEN};
use fettle_protocol::message::{DeviceInformation, ErrorDetail, UpgradeAt};
use fettle_protocol::{Decoder, DeviceMessage, Dialect, Frame, FrameError, ServerMessage};

use crate::annotated;
use crate::goldens::{self, Message};

/// Each dialect that has a file in `tests/golden/dialects/`, with its bytes.
pub(crate) fn files() -> BTreeMap<String, Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/dialects");
    let files = folder.read_dir().unwrap().map(|entry| {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        (name, annotated::bytes(&std::fs::read_to_string(&path).unwrap()))
    });
    files.collect()
}

fn goldens() -> Vec<(Dialect, Vec<u8>)> {
    files().into_iter().map(|(name, bytes)| (name.parse().unwrap(), bytes)).collect()
}

/// What each file says, one message after the other.
fn values() -> [Message; 5] {
    let location = goldens::tftp("v7k2m9x4q8w3e6r1t5y2", "s5700.bin");
    let time = jiff::civil::date(2026, 12, 31).at(3, 0, 59, 0);
    [
        Message::Device(DeviceMessage::Information(goldens::information("4.9.0", "S5700"))),
        Message::Server(ServerMessage::DownloadVersion(goldens::download(location))),
        Message::Device(DeviceMessage::VersionDownloaded(DownloadResult::CrcMismatch, ErrorDetail::default())),
        Message::Server(ServerMessage::UpgradeProfile(UpgradeAt::Time(time))),
        Message::Server(ServerMessage::Interrupt(None)),
    ]
}

fn encoded(dialect: Dialect, message: &Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    match message {
        Message::Device(message) => message.encode_in(dialect, &mut bytes),
        Message::Server(message) => message.encode_in(dialect, &mut bytes),
    }
    .unwrap();
    bytes
}

/// Message 1 in a dialect.
fn information(dialect: Dialect, information: DeviceInformation) -> Vec<u8> {
    encoded(dialect, &Message::Device(DeviceMessage::Information(information)))
}

/// What a decoder that has to find out makes of these bytes.
fn inferred(bytes: &[u8]) -> Result<(Option<Frame>, Dialect), FrameError> {
    let mut decoder = Decoder::inferring();
    decoder.push(bytes);
    decoder.next_frame().map(|frame| (frame, decoder.dialect()))
}

#[test]
fn every_dialect_but_the_canonical_one_has_a_golden() {
    let mut dialects: Vec<_> = goldens().into_iter().map(|(dialect, _)| dialect.to_string()).collect();
    let mut all: Vec<_> = Dialect::all().skip(1).map(|dialect| dialect.to_string()).collect();
    dialects.sort();
    all.sort();
    assert_eq!(dialects, all);
}

#[test]
fn values_encode_to_their_golden_bytes_in_every_dialect() {
    for (dialect, bytes) in goldens() {
        let all: Vec<u8> = values().iter().flat_map(|value| encoded(dialect, value)).collect();
        assert_eq!(all, bytes, "{dialect}");
    }
}

#[test]
fn golden_bytes_show_their_dialect_and_decode_to_their_values_wherever_the_stream_is_cut() {
    for (dialect, bytes) in goldens() {
        for at in 0..=bytes.len() {
            let (mut decoder, mut frames) = (Decoder::inferring(), Vec::new());
            for part in [&bytes[..at], &bytes[at..]] {
                decoder.push(part);
                frames.extend(std::iter::from_fn(|| decoder.next_frame().unwrap()));
            }
            assert_eq!(decoder.dialect(), dialect, "cut at {at}");
            assert_eq!((frames.len(), decoder.is_partial()), (values().len(), false), "{dialect} cut at {at}");
            for (frame, value) in frames.iter().zip(values()) {
                assert!(value.decode_like(frame) == value, "{dialect} cut at {at}: {frame:?}");
            }
        }
    }
}

#[test]
fn a_message_cut_at_any_byte_is_incomplete_in_its_dialect_and_for_who_has_to_find_out() {
    for dialect in Dialect::all() {
        for (index, value) in values().iter().enumerate() {
            let bytes = encoded(dialect, value);
            for len in 0..bytes.len() {
                assert_eq!(frame::decode_in(dialect, &bytes[..len]), Ok(None), "{dialect} {value:?} cut to {len}");
                if index == 0 {
                    assert_eq!(inferred(&bytes[..len]).unwrap().0, None, "{dialect} cut to {len}");
                }
            }
        }
    }
}

#[test]
fn no_dialect_reads_a_message_1_of_another() {
    let information = |dialect| information(dialect, goldens::information("4.9.0", "S5700"));
    for (spoken, understood) in Dialect::all().flat_map(|one| Dialect::all().map(move |other| (one, other))) {
        let read = frame::decode_in(understood, &information(spoken));
        assert_eq!(matches!(read, Ok(Some(_))), spoken == understood, "{spoken} read as {understood}: {read:?}");
    }
}

/// A base device has three data, and no text of theirs makes its dialect doubtful.
#[test]
fn message_1_of_a_base_device_shows_its_dialect_whatever_the_lengths_of_its_texts() {
    let longest = "x".repeat(MAX_VALUE_LEN);
    for (version, model) in (0..=MAX_VALUE_LEN).flat_map(|len| [(len, 5), (5, len), (len, len), (len, 248)]) {
        for dialect in Dialect::all() {
            let bytes = information(dialect, goldens::information(&longest[..version], &longest[..model]));
            assert_eq!(inferred(&bytes).unwrap().1, dialect, "texts of {version} and {model} bytes");
        }
    }
}

/// The one doubt that there is: a LENGTH whose two bytes are the same reads the same in both orders. It takes more than
/// a KiB, so all five texts that a message 1 can have, and those long ones.
#[test]
fn a_length_that_reads_the_same_in_both_orders_is_taken_for_big_endian_and_nothing_else_is_in_doubt() {
    let longest = "x".repeat(MAX_VALUE_LEN);
    let mut in_doubt = 0;
    for len in 180..=MAX_VALUE_LEN {
        let text = || longest[..len].to_owned();
        for dialect in Dialect::all() {
            let device = DeviceInformation {
                config: Some(text()),
                serial: Some(text()),
                capabilities: Capabilities(1),
                ..goldens::information(&text(), &longest)
            };
            let bytes = information(dialect, device);
            let doubtful = bytes[2] == bytes[3];
            in_doubt += usize::from(doubtful);
            let expected = if doubtful { dialect.without(Dialect::LITTLE_ENDIAN) } else { dialect };
            assert_eq!(inferred(&bytes).unwrap().1, expected, "{dialect}, texts of {len} bytes");
        }
    }
    assert!(in_doubt > 0, "no case of the doubt");
}

#[test]
fn the_dialect_of_message_1_is_that_of_all_that_follows() {
    for (spoken, then) in Dialect::all().flat_map(|one| Dialect::all().map(move |other| (one, other))) {
        let mut decoder = Decoder::inferring();
        decoder.push(&information(spoken, goldens::information("4.9.0", "S5700")));
        assert!(decoder.next_frame().unwrap().is_some());
        decoder.push(&information(then, goldens::information("5.2.1", "S5700")));
        assert_eq!(matches!(decoder.next_frame(), Ok(Some(_))), spoken == then, "{then} after {spoken}");
        assert_eq!(decoder.dialect(), spoken);
    }
}

#[test]
fn a_message_before_message_1_is_skipped_in_any_dialect_and_decides_nothing() {
    for dialect in Dialect::all() {
        let mut decoder = Decoder::inferring();
        for first in [
            Message::Device(DeviceMessage::KeepAlive),
            Message::Device(DeviceMessage::Progress { percent: Some(1), text: None }),
            Message::Device(DeviceMessage::Information(goldens::information("4.9.0", "S5700"))),
        ] {
            decoder.push(&encoded(dialect, &first));
            assert_eq!(decoder.next_frame().unwrap().unwrap().message, encoded(dialect, &first)[0], "{dialect}");
        }
        assert_eq!(decoder.dialect(), dialect);
    }
}

#[test]
fn what_fits_no_dialect_is_refused_in_the_words_of_the_one_that_comes_closest() {
    // The canonical dialect comes as far as any other.
    let mut bytes = information(Dialect::CANONICAL, goldens::information("4.9.0", "S5700"));
    bytes[17] = 11;
    let error = inferred(&bytes).unwrap_err();
    assert_eq!(error, FrameError::DataLength { message: 1, datum: 2, data_len: 11, value_len: 5 });
    // Of what a device of another dialect gets wrong, that dialect speaks; what LENGTH counts shows only at the end.
    for (dialect, bytes) in goldens() {
        let mut bytes = bytes;
        bytes[29] = 77;
        let mut decoder = Decoder::inferring();
        decoder.push(&bytes);
        let error = FrameError::DataLength { message: 1, datum: 3, data_len: 77, value_len: 5 };
        let closest = dialect.without(Dialect::LENGTH_WITH_HEADER);
        assert_eq!((decoder.next_frame(), decoder.dialect()), (Err(error), closest));
        decoder.push(&[0; 8]);
        assert_eq!(decoder.next_frame(), Err(error), "ever after");
    }
    // A web browser.
    assert!(inferred(b"GET / HTTP/1.1\r\nHost: fettle\r\n\r\n").is_err());
}

#[test]
fn a_length_without_room_for_the_header_that_it_counts_is_refused() {
    for length in 0..4 {
        let error = frame::decode_in(Dialect::LENGTH_WITH_HEADER, &[2, 0, 0, length]);
        let length = u16::from(length);
        assert_eq!(error, Err(FrameError::LengthTooSmall { message: 2, length, data_num: 0 }));
    }
    assert!(matches!(frame::decode_in(Dialect::LENGTH_WITH_HEADER, &[2, 0, 0, 4]), Ok(Some((_, 4)))));
}

#[test]
fn a_value_is_no_longer_than_in_the_canonical_dialect_also_where_data_len_could_say_it() {
    let dialect = Dialect::DATA_LEN_WITHOUT_HEADER.with(Dialect::DATA_LEN_WITHOUT_PADDING);
    for value_len in 0..=255_u8 {
        let mut bytes = vec![1, 1, 0, 0, 2, value_len, value_len, 0];
        bytes.resize(8 + usize::from(value_len).next_multiple_of(4), b'x');
        let length = (bytes.len() - 4) as u16;
        bytes[2..4].copy_from_slice(&length.to_be_bytes());
        match frame::decode_in(dialect, &bytes) {
            Ok(Some((frame, used))) => {
                assert!(value_len <= 248);
                assert_eq!((frame.data[0].1.len(), used), (usize::from(value_len), bytes.len()));
            }
            // One datum cannot be that long.
            Err(FrameError::LengthTooLarge { .. }) => assert!(value_len > 248),
            other => panic!("{value_len}: {other:?}"),
        }
    }
    let mut bytes = vec![1, 2, 1, 4, 2, 250, 250, 0];
    bytes.resize(8 + 252 + 4, 0);
    let error = frame::decode_in(dialect, &bytes).unwrap_err();
    assert_eq!(error.to_string(), "malformed message 1 from the peer: datum 2 has VALUE_LEN 250, the limit is 248");
}

#[test]
fn a_message_of_the_greatest_length_is_read_in_every_dialect() {
    let frame = Frame { message: 200, data: vec![(255, vec![0xaa; MAX_VALUE_LEN]); 255] };
    for dialect in Dialect::all() {
        let mut bytes = Vec::new();
        frame.encode_in(dialect, &mut bytes).unwrap();
        assert_eq!(bytes.len(), MAX_FRAME_LEN);
        assert_eq!(frame::decode_in(dialect, &bytes), Ok(Some((frame.clone(), MAX_FRAME_LEN))), "{dialect}");
    }
}
