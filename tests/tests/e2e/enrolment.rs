//! Who is served: declared devices, approved devices, of the model that they were declared to be.

use anyhow::Result;
use fettle_crds::{Device, DeviceGroup};

use crate::world::{MODEL, NEW, OLD, PATIENCE, World, condition, device_does, received, strict};

const RECORDED: &str = "02-00-5e-00-53-01";

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_device_is_recorded_sent_away_and_served_once_a_person_approves_it() -> Result<()> {
    let mut world = World::start("approve").await?;
    world.firmware(NEW).await?;
    world.group(&["firmware: {name: access-5.2.1}"]).await?;
    let device = world.switch_on(vec![strict(1)]).await?.remove(0);
    let pending = world.namespace.wait_for::<Device>(RECORDED, "is recorded with what it said", PATIENCE, |device| {
        device.status.as_ref().is_some_and(|status| status.reported.is_some())
    });
    let pending = pending.await?;
    assert!(!pending.spec.approved);
    let reported = pending.status.and_then(|status| status.reported).map(|reported| (reported.version, reported.model));
    assert_eq!(reported, Some((OLD.to_owned(), MODEL.to_owned())));
    device_does(&device, "is told to disconnect", |record| record.journal().counters().received(2) >= 1).await?;
    assert_eq!(received(&device).keys().collect::<Vec<_>>(), [&2]);

    world.namespace.kubectl(&["patch", "dev", RECORDED, "--type=merge", "-p", r#"{"spec":{"approved":true}}"#]).await?;
    world.namespace.kubectl(&["label", "dev", RECORDED, "role=access"]).await?;
    world.all_current(1).await?;
    assert_eq!(device.version(), NEW);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorded_device_yields_to_a_declared_one() -> Result<()> {
    let mut world = World::start("yield").await?;
    let device = world.switch_on(vec![strict(1)]).await?.remove(0);
    world.namespace.wait_for::<Device>(RECORDED, "is recorded", PATIENCE, |_| true).await?;
    world.declare("sw-1", device.mac(), "{role: access}").await?;
    world.connected("sw-1").await?;
    let devices: kube::Api<Device> = world.namespace.api();
    world
        .namespace
        .eventually("the recorded device is deleted", PATIENCE, || async {
            devices.get_opt(RECORDED).await.ok().filter(Option::is_none)
        })
        .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn enrolment_can_take_every_device_or_record_none() -> Result<()> {
    let mut auto = World::start_with("auto", |builder| builder.env("FETTLE_ENROLMENT", "Auto")).await?;
    auto.switch_on(vec![strict(1)]).await?;
    let status = auto.connected(RECORDED).await?;
    assert_eq!(status.reported.map(|reported| reported.version).as_deref(), Some(OLD));

    let mut deny = World::start_with("deny", |builder| builder.env("FETTLE_ENROLMENT", "Deny")).await?;
    let device = deny.switch_on(vec![strict(1)]).await?.remove(0);
    // The third 2 is held back for so long that the device would be recorded by now.
    device_does(&device, "is sent away three times", |record| record.journal().counters().received(2) >= 3).await?;
    let devices: kube::Api<Device> = deny.namespace.api();
    assert!(devices.get_opt(RECORDED).await?.is_none());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_declared_devices_with_one_mac_are_neither_of_them_served() -> Result<()> {
    let mut world = World::start("one-mac").await?;
    world.firmware(NEW).await?;
    world.group(&["firmware: {name: access-5.2.1}"]).await?;
    let mac = strict(1).mac;
    world.declare("sw-1", mac, "{role: access}").await?;
    world.declare("sw-2", mac, "{role: access}").await?;
    let device = world.switch_on(vec![strict(1)]).await?.remove(0);
    device_does(&device, "is told to disconnect", |record| record.journal().counters().received(2) >= 1).await?;
    for name in ["sw-1", "sw-2"] {
        world
            .device_until(name, "is not Ready, for its MAC", |status| condition(&status.conditions, "Ready") == "False")
            .await?;
    }
    assert_eq!(received(&device).keys().collect::<Vec<_>>(), [&2]);
    world.namespace.kubectl(&["delete", "dev", "sw-2"]).await?;
    world.all_current(1).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_of_another_model_is_never_granted_and_counted_why() -> Result<()> {
    let mut world = World::start("other-model").await?;
    world.firmware(NEW).await?;
    let mut spec = strict(1);
    spec.model = "S9999".into();
    let no_image = world.device("sw-1", spec).await?;
    let mut spec = strict(2);
    spec.model = "S9999".into();
    let mac = spec.mac;
    world.apply(&format!("apiVersion: fettle.dev/v1alpha1\nkind: Device\nmetadata: {{name: sw-2, labels: {{role: access}}}}\nspec: {{mac: \"{mac}\", model: {MODEL}}}\n")).await?;
    let wrong = world.switch_on(vec![spec]).await?.remove(0);
    world.group(&["firmware: {name: access-5.2.1}"]).await?;
    let group =
        world.namespace.wait_for::<DeviceGroup>("access", "counts both, each with its reason", PATIENCE, |group| {
            let Some(status) = &group.status else { return false };
            status.reasons.get("NoImageForModel") == Some(&1) && status.reasons.get("WrongModel") == Some(&1)
        });
    group.await?;
    device_does(&wrong, "is told to disconnect", |record| record.journal().counters().received(2) >= 1).await?;
    assert!(received(&no_image).is_empty(), "{}", no_image.journal());
    assert_eq!(received(&wrong).keys().collect::<Vec<_>>(), [&2]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_cannot_be_verified_says_why_and_no_device_is_granted_it() -> Result<()> {
    let world = World::start_with("bad-firmware", |builder| builder.env("FETTLE_MAX_FILE_SIZE", "4KiB")).await?;
    let mut world = world;
    world.firmware(NEW).await?;
    world.firmware_is("access-5.2.1", "False", "TooLarge").await?;

    let files = world.fettle.files_dir().to_owned();
    std::fs::write(files.join("small.bin"), b"not what was declared")?;
    let sha = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
    for (name, path) in [("missing", "missing.bin"), ("changed", "small.bin")] {
        world
            .apply(&format!(
                "apiVersion: fettle.dev/v1alpha1\nkind: Firmware\nmetadata: {{name: {name}}}\nspec: {{version: \"1\", images: [{{models: [{MODEL}], source: {{file: {{path: {path}}}}}, sha256: {sha}}}]}}\n"
            ))
            .await?;
    }
    world.firmware_is("missing", "False", "NotFound").await?;
    let changed = world.firmware_is("changed", "False", "HashMismatch").await?;
    let message = changed.status.map(|status| status.conditions[0].message.clone()).unwrap_or_default();
    assert!(message.contains(sha), "{message}");

    let device = world.device("sw-1", strict(1)).await?;
    world.connected("sw-1").await?;
    world.group(&["firmware: {name: access-5.2.1}"]).await?;
    let group = world.namespace.wait_for::<DeviceGroup>("access", "is Stalled over its firmware", PATIENCE, |group| {
        let Some(status) = &group.status else { return false };
        condition(&status.conditions, "Stalled") == "True"
            && status.message.as_ref().is_some_and(|text| text.contains("access-5.2.1"))
    });
    group.await?;
    assert!(received(&device).is_empty(), "{}", device.journal());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_names_what_does_not_exist_is_stalled_with_the_name() -> Result<()> {
    let mut world = World::start("no-such-name").await?;
    let device = world.device("sw-1", strict(1)).await?;
    world.group(&["firmware: {name: access-5.2.1}", "config: {name: access-17}"]).await?;
    let group = world.stalled("FirmwareNotFound").await?;
    let message = group.status.and_then(|status| status.message).unwrap_or_default();
    assert!(message.contains("access-5.2.1"), "{message}");
    // It goes on by itself when the name is there.
    world.firmware(NEW).await?;
    let group = world.stalled("ConfigProfileNotFound").await?;
    let message = group.status.and_then(|status| status.message).unwrap_or_default();
    assert!(message.contains("access-17"), "{message}");
    world.config("17", "vlan 7").await?;
    world.all_current(1).await?;
    assert_eq!(device.version(), NEW);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_is_done_is_sent_away_where_its_group_says_so_and_comes_back_for_the_next_revision() -> Result<()>
{
    let mut world = World::start("close").await?;
    world.firmware(NEW).await?;
    world.firmware("5.3.0").await?;
    let device = world.device("sw-1", strict(1)).await?;
    world.group(&["firmware: {name: access-5.2.1}", "session: Close", "logs: {upload: Never}"]).await?;
    world.all_current(1).await?;
    device_does(&device, "is told to disconnect", |record| record.journal().counters().received(2) >= 1).await?;
    world
        .device_until("sw-1", "is dismissed", |status| status.session.as_ref().is_some_and(|session| session.dismissed))
        .await?;
    world.group(&["firmware: {name: access-5.3.0}", "session: Close", "logs: {upload: Never}"]).await?;
    device_does(&device, "runs the next revision", |record| record.version() == "5.3.0").await?;
    world.all_current(1).await?;
    Ok(())
}
