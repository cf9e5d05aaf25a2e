//! `kubectl fettle lint`: what is wrong with manifests, without a cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use clap::Args;
use fettle_controller::plan::reason::Reason;
use fettle_crds::{Device, DeviceStatus, Reported, Session};
use jiff::Timestamp;
use serde::Serialize;

use crate::failure::{Code, Failure};
use crate::forecast::settled;
use crate::manifest::{self, Document, Manifest};
use crate::objects::{Objects, Reference};
use crate::output::{self, Format};
use crate::overlay;
use crate::paint::{Line, Look, Tone};
use crate::schema::{Fault, Schemas};

/// So many names are given of devices with the same fault.
const NAMES: usize = 5;
/// The bridge that devices are taken to be connected to, where it matters what they are.
const NOBODY: &str = "lint";

/// Find what is wrong with manifests, without a cluster
///
/// Checks each manifest as the API server would (fields, bounds, rules), and all of them together as the controller
/// would: groups that name what is not there, devices that two groups select, models without an image, MACs that are
/// not unique, windows in which nobody could begin, templates that cannot be rendered for a device that is declared.
#[derive(Debug, Args)]
#[command(after_help = "Exit codes: 0 nothing is wrong, 3 something is.

Examples:
  kubectl fettle lint -f fleet/
  kubectl kustomize overlays/prod | kubectl fettle lint -f - --strict")]
