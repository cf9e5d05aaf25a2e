//! Logs.

use std::time::Duration;

use crate::client::{Answer, Client};
use crate::files_support::{Command, Servers, UPLOAD_SIZE, bytes};

async fn put(client: &mut Client, command: &Command, fields: &str, body: &[u8]) -> Answer {
    let head = format!("PUT /{} HTTP/1.1\r\nHost: x\r\n{fields}\r\n", command.path());
    client.send([head.as_bytes(), body].concat()).await;
    client.answer("PUT").await
}

fn length(body: &[u8]) -> String {
    format!("Content-Length: {}\r\n", body.len())
}

#[tokio::test]
async fn a_log_is_brought_once() {
    let servers = Servers::start();
    let log = bytes(50_000);
    let command = servers.order_upload("uid-1", "sw-1");
    let mut client = Client::connect(&servers).await;
    assert_eq!(put(&mut client, &command, &length(&log), &log).await.status, 201);
    assert!(servers.is_complete(&command).await);
    let [stored] = &servers.stored_logs("sw-1")[..] else { panic!("{:?}", servers.stored_logs("sw-1")) };
    assert_eq!(std::fs::read(stored).unwrap(), log);
    assert_eq!(put(&mut client, &command, &length(&log), &log).await.status, 404);
    assert_eq!(servers.stored_logs("sw-1").len(), 1);
}

#[tokio::test]
async fn a_log_may_come_in_chunks_and_be_empty() {
    let servers = Servers::start();
    let mut client = Client::connect(&servers).await;
    for (device, body, expected) in
        [("sw-1", "3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n", "abcde"), ("sw-2", "0\r\n\r\n", "")]
    {
        let command = servers.order_upload(device, device);
        let answer = put(&mut client, &command, "Transfer-Encoding: chunked\r\n", body.as_bytes()).await;
        assert_eq!(answer.status, 201);
        assert_eq!(std::fs::read_to_string(&servers.stored_logs(device)[0]).unwrap(), expected);
    }
}

#[tokio::test]
async fn who_asks_before_it_sends_is_answered_before_it_sends() {
    let servers = Servers::start();
    let command = servers.order_upload("uid-1", "sw-1");
    let mut client = Client::connect(&servers).await;
    let fields = format!("Expect: 100-continue\r\nContent-Length: {}\r\n", UPLOAD_SIZE + 1);
    assert_eq!(put(&mut client, &command, &fields, b"").await.status, 413);
    let mut client = Client::connect(&servers).await;
    assert_eq!(put(&mut client, &command, "Expect: 100-continue\r\nContent-Length: 3\r\n", b"").await.status, 100);
    client.send("log").await;
    assert_eq!(client.answer("PUT").await.status, 201);
}

#[tokio::test]
async fn a_log_that_is_too_long_is_refused_whether_it_says_so_or_not() {
    let servers = Servers::start();
    let log = bytes(UPLOAD_SIZE as usize + 1);
    let command = servers.order_upload("uid-1", "sw-1");
    let answer = put(&mut Client::connect(&servers).await, &command, &length(&log), &log).await;
    assert_eq!(answer.status, 413);
    let chunk = [format!("{:x}\r\n", log.len()).as_bytes(), &log, b"\r\n0\r\n\r\n"].concat();
    let answer = put(&mut Client::connect(&servers).await, &command, "Transfer-Encoding: chunked\r\n", &chunk).await;
    assert_eq!(answer.status, 413);
    assert!(servers.stored_logs("sw-1").is_empty());
    assert!(servers.stays_incomplete(&command).await);
    assert_eq!(servers.metric("fettle_bridge_transfers_total", &["upload", "http", "too_large"]), 2.0);
}

#[tokio::test]
async fn a_log_for_which_there_is_no_room_is_refused() {
    let servers = Servers::start_with_logs(|_| {}, 40 * 1024, 64 * 1024);
    let command = servers.order_upload("uid-1", "sw-1");
    let log = bytes(50 * 1024);
    let answer = put(&mut Client::connect(&servers).await, &command, &length(&log), &log).await;
    assert_eq!(answer.status, 507);
    assert!(servers.stored_logs("sw-1").is_empty());
}

#[tokio::test]
async fn a_log_that_breaks_off_leaves_nothing_and_may_be_brought_again() {
    let servers = Servers::start();
    let command = servers.order_upload("uid-1", "sw-1");
    let mut client = Client::connect(&servers).await;
    client.send(format!("PUT /{} HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf", command.path())).await;
    drop(client);
    servers.ended("upload", "http", "aborted").await;
    assert!(servers.stored_logs("sw-1").is_empty());
    let answer = put(&mut Client::connect(&servers).await, &command, &length(b"whole"), b"whole").await;
    assert_eq!(answer.status, 201);
}

#[tokio::test]
async fn a_log_that_does_not_go_on_is_given_up() {
    let servers = Servers::start_with(|config| config.deadlines.stall = Duration::from_millis(100));
    let command = servers.order_upload("uid-1", "sw-1");
    let mut client = Client::connect(&servers).await;
    let answer = put(&mut client, &command, "Content-Length: 10\r\n", b"half").await;
    assert_eq!(answer.status, 408);
    client.expect_closed().await;
    servers.ended("upload", "http", "timeout").await;
}

#[tokio::test]
async fn a_part_of_a_log_is_no_log() {
    let servers = Servers::start();
    let command = servers.order_upload("uid-1", "sw-1");
    let fields = "Content-Range: bytes 0-2/10\r\nContent-Length: 3\r\n";
    assert_eq!(put(&mut Client::connect(&servers).await, &command, fields, b"log").await.status, 400);
    assert!(servers.stored_logs("sw-1").is_empty());
}
