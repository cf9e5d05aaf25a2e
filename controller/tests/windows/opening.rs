//! When windows are open, together, and what fits into them.

use fettle_controller::plan::windows::{Answer, Calendar, Closing, Fit, Gate};

use super::{at, openings, span, window, windows};

#[test]
fn without_windows_it_is_always_open() {
    let now = at("2026-11-21T12:00Z");
    let answer = Calendar::default().at(now);
    assert_eq!(answer, Answer { gate: Gate::Open { closes: Closing::Never }, at: now, changes_at: None });
    assert_eq!(Calendar::default().fits(now, span("PT100H")), Fit::Fits { start_by: None });
    assert!(Calendar::default().ever_fits(now, span("PT100H")));
}

#[test]
fn a_window_has_its_first_instant_and_not_its_last() {
    let saturdays = windows([window("0 2 * * 6", "PT4H", "Europe/Berlin")]);
    let open = |text| saturdays.at(at(text)).gate.is_open();
    assert!(!open("2026-11-21T00:59:59.999999999Z"));
    assert!(open("2026-11-21T01:00:00Z"));
    assert!(open("2026-11-21T04:59:59.999999999Z"));
    assert!(!open("2026-11-21T05:00:00Z"));
}

#[test]
fn a_closed_group_says_when_it_opens_and_an_open_one_when_it_closes() {
    let saturdays = windows([window("0 2 * * 6", "PT4H", "Europe/Berlin")]);
    let closed = saturdays.at(at("2026-11-21T05:00Z"));
    assert_eq!(closed.gate, Gate::NoWindowOpen { next: Some(at("2026-11-28T01:00Z")) });
    assert_eq!(closed.changes_at, Some(at("2026-11-28T01:00Z")));
    let open = saturdays.at(at("2026-11-21T03:12:34Z"));
    assert_eq!(open.gate, Gate::Open { closes: Closing::At(at("2026-11-21T05:00Z")) });
    assert_eq!(open.changes_at, Some(at("2026-11-21T05:00Z")));
    assert!(open.holds_at(at("2026-11-21T04:59Z")));
    assert!(!open.holds_at(at("2026-11-21T05:00Z")));
    assert!(!open.holds_at(at("2026-11-21T03:00Z")));
}

#[test]
fn windows_that_overlap_or_touch_are_one() {
    let night = windows([
        window("0 20 * * *", "PT2H", "UTC"),
        window("0 22 * * *", "PT3H", "UTC"),  // touches
        window("30 23 * * *", "PT5H", "UTC"), // overlaps
        window("0 9 * * *", "PT1H", "UTC"),
    ]);
    assert_eq!(
        openings(&night, "2026-11-20T12:00Z", "2026-11-22T00:00Z"),
        ["11-20 20:00 – 11-21 04:30", "11-21 09:00 – 11-21 10:00", "11-21 20:00 –"]
    );
    let open = night.at(at("2026-11-20T20:30Z")).gate;
    assert_eq!(open, Gate::Open { closes: Closing::At(at("2026-11-21T04:30Z")) });
}

#[test]
fn windows_of_different_zones_are_one_too() {
    let both = windows([
        window("0 2 * * *", "PT2H", "Europe/Berlin"),     // 01:00 – 03:00
        window("0 22 * * *", "PT2H", "America/New_York"), // 03:00 – 05:00
    ]);
    assert_eq!(openings(&both, "2026-11-20T12:00Z", "2026-11-21T12:00Z"), ["11-21 01:00 – 11-21 05:00"]);
}

#[test]
fn starts_that_follow_each_other_make_one_opening() {
    // Saturday and Sunday, minute by minute, and the hour after
    let weekend = windows([window("* * * * 6,0", "PT1H", "UTC")]);
    assert_eq!(openings(&weekend, "2026-11-20T12:00Z", "2026-11-24T00:00Z"), ["11-21 00:00 – 11-23 00:59"]);
    let halves = windows([window("0,30 2-3 * * *", "PT20M", "UTC")]);
    assert_eq!(
        openings(&halves, "2026-11-21T00:00Z", "2026-11-22T00:00Z"),
        [
            "11-21 02:00 – 11-21 02:20",
            "11-21 02:30 – 11-21 02:50",
            "11-21 03:00 – 11-21 03:20",
            "11-21 03:30 – 11-21 03:50"
        ]
    );
}

