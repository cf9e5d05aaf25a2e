//! Times of day, at which devices apply by themselves.

use fettle_controller::plan::windows::LocalTime;

use super::{at, span, zone};

/// The next instant, in UTC, and what the clock of the zone shows.
fn next(time: &str, zone_name: &str, now: &str, lead: &str) -> (String, String) {
    let time: LocalTime = time.parse().unwrap();
    let moment = time.next(&zone(zone_name), at(now), span(lead)).unwrap();
    (super::shown(moment.at), moment.shown)
}

fn told(instant: &str, shown: &str) -> (String, String) {
    (instant.to_owned(), shown.to_owned())
}

#[test]
fn only_hours_and_minutes_are_read() {
    assert_eq!("03:00".parse::<LocalTime>().unwrap().to_string(), "03:00");
    assert_eq!("23:59".parse::<LocalTime>().unwrap().to_string(), "23:59");
    for text in ["", "3:00", "03:0", "24:00", "03:60", "03:00:00", "+3:00", "03.00", " 03:00", "3am", "-1:00"] {
        let error = text.parse::<LocalTime>().unwrap_err().to_string();
        assert!(error.ends_with("write hours and minutes from 00:00 to 23:59, such as 03:00"), "{error}");
    }
}

#[test]
fn it_is_the_next_such_time_that_the_lead_allows() {
    assert_eq!(
        next("03:00", "Europe/Berlin", "2026-11-21T01:00:00Z", "PT0S"),
        told("11-21 02:00", "2026-11-21 03:00:00")
    );
    assert_eq!(
        next("03:00", "Europe/Berlin", "2026-11-21T02:00:00Z", "PT0S"),
        told("11-21 02:00", "2026-11-21 03:00:00")
    );
    assert_eq!(
        next("03:00", "Europe/Berlin", "2026-11-21T02:00:01Z", "PT0S"),
        told("11-22 02:00", "2026-11-22 03:00:00")
    );
    assert_eq!(
        next("03:00", "Europe/Berlin", "2026-11-21T01:55:00Z", "PT5M"),
        told("11-21 02:00", "2026-11-21 03:00:00")
    );
    assert_eq!(
        next("03:00", "Europe/Berlin", "2026-11-21T01:55:01Z", "PT5M"),
        told("11-22 02:00", "2026-11-22 03:00:00")
    );
    assert_eq!(
        next("00:00", "Asia/Kolkata", "2026-12-31T12:00:00Z", "PT0S"),
        told("12-31 18:30", "2027-01-01 00:00:00")
    );
}

#[test]
fn a_time_that_is_missing_is_when_the_clock_has_jumped() {
    assert_eq!(
        next("02:30", "Europe/Berlin", "2026-03-28T12:00:00Z", "PT0S"),
        told("03-29 01:00", "2026-03-29 03:00:00")
    );
    assert_eq!(
        next("02:30", "Europe/Berlin", "2026-03-29T01:00:00Z", "PT0S"),
        told("03-29 01:00", "2026-03-29 03:00:00")
    );
    assert_eq!(
        next("02:30", "Europe/Berlin", "2026-03-29T01:00:01Z", "PT0S"),
        told("03-30 00:30", "2026-03-30 02:30:00")
    );
    assert_eq!(
        next("00:15", "Asia/Beirut", "2026-03-28T12:00:00Z", "PT0S"),
        told("03-28 22:00", "2026-03-29 01:00:00")
    );
    assert_eq!(
        next("02:10", "Australia/Lord_Howe", "2026-10-03T00:00:00Z", "PT0S"),
        told("10-03 15:30", "2026-10-04 02:30:00")
    );
    // the 30 December was left out
    assert_eq!(
        next("10:00", "Pacific/Apia", "2011-12-30T09:00:00Z", "PT0S"),
        told("12-30 10:00", "2011-12-31 00:00:00")
    );
    assert_eq!(
        next("10:00", "Pacific/Apia", "2011-12-30T10:00:00Z", "PT0S"),
        told("12-30 10:00", "2011-12-31 00:00:00")
    );
}

#[test]
fn of_a_time_that_comes_twice_it_is_the_first() {
    assert_eq!(
        next("02:30", "Europe/Berlin", "2026-10-24T12:00:00Z", "PT0S"),
        told("10-25 00:30", "2026-10-25 02:30:00")
    );
    // after that, the second is not taken
    assert_eq!(
        next("02:30", "Europe/Berlin", "2026-10-25T00:31:00Z", "PT0S"),
        told("10-26 01:30", "2026-10-26 02:30:00")
    );
    assert_eq!(
        next("00:30", "America/Havana", "2026-11-01T00:00:00Z", "PT0S"),
        told("11-01 04:30", "2026-11-01 00:30:00")
    );
}
