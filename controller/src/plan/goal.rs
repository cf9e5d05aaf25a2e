//! What a device is to run: what its group wants, or, on the way back, what it ran before.

use std::rc::Rc;
use std::sync::Arc;

use fettle_crds::{DeviceRolloutSpec, Previous, TargetConfig, TargetFirmware, TryResult};
use jiff::Timestamp;

use super::model::{Device, End, Progress, Target};
use super::reason::Reason;
use super::rendering::Template;
use super::revision::Revision;

/// What a device is to run: `None` where that stays as it is.
#[derive(Debug, Clone, Default)]
pub struct Goal {
    pub firmware: Option<Arc<TargetFirmware>>,
    pub config: Option<Arc<TargetConfig>>,
}

impl Goal {
    /// What the revision means for a model.
    ///
    /// # Errors
    /// The reason, where it means nothing for it.
    pub fn of(revision: &Revision<'_>, model: &str) -> Result<Self, Reason> {
        let image = revision.image(model).map_err(|_| Reason::NoImageForModel)?;
        let config = revision.config(model).map_err(|_| Reason::ConfigNotForModel)?;
        Ok(Self {
            firmware: image.map(|image| Arc::new(image.in_target())),
            config: config.map(|config| Arc::new(config.in_target())),
        })
    }

    /// What the last target of a device told it to run.
    pub fn told(device: &Device) -> Self {
        let target = device.decisions.target.as_ref();
        target.map_or_else(Self::default, |target| Self {
            firmware: target.firmware.clone(),
            config: target.config.clone(),
        })
    }

    /// A goal with the configuration as it is for a device, where that is rendered. Devices share what is not.
    ///
    /// # Errors
    /// Where it cannot be.
    pub fn rendered(goal: Rc<Self>, template: Option<&Template>, device: &Device) -> Result<Rc<Self>, Reason> {
        match template.filter(|_| goal.config.is_some()) {
            None => Ok(goal),
            Some(template) => {
                let config = device.rendered(template).map_err(|_| Reason::TemplateError)?;
                Ok(Rc::new(Self { config: Some(config), firmware: goal.firmware.clone() }))
            }
        }
    }

    /// Since when the device has been known to run it, if it does.
    pub fn met_since(&self, device: &Device) -> Option<Timestamp> {
        let reported = device.facts.reported.as_ref()?;
        let mut since = reported.at;
        if self.firmware.as_ref().is_some_and(|firmware| *firmware.reports != *reported.version) {
            return None;
        }
        if let Some(config) = &self.config {
            if device.running_config().map(|running| &**running) != Some(config.identity.as_str()) {
                return None;
            }
            let applied = device.facts.applied.as_ref().filter(|applied| *applied.config == *config.identity);
            since = applied.map_or(since, |applied| since.max(applied.at));
        }
        // A try that worked is over when the bridge says so, which may be later than the report.
        let done = match device.attempt() {
            Some((_, Progress::Ended(End { result: TryResult::Succeeded, at, .. }))) => at,
            _ => None,
        };
        Some(done.map_or(since, |done| since.max(done)))
    }

    /// Whether a target leads to this. One without firmware, for a configuration alone, is the second half of the way. What was
    /// rendered when other labels held leads elsewhere.
    pub fn is_led_to_by(&self, target: &Target) -> bool {
        let content = |firmware: &Option<Arc<TargetFirmware>>| firmware.as_ref().map(|it| it.content.clone());
        let config =
            |config: &Option<Arc<TargetConfig>>| config.as_ref().map(|it| (it.content.clone(), it.identity.clone()));
        let is_second_half = target.firmware.is_none() && target.config.is_some();
        config(&target.config) == config(&self.config)
            && (is_second_half || content(&target.firmware) == content(&self.firmware))
    }

    /// Whether a target was for the same source of the configuration, rendered for the device as it was declared then.
    pub fn was_rendered_otherwise_for(&self, target: &Target) -> bool {
        match (&self.config, &target.config) {
            (Some(now), Some(then)) => now.content == then.content && now.identity != then.identity,
            (Some(_) | None, Some(_) | None) => false,
        }
    }
}

/// Whether a device still runs what a target that worked has brought it to.
pub fn is_where_it_was_brought(device: &Device, target: &Target) -> bool {
    let version = device.facts.reported.as_ref().map(|reported| &*reported.version);
    let firmware = target.firmware.as_ref().is_none_or(|firmware| version == Some(firmware.reports.as_str()));
    let running = device.running_config().map(|config| &**config);
    firmware && target.config.as_ref().is_none_or(|config| running == Some(config.identity.as_str()))
}

/// The way back to what a device ran before a rollout, as far as that is known.
#[derive(Debug, Clone)]
pub struct WayBack {
    pub goal: Goal,
    /// What the device ran can be had: it may be told to go there.
    pub can_be_had: bool,
    /// The rollout changed a configuration of which nobody knows what it was before.
    pub config_is_lost: bool,
}

impl WayBack {
    /// With the configuration as the former template makes it of the device today.
    pub fn rendered(self: Arc<Self>, template: &Template, device: &Device) -> Arc<Self> {
        match device.rendered(template) {
            Ok(config) if self.goal.config.as_ref().is_some_and(|known| known.identity == config.identity) => self,
            Ok(config) => {
                let crc = self.goal.config.as_ref().and_then(|known| known.crc);
                let config = if crc.is_some() { Arc::new(TargetConfig { crc, ..(*config).clone() }) } else { config };
                Arc::new(Self { goal: Goal { config: Some(config), ..self.goal.clone() }, ..(*self).clone() })
            }
            Err(_) => Arc::new(Self { can_be_had: false, ..(*self).clone() }),
        }
    }

    /// What a device goes back to, and at once: what it ran may have had a time of its own, which is over. What the rollout
    /// does not change stays as it is.
    pub fn of(previous: &Previous, rollout: &DeviceRolloutSpec) -> Self {
        let before = &previous.firmware;
        let firmware = rollout.firmware.is_some().then(|| {
            Arc::new(TargetFirmware {
                version: before.version.clone(),
                reports: before.version.clone(),
                sha256: before.sha256.clone().unwrap_or_default(),
                content: before.content.clone().unwrap_or_default(),
            })
        });
        let config = previous.config.clone().filter(|_| rollout.config.is_some());
        let config = config.map(|config| Arc::new(TargetConfig { scheduled: None, ..config }));
        Self {
            can_be_had: firmware.is_none() || (before.content.is_some() && before.sha256.is_some()),
            config_is_lost: rollout.config.is_some() && config.is_none(),
            goal: Goal { firmware, config },
        }
    }
}
