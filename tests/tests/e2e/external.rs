//! A file server of the operator's, vsftpd with tftpd-hpa over the same folder, in place of the bridge's.

use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context, Result};
use fettle_crds::{LogResult, TryResult, Verdict};
use fettle_device::spec::{FilePorts, PathStyle};
use fettle_device::{DeviceSpec, Fault, FaultKind, Step, Vocabulary};
use fettle_protocol::datum::Capabilities;

use crate::foreign::Foreign;
use crate::world::{NEW, PATIENCE, World, device_does, strict};

const PASSWORD: &str = "device-pass.1";

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_are_served_by_a_server_of_the_operators_and_nothing_stays_there() -> Result<()> {
    let share = tempfile::tempdir()?;
    let folder = share.path().join("fw");
    std::fs::create_dir(&folder)?;
    let is_root = rustix::process::geteuid().is_root();
    // What is brought by TFTP has to be writable for everybody, and vsftpd's anonymous user cannot say so of a file.
    let ftp = Foreign::vsftpd(share.path(), PASSWORD, "anon_umask=000\nfile_open_mode=0666");
    let tftp = is_root.then(|| Foreign::tftpd_hpa(share.path()));
    let password = share.path().join("password");
    std::fs::write(&password, PASSWORD)?;
    let mut world = World::start_with("external", |builder| {
        let builder = builder
            .env("FETTLE_EXTERNAL_FTP_URL", &format!("ftp://ftp@{}/fw", ftp.address))
            .env("FETTLE_EXTERNAL_FTP_PASSWORD_FILE", &password.display().to_string())
            .env("FETTLE_EXTERNAL_CONFIGURATIONS", "true");
        match &tftp {
            Some(tftp) => builder.env("FETTLE_EXTERNAL_TFTP_ADDRESS", &tftp.address.to_string()),
            None => builder,
        }
    })
    .await?;
    world.firmware(NEW).await?;
    world.config("7", "ntp server 192.0.2.1").await?;
    let ports = FilePorts { ftp: ftp.address.port(), tftp: tftp.as_ref().map_or(0, |tftp| tftp.address.port()) };
    let mut by_folder = strict(2);
    by_folder.path_style = PathStyle::ChangeDirectory;
    let mut devices = vec![("sw-1", "FTP", strict(1)), ("sw-2", "FTP", by_folder)];
    if is_root {
        devices.push(("sw-3", "TFTP", strict(3)));
    } else {
        fettle_tests::say!("left out: tftpd-hpa changes its root, and that takes root");
    }
    let count = devices.len();
    for (name, transfer, spec) in &devices {
        world
            .apply(&format!(
                "apiVersion: fettle.dev/v1alpha1\nkind: Device\nmetadata: {{name: {name}, labels: {{role: access}}}}\nspec: {{mac: \"{}\", transfer: {transfer}}}\n",
                spec.mac
            ))
            .await?;
    }
    let switched_on = world
        .switch_on(devices.into_iter().map(|(_, _, spec)| DeviceSpec { file_ports: ports, ..spec }).collect())
        .await?;
    world
        .group(&[
            "firmware: {name: access-5.2.1}",
            "config: {name: access-7}",
            "rollout: {maxUnavailable: 3}",
            "logs: {upload: Always}",
        ])
        .await?;
    world.all_current(i64::try_from(count)?).await?;
    for device in &switched_on {
        assert_eq!(device.version(), NEW, "{}", device.journal());
    }
    let bridge = world.fettle.bridge().program();
    let sent = bridge.metric("fettle_bridge_transfers_total", &["operation=\"download\""]).await.unwrap_or(0.0);
    assert_eq!(sent, 0.0, "our own servers had nothing to do");
    for number in 1..=count {
        let stored = format!("sw-{number} has brought its log");
        let logs = world.fettle.bridge().data_dir().join("logs").join(format!("sw-{number}"));
        world.namespace.eventually(&stored, PATIENCE, || async { names(&logs).pop() }).await?;
    }
    world
        .namespace
        .eventually("nothing lies there", PATIENCE, || async { names(&folder).is_empty().then_some(()) })
        .await?;

    // Out of order, it is a reason, and none of the device's.
    drop(ftp);
    world.config("8", "ntp server 192.0.2.2").await?;
    world
        .group(&[
            "firmware: {name: access-5.2.1}",
            "config: {name: access-8}",
            "rollout: {maxUnavailable: 3, retries: 0}",
        ])
        .await?;
    let status = world.try_ended("sw-1", 1, TryResult::Failed, Verdict::SourceUnavailable).await?;
    let message = status.upgrade.and_then(|upgrade| upgrade.message).unwrap_or_default();
    assert!(message.contains("the external file server cannot be reached"), "{message}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_the_operators_gets_images_and_logs_which_are_on_record_and_no_configurations() -> Result<()> {
    let share = tempfile::tempdir()?;
    let folder = share.path().join("fw");
    std::fs::create_dir(&folder)?;
    let ftp = Foreign::vsftpd(share.path(), PASSWORD, "");
    let password = share.path().join("password");
    std::fs::write(&password, PASSWORD)?;
    let mut world = World::start_with("external-logs", |builder| {
        builder
            .env("FETTLE_EXTERNAL_FTP_URL", &format!("ftp://ftp@{}/fw", ftp.address))
            .env("FETTLE_EXTERNAL_FTP_PASSWORD_FILE", &password.display().to_string())
    })
    .await?;
    world.firmware(NEW).await?;
    world.config("7", "ntp server 192.0.2.1").await?;
    // One that takes the port of each server, so that it is seen which one serves what.
    let withheld = Capabilities::HTTP;
    world.device("sw-2", DeviceSpec { vocabulary: Vocabulary::Extended, withheld, ..strict(2) }).await?;
    world.group(&["firmware: {name: access-5.2.1}", "config: {name: access-7}"]).await?;
    world.all_current(1).await?;
    let bridge = world.fettle.bridge().program();
    let ours = ["operation=\"download\"", "protocol=\"ftp\"", "result=\"complete\""];
    let theirs = ["operation=\"put\"", "result=\"ok\""];
    assert_eq!(bridge.metric("fettle_bridge_transfers_total", &ours).await?, 1.0, "the configuration");
    assert_eq!(bridge.metric("fettle_bridge_external_operations_total", &theirs).await?, 1.0, "the image");
    world.ask_for_log("sw-2", "connected").await?;
    let status = world.answered("sw-2", "connected").await?;
    assert_eq!(status.log_request.as_ref().map(|request| request.result), Some(LogResult::Stored), "{status:?}");
    world.is_there(&status.last_log.context("no log")?)?;

    let spec = DeviceSpec {
        // Devices share this machine, and a bridge asks nobody whose address another has.
        local_address: Some(Ipv4Addr::new(127, 0, 1, 2)),
        udp: true,
        file_ports: FilePorts { ftp: ftp.address.port(), tftp: 0 },
        faults: vec![Fault::once(Step::Download3, FaultKind::HalfOpen)],
        ..strict(1)
    };
    world
        .group(&[
            "firmware: {name: access-5.2.1}",
            "config: {name: access-7}",
            "rollout: {deviceTimeout: 5s, retries: 0}",
            "logs: {udp: true}",
        ])
        .await?;
    let device = world.device("sw-1", spec).await?;
    device_does(&device, "gets its first 3", |record| record.journal().counters().received(3) == 1).await?;
    world.try_ended("sw-1", 1, TryResult::Failed, Verdict::TimedOut).await?;
    let brought = |log: &fettle_crds::LastLog| log.target == 1;
    let status =
        world.device_until("sw-1", "has brought its log", |status| status.last_log.as_ref().is_some_and(brought));
    let status = status.await?;
    assert_eq!(status.session, None, "nobody holds it");
    world.is_there(&status.last_log.context("no log")?)?;
    world
        .namespace
        .eventually("nothing lies there", PATIENCE, || async { names(&folder).is_empty().then_some(()) })
        .await?;
    Ok(())
}
