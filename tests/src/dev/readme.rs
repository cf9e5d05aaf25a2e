//! The chart's README, made of the comments and defaults of its `values.yaml`, so that they are said once.

use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{manifest, say};

const HEAD: &str = "\
# The chart of Fettle

Keeps fleets of network devices on the firmware and the configuration that are declared in Kubernetes. `docs/install.md` says how the
image is made, how devices outside of the cluster reach what they are told, and what belongs to the whole cluster.

```sh
helm install fettle charts/fettle --namespace fettle --create-namespace --wait
```

What is written wrongly is refused, by its name: `values.schema.json`. `ci/` has values for common places.

## Values

Generated from `values.yaml` by `make generate`. Do not edit.

| value | default | |
|---|---|---|
";

/// Writes it.
pub fn write() -> Result<ExitCode> {
    let path = manifest::chart().join("README.md");
    fs::write(&path, text()?).with_context(|| format!("cannot write {}", path.display()))?;
    say!("{}", path.display());
    Ok(ExitCode::SUCCESS)
}

/// What it says.
pub fn text() -> Result<String> {
    let values = fs::read_to_string(manifest::chart().join("values.yaml"))?;
    let mut text = HEAD.to_owned();
    for Row { path, default, comment } in rows(&values)? {
        let default = default.map(|default| format!("`{default}`")).unwrap_or_default();
        text.push_str(&format!("| `{path}` | {default} | {} |\n", comment.replace('|', "\\|")));
    }
    Ok(text)
}

/// A value, or a group of them that a comment speaks of.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    path: String,
    /// None of a group.
    default: Option<String>,
    comment: String,
}

/// Comments above a value and behind it are about it.
fn rows(yaml: &str) -> Result<Vec<Row>> {
    let values = manifest::parse(yaml)?.into_iter().next().context("no values")?;
    let mut rows = Vec::new();
    let mut above: Vec<&str> = Vec::new();
    let mut parents: Vec<(usize, String)> = Vec::new();
    for line in yaml.lines() {
        let content = line.trim_start();
        let indent = line.len() - content.len();
        if let Some(comment) = content.strip_prefix('#') {
            above.push(comment.trim());
            continue;
        }
        let key =
            content.split_once(':').map(|(key, _)| key).filter(|key| key.bytes().all(|b| b.is_ascii_alphanumeric()));
        let Some(key) = key.filter(|key| !key.is_empty()) else {
            above.clear();
            continue;
        };
        parents.retain(|(of, _)| *of < indent);
        parents.push((indent, key.to_owned()));
        let names: Vec<&str> = parents.iter().map(|(_, name)| name.as_str()).collect();
        let value = names.iter().fold(&values, |value, name| &value[*name]);
        above.extend(behind(content));
        let comment = above.join(" ");
        above.clear();
        let default = match value {
            // on lines of their own
            Value::Object(map) if !map.is_empty() && !content.contains('{') => None,
            value => Some(serde_json::to_string(value)?),
        };
        if default.is_some() || !comment.is_empty() {
            rows.push(Row { path: names.join("."), default, comment });
        }
    }
    Ok(rows)
}

/// The comment at the end of a line; what is in quotes is none.
fn behind(line: &str) -> Option<&str> {
    let mut quoted = false;
    let mut before = ' ';
    for (at, c) in line.char_indices() {
        match c {
            '"' => quoted = !quoted,
            '#' if !quoted && before == ' ' => return Some(line[at + 1..].trim()),
            _ => {}
        }
        before = c;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_has_its_default_and_the_comments_above_and_behind_it() {
        let yaml = "# About a.\na:\n  # Two\n  # lines.\n  b: \"x # y\"   # and one\n  c: {d: 1}\n\n# Of nobody.\n\ne: []\nf:\n- {g: 1}\n";
        let row = |path: &str, default: Option<&str>, comment: &str| Row {
            path: path.to_owned(),
            default: default.map(str::to_owned),
            comment: comment.to_owned(),
        };
        let expected = [
            row("a", None, "About a."),
            row("a.b", Some("\"x # y\""), "Two lines. and one"),
            row("a.c", Some("{\"d\":1}"), ""),
            row("e", Some("[]"), ""),
            row("f", Some("[{\"g\":1}]"), ""),
        ];
        assert_eq!(rows(yaml).unwrap(), expected);
    }
}
