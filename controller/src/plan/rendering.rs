//! What devices get of a template: each rendered once, and again only when something that a template knows has changed.
//!
//! Rendering is pure, so that what is remembered is what would come out again; whoever asks cannot tell the difference but by
//! the time it takes. Passes ask for every device, and a fleet is large.

use std::sync::{Arc, Mutex, PoisonError};

use fettle_crds::TargetConfig;
use fettle_crds::content::{self, ConfigContent, Form};
use fettle_crds::render::{self, Facts, Quotes, TemplateError};

use super::model::{Device, Text};
use super::tally::list;

/// So many results are remembered of a device: of what its group wants, of what it goes back to, and of a few that it may
/// have run before.
const REMEMBERED: usize = 4;

/// A configuration that is rendered for each device.
#[derive(Debug)]
pub struct Template {
    /// The Secret that keeps it.
    name: Text,
    version: Text,
    parsed: render::Template,
}

/// What a device gets: as a target names it. Or why it gets nothing.
pub type Rendered = Result<Arc<TargetConfig>, Arc<TemplateError>>;

impl Template {
    /// The template in a content; `None`: it is a text.
    ///
    /// # Errors
    /// Where it could not be rendered for any device.
    pub fn of(content: &ConfigContent, name: &Text) -> Result<Option<Arc<Self>>, TemplateError> {
        match content.form {
            Form::Text => Ok(None),
            Form::Template => {
                let parsed = render::Template::parse(&content.bytes)?;
                Ok(Some(Arc::new(Self { name: name.clone(), version: content.version.as_str().into(), parsed })))
            }
        }
    }

    /// The Secret that keeps it.
    pub fn name(&self) -> &Text {
        &self.name
    }

    fn render(&self, facts: &Facts) -> Rendered {
        let bytes = self.parsed.render(facts).map_err(Arc::new)?;
        let identity = content::identity(&self.version, &bytes);
        Ok(Arc::new(TargetConfig { identity, content: self.name.to_string(), scheduled: None, crc: None }))
    }
}

/// What was rendered for a device: by the name of the content, the last first. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Renderings(Arc<Mutex<Vec<(Text, Rendered)>>>);

impl Renderings {
    fn get_or_render(&self, template: &Template, facts: impl FnOnce() -> Facts) -> Rendered {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, rendered)) = known.iter().find(|(name, _)| *name == template.name) {
            return rendered.clone();
        }
        let rendered = template.render(&facts());
        known.truncate(REMEMBERED - 1);
        known.insert(0, (template.name.clone(), rendered.clone()));
        rendered
    }
}

impl Device {
    /// What it gets of a template.
    pub fn rendered(&self, template: &Template) -> Rendered {
        self.renderings.get_or_render(template, || self.declared())
    }

    /// Takes over what was rendered for what this device was before, where nothing has changed that templates know.
    pub fn remember(&mut self, former: &Self) {
        let is_same = self.name == former.name
            && self.labels == former.labels
            && self.annotations == former.annotations
            && self.model == former.model;
        if is_same {
            self.renderings = former.renderings.clone();
        }
    }

    fn declared(&self) -> Facts {
        let texts = |labels: &super::labels::Labels| {
            labels.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
        };
        Facts {
            name: self.name.to_string(),
            labels: texts(&self.labels),
            annotations: texts(&self.annotations),
            model: self.model.as_deref().map(str::to_owned),
        }
    }
}

/// So many devices are listed that a template cannot be rendered for.
const LISTED: usize = 10;
/// So many errors are told in a sentence, each with the first devices that have it.
const NAMED: usize = 3;

/// For how many devices a template can be rendered.
#[derive(Debug, Default)]
pub struct Coverage {
    pub rendered: usize,
    pub failed: usize,
    /// The first of those that failed, by name, each with what there is to say.
    pub errors: Vec<(Text, String)>,
}

impl Coverage {
    /// Counts a device.
    pub fn count(&mut self, device: &Device, template: &Template, quotes: Quotes) {
        match device.rendered(template) {
            Ok(_) => self.rendered += 1,
            Err(error) => {
                self.failed += 1;
                if self.errors.len() < LISTED {
                    self.errors.push((device.name.clone(), error.sentence(quotes)));
                }
            }
        }
    }

    /// Adds what holds for the devices of another group.
    pub fn add(&mut self, other: &Self) {
        self.rendered += other.rendered;
        self.failed += other.failed;
        let left = LISTED - self.errors.len().min(LISTED);
        self.errors.extend(other.errors.iter().take(left).cloned());
    }

    /// Whether the template is no good for any device that is known.
    pub fn is_none(&self) -> bool {
        self.failed > 0 && self.rendered == 0
    }

    /// The first devices that it cannot be rendered for, with line and reason: `sw-1, sw-2: line 3: …`.
    pub fn named(&self) -> Option<String> {
        let mut alike: Vec<(&str, Vec<&Text>)> = Vec::new();
        for (device, why) in &self.errors {
            match alike.iter_mut().find(|(known, _)| known == why) {
                Some((_, devices)) => devices.push(device),
                None => alike.push((why, vec![device])),
            }
        }
        let named: Vec<String> = alike
            .iter()
            .take(NAMED)
            .map(|(why, devices)| format!("{}: {why}", list(devices.iter().copied())))
            .collect();
        let others = if self.failed > LISTED || alike.len() > NAMED { "; and others" } else { "" };
        (self.failed > 0).then(|| format!("{}{others}", named.join("; ")))
    }

    /// What is wrong, in a sentence of its own.
    pub fn complaint(&self) -> Option<String> {
        let named = self.named()?;
        let devices = if self.failed == 1 { "1 device".to_owned() } else { format!("{} devices", self.failed) };
        Some(format!("the template cannot be rendered for {devices}: {named}"))
    }
}
