//! What is read, and what is said of what cannot be read.

use fettle_controller::plan::windows::{Calendar, Field, Freeze, Gate, Window, WindowError, Zone};

use super::{at, span, window, zone};

fn refused(schedule: &str) -> WindowError {
    match Window::parse(schedule, span("PT1H"), "Europe/Berlin") {
        Ok(window) => panic!("{schedule} was read: {window:?}"),
        Err(error) => error,
    }
}

#[test]
fn a_wrong_field_is_named_with_what_may_stand_there() {
    for (schedule, wrong, text) in [
        ("60 2 * * 6", Field::Minute, "60"),
        ("*/0 2 * * 6", Field::Minute, "*/0"),
        ("MON 2 * * 6", Field::Minute, "MON"),
        ("0, 2 * * 6", Field::Minute, "0,"),
        ("-5 2 * * 6", Field::Minute, "-5"),
        ("0 24 * * 6", Field::Hour, "24"),
        ("0 2h * * 6", Field::Hour, "2H"),
        ("0 5-2 * * 6", Field::Hour, "5-2"),
        ("0 2 0 * *", Field::DayOfMonth, "0"),
        ("0 2 32 * *", Field::DayOfMonth, "32"),
        ("0 2 1#2 * *", Field::DayOfMonth, "1#2"),
        ("0 2 * 13 *", Field::Month, "13"),
        ("0 2 * SAT *", Field::Month, "SAT"),
        ("0 2 * JUNE *", Field::Month, "JUNE"),
        ("0 2 * * 8", Field::DayOfWeek, "8"),
        ("0 2 * * FRI-MON", Field::DayOfWeek, "FRI-MON"),
        ("0 2 * * JAN", Field::DayOfWeek, "JAN"),
        ("0 2 * * 6#6", Field::DayOfWeek, "6#6"),
        ("0 2 * * L", Field::DayOfWeek, "L"),
        ("0 2 1-7 * +6", Field::DayOfWeek, "+6"),
    ] {
        let expected = WindowError::Field { schedule: schedule.to_owned(), field: wrong, text: text.to_owned() };
        assert_eq!(refused(schedule), expected);
    }
    assert_eq!(
        refused("0 25 * * 6").to_string(),
        r#"schedule "0 25 * * 6": the hour cannot be "25": write 0 to 23, as in 2 or 1-5 or */6"#
    );
}

#[test]
fn a_schedule_has_five_fields() {
    for (schedule, found) in [("", 0), ("@daily", 1), ("0 2 * *", 4), ("0 0 2 * * 6", 6), ("0 0 2 * * 6 2026", 7)] {
        assert_eq!(refused(schedule), WindowError::FieldCount { schedule: schedule.to_owned(), found });
    }
}

#[test]
fn a_day_that_never_comes_is_refused_and_a_rare_one_is_not() {
    for schedule in ["0 2 30 2 *", "0 2 31 4,6,9,11 *", "0 2 30,31 2 *"] {
        assert_eq!(refused(schedule), WindowError::Never { schedule: schedule.to_owned() });
    }
    // the century in which the 29 February is left out
    let leap_day = Calendar::new(vec![window("0 2 29 2 *", "PT4H", "UTC")], vec![]);
    let next = Gate::NoWindowOpen { next: Some(at("2104-02-29T02:00Z")) };
    assert_eq!(leap_day.at(at("2096-03-01T00:00Z")).gate, next);
    // 40 years without a fifth Monday in February
    let fifth_monday = Calendar::new(vec![window("0 2 * 2 1#5", "PT4H", "UTC")], vec![]);
    let next = Gate::NoWindowOpen { next: Some(at("2112-02-29T02:00Z")) };
    assert_eq!(fifth_monday.at(at("2072-03-01T00:00Z")).gate, next);
}

