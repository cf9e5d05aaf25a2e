//! How configurations are told of: whether they were read, and whether devices can get them.

use fettle_crds::ConfigProfileStatus;
use jiff::Timestamp;

use super::conditions::Conditions;
use super::model::{Profile, Text};
use super::rendering::Coverage;

/// The status of a profile, where it changes; by the devices that it would be rendered for.
pub fn status(profile: &Profile, coverage: &Coverage, now: Timestamp) -> Option<(Text, ConfigProfileStatus)> {
    let before = &profile.status;
    let (ready, reason, message, config) = match profile.source.read() {
        Ok(config) => {
            let (ready, reason, message) = match (coverage.complaint(), &config.template) {
                (Some(complaint), _) if coverage.is_none() => (false, "TemplateError", complaint),
                (Some(complaint), _) => (true, "Read", complaint),
                (None, Some(_)) => (true, "Read", "the template was read".to_owned()),
                (None, None) => (true, "Read", "the text was read".to_owned()),
            };
            (ready, reason, message, Some(config.identity.to_string()))
        }
        Err((reason, message)) => (false, reason, message, None),
    };
    let mut conditions = Conditions::new(&before.conditions, profile.generation, now);
    conditions.set("Ready", ready, reason, &message);
    // It is read at once: what is wrong with it stays so until somebody changes it, or what it names.
    conditions.set("Reconciling", false, reason, "");
    conditions.set("Stalled", !ready, reason, if ready { "" } else { &message });
    let status =
        ConfigProfileStatus { observed_generation: Some(profile.generation), conditions: conditions.done(), config };
    (status != *before).then(|| (profile.name.clone(), status))
}
