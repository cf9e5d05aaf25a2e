//! Lengths of time.

use jiff::SignedDuration;
use serde::Deserialize;

/// A length of time, as Go writes it.
#[derive(Debug, Clone, Copy)]
pub struct Span(pub SignedDuration);

pub fn hours(hours: i64) -> Span {
    Span(SignedDuration::from_hours(hours))
}

pub fn an_hour() -> Span {
    hours(1)
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let duration = fettle_crds::Duration::deserialize(deserializer)?;
        Ok(Self(SignedDuration::try_from(duration.0).unwrap()))
    }
}