#[test]
fn what_cron_writers_write_is_read() {
    let next = |schedule: &str| match Calendar::new(vec![window(schedule, "PT1H", "UTC")], vec![])
        .at(at("2026-11-21T12:00Z")) // a Saturday
        .gate
    {
        Gate::NoWindowOpen { next: Some(next) } => super::shown(next),
        other => panic!("{schedule}: {other:?}"),
    };
    assert_eq!(next("0 2 * * 6"), "11-28 02:00");
    assert_eq!(next("0 2 * * sat"), "11-28 02:00");
    assert_eq!(next("  0   2 * *  SAT "), "11-28 02:00");
    assert_eq!(next("0 2 * * 7"), "11-22 02:00");
    assert_eq!(next("0 2 * * SUN"), "11-22 02:00");
    assert_eq!(next("0 2 * * 5-7"), "11-22 02:00");
    assert_eq!(next("0 2 ? * MON-FRI"), "11-23 02:00");
    assert_eq!(next("30 */6 * * *"), "11-21 12:30");
    assert_eq!(next("30 1-23/6 * * *"), "11-21 13:30");
    assert_eq!(next("15,45 13 * * *"), "11-21 13:15");
    assert_eq!(next("0 2 L * *"), "11-30 02:00");
    assert_eq!(next("0 2 15W * *"), "12-15 02:00");
    assert_eq!(next("0 2 * * 6#2"), "12-12 02:00");
    assert_eq!(next("0 2 * * TUE#2"), "12-08 02:00");
    assert_eq!(next("0 2 * * 6L"), "11-28 02:00");
    assert_eq!(next("0 2 1 JAN *"), "01-01 02:00");
    // both are restricted: either will do
    assert_eq!(next("0 2 1 * 1"), "11-23 02:00");
}

#[test]
fn zones_are_those_that_are_built_in() {
    assert_eq!(zone("europe/berlin").name(), "Europe/Berlin");
    assert_eq!(zone("UTC").name(), "UTC");
    for name in ["", "Berlin", "CEST+2", "Europe/Atlantis", "Etc/Unknown", "+02:00", "/etc/localtime", "../UTC"] {
        let error = Window::parse("0 2 * * 6", span("PT1H"), name).unwrap_err();
        assert!(matches!(error, WindowError::Zone { .. }), "{name}: {error}");
    }
    assert_eq!(
        Zone::named("Mars/Base").unwrap_err().to_string(),
        r#""Mars/Base" is not a time zone: write a name of the IANA database, such as Europe/Berlin or UTC"#
    );
}

#[test]
fn a_duration_has_bounds() {
    for duration in ["PT0S", "-PT1H", "PT0.5S", "PT720H1S"] {
        let error = Window::parse("0 2 * * 6", span(duration), "UTC").unwrap_err();
        assert!(error.to_string().ends_with("write one from 1s to 720h"), "{error}");
    }
    window("0 2 * * 6", "PT1S", "UTC");
    window("0 2 * * 6", "PT720H", "UTC");
}

#[test]
fn a_freeze_says_which_end_cannot_be_read() {
    let berlin = zone("Europe/Berlin");
    let refused = |from, to| Freeze::parse(from, to, "", &berlin).unwrap_err().to_string();
    let wanted = "write a date, such as 2026-12-20, or an instant with its offset, such as 2026-12-20T18:00:00+01:00";
    assert_eq!(refused("2026-13-20", "2027-01-04"), format!(r#"freezes: from cannot be "2026-13-20": {wanted}"#));
    for to in ["2027-02-29", "2027-01-04T10:00:00", "tomorrow", "", "20270104", "2027-1-04"] {
        assert_eq!(refused("2026-12-20", to), format!("freezes: to cannot be {to:?}: {wanted}"));
    }
    for (from, to) in [
        ("2026-12-20", "2026-12-19"),
        ("2026-12-20T12:00:00Z", "2026-12-20T12:00:00Z"),
        ("2026-12-20T12:00:00Z", "2026-12-20T12:30:00+01:00"),
    ] {
        assert!(refused(from, to).ends_with("write a later one"), "{from} {to}");
    }
}
