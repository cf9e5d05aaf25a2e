//! Windows and freezes together: may a try start, until when, and if not, why and when again.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::freeze::Freeze;
use super::window::{Window, after};

/// How far ahead the end of an open window is looked for, where windows follow each other without a pause: longer than a
/// week, so that whatever closes once a week is found.
const LOOK_AHEAD: SignedDuration = SignedDuration::from_hours(8 * 24);
/// How many windows may follow each other before the search gives up, with what it has found: twice as many as daily ones
/// on both sides of midnight need. Two windows that take turns every half hour are known to be open for 32 hours, which is
/// far longer than a try lasts.
const STEPS_AHEAD: usize = 64;
/// How many openings are looked at for one that is long enough: those of a week, where windows open each hour.
const OPENINGS_AHEAD: usize = 200;

/// The windows and freezes of a group.
///
/// Without windows it is always open, but for freezes.
///
/// A question costs about a microsecond for each window (measured with optimization), and more in two cases: where windows
/// touch from day to day, their end is looked for ahead, which takes up to 40 microseconds; and on the two days of a year on
/// which a clock changes, a schedule is gone through minute by minute, which takes 100 for one of every minute. An
/// [`Answer`] can be kept for as long as it [holds](Answer::holds_at).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Calendar {
    openings: Openings,
    freezes: Vec<Freeze>,
}

/// Whether a try may start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gate {
    /// It may.
    Open { closes: Closing },
    /// No window is open. It may start at `next`, if ever: a window is open then, and no freeze holds.
    NoWindowOpen { next: Option<Timestamp> },
    /// A freeze holds, whether or not a window is open. Of several it is the one that ends last, at `until`; it may start
    /// at `next`, if ever.
    Frozen { until: Timestamp, reason: Arc<str>, next: Option<Timestamp> },
}

impl Gate {
    /// Whether a try may start.
    pub fn is_open(&self) -> bool {
        matches!(self, Self::Open { .. })
    }
}

/// When what is open closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closing {
    /// That is the first instant at which it is closed.
    At(Timestamp),
    /// It is open until then without a pause, and goes on: windows follow each other for longer than is looked ahead.
    NotBefore(Timestamp),
    /// There are no windows, and no freeze is to come.
    Never,
}

impl Closing {
    /// Until when it is surely open; `None` is for ever.
    pub fn known(self) -> Option<Timestamp> {
        match self {
            Self::At(at) | Self::NotBefore(at) => Some(at),
            Self::Never => None,
        }
    }
}

/// What a calendar says at an instant, and for how long that holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub gate: Gate,
    /// When it was asked for.
    pub at: Timestamp,
    /// When the answer will be another by the passing of time alone, and when to look again where the end of a window is
    /// not known. `None` is never.
    pub changes_at: Option<Timestamp>,
}

impl Answer {
    /// Whether asking then would bring the same answer.
    pub fn holds_at(&self, at: Timestamp) -> bool {
        self.at <= at && self.changes_at.is_none_or(|changes| at < changes)
    }
}

/// Whether a try of some length that starts now ends before the window does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// It does, and would if it started at `start_by` at the latest; `None` is at any time.
    Fits { start_by: Option<Timestamp> },
    /// What is open closes before. A try that starts at `next` would end in time; `None` means that there is no opening of
    /// that length among the next ones.
    TooShort { closes: Timestamp, next: Option<Timestamp> },
    /// Nothing is open ([`Calendar::at`] says why). `next` is as above.
    Closed { next: Option<Timestamp> },
}

impl Calendar {
    pub fn new(windows: Vec<Window>, freezes: Vec<Freeze>) -> Self {
        Self { openings: Openings(windows), freezes }
    }

    /// Whether a try may start now.
    pub fn at(&self, now: Timestamp) -> Answer {
        let (gate, changes_at) = if let Some(freeze) = self.frozen_at(now) {
            // a freeze that begins meanwhile and lasts longer is named from then on
            let outlasting = self.freezes.iter().filter(|other| other.to() > freeze.to() && other.from() > now);
            let changes = outlasting.map(Freeze::from).fold(freeze.to(), Timestamp::min);
            let gate = Gate::Frozen {
                until: freeze.to(),
                reason: Arc::clone(freeze.reason()),
                next: self.next_start(freeze.to()),
            };
            (gate, Some(changes))
        } else if let Some(closes) = self.closes(now) {
            (Gate::Open { closes }, closes.known())
        } else {
            let opens = self.openings.opens_after(now);
            let gate = Gate::NoWindowOpen { next: opens.and_then(|opens| self.next_start(opens)) };
            (gate, opens.into_iter().chain(self.next_freeze(now)).min())
        };
        Answer { gate, at: now, changes_at }
    }

    /// Whether a try that is expected to last so long may start now, and until when.
    pub fn fits(&self, now: Timestamp, expected: SignedDuration) -> Fit {
        match self.closes(now) {
            None => Fit::Closed { next: self.next_fit(now, expected) },
            Some(Closing::Never) => Fit::Fits { start_by: None },
            Some(Closing::At(closes) | Closing::NotBefore(closes)) => match latest_start(closes, expected) {
                Some(start_by) if now <= start_by => Fit::Fits { start_by: Some(start_by) },
                _ => Fit::TooShort { closes, next: self.next_fit(closes, expected) },
            },
        }
    }

