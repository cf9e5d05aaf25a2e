//! The page on which people look fields up: each kind with all that its schema says, in tables.

use std::fmt::Write as _;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Map, Value};

const HEAD: &str = "\
# The API: fettle.dev/v1alpha1

Generated from the types in `crds/src`: do not edit. What the API server refuses is here with the sentence that it says.
`kubectl explain devicegroup.spec.rollout` tells the same. All kinds are namespaced, and answer to `kubectl get fettle`.
What a status means to people is in [operations.md](operations.md).

Durations are written as Go does (`90s`, `1h30m`), instants as RFC 3339 has them. A field that has a default need not be there;
lists and texts are bounded, and longer ones are refused.
";

/// The page.
///
/// # Errors
/// Where a definition is not what it should be: a defect of ours.
pub fn page(definitions: &[CustomResourceDefinition]) -> Result<String, serde_json::Error> {
    let mut page = HEAD.to_owned();
    for definition in definitions {
        let definition = serde_json::to_value(definition)?;
        kind(&mut page, &definition["spec"]);
    }
    Ok(page)
}

fn kind(page: &mut String, definition: &Value) {
    let names = &definition["names"];
    let short: Vec<&str> = texts(&names["shortNames"]).collect();
    let version = &definition["versions"][0];
    let schema = &version["schema"]["openAPIV3Schema"];
    let _ = write!(page, "\n## {}\n\n", names["kind"].as_str().unwrap_or_default());
    let description = schema["description"].as_str().unwrap_or_default();
    let _ = writeln!(
        page,
        "{} `kubectl get {}`, or `{}`.",
        sentence(description),
        names["plural"].as_str().unwrap_or_default(),
        short.join("`, `"),
    );
    for part in ["spec", "status"] {
        let part_schema = &schema["properties"][part];
        let Some(properties) = part_schema["properties"].as_object().filter(|properties| !properties.is_empty()) else {
            continue;
        };
        let _ = write!(page, "\n### {} {part}\n\n", names["kind"].as_str().unwrap_or_default());
        rules(page, part_schema);
        page.push_str("| field | type | what it is |\n|---|---|---|\n");
        fields(page, "", properties, part_schema);
    }
}

/// The rules of a whole part, as a list before its table.
fn rules(page: &mut String, schema: &Value) {
    let messages: Vec<&str> = messages(schema).collect();
    for message in &messages {
        let _ = writeln!(page, "- {message}");
    }
    if !messages.is_empty() {
        page.push('\n');
    }
}

fn fields(page: &mut String, path: &str, properties: &Map<String, Value>, parent: &Value) {
    let required: Vec<&str> = texts(&parent["required"]).collect();
    for (name, schema) in properties {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let must = if required.contains(&name.as_str()) { ", required" } else { "" };
        let mut words = sentence(schema["description"].as_str().unwrap_or_default());
        let (inner, suffix) = inner(schema);
        let of_items = if std::ptr::eq(inner, schema) { None } else { Some(inner) };
        for message in messages(schema).chain(of_items.into_iter().flat_map(messages)) {
            words += &format!(" Rule: {}", sentence(message));
        }
        let _ = writeln!(page, "| `{path}` | {}{must} | {} |", type_of(schema), cell(&words));
        // What conditions are made of is Kubernetes' business, and everybody knows it.
        if name == "conditions" {
            continue;
        }
        if let Some(properties) = inner["properties"].as_object() {
            fields(page, &format!("{path}{suffix}"), properties, inner);
        }
    }
}

/// What a field holds, within lists and maps; and how the path goes on into that.
fn inner(schema: &Value) -> (&Value, &'static str) {
    if schema["items"].is_object() {
        (&schema["items"], "[]")
    } else if schema["additionalProperties"].is_object() {
        (&schema["additionalProperties"], ".*")
    } else {
        (schema, "")
    }
}

fn type_of(schema: &Value) -> String {
    let mut text = match schema["type"].as_str() {
        _ if schema["x-kubernetes-int-or-string"] == true => "integer or text".to_owned(),
        Some("array") => format!("list of {}", type_of(&schema["items"])),
        Some("object") if schema["additionalProperties"].is_object() => {
            format!("map to {}", type_of(&schema["additionalProperties"]))
        }
        Some("string") if schema["format"] == "date-time" => "instant".to_owned(),
        Some("string") => "text".to_owned(),
        Some(other) => other.to_owned(),
        None => "any".to_owned(),
    };
    if let Some(values) = schema["enum"].as_array() {
        let values: Vec<String> = values.iter().filter_map(Value::as_str).map(|value| format!("`{value}`")).collect();
        text = values.join(", ");
    }
    match (schema["minimum"].as_f64(), schema["maximum"].as_f64()) {
        (Some(low), Some(high)) => text += &format!(" from {low} to {high}"),
        (Some(low), None) => text += &format!(" from {low}"),
        (None, Some(high)) => text += &format!(" up to {high}"),
        (None, None) => {}
    }
    for (bound, unit) in [("maxLength", "characters"), ("maxItems", "items"), ("maxProperties", "entries")] {
        if let Some(most) = schema[bound].as_u64() {
            text += &format!(", at most {most} {unit}");
        }
    }
    if schema["default"].is_string() || schema["default"].is_number() || schema["default"].is_boolean() {
        text += &format!(", default `{}`", schema["default"].to_string().trim_matches('"'));
    }
    text
}

/// The sentences with which the API server refuses what breaks a rule.
fn messages(schema: &Value) -> impl Iterator<Item = &str> {
    let rules = schema["x-kubernetes-validations"].as_array().map(Vec::as_slice).unwrap_or_default();
    rules.iter().filter_map(|rule| rule["message"].as_str())
}

fn texts(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array().map(Vec::as_slice).unwrap_or_default().iter().filter_map(Value::as_str)
}

fn sentence(text: &str) -> String {
    let text = text.trim();
    if text.is_empty() || text.ends_with(['.', '?', '!']) { text.to_owned() } else { format!("{text}.") }
}

/// A text that stays in its cell.
fn cell(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}
