//! The TFTP server against other people's clients: curl, tftp-hpa and atftp, also over networks that do what networks do.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod files_support;

use std::net::SocketAddr;
use std::process::Output;

use files_support::network::{Network, does_it_all};
use files_support::programs::{curl, out, run, succeeded, text, tftp_url, told};
use files_support::{Servers, assert_same, bytes};
use futures::future::join_all;

async fn tftp_hpa(servers: &Servers, mode: &str, command: &[&str]) -> Output {
    tftp_hpa_at(servers.tftp(), mode, command).await
}

async fn tftp_hpa_at(address: SocketAddr, mode: &str, command: &[&str]) -> Output {
    let (ip, port) = (address.ip().to_string(), address.port().to_string());
    run("tftp", &[&["-m", mode, &ip, &port, "-c"], command].concat()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_fetches_over_tftp_with_and_without_options() {
    let servers = Servers::start();
    let image = bytes(200_000);
    let content = servers.content(&image).await;
    let out = out(&servers);
    for options in [&[][..], &["--tftp-no-options"], &["--tftp-blksize", "1468"], &["--tftp-blksize", "65464"]] {
        let command = servers.order_download("uid-1", &content);
        for path in [command.path(), command.path().replace('/', ""), command.path().to_uppercase()] {
            let url = tftp_url(&servers, &path);
            succeeded(&curl(&[options, &["-o", text(&out), &url]].concat()).await);
            assert_same(&std::fs::read(&out).unwrap(), &image);
        }
        assert!(servers.is_complete(&command).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_fetches_more_blocks_than_there_are_numbers() {
    let servers = Servers::start();
    let image = bytes(8 * 65_536 + 8 * 100 + 3);
    let content = servers.content(&image).await;
    let command = servers.order_download("uid-1", &content);
    let out = out(&servers);
    let url = tftp_url(&servers, &command.path());
    succeeded(&curl(&["--tftp-blksize", "8", "-o", text(&out), &url]).await);
    assert_same(&std::fs::read(&out).unwrap(), &image);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_transfers_come_from_one_port_where_that_is_wanted() {
    let servers = Servers::start_with(|config| config.tftp_ports = fettle_bridge::files::TftpPorts::Single);
    let image = bytes(60_000);
    let content = servers.content(&image).await;
    let (out, log) = (out(&servers), servers.dir.path().join("log"));
    std::fs::write(&log, &image).unwrap();
    for blocks in ["512", "1400", "8192"] {
        let download = servers.order_download("uid-1", &content);
        succeeded(&curl(&["--tftp-blksize", blocks, "-o", text(&out), &tftp_url(&servers, &download.path())]).await);
        assert_same(&std::fs::read(&out).unwrap(), &image);
        let upload = servers.order_upload("uid-1", "sw-1");
        succeeded(&curl(&["--tftp-blksize", blocks, "-T", text(&log), &tftp_url(&servers, &upload.path())]).await);
        assert!(servers.is_complete(&upload).await);
    }
    succeeded(
        &tftp_hpa(&servers, "octet", &["get", &servers.order_download("uid-1", &content).path(), text(&out)]).await,
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn tftp_hpa_fetches_and_brings_in_binary_mode() {
    let servers = Servers::start();
    let image = bytes(100_000);
    let content = servers.content(&image).await;
    let download = servers.order_download("uid-1", &content);
    let (out, log) = (out(&servers), servers.dir.path().join("log"));
    succeeded(&tftp_hpa(&servers, "octet", &["get", &download.path(), text(&out)]).await);
    assert_same(&std::fs::read(&out).unwrap(), &image);
    assert!(servers.is_complete(&download).await);

    std::fs::write(&log, &image[..40_000]).unwrap();
    let upload = servers.order_upload("uid-1", "sw-1");
    succeeded(&tftp_hpa(&servers, "octet", &["put", text(&log), &upload.path()]).await);
    assert!(servers.is_complete(&upload).await);
    assert_same(&std::fs::read(&servers.stored_logs("sw-1")[0]).unwrap(), &image[..40_000]);
}

#[tokio::test(flavor = "multi_thread")]
async fn tftp_hpa_is_told_to_use_binary_mode_and_of_what_is_not_there() {
    let servers = Servers::start();
    let content = servers.content(b"image").await;
    let command = servers.order_download("uid-1", &content);
    let out = out(&servers);
    let netascii = tftp_hpa(&servers, "netascii", &["get", &command.path(), text(&out)]).await;
    assert!(told(&netascii).contains("use octet (binary) mode"), "{}", told(&netascii));
    let missing = tftp_hpa(&servers, "octet", &["get", "pxelinux.0", text(&out)]).await;
    assert!(told(&missing).contains("Error code 1"), "{}", told(&missing));
}

/// atftp, with options of TFTP as it takes them, such as `blksize 1428`.
async fn atftp(address: SocketAddr, options: &[&str], command: &[&str]) -> Output {
    let (ip, port) = (address.ip().to_string(), address.port().to_string());
    let options: Vec<&str> = options.iter().flat_map(|option| ["--option", *option]).collect();
    run("atftp", &[&["--tftp-timeout", "1"], &options[..], command, &[&ip, &port]].concat()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn atftp_fetches_and_brings_with_and_without_options() {
    let servers = Servers::start();
    let image = bytes(300_007);
    let content = servers.content(&image).await;
    let (out, log) = (out(&servers), servers.dir.path().join("log"));
    std::fs::write(&log, &image[..40_000]).unwrap();
    for options in [
        &[][..],
        &["blksize 1428", "tsize 0"],
        &["blksize 8192", "timeout 3"],
        &["windowsize 8"],
        &["blksize 1428", "windowsize 64", "tsize 0"],
        &["blksize 65464", "windowsize 16"],
    ] {
        let download = servers.order_download("uid-1", &content);
        let get = ["--get", "-r", &download.path(), "-l", text(&out)];
        succeeded(&atftp(servers.tftp(), options, &get).await);
        assert_same(&std::fs::read(&out).unwrap(), &image);
        assert!(servers.is_complete(&download).await, "{options:?}");
        let upload = servers.order_upload("uid-1", "sw-1");
        let put = ["--put", "-r", &upload.path(), "-l", text(&log)];
        succeeded(&atftp(servers.tftp(), options, &put).await);
        assert!(servers.is_complete(&upload).await, "{options:?}");
    }
    for log in servers.stored_logs("sw-1") {
        assert_same(&std::fs::read(&log).unwrap(), &image[..40_000]);
    }
    let missing = atftp(servers.tftp(), &[], &["--get", "-r", "pxelinux.0", "-l", text(&out)]).await;
    assert!(told(&missing).contains("file not found"), "{}", told(&missing));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_client_gets_its_file_over_a_network_that_loses_doubles_and_reorders() {
    let servers = Servers::start();
    let image = bytes(20_001);
    let content = servers.content(&image).await;
    // With options curl asks for five seconds before anything is sent again, which it gets.
    let clients = ["curl", "tftp-hpa", "atftp", "atftp blksize 1428", "atftp windowsize 8"];
    let fetching = clients.map(async |client: &str| {
        let network = Network::new(servers.tftp(), does_it_all()).await;
        let command = servers.order_download(client, &content);
        let out = servers.dir.path().join(client);
        let url = format!("tftp://{}/{}", network.address, command.path());
        let output = match client {
            "curl" => curl(&["--tftp-no-options", "-o", text(&out), &url]).await,
            "tftp-hpa" => tftp_hpa_at(network.address, "octet", &["get", &command.path(), text(&out)]).await,
            options => {
                let options: Vec<&str> = options.strip_prefix("atftp ").into_iter().collect();
                atftp(network.address, &options, &["--get", "-r", &command.path(), "-l", text(&out)]).await
            }
        };
        succeeded(&output);
        let fetched = std::fs::read(&out).unwrap_or_else(|error| panic!("{client}: {error}\n{}", told(&output)));
        assert_same(&fetched, &image);
        assert!(servers.is_complete(&command).await, "{client}");
    });
    join_all(fetching).await;
}
