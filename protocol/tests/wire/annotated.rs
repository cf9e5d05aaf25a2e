//! Hexadecimal with comments, as in `tests/golden/` and `docs/protocol.md`, to bytes. What the comments claim in the
//! form that `tests/golden/README.md` gives is checked, so that they cannot lie.

/// The fields that a comment can name, with their width in bytes.
const FIELDS: [(&str, usize); 7] = [
    ("MSG_TYPE", 1),
    ("DATA_NUM", 1),
    ("LENGTH", 2),
    ("DATA_TYPE", 1),
    ("DATA_LEN", 1),
    ("VALUE_LEN", 1),
    ("RESERVED", 1),
];

/// The bytes of an annotated text.
pub(crate) fn bytes(text: &str) -> Vec<u8> {
    text.lines().flat_map(line).collect()
}

fn line(line: &str) -> Vec<u8> {
    let (hex, comment) = line.split_once('#').unwrap_or((line, ""));
    let bytes: Vec<u8> = hex
        .split_whitespace()
        .map(|pair| {
            assert_eq!(pair.len(), 2, "not a byte: {pair:?} in {line:?}");
            u8::from_str_radix(pair, 16).unwrap_or_else(|error| panic!("{pair:?} in {line:?}: {error}"))
        })
        .collect();
    if !bytes.is_empty() {
        check(&bytes, comment).unwrap_or_else(|complaint| panic!("{line:?}: {complaint}"));
    }
    bytes
}

/// Whether the comment of a line says what its bytes are.
fn check(bytes: &[u8], comment: &str) -> Result<(), String> {
    if comment.trim().is_empty() {
        return Err("bytes without a comment".into());
    }
    let mut claimed = Vec::new();
    for claim in comment.split(", ") {
        let mut words = claim.split_whitespace();
        let Some((_, width)) = words.next().and_then(|word| FIELDS.iter().find(|(name, _)| *name == word)) else {
            continue;
        };
        let value: u16 = words.next().unwrap_or_default().parse().map_err(|error| format!("{claim:?}: {error}"))?;
        match words.next() {
            Some("little-endian") => claimed.extend_from_slice(&value.to_le_bytes()[..*width]),
            _ => claimed.extend_from_slice(&value.to_be_bytes()[2 - width..]),
        }
    }
    if !claimed.is_empty() {
        return if claimed == bytes { Ok(()) } else { Err(format!("says {claimed:02x?}")) };
    }
    let padding = match comment.split_once("padding ") {
        Some((_, number)) => number.trim().parse().map_err(|error| format!("padding {number:?}: {error}"))?,
        None => 0,
    };
    let (value, zeros) = bytes.split_at_checked(bytes.len().wrapping_sub(padding)).ok_or("more padding than bytes")?;
    if zeros.iter().any(|byte| *byte != 0) {
        return Err("padding that is not zero".into());
    }
    match comment.split('"').nth(1) {
        Some(text) if text.as_bytes() != value => Err(format!("the bytes are {:?}", String::from_utf8_lossy(value))),
        _ => Ok(()),
    }
}

#[test]
fn a_comment_that_lies_is_found() {
    for lie in [
        "01 # MSG_TYPE 2",
        "00 2c # LENGTH 45",
        "00 2c # LENGTH 44 little-endian",
        "2c 00 # LENGTH 44",
        "01 0c 06 00 # DATA_TYPE 1 (MAC address), DATA_LEN 12, VALUE_LEN 7, RESERVED 0",
        "01 0c 06 00 # DATA_TYPE 1, DATA_LEN 12, VALUE_LEN 6",
        "34 2e 39 00 # \"4.9\"",
        "34 2e 39 00 # \"4.8\", padding 1",
        "34 2e 39 01 # \"4.9\", padding 1",
        "00 # padding 2",
        "00",
        "00 #",
        "0 # nothing",
        "zz # nothing",
    ] {
        assert!(std::panic::catch_unwind(|| bytes(lie)).is_err(), "{lie}");
    }
    assert_eq!(bytes("# title\n34 2e 39 00 # \"4.9\", padding 1\n\n00 09 # LENGTH 9"), b"4.9\0\0\x09");
}
