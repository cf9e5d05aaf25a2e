//! The words of the plugin: every command line that people are shown is one, kubectl completes them, and krew's manifest has
//! what krew demands.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};

use clap::{CommandFactory, Parser};
use kubectl_fettle::args::Args;
use kubectl_fettle::complete::{Candidates, candidates};
use regex::Regex;
use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The command lines of the plugin in a text: what stands after `kubectl fettle`, up to a comment, a pipe or a redirection.
fn lines(text: &str) -> Vec<String> {
    let commands = text.lines().flat_map(|line| line.split('|')).flat_map(|part| part.split("&&"));
    let commands = commands.map(|command| command.trim().trim_start_matches("$ ").trim_start_matches("xargs -n1 "));
    let ours = commands.filter_map(|command| command.strip_prefix("kubectl fettle"));
    let ends = |command: &str| command.split(['#', '>']).next().unwrap_or_default().trim().to_owned();
    ours.map(ends).filter(|command| !command.is_empty()).collect()
}

#[track_caller]
fn is_understood(line: &str) {
    let words = std::iter::once("kubectl-fettle").chain(line.split_whitespace());
    match Args::try_parse_from(words) {
        Ok(_) => {}
        Err(error) if !error.use_stderr() => {}
        // At the end of a pipe it gets its last word.
        Err(error) if line == "retry" => drop(error),
        Err(error) => panic!("kubectl fettle {line}: {error}"),
    }
}

/// What is in the blocks of a page that are for a shell.
fn blocks(page: &str) -> String {
    let mut blocks = String::new();
    let mut inside = false;
    for line in page.lines() {
        match line {
            "```sh" => inside = true,
            "```" => inside = false,
            _ if inside => blocks.push_str(&format!("{line}\n")),
            _ => {}
        }
    }
    blocks
}

#[test]
fn every_command_in_the_documents_is_one() {
    let mut seen = 0;
    for page in ["docs/kubectl-fettle.md", "README.md", "docs/logs.md", "examples/README.md"] {
        let page = std::fs::read_to_string(root().join(page)).unwrap();
        let lines = lines(&blocks(&page));
        lines.iter().for_each(|line| is_understood(line));
        seen += lines.len();
    }
    assert!(seen > 30, "only {seen} were found");
}

#[test]
fn every_command_is_documented_and_has_examples_that_are_commands() {
    let page = std::fs::read_to_string(root().join("docs/kubectl-fettle.md")).unwrap();
    let documented = lines(&blocks(&page));
    let command = Args::command();
    for subcommand in command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set()) {
        let name = subcommand.get_name();
        assert!(documented.iter().any(|line| line.split(' ').next() == Some(name)), "{name} is not in the document");
        let examples = subcommand.get_after_help().unwrap_or_else(|| panic!("{name} has no examples")).to_string();
        let examples = lines(&examples);
        assert!(!examples.is_empty(), "{name} has no examples");
        examples.iter().for_each(|line| is_understood(line));
        assert!(subcommand.get_about().is_some(), "{name} does not say what it does");
    }
    Args::command().debug_assert();
}

#[test]
fn kubectl_is_told_what_a_word_may_be() {
    let of = |line: &str| candidates(&line.split(' ').map(str::to_owned).collect::<Vec<_>>());
    let these = |line: &str| match of(line) {
        Candidates::These(these) => these,
        other => panic!("{line}: {other:?}"),
    };
    assert!(these("").contains(&"approve".to_owned()) && !these("").contains(&"__complete".to_owned()));
    assert!(these("get --").contains(&"--watch".to_owned()) && these("get --").contains(&"--namespace".to_owned()));
    assert_eq!(these("get -o "), ["json", "yaml"]);
    assert_eq!(these("completion ").first().map(String::as_str), Some("kubectl"));
    assert_eq!(of("get "), Candidates::Groups);
    assert_eq!(of("-n fleet status "), Candidates::Groups);
    assert_eq!(of("devices --group "), Candidates::Groups);
    assert_eq!(of("devices --state failed "), Candidates::Devices);
    assert_eq!(of("retry "), Candidates::Either);
    assert_eq!(of("plan -f "), Candidates::Files);
    assert_eq!(of("get -w "), Candidates::Groups);
}

#[test]
fn the_manifest_for_krew_has_what_krew_demands() {
    let manifest: Value = serde_yaml::from_str(include_str!("../krew.yaml")).unwrap();
    let text = |path: &str| manifest.pointer(path).and_then(Value::as_str).unwrap_or_else(|| panic!("no {path}"));
    let matches = |pattern: &str, text: &str| assert!(Regex::new(pattern).unwrap().is_match(text), "{text}: {pattern}");
    assert_eq!(text("/apiVersion"), "krew.googlecontainertools.github.com/v1alpha2");
    assert_eq!(text("/kind"), "Plugin");
    matches("^[a-z0-9-]+$", text("/metadata/name"));
    assert_eq!(text("/spec/version"), format!("v{}", env!("CARGO_PKG_VERSION")));
    matches("^https://", text("/spec/homepage"));
    // krew's guide: no longer than 50 characters, in one line, and without the name of the tool that it is in.
    let short = text("/spec/shortDescription");
    assert!(short.len() <= 50 && !short.contains("kubectl") && !short.ends_with('.'), "{short}");
    assert!(!text("/spec/description").is_empty());
    let platforms = manifest["spec"]["platforms"].as_array().unwrap();
    assert!(!platforms.is_empty());
    let mut selected = Vec::new();
    for platform in platforms {
        let of = |key: &str| platform[key].as_str().unwrap_or_else(|| panic!("a platform has no {key}"));
        let labels = platform["selector"]["matchLabels"].as_object().unwrap();
        assert!(labels.keys().all(|key| key == "os" || key == "arch"), "{labels:?}");
        assert!(!selected.contains(&labels), "{labels:?} stands there twice");
        selected.push(labels);
        matches("^https://.*v\\d+\\.\\d+\\.\\d+.*\\.(tar\\.gz|zip)$", of("uri"));
        matches("^[0-9a-f]{64}$", of("sha256"));
        assert_eq!(of("bin").trim_end_matches(".exe"), "kubectl-fettle");
    }
}
