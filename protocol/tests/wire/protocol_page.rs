//! `docs/protocol.md` says the truth: its examples are messages, and its tables are those of the code.

use fettle_protocol::crc::CrcKind;
use fettle_protocol::datum::{Capabilities, DifferenceKind, DownloadResult, ExecutionResult};
use fettle_protocol::message::{DeviceInformation, Difference, ErrorDetail, Location, Release, UpgradeAt};
use fettle_protocol::{DeviceMessage, Dialect, Frame, ServerMessage, frame};

use crate::annotated;
use crate::goldens::{self, Message};

fn page() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/protocol.md");
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The fenced blocks of one language.
fn blocks<'a>(page: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("```{language}\n");
    page.split(fence.as_str()).skip(1).map(|rest| rest.split_once("\n```").expect("a closed fence").0).collect()
}

/// The cells of all table rows of a section that begin with a number.
fn numbered_rows<'a>(page: &'a str, section: &str) -> Vec<(u8, Vec<&'a str>)> {
    let (_, rest) = page.split_once(&format!("\n## {section}\n")).expect(section);
    let text = rest.split("\n## ").next().unwrap_or(rest);
    text.lines()
        .filter_map(|line| line.strip_prefix('|')?.strip_suffix('|'))
        .map(|row| row.split('|').map(str::trim).collect::<Vec<_>>())
        .filter_map(|cells| Some((cells[0].parse().ok()?, cells)))
        .collect()
}

/// CRC-32 as the page spells it out.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = 0xFFFF_FFFF_u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 };
        }
    }
    crc ^ 0xFFFF_FFFF
}

/// What the examples say, in the order in which they stand on the page.
fn examples() -> Vec<Message> {
    let image = crc32(b"123456789");
    let download = |location, crc| fettle_protocol::message::Download { crc, ..goldens::download(location) };
    let version = |location| Message::Server(ServerMessage::DownloadVersion(download(location, image)));
    let profile = goldens::ftp("c3n8b5z1", "profile.cfg", "d14.8", "a1s9d4f7");
    let device = Message::Device;
    let server = Message::Server;
    let no_detail = ErrorDetail::default;
    let before = DeviceMessage::Information(goldens::information("4.9.0", "S5700"));
    let after = goldens::information("5.2.1", "S5700");
    vec![
        // Frames
        device(before.clone()),
        // TFTP
        version(goldens::tftp("v7k2m9x4q8w3e6r1", "s5700.bin")),
        // On 8, mode 1
        server(ServerMessage::UpgradeProfile(UpgradeAt::Time(jiff::civil::date(2026, 12, 31).at(3, 0, 0, 0)))),
        // Extensions
        server(ServerMessage::Announcement(Some(Release { version: "5.2.1".into(), size: Some(28 << 20) }))),
        device(DeviceMessage::Information(DeviceInformation {
            config: Some("17+77c0d1e2".into()),
            serial: Some("SN-2026-000917".into()),
            capabilities: Capabilities::NAMES.into_iter().fold(Capabilities::default(), |all, (bit, _)| all.with(bit)),
            ..after.clone()
        })),
        device(DeviceMessage::Progress { percent: Some(25), text: Some("erasing slot B".into()) }),
        // HTTP
        version(goldens::http("v7k2m9x4q8w3e6r1", "s5700.bin", "http://192.0.2.1:8080/v7k2m9x4q8w3e6r1/s5700.bin")),
        // Differences
        server(ServerMessage::DownloadVersion(fettle_protocol::message::Download {
            size: Some(2_000_000),
            sha256: Some(goldens::SHA256_OF_CHECK_STRING),
            difference: Some(Box::new(Difference { base: "4.9.0".into(), kind: DifferenceKind::Zstd })),
            ..download(
                Location { port: Some(2121), ..goldens::ftp("v7k2m9x4", "s5700.bin", "d14.7", "q8w3e6r1") },
                0x5d2f_40c1,
            )
        })),
        // A whole upgrade
        device(before),
        version(goldens::ftp("v7k2m9x4", "s5700.bin", "d14.7", "q8w3e6r1")),
        device(DeviceMessage::VersionDownloaded(DownloadResult::Verified, no_detail())),
        server(ServerMessage::Restart),
        device(DeviceMessage::Information(after)),
        server(ServerMessage::DownloadProfile(download(profile, crc32(b"hostname sw-berlin-014\n")))),
        device(DeviceMessage::ProfileDownloaded(DownloadResult::Verified, no_detail())),
        server(ServerMessage::UpgradeProfile(UpgradeAt::Immediately)),
        device(DeviceMessage::ProfileUpgraded(ExecutionResult::Success, no_detail())),
        server(ServerMessage::UploadLog(goldens::ftp("l5j2h8", "device.log", "d14.l", "z4x7c1v9"))),
        device(DeviceMessage::LogUploaded(ExecutionResult::Success, no_detail())),
        server(ServerMessage::Interrupt(None)),
    ]
}

