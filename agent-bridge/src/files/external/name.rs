//! The names of our files on a server that others use too. Pure.
//!
//! `fettle-`, the second since 1970 until which the file may be needed, in eight hexadecimal digits, and 80 random bits: 32
//! characters that every device takes. So whoever finds such a file knows that it is ours, and when nobody needs it any
//! more: also another replica, or the next run of one that was killed.

use data_encoding::BASE32_NOPAD;
use jiff::{SignedDuration, Timestamp};

const PREFIX: &str = "fettle-";
const EXPIRY_LEN: usize = 8;
const RANDOM_LEN: usize = 16;

/// How long a file outlives the second in its name before somebody else than its maker removes it: what clocks may differ by,
/// and a transfer that began at the last moment may take.
const SLACK: SignedDuration = SignedDuration::from_mins(10);

/// A name that nobody guesses, for a file that may be needed until `expires`.
pub(super) fn new(expires: Timestamp) -> String {
    let random: [u8; 10] = rand::random();
    let seconds = u32::try_from(expires.as_second().saturating_add(1).max(0)).unwrap_or(u32::MAX);
    format!("{PREFIX}{seconds:08x}-{}", BASE32_NOPAD.encode(&random).to_ascii_lowercase())
}

/// Whether it is the name of a file of ours that nobody needs any more.
pub(super) fn is_stale(name: &str, now: Timestamp) -> bool {
    let Some((expiry, random)) = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('-')) else { return false };
    let is_random = random.len() == RANDOM_LEN && random.bytes().all(|b| matches!(b, b'a'..=b'z' | b'2'..=b'7'));
    let is_expiry = expiry.len() == EXPIRY_LEN && expiry.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if !is_random || !is_expiry {
        return false;
    }
    let expires = u32::from_str_radix(expiry, 16).ok().and_then(|second| Timestamp::from_second(second.into()).ok());
    expires.is_some_and(|expires| now.duration_since(expires) > SLACK)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_name_fits_the_alphabet_and_the_length_of_the_protocol_and_is_another_each_time() {
        let name = new(at(1_700_000_000));
        assert_eq!(name.len(), 32);
        assert!(name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-')), "{name}");
        assert_ne!(name, new(at(1_700_000_000)));
    }

    #[test]
    fn a_file_is_stale_some_time_after_it_was_needed() {
        let name = new(at(1_700_000_000));
        assert!(!is_stale(&name, at(1_700_000_000)));
        assert!(!is_stale(&name, at(1_700_000_600)));
        assert!(is_stale(&name, at(1_700_000_602)));
    }

    #[test]
    fn what_is_not_ours_is_never_stale() {
        for name in [
            "",
            "fettle",
            "fettle-",
            "fettle-00000000",
            "fettle-00000000-",
            "fettle-00000000-abc",
            "fettle-0000000-abcdefghijklmnop",
            "fettle-+0000000-abcdefghijklmnop",
            "fettle-00000000-abcdefghijklmno1",
            "fettle-00000000-abcdefghijklmnopq",
            "fettle-00000000-ABCDEFGHIJKLMNOP",
            "x/fettle-00000000-abcdefghijklmnop",
        ] {
            assert!(!is_stale(name, at(1_700_000_000)), "{name}");
        }
        assert!(is_stale("fettle-00000000-abcdefghijklmnop", at(1_700_000_000)));
    }
}
