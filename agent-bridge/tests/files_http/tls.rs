//! HTTPS.

use std::time::Duration;

use crate::client::Client;
use crate::files_support::certificates::certificates;
use crate::files_support::{Servers, assert_same, bytes};
use crate::foreign::{curl, succeeded, text};

#[tokio::test(flavor = "multi_thread")]
async fn curl_fetches_and_brings_over_tls_and_believes_no_other_authority() {
    let folder = tempfile::tempdir().unwrap();
    let files = certificates(folder.path());
    let servers = Servers::start_with(|config| config.http_tls = Some(files));
    let image = bytes(3_000_000);
    let content = servers.content(&image).await;
    let (fetch, bring) = (servers.order_download("uid-1", &content), servers.order_upload("uid-1", "sw-1"));
    let out = servers.dir.path().join("out");
    let (authority, port) = (folder.path().join("ca.crt"), servers.http().port());
    let trusting = ["--cacert", text(&authority), "--fail"];
    for host in ["127.0.0.1", "files.example.net"] {
        let url = format!("https://{host}:{port}/{}", fetch.path());
        let resolved = format!("files.example.net:{port}:127.0.0.1");
        let options = [&trusting[..], &["--resolve", &resolved, "-C", "-", "-o", text(&out), &url]].concat();
        std::fs::write(&out, &image[..1_000_000]).unwrap();
        succeeded(&curl(&options).await);
        assert_same(&std::fs::read(&out).unwrap(), &image);
    }
    let url = format!("https://127.0.0.1:{port}/{}", fetch.path());
    succeeded(&curl(&[&trusting[..], &["--tls-max", "1.2", "-r", "0-999999", "-o", text(&out), &url]].concat()).await);
    assert!(servers.is_complete(&fetch).await);
    let bring_url = format!("https://127.0.0.1:{port}/{}", bring.path());
    std::fs::write(&out, "log").unwrap();
    succeeded(&curl(&[&trusting[..], &["-T", text(&out), &bring_url]].concat()).await);
    assert_eq!(servers.stored_logs("sw-1").len(), 1);

    let distrusting = curl(&["--fail", &url]).await;
    assert_eq!(distrusting.status.code(), Some(60), "{distrusting:?}");
}

#[tokio::test]
async fn who_does_not_speak_tls_is_told_nothing_and_who_does_not_speak_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let files = certificates(folder.path());
    let servers = Servers::start_with(|config| {
        config.http_tls = Some(files);
        config.deadlines.head = Duration::from_millis(100);
    });
    let content = servers.content(b"image").await;
    let mut plain = Client::connect(&servers).await;
    plain.send(format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", servers.order_download("uid-1", &content).path())).await;
    let answer = plain.rest().await;
    assert!(!answer.starts_with(b"HTTP"), "{}", String::from_utf8_lossy(&answer));
    Client::connect(&servers).await.expect_closed().await;
}
