//! Freezes: nothing begins, whatever the windows say.

use fettle_controller::plan::windows::{Calendar, Closing, Fit, Freeze, Gate};

use super::{at, freeze, openings, span, window, zone};

#[test]
fn dates_are_whole_days_of_the_zone_and_the_last_belongs_to_it() {
    let year_end = freeze("2026-12-20", "2027-01-04", "year end");
    assert_eq!((year_end.from(), year_end.to()), (at("2026-12-19T23:00Z"), at("2027-01-04T23:00Z")));
    let one_day = freeze("2026-12-24", "2026-12-24", "");
    assert_eq!((one_day.from(), one_day.to()), (at("2026-12-23T23:00Z"), at("2026-12-24T23:00Z")));
    let instants = freeze("2026-12-20T18:00:00+01:00", "2026-12-21T06:00:00Z", "");
    assert_eq!((instants.from(), instants.to()), (at("2026-12-20T17:00Z"), at("2026-12-21T06:00Z")));
}

#[test]
fn a_day_without_a_midnight_begins_when_the_clock_has_jumped() {
    let beirut = Freeze::parse("2026-03-29", "2026-03-29", "", &zone("Asia/Beirut")).unwrap();
    assert_eq!((beirut.from(), beirut.to()), (at("2026-03-28T22:00Z"), at("2026-03-29T21:00Z")));
    // midnight comes twice
    let havana = Freeze::parse("2026-11-01", "2026-11-01", "", &zone("America/Havana")).unwrap();
    assert_eq!((havana.from(), havana.to()), (at("2026-11-01T04:00Z"), at("2026-11-02T05:00Z")));
}

#[test]
fn a_group_without_windows_is_open_until_the_next_freeze() {
    let calendar = Calendar::new(vec![], vec![freeze("2026-12-20", "2027-01-04", "year end")]);
    let before = calendar.at(at("2026-12-01T00:00Z"));
    assert_eq!(before.gate, Gate::Open { closes: Closing::At(at("2026-12-19T23:00Z")) });
    let (until, next) = (at("2027-01-04T23:00Z"), Some(at("2027-01-04T23:00Z")));
    let during = calendar.at(at("2026-12-31T00:00Z"));
    assert_eq!(during.gate, Gate::Frozen { until, reason: "year end".into(), next });
    assert_eq!(during.changes_at, next);
    assert_eq!(calendar.at(until).gate, Gate::Open { closes: Closing::Never });
}

#[test]
fn a_freeze_that_begins_inside_a_window_ends_it_and_one_that_ends_inside_lets_it_go_on() {
    let calendar = Calendar::new(
        vec![window("0 22 * * *", "PT4H", "Europe/Berlin")],
        vec![freeze("2026-12-20", "2026-12-21T23:30:00+01:00", "audit")],
    );
    assert_eq!(
        openings(&calendar, "2026-12-19T12:00Z", "2026-12-22T12:00Z"),
        ["12-19 21:00 – 12-19 23:00", "12-21 22:30 – 12-22 01:00"]
    );
    let frozen = calendar.at(at("2026-12-20T12:00Z")).gate;
    let next = Some(at("2026-12-21T22:30Z"));
    assert_eq!(frozen, Gate::Frozen { until: at("2026-12-21T22:30Z"), reason: "audit".into(), next });
    assert_eq!(
        calendar.fits(at("2026-12-19T22:50Z"), span("PT15M")),
        Fit::TooShort { closes: at("2026-12-19T23:00Z"), next }
    );
}

#[test]
fn the_next_opening_is_one_that_no_freeze_covers() {
    let saturdays = vec![window("0 2 * * 6", "PT4H", "Europe/Berlin")];
    let calendar = Calendar::new(saturdays, vec![freeze("2026-12-20", "2027-01-04", "year end")]);
    let closed = calendar.at(at("2026-12-19T12:00Z"));
    assert_eq!(closed.gate, Gate::NoWindowOpen { next: Some(at("2027-01-09T01:00Z")) });
    assert_eq!(closed.changes_at, Some(at("2026-12-19T23:00Z")), "then it is frozen besides");
}

#[test]
fn of_several_freezes_the_one_that_ends_last_is_named() {
    let calendar = Calendar::new(
        vec![],
        vec![freeze("2026-12-01", "2026-12-10", "audit"), freeze("2026-12-05", "2026-12-20", "move")],
    );
    let end = Some(at("2026-12-20T23:00Z"));
    let first = calendar.at(at("2026-12-02T00:00Z"));
    assert_eq!(first.gate, Gate::Frozen { until: at("2026-12-10T23:00Z"), reason: "audit".into(), next: end });
    assert_eq!(first.changes_at, Some(at("2026-12-04T23:00Z")));
    let both = calendar.at(at("2026-12-06T00:00Z"));
    assert_eq!(both.gate, Gate::Frozen { until: at("2026-12-20T23:00Z"), reason: "move".into(), next: end });
    assert_eq!(both.changes_at, end);
}
