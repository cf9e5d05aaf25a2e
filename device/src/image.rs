//! The images that simulated devices boot: one line, `FETTLE-IMAGE <model> <version>`, then anything. A third word,
//! `strict` or `extended`, is how much of the protocol a device on it knows; without it, as much as before.
//!
//! The rest of Fettle never looks inside an image. Only the simulated hardware does, to know what it becomes.

use std::io::{self, Write};

use crate::spec::Vocabulary;

/// The longest first line that is looked for. Model and version are data of the protocol, at most 248 bytes each.
pub const MAX_HEADER_LEN: usize = 530;
const MAGIC: &str = "FETTLE-IMAGE";

/// What an image says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageHeader {
    pub model: String,
    pub version: String,
    /// What a device on it knows of the protocol, where that is not what it knew before.
    pub vocabulary: Option<Vocabulary>,
}

impl ImageHeader {
    /// Reads the first line of an image; `None` where it is not one.
    pub fn parse(beginning: &[u8]) -> Option<Self> {
        let line = beginning.split(|byte| *byte == b'\n').next().filter(|line| line.len() < beginning.len())?;
        let mut words = std::str::from_utf8(line).ok()?.split(' ');
        let is_image = words.next()? == MAGIC;
        let (model, version) = (words.next()?.to_owned(), words.next()?.to_owned());
        let vocabulary = match words.next() {
            None => None,
            Some(word) => Some(Vocabulary::named(word)?),
        };
        let complete = is_image && words.next().is_none() && !model.is_empty() && !version.is_empty();
        complete.then_some(Self { model, version, vocabulary })
    }

    fn line(&self) -> String {
        let Self { model, version, vocabulary } = self;
        let speaks = vocabulary.map_or_else(String::new, |vocabulary| format!(" {}", vocabulary.name()));
        format!("{MAGIC} {model} {version}{speaks}\n")
    }
}

/// Writes an image of `size` bytes (more, if its first line alone is longer). The same arguments give the same bytes,
/// and other ones other bytes all along.
///
/// # Errors
/// What `out` says.
pub fn write(header: &ImageHeader, size: u64, out: &mut impl Write) -> io::Result<()> {
    let line = header.line();
    out.write_all(line.as_bytes())?;
    // xorshift64*: no image compresses away, and none needs a random source.
    let mut state = line
        .bytes()
        .fold(0x9e37_79b9_7f4a_7c15_u64, |state, byte| (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3) | 1);
    let mut left = size.saturating_sub(line.len() as u64);
    while left > 0 {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        let bytes = state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_be_bytes();
        let used = left.min(bytes.len() as u64);
        out.write_all(&bytes[..used as usize])?;
        left -= used;
    }
    Ok(())
}

/// An image in memory, as [`write()`] makes it, which changes nothing in what a device knows of the protocol.
pub fn build(model: &str, version: &str, size: usize) -> Vec<u8> {
    build_of(&ImageHeader { model: model.to_owned(), version: version.to_owned(), vocabulary: None }, size)
}

/// The image with this header, in memory, as [`write()`] makes it.
pub fn build_of(header: &ImageHeader, size: usize) -> Vec<u8> {
    let mut image = Vec::with_capacity(size);
    // A vector takes everything.
    let _ = write(header, size as u64, &mut image);
    image
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_names_its_model_and_version_and_has_the_size_that_was_asked_for() {
        let image = build("S5700", "5.2.1", 1000);
        assert_eq!(image.len(), 1000);
        let header = ImageHeader { model: "S5700".to_owned(), version: "5.2.1".to_owned(), vocabulary: None };
        assert_eq!(ImageHeader::parse(&image), Some(header.clone()));
        for vocabulary in [Vocabulary::Strict, Vocabulary::Extended] {
            let speaks = ImageHeader { vocabulary: Some(vocabulary), ..header.clone() };
            assert_eq!(ImageHeader::parse(&build_of(&speaks, 1000)), Some(speaks));
        }
        assert_eq!(image, build("S5700", "5.2.1", 1000));
        assert_ne!(image[100..], build("S5700", "5.2.2", 1000)[100..]);
    }

    #[test]
    fn an_image_is_never_shorter_than_its_first_line() {
        assert_eq!(build("S5700", "5.2.1", 0), b"FETTLE-IMAGE S5700 5.2.1\n");
    }

    #[test]
    fn what_does_not_begin_like_an_image_is_none() {
        for not_one in [
            &b""[..],
            b"FETTLE-IMAGE S5700 5.2.1",
            b"FETTLE-IMAGE S5700\nx",
            b"FETTLE-IMAGE  5.2.1\nx",
            b"FETTLE-IMAGE S5700 5.2.1 more\nx",
            b"FETTLE-IMAGE S5700 5.2.1 strict more\nx",
            b"\x7fELF S5700 5.2.1\n",
        ] {
            assert_eq!(ImageHeader::parse(not_one), None, "{not_one:?}");
        }
    }
}
