//! Templates: from the source of a configuration and what is declared of a device to the bytes that the device gets.
//!
//! One pure function, for controller and bridge alike: equal source and equal [`Facts`] are equal bytes, on any machine, at
//! any time. There is no clock, no chance, no file and no other template to be had in here.
//!
//! Whoever may write a template must not be able to harm the programs with it. So the language is a part of Jinja in which
//! nothing can grow (`language`), each value is bounded (`words`), and so are the steps of one rendering and its result.
//! Errors never quote source or values unless they are asked to: a template may come from a Secret.

mod error;
mod language;
mod words;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, UndefinedBehavior, Value};

pub use error::{Fault, Quotes, TemplateError};

/// The most that the source of a template may have, in bytes: as much as the API takes inline.
pub const TEMPLATE_MAX: usize = 256 * 1024;
/// The most that one device can get, in bytes: as much as a Secret holds, which is the bound of a configuration without
/// a template.
pub const RENDERED_MAX: usize = 1024 * 1024 - 1024;
/// Steps of the engine for one rendering: a loop over all 4,094 VLANs with ten lines each takes half of them. They take
/// some 20 ms.
const FUEL: u64 = 200_000;
/// Annotations of tools and of ours change when nobody means to change the configuration.
const NOT_OFFERED: [&str; 2] = ["kubectl.kubernetes.io/", "fettle.dev/"];

/// What a template knows: what people have declared of a device. Nothing that the device says is in here, and nothing that an
/// upgrade or a reconnect changes: else a configuration would change because it was applied.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Facts {
    /// `device.name`.
    pub name: String,
    /// `device.labels`.
    pub labels: BTreeMap<String, String>,
    /// `device.annotations`.
    pub annotations: BTreeMap<String, String>,
    /// `device.model`: `spec.model`; not defined where that is not there, whatever the device reports.
    pub model: Option<String>,
}

impl Facts {
    /// Of a Device as the API has it.
    pub fn of(device: &crate::Device) -> Self {
        let annotations = device.metadata.annotations.iter().flatten();
        Self {
            name: device.metadata.name.clone().unwrap_or_default(),
            labels: device.metadata.labels.clone().unwrap_or_default(),
            annotations: annotations
                .filter(|(key, value)| offers_annotation(key, value))
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect(),
            model: device.spec.model.clone(),
        }
    }

    fn context(&self) -> Value {
        let texts = |texts: &BTreeMap<String, String>| -> Value {
            let texts = texts.iter().map(|(key, value)| (key.as_str().into(), value.as_str().into()));
            Value::from(texts.collect::<BTreeMap<Arc<str>, Value>>())
        };
        let mut device = BTreeMap::from([
            ("name", Value::from(self.name.as_str())),
            ("labels", texts(&self.labels)),
            ("annotations", texts(&self.annotations)),
        ]);
        device.extend(self.model.as_deref().map(|model| ("model", Value::from(model))));
        Value::from(BTreeMap::from([("device", Value::from(device))]))
    }
}

/// Whether templates can see an annotation: one of a person's, of a bearable size.
pub fn offers_annotation(key: &str, value: &str) -> bool {
    !NOT_OFFERED.iter().any(|prefix| key.starts_with(prefix)) && value.len() <= words::VALUE_MAX
}

/// A template that was read and found good: what can be known without a device.
pub struct Template {
    environment: Environment<'static>,
}

/// The name that the engine knows it by.
const NAME: &str = "template";

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// Where it could not be rendered for any device, with the line.
    pub fn parse(source: &[u8]) -> Result<Self, TemplateError> {
        if source.len() > TEMPLATE_MAX {
            return Err(TemplateError::of(Fault::SourceTooLarge));
        }
        let source = std::str::from_utf8(source).map_err(|_| TemplateError::of(Fault::NotText))?;
        let mut environment = Environment::empty();
        // A line that holds nothing but a statement leaves nothing behind, and a text ends as it is written.
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).keep_trailing_newline(true).build();
        let syntax = syntax.map_err(|error| TemplateError::from_engine(&error))?;
        let source = language::with_line_ends(source)?;
        language::check(&source, &syntax)?;
        environment.set_syntax(syntax);
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_fuel(Some(FUEL));
        // For the names in errors alone.
        environment.set_debug(true);
        words::teach(&mut environment);
        environment.add_template_owned(NAME, source).map_err(|error| TemplateError::from_engine(&error))?;
        Ok(Self { environment })
    }

    /// What a device gets.
    ///
    /// # Errors
    /// Why it cannot be rendered for that device.
    pub fn render(&self, facts: &Facts) -> Result<Vec<u8>, TemplateError> {
        let template = self.environment.get_template(NAME).map_err(|error| TemplateError::from_engine(&error))?;
        let mut rendered = Bounded { bytes: Vec::new(), is_full: false };
        let outcome = template.render_captured_to(facts.context(), &mut rendered).map(drop);
        match outcome {
            Ok(()) => Ok(rendered.bytes),
            Err(error) if rendered.is_full => Err(TemplateError::from_engine(&error).because(Fault::ResultTooLarge)),
            Err(error) => Err(TemplateError::from_engine(&error)),
        }
    }
}

impl std::fmt::Debug for Template {
    /// Without its source: that may be secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Template").finish_non_exhaustive()
    }
}

/// Takes no more than a device may get.
struct Bounded {
    bytes: Vec<u8>,
    is_full: bool,
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > RENDERED_MAX {
            self.is_full = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
