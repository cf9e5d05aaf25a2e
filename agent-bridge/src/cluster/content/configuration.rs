//! The configuration of a device: the same for all, or rendered for each.
//!
//! What is rendered is rendered here, from the Device as it is declared now. It is served where it is what the target says,
//! and not otherwise: then the target was decided on other labels, and is about to be taken back. A try that has not begun
//! waits a moment for that; one that has begun ends, and the next is for what holds then.

use std::sync::Arc;
use std::time::Duration;

use fettle_crds::content::{self, ConfigContent, Form};
use fettle_crds::render::{Facts, Template};
use fettle_crds::{Device, Phase, TargetConfig};
use fettle_protocol::session::SourceError;
use jiff::Timestamp;

use super::{Contents, REMEMBERED, Remembered, refused, remembered};
use crate::files::store::Content;

/// Templates that are remembered, of up to 256 KiB each.
const REMEMBERED_TEMPLATES: usize = 64;
/// A target whose configuration is no longer what the template makes of its device is taken back in a moment, where there
/// is a controller: half of the time in which a try has to begin.
const WITHDRAWAL: Duration = Duration::from_secs(30);

/// The templates that Secrets keep.
pub(super) type Templates = Remembered<Arc<Versioned>>;

/// A template, and the version of the configurations that it makes.
pub(super) struct Versioned {
    version: String,
    template: Template,
}

/// What the Secret with a configuration holds.
enum Source {
    /// What each device gets, in the cache.
    Text(Content),
    Template(Arc<Versioned>),
}

impl Contents {
    /// The configuration for a device, in the cache.
    pub(super) async fn config(
        &self,
        device: &Device,
        config: &TargetConfig,
        until: Timestamp,
    ) -> Result<Content, SourceError> {
        let versioned = match self.source(&config.content, until).await? {
            Source::Text(content) => return Ok(content),
            Source::Template(versioned) => versioned,
        };
        match versioned.render(device, &config.identity) {
            // By its own hash: two devices may have identities alike, which are short, and get different bytes.
            Ok(bytes) => self.store.put(bytes).await.map_err(|error| refused(&error)),
            Err(why) => {
                if !has_begun(device) {
                    tokio::time::sleep(WITHDRAWAL).await;
                }
                Err(SourceError(why))
            }
        }
    }

    /// What the Secret `name` holds. Read once for all who ask at the same time.
    async fn source(&self, name: &str, until: Timestamp) -> Result<Source, SourceError> {
        // Both are locked, so that who finds neither reads it alone.
        let text = remembered(&self.known, name, REMEMBERED);
        let mut text = text.lock().await;
        if let Some(sha256) = *text
            && let Some(content) = self.store.get(&sha256).await
        {
            return Ok(Source::Text(content));
        }
        let template = remembered(&self.templates, name, REMEMBERED_TEMPLATES);
        let mut template = template.lock().await;
        if let Some(template) = &*template {
            return Ok(Source::Template(Arc::clone(template)));
        }
        let secret = self.read(name, until).await?;
        let ConfigContent { version, form, bytes } =
            ConfigContent::from_secret(&secret).map_err(|error| refused(&error))?;
        match form {
            Form::Text => {
                let content = self.store.put(bytes).await.map_err(|error| refused(&error))?;
                *text = Some(content.sha256);
                Ok(Source::Text(content))
            }
            Form::Template => {
                let parsed = Template::parse(&bytes).map_err(|error| refused(&error))?;
                let versioned = Arc::new(Versioned { version, template: parsed });
                *template = Some(Arc::clone(&versioned));
                Ok(Source::Template(versioned))
            }
        }
    }
}

impl Versioned {
    /// What the device gets, where that is what was decided.
    ///
    /// # Errors
    /// Why not, in a sentence that names lines of the template, and nothing of what stands there.
    fn render(&self, device: &Device, wanted: &str) -> Result<Vec<u8>, String> {
        let since = "its labels or annotations have changed since the try was granted";
        let bytes = self.template.render(&Facts::of(device));
        let bytes =
            bytes.map_err(|error| format!("the configuration cannot be rendered for the device ({error}): {since}"))?;
        match content::identity(&self.version, &bytes) {
            identity if identity == wanted => Ok(bytes),
            identity => Err(format!("the configuration is rendered to {identity}, and not to {wanted}: {since}")),
        }
    }
}

/// Whether the target of a device can be taken back no longer.
fn has_begun(device: &Device) -> bool {
    let Some(status) = &device.status else { return false };
    let target = status.target.as_ref().map(|target| target.id);
    let upgrade = status.upgrade.as_ref().filter(|upgrade| Some(upgrade.target) == target);
    upgrade.is_some_and(|upgrade| match upgrade.phase {
        Phase::Restarting | Phase::RestartLost | Phase::Applying | Phase::Scheduled | Phase::Done => true,
        Phase::Downloaded => false,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn versioned(template: &str) -> Versioned {
        Versioned { version: "17".into(), template: Template::parse(template.as_bytes()).unwrap() }
    }

    fn device(labels: serde_json::Value) -> Device {
        let device = json!({
            "apiVersion": "fettle.dev/v1alpha1", "kind": "Device",
            "metadata": {"name": "sw-1", "labels": labels}, "spec": {"mac": "02:00:5e:00:53:01"},
        });
        serde_json::from_value(device).unwrap()
    }

    #[test]
    fn a_device_gets_what_was_decided_and_nothing_else() {
        let template = versioned("vlan {{ device.labels.vlan }}\n");
        // printf 'vlan 7\n' | sha256sum
        let wanted = "17+9b2d0486";
        assert_eq!(template.render(&device(json!({"vlan": "7"})), wanted).unwrap(), b"vlan 7\n");
        let other = template.render(&device(json!({"vlan": "8"})), wanted).unwrap_err();
        assert!(other.contains(wanted) && other.contains("have changed"), "{other}");
        let missing = template.render(&device(json!({})), wanted).unwrap_err();
        assert!(missing.contains("line 1") && !missing.contains("vlan"), "it may come from a Secret: {missing}");
    }

    #[test]
    fn a_target_has_begun_when_a_command_that_cannot_be_taken_back_is_on_record() {
        let with = |target: i64, phase: &str| {
            let mut device = device(json!({}));
            device.status = Some(
                serde_json::from_value(json!({
                    "target": {
                        "id": 3, "rollout": "edge-4", "rolloutUid": "u", "try": 1, "from": "4.9.0", "transfer": "FTP",
                        "logs": "Never", "grantedAt": "2026-11-20T12:00:00Z", "startBy": "2026-11-20T12:01:00Z",
                        "until": "2026-11-20T12:15:00Z",
                    },
                    "upgrade": {"target": target, "phase": phase, "since": "2026-11-20T12:00:00Z"},
                }))
                .unwrap(),
            );
            has_begun(&device)
        };
        assert!(with(3, "Restarting") && with(3, "Applying") && with(3, "Scheduled"));
        assert!(!with(3, "Downloaded"));
        assert!(!with(2, "Restarting"), "that was another target");
        assert!(!has_begun(&device(json!({}))));
    }
}