pub struct LintArgs {
    /// Files, folders, or - for standard input
    #[arg(long, short, value_name = "FILE", num_args = 1.., required = true)]
    pub filename: Vec<PathBuf>,
    /// Warnings count, too: what the manifests refer to must be among them
    #[arg(long)]
    pub strict: bool,
    /// Print data instead
    #[arg(long, short, value_enum, value_name = "FORMAT")]
    pub output: Option<Format>,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Severity {
    Error,
    /// It may be all right, with what the cluster holds.
    Warning,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    pub severity: Severity,
    /// The file, and which document of it; the object.
    pub at: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub path: String,
    pub message: String,
}

/// # Errors
/// The manifests cannot be read, or something is wrong with them.
pub fn run(args: &LintArgs, look: Look) -> Result<(), Failure> {
    let documents = manifest::read(&args.filename)?;
    let findings = lint(&documents, Timestamp::now());
    let ours = documents.iter().filter(|document| document.is_ours()).count();
    match args.output {
        Some(format) => output::data(format, &findings)?,
        None => output::lines(look, findings.iter().map(line))?,
    }
    let counts = |severity: Severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let (errors, warnings) = (counts(Severity::Error), counts(Severity::Warning));
    if errors > 0 || (args.strict && warnings > 0) {
        let message = format!("{errors} errors and {warnings} warnings in {ours} manifests");
        return Err(Failure::new(Code::Failed, message));
    }
    output::note(&format!("{ours} manifests, {warnings} warnings"));
    Ok(())
}

fn line(finding: &Finding) -> Line {
    let (tone, word) = match finding.severity {
        Severity::Error => (Tone::Bad, "error"),
        Severity::Warning => (Tone::Waiting, "warning"),
    };
    let path = if finding.path.is_empty() { String::new() } else { format!("{}: ", finding.path) };
    Line::new().plain(format!("{}: ", finding.at)).with(tone, word).plain(format!(": {path}{}", finding.message))
}

/// All that is wrong, in the order of the documents, and then of all together.
pub fn lint(documents: &[Document], now: Timestamp) -> Vec<Finding> {
    let schemas = Schemas::ours();
    let mut findings = Vec::new();
    let mut good: Vec<Document> = Vec::new();
    let mut names: BTreeMap<(String, String, String), String> = BTreeMap::new();
    for document in documents {
        let error =
            |path: String, message: String| Finding { severity: Severity::Error, at: document.title(), path, message };
        let before = findings.len();
        if document.is_ours() {
            let faults = schemas.check(document.kind(), &document.value);
            findings.extend(faults.into_iter().map(|Fault { path, message }| error(path, message)));
        }
        if findings.len() == before
            && let Err(wrong) = document.read()
        {
            findings.push(error(String::new(), wrong));
        }
        let key = [document.kind(), document.namespace(), document.name()].map(str::to_owned);
        if let Some(other) = names.insert(key.into(), document.place.clone()) {
            findings.push(error("metadata.name".to_owned(), format!("{other} declares it, too")));
        }
        if findings.len() == before {
            good.push(document.clone());
        }
    }
    let mut by_namespace: BTreeMap<&str, Vec<Document>> = BTreeMap::new();
    for document in &good {
        by_namespace.entry(document.namespace()).or_default().push(document.clone());
    }
    for (namespace, documents) in by_namespace {
        together(&mut findings, namespace, &documents, now);
    }
    findings
}

/// What is wrong with all of them together, as the controller would find out.
fn together(findings: &mut Vec<Finding>, namespace: &str, documents: &[Document], now: Timestamp) {
    let place = |kind: &str, name: &str| {
        let document = documents.iter().find(|document| document.kind() == kind && document.name() == name);
        document.map_or_else(|| format!("{kind} {name}"), Document::title)
    };
    let mut objects = Objects::default();
    // Statuses that somebody has left in are not looked at.
    if overlay::lay(&mut objects, documents, namespace, now).is_err() {
        return;
    }
    let is_rollout = |document: &&Document| matches!(document.read(), Ok(Manifest::Rollout(_)));
    findings.extend(documents.iter().filter(is_rollout).map(|document| Finding {
        severity: Severity::Warning,
        at: document.title(),
        path: String::new(),
        message: "rollouts are made by the controller: leave it out".to_owned(),
    }));
    connect(&mut objects, now);
    let Ok((objects, plan)) = settled(objects.clone(), now) else { return };
    let Ok(index) = objects.index(now) else { return };
    for (name, group) in &objects.groups {
        let status = group.status.clone().unwrap_or_default();
        let stalled = status.conditions.iter().find(|is| is.type_ == "Stalled" && is.status == "True");
        let Some(stalled) = stalled else { continue };
        let config = group.spec.config.as_ref().and_then(|config| objects.profiles.get(&config.name));
        let is_elsewhere = config.and_then(Reference::of).is_some_and(|reference| match reference {
            Reference::ConfigMap(name) => !objects.config_maps.contains_key(&name),
            Reference::Secret(name) => !objects.secrets.contains_key(&name),
        });
        let severity = match stalled.reason.as_str() {
            "FirmwareNotFound" | "ConfigProfileNotFound" => Severity::Warning,
            "ConfigProfileNotReady" if is_elsewhere => Severity::Warning,
            // Told of each device; and of versions nothing is known here.
            "OverlappingGroups" | "VersionsNotComparable" | "TemplateError" => continue,
            _ => Severity::Error,
        };
        let here = if severity == Severity::Warning { " in these manifests" } else { "" };
        let message = format!("{}{here}", stalled.message);
        findings.push(Finding { severity, at: place("DeviceGroup", name), path: String::new(), message });
    }
    let mut by_reason: BTreeMap<(Reason, String), BTreeSet<String>> = BTreeMap::new();
    for (device, reason) in plan.waiting(&index.snapshot) {
        let is_told = matches!(
            reason,
            Reason::NoImageForModel
                | Reason::ConfigNotForModel
                | Reason::DuplicateMac
                | Reason::Overlap
                | Reason::UnknownTimeZone
                | Reason::TemplateError
        );
        let labels =
            objects.devices.get(&**device).and_then(|device| device.metadata.labels.clone()).unwrap_or_default();
        let groups = objects.groups.iter().filter(|(_, group)| group.spec.selector.matches(&labels));
        let groups: Vec<&str> = groups.map(|(name, _)| name.as_str()).collect();
        if is_told {
            by_reason.entry((reason, groups.join(", "))).or_default().insert(device.to_string());
        }
    }
    let why = |device: &str| {
        let errors = objects.rollouts.values().filter_map(|rollout| rollout.status.as_ref());
        let error = errors.flat_map(|status| &status.template_errors).find(|error| error.device == device);
        error.map_or_else(String::new, |error| format!(": {}", error.message))
    };
    for ((reason, groups), devices) in by_reason {
        let count = devices.len();
        let first = devices.first().cloned().unwrap_or_default();
        let names: Vec<&str> = devices.iter().take(NAMES).map(String::as_str).collect();
        let more = if count > NAMES { format!(", … {} more", count - NAMES) } else { String::new() };
        let detail = if reason == Reason::TemplateError { why(&first) } else { String::new() };
        let of = if groups.is_empty() { String::new() } else { format!(" ({groups})") };
        let message = format!("{}{of}: {}{more}{detail}", reason.words(), names.join(", "));
        let words = if count == 1 { "1 device".to_owned() } else { format!("{count} devices") };
        findings.push(Finding {
            severity: Severity::Error,
            at: place("Device", &first),
            path: String::new(),
            message: format!("{words} {message}"),
        });
    }
}

/// Devices as if each had called as what it is declared to be: so the planner looks at what they are to run.
fn connect(objects: &mut Objects, now: Timestamp) {
    let models: BTreeMap<String, String> =
        objects.devices.iter().filter_map(|(name, device)| Some((name.clone(), model(objects, device)?))).collect();
    for (name, model) in models {
        let Some(device) = objects.devices.get_mut(&name) else { continue };
        let session = Session {
            bridge: NOBODY.to_owned(),
            incarnation: NOBODY.to_owned(),
            address: String::new(),
            since: now,
            dismissed: false,
            contender: None,
        };
        let reported = Reported {
            version: "0".to_owned(),
            model,
            config: None,
            serial: None,
            capabilities: Vec::new(),
            dialect: Vec::new(),
            at: now,
        };
        let status = DeviceStatus { session: Some(session), reported: Some(reported), ..DeviceStatus::default() };
        device.status = Some(status);
    }
}

/// What it is declared to be; else the first model that its group has an image for.
fn model(objects: &Objects, device: &Device) -> Option<String> {
    if let Some(model) = &device.spec.model {
        return Some(model.clone());
    }
    let labels = device.metadata.labels.clone().unwrap_or_default();
    let group = objects.groups.values().find(|group| group.spec.selector.matches(&labels))?;
    let firmware = group.spec.firmware.as_ref().and_then(|firmware| objects.firmwares.get(&firmware.name));
    let profile = group.spec.config.as_ref().and_then(|config| objects.profiles.get(&config.name));
    let image = firmware.and_then(|firmware| firmware.spec.images.first()?.models.first().cloned());
    image
        .or_else(|| profile.and_then(|profile| profile.spec.models.first().cloned()))
        .or_else(|| Some("any".to_owned()))
}
