//! The configurations of DHCP servers on the pages: each is shown to its own program, of which none is let loose on this
//! machine's network.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use fettle_tests::tools;

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
            Server::Dnsmasq => read_by("dnsmasq", &["--test", "-C"], block),
            Server::Kea => read_by("kea-dhcp4", &["-t"], block),
            Server::Dhcpd => read_by("dhcpd", &["-t", "-cf"], block),
        }
        .with_context(at)?;
        seen.push(server);
    }
    seen.sort_unstable();
    ensure!(seen == [Server::Dnsmasq, Server::Kea, Server::Dhcpd], "there are {seen:?}");
    Ok(())
}

/// Has a program read its configuration, whose file's name comes after `args`, and no more than that.
fn read_by(program: &str, args: &[&str], block: &Block) -> Result<()> {
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), &block.text)?;
    let output = Command::new(tools::server(program)?)
        .args(args)
        .arg(file.path())
        // Kea wants to write elsewhere than to us
        .envs([("KEA_LOCKFILE_DIR", "none"), ("KEA_LOGGER_DESTINATION", "stderr")])
        .output()
        .with_context(|| format!("{program} cannot be started"))?;
    ensure!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
