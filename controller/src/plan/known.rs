//! What devices ran before a rollout: what is known of it, so that they can be brought back.

use std::sync::Arc;

use fettle_crds::{Previous, PreviousFirmware, RolloutImage, TargetConfig};

use super::Map;
use super::model::{Config, Device, Image, Rollout, Snapshot, Target};
use super::pass::Pass;
use super::rendering::Template;
use super::revision::Content;
use super::seen::Seen;

/// What is known of what devices may have run before: to be able to bring them back.
pub struct Known<'a> {
    snapshot: &'a Snapshot,
    /// By model and reported version; `None` where two releases say the same.
    images: Map<(&'a str, &'a str), Option<&'a Image>>,
    /// The same of kept rollouts: of releases whose objects may be gone.
    kept_images: Map<(&'a str, &'a str), Option<&'a RolloutImage>>,
    /// By identity: of readable profiles, and of kept rollouts.
    configs: Map<&'a str, (TargetConfig, Option<&'a Config>)>,
    /// Those that are rendered for each device, with what has to be kept for them.
    templates: Vec<(&'a Template, Option<&'a Config>)>,
}

impl<'a> Known<'a> {
    pub fn new(snapshot: &'a Snapshot) -> Self {
        let mut images = Map::default();
        for image in snapshot.firmwares.values().flat_map(|firmware| &firmware.images) {
            for model in &image.models {
                images
                    .entry((model.as_str(), &*image.reports))
                    .and_modify(|known: &mut Option<&Image>| {
                        *known = known.filter(|known| known.name == image.name);
                    })
                    .or_insert(Some(image));
            }
        }
        let mut kept_images = Map::default();
        let kept = snapshot.rollouts.values().filter_map(|rollout| rollout.spec.firmware.as_ref());
        for image in kept.flat_map(|firmware| &firmware.images) {
            for model in &image.models {
                kept_images
                    .entry((model.as_str(), image.reports.as_str()))
                    .and_modify(|known: &mut Option<&RolloutImage>| {
                        *known = known.filter(|known| known.content == image.content);
                    })
                    .or_insert(Some(image));
            }
        }
        let kept = snapshot.rollouts.values().filter_map(|rollout| rollout.spec.config.as_ref());
        let mut configs: Map<&str, _> = kept
            .map(|config| {
                let (identity, content) = (config.identity.clone(), config.content.clone());
                let target = TargetConfig { identity, content, scheduled: None, crc: None };
                (config.identity.as_str(), (target, None))
            })
            .collect();
        let read = || snapshot.profiles.values().filter_map(|profile| profile.source.read().ok());
        for config in read() {
            configs.insert(&config.identity, (config.in_target(), Some(config)));
        }
        let mut templates: Vec<_> =
            read().filter_map(|config| Some((config.template.as_deref()?, Some(config)))).collect();
        let kept = snapshot.templates.values().filter(|template| snapshot.contents.contains_key(template.name()));
        templates.extend(kept.map(|template| (&**template, None)));
        Self { snapshot, images, kept_images, configs, templates }
    }

