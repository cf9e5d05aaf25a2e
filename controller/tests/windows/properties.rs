//! Calendars against a walk from minute to minute over the weeks around a change of the clock.
//!
//! The walk has its own reading of schedules and no arithmetic of zones: it looks at what the wall clock shows at each
//! minute, and takes as a start what it shows for the first time, or jumps past.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, LazyLock, Mutex};

use fettle_controller::plan::windows::{Calendar, Closing, Fit, Freeze, Gate, LocalTime, Window, Zone};
use jiff::civil::DateTime;
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;

/// Zones, and a day on which their clock changes.
const CHANGES: [(&str, &str); 18] = [
    ("Europe/Berlin", "2026-03-29T00:00Z"),
    ("Europe/Berlin", "2026-10-25T00:00Z"),
    ("America/New_York", "2026-03-08T00:00Z"),
    ("America/New_York", "2026-11-01T00:00Z"),
    ("Australia/Lord_Howe", "2026-04-05T00:00Z"),
    ("Australia/Lord_Howe", "2026-10-04T00:00Z"),
    ("America/Santiago", "2026-04-05T00:00Z"),
    ("America/Santiago", "2026-09-06T00:00Z"),
    ("Asia/Beirut", "2026-03-29T00:00Z"),
    ("Asia/Beirut", "2026-10-25T00:00Z"),
    ("America/Havana", "2026-03-08T00:00Z"),
    ("America/Havana", "2026-11-01T00:00Z"),
    ("Antarctica/Troll", "2026-03-29T00:00Z"),
    ("America/St_Johns", "2006-10-29T00:00Z"),
    ("Pacific/Apia", "2011-12-30T00:00Z"),
    ("Africa/Casablanca", "2026-03-22T00:00Z"),
    ("Europe/Dublin", "2045-03-26T00:00Z"),
    ("Asia/Kolkata", "2026-03-29T00:00Z"),
];
const MINUTE: SignedDuration = SignedDuration::from_mins(1);
const DAY: i64 = 24 * 60;
/// The days that are judged, before and after the change; before them as many more are walked, so that whatever was open
/// at their beginning has begun within the walk.
const DAYS: i64 = 8;
/// The longest window, in minutes.
const LONGEST: i64 = 50 * 60;

/// What a wall clock shows, minute by minute from twice `DAYS` before the change on.
fn wall_clock(change: usize, zone_name: &str) -> Arc<Vec<DateTime>> {
    type Walked = HashMap<(usize, String), Arc<Vec<DateTime>>>;
    static WALKED: LazyLock<Mutex<Walked>> = LazyLock::new(Mutex::default);
    let mut walked = WALKED.lock().unwrap();
    let shown = walked.entry((change, zone_name.to_owned())).or_insert_with(|| {
        let (zone, from) = (Zone::named(zone_name).unwrap(), beginning(change));
        let minutes = 0..3 * DAYS * DAY;
        Arc::new(minutes.map(|minute| zone.wall_clock(from + SignedDuration::from_mins(minute))).collect())
    });
    Arc::clone(shown)
}

/// The first minute of a walk.
fn beginning(change: usize) -> Timestamp {
    super::at(CHANGES[change].1) - SignedDuration::from_mins(2 * DAYS * DAY)
}

/// A schedule, as sets and as cron.
#[derive(Debug, Clone)]
struct Schedule {
    minutes: &'static str,
    hours: &'static str,
    days: Days,
    /// In minutes.
    duration: i64,
    /// Kolkata has no changes: windows of two zones.
    elsewhere: bool,
}

#[derive(Debug, Clone, Copy)]
enum Days {
    All,
    /// From Sunday, 0.
    OfWeek(i8),
    OfMonth(i8),
    Either(i8, i8),
}

