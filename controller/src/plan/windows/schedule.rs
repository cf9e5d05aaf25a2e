//! The five fields of a schedule: on which days it comes, and at which minutes of a day.
//!
//! This knows the calendar, and nothing of time zones.

use std::fmt;

use croner::parser::{CronParser, Seconds, Year};
use croner::{Cron, Weekday as CronWeekday};
use jiff::civil::{Date, Weekday, date};

use super::window::WindowError;

/// For how many years a next day is looked for. The rarest day that five fields can name is a 29 February that is a certain
/// day of the week (the fifth Monday of February): 40 years lie between two of those where a century has no leap day.
const YEARS_AHEAD: i16 = 41;

const WEEKDAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];
const MONTHS: [&str; 12] = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];

/// A field of a schedule, in the order in which they are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    Minute,
    Hour,
    DayOfMonth,
    Month,
    DayOfWeek,
}

impl Field {
    const ALL: [Self; 5] = [Self::Minute, Self::Hour, Self::DayOfMonth, Self::Month, Self::DayOfWeek];

    /// What may stand there, for the one who has to write it anew.
    pub(super) const fn wants(self) -> &'static str {
        match self {
            Self::Minute => "0 to 59, as in 0 or 0,30 or */15",
            Self::Hour => "0 to 23, as in 2 or 1-5 or */6",
            Self::DayOfMonth => "1 to 31, L for the last or 15W for the weekday nearest to the 15th, as in * or 1,15",
            Self::Month => "1 to 12 or JAN to DEC, as in * or 1-11",
            Self::DayOfWeek => {
                "0 to 7 or SUN to SAT (0 and 7 are Sunday; ranges go upwards), as in 6 or MON-FRI, \
                 6#2 for the second Saturday of a month or 6L for the last"
            }
        }
    }

    /// Whether one of the words between commas, dashes and slashes can stand there. Croner is the judge of numbers, but
    /// it replaces the names of days and months wherever they are.
    fn allows(self, word: &str) -> bool {
        let number = |word: &str| word.len() <= 2 && !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit());
        let named = |names: &[&str]| names.contains(&word);
        word == "*"
            || number(word)
            || match self {
                Self::Minute | Self::Hour => false,
                Self::DayOfMonth => {
                    word == "?" || word == "L" || word == "LW" || word.strip_suffix('W').is_some_and(number)
                }
                Self::Month => named(&MONTHS),
                Self::DayOfWeek => {
                    let (day, nth) = word.split_once('#').unwrap_or((word.strip_suffix('L').unwrap_or(word), "1"));
                    word == "?" || (number(day) || WEEKDAYS.contains(&day)) && (number(nth) || nth == "L")
                }
            }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::DayOfMonth => "day of the month",
            Self::Month => "month",
            Self::DayOfWeek => "day of the week",
        })
    }
}

/// A schedule, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Schedule {
    cron: Cron,
    /// The minutes of a day at which it comes, from midnight, ascending, at least one.
    minutes: Vec<u16>,
    /// By month: whether it comes in any year.
    months: [bool; 12],
}

impl Schedule {
    pub(super) fn parse(text: &str) -> Result<Self, WindowError> {
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let upper = text.to_ascii_uppercase();
        let parts: Vec<&str> = upper.split_whitespace().collect();
        if parts.len() != Field::ALL.len() {
            return Err(WindowError::FieldCount { schedule: text.to_owned(), found: parts.len() });
        }
        // each field by itself, so that it can be named
        for (index, (field, part)) in Field::ALL.into_iter().zip(&parts).enumerate() {
            let mut alone = ["*"; 5];
            alone[index] = part;
            let words_allowed = part.split([',', '-', '/']).all(|word| field.allows(word));
            if !words_allowed || parser.parse(&alone.join(" ")).is_err() {
                return Err(WindowError::Field { schedule: text.to_owned(), field, text: (*part).to_owned() });
            }
        }
        let never = || WindowError::Never { schedule: text.to_owned() };
        let cron = parser.parse(&upper).map_err(|_| never())?;
        let pattern = &cron.pattern;
        let minutes = (0..24u16 * 60)
            .filter(|minute| {
                let (hour, minute) = (u32::from(minute / 60), u32::from(minute % 60));
                pattern.hour_match(hour).unwrap_or(false) && pattern.minute_match(minute).unwrap_or(false)
            })
            .collect::<Vec<_>>();
        let months = std::array::from_fn(|index| pattern.month_match(index as u32 + 1).unwrap_or(false));
        let schedule = Self { cron, minutes, months };
        // as long as the rarest day may take, from any day on
        let comes = !schedule.minutes.is_empty() && schedule.days_from(date(2000, 1, 1)).next().is_some();
        if comes { Ok(schedule) } else { Err(never()) }
    }

    /// The minutes of a day at which it comes, ascending.
    pub(super) fn minutes(&self) -> &[u16] {
        &self.minutes
    }

    /// Whether it comes on that day.
    pub(super) fn is_on(&self, day: Date) -> bool {
        let weekday = match day.weekday() {
            Weekday::Sunday => CronWeekday::Sunday,
            Weekday::Monday => CronWeekday::Monday,
            Weekday::Tuesday => CronWeekday::Tuesday,
            Weekday::Wednesday => CronWeekday::Wednesday,
            Weekday::Thursday => CronWeekday::Thursday,
            Weekday::Friday => CronWeekday::Friday,
            Weekday::Saturday => CronWeekday::Saturday,
        };
        let (month, of_month) = (day.month().unsigned_abs(), day.day().unsigned_abs());
        self.comes_in(day)
            && self
                .cron
                .pattern
                .day_match(i32::from(day.year()), u32::from(month), u32::from(of_month), weekday)
                .unwrap_or(false)
    }

    /// The days on which it comes, from one on, for as long as the rarest may take.
    pub(super) fn days_from(&self, first: Date) -> impl Iterator<Item = Date> {
        let mut next = Some(first);
        std::iter::from_fn(move || {
            while let Some(day) = next.filter(|day| day.year() <= first.year().saturating_add(YEARS_AHEAD)) {
                if !self.comes_in(day) {
                    next = day.last_of_month().tomorrow().ok();
                    continue;
                }
                next = day.tomorrow().ok();
                if self.is_on(day) {
                    return Some(day);
                }
            }
            None
        })
    }

    fn comes_in(&self, day: Date) -> bool {
        self.months[usize::from(day.month().unsigned_abs()) - 1]
    }
}
