//! Manifests held against the schema of their kind, as the API server holds them: types, bounds, patterns, names that are
//! not there, and the rules in CEL. Pure.
//!
//! This knows the part of JSON schema that the definitions in `fettle-crds` use, and refuses to guess: a test sees to it
//! that they use no other.

use std::collections::BTreeMap;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube_cel::Validator;
use regex::Regex;
use serde_json::{Map, Value};

/// What is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// `spec.rollout.steps[0].devices`
    pub path: String,
    pub message: String,
}

/// The schemas of all kinds.
pub struct Schemas {
    by_kind: BTreeMap<String, Schema>,
}

/// The schema of a kind.
struct Schema {
    whole: Value,
    /// Without the rules of what is a number or a string, which [`check`] looks at by itself.
    for_rules: Value,
}

/// The keywords of a schema that are looked at here, or that say nothing of what may stand in a manifest.
pub const KEYWORDS: [&str; 25] = [
    "title",
    "type",
    "properties",
    "additionalProperties",
    "items",
    "required",
    "enum",
    "pattern",
    "format",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "maxProperties",
    "anyOf",
    "default",
    "description",
    "nullable",
    "x-kubernetes-int-or-string",
    "x-kubernetes-validations",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-map-type",
];

impl Schemas {
    /// Of the API that this plugin was built with.
    pub fn ours() -> Self {
        let schema = |definition: &CustomResourceDefinition| {
            let version = definition.spec.versions.first()?;
            let schema = version.schema.as_ref()?.open_api_v3_schema.as_ref()?;
            let whole = serde_json::to_value(schema).ok()?;
            let mut for_rules = whole.clone();
            take_out_typed(&mut for_rules);
            Some((definition.spec.names.kind.clone(), Schema { whole, for_rules }))
        };
        Self { by_kind: fettle_crds::all().iter().filter_map(schema).collect() }
    }

    pub fn iter(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.by_kind.iter().map(|(kind, schema)| (kind, &schema.whole))
    }

    /// What the API server would say of a manifest of a kind. A status is not a person's, and is not looked at.
    pub fn check(&self, kind: &str, manifest: &Value) -> Vec<Fault> {
        let Some(schema) = self.by_kind.get(kind) else { return Vec::new() };
        let mut manifest = manifest.clone();
        if let Some(object) = manifest.as_object_mut() {
            object.remove("status");
        }
        take_out_nulls(&mut manifest);
        let mut faults = Vec::new();
        if let Some(object) = manifest.as_object() {
            let known = ["apiVersion", "kind", "metadata", "spec"];
            for key in object.keys().filter(|key| !known.contains(&key.as_str())) {
                fault(&mut faults, key, "there is no such field");
            }
            if manifest.pointer("/metadata/name").and_then(Value::as_str).is_none_or(str::is_empty) {
                fault(&mut faults, "metadata.name", "is missing");
            }
        }
        match (manifest.get("spec"), schema.whole.pointer("/properties/spec")) {
            (Some(spec), Some(schema)) => check(&mut faults, "spec", schema, spec),
            _ => fault(&mut faults, "spec", "is missing"),
        }
        // The API server looks at rules only where the rest is right.
        if faults.is_empty()
            && let Err(errors) = Validator::new().validate(&schema.for_rules, &manifest, None)
        {
            faults.extend(
                errors.into_vec().into_iter().map(|error| Fault { path: error.field_path, message: error.message }),
            );
        }
        faults
    }
}

/// What is null is not there, before defaults are set: so the API server has it for fields that are not nullable.
fn take_out_nulls(value: &mut Value) {
    match value {
        Value::Object(object) => {
            object.retain(|_, value| !value.is_null());
            object.values_mut().for_each(take_out_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(take_out_nulls),
        _ => {}
    }
}

/// Takes the rules out of what is a number or a string: they ask for its type, which the library has no word for.
fn take_out_typed(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            if object.get(INT_OR_STRING) == Some(&Value::Bool(true)) {
                object.remove(RULES);
            }
            object.values_mut().for_each(take_out_typed);
        }
        Value::Array(items) => items.iter_mut().for_each(take_out_typed),
        _ => {}
    }
}

