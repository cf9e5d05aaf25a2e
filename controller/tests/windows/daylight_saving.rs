//! Windows where the clock changes. All times that are expected are UTC's.

use super::{at, openings, window, windows};

/// When a window is open in the days around a change.
fn opened(schedule: &str, duration: &str, zone: &str, from: &str, to: &str) -> Vec<String> {
    openings(&windows([window(schedule, duration, zone)]), from, to)
}

#[test]
fn a_window_in_the_missing_hour_opens_when_the_clock_has_jumped_and_lasts_as_long() {
    // 02:00 to 03:00 is missing
    assert_eq!(
        opened("30 2 * * *", "PT4H", "Europe/Berlin", "2026-03-28T00:00Z", "2026-03-31T00:00Z"),
        ["03-28 01:30 – 03-28 05:30", "03-29 01:00 – 03-29 05:00", "03-30 00:30 – 03-30 04:30"]
    );
    assert_eq!(
        opened("30 2 * * 0", "PT1H", "America/New_York", "2026-03-07T00:00Z", "2026-03-10T00:00Z"),
        ["03-08 07:00 – 03-08 08:00"]
    );
    // half an hour: 02:00 to 02:30
    assert_eq!(
        opened("15 2 * * *", "PT1H", "Australia/Lord_Howe", "2026-10-02T17:00Z", "2026-10-04T16:00Z"),
        ["10-03 15:30 – 10-03 16:30", "10-04 15:15 –"]
    );
    // two hours: 01:00 to 03:00
    assert_eq!(
        opened("10 1 * * *", "PT1H", "Antarctica/Troll", "2026-03-28T12:00Z", "2026-03-29T12:00Z"),
        ["03-29 01:00 – 03-29 02:00"]
    );
}

#[test]
fn several_starts_in_the_missing_hour_are_one() {
    // croner would pass them over, for they are a list
    assert_eq!(
        opened("0,20,40 2 * * *", "PT10M", "Europe/Berlin", "2026-03-29T00:00Z", "2026-03-30T00:00Z"),
        ["03-29 01:00 – 03-29 01:10"]
    );
}

#[test]
fn a_midnight_that_is_missing_is_the_end_of_the_gap() {
    assert_eq!(
        opened("0 0 * * *", "PT2H", "Asia/Beirut", "2026-03-28T12:00Z", "2026-03-30T12:00Z"),
        ["03-28 22:00 – 03-29 00:00", "03-29 21:00 – 03-29 23:00"]
    );
    assert_eq!(
        opened("30 0 * * 0", "PT2H", "America/Santiago", "2026-09-05T12:00Z", "2026-09-07T12:00Z"),
        ["09-06 04:00 – 09-06 06:00"]
    );
    // a day of the week that begins late still is that day
    assert_eq!(
        opened("0 0 * * 0", "PT2H", "America/Havana", "2026-03-07T12:00Z", "2026-03-09T12:00Z"),
        ["03-08 05:00 – 03-08 07:00"]
    );
}

#[test]
fn a_gap_that_ends_on_the_next_day_loses_no_window() {
    // 23:30 jumped to 00:30 of the next day; the schedule names the day before
    assert_eq!(
        opened("45 23 * * 6", "PT2H", "America/Toronto", "1919-03-30T12:00Z", "1919-03-31T12:00Z"),
        Vec::<String>::new()
    );
    assert_eq!(
        opened("45 23 * * 0", "PT2H", "America/Toronto", "1919-03-30T12:00Z", "1919-03-31T12:00Z"),
        ["03-31 04:30 – 03-31 06:30"]
    );
    // a whole day was missing, the 30 December: its window is at the beginning of the 31
    assert_eq!(
        opened("0 10 * * *", "PT2H", "Pacific/Apia", "2011-12-29T12:00Z", "2011-12-31T12:00Z"),
        ["12-29 20:00 – 12-29 22:00", "12-30 10:00 – 12-30 12:00", "12-30 20:00 – 12-30 22:00"]
    );
}

