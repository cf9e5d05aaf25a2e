//! Makes the image of a difference and of the image that runs (data 73 and 74).

use std::io::Read;

use fettle_protocol::datum::DifferenceKind;
use fettle_protocol::message::Difference;

/// The largest image that is made, in memory.
pub(crate) const MAX_IMAGE: u64 = 256 << 20;
/// The largest window that is allowed, as a power of two: what holds the largest image.
const WINDOW_LOG: u32 = MAX_IMAGE.trailing_zeros();

/// Why no image comes of a difference.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DifferenceError {
    #[error("the difference is from {base}, not from {runs}")]
    OtherBase { base: String, runs: String },
    #[error("the image that runs is not kept")]
    NoBase,
    #[error("differences of kind {0} are unknown")]
    UnknownKind(u32),
    #[error("the difference does not apply")]
    DoesNotApply(#[source] std::io::Error),
    #[error("the difference makes more than {MAX_IMAGE} bytes")]
    TooLarge,
}

/// Whether a device that runs this version can apply it: known before it is fetched.
pub(crate) fn check(difference: &Difference, runs: &str) -> Result<(), DifferenceError> {
    let Difference { base, kind } = difference;
    match kind {
        DifferenceKind::Zstd => {}
        DifferenceKind::Other(kind) => return Err(DifferenceError::UnknownKind(*kind)),
    }
    if base != runs {
        return Err(DifferenceError::OtherBase { base: base.clone(), runs: runs.to_owned() });
    }
    Ok(())
}

/// What the difference makes of the image that runs. Whether that is the right one, its digest says.
pub(crate) fn apply(running: &[u8], difference: &[u8]) -> Result<Vec<u8>, DifferenceError> {
    let read = || {
        let mut decoder = zstd::Decoder::with_ref_prefix(difference, running)?;
        decoder.window_log_max(WINDOW_LOG)?;
        let mut image = Vec::new();
        decoder.take(MAX_IMAGE + 1).read_to_end(&mut image)?;
        Ok(image)
    };
    let image = read().map_err(DifferenceError::DoesNotApply)?;
    if image.len() as u64 > MAX_IMAGE { Err(DifferenceError::TooLarge) } else { Ok(image) }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn what_other_peoples_zstd_makes_is_applied_and_to_another_image_gives_no_such_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let base = crate::image::build("S5700", "4.9.0", 200_000);
        let mut image = base.clone();
        image[1000..1010].copy_from_slice(b"0123456789");
        image.extend_from_slice(b"more");
        std::fs::write(path("base"), &base).unwrap();
        std::fs::write(path("image"), &image).unwrap();
        let mut make = Command::new("zstd");
        make.arg(format!("--patch-from={}", path("base").display())).arg(path("image")).arg("-o");
        let made = make.arg(path("difference")).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        let difference = std::fs::read(path("difference")).unwrap();
        assert!(difference.len() < 1000, "{} bytes", difference.len());
        assert!(apply(&base, &difference).unwrap() == image);
        let mut other = base;
        other[150_000] ^= 1;
        assert!(apply(&other, &difference).map_or(true, |made| made != image));
        assert!(apply(b"", b"not a difference").is_err());
    }

    #[test]
    fn what_cannot_be_applied_is_known_beforehand() {
        let difference = |kind| Difference { base: "4.9.0".to_owned(), kind };
        assert!(check(&difference(DifferenceKind::Zstd), "4.9.0").is_ok());
        let other = check(&difference(DifferenceKind::Zstd), "4.9.1").unwrap_err();
        assert_eq!(other.to_string(), "the difference is from 4.9.0, not from 4.9.1");
        assert!(check(&difference(DifferenceKind::Other(2)), "4.9.0").is_err());
    }
}
