//! Pages as scripts of a shell, and the place where they are run: a folder that looks as the repository's does, with the
//! programs on the PATH.

use std::env;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use fettle_tests::process::{Process, Spec};
use fettle_tests::program;
use fettle_tests::tools::{self, Tool};

use crate::page::{Block, Language, Mark, Page, root};

/// For all pages of a place together: a fleet of debug builds is upgraded several times, beside other tests.
const PATIENCE: Duration = Duration::from_secs(600);

/// What takes a minute in production takes seconds.
const TIMINGS: &[(&str, &str)] = &[
    ("FETTLE_LEASE_DURATION", "3s"),
    ("FETTLE_RECONNECT_GRACE", "3s"),
    ("FETTLE_SETTLE", "300ms"),
    ("FETTLE_RETRY_BACKOFF", "200ms"),
];

/// Where pages are run.
pub struct Place {
    folder: tempfile::TempDir,
    kubeconfig: Option<PathBuf>,
}

impl Place {
    /// One in which `make up` starts a control plane, or the one of `kubeconfig` is used.
    pub fn new(kubeconfig: Option<&Path>) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("fettle-docs-").tempdir()?;
        let path = folder.path();
        for name in ["charts", "examples", "gitops", "crds"] {
            symlink(root().canonicalize()?.join(name), path.join(name))?;
        }
        let device = program::find("fettle-device")?;
        let programs = device.parent().context("a program lies in a folder")?;
        fs::create_dir_all(path.join("target"))?;
        symlink(programs, path.join("target/debug"))?;
        fs::create_dir_all(path.join("home"))?;

        let bin = path.join("bin");
        fs::create_dir_all(&bin)?;
        for name in ["fettle-device", "fettle-bridge", "fettle-controller", "kubectl-fettle"] {
            symlink(program::find(name)?, bin.join(name))?;
        }
        let (kubectl, helm) = (tools::find(Tool::Kubectl)?, tools::find(Tool::Helm)?);
        // A bridge is a process of this machine, and no pod to get into.
        let inside = "if [ \"$1\" = exec ]; then . target/up/env; shift 3; FETTLE_DATA_DIR=$DATA_DIR exec \"$@\"; fi\n";
        executable(&bin.join("kubectl"), &format!("{inside}exec {} \"$@\"\n", kubectl.display()))?;
        // No pod runs here, so nobody would come to be waited for; tests/cluster waits for real ones.
        let without_wait = "for argument; do shift; [ \"$argument\" = --wait ] || set -- \"$@\" \"$argument\"; done\n";
        executable(&bin.join("helm"), &format!("{without_wait}exec {} \"$@\"\n", helm.display()))?;
        // What the Makefile does when the programs are built. The control plane's programs are in the person's own cache.
        let home = env::var("HOME").unwrap_or_default();
        let dev = format!(
            "HOME={home} exec {} \"$word\" --folder {}/target/up \"$@\"",
            env!("CARGO_BIN_EXE_dev"),
            path.display()
        );
        let make = format!(
            "word=$1; shift\ncase $word in\n    up|down) {dev} ;;\n    *) echo \"no test runs make $word\" >&2; exit 1 ;;\nesac\n"
        );
        executable(&bin.join("make"), &make)?;
        Ok(Place { folder, kubeconfig: kubeconfig.map(Path::to_owned) })
    }

    /// Runs those blocks of the pages that `here` picks; then compares what consoles printed.
    pub async fn run(&self, pages: &[&Page], here: impl Fn(&Block) -> bool) -> Result<()> {
        let folder = self.folder.path();
        let mut text = include_str!("prelude.sh").to_owned();
        for page in pages {
            text.push_str(&script(page, &here));
        }
        fs::write(folder.join("script"), text)?;
        let log = folder.join("log");
        let path = format!("{}:{}", folder.join("bin").display(), env::var("PATH")?);
        let mut variables: Vec<(String, String)> =
            TIMINGS.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let place = |name: &str| folder.join(name).display().to_string();
        variables.extend([
            ("PATH".to_owned(), path),
            ("HOME".to_owned(), place("home")),
            ("KUBECACHEDIR".to_owned(), place("kubectl-cache")),
            ("SCRATCH".to_owned(), folder.display().to_string()),
            (
                "KUBECONFIG".to_owned(),
                self.kubeconfig.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
            ),
        ]);
        let mut shell = Process::spawn(Spec {
            name: "the pages".to_owned(),
            program: PathBuf::from("bash"),
            args: vec![place("script")],
            env: variables,
            log,
            sweep: None,
        })?;
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = shell.exited() {
                break status;
            }
            if Instant::now() > deadline {
                bail!("not done after {} s:\n{}", PATIENCE.as_secs(), last_block(&shell));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        ensure!(status.success(), "{}", last_block(&shell));
        let mut different = Vec::new();
        for block in pages.iter().flat_map(|page| &page.blocks).filter(|block| here(block)) {
            different.extend(self.differences(block)?);
        }
        ensure!(different.is_empty(), "{}", different.join("\n"));
        Ok(())
    }

    /// What a console on a page shows and a person would not see.
    fn differences(&self, block: &Block) -> Result<Vec<String>> {
        let mut different = Vec::new();
        if block.language != Language::Console || matches!(block.mark, Mark::Elsewhere(_)) {
            return Ok(different);
        }
        for (index, (command, told)) in block.session().iter().enumerate() {
            let printed = fs::read_to_string(self.folder.path().join(printed(block, index)))?;
            let has: Vec<Vec<String>> = printed.lines().map(words).collect();
            for line in told.iter().filter(|line| !has.iter().any(|has| is_among(&words(line), has))) {
                different.push(format!("{}: `{command}` is to print\n{line}\nand prints\n{printed}", block.at));
            }
        }
        Ok(different)
    }
}

