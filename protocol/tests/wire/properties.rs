//! What holds for all bytes and all messages, on generated ones.

use fettle_protocol::datum::{Capabilities, DifferenceKind, DownloadResult, ExecutionResult, Transfer};
use fettle_protocol::frame::{self, HEADER_LEN};
use fettle_protocol::message::{DeviceInformation, Difference, Download, ErrorDetail, Location, Release, UpgradeAt};
use fettle_protocol::proof::LogKey;
use fettle_protocol::{Decoder, DeviceMessage, Dialect, Frame, Mac, ServerMessage};
use proptest::option;
use proptest::prelude::*;

use crate::goldens::Message;
use crate::invariants;

/// Text as it comes out of a datum: trimmed at its end, at most 248 bytes.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => "[ -~]{0,40}",
        1 => "[ -~]{230,248}",
        1 => "[ -~äβ版\u{1f980}]{0,62}",
    ]
    .prop_map(|text| text.trim_end().to_owned())
}

fn detail() -> impl Strategy<Value = ErrorDetail> {
    (any::<Option<u32>>(), option::of(text())).prop_map(|(code, text)| ErrorDetail { code, text })
}

fn download_result() -> impl Strategy<Value = DownloadResult> {
    prop_oneof![
        Just(DownloadResult::Verified),
        Just(DownloadResult::CrcMismatch),
        (2..=u32::MAX).prop_map(DownloadResult::Failed),
    ]
}

fn execution_result() -> impl Strategy<Value = ExecutionResult> {
    prop_oneof![Just(ExecutionResult::Success), (1..=u32::MAX).prop_map(ExecutionResult::Failure)]
}

fn device_information() -> impl Strategy<Value = DeviceInformation> {
    (any::<[u8; 6]>(), text(), text(), option::of(text()), option::of(text()), any::<u32>()).prop_map(
        |(mac, version, model, config, serial, bits)| DeviceInformation {
            mac: Mac::new(mac),
            version,
            model,
            config,
            serial,
            capabilities: Capabilities(bits),
            dialect: Dialect::CANONICAL,
        },
    )
}

fn device_message() -> impl Strategy<Value = DeviceMessage> {
    prop_oneof![
        device_information().prop_map(DeviceMessage::Information),
        (download_result(), detail()).prop_map(|(result, detail)| DeviceMessage::VersionDownloaded(result, detail)),
        (download_result(), detail()).prop_map(|(result, detail)| DeviceMessage::ProfileDownloaded(result, detail)),
        (execution_result(), detail()).prop_map(|(result, detail)| DeviceMessage::ProfileUpgraded(result, detail)),
        (execution_result(), detail()).prop_map(|(result, detail)| DeviceMessage::LogUploaded(result, detail)),
        (option::of(0..=100u8), option::of(text()))
            .prop_map(|(percent, text)| DeviceMessage::Progress { percent, text }),
        Just(DeviceMessage::RestartComplete),
        Just(DeviceMessage::KeepAlive),
        prop_oneof![12..=31u8, 36..=255u8].prop_map(DeviceMessage::Unknown),
    ]
}

fn location() -> impl Strategy<Value = Location> {
    (
        prop_oneof![
            Just((Transfer::Ftp, None)),
            Just((Transfer::Tftp, None)),
            text().prop_map(|url| (Transfer::Http, Some(url))),
        ],
        any::<[u8; 4]>(),
        [text(), text(), text(), text()],
        option::of(1..=u16::MAX),
        option::of(any::<[u8; 32]>().prop_map(LogKey::new)),
    )
        .prop_map(|((transfer, url), server, [path, file, user, password], port, log_key)| Location {
            transfer,
            server,
            path,
            file,
            user,
            password,
            port,
            url,
            log_key,
        })
}

/// Boxed: each layer of what is generated from it keeps a copy on the stack.
fn download() -> BoxedStrategy<Download> {
    (location(), any::<u32>(), any::<Option<u32>>(), any::<Option<u64>>(), any::<Option<[u8; 32]>>())
        .prop_map(|(location, crc, attempt, size, sha256)| Download {
            attempt,
            size,
            sha256,
            ..Download::base(location, crc)
        })
        .boxed()
}

fn upgrade_at() -> impl Strategy<Value = UpgradeAt> {
    let time = (0..=9999i16, 1..=12i8, 1..=28i8, 0..=23i8, 0..=59i8, 0..=59i8).prop_map(
        |(year, month, day, hour, minute, second)| {
            UpgradeAt::Time(jiff::civil::date(year, month, day).at(hour, minute, second, 0))
        },
    );
    prop_oneof![Just(UpgradeAt::Immediately), time]
}

fn difference() -> impl Strategy<Value = Box<Difference>> {
    let kind = prop_oneof![Just(DifferenceKind::Zstd), (2u32..).prop_map(DifferenceKind::Other)];
    (text(), kind).prop_map(|(base, kind)| Box::new(Difference { base, kind }))
}

fn server_message() -> impl Strategy<Value = ServerMessage> {
    prop_oneof![
        any::<Option<u32>>().prop_map(ServerMessage::Interrupt),
        (download(), option::of(any::<[u8; 32]>()), option::of(difference())).prop_map(
            |(download, half, difference)| {
                let signature = half.map(|half| Box::new(std::array::from_fn(|index| half[index % 32])));
                ServerMessage::DownloadVersion(Download { signature, difference, ..download })
            }
        ),
        (download(), option::of(text()))
            .prop_map(|(download, config)| ServerMessage::DownloadProfile(Download { config, ..download })),
        Just(ServerMessage::Restart),
        upgrade_at().prop_map(ServerMessage::UpgradeProfile),
        location().prop_map(ServerMessage::UploadLog),
        option::of(("[!-~]{1,248}", any::<Option<u64>>()))
            .prop_map(|release| ServerMessage::Announcement(release.map(|(version, size)| Release { version, size }))),
        prop_oneof![12..=31u8, 36..=255u8].prop_map(ServerMessage::Unknown),
    ]
}

