//! What no device does, and what must come of it.

use std::net::Ipv4Addr;
use std::time::Duration;

use fettle_bridge::files::FileServerConfig;
use jiff::Timestamp;

use crate::client::Client;
use crate::files_support::{PATIENCE, Servers, bytes};

const SOON: Duration = Duration::from_millis(100);

#[tokio::test]
async fn nothing_but_what_a_device_was_told_to_fetch_is_there() {
    let servers = Servers::start();
    let content = servers.content(b"image").await;
    let command = servers.order_download("uid-1", &content);
    let (path, file) = (&command.minted.path, &command.minted.file);
    let other = Servers::start();
    let forged = other.order_download("uid-1", &content).path();
    let mut client = Client::connect(&servers).await;
    for target in [
        "/".to_owned(),
        "/index.html".to_owned(),
        format!("/{path}"),
        format!("/{path}/"),
        format!("/{path}/{}", "a".repeat(32)),
        format!("/{path}/../{path}/{file}"),
        format!("/{path}/%2e/{file}"),
        format!("/{path}%2f{file}"),
        format!("/{path}/{file}?"),
        format!("/{path}/{file}?x=y"),
        format!("/x/{path}/{file}"),
        format!("/{forged}"),
        "/../../../../etc/passwd".to_owned(),
        "/..%2f..%2fetc%2fpasswd".to_owned(),
        "/%00".to_owned(),
        "*".to_owned(),
        format!("http://x/{path}/../{file}"),
    ] {
        let answer = client.get(&target).await;
        assert_eq!((answer.status, &*answer.body), (404, &b"No such file.\n"[..]), "{target}");
    }
    // The same connection, and the forms that are the file.
    for target in [format!("/{path}{file}"), format!("http://anything/{path}/{file}"), format!("//{path}//{file}")] {
        assert_eq!(client.get(&target).await.status, 200, "{target}");
    }
}

#[tokio::test]
async fn a_permission_is_for_one_operation_and_for_a_while() {
    let servers = Servers::start();
    let content = servers.content(b"image").await;
    let expired = servers.order_download_until("uid-1", &content, Timestamp::now() - Duration::from_secs(2));
    let (download, upload) = (servers.order_download("uid-1", &content), servers.order_upload("uid-1", "sw-1"));
    let mut client = Client::connect(&servers).await;
    assert_eq!(client.get(&format!("/{}", expired.path())).await.status, 404);
    assert_eq!(client.get(&format!("/{}", upload.path())).await.status, 404);
    assert_eq!(client.ask("HEAD", &format!("/{}", upload.path()), "").await.status, 404);
    let put = client.ask("PUT", &format!("/{}", download.path()), "Content-Length: 0\r\n").await;
    assert_eq!(put.status, 404);
    assert_eq!(servers.metric("fettle_bridge_transfers_total", &["download", "http", "refused"]), 3.0);
    assert_eq!(servers.metric("fettle_bridge_transfers_total", &["upload", "http", "refused"]), 1.0);
}

#[tokio::test]
async fn other_methods_are_not_there() {
    let servers = Servers::start();
    let content = servers.content(b"image").await;
    let path = format!("/{}", servers.order_download("uid-1", &content).path());
    for method in ["POST", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "PATCH"] {
        let answer = Client::connect(&servers).await.ask(method, &path, "").await;
        assert_eq!((answer.status, answer.field("allow")), (405, Some("GET, HEAD, PUT")), "{method}");
    }
    let mut client = Client::connect(&servers).await;
    client.send("CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(client.answer("CONNECT").await.status, 405);
}

#[tokio::test]
async fn a_head_that_comes_too_slowly_is_not_waited_for() {
    let servers = Servers::start_with(|config| config.deadlines.head = Duration::from_millis(300));
    let mut client = Client::connect(&servers).await;
    let trickle = async {
        let mut head = b"GET /".iter().chain(std::iter::repeat(&b'a'));
        while let Some(byte) = head.next()
            && client.try_send(&[*byte]).await.is_ok()
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, trickle).await.expect("the server waits for ever");
    // Who says nothing, from the beginning or after a request, is left as well.
    Client::connect(&servers).await.expect_closed().await;
    let mut client = Client::connect(&servers).await;
    assert_eq!(client.get("/").await.status, 404);
    client.expect_closed().await;
}

#[tokio::test]
async fn a_head_has_a_length() {
    let servers = Servers::start();
    for (head, status) in [
        (format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(1_000_000)), ["HTTP/1.1 414", "HTTP/1.1 431"]),
        (format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "a".repeat(1_000_000)), ["HTTP/1.1 431"; 2]),
        (format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(1_000)), ["HTTP/1.1 431"; 2]),
    ] {
        let mut client = Client::connect(&servers).await;
        // It may be closed before all has been said.
        let _ = client.try_send(head.as_bytes()).await;
        let answer = client.rest().await;
        let said = answer.is_empty() || status.iter().any(|status| answer.starts_with(status.as_bytes()));
        assert!(said, "{}", String::from_utf8_lossy(&answer));
    }
}

