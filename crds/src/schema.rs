//! Values that the API spells in its own way, and the bounds that many fields share.

use std::fmt;
use std::str::FromStr;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSON, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// The longest name of an object that another names.
pub const NAME_MAX: u64 = 253;
/// The longest version or model: what a datum can carry.
pub const TEXT_MAX: u64 = 248;
/// The longest sentence in a status. Longer ones are cut.
pub const MESSAGE_MAX: usize = 1024;

/// A duration as Go writes it (`90s`, `1h30m`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Duration(pub std::time::Duration);

/// The text is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a duration: want numbers with units, such as 90s or 1h30m")]
pub struct ParseDurationError(String);

impl Duration {
    /// That many seconds.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(std::time::Duration::from_secs(seconds))
    }
}

impl FromStr for Duration {
    type Err = ParseDurationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseDurationError(text.to_owned());
        // Go allows a sign, and kube's reader nothing at all; neither is a length of time.
        if !text.starts_with(|c: char| c.is_ascii_digit()) || !text.ends_with(|c: char| c.is_ascii_lowercase()) {
            return Err(error());
        }
        text.parse::<kube::core::Duration>().map(|parsed| Self(parsed.into())).map_err(|_| error())
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, millis) = (self.0.as_secs(), self.0.subsec_millis());
        let (h, m, s) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        if h > 0 {
            write!(f, "{h}h")?;
        }
        if m > 0 {
            write!(f, "{m}m")?;
        }
        match (s, millis) {
            (0, 0) if h + m > 0 => Ok(()),
            (0, 1..) => write!(f, "{millis}ms"),
            (s, 0) => write!(f, "{s}s"),
            (s, millis) => write!(f, "{s}.{millis:03}s"),
        }
    }
}

impl Serialize for Duration {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

const DURATION_PATTERN: &str = "^([0-9]+(\\.[0-9]+)?(ms|s|m|h))+$";

/// A duration from one second up.
pub fn duration_from_1s(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "maxLength": 32,
        "pattern": DURATION_PATTERN,
        "x-kubernetes-validations": [{
            "rule": "duration(self) >= duration('1s') && duration(self) <= duration('720h')",
            "message": "must be a duration from 1s to 720h, such as 90s or 1h30m"
        }]
    })
}

/// A duration from nothing up.
pub fn duration_from_0s(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "maxLength": 32,
        "pattern": DURATION_PATTERN,
        "x-kubernetes-validations": [{
            "rule": "duration(self) <= duration('720h')",
            "message": "must be a duration from 0s to 720h, such as 90s or 1h30m"
        }]
    })
}

/// The name of a time zone.
pub fn time_zone(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "maxLength": 64,
        "pattern": "^[A-Z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*$"
    })
}

/// The name of a time zone, UTC where it is left out.
pub fn time_zone_or_utc(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = time_zone(generator);
    schema.insert("default".to_owned(), default_time_zone().into());
    schema
}

pub(crate) fn default_time_zone() -> String {
    "UTC".to_owned()
}

/// A date, or an instant as RFC 3339 has it.
pub fn date_or_instant(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "maxLength": 40,
        "x-kubernetes-validations": [{
            "rule": "self.matches('^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])(T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\\\.[0-9]+)?(Z|[+-][0-9]{2}:[0-9]{2}))?$')",
            "message": "must be a date such as 2026-12-20, or an instant such as 2026-12-20T18:00:00+01:00"
        }]
    })
}

/// A regular expression (RE2, ECMA 262) of the versions that an image may be installed over. The controller reads the same
/// texts and no others, which its tests hold against this.
pub const REQUIREMENT_PATTERN: &str = concat!(
    r"^ *(?:\*|(?:>=|<=|!=|[<>=])? *(?:[0-9]|[A-Za-z][A-Za-z._()/:-]*[0-9])[A-Za-z0-9._()/:+-]*)",
    r"(?: *(?:,|\|\|) *(?:\*|(?:>=|<=|!=|[<>=])? *(?:[0-9]|[A-Za-z][A-Za-z._()/:-]*[0-9])[A-Za-z0-9._()/:+-]*))* *$",
);