impl Drop for Place {
    /// Ends what `make up` has left running, also where a page failed.
    fn drop(&mut self) {
        let folder = self.folder.path().join("target/up");
        let _ = std::process::Command::new(env!("CARGO_BIN_EXE_dev")).args(["down", "--folder"]).arg(folder).output();
    }
}

/// What was printed since the script came to the block where it is, or has failed.
fn last_block(shell: &Process) -> String {
    let text = shell.log_tail(usize::MAX);
    text.rfind("\n== ").map(|begin| text[begin..].to_owned()).unwrap_or(text)
}

fn executable(path: &Path, text: &str) -> Result<()> {
    fs::write(path, format!("#!/bin/bash\n{text}"))?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}

/// A page is a shell of its own, within the script.
fn script(page: &Page, here: &impl Fn(&Block) -> bool) -> String {
    let mut text = format!("(\npage {}\n", page.path);
    for block in page.blocks.iter().filter(|block| here(block)) {
        text.push_str(&format!("at {}\n{}", block.at, block.given));
        match (&block.mark, block.language) {
            (Mark::Elsewhere(_), _) => {}
            (Mark::Background, _) => text.push_str(&format!("background {}\n", quoted(&block.text))),
            (Mark::Until(shown), _) => {
                text.push_str(&format!("until_shown {} {}\n", quoted(shown), quoted(&block.text)));
            }
            (Mark::Each(codes), _) => {
                let codes: Vec<String> = codes.iter().map(i32::to_string).collect();
                for line in block.text.replace("\\\n", "").lines() {
                    text.push_str(&format!("one_of {} {}\n", quoted(&codes.join(" ")), quoted(line)));
                }
            }
            (_, Language::Console) => {
                for (index, (command, _)) in block.session().iter().enumerate() {
                    text.push_str(&format!("{{ {command}\n}} 2>&1 | tee {}\n", printed(block, index)));
                }
            }
            _ => text.push_str(&block.text),
        }
    }
    text.push_str(")\n");
    text
}

/// The file of what a command of a console printed.
fn printed(block: &Block, index: usize) -> String {
    format!("{}-{index}", block.at.replace(['/', ':'], "-"))
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// What does not differ from one run to the next: words without a digit.
fn words(line: &str) -> Vec<String> {
    let words = line.split(|c: char| c.is_whitespace() || ",;:()[]{}\"'=|".contains(c));
    let lasting = |word: &&str| word.len() > 2 && word.chars().all(|c| c.is_ascii_alphabetic() || "-_.".contains(c));
    words.filter(lasting).map(str::to_owned).collect()
}

/// Whether all `words` are there, in their order.
fn is_among(words: &[String], line: &[String]) -> bool {
    let mut rest = line.iter();
    words.iter().all(|word| rest.any(|other| other == word))
}
