//! Other people's clients, run to their end.

use std::path::{Path, PathBuf};
use std::process::Output;

use super::{Command, PATIENCE, Servers};

/// Runs a program to its end. It must be installed.
pub async fn run(program: &str, args: &[&str]) -> Output {
    let child =
        tokio::process::Command::new(program).args(args).kill_on_drop(true).stdin(std::process::Stdio::null()).output();
    match tokio::time::timeout(PATIENCE, child).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => panic!("{program} cannot be run ({error}): tools/packages installs it"),
        Err(_) => panic!("{program} {args:?} did not end"),
    }
}

/// What a program printed, which has to have succeeded.
pub fn succeeded(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{}\n{out}\n{err}", output.status);
    out
}

/// All that a program printed.
pub fn told(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

pub async fn curl(args: &[&str]) -> Output {
    // No configuration of the user's, no proxy of the environment's.
    let args = [&["--disable", "--noproxy", "*", "--silent", "--show-error", "--max-time", "50"], args].concat();
    run("curl", &args).await
}

pub async fn python(script: &str, args: &[&str]) -> Output {
    run("python3", &[&["-c", script], args].concat()).await
}

pub fn ftp_url(servers: &Servers, command: &Command, path: &str) -> String {
    format!("ftp://{}:{}@{}/{path}", command.minted.user, command.minted.password, servers.ftp())
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

pub fn tftp_url(servers: &Servers, path: &str) -> String {
    format!("tftp://{}/{path}", servers.tftp())
}

/// Where a client puts what it fetches.
pub fn out(servers: &Servers) -> PathBuf {
    servers.dir.path().join("out")
}
