//! A maintenance window: a schedule of starts, each of which opens it for a duration.

use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp};

use super::schedule::{Field, Schedule};
use super::zone::{UnknownZone, Zone};

/// Something is wrong with a window, in words for the one who wrote it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WindowError {
    #[error(
        "schedule {schedule:?} has {found} fields: write five, which are minute, hour, day of the month, month and day \
         of the week, as in \"0 2 * * 6\""
    )]
    FieldCount { schedule: String, found: usize },
    #[error("schedule {schedule:?}: the {field} cannot be {text:?}: write {}", field.wants())]
    Field { schedule: String, field: Field, text: String },
    #[error("schedule {schedule:?} never comes: write a day that its months have")]
    Never { schedule: String },
    #[error("duration {duration:#} of the window {schedule:?}: write one from 1s to 720h")]
    Duration { schedule: String, duration: SignedDuration },
    #[error("timeZone of the window {schedule:?}: {zone}")]
    Zone { schedule: String, zone: UnknownZone },
}

/// A maintenance window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    schedule: Schedule,
    duration: SignedDuration,
    zone: Zone,
    /// For how many days back from a day a start may keep the window open on it.
    reach: i64,
    /// The minutes of a day at which it starts, where each run of starts leaves no pause, on a day without a change.
    runs: Vec<Run>,
}

/// Starts that follow each other before the window closes: the first and the last, as minutes of the day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    first: u16,
    last: u16,
}

impl Window {
    /// The longest that the API lets a window be. What is open for longer needs no windows, but freezes.
    const LONGEST: SignedDuration = SignedDuration::from_hours(720);

    /// Reads a window: a schedule of five cron fields, by the wall clock of a zone, and how long each start opens it.
    ///
    /// Days are those of cron: where both the day of the month and the day of the week are restricted, either will do.
    pub fn parse(schedule: &str, duration: SignedDuration, time_zone: &str) -> Result<Self, WindowError> {
        let text = || schedule.to_owned();
        if duration < SignedDuration::from_secs(1) || duration > Self::LONGEST {
            return Err(WindowError::Duration { schedule: text(), duration });
        }
        let zone = Zone::named(time_zone).map_err(|zone| WindowError::Zone { schedule: text(), zone })?;
        let schedule = Schedule::parse(schedule)?;
        let mut runs: Vec<Run> = Vec::new();
        for &minute in schedule.minutes() {
            match runs.last_mut() {
                Some(run) if SignedDuration::from_mins(i64::from(minute - run.last)) <= duration => run.last = minute,
                _ => runs.push(Run { first: minute, last: minute }),
            }
        }
        // one day for the rest of a day, one for the part of the day on which it starts, two for clocks that skip or
        // repeat a day, as where the date line was moved
        let reach = duration.as_hours() / 24 + 4;
        Ok(Self { schedule, duration, zone, reach, runs })
    }

    /// The longest that it is open without a pause because of one day's starts.
    pub(super) fn longest_of_a_day(&self) -> SignedDuration {
        let lengths = self.runs.iter().map(|run| SignedDuration::from_mins(i64::from(run.last - run.first)));
        lengths.max().unwrap_or_default() + self.duration
    }

    /// Where it is open: until when at least. It may be open for longer, by starts of other days.
    pub(super) fn open_until(&self, at: Timestamp) -> Option<Timestamp> {
        // a clock that went back past midnight shows yesterday once more, when starts of its next day have been
        let mut day = self.zone.wall_clock(at).date().tomorrow().ok()?;
        // the latest start is the only one that counts, for all of them last as long
        for _ in 0..=self.reach {
            if let Some(last_start) = self.starts_on(day).and_then(|starts| starts.run_begun_by(at)) {
                let end = after(last_start, self.duration);
                return (at < end).then_some(end);
            }
            day = day.yesterday().ok()?;
        }
        None
    }

    /// Where it is closed: when it opens. `None` at the end of time.
    pub(super) fn opens_after(&self, at: Timestamp) -> Option<Timestamp> {
        let today = self.zone.wall_clock(at).date();
        self.schedule.days_from(today).find_map(|day| self.starts_on(day)?.run_beginning_after(at))
    }

    /// The starts of a day, where there are any.
    fn starts_on(&self, day: Date) -> Option<Starts<'_>> {
        if !self.schedule.is_on(day) {
            return None;
        }
        if let Some(midnight) = self.zone.unchanged_day(day) {
            return Some(Starts::Unchanged { midnight, runs: &self.runs });
        }
        let mut runs: Vec<(Timestamp, Timestamp)> = Vec::new();
        for minute in self.schedule.minutes() {
            let (hour, minute) = ((minute / 60) as i8, (minute % 60) as i8);
            let Some(start) = self.zone.instant_of(day.at(hour, minute, 0, 0)) else { continue };
            match runs.last_mut() {
                Some((_, last)) if start <= after(*last, self.duration) => *last = start,
                _ => runs.push((start, start)),
            }
        }
        Some(Starts::Changed { runs })
    }
}

/// The starts of a day.
enum Starts<'a> {
    /// Of one on which the clock goes on evenly.
    Unchanged { midnight: Timestamp, runs: &'a [Run] },
    /// Of one on which it changes: the runs, as their first and last starts.
    Changed { runs: Vec<(Timestamp, Timestamp)> },
}

impl Starts<'_> {
    /// The last start of the latest run that has begun.
    fn run_begun_by(&self, at: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Unchanged { midnight, runs } => {
                let minute = whole_minutes(*midnight, at);
                let begun = runs.partition_point(|run| i64::from(run.first) <= minute);
                let run = runs.get(begun.checked_sub(1)?)?;
                Some(after(*midnight, SignedDuration::from_mins(i64::from(run.last))))
            }
            Self::Changed { runs } => {
                let begun = runs.partition_point(|(first, _)| *first <= at);
                runs.get(begun.checked_sub(1)?).map(|(_, last)| *last)
            }
        }
    }

    /// The first start of the first run that has not begun.
    fn run_beginning_after(&self, at: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Unchanged { midnight, runs } => {
                let minute = whole_minutes(*midnight, at);
                let run = runs.get(runs.partition_point(|run| i64::from(run.first) <= minute))?;
                Some(after(*midnight, SignedDuration::from_mins(i64::from(run.first))))
            }
            Self::Changed { runs } => {
                runs.get(runs.partition_point(|(first, _)| *first <= at)).map(|(first, _)| *first)
            }
        }
    }
}

/// The whole minutes from one instant to another, rounded towards the past.
fn whole_minutes(from: Timestamp, to: Timestamp) -> i64 {
    let elapsed = to.duration_since(from);
    let seconds = elapsed.as_secs() - i64::from(elapsed.subsec_nanos() < 0);
    seconds.div_euclid(60)
}

/// An instant that much later, or the last that there is.
pub(super) fn after(at: Timestamp, duration: SignedDuration) -> Timestamp {
    at.checked_add(duration).unwrap_or(Timestamp::MAX)
}
