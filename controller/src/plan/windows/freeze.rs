//! Times at which nothing begins, whatever the windows say.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use jiff::civil::Date;

use super::zone::Zone;

/// Which end of a freeze.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FreezeEnd {
    From,
    To,
}

impl fmt::Display for FreezeEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::From => "from",
            Self::To => "to",
        })
    }
}

/// Something is wrong with a freeze, in words for the one who wrote it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FreezeError {
    #[error(
        "freezes: {end} cannot be {text:?}: write a date, such as 2026-12-20, or an instant with its offset, such as \
         2026-12-20T18:00:00+01:00"
    )]
    Unreadable { end: FreezeEnd, text: String },
    #[error("freezes: to ({to}) is not after from ({from}): write a later one")]
    Empty { from: String, to: String },
}

/// A time at which nothing begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Freeze {
    from: Timestamp,
    to: Timestamp,
    reason: Arc<str>,
}

impl Freeze {
    /// Reads a freeze. Its ends are dates in a zone or instants (RFC 3339).
    ///
    /// A date as `from` is the beginning of that day; as `to` it is the end of that day, so that a freeze from and to the
    /// same date lasts that day. An instant as `to` is the first at which the freeze is over.
    pub fn parse(from: &str, to: &str, reason: &str, zone: &Zone) -> Result<Self, FreezeError> {
        let begins = read(from, FreezeEnd::From, zone)?;
        let ends = read(to, FreezeEnd::To, zone)?;
        if ends <= begins {
            return Err(FreezeError::Empty { from: from.to_owned(), to: to.to_owned() });
        }
        Ok(Self { from: begins, to: ends, reason: reason.into() })
    }

    /// Its first instant.
    pub fn from(&self) -> Timestamp {
        self.from
    }

    /// The first instant after it.
    pub fn to(&self) -> Timestamp {
        self.to
    }

    /// Why, in its author's words.
    pub fn reason(&self) -> &Arc<str> {
        &self.reason
    }

    /// Whether it holds then.
    pub fn holds_at(&self, at: Timestamp) -> bool {
        self.from <= at && at < self.to
    }
}

fn read(text: &str, end: FreezeEnd, zone: &Zone) -> Result<Timestamp, FreezeError> {
    let unreadable = || FreezeError::Unreadable { end, text: text.to_owned() };
    // by its length, for jiff reads the date out of an instant without an offset, too
    if text.len() != "2026-12-20".len() {
        return text.parse().map_err(|_| unreadable());
    }
    let date: Date = text.parse().map_err(|_| unreadable())?;
    let day = match end {
        FreezeEnd::From => Some(date),
        FreezeEnd::To => date.tomorrow().ok(),
    };
    day.and_then(|day| zone.instant_of(day.at(0, 0, 0, 0))).ok_or_else(unreadable)
}