#[test]
fn a_window_may_last_for_days() {
    let month = windows([window("0 0 1 * *", "PT240H", "UTC")]);
    assert_eq!(
        openings(&month, "2026-11-05T00:00Z", "2026-12-20T00:00Z"),
        ["11-05 00:00 – 11-11 00:00", "12-01 00:00 – 12-11 00:00"]
    );
}

#[test]
fn windows_without_a_pause_have_no_end_that_is_waited_for() {
    let now = at("2026-11-21T12:00Z");
    for always in [
        windows([window("* * * * *", "PT1M", "Europe/Berlin")]),
        windows([window("0 0 * * *", "PT25H", "Europe/Berlin")]),
        windows([window("0 0 * * 1", "PT168H", "UTC")]),
        windows([window("0 * * * *", "PT30M", "UTC"), window("30 * * * *", "PT30M", "UTC")]),
    ] {
        let Gate::Open { closes: Closing::NotBefore(until) } = always.at(now).gate else {
            panic!("{:?}", always.at(now))
        };
        assert!(until > now + span("PT30H"), "{until}");
        assert_eq!(always.at(now).changes_at, Some(until), "looks again then");
        assert!(matches!(always.fits(now, span("PT24H")), Fit::Fits { start_by: Some(_) }));
    }
}

#[test]
fn what_closes_within_a_week_is_known_to() {
    let all_but_an_hour = windows([window("* * * * 1-6", "PT1M", "UTC"), window("* 0-22 * * 0", "PT1M", "UTC")]);
    let answer = all_but_an_hour.at(at("2026-11-16T00:00Z"));
    assert_eq!(answer.gate, Gate::Open { closes: Closing::At(at("2026-11-22T23:00Z")) });
}

#[test]
fn a_start_that_would_end_in_time_fits() {
    let saturdays = windows([window("0 2 * * 6", "PT4H", "UTC")]);
    let quarter = span("PT15M");
    let fits = Fit::Fits { start_by: Some(at("2026-11-21T05:45Z")) };
    assert_eq!(saturdays.fits(at("2026-11-21T02:00Z"), quarter), fits);
    assert_eq!(saturdays.fits(at("2026-11-21T05:45Z"), quarter), fits, "ends with the window");
    assert_eq!(
        saturdays.fits(at("2026-11-21T05:45:00.000000001Z"), quarter),
        Fit::TooShort { closes: at("2026-11-21T06:00Z"), next: Some(at("2026-11-28T02:00Z")) }
    );
    assert_eq!(saturdays.fits(at("2026-11-21T06:00Z"), quarter), Fit::Closed { next: Some(at("2026-11-28T02:00Z")) });
}

#[test]
fn what_is_too_long_for_the_next_opening_waits_for_one_that_is_long_enough() {
    let mixed = windows([window("0 * * * *", "PT10M", "UTC"), window("0 2 * * 6", "PT4H", "UTC")]);
    let next = Some(at("2026-11-28T02:00Z"));
    assert_eq!(mixed.fits(at("2026-11-21T12:30Z"), span("PT15M")), Fit::Closed { next });
    assert_eq!(
        mixed.fits(at("2026-11-21T12:01Z"), span("PT15M")),
        Fit::TooShort { closes: at("2026-11-21T12:10Z"), next }
    );
}

#[test]
fn windows_that_are_never_long_enough_are_known() {
    let now = at("2026-11-21T12:00Z");
    let short = windows([window("0 2 * * *", "PT10M", "UTC"), window("0 3 * * *", "PT14M", "UTC")]);
    assert!(!short.ever_fits(now, span("PT15M")));
    assert!(short.ever_fits(now, span("PT14M")));
    assert_eq!(short.fits(now, span("PT15M")), Fit::Closed { next: None });
    // each is too short, but they touch
    let touching = windows([window("55 23 * * *", "PT5M", "UTC"), window("0 0 * * *", "PT10M", "UTC")]);
    assert!(touching.ever_fits(now, span("PT15M")));
    assert!(!touching.ever_fits(now, span("PT16M")));
    // minute by minute for an hour
    assert!(windows([window("* 2 * * *", "PT1M", "UTC")]).ever_fits(now, span("PT1H")));
}
