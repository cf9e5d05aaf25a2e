//! What people watch Fettle with: alerts and dashboard of the chart, judged by Prometheus itself, which scrapes the real
//! programs through a rollout; and the page that says what each metric is.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use fettle_device::{DeviceSpec, Fault, FaultKind, Step};
use fettle_tests::installation::Bridge;
use fettle_tests::process::{Process, Spec};
use fettle_tests::{manifest, ports};
use serde_json::Value;

use crate::foreign;
use crate::world::{NEW, PATIENCE, World, strict};

fn monitoring(file: &str) -> PathBuf {
    manifest::chart().join("monitoring").join(file)
}

fn promtool(args: &[&str]) -> Result<String> {
    let output = Command::new(foreign::program("promtool")).args(args).output().context("promtool")?;
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.success() { Ok(said) } else { bail!("promtool {args:?}: {said}") }
}

/// The alerts of the chart.
fn alerts() -> Result<Vec<Value>> {
    let rules: Value = serde_yaml::from_str(&std::fs::read_to_string(monitoring("alerts.yaml"))?)?;
    let groups = rules["groups"].as_array().context("groups")?;
    Ok(groups.iter().flat_map(|group| group["rules"].as_array().cloned().unwrap_or_default()).collect())
}

/// The queries of the dashboard, each with the title of its panel.
fn queries() -> Result<Vec<(String, String)>> {
    let dashboard: Value = serde_json::from_str(&std::fs::read_to_string(monitoring("dashboard.json"))?)?;
    let panels = dashboard["panels"].as_array().context("panels")?;
    let of_panel = |panel: &Value| {
        let title = panel["title"].as_str().unwrap_or_default().to_owned();
        let targets = panel["targets"].as_array().cloned().unwrap_or_default();
        targets
            .into_iter()
            .map(move |target| (title.clone(), target["expr"].as_str().unwrap_or_default().to_owned()))
            .collect::<Vec<_>>()
    };
    Ok(panels.iter().flat_map(of_panel).collect())
}