#[test]
fn a_window_in_the_doubled_hour_opens_at_the_first_only() {
    // 02:00 to 03:00 comes twice
    assert_eq!(
        opened("30 2 * * *", "PT20M", "Europe/Berlin", "2026-10-24T12:00Z", "2026-10-26T12:00Z"),
        ["10-25 00:30 – 10-25 00:50", "10-26 01:30 – 10-26 01:50"]
    );
    assert_eq!(
        opened("0,30 1 * * *", "PT20M", "America/New_York", "2026-11-01T00:00Z", "2026-11-02T00:00Z"),
        ["11-01 05:00 – 11-01 05:20", "11-01 05:30 – 11-01 05:50"]
    );
    assert_eq!(
        opened("45 1 * * *", "PT15M", "Australia/Lord_Howe", "2026-04-04T00:00Z", "2026-04-05T00:00Z"),
        ["04-04 14:45 – 04-04 15:00"]
    );
    // back from midnight: 23:00 comes twice on the day before
    assert_eq!(
        opened("30 23 * * *", "PT15M", "Asia/Beirut", "2026-10-24T12:00Z", "2026-10-25T12:00Z"),
        ["10-24 20:30 – 10-24 20:45"]
    );
    // back from one: midnight comes twice
    assert_eq!(
        opened("0 0 * * *", "PT15M", "America/Havana", "2026-11-01T00:00Z", "2026-11-02T00:00Z"),
        ["11-01 04:00 – 11-01 04:15"]
    );
}

#[test]
fn a_window_of_tomorrow_that_was_before_the_clock_went_back_past_midnight_is_still_open() {
    // from 00:01 of the 29th back to 23:01 of the 28th; what began at 00:00 began at 02:30 UTC
    assert_eq!(
        opened("0 0 29 * *", "PT2H", "America/St_Johns", "2006-10-29T00:00Z", "2006-10-30T00:00Z"),
        ["10-29 02:30 – 10-29 04:30"]
    );
    // asked when the clock shows the 28th again
    let first_nights = windows([window("0 0 29 * *", "PT2H", "America/St_Johns")]);
    assert!(first_nights.at(at("2006-10-29T02:45Z")).gate.is_open());
}

#[test]
fn a_duration_is_elapsed_time() {
    // 01:00 to 06:00 by the clock in spring, to 04:00 in autumn
    assert_eq!(
        opened("0 1 * * *", "PT4H", "Europe/Berlin", "2026-03-28T12:00Z", "2026-03-29T12:00Z"),
        ["03-29 00:00 – 03-29 04:00"]
    );
    assert_eq!(
        opened("0 1 * * *", "PT4H", "Europe/Berlin", "2026-10-24T12:00Z", "2026-10-25T12:00Z"),
        ["10-24 23:00 – 10-25 03:00"]
    );
    // a day's 24 h leave out the 25th hour
    assert_eq!(
        opened("0 0 * * *", "PT24H", "Europe/Berlin", "2026-10-24T12:00Z", "2026-10-25T23:30Z"),
        ["10-24 12:00 – 10-25 22:00", "10-25 23:00 –"]
    );
}

#[test]
fn a_window_of_days_that_began_before_the_change_is_open_after_it() {
    assert_eq!(
        opened("0 20 * * 5", "PT54H", "Europe/Berlin", "2026-03-29T12:00Z", "2026-03-30T12:00Z"),
        ["03-29 12:00 – 03-30 01:00"]
    );
}

#[test]
fn a_zone_without_changes_has_none() {
    assert_eq!(
        opened("30 2 * * *", "PT1H", "Asia/Kolkata", "2026-03-28T12:00Z", "2026-03-30T12:00Z"),
        ["03-28 21:00 – 03-28 22:00", "03-29 21:00 – 03-29 22:00"]
    );
}