    /// Whether one that starts then ends in time, where nothing else is asked: when one would is a long search.
    pub fn has_room(&self, at: Timestamp, expected: SignedDuration) -> bool {
        let ends =
            |closes: Closing| closes.known().is_none_or(|end| latest_start(end, expected).is_some_and(|by| at <= by));
        self.closes(at).is_some_and(ends)
    }

    /// Whether windows are ever open for so long, freezes left aside, as far as the openings that follow `now` tell. A
    /// group whose windows are shorter than its `deviceTimeout` would never begin anything.
    pub fn ever_fits(&self, now: Timestamp, expected: SignedDuration) -> bool {
        let Openings(windows) = &self.openings;
        // a day's starts of one window tell in nearly all cases; windows that touch each other must be looked at
        windows.iter().any(|window| window.longest_of_a_day() >= expected)
            || first_fit(now, expected, |at| self.openings.next_open(at), |at| self.openings.closes(at)).is_some()
    }

    /// The first instant from then on at which a try of that length may start and ends in time.
    fn next_fit(&self, from: Timestamp, expected: SignedDuration) -> Option<Timestamp> {
        first_fit(from, expected, |at| self.next_start(at), |at| self.closes(at))
    }

    /// Where a try may start: until when.
    fn closes(&self, at: Timestamp) -> Option<Closing> {
        if self.frozen_at(at).is_some() {
            return None;
        }
        let closes = self.openings.closes(at)?;
        let freeze = self.next_freeze(at).filter(|freeze| closes.known().is_none_or(|closes| *freeze < closes));
        Some(freeze.map_or(closes, Closing::At))
    }

    /// The first instant from then on at which a try may start. Each round gets past a freeze or is the last but one.
    fn next_start(&self, from: Timestamp) -> Option<Timestamp> {
        let mut at = from;
        loop {
            at = self.openings.next_open(at)?;
            match self.frozen_at(at) {
                None => return Some(at),
                Some(freeze) => at = freeze.to(),
            }
        }
    }

    /// The freeze that holds then; of several the one that ends last, and of those the one that began first: another that
    /// ends with it does not take its place meanwhile.
    fn frozen_at(&self, at: Timestamp) -> Option<&Freeze> {
        let outlasts = |other: &Freeze, found: &Freeze| (other.to(), found.from()) > (found.to(), other.from());
        self.freezes
            .iter()
            .filter(|freeze| freeze.holds_at(at))
            .reduce(|found, other| if outlasts(other, found) { other } else { found })
    }

    /// When the next freeze begins after that.
    pub fn next_freeze(&self, at: Timestamp) -> Option<Timestamp> {
        self.freezes.iter().map(Freeze::from).filter(|from| *from > at).min()
    }
}

/// The windows of a group, as one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Openings(Vec<Window>);

impl Openings {
    /// Where one is open: when they are all closed.
    fn closes(&self, at: Timestamp) -> Option<Closing> {
        if self.0.is_empty() {
            return Some(Closing::Never);
        }
        let mut end = self.open_until(at)?;
        for _ in 0..STEPS_AHEAD {
            // what begins at the end, or before it and lasts longer, goes on from it
            match self.open_until(end) {
                None => return Some(Closing::At(end)),
                Some(_) if end > after(at, LOOK_AHEAD) => break,
                Some(further) => end = further,
            }
        }
        Some(Closing::NotBefore(end))
    }

    /// The first instant from then on at which one is open.
    fn next_open(&self, from: Timestamp) -> Option<Timestamp> {
        if self.0.is_empty() || self.open_until(from).is_some() { Some(from) } else { self.opens_after(from) }
    }

    fn open_until(&self, at: Timestamp) -> Option<Timestamp> {
        self.0.iter().filter_map(|window| window.open_until(at)).max()
    }

    /// Where all are closed: when the first opens.
    fn opens_after(&self, at: Timestamp) -> Option<Timestamp> {
        self.0.iter().filter_map(|window| window.opens_after(at)).min()
    }
}

/// The first instant at which something opens that stays open for so long.
fn first_fit(
    from: Timestamp,
    expected: SignedDuration,
    next: impl Fn(Timestamp) -> Option<Timestamp>,
    closes: impl Fn(Timestamp) -> Option<Closing>,
) -> Option<Timestamp> {
    let mut at = from;
    for _ in 0..OPENINGS_AHEAD {
        at = next(at)?;
        let Some(end) = closes(at)?.known() else { return Some(at) };
        if latest_start(end, expected).is_some_and(|start_by| at <= start_by) {
            return Some(at);
        }
        at = end;
    }
    None
}

/// When a try of that length has to start to end by then.
fn latest_start(closes: Timestamp, expected: SignedDuration) -> Option<Timestamp> {
    closes.checked_sub(expected.max(SignedDuration::ZERO)).ok()
}