impl Schedule {
    fn zone(&self, change: usize) -> &'static str {
        if self.elsewhere { "Asia/Kolkata" } else { CHANGES[change].0 }
    }

    fn window(&self, change: usize) -> Window {
        let (of_month, of_week) = match self.days {
            Days::All => ("*".to_owned(), "*".to_owned()),
            Days::OfWeek(day) => ("*".to_owned(), day.to_string()),
            Days::OfMonth(day) => (day.to_string(), "*".to_owned()),
            Days::Either(month, week) => (month.to_string(), week.to_string()),
        };
        let cron = format!("{} {} {of_month} * {of_week}", self.minutes, self.hours);
        Window::parse(&cron, SignedDuration::from_mins(self.duration), self.zone(change)).unwrap()
    }

    fn names(&self, shown: DateTime) -> bool {
        let listed = |list: &str, value: i8| list == "*" || list.split(',').any(|item| item.parse() == Ok(value));
        let (of_month, of_week) = (shown.day(), shown.weekday().to_sunday_zero_offset());
        let day = match self.days {
            Days::All => true,
            Days::OfWeek(day) => of_week == day,
            Days::OfMonth(day) => of_month == day,
            Days::Either(month, week) => of_month == month || of_week == week,
        };
        day && listed(self.hours, shown.hour()) && listed(self.minutes, shown.minute())
    }

    /// Minute by minute, whether it is open.
    fn walk(&self, change: usize) -> Vec<bool> {
        let clock = wall_clock(change, self.zone(change));
        let mut highest = clock[0];
        let mut open_to = 0;
        let mut open = Vec::with_capacity(clock.len());
        for (minute, &shown) in (0..).zip(clock.iter()) {
            // what it has shown before does not count again; what it jumped past counts now
            let mut passed = highest + MINUTE;
            while passed < shown {
                if self.names(passed) {
                    open_to = minute + self.duration;
                }
                passed += MINUTE;
            }
            if (shown > highest || minute == 0) && self.names(shown) {
                open_to = minute + self.duration;
            }
            highest = highest.max(shown);
            open.push(minute < open_to);
        }
        open
    }
}

/// A calendar, and what the walk says of it.
struct Case {
    from: Timestamp,
    calendar: Calendar,
    allowed: Vec<bool>,
    frozen: Vec<bool>,
}

impl Case {
    fn new(change: usize, schedules: &[Schedule], freezes: &[(i64, i64)]) -> Self {
        let from = beginning(change);
        let at = |minute| from + SignedDuration::from_mins(minute);
        let minutes = wall_clock(change, CHANGES[change].0).len();
        let walks: Vec<_> = schedules.iter().map(|schedule| schedule.walk(change)).collect();
        let frozen: Vec<bool> = (0..minutes as i64)
            .map(|minute| freezes.iter().any(|(from, length)| (*from..from + length).contains(&minute)))
            .collect();
        let open = |minute: usize| walks.is_empty() || walks.iter().any(|walk| walk[minute]);
        let allowed = (0..minutes).map(|minute| open(minute) && !frozen[minute]).collect();
        let freezes = freezes.iter().map(|(from, length)| {
            let (from, to) = (at(*from).to_string(), at(from + length).to_string());
            Freeze::parse(&from, &to, &from, &Zone::utc()).unwrap()
        });
        let windows = schedules.iter().map(|schedule| schedule.window(change)).collect();
        Self { from, calendar: Calendar::new(windows, freezes.collect()), allowed, frozen }
    }

    fn at(&self, minute: usize) -> Timestamp {
        self.from + SignedDuration::from_mins(minute as i64)
    }

    /// The minute of an instant, if the walk went as far.
    fn minute(&self, at: Timestamp) -> Option<usize> {
        let elapsed = at.duration_since(self.from);
        assert_eq!(elapsed.as_secs() % 60, 0, "{at} is no whole minute");
        usize::try_from(elapsed.as_mins()).ok().filter(|minute| *minute < self.allowed.len())
    }

    /// The minutes that are judged.
    fn judged(&self) -> std::ops::Range<usize> {
        (DAYS * DAY) as usize..self.allowed.len()
    }

    /// The first minute from one on of which the walk says so.
    fn first(&self, from: usize, allowed: bool) -> Option<usize> {
        (from..self.allowed.len()).find(|minute| self.allowed[*minute] == allowed)
    }

