//! Configurations that are rendered for each device: from its labels, its name, its annotations.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use fettle_crds::{ConfigProfile, Device, DeviceRollout};
use fettle_device::DeviceHandle;

use crate::world::{NEW, PATIENCE, World, condition, device_does, received, strict};

const CONFIG: &str = "config: {name: access-17}";
const ALL_AT_ONCE: &str = "rollout: {maxUnavailable: 100%}";
const NO_LOGS: &str = "logs: {upload: Never}";

impl World {
    /// Declares the profile `access-17`. `source` is what it says besides its version, in YAML.
    async fn profile(&self, source: &str) -> Result<()> {
        self.apply(&format!(
            "apiVersion: fettle.dev/v1alpha1\nkind: ConfigProfile\nmetadata: {{name: access-17}}\nspec:\n  version: \"17\"\n  {source}\n"
        ))
        .await
    }

    /// Declares and switches on devices `sw-1` to `sw-N`, each with its number as its VLAN.
    async fn with_vlans(&mut self, devices: u8) -> Result<Vec<DeviceHandle>> {
        let mut specs = Vec::new();
        for number in 1..=devices {
            let spec = strict(number);
            self.declare(&format!("sw-{number}"), spec.mac, &format!("{{role: access, vlan: \"{number}\"}}")).await?;
            specs.push(spec);
        }
        self.switch_on(specs).await
    }

    async fn label(&self, device: &str, label: &str) -> Result<()> {
        self.namespace.kubectl(&["label", "--overwrite", "dev", device, label]).await?;
        Ok(())
    }

    /// Waits until the profile `access-17` says this in its condition `Ready`.
    async fn profile_says(&self, ready: &str, reason: &str, what: &str) -> Result<()> {
        let says = |profile: &ConfigProfile| {
            let conditions = profile.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
            conditions
                .iter()
                .any(|is| is.type_ == "Ready" && is.status == ready && is.reason == reason && is.message.contains(what))
        };
        let wanted = format!("is Ready={ready}, {reason}, and says {what:?}");
        self.namespace.wait_for("access-17", &wanted, PATIENCE, says).await?;
        Ok(())
    }

    async fn rollouts(&self) -> Result<usize> {
        Ok(self.namespace.api::<DeviceRollout>().list(&Default::default()).await?.items.len())
    }
}

