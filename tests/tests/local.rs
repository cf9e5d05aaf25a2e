//! What people run on their own machine: `make demo`, `make up`, `make down`, and the examples.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result};
use data_encoding::HEXLOWER;
use fettle_tests::dev::demo::{make_images, read_manifests};
use fettle_tests::{ControlPlane, manifest};
use serde_json::Value;
use sha2::{Digest, Sha256};

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples")
}

/// Ends what is up, also where the test fails.
struct Up {
    folder: tempfile::TempDir,
}

impl Up {
    fn run(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dev"));
        Ok(command.args(arguments).arg("--folder").arg(self.folder.path()).output()?)
    }

    /// What a shell reads from the file `env`.
    fn environment(&self) -> Result<BTreeMap<String, String>> {
        let script = r#"set -a; env -i sh -c 'set -a; . "$0/env"; env' "$0""#;
        let output = Command::new("sh").args(["-c", script]).arg(self.folder.path()).output()?;
        let text = String::from_utf8(output.stdout)?;
        Ok(text.lines().filter_map(|line| line.split_once('=')).map(|(n, v)| (n.to_owned(), v.to_owned())).collect())
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.run(&["down"]);
    }
}

fn runs(pid: &str) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

#[test]
fn the_demo_takes_every_device_there_and_ends_by_itself() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let output = Command::new(env!("CARGO_BIN_EXE_dev")).args(["demo", "--folder"]).arg(folder.path()).output()?;
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{complained}");
    assert!(said.contains("All 20 devices run what their groups want"), "{said}");
    // one of them is made to fail at first
    assert!(said.contains("access-berlin-03 needed another try: its first ended with CrcMismatch"), "{said}");
    Ok(())
}

#[tokio::test]
async fn up_leaves_everything_running_says_where_and_down_ends_it() -> Result<()> {
    let up = Up { folder: tempfile::tempdir()? };
    let port = fettle_tests::ports::free()?.to_string();
    let output = up.run(&["up", "--bridge-port", &port])?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let environment = up.environment()?;
    let value = |name: &str| environment.get(name).with_context(|| format!("no {name} in {environment:?}"));
    assert_eq!(value("BRIDGE_ADDR")?, &format!("127.0.0.1:{port}"));
    for name in ["UDP_PORT", "HTTP_PORT", "FTP_PORT", "TFTP_PORT", "CONTROLLER_METRICS", "BRIDGE_METRICS"] {
        value(name)?;
    }
    let http: u16 = value("HTTP_PORT")?.parse()?;
    std::net::TcpStream::connect(("127.0.0.1", http)).context("nobody listens for HTTP")?;
    for name in ["FILES_DIR", "DATA_DIR", "LOGS_DIR"] {
        assert!(Path::new(value(name)?).is_dir(), "{name}");
    }
    let pids: Vec<String> = value("PIDS")?.split(' ').map(str::to_owned).collect();
    assert!(pids.len() == 5 && pids.iter().all(|pid| runs(pid)), "{pids:?}");
    assert!(pids.contains(value("CONTROLLER_PID")?) && pids.contains(value("BRIDGE_PID")?));
    let kubectl = Command::new(value("KUBECTL")?)
        .args(["get", "devices,firmwares", "--namespace", value("NAMESPACE")?])
        .env("KUBECONFIG", value("KUBECONFIG")?)
        .output()?;
    assert!(kubectl.status.success(), "{}", String::from_utf8_lossy(&kubectl.stderr));

    let again = up.run(&["up"])?;
    assert!(again.status.success() && String::from_utf8_lossy(&again.stderr).contains("up already"));
    assert_eq!(up.environment()?["PIDS"], pids.join(" "), "the second `up` started something");

    assert!(up.run(&["down"])?.status.success());
    assert!(!pids.iter().any(|pid| runs(pid)), "{pids:?}");
    assert!(!up.environment()?.contains_key("PIDS"));
    Ok(())
}

#[tokio::test]
async fn up_uses_a_cluster_that_is_given_and_down_leaves_that_alone() -> Result<()> {
    let cluster = ControlPlane::shared().await?;
    let namespace = cluster.namespace("given").await?;
    let up = Up { folder: tempfile::tempdir()? };
    let kubeconfig = cluster.kubeconfig().display().to_string();
    let output = up.run(&["up", "--kubeconfig", &kubeconfig, "--namespace", &namespace.name])?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(up.environment()?["PIDS"].split(' ').count(), 2);
    namespace.kubectl(&["get", "lease", "fettle-bridge-0"]).await?;

    assert!(up.run(&["down"])?.status.success());
    namespace.kubectl(&["get", "rolebinding", "fettle-bridge"]).await?;
    Ok(())
}

#[tokio::test]
async fn the_examples_are_good_manifests_and_name_the_true_hashes_of_their_images() -> Result<()> {
    let manifests = read_manifests(&examples())?;
    let namespace = ControlPlane::shared().await?.namespace("examples").await?;
    for manifest in &manifests {
        manifest::apply(&namespace.client, &namespace.name, manifest).await?;
    }
    let files = tempfile::tempdir()?;
    make_images(&manifests, files.path()).await?;
    let images = manifests.iter().filter_map(|manifest| manifest["spec"]["images"].as_array()).flatten();
    for image in images {
        let file = image["source"]["file"]["path"].as_str().context("no file")?;
        let bytes = fs::read(files.path().join(file))?;
        assert_eq!(image["sha256"].as_str(), Some(HEXLOWER.encode(&Sha256::digest(bytes)).as_str()), "{file}");
    }
    Ok(())
}

#[test]
fn every_simulated_device_of_the_examples_is_declared_and_the_other_way_round() -> Result<()> {
    let manifests = read_manifests(&examples())?;
    let declared: BTreeSet<String> =
        manifests.iter().filter_map(|manifest| manifest["spec"]["mac"].as_str()).map(str::to_owned).collect();
    let fleet: Value = serde_yaml::from_str(&fs::read_to_string(examples().join("simulation/fleet.yaml"))?)?;
    let mut simulated = BTreeSet::new();
    for devices in fleet["devices"].as_array().context("no devices")? {
        let first = devices["firstMac"].as_str().context("no firstMac")?;
        let (rest, last) = first.rsplit_once(':').context("no MAC")?;
        let last = u8::from_str_radix(last, 16)?;
        for index in 0..u8::try_from(devices["count"].as_u64().unwrap_or(1))? {
            simulated.insert(format!("{rest}:{:02x}", last + index));
        }
    }
    assert_eq!(declared, simulated);
    Ok(())
}
