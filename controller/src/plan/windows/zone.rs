//! Time zones by name, and which instant a time on their wall clocks is.

use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::{AmbiguousOffset, TimeZone, TimeZoneDatabase};

/// There is no time zone of that name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a time zone: write a name of the IANA database, such as Europe/Berlin or UTC")]
pub struct UnknownZone(pub String);

/// A time zone of the IANA database, as it is built in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone(TimeZone);

impl Default for Zone {
    fn default() -> Self {
        Self::utc()
    }
}

impl Zone {
    /// The zone of that name, which is compared without case.
    ///
    /// The database is the one that is built in, also where the host has another: what a window means must not depend on
    /// the node that the controller runs on.
    pub fn named(name: &str) -> Result<Self, UnknownZone> {
        match TimeZoneDatabase::bundled().get(name) {
            // a name of the database for clocks that nobody set: no zone that anybody could mean
            Ok(zone) if !zone.is_unknown() => Ok(Self(zone)),
            _ => Err(UnknownZone(name.to_owned())),
        }
    }

    /// The zone of those who name none.
    pub const fn utc() -> Self {
        Self(TimeZone::UTC)
    }

    /// Its name, as the database writes it.
    pub fn name(&self) -> &str {
        self.0.iana_name().unwrap_or("UTC")
    }

    /// What a wall clock shows then.
    pub fn wall_clock(&self, at: Timestamp) -> DateTime {
        self.0.to_datetime(at)
    }

    /// The instant at which a wall clock first shows that, or at which it jumps past it. `None` at the ends of time.
    ///
    /// A later time on the clock is never an earlier instant: what looks for starts relies on that.
    pub fn instant_of(&self, shown: DateTime) -> Option<Timestamp> {
        match self.0.to_ambiguous_timestamp(shown).offset() {
            AmbiguousOffset::Unambiguous { offset } | AmbiguousOffset::Fold { before: offset, .. } => {
                offset.to_timestamp(shown).ok()
            }
            // by the offset that comes after, it would have been shown before the jump
            AmbiguousOffset::Gap { after, .. } => {
                let before_jump = after.to_timestamp(shown).ok()?;
                // the first change from there on is the jump; one that leaves the clock alone would be passed over
                let mut changes = self.0.following(before_jump).take(4).map(|change| change.timestamp());
                changes.find(|at| self.wall_clock(*at) > shown)
            }
        }
    }

    /// The first instant of a day, where it has one and the same offset from its beginning to its end.
    ///
    /// Seen at its ends only: no zone has changed its clock and changed it back within one day.
    pub(super) fn unchanged_day(&self, day: Date) -> Option<Timestamp> {
        let offset_at = |day: Date| match self.0.to_ambiguous_timestamp(day.at(0, 0, 0, 0)).offset() {
            AmbiguousOffset::Unambiguous { offset } => Some(offset),
            AmbiguousOffset::Gap { .. } | AmbiguousOffset::Fold { .. } => None,
        };
        let offset = offset_at(day)?;
        (offset_at(day.tomorrow().ok()?) == Some(offset)).then(|| offset.to_timestamp(day.at(0, 0, 0, 0)).ok())?
    }
}
