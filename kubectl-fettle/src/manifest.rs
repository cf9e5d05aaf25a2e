//! Manifests as people write them: from files, folders and standard input, each document with where it stands.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use fettle_crds::{ConfigProfile, Device, DeviceGroup, DeviceRollout, Firmware, GROUP, VERSION};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use serde::Deserialize as _;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::failure::{Code, Failure};

/// More than any manifest of a fleet has; a file that is larger is none.
const FILE_MAX: u64 = 64 * 1024 * 1024;

/// One document of a file.
#[derive(Debug, Clone)]
pub struct Document {
    /// The file, and which document of it, for people.
    pub place: String,
    pub value: Value,
}

/// An object that Fettle looks at.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant, reason = "there are few, and none lives long")]
pub enum Manifest {
    Device(Device),
    Group(DeviceGroup),
    Rollout(DeviceRollout),
    Firmware(Firmware),
    Profile(ConfigProfile),
    ConfigMap(ConfigMap),
    Secret(Secret),
    Lease(Lease),
    /// Of a kind that is nothing to Fettle.
    Other,
}

impl Document {
    fn text(&self, path: &[&str]) -> &str {
        let found = path.iter().try_fold(&self.value, |value, key| value.get(key));
        found.and_then(Value::as_str).unwrap_or_default()
    }

    pub fn kind(&self) -> &str {
        self.text(&["kind"])
    }

    pub fn name(&self) -> &str {
        self.text(&["metadata", "name"])
    }

    pub fn namespace(&self) -> &str {
        self.text(&["metadata", "namespace"])
    }

    /// How people are told of it.
    pub fn title(&self) -> String {
        format!("{}: {} {}", self.place, self.kind(), self.name())
    }

    /// Whether it is of Fettle's group.
    pub fn is_ours(&self) -> bool {
        self.text(&["apiVersion"]).split_once('/').is_some_and(|(group, _)| group == GROUP)
    }

    /// As an object.
    ///
    /// # Errors
    /// What is wrong with it, in words for the one who wrote it.
    pub fn read(&self) -> Result<Manifest, String> {
        fn of<K: DeserializeOwned>(value: &Value) -> Result<K, String> {
            serde_json::from_value(value.clone()).map_err(|error| error.to_string())
        }
        let api_version = self.text(&["apiVersion"]);
        if self.is_ours() && api_version != format!("{GROUP}/{VERSION}") {
            return Err(format!("apiVersion: there is no {api_version}: write {GROUP}/{VERSION}"));
        }
        match (api_version, self.kind()) {
            _ if self.is_ours() => match self.kind() {
                "Device" => of(&self.value).map(Manifest::Device),
                "DeviceGroup" => of(&self.value).map(Manifest::Group),
                "DeviceRollout" => of(&self.value).map(Manifest::Rollout),
                "Firmware" => of(&self.value).map(Manifest::Firmware),
                "ConfigProfile" => of(&self.value).map(Manifest::Profile),
                kind => Err(format!(
                    "kind: {GROUP} has no {kind}: it has Device, DeviceGroup, DeviceRollout, Firmware and ConfigProfile"
                )),
            },
            ("v1", "ConfigMap") => of(&self.value).map(Manifest::ConfigMap),
            ("v1", "Secret") => of(&self.value).map(Manifest::Secret),
            ("coordination.k8s.io/v1", "Lease") => of(&self.value).map(Manifest::Lease),
            _ => Ok(Manifest::Other),
        }
    }
}

/// Reads files, folders (the `.yaml`, `.yml` and `.json` in them) and `-`, standard input.
///
/// # Errors
/// One cannot be read, or is no YAML.
pub fn read(paths: &[PathBuf]) -> Result<Vec<Document>, Failure> {
    let mut documents = Vec::new();
    for path in paths {
        if path.as_os_str() == "-" {
            let mut text = String::new();
            let read = std::io::stdin().lock().take(FILE_MAX).read_to_string(&mut text);
            read.map_err(|error| unreadable(path, &error.to_string()))?;
            documents.extend(split("standard input", &text)?);
        } else if path.is_dir() {
            for file in files(path)? {
                documents.extend(split(&file.display().to_string(), &content(&file)?)?);
            }
        } else {
            documents.extend(split(&path.display().to_string(), &content(path)?)?);
        }
    }
    Ok(documents)
}

/// The manifests of a folder, in the order of their names.
fn files(folder: &Path) -> Result<BTreeSet<PathBuf>, Failure> {
    let entries = std::fs::read_dir(folder).map_err(|error| unreadable(folder, &error.to_string()))?;
    let mut files = BTreeSet::new();
    for entry in entries {
        let path = entry.map_err(|error| unreadable(folder, &error.to_string()))?.path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        if path.is_file() && matches!(extension, Some("yaml" | "yml" | "json")) {
            files.insert(path);
        }
    }
    Ok(files)
}

fn content(file: &Path) -> Result<String, Failure> {
    let length = std::fs::metadata(file).map_err(|error| unreadable(file, &error.to_string()))?.len();
    if length > FILE_MAX {
        return Err(unreadable(file, &format!("it has {length} bytes, which no manifest has")));
    }
    std::fs::read_to_string(file).map_err(|error| unreadable(file, &error.to_string()))
}

fn unreadable(path: &Path, why: &str) -> Failure {
    Failure::new(Code::Usage, format!("{} cannot be read: {why}", path.display()))
}

/// The documents of a text, the items of a List each by itself.
///
/// # Errors
/// It is no YAML.
pub fn split(place: &str, text: &str) -> Result<Vec<Document>, Failure> {
    let mut documents = Vec::new();
    for (index, document) in serde_yaml::Deserializer::from_str(text).enumerate() {
        let place = format!("{place}#{}", index + 1);
        let value =
            Value::deserialize(document).map_err(|error| Failure::new(Code::Usage, format!("{place}: {error}")))?;
        let is_list = value.get("kind").and_then(Value::as_str).is_some_and(|kind| kind.ends_with("List"));
        match value.get("items").and_then(Value::as_array).filter(|_| is_list) {
            Some(items) => {
                documents.extend(items.iter().map(|item| Document { place: place.clone(), value: item.clone() }));
            }
            // Between two `---` there may be nothing.
            None if value.is_null() => {}
            None => documents.push(Document { place, value }),
        }
    }
    Ok(documents)
}
