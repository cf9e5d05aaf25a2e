//! The chart on a real node: pods from our image, Services in front of them, devices outside of the cluster.

mod enforcer;
mod policies;
mod site;

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use fettle_crds::Device;
use fettle_device::DeviceHandle;
use fettle_protocol::datum::Transfer;
use fettle_tests::say;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::ListParams;
use site::{Cluster, PATIENCE, Site, VERSIONS};

/// Of each of the two groups.
const DEVICES: u8 = 10;

/// The life of an installation, with a fleet that is upgraded through all of it. What happened to the devices is read from what
/// they wrote down themselves.
#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_outside_of_the_cluster_is_upgraded_whatever_happens_to_the_installation() -> Result<()> {
    let Some(cluster) = Cluster::find().await? else { return Ok(()) };
    let mut site = Site::new(&cluster, "life").await?;
    site.helm("install", "bridge.podAnnotations.change=first").await?;
    site.releases().await?;
    let mut devices = site.switch_on("ftp", 1, DEVICES).await?;
    devices.extend(site.switch_on("tftp", 101, DEVICES).await?);

    upgraded_through_the_services(&site, &devices).await?;

    // The release is upgraded, so that all pods are replaced, in mid-upgrade of the fleet.
    under_way(&site, &devices, VERSIONS[2]).await?;
    site.helm("upgrade", "bridge.podAnnotations.change=second,controller.podAnnotations.change=second").await?;
    arrived(&site, &devices, 2).await?;

    // One bridge and the controller that leads are deleted.
    under_way(&site, &devices, VERSIONS[3]).await?;
    let leader = leader(&site).await?;
    site.namespace.kubectl(&["delete", "pod", "fettle-bridge-0", &leader, "--wait=false"]).await?;
    arrived(&site, &devices, 3).await?;

    // Back to the first release of the chart.
    site.helm_waits(&["rollback", "fettle", "1"]).await?;
    under_way(&site, &devices, VERSIONS[4]).await?;
    arrived(&site, &devices, 4).await?;

    survives_an_uninstallation(&site, &devices).await
}

/// A strict device knows ports 21 and 69 of the address that it is told, and nothing else.
async fn upgraded_through_the_services(site: &Site, devices: &[DeviceHandle]) -> Result<()> {
    wanted(site, VERSIONS[1]).await?;
    arrived(site, devices, 1).await?;
    let own = [site.address("fettle-bridge-0").await?, site.address("fettle-bridge-1").await?];
    let mut transfers = BTreeSet::new();
    for device in devices {
        let journal = device.journal();
        for (_, command) in journal.commands(3) {
            let place = command.place.as_ref().context("a message 3 without a place")?;
            ensure!(own.contains(&place.server), "told {}, of {own:?}\n{journal}", place.server);
            ensure!(place.port.is_none(), "a strict device was told a port\n{journal}");
            transfers.insert(format!("{:?}", place.transfer));
        }
    }
    let both = [Transfer::Ftp, Transfer::Tftp].map(|transfer| format!("{transfer:?}"));
    ensure!(transfers == BTreeSet::from(both), "{transfers:?}");
    Ok(())
}

/// Declares a version, and returns when some devices run it, and by far not all.
async fn under_way(site: &Site, devices: &[DeviceHandle], version: &str) -> Result<()> {
    wanted(site, version).await?;
    let some = || async { (devices.iter().filter(|device| device.version() == version).count() >= 2).then_some(()) };
    site.namespace.eventually(&format!("some devices run {version}"), PATIENCE, some).await?;
    let there = devices.iter().filter(|device| device.version() == version).count();
    ensure!(there < devices.len(), "all devices run {version} before anything could happen meanwhile");
    Ok(())
}

async fn wanted(site: &Site, version: &str) -> Result<()> {
    site.wants("ftp", "FTP", version).await?;
    site.wants("tftp", "TFTP", version).await
}

/// All devices are current, and each has flashed each version up to the `steps`th once.
async fn arrived(site: &Site, devices: &[DeviceHandle], steps: usize) -> Result<()> {
    site.all_current("ftp", usize::from(DEVICES)).await?;
    site.all_current("tftp", usize::from(DEVICES)).await?;
    for device in devices {
        let journal = device.journal();
        let flashed: Vec<_> = journal.flashes().into_iter().map(|flash| flash.version.unwrap_or_default()).collect();
        ensure!(flashed == VERSIONS[1..=steps], "{} has flashed {flashed:?}\n{journal}", device.mac());
        ensure!(journal.violations().is_empty(), "{journal}");
    }
    say!("all {} devices run {}, each having flashed it once", devices.len(), VERSIONS[steps]);
    Ok(())
}

/// The pod of the controller that leads.
async fn leader(site: &Site) -> Result<String> {
    let lease: Lease = site.namespace.api().get("fettle-controller").await?;
    let holder = lease.spec.and_then(|spec| spec.holder_identity).context("no controller leads")?;
    // the pod, and which run of it
    Ok(holder.split('/').next().unwrap_or_default().to_owned())
}

/// What was declared and reported stays, and a new installation goes on from there, without a word to any device.
async fn survives_an_uninstallation(site: &Site, devices: &[DeviceHandle]) -> Result<()> {
    let said = |device: &DeviceHandle| {
        let journal = device.journal();
        [3, 4, 6, 8].map(|message| journal.counters().received(message))
    };
    let before: Vec<_> = devices.iter().map(said).collect();
    site.helm_waits(&["uninstall", "fettle"]).await?;
    // pods end after their workloads
    let of_release = "--selector=app.kubernetes.io/instance=fettle";
    let gone = || async {
        let left = site.namespace.kubectl(&["get", "all,secrets,roles,leases", of_release, "-o", "name"]).await;
        left.is_ok_and(|left| left.trim().is_empty()).then_some(())
    };
    site.namespace.eventually("nothing of the release is left", PATIENCE, gone).await?;
    let kept = site.namespace.api::<Device>().list(&ListParams::default()).await?;
    ensure!(kept.items.len() == devices.len(), "{} Devices are left", kept.items.len());

    site.helm("install", "bridge.podAnnotations.change=third").await?;
    // the load balancer may have given another address, which devices learn as they learnt the first
    let bridge = site.bridge().await?;
    devices.iter().for_each(|device| device.move_to(bridge));
    let all = || async { (site.connected().await.ok()?.len() == devices.len()).then_some(()) };
    site.namespace.eventually("all devices are connected again", PATIENCE, all).await?;
    arrived(site, devices, VERSIONS.len() - 1).await?;
    let after: Vec<_> = devices.iter().map(said).collect();
    ensure!(before == after, "devices were told something: {before:?}, then {after:?}");
    Ok(())
}
