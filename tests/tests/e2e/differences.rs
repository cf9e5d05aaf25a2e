//! A device that can is given what makes the new image of the one that it runs, and the whole image where that fails.

use anyhow::{Context, Result};
use fettle_device::journal::{Event, FileKind};
use fettle_device::{DeviceHandle, DeviceSpec, Vocabulary, image};

use crate::world::{MODEL, NEW, OLD, PATIENCE, World, strict, versions};

/// The bytes of the images that a device has fetched, and whether they were what it was promised.
fn fetched(device: &DeviceHandle) -> Vec<(u64, bool)> {
    let journal = device.journal();
    let downloads = journal.entries().into_iter().filter_map(|entry| match &entry.event {
        Event::Downloaded { file: FileKind::Image, bytes, crc_ok, sha256: _ } => Some((*bytes, *crc_ok)),
        _ => None,
    });
    downloads.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_makes_the_new_image_of_a_difference_and_one_with_another_image_gets_the_whole_in_its_next_try()
-> Result<()> {
    let mut world =
        World::start_with("differences", |builder| builder.env("FETTLE_DELTA_MAX_IMAGE_SIZE", "1MiB")).await?;
    // Apart from what it says of itself and one byte, the new image is the old one.
    let old = image::build(MODEL, OLD, 64 * 1024);
    let body = old.iter().position(|byte| *byte == b'\n').context("an image has a first line")? + 1;
    let mut new = image::build(MODEL, NEW, 0);
    new.extend_from_slice(&old[body..]);
    new[body + 30_000] ^= 1;
    for (version, bytes) in [(OLD, &old), (NEW, &new)] {
        world.apply(&world.release_of(version, version, bytes)?).await?;
        world.firmware_is(&format!("access-{version}"), "True", "Verified").await?;
    }
    let capable =
        |number| DeviceSpec { vocabulary: Vocabulary::Extended, image: Some(old.clone().into()), ..strict(number) };
    let mut other = capable(2);
    other.faults = vec!["download3=otherBase".parse()?];
    let labels = "{role: access}";
    let devices = vec![
        ("sw-1".to_owned(), labels, capable(1)),
        ("sw-2".to_owned(), labels, other),
        ("sw-3".to_owned(), labels, strict(3)),
    ];
    let devices = world.fleet(devices).await?;
    // It is made while they wait.
    let group = |paused| {
        [format!("paused: {paused}"), "firmware: {name: access-5.2.1}".into(), "rollout: {maxUnavailable: 100%}".into()]
    };
    let lines = group(true);
    world.group(&lines.each_ref().map(String::as_str)).await?;
    let bridge = world.fettle.bridge().program();
    let made = || async {
        let made = bridge.metric("fettle_bridge_differences_total", &["result=\"Made\""]).await.ok()?;
        (made == 1.0).then_some(())
    };
    world.namespace.eventually("the difference is made", PATIENCE, made).await?;
    let lines = group(false);
    world.group(&lines.each_ref().map(String::as_str)).await?;
    world.all_current(3).await?;
    assert_eq!(versions(&devices), [NEW, NEW, NEW]);
    let [by_difference, other, strict] = &devices[..] else { panic!("three devices") };
    let whole = (new.len() as u64, true);
    let [(bytes, true)] = fetched(by_difference)[..] else { panic!("{}", by_difference.journal()) };
    assert!(bytes < whole.0 / 10, "{bytes} bytes: {}", by_difference.journal());
    assert_eq!(fetched(other), [(bytes, false), whole], "{}", other.journal());
    assert_eq!(fetched(strict), [whole], "{}", strict.journal());
    assert_eq!(bridge.metric("fettle_bridge_difference_commands_total", &[]).await?, 2.0);
    assert_eq!(bridge.metric("fettle_bridge_tries_total", &["reason=\"CrcMismatch\""]).await?, 1.0);
    for device in &devices {
        assert!(device.journal().violations().is_empty(), "{}", device.journal());
    }
    Ok(())
}