    /// What a device runs now, as far as it is known, and what has to be kept for that.
    ///
    /// Two releases may report the same. Its last target tells which of them it has; where that is gone, what was noted when
    /// it was given the next one does. Only where neither speaks of what it runs is there nothing better than what it reports.
    pub fn previous(&self, device: &Device, rollout: &Rollout) -> (Previous, Vec<Content>) {
        let reported = device.facts.reported.as_ref();
        let version = reported.map_or("", |reported| &*reported.version);
        let model = reported.map_or("", |reported| &*reported.model);
        let last = device.decisions.target.as_ref();
        let noted = device.decisions.previous.as_deref();
        let mut contents = Vec::new();

        let last_firmware =
            last.and_then(|target| self.firmware_of(target, model)).filter(|(reports, ..)| *reports == version);
        let noted_firmware = noted
            .map(|noted| &noted.firmware)
            .filter(|firmware| *firmware.version == *version && firmware.content.is_some());
        let (sha256, content) = match (last_firmware, self.images.get(&(model, version))) {
            (Some((_, sha256, content)), _) => (Some(sha256.to_owned()), Some(content.to_owned())),
            (None, _) if let Some(firmware) = noted_firmware => (firmware.sha256.clone(), firmware.content.clone()),
            (None, Some(Some(image))) => {
                contents.push(Content::image(image));
                (Some(image.content.sha256.clone()), Some(image.name.to_string()))
            }
            (None, Some(None)) => (None, None),
            (None, None) => match self.kept_images.get(&(model, version)).copied().flatten() {
                Some(image) => (Some(image.sha256.clone()), Some(image.content.clone())),
                None => (None, None),
            },
        };
        let identity = device.running_config();
        let noted_config = |running: &str| noted?.config.as_ref().filter(|config| *config.identity == *running);
        let last_config = last.and_then(|target| target.config.as_ref());
        let config = match (identity, last_config) {
            // Without the time at which that was put into force: it is over.
            (Some(identity), Some(config)) if config.identity == **identity => {
                Some(TargetConfig { scheduled: None, ..(**config).clone() })
            }
            (Some(identity), _) if let Some(config) = noted_config(identity) => Some(config.clone()),
            (Some(identity), _) => {
                let known = self.configs.get(&**identity).map(|(config, source)| (config.clone(), *source));
                known.or_else(|| self.rendered(device, identity)).map(|(config, source)| {
                    contents.extend(source.map(Content::config));
                    config
                })
            }
            (None, _) => None,
        };
        let firmware = PreviousFirmware { version: version.to_owned(), sha256, content };
        contents.retain(|content| !self.snapshot.contents.contains_key(content.name()));
        (Previous { rollout_uid: rollout.uid.to_string(), firmware, config }, contents)
    }

    /// What a target brings devices of a model to: what they report then, the digest of the image, and its Secret. Where it is
    /// for a configuration alone, its rollout has brought the firmware before.
    fn firmware_of<'t>(&'t self, target: &'t Target, model: &str) -> Option<(&'t str, &'t str, &'t str)> {
        if let Some(firmware) = &target.firmware {
            return Some((&firmware.reports, &firmware.sha256, &firmware.content));
        }
        let rollout =
            self.snapshot.rollouts.get(&target.rollout).filter(|rollout| rollout.uid == target.rollout_uid)?;
        let images = &rollout.spec.firmware.as_ref()?.images;
        let image = images.iter().find(|image| image.models.iter().any(|known| known == model))?;
        Some((&image.reports, &image.sha256, &image.content))
    }

    /// The template of which the device got what it runs, by what it would get of it today.
    fn rendered(&self, device: &Device, identity: &str) -> Option<(TargetConfig, Option<&'a Config>)> {
        self.templates.iter().find_map(|(template, source)| {
            let rendered = device.rendered(template).ok().filter(|rendered| rendered.identity == identity)?;
            Some(((*rendered).clone(), *source))
        })
    }
}

impl Pass<'_> {
    /// What a device ran before a rollout, as it is to be kept with its next target. Until the rollout has granted it, that is
    /// what it runs now.
    pub(super) fn previous(&mut self, index: usize, rollout: &Rollout) -> Arc<Previous> {
        let Seen { device, granted_in, .. } = self.seen[index];
        let noted = device.decisions.previous.as_ref().filter(|previous| *previous.rollout_uid == *rollout.uid);
        if let Some(noted) = noted.filter(|_| granted_in.is_some()) {
            return noted.clone();
        }
        let known = self.known.get_or_insert_with(|| Known::new(self.snapshot));
        let (previous, contents) = known.previous(device, rollout);
        self.contents.extend(contents.into_iter().map(|content| (content.name().clone(), content)));
        noted.filter(|noted| ***noted == previous).cloned().unwrap_or_else(|| Arc::new(previous))
    }
}