/// Looks at a rule of what is a number or a string, of the form `type(self) == int ? … : …`: at the half that is about it.
fn check_typed(faults: &mut Vec<Fault>, path: &str, schema: &Value, value: &Value) {
    for rule in schema.get(RULES).and_then(Value::as_array).into_iter().flatten() {
        let text = rule.get("rule").and_then(Value::as_str).unwrap_or_default();
        let halves = text.strip_prefix("type(self) == int ? ").and_then(|rest| rest.split_once(" : "));
        let Some((of_number, of_string)) = halves else { continue };
        let (type_, half) = if value.is_number() { ("integer", of_number) } else { ("string", of_string) };
        let mut rule = rule.clone();
        rule["rule"] = half.into();
        let schema = serde_json::json!({"type": type_, RULES: [rule]});
        if let Err(errors) = Validator::new().validate(&schema, value, None) {
            errors.into_vec().into_iter().for_each(|error| fault(faults, path, error.message));
        }
    }
}

const INT_OR_STRING: &str = "x-kubernetes-int-or-string";
const RULES: &str = "x-kubernetes-validations";

fn fault(faults: &mut Vec<Fault>, path: &str, message: impl Into<String>) {
    faults.push(Fault { path: path.to_owned(), message: message.into() });
}

fn check(faults: &mut Vec<Fault>, path: &str, schema: &Value, value: &Value) {
    if value.is_null() && schema.get("nullable") == Some(&Value::Bool(true)) {
        return;
    }
    let int_or_string = schema.get(INT_OR_STRING) == Some(&Value::Bool(true));
    match (schema.get("type").and_then(Value::as_str), value) {
        (_, Value::Number(_) | Value::String(_)) if int_or_string => check_typed(faults, path, schema, value),
        (Some("object") | None, Value::Object(object)) => check_object(faults, path, schema, object),
        (Some("array"), Value::Array(items)) => check_items(faults, path, schema, items),
        (Some("string"), Value::String(_)) | (Some("boolean"), Value::Bool(_)) | (Some("number"), Value::Number(_)) => {
        }
        (Some("integer"), Value::Number(number)) if number.is_i64() || number.is_u64() => {}
        (None, _) if !int_or_string => {}
        (wanted, found) => {
            let wanted = if int_or_string { "number or string" } else { wanted.unwrap_or("object") };
            let hint = match found {
                // YAML reads 5.2 and `on` otherwise than people do.
                Value::Number(_) | Value::Bool(_) if wanted == "string" => ": put it in quotes",
                _ => "",
            };
            let article = if wanted.starts_with(['a', 'i', 'o']) { "an" } else { "a" };
            return fault(faults, path, format!("must be {article} {wanted}, and is {}{hint}", name(found)));
        }
    }
    match value {
        Value::String(text) => check_text(faults, path, schema, text),
        Value::Number(number) => {
            let number = number.as_f64().unwrap_or_default();
            let bound = |key: &str| schema.get(key).and_then(Value::as_f64);
            if let Some(least) = bound("minimum").filter(|least| number < *least) {
                fault(faults, path, format!("must be {least} at least"));
            }
            if let Some(most) = bound("maximum").filter(|most| number > *most) {
                fault(faults, path, format!("must be {most} at most"));
            }
        }
        _ => {}
    }
    if let Some(allowed) = schema.get("enum").and_then(Value::as_array)
        && !allowed.contains(value)
    {
        let allowed: Vec<String> = allowed.iter().filter_map(Value::as_str).map(str::to_owned).collect();
        fault(faults, path, format!("must be one of {}", allowed.join(", ")));
    }
}