#[test]
fn every_example_is_the_message_that_it_is_said_to_be() {
    let page = page();
    let blocks = blocks(&page, "hex");
    let examples = examples();
    for (block, example) in blocks.iter().zip(&examples) {
        let bytes = annotated::bytes(block);
        let (frame, used) = frame::decode(&bytes).unwrap().unwrap_or_else(|| panic!("incomplete:\n{block}"));
        assert_eq!(used, bytes.len(), "{block}");
        let decoded = example.decode_like(&frame);
        assert!(decoded == *example, "{block}\n\nis {decoded:?}\nand not {example:?}");
        assert_eq!(example.encode(), bytes, "{block}");
        let direction = match example {
            Message::Device(_) => "device → server",
            Message::Server(_) => "server → device",
        };
        let title = format!("# {direction}: {}, ", frame.message);
        assert!(block.starts_with(&title), "want {title:?}:\n{block}");
    }
    assert_eq!(blocks.len(), examples.len());
}

#[test]
fn the_datagram_on_the_page_is_its_golden() {
    let page = page();
    let datagrams: Vec<_> = blocks(&page, "datagram").into_iter().map(annotated::bytes).collect();
    assert_eq!(datagrams, [crate::datagrams::golden("10-proven")]);
}

#[test]
fn the_table_of_dialects_has_the_names_of_the_code_and_the_lengths_that_a_mac_address_has() {
    let page = page();
    let (_, section) = page.split_once("\n## Other readings\n").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let rows: Vec<Vec<&str>> = section
        .lines()
        .filter(|line| line.starts_with("| "))
        .map(|row| row.split('|').map(str::trim).collect())
        .collect();
    let names: Vec<_> = rows.iter().filter_map(|cells| cells[1].strip_prefix('`')?.strip_suffix('`')).collect();
    assert_eq!(names, Dialect::NAMES.map(|(_, name)| name));
    let counts = |dialect: Dialect| match (
        dialect.has(Dialect::DATA_LEN_WITHOUT_HEADER),
        dialect.has(Dialect::DATA_LEN_WITHOUT_PADDING),
    ) {
        (false, false) => "header, value and padding, as on this page",
        (false, true) => "header and value",
        (true, false) => "value and padding",
        (true, true) => "the value",
    };
    for dialect in Dialect::all() {
        let mut bytes = Vec::new();
        let information = DeviceMessage::Information(goldens::information("4.9.0", "S5700"));
        information.encode_in(dialect, &mut bytes).unwrap();
        let data_len = bytes[5].to_string();
        let row = rows.iter().find(|cells| cells[1] == data_len).unwrap_or_else(|| panic!("no DATA_LEN {data_len}"));
        assert_eq!(row[2], counts(dialect), "{dialect}");
    }
}

#[test]
fn the_crc_on_the_page_has_the_check_value_on_the_page() {
    let crc = crc32(b"123456789");
    assert_eq!(crc, 0xCBF4_3926);
    assert!(page().contains(&format!("**0x{crc:08X}**")));
}

