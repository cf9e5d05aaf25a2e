//! When devices may begin, by the real clock: freezes, windows that open and close.
//!
//! Windows open at whole minutes. Tests run in the order of their names, and this one comes early, so that its minute passes
//! while others work.

use anyhow::Result;
use fettle_crds::{DeviceGroupStatus, DeviceRolloutStatus};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use crate::world::{NEW, OLD, World, condition, received, strict, versions};

const FIRMWARE: &str = "firmware: {name: access-5.2.1}";

/// What a device of the test takes at least, from its first command to its report.
const INSTALL: SignedDuration = SignedDuration::from_secs(3);

#[tokio::test(flavor = "multi_thread")]
async fn nobody_begins_in_a_freeze_and_all_do_when_it_is_lifted() -> Result<()> {
    let mut world = World::start("freeze").await?;
    world.firmware(NEW).await?;
    let specs = (1..=2).map(|number| (format!("sw-{number}"), "{role: access}", strict(number)));
    let devices = world.fleet(specs.collect()).await?;
    let freeze = "freezes: [{from: \"2020-01-01\", to: \"2100-01-01\", reason: quarter end}]";
    world.group(&[FIRMWARE, "rollout: {maxUnavailable: 2}", freeze]).await?;
    let message = world.waits_for("Freeze").await?.message.unwrap_or_default();
    assert!(message.contains("quarter end"), "{message}");
    assert_eq!(versions(&devices), [OLD; 2]);
    world.group(&[FIRMWARE, "rollout: {maxUnavailable: 2}"]).await?;
    world.all_current(2).await?;
    Ok(())
}

/// A window that opens at this minute.
fn window(opens: Timestamp, duration: SignedDuration) -> String {
    let minute = opens.to_zoned(TimeZone::UTC).strftime("%M %H %d %m *").to_string();
    format!("windows: [{{schedule: \"{minute}\", duration: {}s}}]", duration.as_secs())
}

/// The first whole minute that is so far ahead.
fn minute_from(now: Timestamp, ahead: SignedDuration) -> Result<Timestamp> {
    let second = (now + ahead).as_second();
    Ok(Timestamp::from_second((second / 60 + 1) * 60)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_begin_when_a_window_opens_and_nobody_does_who_would_not_be_done_when_it_closes() -> Result<()> {
    const DEVICES: u8 = 8;
    // One device at a time: not all of them fit into the window, however fast the machine is.
    let open_for = SignedDuration::from_secs(20);
    assert!(INSTALL * i32::from(DEVICES) > open_for);
    let rollout = "rollout: {maxUnavailable: 1, deviceTimeout: 12s}";
    let mut world = World::start("window").await?;
    world.firmware(NEW).await?;
    world.firmware_is("access-5.2.1", "True", "Verified").await?;
    let specs = (1..=DEVICES).map(|number| {
        let mut spec = strict(number);
        spec.timings.install = INSTALL.unsigned_abs();
        (format!("sw-{number}"), "{role: access}", spec)
    });
    let devices = world.fleet(specs.collect()).await?;

    // Windows open at whole minutes. What is waited for until then takes a second on a machine that does nothing else.
    let opens = minute_from(Timestamp::now(), SignedDuration::from_secs(10))?;
    let closes = opens + open_for;
    world.group(&[FIRMWARE, rollout, &window(opens, open_for)]).await?;
    let all_wait = |status: &DeviceRolloutStatus| {
        let waits = status.waiting.as_ref().is_some_and(|waiting| waiting.reason == "Window");
        waits && status.reasons.get("WaitingForWindow") == Some(&i64::from(DEVICES))
    };
    let status = world.rollout_until("access-1", "has all devices wait for the window", all_wait).await?;
    let message = status.message.unwrap_or_default();
    assert!(message.contains(&format!("the next window opens at {opens}")), "{message}");
    assert_eq!(status.waiting.and_then(|waiting| waiting.until), Some(opens));

    let too_late = |status: &DeviceRolloutStatus| {
        let waits = status.waiting.as_ref().is_some_and(|waiting| waiting.reason == "Window");
        waits && status.counts.current > 0
    };
    let status = world.rollout_until("access-1", "has begun, and waits for the next window", too_late).await?;
    let done = status.counts.current;
    assert_eq!(status.counts.updating, 0, "{status:?}");
    assert_eq!(status.reasons.get("WaitingForWindow"), Some(&(i64::from(DEVICES) - done)), "{status:?}");
    assert_eq!(condition(&status.conditions, "Stalled"), "False", "{status:?}");
    let closed = |status: &DeviceGroupStatus| {
        let window = status.conditions.iter().find(|is| is.type_ == "WindowOpen");
        let is_closed = window.is_some_and(|is| is.status == "False" && is.reason == "Closed");
        is_closed && !status.message.as_deref().unwrap_or_default().contains("that is open")
    };
    world.group_until("says that its window has closed", closed).await?;
    assert!(Timestamp::now() >= closes, "it said so before {closes}");
    for device in &devices {
        let journal = device.journal();
        let first = journal.commands(3).first().map(|(at, _)| *at);
        let in_time = first.is_none_or(|first| opens <= first && first + INSTALL <= closes);
        assert!(in_time, "{device:?} was commanded at {first:?}, the window is {opens} to {closes}\n{journal}");
        assert_eq!(received(device).is_empty(), device.version() == OLD, "{journal}");
    }
    assert_eq!(versions(&devices).iter().filter(|version| *version == NEW).count() as i64, done);

    // The next window is one that is open already.
    let next = opens - SignedDuration::from_mins(2);
    world.group(&[FIRMWARE, rollout, &window(next, SignedDuration::from_mins(30))]).await?;
    world.all_current(i64::from(DEVICES)).await?;
    assert_eq!(versions(&devices), [NEW; DEVICES as usize]);
    Ok(())
}
