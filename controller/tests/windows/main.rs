//! Windows, freezes and times of day: what they mean, by example and against a walk from minute to minute.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod daylight_saving;
mod freezes;
mod opening;
mod properties;
mod reading;
mod times_of_day;

use fettle_controller::plan::windows::{Calendar, Freeze, Window, Zone};
use jiff::civil::DateTime;
use jiff::{SignedDuration, Timestamp};

/// An instant, as RFC 3339 has it.
fn at(text: &str) -> Timestamp {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn zone(name: &str) -> Zone {
    Zone::named(name).unwrap()
}

fn window(schedule: &str, duration: &str, zone: &str) -> Window {
    Window::parse(schedule, span(duration), zone).unwrap_or_else(|error| panic!("{error}"))
}

fn span(text: &str) -> SignedDuration {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn freeze(from: &str, to: &str, reason: &str) -> Freeze {
    Freeze::parse(from, to, reason, &zone("Europe/Berlin")).unwrap_or_else(|error| panic!("{error}"))
}

/// A calendar of these windows, without freezes.
fn windows(windows: impl IntoIterator<Item = Window>) -> Calendar {
    Calendar::new(windows.into_iter().collect(), Vec::new())
}

/// The openings of a calendar between two instants, by the clock of UTC: from, and to where it closes before the end.
fn openings(calendar: &Calendar, from: &str, to: &str) -> Vec<String> {
    let (mut now, end) = (at(from), at(to));
    let mut found = Vec::new();
    let mut opened: Option<Timestamp> = None;
    let mut asked = 0;
    while now < end {
        asked += 1;
        assert!(asked < 10_000, "{now} brings no end: {:?}", calendar.at(now));
        let answer = calendar.at(now);
        match (opened, answer.gate.is_open()) {
            (None, true) => opened = Some(now),
            (Some(from), false) => {
                found.push(format!("{} – {}", shown(from), shown(now)));
                opened = None;
            }
            (None, false) | (Some(_), true) => {}
        }
        let Some(next) = answer.changes_at else { break };
        assert!(next > now, "at {now} it says that it changes at {next}");
        now = next;
    }
    found.extend(opened.map(|from| format!("{} –", shown(from))));
    found
}

/// As `12-31 23:59`, in UTC.
fn shown(at: Timestamp) -> String {
    let shown: DateTime = zone("UTC").wall_clock(at);
    shown.strftime("%m-%d %H:%M").to_string()
}