#[test]
fn each_alert_speaks_when_it_should_and_says_where_to_read_on() -> Result<()> {
    let folder = tempfile::tempdir()?;
    for (file, name) in [
        (monitoring("alerts.yaml"), "alerts.yaml"),
        (Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/monitoring/alerts.yaml"), "tests.yaml"),
    ] {
        std::fs::copy(file, folder.path().join(name))?;
    }
    let tests = folder.path().join("tests.yaml");
    promtool(&["test", "rules", tests.to_str().context("a path")?])?;

    let tested = std::fs::read_to_string(tests)?;
    let operations = std::fs::read_to_string(manifest::chart().join("../../docs/operations.md"))?;
    for alert in alerts()? {
        let name = alert["alert"].as_str().context("a name")?;
        assert!(tested.contains(name), "{name} has no test");
        assert!(operations.contains(&format!("### {name}\n")), "docs/operations.md says nothing of {name}");
        let runbook = format!("docs/operations.md#{}", name.to_lowercase());
        assert_eq!(alert["annotations"]["runbook"], runbook.as_str(), "{name}");
        for annotation in ["summary", "description"] {
            assert!(alert["annotations"][annotation].is_string(), "{name} has no {annotation}");
        }
        assert!(["critical", "warning"].contains(&alert["labels"]["severity"].as_str().unwrap_or_default()), "{name}");
    }
    Ok(())
}

/// Prometheus, as Debian has it, which scrapes an installation every second.
struct Prometheus {
    url: String,
    _process: Process,
    _folder: tempfile::TempDir,
}

impl Prometheus {
    fn start(world: &World) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let namespace = &world.namespace.name;
        let bridges = world.fettle.bridges().iter().map(Bridge::program);
        let targets: String = std::iter::once(world.fettle.controller())
            .chain(bridges)
            .enumerate()
            .map(|(number, program)| {
                let address = program.metrics_address();
                format!("  - {{targets: ['{address}'], labels: {{namespace: {namespace}, pod: fettle-{number}}}}}\n")
            })
            .collect();
        let config = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: ['{}']\nscrape_configs:\n- job_name: fettle\n  static_configs:\n{targets}",
            monitoring("alerts.yaml").display()
        );
        let file = folder.path().join("prometheus.yaml");
        std::fs::write(&file, config)?;
        let port = ports::free()?;
        let process = Process::spawn(Spec {
            name: "prometheus".to_owned(),
            program: foreign::program("prometheus"),
            args: vec![
                format!("--config.file={}", file.display()),
                format!("--storage.tsdb.path={}", folder.path().join("data").display()),
                format!("--web.listen-address=127.0.0.1:{port}"),
            ],
            env: Vec::new(),
            log: world.fettle.folder().join("prometheus.log"),
            sweep: Some(folder.path().to_owned()),
        })?;
        Ok(Self { url: format!("http://127.0.0.1:{port}"), _process: process, _folder: folder })
    }

    /// What comes of a query: its samples.
    fn query(&self, expression: &str) -> Result<Vec<Value>> {
        let said = promtool(&["query", "instant", "--format=json", &self.url, expression])?;
        serde_json::from_str(said.trim()).with_context(|| said.clone())
    }

    /// Waits until a query has a sample.
    async fn until(&self, world: &World, expression: &str) -> Result<()> {
        let look = async || self.query(expression).is_ok_and(|samples| !samples.is_empty()).then_some(());
        world.namespace.eventually(&format!("Prometheus has {expression}"), PATIENCE, look).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dashboard_shows_a_rollout_and_the_alerts_speak_of_one_that_stops() -> Result<()> {
    let mut world = World::start("monitoring").await?;
    let prometheus = Prometheus::start(&world)?;
    let namespace = world.namespace.name.clone();
    prometheus.until(&world, "fettle_controller_leader == 1").await?;
    // What counts from zero is seen to grow only by who saw it at zero.
    prometheus.until(&world, "fettle_bridge_connections == 0").await?;

    world.firmware(NEW).await?;
    world.config("17", "hostname a").await?;
    world.declare("sw-away", strict(9).mac, "{role: access}").await?;
    world.device("sw-1", strict(1)).await?;
    world.connected("sw-1").await?;
    world
        .group(&[
            "firmware: {name: access-5.2.1}",
            "config: {name: access-17}",
            "rollout: {maxUnavailable: 100%, retries: 0}",
        ])
        .await?;
    prometheus.until(&world, r#"fettle_controller_devices{state="current"} == 1"#).await?;
    // One is taken there, one fails, one was never there: the group stops, and its alert is on its way.
    let bad = DeviceSpec { faults: vec![Fault::always(Step::Download3, FaultKind::FailDownload)], ..strict(2) };
    world.device("sw-2", bad).await?;
    prometheus
        .until(&world, r#"ALERTS{alertname="FettleFailureBudgetExceeded", alertstate="firing", group="access"}"#)
        .await?;
    prometheus.until(&world, r#"ALERTS{alertname="FettleRolloutStopped", group="access"}"#).await?;

    for (panel, query) in queries()? {
        let query = query.replace("$namespace", &namespace).replace("$__rate_interval", "5m").replace("$__range", "6h");
        prometheus.until(&world, &query).await.with_context(|| format!("the panel {panel:?}"))?;
    }
    for alert in alerts()? {
        prometheus.query(alert["expr"].as_str().unwrap_or_default()).with_context(|| alert["alert"].to_string())?;
    }
    told_in_the_documentation(&world).await
}

/// Every metric is in docs/metrics.md, with its type and its labels; and every one there is had from the programs.
async fn told_in_the_documentation(world: &World) -> Result<()> {
    let page = std::fs::read_to_string(manifest::chart().join("../../docs/metrics.md"))?;
    // | `name` | type | labels | …
    let documented: BTreeMap<&str, &str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` | "))
        .map(|(name, rest)| (name, rest.split(" |").next().unwrap_or_default()))
        .collect();
    let mut had: BTreeMap<String, String> = BTreeMap::new();
    let bridges = world.fettle.bridges().iter().map(Bridge::program);
    for program in std::iter::once(world.fettle.controller()).chain(bridges) {
        let metrics = program.metrics().await?;
        let types = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
        had.extend(types.map(|(name, kind)| (name.to_owned(), kind.to_owned())));
    }
    let had: BTreeMap<&str, &str> = had
        .iter()
        .map(|(name, kind)| (name.as_str(), kind.as_str()))
        .filter(|(name, _)| !name.starts_with("process_"))
        .collect();
    let names = |of: &BTreeMap<&str, &str>| of.keys().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    let (had_names, documented_names) = (names(&had), names(&documented));
    let lacking: Vec<_> = had_names.difference(&documented_names).collect();
    assert!(lacking.is_empty(), "docs/metrics.md says nothing of {lacking:?}");
    for (name, kind) in &had {
        assert_eq!(documented.get(name), Some(kind), "{name} is a {kind}");
    }
    // Those that have had no reason to be yet.
    let silent: Vec<_> = documented_names.difference(&had_names).collect();
    let of_chance = ["fettle_bridge_logs_put_total", "fettle_bridge_log_puts_failed_total"];
    let surplus: Vec<_> = silent.iter().filter(|name| !of_chance.contains(&name.as_str())).collect();
    assert!(surplus.is_empty(), "docs/metrics.md tells of {surplus:?}, which no program has");
    Ok(())
}
