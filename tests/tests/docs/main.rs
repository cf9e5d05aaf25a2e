//! Every command block of the documents is run, every manifest in them shown to the API server, and no page is left out.
//!
//! A page runs as one shell, block after block, in a folder that looks as the repository's does (`script.rs`); `page.rs` has
//! what its author can say of a block. Pages that stand on the same things share a place, in the order of the lists here.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use fettle_tests::ControlPlane;

use page::{Block, Language, Mark, Page};
use script::Place;

mod manifests;
mod page;
mod script;
mod servers;

/// On what `examples/README.md` has started, in this order.
const FLEET: &[&str] = &[
    "examples/README.md",
    "docs/configuration.md",
    "docs/logs.md",
    "docs/operations.md",
    "docs/kubectl-fettle.md",
    // the last: it ends what is up
    "README.md",
];

/// From nothing, and then on what that has brought.
const FIRST: &[&str] = &["docs/first-fleet.md", "docs/enrolment.md", "docs/rollouts.md"];

/// On a control plane without anything of ours, and then with the chart that the first of them installs.
const CHART: &[&str] = &[
    "charts/fettle/README.md",
    "docs/install.md",
    "docs/sources.md",
    "gitops/README.md",
    "docs/logs.md",
    "docs/enrolment.md",
    "docs/security.md",
    "docs/sizing.md",
    // the last: it takes away what is installed
    "docs/upgrading.md",
];

/// What is not run from the page, and what sees to it.
const ELSEWHERE: &[(&str, &str)] = &[
    ("demo", "`make demo` is run by tests/local.rs; `make test` is what runs this"),
    ("node", "tests/harness.rs starts and ends the node; tests/cluster installs the chart and the image on it"),
    (
        "images",
        "an optimised build of everything takes minutes; tests/image.rs makes an image of the programs that there are",
    ),
    ("flux", "no Flux is there; tests/e2e/flux.rs lets Flux' own controller do what this says"),
    ("plugin", "an optimised build of it takes minutes; these pages run the plugin that the other tests use"),
    (
        "registry",
        "neither oras nor a registry with a name is here; tests/e2e/sources.rs puts such an artifact into Debian's registry",
    ),
];

fn named<'a>(pages: &'a [Page], names: &[&str]) -> Result<Vec<&'a Page>> {
    let find = |name: &&str| pages.iter().find(|page| page.path == *name).with_context(|| format!("no page {name}"));
    names.iter().map(find).collect()
}

fn is_run(block: &Block) -> bool {
    matches!(block.language, Language::Shell | Language::Console)
}

fn on_chart(block: &Block) -> bool {
    is_run(block) && block.mark == Mark::OnChart
}

#[test]
fn every_page_with_commands_is_run_and_nothing_is_left_out_for_a_reason_that_is_not_listed() -> Result<()> {
    let pages = page::all()?;
    let run: BTreeSet<&str> = [FIRST, FLEET, CHART].concat().into_iter().collect();
    for page in pages.iter().filter(|page| page.blocks.iter().any(is_run)) {
        ensure!(run.contains(page.path.as_str()), "nothing runs the commands of {}", page.path);
    }
    let blocks: Vec<&Block> = pages.iter().flat_map(|page| &page.blocks).collect();
    let mut used = BTreeSet::new();
    for block in &blocks {
        match &block.mark {
            Mark::Elsewhere(key) => {
                ensure!(ELSEWHERE.iter().any(|(known, _)| known == key), "{}: no reason `{key}` is listed", block.at);
                used.insert(key.as_str());
            }
            Mark::Within(_) | Mark::Values => ensure!(block.language == Language::Yaml, "{}: not YAML", block.at),
            Mark::Of(_) => ensure!(block.language == Language::Configuration, "{}: no configuration", block.at),
            Mark::Background | Mark::Until(_) | Mark::Each(_) | Mark::OnChart => {
                ensure!(is_run(block), "{}: not a command", block.at);
            }
            Mark::Plain => ensure!(block.language != Language::Configuration, "{}: of which program?", block.at),
        }
    }
    let unused: Vec<&str> = ELSEWHERE.iter().map(|(key, _)| *key).filter(|key| !used.contains(key)).collect();
    ensure!(unused.is_empty(), "nobody needs the reasons {unused:?}");
    Ok(())
}

#[tokio::test]
async fn the_pages_for_the_first_ten_minutes_say_what_works() -> Result<()> {
    let pages = page::all()?;
    let here = |block: &Block| is_run(block) && !on_chart(block);
    Place::new(None)?.run(&named(&pages, FIRST)?, here).await
}

#[tokio::test]
async fn the_pages_on_a_fleet_say_what_works() -> Result<()> {
    let pages = page::all()?;
    let here = |block: &Block| is_run(block) && !on_chart(block);
    Place::new(None)?.run(&named(&pages, FLEET)?, here).await
}

#[tokio::test]
async fn the_pages_on_the_chart_say_what_works() -> Result<()> {
    let pages = page::all()?;
    let control_plane = ControlPlane::start().await?;
    let of_a_fleet = [FIRST, FLEET].concat();
    let here = |block: &Block| {
        let page = block.at.split(':').next().unwrap_or_default();
        is_run(block) && (on_chart(block) || !of_a_fleet.contains(&page))
    };
    Place::new(Some(control_plane.kubeconfig()))?.run(&named(&pages, CHART)?, here).await
}

#[test]
fn the_configurations_of_servers_on_the_pages_are_taken_and_say_the_same() -> Result<()> {
    servers::are_taken(&page::all()?)
}

#[tokio::test]
async fn the_manifests_on_the_pages_are_accepted() -> Result<()> {
    let pages = page::all()?;
    let namespace = ControlPlane::shared().await?.namespace("pages").await?;
    manifests::are_accepted(&pages, &namespace).await
}
