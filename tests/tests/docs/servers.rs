//! The configurations of DHCP servers on the pages.
//!
//! dnsmasq reads its own. Kea and dhcpd come with services that would begin to serve this machine's network when they are
//! installed, so of theirs it is only seen that they say the same.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::page::{Block, Mark, Page, Server};

/// What all of them tell devices: address and port of the bridge, and to whom.
const TOLD: &[&str] = &["192.0.2.10", "7070", "acme-switch"];

pub fn are_taken(pages: &[Page]) -> Result<()> {
    let mut seen = Vec::new();
    for block in pages.iter().flat_map(|page| &page.blocks) {
        let Mark::Of(server) = block.mark else { continue };
        let at = || block.at.clone();
        for told in TOLD {
            ensure!(block.text.contains(told), "{}: nothing is said of {told}", block.at);
        }
        match server {
            Server::Dnsmasq => dnsmasq(block).with_context(at)?,
            Server::Kea => {
                let read: Value = serde_json::from_str(&block.text).with_context(at)?;
                ensure!(read["Dhcp4"]["client-classes"].is_array(), "{}: no class of clients", block.at);
            }
            Server::Dhcpd => {
                let count = |c: char| block.text.matches(c).count();
                ensure!(count('{') == count('}'), "{}: a brace is missing", block.at);
            }
        }
        seen.push(server);
    }
    seen.sort_unstable();
    ensure!(seen == [Server::Dnsmasq, Server::Kea, Server::Dhcpd], "there are {seen:?}");
    Ok(())
}

fn dnsmasq(block: &Block) -> Result<()> {
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), &block.text)?;
    let installed = PathBuf::from("/usr/sbin/dnsmasq");
    let program = if installed.is_file() { installed } else { PathBuf::from("dnsmasq") };
    let output = Command::new(program).arg("--test").arg("-C").arg(file.path()).output();
    let output = output.context("no dnsmasq: tools/packages installs it")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
