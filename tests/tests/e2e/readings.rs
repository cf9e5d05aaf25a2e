//! Devices of vendors whose engineers have read the protocol otherwise.

use anyhow::Result;
use fettle_protocol::Dialect;

use crate::world::{NEW, World, strict};

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