#[tokio::test]
async fn a_request_that_can_be_read_in_two_ways_is_not_read_at_all() {
    let servers = Servers::start();
    let content = servers.content(b"image").await;
    let path = servers.order_download("uid-1", &content).path();
    let smuggled = format!("GET /{path} HTTP/1.1\r\nHost: x\r\n\r\n");
    for head in [
        "PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nContent-Length: 5\r\n\r\n",
        "PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: +5\r\n\r\n",
        "PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 5, 6\r\n\r\n",
        "PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, identity\r\n\r\n",
        "PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding : chunked\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nX: a\r\n b\r\n\r\n",
        "GET / HTTP/1.1\nHost: x\r\n: y\r\n\r\n",
        "GET /\0 HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET / HTTP/2.0\r\nHost: x\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0",
    ] {
        let mut client = Client::connect(&servers).await;
        client.send(format!("{head}{smuggled}")).await;
        let answer = client.rest().await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{head:?}: {answer}");
        assert!(!answer.contains("image"), "{head:?}: {answer}");
    }
    // A body that nobody wanted is not a request: the connection ends with the answer to what it belongs to.
    for fields in
        ["Content-Length: 500", "Transfer-Encoding: chunked", "Content-Length: 4\r\nTransfer-Encoding: chunked"]
    {
        let mut client = Client::connect(&servers).await;
        let body = format!("{:x}\r\n{smuggled}\r\n", smuggled.len());
        client.send(format!("PUT / HTTP/1.1\r\nHost: x\r\n{fields}\r\n\r\n{body}")).await;
        let answer = client.rest().await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.1 404"), "{fields}: {answer}");
        assert!(!answer.contains("image"), "{fields}: {answer}");
    }
}

#[tokio::test]
async fn a_device_has_a_few_transfers_at_a_time_and_an_address_a_few_connections() {
    let servers = Servers::start_with(|config| {
        config.limits.per_device = 1;
        config.limits.http_connections_per_address = 2;
    });
    let content = servers.content(&bytes(20_000_000)).await;
    let (ours, others) = (servers.order_download("uid-1", &content), servers.order_download("uid-2", &content));
    let local = Ipv4Addr::new(127, 0, 0, 2);
    let mut first = Client::connect_from(&servers, local).await;
    first.send(format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", ours.path())).await;
    first.read(1_000).await;
    let mut second = Client::connect_from(&servers, local).await;
    let answer = second.get(&format!("/{}", ours.path())).await;
    assert_eq!((answer.status, answer.field("retry-after")), (503, Some("5")));
    // Others have their own place.
    assert_eq!(second.ask("HEAD", &format!("/{}", others.path()), "").await.status, 200);
    Client::connect_from(&servers, local).await.expect_closed().await;
    // And the place comes back.
    drop(first);
    servers.ended("download", "http", "aborted").await;
    assert_eq!(second.get(&format!("/{}", ours.path())).await.status, 200);
}

#[tokio::test]
async fn who_takes_nothing_any_more_is_left() {
    let servers = Servers::start_with(|config| config.deadlines.stall = SOON);
    let content = servers.content(&bytes(20_000_000)).await;
    let command = servers.order_download("uid-1", &content);
    let mut client = Client::connect(&servers).await;
    client.send(format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", command.path())).await;
    client.read(1_000).await;
    servers.ended("download", "http", "timeout").await;
    assert!(client.rest().await.len() < 20_000_000);
    assert!(servers.stays_incomplete(&command).await);
}

#[tokio::test]
async fn a_transfer_ends_with_its_permission() {
    let servers = Servers::start();
    let content = servers.content(&bytes(20_000_000)).await;
    let command = servers.order_download_until("uid-1", &content, Timestamp::now() + Duration::from_secs(1));
    let mut client = Client::connect(&servers).await;
    client.send(format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", command.path())).await;
    client.read(1_000).await;
    servers.ended("download", "http", "timeout").await;
    assert!(client.rest().await.len() < 20_000_000);
}

#[tokio::test]
async fn the_server_ends_when_it_is_told_to_whatever_is_under_way() {
    let servers = Servers::start_with(|_: &mut FileServerConfig| {});
    let content = servers.content(&bytes(20_000_000)).await;
    let command = servers.order_download("uid-1", &content);
    let mut fetching = Client::connect(&servers).await;
    fetching.send(format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", command.path())).await;
    fetching.read(1_000).await;
    let _silent = Client::connect(&servers).await;
    servers.stop().await;
    assert_eq!(servers.metric("fettle_bridge_transfers_active", &["download", "http"]), 0.0);
}