fn config(device: &DeviceHandle) -> String {
    device.config().map(|config| String::from_utf8_lossy(&config.content).into_owned()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_device_gets_what_its_labels_say_and_one_whose_label_changes_is_caught_up_alone() -> Result<()> {
    let mut world = World::start("templates").await?;
    world.firmware(NEW).await?;
    world
        .profile("template: |\n    hostname {{ device.name }}\n    {% if device.labels.vlan is defined %}\n    vlan {{ device.labels['vlan'] }}\n    {% endif %}")
        .await?;
    let devices = world.with_vlans(3).await?;
    let firmware = "firmware: {name: access-5.2.1}";
    world.group(&[firmware, CONFIG, ALL_AT_ONCE, NO_LOGS]).await?;
    world.all_current(3).await?;
    for (number, device) in (1..).zip(&devices) {
        assert_eq!(config(device), format!("hostname sw-{number}\nvlan {number}\n"), "{}", device.journal());
        assert_eq!(device.version(), NEW);
    }

    // A label is no revision: the device is caught up in the rollout that there is, and the others are left alone.
    world.label("sw-2", "vlan=20").await?;
    device_does(&devices[1], "gets its new VLAN", |record| {
        record.config().is_some_and(|config| *config.content == *b"hostname sw-2\nvlan 20\n")
    })
    .await?;
    world.all_current(3).await?;
    assert_eq!(world.rollouts().await?, 1);
    let commands = |device: &DeviceHandle| received(device).into_iter().collect::<Vec<_>>();
    assert_eq!(commands(&devices[0]), [(3, 1), (4, 1), (6, 1), (8, 1)], "{}", devices[0].journal());
    assert_eq!(commands(&devices[1]), [(3, 1), (4, 2), (6, 1), (8, 2)], "{}", devices[1].journal());
    assert_eq!(commands(&devices[2]), [(3, 1), (4, 1), (6, 1), (8, 1)], "{}", devices[2].journal());
    let applied = world.connected("sw-2").await?;
    let identity = applied.target.and_then(|target| target.config).map(|config| config.identity);
    assert_eq!(applied.applied.map(|applied| applied.config), identity);

    // A label that the template does not name changes nothing that a device gets.
    world.label("sw-3", "rack=7").await?;
    world.label("sw-1", "vlan=10").await?;
    device_does(&devices[0], "gets its new VLAN", |record| {
        record.config().is_some_and(|config| *config.content == *b"hostname sw-1\nvlan 10\n")
    })
    .await?;
    assert_eq!(received(&devices[2]).get(&4), Some(&1), "{}", devices[2].journal());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_lacks_a_label_is_named_and_the_others_go_on_until_it_has_it() -> Result<()> {
    let mut world = World::start("template-label").await?;
    let map =
        |text: &str| format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: vlans}}\ndata:\n  text: \"{text}\"\n");
    world.apply(&map("vlan {{ device.labels['vlan'] }}")).await?;
    world.profile("configMap: {name: vlans, key: text, template: true}").await?;
    let mut devices = world.with_vlans(2).await?;
    devices.push(world.device("sw-3", strict(3)).await?);
    world.group(&[CONFIG, ALL_AT_ONCE, NO_LOGS]).await?;
    let status = world
        .group_until("has two current devices and one with a template error", |status| {
            status.counts.current == 2 && status.reasons.get("TemplateError") == Some(&1)
        })
        .await?;
    assert_eq!(condition(&status.conditions, "Stalled"), "False", "{status:?}");
    let message = status.message.unwrap_or_default();
    assert!(message.contains("sw-3: line 1") && message.contains("vlan"), "{message}");
    let rollout = world
        .rollout_until("access-1", "is complete, and lists the device", |status| {
            status.completed_at.is_some() && !status.template_errors.is_empty()
        })
        .await?;
    let listed: Vec<_> = rollout.template_errors.iter().map(|error| error.device.as_str()).collect();
    assert_eq!(listed, ["sw-3"]);
    assert!(received(&devices[2]).is_empty(), "{}", devices[2].journal());
    world.profile_says("True", "Read", "sw-3").await?;

    world.label("sw-3", "vlan=3").await?;
    world.all_current(3).await?;
    assert_eq!(config(&devices[2]), "vlan 3");
    assert_eq!(world.rollouts().await?, 1);

    // What the profile refers to is its source: a change of that is a revision.
    world.apply(&map("trunk {{ device.labels['vlan'] }}")).await?;
    world.rollout_until("access-2", "is complete", |status| status.completed_at.is_some()).await?;
    assert_eq!(devices.iter().map(config).collect::<Vec<_>>(), ["trunk 1", "trunk 2", "trunk 3"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_whose_label_changes_in_mid_flash_never_gets_what_it_was_rendered_before() -> Result<()> {
    let mut world = World::start("template-flash").await?;
    world.firmware(NEW).await?;
    world.profile("template: |\n    vlan {{ device.labels.vlan }}").await?;
    let mut spec = strict(1);
    spec.timings.install = Duration::from_secs(2);
    world.declare("sw-1", spec.mac, "{role: access, vlan: \"1\"}").await?;
    let device = world.switch_on(vec![spec]).await?.remove(0);
    world.group(&["firmware: {name: access-5.2.1}", CONFIG, NO_LOGS]).await?;
    device_does(&device, "gets its 6", |record| record.journal().counters().received(6) == 1).await?;
    world.label("sw-1", "vlan=2").await?;
    world.all_current(1).await?;
    assert_eq!((device.version().as_str(), config(&device).as_str()), (NEW, "vlan 2\n"), "{}", device.journal());
    let commands: Vec<_> = received(&device).into_iter().collect();
    assert_eq!(commands, [(3, 1), (4, 1), (6, 1), (8, 1)], "{}", device.journal());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_that_no_device_can_get_says_where_and_why_and_nobody_is_granted() -> Result<()> {
    let mut world = World::start("template-broken").await?;
    world.firmware(NEW).await?;
    let devices = world.with_vlans(1).await?;
    world.profile("template: |\n    a\n    {{ device.name").await?;
    world.group(&["firmware: {name: access-5.2.1}", CONFIG, NO_LOGS]).await?;
    world.profile_says("False", "TemplateError", "line 2").await?;
    let group = world.stalled("ConfigProfileNotReady").await?;
    let message = group.status.and_then(|status| status.message).unwrap_or_default();
    assert!(message.contains("access-17") && message.contains("line 2"), "{message}");

    // It can be read, and is an error for every device that there is.
    world.profile("template: |\n    a\n    b\n    {{ device.labels.vlan - device.name }}").await?;
    world.profile_says("False", "TemplateError", "line 3").await?;
    world.stalled("TemplateError").await?;
    let untouched = world.namespace.api::<Device>().get("sw-1").await?;
    assert!(untouched.status.is_some_and(|status| status.last_target.is_none()));
    assert!(received(&devices[0]).is_empty(), "{}", devices[0].journal());

    world.profile("template: |\n    vlan {{ device.labels.vlan }}").await?;
    world.all_current(1).await?;
    assert_eq!(config(&devices[0]), "vlan 1\n");
    Ok(())
}

/// What must be nowhere but in the Secrets, and with the device.
const CANARY: &str = "tweety-bird-7c1f";

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_what_a_profile_refers_to_is_a_revision_and_what_a_secret_holds_is_told_to_nobody() -> Result<()> {
    let mut world = World::start_with("template-secret", |builder| builder.env("FETTLE_LOG_FILTER", "debug")).await?;
    let device = world.with_vlans(1).await?.remove(0);
    let secret = |text: &str| {
        format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: site}}\nstringData:\n  text: |\n    {text}\n")
    };
    world.apply(&secret(&format!("snmp {CANARY}-1 {{{{ device.labels.vlan }}}}"))).await?;
    world.profile("secret: {name: site, key: text, template: true}").await?;
    world.group(&[CONFIG, NO_LOGS]).await?;
    world.all_current(1).await?;
    assert_eq!(config(&device), format!("snmp {CANARY}-1 1\n"));

    world.apply(&secret(&format!("snmp {CANARY}-2 {{{{ device.labels.vlan }}}}"))).await?;
    device_does(&device, "gets the second text", |record| {
        record.config().is_some_and(|config| *config.content == *format!("snmp {CANARY}-2 1\n").as_bytes())
    })
    .await?;
    world.namespace.wait_for::<DeviceRollout>("access-2", "exists", PATIENCE, |_| true).await?;
    world.all_current(1).await?;

    // What is wrong is told by its line, and by nothing that stands there: not by a name, nor by a value.
    for (text, reason) in [
        (format!("{CANARY} {{{{ device.labels['{CANARY}'] }}}}"), "TemplateError"),
        (format!("{{% {CANARY} %}}"), "ConfigProfileNotReady"),
        (format!("{{{{ '{CANARY}'|nonsense }}}}"), "ConfigProfileNotReady"),
        (format!("{{{{ '{CANARY}' - 1 }}}}"), "TemplateError"),
    ] {
        world.apply(&secret(&text)).await?;
        world.stalled(reason).await?;
        world.profile_says("False", "TemplateError", "line 1").await?;
    }
    let told = world.namespace.dump().await;
    assert!(told.contains("TemplateError"), "the dump has the conditions");
    assert!(!told.contains(CANARY), "somebody tells what is in the Secret:\n{told}");
    let log = |path: &Path| std::fs::read_to_string(path).with_context(|| format!("{}", path.display()));
    let logs = [log(world.fettle.controller().log())?, log(world.fettle.bridge().program().log())?];
    for log in &logs {
        let line = log.lines().find(|line| line.contains(CANARY));
        assert!(line.is_none(), "{line:?}");
    }
    let kept = holding_the_canary(world.fettle.bridge().data_dir())?;
    assert!(!kept.is_empty(), "what was rendered is in the cache");
    assert!(kept.iter().all(|(_, mode)| mode & 0o077 == 0), "it is for the bridge alone: {kept:?}");
    Ok(())
}

/// The files below a folder that hold the canary, with their permissions.
fn holding_the_canary(folder: &Path) -> Result<Vec<(PathBuf, u32)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let (path, metadata) = entry.and_then(|entry| Ok((entry.path(), entry.metadata()?)))?;
        if metadata.is_dir() {
            found.extend(holding_the_canary(&path)?);
        } else if String::from_utf8_lossy(&std::fs::read(&path)?).contains(CANARY) {
            found.push((path, metadata.permissions().mode()));
        }
    }
    Ok(found)
}
