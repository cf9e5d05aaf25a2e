//! Durations as people write them: `2s`, `1h30m`, `250ms`.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serializer};

/// The text is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a duration: want something like 250ms, 2s or 1h30m")]
pub struct ParseDurationError(String);

/// Reads `1h30m`, `90s`, `250ms` and the like; not negative.
///
/// # Errors
/// [`ParseDurationError`] where it is anything else.
pub fn parse(text: &str) -> Result<Duration, ParseDurationError> {
    text.parse::<jiff::SignedDuration>()
        .ok()
        .and_then(|duration| Duration::try_from(duration).ok())
        .ok_or_else(|| ParseDurationError(text.to_owned()))
}

pub(crate) fn format(duration: Duration) -> String {
    match jiff::SignedDuration::try_from(duration) {
        Ok(duration) => format!("{duration:#}"),
        Err(_) => format!("{}s", duration.as_secs()),
    }
}

pub(crate) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format(*duration))
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse(&text).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_writes_them() {
        assert_eq!(parse("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(parse("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse("0s"), Ok(Duration::ZERO));
        for bad in ["", "2", "-2s", "soon"] {
            assert_eq!(parse(bad), Err(ParseDurationError(bad.to_owned())));
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        for duration in [Duration::ZERO, Duration::from_millis(1500), Duration::from_secs(5400)] {
            assert_eq!(parse(&format(duration)), Ok(duration), "{}", format(duration));
        }
    }
}
