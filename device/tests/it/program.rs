//! The program, from its command line.

use std::process::Stdio;

use fettle_protocol::ServerMessage;
use fettle_protocol::datum::Transfer;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::support::{Bridge, Ended, Files, MAC, image, within};

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fettle-device"));
    command.kill_on_drop(true).stdout(Stdio::piped());
    command
}

fn terminate(child: &Child) {
    let pid = rustix::process::Pid::from_raw(child.id().unwrap() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
}

#[tokio::test]
async fn run_tells_what_happens_and_ends_cleanly_on_a_signal() {
    let bridge = Bridge::bind().await;
    let files = Files::serve().await;
    let mut child = program()
        .args(["run", "--mac", "02:00:5E:00:53:0E", "--model", "S5700", "--version", "4.9.0"])
        .args(["--install-time", "10ms", "--restart-time", "10ms", "--apply-time", "0s"])
        .env("FETTLE_DEVICE_BRIDGE", bridge.address().to_string())
        .env("FETTLE_DEVICE_FTP_PORT", files.ports.ftp.to_string())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (mut talk, information) = bridge.greet().await;
    assert_eq!((information.mac, information.version.as_str()), (MAC, "4.9.0"));
    assert_eq!(talk.order_image(files.put(Transfer::Ftp, "image.bin", &image("5.2.1"))).await, 0);
    talk.say(ServerMessage::Restart).await;
    assert_eq!(talk.end().await, Ended::Finished);
    let (mut talk, _) = bridge.greet().await;
    terminate(&child);
    assert_eq!(talk.end().await, Ended::Finished);
    assert!(within("the exit", child.wait()).await.unwrap().success());
    let mut told = Vec::new();
    while let Some(line) = lines.next_line().await.unwrap() {
        told.push(line);
    }
    for part in
        ["connected to", "> 1 device information", "< 3 download version Ftp 127.0.0.1 a1/image.bin", "booted 5.2.1"]
    {
        assert!(told.iter().any(|line| line.contains(part)), "{part}: {told:#?}");
    }
}

/// What the program says at its end, after the lines that it printed on the way.
async fn account(mut child: Child) -> serde_json::Value {
    let mut text = String::new();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    while let Some(line) = within("a line", lines.next_line()).await.unwrap() {
        text.push_str(&line);
        text.push('\n');
    }
    assert!(within("the exit", child.wait()).await.unwrap().success(), "{text}");
    serde_json::from_str(&text[text.find("{\n").unwrap()..]).unwrap()
}

#[tokio::test]
async fn fleet_reads_its_devices_from_a_file_and_gives_account_when_it_is_ended() {
    let bridge = Bridge::bind().await;
    let folder = tempfile::tempdir().unwrap();
    let spec = folder.path().join("fleet.yaml");
    std::fs::write(
        &spec,
        "devices: [{count: 2, firstMac: 02:00:5e:00:53:0e, model: S5700, version: 4.9.0}, \
         {firstMac: 02:00:5e:00:54:00, model: S5720, version: 5.2.1, vocabulary: extended}]",
    )
    .unwrap();
    let child =
        program().args(["fleet", "--bridge", &bridge.address().to_string(), "--spec"]).arg(&spec).spawn().unwrap();
    let mut talks = Vec::new();
    let mut models = Vec::new();
    for _ in 0..3 {
        let (talk, information) = bridge.greet().await;
        talks.push(talk);
        models.push(information.model);
    }
    models.sort_unstable();
    assert_eq!(models, ["S5700", "S5700", "S5720"]);
    terminate(&child);
    let account = account(child).await;
    assert_eq!((&account["devices"], &account["versions"]["5.2.1"]), (&3.into(), &1.into()), "{account}");
    assert_eq!(account["counters"]["sent"]["1"], 3, "{account}");
}

#[tokio::test]
async fn fleet_ends_by_itself_when_its_goal_is_reached() {
    let bridge = Bridge::bind().await;
    let files = Files::serve().await;
    let download = files.put(Transfer::Tftp, "image.bin", &image("5.2.1"));
    let child = program()
        .args(["fleet", "--bridge", &bridge.address().to_string(), "--count", "3", "--until", "5.2.1"])
        .args(["--install-time", "0s", "--restart-time", "0s", "--tftp-port", &files.ports.tftp.to_string()])
        .spawn()
        .unwrap();
    let mut talks = Vec::new();
    for _ in 0..3 {
        talks.push(bridge.greet().await.0);
    }
    for talk in &mut talks {
        assert_eq!(talk.order_image(download.clone()).await, 0);
        talk.say(ServerMessage::Restart).await;
        assert_eq!(talk.end().await, Ended::Finished);
    }
    // They come back, and may be ended before they say anything.
    for _ in 0..3 {
        talks.push(bridge.accept().await);
    }
    let account = account(child).await;
    assert_eq!((&account["versions"]["5.2.1"], &account["counters"]["boots"]), (&3.into(), &3.into()), "{account}");
}

#[tokio::test]
async fn image_makes_the_same_bytes_every_time() {
    let folder = tempfile::tempdir().unwrap();
    let mut images = Vec::new();
    for name in ["a", "b"] {
        let path = folder.path().join(name);
        let status = program()
            .args(["image", "--model", "S5700", "--version", "5.2.1", "--size", "64KiB", "--out"])
            .arg(&path)
            .status()
            .await
            .unwrap();
        assert!(status.success());
        images.push(std::fs::read(path).unwrap());
    }
    assert_eq!(images[0], images[1]);
    assert_eq!(images[0], fettle_device::image::build("S5700", "5.2.1", 64 << 10));
}

#[tokio::test]
async fn a_wrong_argument_is_named() {
    for (arguments, named) in [
        (&["run", "--bridge", "x:1", "--mac", "nobody", "--model", "m", "--version", "1"][..], "six hexadecimal pairs"),
        (&["fleet", "--bridge", "x:1", "--fault", "restart=vanish"], "is not a fault"),
        (&["fleet", "--bridge", "x:1", "--restart-time", "soon"], "is not a duration"),
        (&["image", "--model", "m", "--version", "1", "--out", "x", "--size", "1MB"], "512KiB"),
        (&["fleet"], "--bridge"),
    ] {
        let output = program().args(arguments).output().await.unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && said.contains(named), "{said}");
    }
}
