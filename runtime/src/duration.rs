//! Durations on the command line, as the API spells them.

use std::time::Duration;

/// The text is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a duration: want numbers with units, such as 90s or 1h30m")]
pub struct ParseDurationError(String);

/// Reads a duration as Go writes it (`90s`, `1h30m`); for clap's `value_parser`.
///
/// # Errors
/// [`ParseDurationError`] where the text is anything else, a negative duration included.
pub fn duration(text: &str) -> Result<Duration, ParseDurationError> {
    let error = || ParseDurationError(text.to_owned());
    // kube's reader takes a sign, and nothing at all, for a duration.
    if !text.starts_with(|c: char| c.is_ascii_digit()) || !text.ends_with(|c: char| c.is_ascii_lowercase()) {
        return Err(error());
    }
    text.parse::<kube::core::Duration>().map(Duration::from).map_err(|_| error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_writes_them() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("1500ms"), Ok(Duration::from_millis(1500)));
        for text in ["", "90", "-5s", "+5s", "5 s", "1d", "s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
