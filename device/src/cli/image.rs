//! `fettle-device image`.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

use anyhow::{Context, ensure};
use fettle_device::Vocabulary;
use fettle_device::image::{self, ImageHeader};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The device type that boots it.
    #[arg(long, env = "FETTLE_DEVICE_MODEL")]
    model: String,
    /// The version that a device on it reports.
    #[arg(long, env = "FETTLE_DEVICE_VERSION")]
    version: String,
    /// What a device on it knows of the protocol: strict or extended; without this, what it knew before.
    #[arg(long, env = "FETTLE_DEVICE_VOCABULARY", value_enum)]
    vocabulary: Option<Vocabulary>,
    /// How large: bytes, or with KiB, MiB or GiB.
    #[arg(long, env = "FETTLE_DEVICE_SIZE", value_parser = size, default_value = "1MiB")]
    size: u64,
    /// Where to write it; - is standard output.
    #[arg(long, env = "FETTLE_DEVICE_OUT", value_name = "FILE")]
    out: PathBuf,
}

pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let Arguments { model, version, vocabulary, size, out } = arguments;
    for (what, word) in [("model", model), ("version", version)] {
        let is_word = !word.is_empty() && !word.contains(char::is_whitespace);
        ensure!(is_word, "the {what} of an image is one word");
    }
    let header = ImageHeader { model: model.clone(), version: version.clone(), vocabulary: *vocabulary };
    let written = if out.as_os_str() == "-" {
        write(&header, *size, std::io::stdout().lock())
    } else {
        File::create(out).and_then(|file| write(&header, *size, file))
    };
    written.with_context(|| format!("cannot write {}", out.display()))
}

fn write(header: &ImageHeader, size: u64, out: impl Write) -> std::io::Result<()> {
    let mut out = BufWriter::new(out);
    image::write(header, size, &mut out)?;
    out.flush()
}

/// The text is not a size.
#[derive(Debug, thiserror::Error)]
#[error("want a number of bytes, such as 4096, 512KiB, 1MiB or 2GiB")]
struct ParseSizeError;

fn size(text: &str) -> Result<u64, ParseSizeError> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(ParseSizeError),
    };
    number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor)).ok_or(ParseSizeError)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_bytes_and_their_multiples() {
        for (text, bytes) in [("0", 0), ("4096", 4096), ("512KiB", 512 << 10), ("1MiB", 1 << 20), ("2GiB", 2 << 30)] {
            assert_eq!(size(text).ok(), Some(bytes), "{text}");
        }
        for bad in ["", "MiB", "1MB", "-1", "1.5MiB", "99999999999GiB"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }
}
