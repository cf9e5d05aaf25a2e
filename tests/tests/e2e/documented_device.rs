//! The device of `docs/protocol.md`, as it stands on the page: another language, another FTP client, nothing of ours.

use std::path::Path;

use anyhow::{Context, Result};
use fettle_device::image::ImageHeader;
use fettle_tests::process::{Process, Spec};

use crate::world::{MODEL, NEW, OLD, PATIENCE, World, strict};

/// What a vendor brings: an image is started by running the program anew, a profile is a file.
const VENDOR: &str = r#"
import os, sys

FOLDER = sys.argv[1]

def path(name):
    return os.path.join(FOLDER, name)

def running_version():
    with open(path("running"), "rb") as image:
        return image.readline().split()[-1].decode()

def store_image(content):
    with open(path("stored"), "wb") as image:
        image.write(content)
    return True

def start_stored_image():
    os.replace(path("stored"), path("running"))
    os.execv(sys.executable, [sys.executable, *sys.argv])

def apply_profile(content):
    with open(path("profile"), "wb") as profile:
        profile.write(content)
    return True

def log():
    return b"all is well\n"

"#;

/// The program on the page, with the test's addresses and vendor functions.
fn program(world: &World) -> Result<String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/protocol.md");
    let page = std::fs::read_to_string(&page).with_context(|| format!("{}", page.display()))?;
    let (_, rest) = page.split_once("```python\n").context("the page has a device in Python")?;
    let (code, _) = rest.split_once("```").context("the block ends")?;
    let bridge = world.fettle.bridge();
    let (before, rest) = code.split_once("# What the vendor brings.\n").context("the vendor's part is marked")?;
    let (_, after) = rest.split_once("# Frames.\n").context("the end of the vendor's part is marked")?;
    let before = before
        .replace("(\"192.0.2.1\", 7070)", &format!("(\"127.0.0.1\", {})", bridge.device_address().port()))
        .replace("FTP_PORT = 21", &format!("FTP_PORT = {}", bridge.ftp_port()))
        .replace("\"02005e00530e\"", &format!("\"{}\"", strict(1).mac.to_string().replace(':', "")));
    Ok(format!("{before}{VENDOR}{after}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_device_of_the_protocol_page_is_taken_to_the_declared_firmware_and_configuration() -> Result<()> {
    let world = World::start("documented").await?;
    world.firmware(NEW).await?;
    world.config("17", "hostname page").await?;
    world.declare("sw-1", strict(1).mac, "{role: access}").await?;
    world.devices_known().await?;
    let folder = world.fettle.folder().join("page");
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("running"), fettle_device::image::build(MODEL, OLD, 100))?;
    std::fs::write(folder.join("device.py"), program(&world)?)?;
    let mut device = Process::spawn(Spec {
        name: "the documented device".to_owned(),
        program: "python3".into(),
        args: [folder.join("device.py"), folder.clone()].map(|path| path.display().to_string()).into(),
        env: Vec::new(),
        log: folder.join("log"),
        sweep: None,
    })?;
    world.namespace.watch_log(folder.join("log"));
    world.group(&["firmware: {name: access-5.2.1}", "config: {name: access-17}", "logs: {upload: Always}"]).await?;
    world.all_current(1).await?;
    let running = std::fs::read(folder.join("running"))?;
    assert_eq!(ImageHeader::parse(&running).map(|header| header.version), Some(NEW.to_owned()));
    assert_eq!(std::fs::read(folder.join("profile"))?, b"hostname page");
    let logs = world.fettle.bridge().data_dir().join("logs/sw-1");
    world
        .namespace
        .eventually("its log is kept", PATIENCE, || {
            let log = std::fs::read_dir(&logs).ok().and_then(|mut files| files.next()).and_then(Result::ok);
            async move { log.filter(|file| std::fs::read(file.path()).is_ok_and(|text| text == b"all is well\n")) }
        })
        .await?;
    assert!(device.exited().is_none(), "{}", device.log_tail(20));
    Ok(())
}