fn name(value: &Value) -> &'static str {
    match value {
        Value::Null => "empty",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "a map",
    }
}

fn check_object(faults: &mut Vec<Fault>, path: &str, schema: &Value, object: &Map<String, Value>) {
    let properties = schema.get("properties").and_then(Value::as_object);
    for key in schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
        if !object.contains_key(key) {
            fault(faults, &format!("{path}.{key}"), "is missing");
        }
    }
    let others = schema.get("additionalProperties");
    for (key, value) in object {
        let path = format!("{path}.{key}");
        match (properties.and_then(|properties| properties.get(key)), others) {
            (Some(schema), _) => check(faults, &path, schema, value),
            (None, Some(schema)) if schema.is_object() => check(faults, &path, schema, value),
            (None, _) if properties.is_some() => fault(faults, &path, no_such_field(properties, key)),
            (None, _) => {}
        }
    }
    at_most(faults, path, schema, "maxProperties", object.len());
}

/// With the field that was perhaps meant.
fn no_such_field(properties: Option<&Map<String, Value>>, key: &str) -> String {
    let plain = |text: &str| text.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase();
    let meant = properties.into_iter().flat_map(Map::keys).find(|known| {
        let (known, key) = (plain(known), plain(key));
        known == key || known.strip_suffix('s') == Some(&key) || key.strip_suffix('s') == Some(&known)
    });
    match meant {
        Some(meant) => format!("there is no such field: {meant} is"),
        None => "there is no such field".to_owned(),
    }
}

fn check_items(faults: &mut Vec<Fault>, path: &str, schema: &Value, items: &[Value]) {
    if let Some(least) = schema.get("minItems").and_then(Value::as_u64).filter(|least| (items.len() as u64) < *least) {
        fault(faults, path, format!("must have {least} entries at least"));
    }
    at_most(faults, path, schema, "maxItems", items.len());
    if let Some(schema) = schema.get("items") {
        for (index, item) in items.iter().enumerate() {
            check(faults, &format!("{path}[{index}]"), schema, item);
        }
    }
    let keys = schema.get("x-kubernetes-list-map-keys").and_then(Value::as_array).into_iter().flatten();
    let keys: Vec<&str> = keys.filter_map(Value::as_str).collect();
    if !keys.is_empty() {
        let mut seen: Vec<Vec<&Value>> = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let key: Vec<&Value> = keys.iter().filter_map(|key| item.get(*key)).collect();
            if seen.contains(&key) {
                fault(faults, &format!("{path}[{index}]"), format!("has the {} of another entry", keys.join(", ")));
            }
            seen.push(key);
        }
    }
}

fn check_text(faults: &mut Vec<Fault>, path: &str, schema: &Value, text: &str) {
    let length = text.chars().count();
    if schema.get("minLength").and_then(Value::as_u64).is_some_and(|least| (length as u64) < least) {
        fault(faults, path, "must not be empty");
    }
    at_most(faults, path, schema, "maxLength", length);
    if let Some(pattern) = schema.get("pattern").and_then(Value::as_str)
        && Regex::new(pattern).is_ok_and(|regex| !regex.is_match(text))
    {
        fault(faults, path, format!("{text:?} must match {pattern}"));
    }
    if schema.get("format").and_then(Value::as_str) == Some("date-time") && text.parse::<jiff::Timestamp>().is_err() {
        fault(faults, path, format!("{text:?} must be an instant such as 2026-11-21T02:00:00Z"));
    }
}

fn at_most(faults: &mut Vec<Fault>, path: &str, schema: &Value, key: &str, found: usize) {
    if let Some(most) = schema.get(key).and_then(Value::as_u64).filter(|most| found as u64 > *most) {
        let what = if key == "maxLength" { "characters" } else { "entries" };
        fault(faults, path, format!("must have {most} {what} at most, and has {found}"));
    }
}
