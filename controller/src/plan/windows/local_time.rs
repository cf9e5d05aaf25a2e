//! A time of day, at which devices apply a configuration by their own clocks.

use std::fmt;
use std::str::FromStr;

use jiff::{SignedDuration, Timestamp};

use super::window::after;
use super::zone::Zone;

/// The text is not a time of day.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a time of day: write hours and minutes from 00:00 to 23:59, such as 03:00")]
pub struct LocalTimeError(pub String);

/// A time of day, in hours and minutes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LocalTime {
    hour: i8,
    minute: i8,
}

/// An instant, and what the clock of a device shows then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moment {
    pub at: Timestamp,
    /// As datum 12 has it: `yyyy-mm-dd hh:mm:ss`. In an hour that comes twice it does not say which; a device that takes
    /// the second is an hour late.
    pub shown: String,
}

impl LocalTime {
    /// The next instant at which it is that time of day in a zone, `lead` after `now` at the earliest. `None` at the end
    /// of time.
    ///
    /// On a day on which the clock jumps past it, that is the instant of the jump, and what it shows then; on one on
    /// which it comes twice, the first.
    pub fn next(self, zone: &Zone, now: Timestamp, lead: SignedDuration) -> Option<Moment> {
        let earliest = after(now, lead);
        // one day back, for a clock that jumps past a time of yesterday does so today; and three days on, for one day may
        // be missing altogether
        let first = zone.wall_clock(earliest).date().yesterday().ok()?;
        let at = first
            .series(jiff::Span::new().days(1))
            .take(5)
            .filter_map(|day| zone.instant_of(day.at(self.hour, self.minute, 0, 0)))
            .find(|at| *at >= earliest)?;
        Some(Moment { at, shown: zone.wall_clock(at).strftime("%Y-%m-%d %H:%M:%S").to_string() })
    }
}

impl FromStr for LocalTime {
    type Err = LocalTimeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits =
            |text: &str| (text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?;
        let parsed = text.split_once(':').and_then(|(hour, minute)| Some((digits(hour)?, digits(minute)?)));
        match parsed {
            Some((hour @ 0..=23, minute @ 0..=59)) => Ok(Self { hour, minute }),
            _ => Err(LocalTimeError(text.to_owned())),
        }
    }
}

impl fmt::Display for LocalTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.hour, self.minute)
    }
}
