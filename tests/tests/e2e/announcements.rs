//! What a device is to run is announced to it while it waits for its turn, where it takes that.

use anyhow::Result;
use fettle_device::journal::Announced;
use fettle_device::{DeviceHandle, Vocabulary};

use crate::world::{NEW, World, device_does, strict, versions};

const LATER: &str = "5.3.0";

/// The versions that were announced, in their order.
fn announced(device: &DeviceHandle) -> Vec<String> {
    let journal = device.journal();
    let told = journal.commands(35).into_iter().filter_map(|(_, told)| told.announced.as_deref().cloned());
    told.map(|Announced { version, size }| format!("{version} {}", size.unwrap_or_default())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_waits_is_told_which_release_is_declared_for_it_and_when_that_changes_and_others_are_not()
-> Result<()> {
    let mut world = World::start("announcements").await?;
    for version in [NEW, LATER] {
        world.firmware(version).await?;
        world.firmware_is(&format!("access-{version}"), "True", "Verified").await?;
    }
    let mut listens = strict(1);
    listens.vocabulary = Vocabulary::Extended;
    let labels = "{role: access}";
    let devices = vec![("sw-1".to_owned(), labels, listens), ("sw-2".to_owned(), labels, strict(2))];
    let devices = world.fleet(devices).await?;
    let [listens, deaf] = &devices[..] else { panic!("two devices") };
    world.group(&["firmware: {name: access-5.2.1}", "paused: true"]).await?;
    device_does(listens, "is told of the release", |record| record.journal().counters().received(35) == 1).await?;
    world.group(&["firmware: {name: access-5.3.0}", "paused: true"]).await?;
    device_does(listens, "is told of the next", |record| record.journal().counters().received(35) == 2).await?;
    world.group(&["firmware: {name: access-5.3.0}", "paused: false", "rollout: {maxUnavailable: 100%}"]).await?;
    world.all_current(2).await?;
    assert_eq!(versions(&devices), [LATER, LATER]);
    assert_eq!(announced(listens), ["5.2.1 65536", "5.3.0 65536"], "{}", listens.journal());
    assert_eq!(deaf.journal().counters().received(35), 0, "{}", deaf.journal());
    for device in &devices {
        assert!(device.journal().violations().is_empty(), "{}", device.journal());
    }
    Ok(())
}
