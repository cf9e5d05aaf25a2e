//! Devices of vendors whose engineers have read the protocol otherwise.

use anyhow::Result;
use data_encoding::HEXLOWER;
use fettle_device::image;
use fettle_protocol::Dialect;
use fettle_protocol::crc::CrcKind;
use sha2::{Digest as _, Sha256};

use crate::world::{NEW, World, device_does, strict};

#[tokio::test(flavor = "multi_thread")]
async fn a_device_of_every_dialect_gets_firmware_and_configuration() -> Result<()> {
    let mut world = World::start("dialects").await?;
    world.firmware(NEW).await?;
    world.config("17", "hostname a").await?;
    let mut fleet = Vec::new();
    for (dialect, number) in Dialect::all().zip(1..) {
        let mut spec = strict(number);
        spec.dialect = dialect;
        fleet.push((format!("sw-{number}"), "{role: access}", spec));
    }
    let count = i64::try_from(fleet.len())?;
    let devices = world.fleet(fleet).await?;
    let rollout = "rollout: {maxUnavailable: 100%}";
    world.group(&["firmware: {name: access-5.2.1}", "config: {name: access-17}", rollout, "transfer: TFTP"]).await?;
    world.all_current(count).await?;
    for ((dialect, device), number) in Dialect::all().zip(&devices).zip(1..) {
        assert_eq!(device.version(), NEW, "{dialect}");
        assert!(device.journal().violations().is_empty(), "{dialect}: {}", device.journal());
        let status = world.connected(&format!("sw-{number}")).await?;
        let reported = status.reported.map(|reported| reported.dialect).unwrap_or_default();
        assert_eq!(reported, dialect.names().collect::<Vec<_>>(), "{dialect}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_whose_vendor_means_another_crc_gets_firmware_and_configuration() -> Result<()> {
    let mut world = World::start("crcs").await?;
    let kinds = [CrcKind::Ieee, CrcKind::Bzip2, CrcKind::Posix, CrcKind::Castagnoli];
    let (mut images, mut fleet) = (String::new(), Vec::new());
    for (kind, number) in kinds.into_iter().zip(1..) {
        let (model, file) = (format!("M{number}"), format!("m{number}.bin"));
        let bytes = image::build(&model, NEW, 64 * 1024);
        std::fs::write(world.fettle.files_dir().join(&file), &bytes)?;
        let sha256 = HEXLOWER.encode(&Sha256::digest(&bytes));
        images +=
            &format!("  - {{models: [{model}], source: {{file: {{path: {file}}}}}, sha256: {sha256}, crc: {kind}}}\n");
        let mut spec = strict(number);
        (spec.model, spec.crc) = (model, kind);
        fleet.push((format!("sw-{number}"), "{role: access}", spec));
    }
    world
        .apply(&format!("apiVersion: fettle.dev/v1alpha1\nkind: Firmware\nmetadata: {{name: access-{NEW}}}\nspec:\n  version: \"{NEW}\"\n  images:\n{images}"))
        .await?;
    world.config("17", "hostname a").await?;
    // One of which no firmware is declared: its profile says what it means.
    let mut alone = strict(9);
    alone.crc = CrcKind::Xfer;
    fleet.push(("sw-9".to_owned(), "{role: alone}", alone));
    world
        .apply("apiVersion: fettle.dev/v1alpha1\nkind: ConfigProfile\nmetadata: {name: alone}\nspec: {version: \"1\", crc: XFER, text: \"hostname b\"}\n---\napiVersion: fettle.dev/v1alpha1\nkind: DeviceGroup\nmetadata: {name: alone}\nspec: {selector: {matchLabels: {role: alone}}, config: {name: alone}}\n")
        .await?;
    let devices = world.fleet(fleet).await?;
    world
        .group(&["firmware: {name: access-5.2.1}", "config: {name: access-17}", "rollout: {maxUnavailable: 100%}"])
        .await?;
    world.all_current(4).await?;
    for (kind, device) in kinds.iter().zip(&devices) {
        assert_eq!(device.version(), NEW, "{kind}");
    }
    for (device, text) in devices.iter().zip(["hostname a", "hostname a", "hostname a", "hostname a", "hostname b"]) {
        device_does(device, "has its configuration in force", |record| {
            record.config().is_some_and(|config| *config.content == *text.as_bytes())
        })
        .await?;
        let journal = device.journal();
        assert_eq!((journal.counters().crc_mismatches, journal.violations().len()), (0, 0), "{journal}");
    }
    Ok(())
}