    /// That `found` is what the walk found, as far as it went.
    fn agree(&self, found: Option<Timestamp>, walked: Option<usize>, what: &str) {
        let found_minute = found.and_then(|found| self.minute(found));
        assert_eq!(
            found_minute,
            walked,
            "{what}: {found:?}, but by the walk {:?}",
            walked.map(|minute| self.at(minute))
        );
    }

    /// The first minute from one on from which so many are allowed, and whether that is known.
    fn first_fit(&self, from: usize, expected: usize) -> Option<Option<usize>> {
        let mut run = 0;
        for minute in from..self.allowed.len() {
            run = if self.allowed[minute] { run + 1 } else { 0 };
            // the run of the first minute is one that is too short
            if run >= expected.max(1) {
                return Some(Some(minute + 1 - run));
            }
        }
        // one that has begun may go on after the end of the walk
        (run == 0).then_some(None)
    }
}

fn a_schedule() -> impl Strategy<Value = Schedule> {
    let minutes = prop_oneof![
        3 => Just("0"),
        1 => Just("30"),
        1 => Just("59"),
        1 => Just("0,30"),
        1 => Just("0,15,30,45"),
        1 => Just("*"),
    ];
    let hours =
        prop_oneof![Just("0"), Just("1"), Just("2"), Just("3"), Just("23"), Just("0,1,2"), Just("22,23"), Just("*"),];
    let days = prop_oneof![
        3 => Just(Days::All),
        2 => (0..7i8).prop_map(Days::OfWeek),
        1 => (1..32i8).prop_map(Days::OfMonth),
        1 => (1..32i8, 0..7i8).prop_map(|(month, week)| Days::Either(month, week)),
    ];
    let duration =
        prop_oneof![1..90i64, Just(60), Just(4 * 60), Just(23 * 60), Just(24 * 60), Just(25 * 60), 1..LONGEST,];
    (minutes, hours, days, duration, prop::bool::weighted(0.2))
        .prop_map(|(minutes, hours, days, duration, elsewhere)| Schedule { minutes, hours, days, duration, elsewhere })
}

