//! Options of a request (RFC 2348, 2349, 7440), and what of them we grant. Pure.

use std::time::Duration;

pub(super) const DEFAULT_BLOCK: usize = 512;
const BLOCK_SIZES: std::ops::RangeInclusive<u64> = 8..=65_464;

/// Blocks that we send ahead at most, and bytes: what does not fit into the receive buffer of a common network stack (208 KiB, of
/// which half is overhead) would be lost at each window and waited for. 64 blocks fill Ethernet packets.
const MAX_WINDOW: u64 = 64;
const MAX_WINDOW_BYTES: usize = 96 * 1024;

/// What a transfer goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Terms {
    /// Bytes in a block.
    pub(super) block: usize,
    /// Blocks for one acknowledgement.
    pub(super) window: u16,
    /// After which time to send again, where the client wants it so.
    pub(super) timeout: Option<Duration>,
    /// What the client says an upload will bring.
    pub(super) announced: Option<u64>,
}

/// The terms, and what the acknowledgement of options says; empty where there is nothing to acknowledge. `size` is the file's,
/// for a download. What we do not know, and what makes no sense, is left out, and so counts as not asked for.
pub(super) fn negotiate(options: &[(String, String)], size: Option<u64>) -> (Terms, Vec<(String, String)>) {
    let mut terms = Terms { block: DEFAULT_BLOCK, window: 1, timeout: None, announced: None };
    let mut granted: Vec<(String, String)> = Vec::new();
    let mut window_granted = None;
    for (name, value) in options {
        let Ok(asked) = value.trim().parse::<u64>() else { continue };
        if granted.iter().any(|(before, _)| before.eq_ignore_ascii_case(name)) {
            continue;
        }
        let grant = match name.to_ascii_lowercase().as_str() {
            "blksize" if asked >= *BLOCK_SIZES.start() => {
                let block = asked.min(*BLOCK_SIZES.end());
                terms.block = usize::try_from(block).unwrap_or(DEFAULT_BLOCK);
                block
            }
            "timeout" if (1..=255).contains(&asked) => {
                terms.timeout = Some(Duration::from_secs(asked));
                asked
            }
            // curl takes a size of 0 for an error. Nobody needs to make room for an empty file.
            "tsize" if size == Some(0) => continue,
            "tsize" => match size {
                Some(size) => size,
                None => {
                    terms.announced = Some(asked);
                    asked
                }
            },
            "windowsize" if (1..=65_535).contains(&asked) => {
                window_granted = Some(granted.len());
                asked.min(MAX_WINDOW)
            }
            _ => continue,
        };
        // In the client's own spelling: some compare it letter by letter.
        granted.push((name.clone(), grant.to_string()));
    }
    // Only now is it known how large the blocks are.
    if let Some((_, value)) = window_granted.and_then(|index| granted.get_mut(index)) {
        let fit = (MAX_WINDOW_BYTES / terms.block).max(1);
        terms.window = value.parse().unwrap_or(1).min(u16::try_from(fit).unwrap_or(u16::MAX));
        *value = terms.window.to_string();
    }
    (terms, granted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(options: &[(&str, &str)]) -> Vec<(String, String)> {
        options.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
    }

    #[test]
    fn what_is_known_is_granted_within_its_bounds_and_in_the_clients_spelling() {
        let asked = [("BlkSize", "70000"), ("timeout", "6"), ("tsize", "0"), ("windowsize", "1"), ("multicast", "")];
        let (terms, granted) = negotiate(&options(&asked), Some(1234));
        let timeout = Some(Duration::from_secs(6));
        assert_eq!(terms, Terms { block: 65_464, window: 1, timeout, announced: None });
        let expected = [("BlkSize", "65464"), ("timeout", "6"), ("tsize", "1234"), ("windowsize", "1")];
        assert_eq!(granted, options(&expected));
    }

    #[test]
    fn what_makes_no_sense_counts_as_not_asked_for() {
        let asked = [
            ("blksize", "7"),
            ("blksize", "x"),
            ("timeout", "0"),
            ("timeout", "256"),
            ("windowsize", "0"),
            ("tsize", "-1"),
        ];
        let (terms, granted) = negotiate(&options(&asked), Some(1));
        assert_eq!(terms, Terms { block: 512, window: 1, timeout: None, announced: None });
        assert_eq!(granted, []);
    }

    #[test]
    fn a_window_fits_into_a_receive_buffer_whatever_comes_first() {
        for (block, window) in [("8", 64), ("1468", 64), ("8192", 12), ("65464", 1)] {
            for asked in [[("windowsize", "65535"), ("blksize", block)], [("blksize", block), ("windowsize", "65535")]]
            {
                let (terms, granted) = negotiate(&options(&asked), Some(1));
                assert_eq!(terms.window, window);
                assert!(granted.contains(&("windowsize".into(), window.to_string())));
            }
        }
    }

    #[test]
    fn the_size_of_an_empty_file_is_not_told() {
        assert_eq!(negotiate(&options(&[("tsize", "0")]), Some(0)).1, []);
    }

    #[test]
    fn an_upload_announces_its_size_and_the_first_of_two_counts() {
        let (terms, granted) = negotiate(&options(&[("tsize", "99"), ("TSIZE", "1")]), None);
        assert_eq!(terms.announced, Some(99));
        assert_eq!(granted, options(&[("tsize", "99")]));
    }
}
