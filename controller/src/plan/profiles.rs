//! How configurations are told of: whether they were read, and whether devices can get them.

use fettle_crds::ConfigProfileStatus;
use jiff::Timestamp;

use super::conditions::Conditions;
use super::model::{Profile, Text};
use super::rendering::Coverage;

/// The status of a profile, where it changes; by the devices that it would be rendered for.
pub fn status(profile: &Profile, coverage: &Coverage, now: Timestamp) -> Option<(Text, ConfigProfileStatus)> {
    let before = &profile.status;
    let mut conditions = Conditions::new(&before.conditions, profile.generation, now);
    let config = match profile.source.read() {
        Ok(config) => {
            match (coverage.complaint(), &config.template) {
                (Some(complaint), _) if coverage.is_none() => {
                    conditions.set("Ready", false, "TemplateError", &complaint);
                }
                (Some(complaint), _) => conditions.set("Ready", true, "Read", &complaint),
                (None, Some(_)) => conditions.set("Ready", true, "Read", "the template was read"),
                (None, None) => conditions.set("Ready", true, "Read", "the text was read"),
            }
            Some(config.identity.to_string())
        }
        Err((reason, message)) => {
            conditions.set("Ready", false, reason, &message);
            None
        }
    };
    let status =
        ConfigProfileStatus { observed_generation: Some(profile.generation), conditions: conditions.done(), config };
    (status != *before).then(|| (profile.name.clone(), status))
}
