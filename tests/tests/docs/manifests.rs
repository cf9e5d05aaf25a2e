//! The YAML of the pages, which the API server has to take.

use anyhow::{Context, Result, bail, ensure};
use fettle_tests::{TestNamespace, manifest};
use serde_json::{Map, Value, json};

use crate::page::{Block, Language, Mark, Page};

/// Shows the API server every manifest of the pages, and every part of one within a manifest that is whole.
pub async fn are_accepted(pages: &[Page], namespace: &TestNamespace) -> Result<()> {
    let mut seen = Vec::new();
    for block in pages.iter().flat_map(|page| &page.blocks).filter(|block| block.language == Language::Yaml) {
        let manifests = match &block.mark {
            Mark::Plain => manifest::parse(&block.text),
            Mark::Within(place) => completed(place, &block.text).map(|whole| vec![whole]),
            Mark::Values => {
                values(namespace, block).await.with_context(|| block.at.clone())?;
                continue;
            }
            Mark::Elsewhere(_) => continue,
            other => bail!("{}: {other:?} is nothing for YAML", block.at),
        };
        seen.push((block, manifests.with_context(|| block.at.clone())?));
    }
    let all: Vec<&Value> = seen.iter().flat_map(|(_, manifests)| manifests).collect();
    let dry_run = async |manifests: &[&Value]| {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": manifests});
        namespace.kubectl_with_input(&["apply", "--dry-run=server", "-f", "-"], &list.to_string()).await
    };
    let Err(error) = dry_run(&all).await else { return Ok(()) };
    // one by one, to say which
    for (block, manifests) in &seen {
        dry_run(&manifests.iter().collect::<Vec<_>>()).await.with_context(|| block.at.clone())?;
    }
    Err(error)
}

/// The least manifest of a kind, with the part at its place.
fn completed(place: &str, part: &str) -> Result<Value> {
    let (kind, path) = place.split_once('.').unwrap_or((place, ""));
    let spec = match kind {
        "Firmware" => json!({"version": "1", "images": [
            {"models": ["S5700"], "source": {"file": {"path": "a.bin"}}, "sha256": "0".repeat(64)}
        ]}),
        "ConfigProfile" => json!({"version": "1"}),
        "DeviceGroup" => json!({"selector": {"matchLabels": {"role": "access"}}, "firmware": {"name": "access-5.2.1"}}),
        "Device" => json!({"mac": "02:00:5e:00:53:01"}),
        other => bail!("no manifest of a {other} is known here"),
    };
    let mut whole =
        json!({"apiVersion": "fettle.dev/v1alpha1", "kind": kind, "metadata": {"name": "part"}, "spec": spec});
    let mut at = &mut whole;
    for step in path.split('.').filter(|step| !step.is_empty()) {
        at = match step.parse::<usize>() {
            Ok(index) => at.get_mut(index).context("no such item")?,
            Err(_) => at.as_object_mut().context("not an object")?.entry(step).or_insert_with(|| json!({})),
        };
    }
    let mut parts = manifest::parse(part)?;
    let (Some(Value::Object(part)), true) = (parts.pop(), parts.is_empty()) else { bail!("not one mapping") };
    lay(at, part);
    Ok(whole)
}

/// Keys of `spec` and `metadata` one by one, all others whole.
fn lay(at: &mut Value, part: Map<String, Value>) {
    for (key, value) in part {
        match value {
            Value::Object(inner) if key == "spec" || key == "metadata" => lay(&mut at[&key], inner),
            value => at[&key] = value,
        }
    }
}

async fn values(namespace: &TestNamespace, block: &Block) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("values.yaml");
    std::fs::write(&file, &block.text)?;
    let (chart, file) = (manifest::chart().display().to_string(), file.display().to_string());
    let rendered = namespace.control_plane().helm(&["template", "fettle", &chart, "--values", &file]).await?;
    ensure!(rendered.contains("kind: StatefulSet"), "the chart renders no bridge with it");
    Ok(())
}
