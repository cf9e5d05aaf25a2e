//! The fenced blocks of a page of Markdown, and what its author says of how they are tested.
//!
//! What is said stands in a comment before the block, which no reader sees:
//!
//! - `<!-- test: background -->`: runs until the page ends, as what people start in a second shell.
//! - `<!-- test: until TEXT -->`: runs until it has printed TEXT, as what people end with Ctrl-C.
//! - `<!-- test: each 0 7 -->`: each line is a command of its own, which may end with any of these codes.
//! - `<!-- test: on chart -->`: runs where the chart is installed, whatever the rest of the page needs.
//! - `<!-- test: elsewhere KEY -->`: not run; the closed list in `main.rs` says what sees to it.
//! - `<!-- test: in KIND.path -->`: the YAML is a part of a manifest, at that place. `values`: values of the chart.
//! - `<!-- test: dnsmasq -->` (`kea`, `dhcpd`): the configuration of that program.
//! - `<!-- given … -->`: lines that are run before the next block, for what readers have anyway.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

/// Fences with these words hold what a shell is told; `console` besides what it answers.
const SHELL: &[&str] = &["sh", "bash", "console"];

/// What is no command and no manifest: output and drawings, and what tests of their own read (the protocol's page).
const NOT_TESTED_HERE: &[&str] = &["", "text", "hex", "datagram", "python"];

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mark {
    Plain,
    Background,
    Until(String),
    Each(Vec<i32>),
    OnChart,
    Elsewhere(String),
    Within(String),
    Values,
    Of(Server),
}

/// A program whose configuration stands on a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Server {
    Dnsmasq,
    Kea,
    Dhcpd,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    Shell,
    /// Lines that begin with `$ ` are commands; the others are what they print.
    Console,
    Yaml,
    Configuration,
}

#[derive(Clone, Debug)]
pub struct Block {
    /// As `docs/install.md:12`.
    pub at: String,
    pub language: Language,
    pub mark: Mark,
    pub given: String,
    pub text: String,
}

#[derive(Clone, Debug)]
pub struct Page {
    pub path: String,
    pub blocks: Vec<Block>,
}

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every page that has to be right: all of `docs/`, and the README of each folder that people run things in.
pub fn all() -> Result<Vec<Page>> {
    let mut paths: Vec<String> =
        ["README.md", "examples/README.md", "gitops/README.md", "charts/fettle/README.md"].map(str::to_owned).into();
    for entry in fs::read_dir(root().join("docs"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".md") {
            paths.push(format!("docs/{name}"));
        }
    }
    paths.sort();
    paths.into_iter().map(Page::read).collect()
}

impl Page {
    fn read(path: String) -> Result<Self> {
        let text = fs::read_to_string(root().join(&path)).with_context(|| path.clone())?;
        let blocks = blocks(&path, &text)?;
        Ok(Page { path, blocks })
    }
}

fn blocks(path: &str, text: &str) -> Result<Vec<Block>> {
    let mut blocks = Vec::new();
    let mut mark = None;
    let mut given = String::new();
    let mut lines = text.lines().enumerate();
    while let Some((index, line)) = lines.next() {
        let at = format!("{path}:{}", index + 1);
        if let Some(said) = line.trim_start().strip_prefix("<!-- test: ") {
            let said = said.strip_suffix(" -->").with_context(|| format!("{at}: the comment does not end"))?;
            mark = Some(parse(said).with_context(|| format!("{at}: `{said}` is nothing that a test knows"))?);
        } else if line == "<!-- given" {
            let said = lines.by_ref().map(|(_, line)| line).take_while(|line| *line != "-->");
            given = said.map(|line| format!("{line}\n")).collect();
        } else if let Some(word) = line.trim_start().strip_prefix("```") {
            let fence = line.len() - line.trim_start().len();
            let inside = lines.by_ref().map(|(_, line)| line).take_while(|line| line.trim() != "```");
            let text = inside.map(|line| format!("{}\n", line.get(fence..).unwrap_or_default())).collect();
            let (mark, given) = (mark.take(), std::mem::take(&mut given));
            let language = match word {
                "console" => Language::Console,
                word if SHELL.contains(&word) => Language::Shell,
                "yaml" => Language::Yaml,
                "json" | "conf" => Language::Configuration,
                word if NOT_TESTED_HERE.contains(&word) => {
                    ensure!(mark.is_none() && given.is_empty(), "{at}: nothing tests such a block");
                    continue;
                }
                word => bail!("{at}: no test knows blocks of `{word}`"),
            };
            blocks.push(Block { at, language, mark: mark.unwrap_or(Mark::Plain), given, text });
        } else if !line.trim().is_empty() {
            ensure!(mark.is_none() && given.is_empty(), "{at}: the comment before it is not followed by a block");
        }
    }
    Ok(blocks)
}

fn parse(said: &str) -> Option<Mark> {
    let (word, rest) = said.split_once(' ').unwrap_or((said, ""));
    Some(match (word, rest) {
        ("background", "") => Mark::Background,
        ("values", "") => Mark::Values,
        ("on", "chart") => Mark::OnChart,
        ("dnsmasq", "") => Mark::Of(Server::Dnsmasq),
        ("kea", "") => Mark::Of(Server::Kea),
        ("dhcpd", "") => Mark::Of(Server::Dhcpd),
        ("until", text) if !text.is_empty() => Mark::Until(text.to_owned()),
        ("each", codes) => Mark::Each(codes.split(' ').map(|code| code.parse().ok()).collect::<Option<_>>()?),
        ("elsewhere", key) if !key.is_empty() => Mark::Elsewhere(key.to_owned()),
        ("in", place) if !place.is_empty() => Mark::Within(place.to_owned()),
        _ => return None,
    })
}

impl Block {
    /// The commands and what each prints, of a console.
    pub fn session(&self) -> Vec<(String, Vec<String>)> {
        let mut session: Vec<(String, Vec<String>)> = Vec::new();
        for line in self.text.lines() {
            match (line.strip_prefix("$ "), session.last_mut()) {
                (Some(command), _) => session.push((command.to_owned(), Vec::new())),
                (None, Some((_, printed))) => printed.push(line.to_owned()),
                (None, None) => session.push((String::new(), vec![line.to_owned()])),
            }
        }
        session
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_have_their_marks_and_nothing_unknown_passes() {
        let page = "a\n\n<!-- test: each 0 7 -->\n```sh\none\n```\n- list\n  ```yaml\n  a: 1\n  ```\n```console\n$ x\ny\n```\n";
        let found = blocks("p", page).unwrap();
        assert_eq!(found.iter().map(|block| block.at.as_str()).collect::<Vec<_>>(), ["p:4", "p:8", "p:11"]);
        assert_eq!(found[0].mark, Mark::Each(vec![0, 7]));
        assert_eq!(found[1].text, "a: 1\n");
        assert_eq!(found[2].session(), [("x".to_owned(), vec!["y".to_owned()])]);
        let refused = ["```ruby\n```\n", "<!-- test: sometimes -->\n```sh\n```\n", "<!-- test: values -->\ntext\n"];
        assert!(refused.iter().all(|page| blocks("p", page).is_err()));
    }
}