/// Versions that may be upgraded, such as `>=4.8.0, <6 || 3.9.1`.
pub fn requirement(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "minLength": 1,
        "maxLength": 256,
        "x-kubernetes-validations": [{
            "rule": format!("self.matches({REQUIREMENT_PATTERN:?})"),
            "message": "must compare versions, such as >=4.8.0 or >=4.8.0, <6 || 3.9.1"
        }]
    })
}

/// Limits by label, each label once.
pub fn spreads(generator: &mut SchemaGenerator) -> Schema {
    let item = generator.subschema_for::<crate::Spread>();
    json_schema!({
        "type": "array",
        "maxItems": 8,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["label"],
        "items": item
    })
}

/// A number of devices, or a percentage of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IntOrPercent {
    /// That many devices.
    Int(u32),
    /// 0–100 percent.
    Percent(u8),
}

impl IntOrPercent {
    /// How many of `total` that is; a percentage rounds down, and it is at least 1.
    pub fn of_rounded_down(self, total: usize) -> usize {
        match self {
            Self::Int(number) => number as usize,
            Self::Percent(percent) => total * usize::from(percent) / 100,
        }
        .max(1)
    }

    /// How many of `total` that is at most; a percentage rounds down, and it may be none.
    pub fn at_most_of(self, total: usize) -> usize {
        match self {
            Self::Int(number) => number as usize,
            Self::Percent(percent) => total * usize::from(percent) / 100,
        }
    }

    /// How many of `total` that is; a percentage rounds up, and it is never more than `total`.
    pub fn of_rounded_up(self, total: usize) -> usize {
        match self {
            Self::Int(number) => (number as usize).min(total),
            Self::Percent(percent) => (total * usize::from(percent)).div_ceil(100),
        }
    }
}

impl fmt::Display for IntOrPercent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(number) => number.fmt(f),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

impl Serialize for IntOrPercent {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Int(number) => serializer.serialize_u32(*number),
            Self::Percent(percent) => serializer.collect_str(&format_args!("{percent}%")),
        }
    }
}

impl<'de> Deserialize<'de> for IntOrPercent {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Raw {
            Int(u32),
            Text(String),
        }
        match Raw::deserialize(deserializer)? {
            Raw::Int(number) => Ok(Self::Int(number)),
            Raw::Text(text) => text
                .strip_suffix('%')
                .and_then(|number| number.parse().ok())
                .filter(|percent| *percent <= 100)
                .map(Self::Percent)
                .ok_or_else(|| serde::de::Error::custom("must be a number or a percentage up to 100%")),
        }
    }
}

impl JsonSchema for IntOrPercent {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "IntOrPercent".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true,
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "maxLength": 10,
            "x-kubernetes-validations": [{
                "rule": "type(self) == int ? self >= 1 && self <= 1000000 : self.matches('^(100|[1-9][0-9]?)%$')",
                "message": "must be a number from 1 up or a percentage from 1% to 100%"
            }]
        })
    }
}

/// A number of devices, or a percentage of a group, from nothing up.
pub fn int_or_percent_from_0(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "x-kubernetes-int-or-string": true,
        "anyOf": [{"type": "integer"}, {"type": "string"}],
        "maxLength": 10,
        "default": 0,
        "x-kubernetes-validations": [{
            "rule": "type(self) == int ? self >= 0 && self <= 1000000 : self.matches('^(100|[1-9]?[0-9])%$')",
            "message": "must be a number from 0 up or a percentage from 0% to 100%"
        }]
    })
}

/// Conditions, as a list that is merged by type.
pub fn conditions(generator: &mut SchemaGenerator) -> Schema {
    let item = generator.subschema_for::<k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition>();
    json_schema!({
        "type": "array",
        "maxItems": 16,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": item
    })
}

/// `text`, cut to what a status message may hold, at a character.
pub fn message(text: impl Into<String>) -> String {
    let mut text = text.into();
    if let Some((cut, _)) = text.char_indices().nth(MESSAGE_MAX - 1) {
        text.truncate(cut);
        text.push('…');
    }
    text
}

/// No object has this generation, so nothing that has it was looked at.
const NOT_LOOKED_AT: i64 = -1;

