//! Label selectors, with bounds, and how they match.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which devices, by their labels: all requirements must hold. One without any requirement selects nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LabelSelector {
    /// Labels that must be there with exactly this value.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub match_labels: BTreeMap<String, String>,
    /// Further requirements.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub match_expressions: Vec<Requirement>,
}

/// One requirement on one label.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = ("(has(self.values) && size(self.values) > 0) == (self.operator in ['In', 'NotIn'])", "values must be given for In and NotIn, and must not be given for Exists and DoesNotExist")
)]
pub struct Requirement {
    /// The label.
    #[schemars(length(min = 1, max = 317))]
    pub key: String,
    /// How its value is held against `values`.
    pub operator: Operator,
    /// The values, for `In` and `NotIn`.
    #[serde(default)]
    #[schemars(length(max = 64), inner(length(max = 63)))]
    pub values: Vec<String>,
}

/// How a label is held against values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Operator {
    /// The label is there with one of the values.
    In,
    /// The label is not there, or has none of the values.
    NotIn,
    /// The label is there.
    Exists,
    /// The label is not there.
    DoesNotExist,
}

/// Labels, however they are kept.
pub trait Labels {
    /// The value of a label, if it is there.
    fn value(&self, key: &str) -> Option<&str>;
}

impl Labels for BTreeMap<String, String> {
    fn value(&self, key: &str) -> Option<&str> {
        self.get(key).map(String::as_str)
    }
}

impl LabelSelector {
    /// Whether it has no requirement at all.
    pub fn is_empty(&self) -> bool {
        self.match_labels.is_empty() && self.match_expressions.is_empty()
    }

    /// Whether `labels` meet all requirements. False for a selector without any.
    pub fn matches(&self, labels: &impl Labels) -> bool {
        !self.is_empty()
            && self.match_labels.iter().all(|(key, value)| labels.value(key) == Some(value))
            && self.match_expressions.iter().all(|requirement| requirement.holds(labels))
    }
}

impl Requirement {
    fn holds(&self, labels: &impl Labels) -> bool {
        let value = labels.value(&self.key);
        let is_listed = |value: &str| self.values.iter().any(|listed| listed == value);
        match self.operator {
            Operator::In => value.is_some_and(is_listed),
            Operator::NotIn => !value.is_some_and(is_listed),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| (String::from(*key), String::from(*value))).collect()
    }

    fn selects(yaml: &str, pairs: &[(&str, &str)]) -> bool {
        serde_yaml::from_str::<LabelSelector>(yaml).unwrap().matches(&labels(pairs))
    }

    #[test]
    fn an_empty_selector_selects_nothing() {
        assert!(!selects("{}", &[("role", "access")]));
        assert!(!selects("{}", &[]));
    }

    #[test]
    fn all_requirements_must_hold() {
        let selector = "{matchLabels: {role: access}, matchExpressions: [{key: site, operator: In, values: [b, c]}]}";
        assert!(selects(selector, &[("role", "access"), ("site", "b")]));
        assert!(!selects(selector, &[("role", "access"), ("site", "a")]));
        assert!(!selects(selector, &[("role", "core"), ("site", "b")]));
        assert!(!selects(selector, &[("role", "access")]));
    }

    #[test]
    fn absence_is_what_not_in_and_does_not_exist_allow() {
        for operator in ["{operator: NotIn, key: held, values: [\"yes\"]}", "{operator: DoesNotExist, key: held}"] {
            let selector = format!("{{matchExpressions: [{operator}]}}");
            assert!(selects(&selector, &[("role", "access")]), "{operator}");
            assert!(!selects(&selector, &[("held", "yes")]), "{operator}");
        }
        assert!(selects("{matchExpressions: [{operator: Exists, key: held}]}", &[("held", "")]));
    }
}