fn some_freezes() -> impl Strategy<Value = Vec<(i64, i64)>> {
    prop::collection::vec((DAYS * DAY..3 * DAYS * DAY, 1..3 * DAY), 0..4)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn what_a_calendar_says_is_what_a_walk_finds(
        change in 0..CHANGES.len(),
        schedules in prop::collection::vec(a_schedule(), 0..4),
        freezes in some_freezes(),
        probes in prop::collection::vec(0.0..1.0f64, 8),
    ) {
        let case = Case::new(change, &schedules, &freezes);
        let mut minute = case.judged().start;
        let mut before: Option<Gate> = None;
        loop {
            let answer = case.calendar.at(case.at(minute));
            let changes = answer.changes_at.and_then(|at| case.minute(at));
            let end = changes.unwrap_or(case.allowed.len());
            prop_assert!(end > minute, "{answer:?} has changed already");
            prop_assert!(before.as_ref() != Some(&answer.gate), "{answer:?} is no change");
            // it holds for as long as it says
            for inside in minute..end {
                prop_assert_eq!(case.allowed[inside], answer.gate.is_open(), "{} of {:?}", case.at(inside), answer);
                prop_assert_eq!(case.frozen[inside], matches!(answer.gate, Gate::Frozen { .. }), "{}", case.at(inside));
            }
            for probe in &probes {
                let inside = minute + ((end - minute) as f64 * probe) as usize;
                prop_assert!(answer.holds_at(case.at(inside)));
                let again = case.calendar.at(case.at(inside)).gate;
                // but for an end that is not known, which is looked for from where one stands
                if !matches!(answer.gate, Gate::Open { closes: Closing::NotBefore(_) }) {
                    prop_assert_eq!(&again, &answer.gate);
                }
            }
            match &answer.gate {
                Gate::Open { closes: Closing::At(closes) } => {
                    case.agree(Some(*closes), case.first(minute, false), "closes");
                }
                Gate::Open { closes: Closing::NotBefore(until) } => prop_assert!(*until >= case.at(minute + 64)),
                Gate::Open { closes: Closing::Never } => prop_assert_eq!(case.first(minute, false), None),
                Gate::NoWindowOpen { next } => case.agree(*next, case.first(minute, true), "next"),
                Gate::Frozen { until, next, .. } => {
                    case.agree(*next, case.first(minute, true), "next of a freeze");
                    prop_assert!(*until >= case.at(end.min(case.allowed.len() - 1)));
                }
            }
            // an end that is not known is looked for again from there, and may be put off
            before = (!matches!(answer.gate, Gate::Open { closes: Closing::NotBefore(_) })).then_some(answer.gate);
            match changes {
                Some(changes) => minute = changes,
                None => break,
            }
        }
    }

    #[test]
    fn what_fits_ends_before_it_closes(
        change in 0..CHANGES.len(),
        schedules in prop::collection::vec(a_schedule(), 1..4),
        freezes in some_freezes(),
        probes in prop::collection::vec((0.0..1.0f64, 0..400usize), 24),
    ) {
        let case = Case::new(change, &schedules, &freezes);
        for (probe, expected) in probes {
            let judged = case.judged();
            let minute = judged.start + ((judged.end - judged.start) as f64 * probe) as usize;
            let duration = SignedDuration::from_mins(expected as i64);
            let fit = case.calendar.fits(case.at(minute), duration);
            let walked = case.first_fit(minute, expected);
            match fit {
                Fit::Fits { start_by: Some(start_by) } => {
                    prop_assert!(case.allowed[minute]);
                    prop_assert!(start_by >= case.at(minute));
                    if let Some(closes) = case.first(minute, false) {
                        prop_assert!(start_by + duration <= case.at(closes));
                    }
                    prop_assert!(walked.is_none_or(|walked| walked == Some(minute)), "{:?}", walked);
                }
                Fit::Fits { start_by: None } => prop_assert!(false, "there are windows"),
                Fit::TooShort { closes, next } => {
                    prop_assert!(case.allowed[minute]);
                    case.agree(Some(closes), case.first(minute, false), "closes");
                    prop_assert!(closes < case.at(minute) + duration);
                    prop_assert!(next.is_none_or(|next| next >= closes));
                    if let (Some(walked), Some(next)) = (walked, next) {
                        case.agree(Some(next), walked, "next that is long enough");
                    }
                }
                Fit::Closed { next } => {
                    prop_assert!(!case.allowed[minute]);
                    prop_assert!(next.is_none_or(|next| next > case.at(minute)));
                    if let (Some(walked), Some(next)) = (walked, next) {
                        case.agree(Some(next), walked, "next that is long enough");
                    }
                }
            }
            if let Some(Some(_)) = walked {
                prop_assert!(case.calendar.ever_fits(case.at(minute), duration));
            }
        }
    }

    #[test]
    fn a_time_of_day_is_the_first_minute_that_shows_it_or_jumps_past_it(
        change in 0..CHANGES.len(),
        hour in 0..24i8,
        minute in 0..60i8,
        from in DAYS * DAY..(3 * DAYS - 4) * DAY,
        lead in 0..600i64,
    ) {
        let clock = wall_clock(change, CHANGES[change].0);
        let time: LocalTime = format!("{hour:02}:{minute:02}").parse().unwrap();
        let zone = Zone::named(CHANGES[change].0).unwrap();
        let at = |minute: i64| beginning(change) + SignedDuration::from_mins(minute);
        // every day that the clock has ever begun or jumped past
        let mut highest = clock[0];
        let mut times = BTreeSet::new();
        for (walked, &shown) in (0..).zip(clock.iter()) {
            let mut passed = highest + MINUTE;
            while passed <= shown {
                if (passed.hour(), passed.minute()) == (hour, minute) {
                    times.insert(walked);
                }
                passed += MINUTE;
            }
            highest = highest.max(shown);
        }
        let expected = times.range(from + lead..).next().map(|walked| at(*walked));
        let found = time.next(&zone, at(from), SignedDuration::from_mins(lead)).unwrap();
        prop_assert_eq!(Some(found.at), expected);
        prop_assert_eq!(found.shown, zone.wall_clock(found.at).to_string().replace('T', " "));
    }
}
