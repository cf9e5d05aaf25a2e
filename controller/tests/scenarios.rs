//! Runs the scenarios in `tests/scenarios/`: each is a namespace in a few words, and what the planner makes of it.
//!
//! A file is about one rule and has a document for each case: `about` says what has to hold, `given` is what is known,
//! `then` is the whole plan in short. What is not given is as in [`given::Given`]: one group `access` with `maxUnavailable:
//! 1` wants firmware `fw-2` (version 2, for model S1) of the devices labelled `role: access`, its rollout `access-1` exists,
//! and a device is connected and has said an hour ago that it is an S1 on version 1. Times are how long ago, or how far ahead.
//!
//! `UPDATE_SCENARIOS=1 cargo test -p fettle-controller --test scenarios` writes every `then` anew: read the difference.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "scenarios/given/mod.rs"]
mod given;
#[path = "scenarios/shown.rs"]
mod shown;

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_yaml::Value;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    about: String,
    #[serde(default)]
    given: given::Given,
    #[serde(default)]
    then: Value,
}

fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let files = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|ext| ext == "yaml")).collect();
    files.sort();
    assert!(!files.is_empty(), "no scenarios in {}", folder.display());
    files
}

#[test]
fn the_planner_does_what_the_scenarios_say() {
    let update = std::env::var_os("UPDATE_SCENARIOS").is_some();
    let mut wrong = String::new();
    for file in files() {
        let text = fs::read_to_string(&file).unwrap();
        let mut updated = Vec::new();
        for document in text.split("\n---\n") {
            let case: Case = serde_yaml::from_str(document)
                .unwrap_or_else(|error| panic!("{}: {error}\n{document}", file.display()));
            let (snapshot, now) = case.given.snapshot();
            let plan = fettle_controller::plan::plan(&snapshot, now);
            let shown = shown::plan(&snapshot, &plan, now);
            let shown_text = serde_yaml::to_string(&shown).unwrap();
            if shown != case.then {
                let wanted = serde_yaml::to_string(&case.then).unwrap();
                let name = file.file_name().unwrap().to_string_lossy();
                wrong += &format!("{name}: {}\n--- wanted\n{wanted}--- got\n{shown_text}\n", case.about.trim());
            }
            let before = document.split("\nthen:").next().unwrap().trim_end();
            let indented: String = shown_text.lines().map(|line| format!("  {line}\n")).collect();
            updated.push(format!("{before}\nthen:\n{}", indented.trim_end()));
        }
        if update {
            fs::write(&file, updated.join("\n---\n") + "\n").unwrap();
        }
    }
    assert!(update || wrong.is_empty(), "\n{wrong}");
}
