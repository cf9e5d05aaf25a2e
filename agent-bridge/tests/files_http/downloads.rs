//! Files, whole and in ranges.

use crate::client::Client;
use crate::files_support::{Command, Servers, assert_same, bytes};

fn path(command: &Command) -> String {
    format!("/{}", command.path())
}

#[tokio::test]
async fn a_file_is_fetched_and_the_connection_goes_on() {
    let servers = Servers::start();
    for size in [1, 100_000, 3_000_000] {
        let image = bytes(size);
        let content = servers.content(&image).await;
        let mut client = Client::connect(&servers).await;
        for _ in 0..2 {
            let command = servers.order_download("uid-1", &content);
            let answer = client.get(&path(&command)).await;
            assert_eq!(answer.status, 200);
            assert_same(&answer.body, &image);
            assert_eq!(answer.field("content-type"), Some("application/octet-stream"));
            assert_eq!(answer.field("accept-ranges"), Some("bytes"));
            assert_eq!(answer.field("cache-control"), Some("no-store"));
            assert!(servers.is_complete(&command).await);
        }
    }
    assert_eq!(servers.metric("fettle_bridge_transfers_total", &["download", "http", "complete"]), 6.0);
    assert_eq!(servers.metric("fettle_bridge_transfer_bytes_total", &["download", "http"]), 2.0 * 3_100_001.0);
    assert_eq!(servers.metric("fettle_bridge_transfers_active", &["download", "http"]), 0.0);
}

#[tokio::test]
async fn an_empty_file_is_fetched_too() {
    let servers = Servers::start();
    let content = servers.content(b"").await;
    let command = servers.order_download("uid-1", &content);
    let answer = Client::connect(&servers).await.get(&path(&command)).await;
    assert_eq!((answer.status, answer.field("content-length")), (200, Some("0")));
    assert!(servers.is_complete(&command).await);
}

#[tokio::test]
async fn a_file_counts_as_sent_when_all_its_bytes_were_and_not_with_its_last() {
    let servers = Servers::start();
    // Too large for memory: each range is read where it is.
    let image = bytes(3_000_000);
    let content = servers.content(&image).await;
    let command = servers.order_download("uid-1", &content);
    let mut client = Client::connect(&servers).await;
    for (range, part) in [("2000000-", 2_000_000..3_000_000), ("0-999999", 0..1_000_000)] {
        let answer = client.ask("GET", &path(&command), &format!("Range: bytes={range}\r\n")).await;
        assert_eq!(answer.status, 206);
        let which = format!("bytes {}-{}/3000000", part.start, part.end - 1);
        assert_eq!(answer.field("content-range"), Some(&*which));
        assert_same(&answer.body, &image[part]);
    }
    assert!(servers.stays_incomplete(&command).await);
    let tag = client.ask("HEAD", &path(&command), "").await.field("etag").unwrap().to_owned();
    let resumed = format!("Range: bytes=1000000-1999999\r\nIf-Range: {tag}\r\n");
    let answer = client.ask("GET", &path(&command), &resumed).await;
    assert_eq!((answer.status, answer.body.len()), (206, 1_000_000));
    assert!(servers.is_complete(&command).await);
}

#[tokio::test]
async fn a_range_of_another_file_is_answered_with_the_whole_of_this_one() {
    let servers = Servers::start();
    let content = servers.content(b"image").await;
    let command = servers.order_download("uid-1", &content);
    let mut client = Client::connect(&servers).await;
    let answer = client.ask("GET", &path(&command), "Range: bytes=2-\r\nIf-Range: \"other\"\r\n").await;
    assert_eq!((answer.status, &*answer.body), (200, &b"image"[..]));
    let answer = client.ask("GET", &path(&command), "If-Match: \"other\"\r\n").await;
    assert_eq!(answer.status, 412);
    let tag = client.ask("HEAD", &path(&command), "").await.field("etag").unwrap().to_owned();
    let answer = client.ask("GET", &path(&command), &format!("If-None-Match: {tag}\r\n")).await;
    assert_eq!((answer.status, answer.field("etag")), (304, Some(&*tag)));
    // And it is the same connection, which has not lost its place.
    assert_eq!(client.get(&path(&command)).await.body, b"image");
}

#[tokio::test]
async fn a_range_beyond_the_file_is_refused_with_its_size() {
    let servers = Servers::start();
    let content = servers.content(b"image").await;
    let command = servers.order_download("uid-1", &content);
    let mut client = Client::connect(&servers).await;
    let answer = client.ask("GET", &path(&command), "Range: bytes=5-\r\n").await;
    assert_eq!((answer.status, answer.field("content-range")), (416, Some("bytes */5")));
    assert!(servers.stays_incomplete(&command).await);
}

#[tokio::test]
async fn to_ask_what_a_file_is_does_not_fetch_it() {
    let servers = Servers::start();
    let content = servers.content(b"image").await;
    let command = servers.order_download("uid-1", &content);
    let mut client = Client::connect(&servers).await;
    let asked = client.ask("HEAD", &path(&command), "Range: bytes=2-\r\n").await;
    assert_eq!((asked.status, asked.field("content-length")), (200, Some("5")));
    assert!(servers.stays_incomplete(&command).await);
    let fetched = client.get(&path(&command)).await;
    assert_eq!(fetched.field("etag"), asked.field("etag"));
    assert!(servers.is_complete(&command).await);
}

#[tokio::test]
async fn a_file_that_its_device_did_not_take_to_the_end_was_not_sent() {
    let servers = Servers::start();
    let image = bytes(20_000_000);
    let content = servers.content(&image).await;
    let command = servers.order_download("uid-1", &content);
    let mut client = Client::connect(&servers).await;
    client.send(format!("GET {} HTTP/1.1\r\nHost: x\r\n\r\n", path(&command))).await;
    client.read(100_000).await;
    drop(client);
    servers.ended("download", "http", "aborted").await;
    assert!(servers.stays_incomplete(&command).await);
    let reached = servers.transfers.progress(&command.permission).unwrap().reached;
    assert!((90_000..20_000_000).contains(&reached), "{reached}");
}

#[tokio::test]
async fn an_old_client_is_served_and_its_connection_closed() {
    let servers = Servers::start();
    let content = servers.content(b"image").await;
    let command = servers.order_download("uid-1", &content);
    let mut client = Client::connect(&servers).await;
    client.send(format!("GET {} HTTP/1.0\r\n\r\n", path(&command))).await;
    assert_eq!(client.answer("GET").await.body, b"image");
    client.expect_closed().await;
}

#[tokio::test]
async fn a_replica_that_does_not_have_the_content_says_that_there_is_none() {
    let (servers, other) = (Servers::start(), Servers::start());
    let content = other.content(b"image").await;
    let command = servers.order_download("uid-1", &content);
    assert_eq!(Client::connect(&servers).await.get(&path(&command)).await.status, 404);
    assert_eq!(servers.metric("fettle_bridge_transfers_total", &["download", "http", "not_found"]), 1.0);
}