fn message() -> impl Strategy<Value = Message> {
    prop_oneof![device_message().prop_map(Message::Device), server_message().prop_map(Message::Server)]
}

/// Data that a message of this or that type might have: known numbers, with lengths that often are theirs.
fn datum() -> impl Strategy<Value = (u8, Vec<u8>)> {
    let number = prop_oneof![1..=14u8, 64..=79u8, any::<u8>()];
    let value = prop_oneof![
        4 => any::<[u8; 4]>().prop_map(Vec::from),
        2 => (0..4u8).prop_map(|n| vec![0, 0, 0, n]),
        1 => any::<[u8; 6]>().prop_map(Vec::from),
        1 => proptest::collection::vec(any::<u8>(), 0..=248),
    ];
    (number, value)
}

fn frame() -> impl Strategy<Value = Frame> {
    let kind = prop_oneof![1..=11u8, 32..=35u8, any::<u8>()];
    (kind, proptest::collection::vec(datum(), 0..=12)).prop_map(|(message, data)| Frame { message, data })
}

fn encoded(frames: &[Frame]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for frame in frames {
        frame.encode(&mut bytes).unwrap();
    }
    bytes
}

proptest! {
    #[test]
    fn a_message_that_is_encoded_decodes_to_itself(message in message()) {
        let bytes = message.encode();
        let (frame, used) = frame::decode(&bytes).unwrap().unwrap();
        prop_assert_eq!(used, bytes.len());
        let decoded = match &message {
            Message::Device(_) => Message::Device(DeviceMessage::from_frame(&frame).unwrap()),
            Message::Server(_) => Message::Server(ServerMessage::from_frame(&frame).unwrap()),
        };
        // Not compared by prop_assert_eq: what Debug does not show would be missed in its output.
        prop_assert!(decoded == message, "{:?}", decoded);
        invariants::decode(&bytes);
    }

    #[test]
    fn a_message_says_the_same_in_every_dialect(message in message()) {
        for dialect in Dialect::all() {
            let mut bytes = Vec::new();
            match &message {
                Message::Device(message) => message.encode_in(dialect, &mut bytes),
                Message::Server(message) => message.encode_in(dialect, &mut bytes),
            }.unwrap();
            let (frame, used) = frame::decode_in(dialect, &bytes).unwrap().unwrap();
            prop_assert_eq!(used, bytes.len());
            prop_assert!(message.decode_like(&frame) == message, "{:?} in {}", frame.message, dialect);
        }
    }

    /// As a device has all that it may say: the dialect is found, but for the one doubt that there is.
    #[test]
    fn any_message_1_shows_its_dialect(information in device_information()) {
        for dialect in Dialect::all() {
            let mut bytes = Vec::new();
            DeviceMessage::Information(information.clone()).encode_in(dialect, &mut bytes).unwrap();
            let expected = if bytes[2] == bytes[3] { dialect.without(Dialect::LITTLE_ENDIAN) } else { dialect };
            let mut decoder = Decoder::inferring();
            decoder.push(&bytes);
            prop_assert!(decoder.next_frame().unwrap().is_some());
            prop_assert_eq!(decoder.dialect(), expected);
        }
    }

    #[test]
    fn a_frame_that_is_encoded_decodes_to_itself(frame in frame()) {
        let bytes = encoded(std::slice::from_ref(&frame));
        prop_assert_eq!(frame::decode(&bytes), Ok(Some((frame, bytes.len()))));
    }

    #[test]
    fn arbitrary_bytes_break_no_promise(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        invariants::decode(&bytes);
    }

    #[test]
    fn arbitrary_data_of_any_message_break_no_promise(frames in proptest::collection::vec(frame(), 0..4)) {
        invariants::decode(&encoded(&frames));
    }

    #[test]
    fn a_changed_byte_breaks_no_promise(
        frames in proptest::collection::vec(frame(), 1..3),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut bytes = encoded(&frames);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        invariants::decode(&bytes);
    }

    #[test]
    fn bytes_decode_to_what_their_canonical_form_decodes_to(frame in frame(), rubbish in any::<u8>()) {
        let canonical = encoded(std::slice::from_ref(&frame));
        let mut bytes = canonical.clone();
        let mut at = HEADER_LEN;
        for (_, value) in &frame.data {
            bytes[at + 3] = rubbish;
            let end = at + usize::from(bytes[at + 1]);
            bytes[at + 4 + value.len()..end].fill(rubbish);
            at = end;
        }
        let (decoded, used) = frame::decode(&bytes).unwrap().unwrap();
        prop_assert_eq!(used, bytes.len());
        prop_assert_eq!(encoded(&[decoded]), canonical);
    }

    #[test]
    fn a_stream_can_be_cut_anywhere(
        frames in proptest::collection::vec(frame(), 0..6),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let bytes = encoded(&frames);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let mut decoder = Decoder::new();
        let mut decoded = Vec::new();
        for range in cuts.windows(2) {
            decoder.push(&bytes[range[0]..range[1]]);
            while let Some(frame) = decoder.next_frame().unwrap() {
                decoded.push(frame);
            }
        }
        prop_assert_eq!(decoded, frames);
        prop_assert_eq!(decoder.buffered(), 0);
    }

    #[test]
    fn a_beginning_of_a_stream_is_never_refused(frame in frame(), at in any::<prop::sample::Index>()) {
        let bytes = encoded(&[frame]);
        prop_assert_eq!(frame::decode(&bytes[..at.index(bytes.len())]), Ok(None));
    }
}
