//! What waits for its time, with real parts: firmware that is fetched ahead of a window, configurations at a time of day.

use anyhow::{Context, Result};
use fettle_crds::Phase;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use crate::world::{NEW, OLD, World, device_does, strict};

/// What the clock shows in a zone, so long from now.
fn clock(zone: &str, ahead: SignedDuration) -> Result<jiff::civil::DateTime> {
    Ok(TimeZone::get(zone)?.to_datetime(Timestamp::now() + ahead))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_fetched_ahead_of_a_window_is_activated_in_it_without_being_fetched_again() -> Result<()> {
    let mut world = World::start("ahead").await?;
    world.firmware(NEW).await?;
    let device = world.device("sw-1", strict(1)).await?;
    let opens = clock("UTC", SignedDuration::from_hours(12))?;
    let window = format!("windows: [{{schedule: \"0 {} * * *\", duration: 1h}}]", opens.hour());
    let group = ["firmware: {name: access-5.2.1}", "rollout: {download: Ahead}"];
    world.group(&[group[0], group[1], &window]).await?;
    let phase = |status: &fettle_crds::DeviceStatus| status.upgrade.as_ref().map(|upgrade| upgrade.phase);
    let held = world.device_until("sw-1", "has fetched", |status| phase(status) == Some(Phase::Downloaded)).await?;
    assert_eq!(held.granted, None, "it is granted when the window opens");
    assert_eq!((device.version().to_string(), device.journal().counters().received(6)), (OLD.to_owned(), 0));

    world.group(&group).await?;
    world.all_current(1).await?;
    let journal = device.journal();
    assert_eq!((journal.counters().received(3), journal.counters().received(6)), (1, 1), "{journal}");
    let done = world.device_until("sw-1", "is done", |status| phase(status) == Some(Phase::Done)).await?;
    let id = |status: &fettle_crds::DeviceStatus| status.target.as_ref().map(|target| target.id);
    assert_eq!(id(&done), id(&held));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_fetched_ahead_is_given_up_when_the_group_wants_something_else() -> Result<()> {
    let mut world = World::start("ahead-superseded").await?;
    world.firmware(NEW).await?;
    world.firmware("5.3.0").await?;
    let device = world.device("sw-1", strict(1)).await?;
    let opens = clock("UTC", SignedDuration::from_hours(12))?;
    let window = format!("windows: [{{schedule: \"0 {} * * *\", duration: 1h}}]", opens.hour());
    world.group(&["firmware: {name: access-5.2.1}", "rollout: {download: Ahead}", &window]).await?;
    let holds = |status: &fettle_crds::DeviceStatus, version: &str| {
        let firmware = status.target.as_ref().and_then(|target| target.firmware.as_ref());
        status.upgrade.as_ref().is_some_and(|upgrade| upgrade.phase == Phase::Downloaded)
            && status.upgrade.as_ref().map(|upgrade| upgrade.target) == status.target.as_ref().map(|target| target.id)
            && firmware.is_some_and(|firmware| firmware.version == version)
    };
    world.device_until("sw-1", "has fetched the first", |status| holds(status, NEW)).await?;
    world.group(&["firmware: {name: access-5.3.0}", "rollout: {download: Ahead}", &window]).await?;
    world.device_until("sw-1", "has fetched the second", |status| holds(status, "5.3.0")).await?;
    world.group(&["firmware: {name: access-5.3.0}", "rollout: {download: Ahead}"]).await?;
    world.all_current(1).await?;
    let journal = device.journal();
    assert_eq!(device.version(), "5.3.0", "{journal}");
    assert_eq!(journal.flashes().len(), 1, "{journal}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_at_a_time_of_day_is_told_by_the_clock_of_the_device() -> Result<()> {
    const ZONE: &str = "Asia/Kolkata";
    let mut world = World::start("scheduled").await?;
    world.firmware(NEW).await?;
    world.config("17", "hostname access").await?;
    let spec = strict(1);
    world
        .apply(&format!(
            "apiVersion: fettle.dev/v1alpha1\nkind: Device\nmetadata: {{name: sw-1, labels: {{role: access}}}}\nspec: {{mac: \"{}\", timeZone: {ZONE}}}\n",
            spec.mac
        ))
        .await?;
    let devices = world.switch_on(vec![spec]).await?;
    let device = devices.first().context("one was switched on")?;
    let time = clock(ZONE, SignedDuration::from_mins(20))?;
    let config = format!("config: {{name: access-17, apply: {{mode: Scheduled, at: \"{}\"}}}}", time.strftime("%H:%M"));
    world.group(&["firmware: {name: access-5.2.1}", &config]).await?;

    let scheduled = |status: &fettle_crds::DeviceStatus| {
        status.upgrade.as_ref().is_some_and(|upgrade| upgrade.phase == Phase::Scheduled)
    };
    let status = world.device_until("sw-1", "has its time", scheduled).await?;
    let told = status.target.and_then(|target| target.config?.scheduled).context("a target with a time")?;
    assert_eq!(told.local, time.strftime("%Y-%m-%d %H:%M:00").to_string());
    assert_eq!(told.at, time.with().second(0).subsec_nanosecond(0).build()?.in_tz(ZONE)?.timestamp());
    assert_eq!(device.version(), NEW, "the firmware goes first");
    device_does(device, "receive the time", |record| record.journal().counters().received(8) == 1).await?;
    let journal = device.journal();
    let at: Vec<_> = journal.commands(8).iter().map(|(_, command)| command.at).collect();
    assert_eq!(at, [Some(time.with().second(0).subsec_nanosecond(0).build()?)], "{journal}");
    assert!(device.journal().configs().is_empty(), "nothing is in force yet: {}", device.journal());
    Ok(())
}
