//! A bridge and what it depends on: its Lease, its permissions, the API server, other bridges, its limits.

use std::time::Duration;

use anyhow::{Context, Result};
use data_encoding::HEXLOWER;
use fettle_crds::Firmware;
use fettle_device::Vocabulary;
use fettle_device::record::Record;
use fettle_tests::ControlPlane;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::rbac::v1::Role;
use kube::ResourceExt;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use rustix::process::Signal;
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::world::{MODEL, NEW, PATIENCE, World, condition, device_does, strict};

const FIRMWARE: &str = "firmware: {name: access-5.2.1}";

#[tokio::test(flavor = "multi_thread")]
async fn a_device_whose_bridge_is_gone_for_good_is_served_by_another_once_that_ones_lease_has_ended() -> Result<()> {
    let mut world = World::start_with("dead-bridge", |builder| builder.bridges(2)).await?;
    world.firmware(NEW).await?;
    let mut spec = strict(1);
    spec.vocabulary = Vocabulary::Extended;
    spec.bridges = vec![world.fettle.bridges()[1].device_address()];
    let device = world.device("sw-1", spec).await?;
    let on = |bridge: &'static str| {
        move |status: &fettle_crds::DeviceStatus| {
            status.session.as_ref().is_some_and(|session| session.bridge.ends_with(bridge))
        }
    };
    world.device_until("sw-1", "is on the second bridge", on("-1")).await?;
    world.fettle.bridges()[1].program().kill();
    device.move_to(world.fettle.bridge().device_address());
    world.device_until("sw-1", "is on the first bridge", on("-0")).await?;
    world.group(&[FIRMWARE]).await?;
    world.all_current(1).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_ends_when_another_run_takes_its_lease_and_makes_it_anew_when_somebody_deletes_it() -> Result<()> {
    let world = World::start("lease").await?;
    let leases: kube::Api<Lease> = world.namespace.api();
    let bridge = world.fettle.bridge().program();
    let of_bridges = ListParams::default().labels("fettle.dev/bridge=true");
    let found = leases.list(&of_bridges).await?.items;
    let lease = found.first().context("the bridge has no Lease")?;
    let (name, spec) = (lease.name_any(), lease.spec.clone().context("it says nothing")?);

    leases.delete(&name, &kube::api::DeleteParams::default()).await?;
    let again = world.namespace.wait_for::<Lease>(&name, "is there again", PATIENCE, |_| true).await?;
    let again = again.spec.context("it says nothing")?;
    assert_eq!(again.holder_identity, spec.holder_identity, "the same run");
    assert_eq!(again.acquire_time, spec.acquire_time, "which began when it began");
    assert!(!bridge.has_ended());

    let taken = json!({"spec": {"holderIdentity": format!("{name}/another")}});
    leases.patch(&name, &PatchParams::default(), &Patch::Merge(taken)).await?;
    world.namespace.eventually("the bridge ends", PATIENCE, || async { bridge.has_ended().then_some(()) }).await?;
    let left = leases.get(&name).await?.spec.and_then(|spec| spec.holder_identity);
    assert_eq!(left, Some(format!("{name}/another")), "it does not release what is another's");
    assert!(std::fs::read_to_string(bridge.log())?.contains("two bridges must not share a name"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_permission_that_is_missing_is_seen_in_metrics_and_log_and_its_return_heals() -> Result<()> {
    let mut world = World::start("forbidden").await?;
    let roles: kube::Api<Role> = world.namespace.api();
    let all = roles.list(&ListParams::default()).await?.items;
    let role = all.into_iter().find(|role| role.name_any().ends_with("-bridge")).context("the bridge has no Role")?;
    let mut without = role.clone();
    for rule in without.rules.iter_mut().flatten() {
        if let Some(resources) = &mut rule.resources {
            resources.retain(|resource| resource != "devices/status");
        }
    }
    let without = roles.replace(&role.name_any(), &PostParams::default(), &without).await?;

    let account = format!("--as=system:serviceaccount:{}:fettle-bridge", world.namespace.name);
    let may_write = ["auth", "can-i", "patch", "devices.fettle.dev", "--subresource=status", &account];
    world
        .namespace
        .eventually("the API server has learned of it", PATIENCE, || async {
            // "no" is an error, too.
            world.namespace.kubectl(&may_write).await.is_err().then_some(())
        })
        .await?;

    let device = world.device("sw-1", strict(1)).await?;
    let bridge = world.fettle.bridge().program();
    world
        .namespace
        .eventually("two refused writes are counted", PATIENCE, || async {
            let refused = bridge.metric("fettle_bridge_status_writes_total", &["outcome=\"Refused\""]).await;
            refused.ok().filter(|count| *count >= 2.0)
        })
        .await?;
    let log = std::fs::read_to_string(bridge.log())?;
    let line = log.lines().find(|line| line.contains("ERROR") && line.contains("sw-1")).context(log.clone())?;
    assert!(line.contains("forbidden"), "{line}");
    assert!(device.read(Record::is_connected), "it is kept meanwhile\n{}", device.journal());

    let mut restored = role;
    restored.metadata.resource_version = without.metadata.resource_version;
    roles.replace(&restored.name_any(), &PostParams::default(), &restored).await?;
    world.connected("sw-1").await?;
    Ok(())
}

/// As `kubectl scale` makes them: the chart's role names as many replicas as the chart was told of.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_no_role_names_says_what_is_missing_and_begins_once_it_is_there() -> Result<()> {
    let world = World::start("unnamed").await?;
    let bridge = world.fettle.bridge().program();
    bridge.stop().await;
    let roles: kube::Api<Role> = world.namespace.api();
    let role = roles.get("fettle-bridge").await?;
    let mut without = role.clone();
    for rule in without.rules.iter_mut().flatten() {
        for names in rule.resource_names.iter_mut() {
            names.retain(|name| name != "fettle-bridge-0");
        }
    }
    let without = roles.replace("fettle-bridge", &PostParams::default(), &without).await?;
    let account = format!("--as=system:serviceaccount:{}:fettle-bridge", world.namespace.name);
    let may = ["auth", "can-i", "patch", "leases.coordination.k8s.io/fettle-bridge-0", &account];
    let learned = || async { world.namespace.kubectl(&may).await.is_err().then_some(()) };
    world.namespace.eventually("the API server has learned of it", PATIENCE, learned).await?;

    bridge.start_without_waiting()?;
    let says = || async {
        let log = std::fs::read_to_string(bridge.log()).unwrap_or_default();
        log.lines().any(|line| line.contains("lease not taken") && line.contains("bridge.replicas")).then_some(())
    };
    world.namespace.eventually("its log says that it takes no kubectl scale", PATIENCE, says).await?;

    let mut restored = role;
    restored.metadata.resource_version = without.metadata.resource_version;
    roles.replace("fettle-bridge", &PostParams::default(), &restored).await?;
    bridge.ready().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_ends_in_order_and_begins_while_the_api_server_is_away() -> Result<()> {
    let control_plane = ControlPlane::start().await?;
    control_plane.install_crds().await?;
    let mut world = World::start_on(&control_plane, "api-away-bridge", |builder| builder).await?;
    world.firmware(NEW).await?;
    let device = world.device("sw-1", strict(1)).await?;
    world.connected("sw-1").await?;
    let bridge = world.fettle.bridge().program();
    control_plane.stop_api_server()?;
    // Its Lease ends: it is not ready for devices that call now, and keeps those that it has.
    world
        .namespace
        .eventually("the bridge has lost its Lease", PATIENCE, || async {
            let held = bridge.metric("fettle_bridge_lease_held", &[]).await;
            held.ok().filter(|held| *held == 0.0)
        })
        .await?;
    assert!(device.read(Record::is_connected), "{}", device.journal());

    bridge.signal(Signal::TERM);
    let ended = world
        .namespace
        .eventually("the bridge has ended", Duration::from_secs(30), || async { bridge.has_ended().then_some(()) });
    ended.await?;
    bridge.start_without_waiting()?;
    control_plane.start_api_server().await?;
    bridge.ready().await?;
    world.group(&[FIRMWARE]).await?;
    world.all_current(1).await?;
    assert_eq!(device.version(), NEW);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_whose_image_takes_its_time_says_that_it_is_being_fetched() -> Result<()> {
    let world = World::start("slow-source").await?;
    let image = fettle_device::image::build(MODEL, NEW, 64 * 1024);
    let sha256 = HEXLOWER.encode(&Sha256::digest(&image));
    let source = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/image.bin", source.local_addr()?);
    let (go, wait) = tokio::sync::oneshot::channel::<()>();
    let served = tokio::spawn(async move {
        let (mut stream, _) = source.accept().await?;
        // The beginning of the request, whatever it is.
        let mut request = [0; 4];
        stream.read_exact(&mut request).await?;
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", image.len());
        stream.write_all(head.as_bytes()).await?;
        wait.await?;
        stream.write_all(&image).await?;
        anyhow::Ok(())
    });
    world.apply(&format!("apiVersion: fettle.dev/v1alpha1\nkind: Firmware\nmetadata: {{name: slow}}\nspec:\n  version: \"{NEW}\"\n  images:\n  - {{models: [{MODEL}], source: {{http: {{url: \"{url}\"}}}}, sha256: {sha256}}}\n")).await?;
    let fetching = world.firmware_is("slow", "False", "Fetching").await?;
    let holds = |firmware: &Firmware, type_| {
        let conditions = firmware.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
        condition(conditions, type_).to_owned()
    };
    assert_eq!(holds(&fetching, "Reconciling"), "True");
    assert_eq!(holds(&fetching, "Stalled"), "False");
    go.send(()).ok().context("the source has ended")?;
    let verified = world.firmware_is("slow", "True", "Verified").await?;
    assert_eq!(holds(&verified, "Reconciling"), "False");
    served.await?
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_from_one_address_are_bounded_and_those_that_end_make_room() -> Result<()> {
    let mut world =
        World::start_with("per-address", |builder| builder.env("FETTLE_MAX_CONNECTIONS_PER_ADDRESS", "2")).await?;
    let first = world.device("sw-1", strict(1)).await?;
    world.device("sw-2", strict(2)).await?;
    world.connected("sw-1").await?;
    world.connected("sw-2").await?;
    let third = world.device("sw-3", strict(3)).await?;
    let bridge = world.fettle.bridge().program();
    world
        .namespace
        .eventually("a connection too many is counted", PATIENCE, || async {
            let closed = bridge.metric("fettle_bridge_connections_closed_total", &["reason=\"TooMany\""]).await;
            closed.ok().filter(|count| *count >= 1.0)
        })
        .await?;
    assert!(first.read(Record::is_connected), "others are unaffected\n{}", first.journal());
    first.power_cut();
    world.connected("sw-3").await?;
    device_does(&third, "is connected", Record::is_connected).await?;
    Ok(())
}