/// Takes out of a definition what schemars puts in and Kubernetes does not want: `nullable` on every optional field, as a
/// rule with `has()` would take a field that is `null` for one that is there; and formats of unsigned numbers, which the
/// API server warns of.
///
/// Puts in the status of an object that nobody has looked at yet. Without any, tools for GitOps (kstatus) would take it for one
/// that has no conditions, and hence for done: whoever waits right after applying would go on at once.
pub(crate) fn tidy(crd: &mut CustomResourceDefinition) {
    for version in &mut crd.spec.versions {
        if let Some(root) = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut()) {
            tidy_in(root);
            if let Some(status) = root.properties.as_mut().and_then(|properties| properties.get_mut("status")) {
                status.default = Some(JSON(serde_json::json!({"observedGeneration": NOT_LOOKED_AT})));
            }
        }
    }
}

fn tidy_in(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    schema.format.take_if(|format| format.starts_with("uint"));
    schema.properties.iter_mut().flat_map(|properties| properties.values_mut()).for_each(tidy_in);
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        tidy_in(items);
        say_defaults(items);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        tidy_in(values);
    }
}

/// Says defaults instead of having them put in, as in the items of a list: applied again without it, a list would differ from
/// what is there, as who applies it owns it as a whole. Whoever reads an item puts the default in.
fn say_defaults(schema: &mut JSONSchemaProps) {
    for property in schema.properties.iter_mut().flat_map(|properties| properties.values_mut()) {
        if let Some(JSON(serde_json::Value::String(default))) = property.default.take()
            && !default.is_empty()
        {
            let described = property.description.take().unwrap_or_default();
            property.description = Some(format!("{described} Where it is left out: `{default}`.").trim().to_owned());
        }
        say_defaults(property);
    }
}

/// File name and YAML of the definition of every kind.
///
/// # Errors
/// Where a definition cannot be written as YAML: a defect of ours.
pub fn documents() -> Result<Vec<(String, String)>, serde_yaml::Error> {
    let document = |crd: &CustomResourceDefinition| {
        let name = format!("{}.yaml", crd.spec.names.plural);
        let yaml = serde_yaml::to_string(crd)?;
        Ok((name, format!("# Generated from crds/src by crdgen. Do not edit.\n{yaml}")))
    };
    crate::all().iter().map(document).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written_as_go_writes_them() {
        for (text, seconds, written) in
            [("90s", 90, "1m30s"), ("1h30m", 5400, "1h30m"), ("0s", 0, "0s"), ("15m", 900, "15m"), ("61s", 61, "1m1s")]
        {
            let duration: Duration = text.parse().unwrap();
            assert_eq!(duration, Duration::from_secs(seconds));
            assert_eq!(duration.to_string(), written);
        }
        for text in ["", "90", "s", "-1s", "1d", "ten"] {
            assert!(text.parse::<Duration>().unwrap_err().to_string().contains("such as 90s"), "{text}");
        }
    }

    #[test]
    fn a_percentage_rounds_down_and_is_at_least_one() {
        assert_eq!(IntOrPercent::Percent(5).of_rounded_down(39), 1);
        assert_eq!(IntOrPercent::Percent(5).of_rounded_down(40), 2);
        assert_eq!(IntOrPercent::Percent(5).of_rounded_down(1), 1);
        assert_eq!(IntOrPercent::Int(7).of_rounded_down(3), 7);
    }

    #[test]
    fn a_budget_rounds_down_to_nothing_and_a_step_rounds_up_to_all() {
        assert_eq!(IntOrPercent::Percent(2).at_most_of(49), 0);
        assert_eq!(IntOrPercent::Percent(2).at_most_of(50), 1);
        assert_eq!(IntOrPercent::Percent(10).of_rounded_up(11), 2);
        assert_eq!(IntOrPercent::Percent(100).of_rounded_up(11), 11);
        assert_eq!(IntOrPercent::Int(20).of_rounded_up(11), 11);
        assert_eq!(IntOrPercent::Percent(10).of_rounded_up(0), 0);
    }

    #[test]
    fn a_long_message_is_cut_at_a_character() {
        let cut = message("ä".repeat(2000));
        assert_eq!(cut.chars().count(), MESSAGE_MAX);
        assert!(cut.ends_with('…'));
        assert_eq!(message("short"), "short");
    }
}