#[test]
fn the_table_of_crcs_has_the_kinds_of_the_code_and_their_check_values() {
    let page = page();
    let (_, section) = page.split_once("\n#### Kinds of CRC\n").unwrap();
    let section = section.split("\n### ").next().unwrap();
    let rows: Vec<String> =
        section.lines().filter(|line| line.contains("| 0x")).map(|line| line.replacen("| `", "", 1)).collect();
    assert_eq!(rows.len(), CrcKind::NAMES.len());
    for ((kind, name), row) in CrcKind::NAMES.into_iter().zip(rows) {
        assert!(row.starts_with(&format!("{name}` | 0x{:08X} | ", kind.of(b"123456789"))), "{name}: {row}");
    }
}

/// The frames of goldens, which are what the tables are checked against.
fn golden_frames(only: impl Fn(&str) -> bool) -> Vec<Frame> {
    let files = goldens::files().into_iter().filter(|(name, _)| only(name));
    files.map(|(_, bytes)| frame::decode(&bytes).unwrap().unwrap().0).collect()
}

#[test]
fn the_table_of_messages_names_the_data_of_each() {
    let page = page();
    let rows = numbered_rows(&page, "Messages");
    assert_eq!(rows.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), (1..=11).collect::<Vec<_>>());
    let strict = |name: &str| !name.contains("extended") && !name.contains("detail") && !name.starts_with('3');
    for frame in golden_frames(strict) {
        let (_, cells) = &rows[usize::from(frame.message) - 1];
        let data = frame.data.iter().map(|(datum, _)| datum.to_string()).collect::<Vec<_>>().join(", ");
        let matches = match (frame.message, data.as_str()) {
            (8, "11" | "11, 12") => cells[3] == "11, and 12 where 11 is 1",
            (_, "") => cells[3] == "none",
            (_, data) => cells[3] == data,
        };
        assert!(matches, "message {} has {data:?}, the page says {cells:?}", frame.message);
        let to_server = DeviceMessage::from_frame(&frame).is_ok();
        assert_eq!(cells[1], if to_server { "device → server" } else { "server → device" }, "{cells:?}");
    }
}

#[test]
fn the_tables_of_data_give_the_length_of_each() {
    let page = page();
    let mut rows = numbered_rows(&page, "Data");
    assert_eq!(rows.iter().map(|(datum, _)| *datum).collect::<Vec<_>>(), (1..=14).collect::<Vec<_>>());
    rows.extend(numbered_rows(&page, "Extensions").into_iter().filter(|(number, _)| *number >= 64));
    let mut seen = std::collections::BTreeSet::new();
    let frames = golden_frames(|_| true).into_iter().chain(crate::datagrams::frames()).collect::<Vec<_>>();
    for (datum, value) in frames.iter().flat_map(|frame| &frame.data) {
        let (_, cells) = rows.iter().find(|(number, _)| number == datum).unwrap_or_else(|| panic!("datum {datum}"));
        assert!(cells[2] == "text" || cells[2] == value.len().to_string(), "{} bytes: {cells:?}", value.len());
        seen.insert(*datum);
    }
    assert_eq!(seen, rows.iter().map(|(datum, _)| *datum).collect(), "a datum without a golden");
}

#[test]
fn the_table_of_capabilities_has_the_bits_and_names_of_the_code() {
    let page = page();
    let rows = numbered_rows(&page, "Extensions");
    for (bit, name) in Capabilities::NAMES {
        let number = u8::try_from(bit.0.trailing_zeros()).unwrap();
        let named = format!("`{name}`");
        assert!(rows.iter().any(|(row, cells)| *row == number && cells[1] == named), "bit {number}, {name}");
    }
    assert_eq!(rows.iter().filter(|(row, _)| *row < 32).count(), Capabilities::NAMES.len());
}
