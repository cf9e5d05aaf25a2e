//! Other people's clients: curl, and Python's http.client and urllib.

use std::path::Path;
use std::process::Output;

use crate::files_support::{Command, PATIENCE, Servers, UPLOAD_SIZE, assert_same, bytes};

/// Runs a program to its end. It must be installed.
async fn run(program: &str, args: &[&str]) -> Output {
    let child =
        tokio::process::Command::new(program).args(args).kill_on_drop(true).stdin(std::process::Stdio::null()).output();
    match tokio::time::timeout(PATIENCE, child).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => panic!("{program} cannot be run ({error}): apt-get install {program}"),
        Err(_) => panic!("{program} {args:?} did not end"),
    }
}

pub(crate) fn succeeded(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{}\n{out}\n{err}", output.status);
    out
}

pub(crate) async fn curl(args: &[&str]) -> Output {
    // No configuration of the user's, no proxy of the environment's.
    let args = [&["--disable", "--noproxy", "*", "--silent", "--show-error", "--max-time", "50"], args].concat();
    run("curl", &args).await
}

pub(crate) async fn python(script: &str, args: &[&str]) -> Output {
    run("python3", &[&["-c", script], args].concat()).await
}

fn url(servers: &Servers, command: &Command) -> String {
    format!("http://{}/{}", servers.http(), command.path())
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_fetches_files_of_all_sizes_in_both_versions() {
    let servers = Servers::start();
    let out = servers.dir.path().join("out");
    for size in [0, 1, 65_536, 1_000_003, 5_000_000] {
        let image = bytes(size);
        let content = servers.content(&image).await;
        for version in ["--http1.1", "--http1.0"] {
            let command = servers.order_download("uid-1", &content);
            let _ = std::fs::remove_file(&out);
            succeeded(&curl(&["--fail", version, "-o", text(&out), &url(&servers, &command)]).await);
            assert_same(&std::fs::read(&out).unwrap_or_default(), &image);
            assert!(servers.is_complete(&command).await);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_fetches_a_range_and_then_the_rest() {
    let servers = Servers::start();
    let image = bytes(300_000);
    let content = servers.content(&image).await;
    let command = servers.order_download("uid-1", &content);
    let out = servers.dir.path().join("out");
    let url = url(&servers, &command);
    succeeded(&curl(&["--fail", "-r", "0-123455", "-o", text(&out), &url]).await);
    assert_same(&std::fs::read(&out).unwrap(), &image[..123_456]);
    assert!(servers.stays_incomplete(&command).await);
    succeeded(&curl(&["--fail", "-C", "-", "-o", text(&out), &url]).await);
    assert_same(&std::fs::read(&out).unwrap(), &image);
    assert!(servers.is_complete(&command).await);
    assert_eq!(servers.metric("fettle_bridge_transfer_bytes_total", &["download", "http"]), 300_000.0);
    // There is nothing left to take up, which curl knows to be a success.
    succeeded(&curl(&["-C", "-", "-o", text(&out), &url]).await);
    assert_same(&std::fs::read(&out).unwrap(), &image);
    let head = succeeded(&curl(&["-I", &url]).await);
    assert!(head.contains("content-length: 300000") && head.contains("accept-ranges: bytes"), "{head}");
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_brings_a_log_whose_length_it_knows_and_one_whose_length_it_does_not() {
    let servers = Servers::start();
    let log = servers.dir.path().join("log");
    std::fs::write(&log, bytes(UPLOAD_SIZE as usize)).unwrap();
    for (device, options) in [
        ("sw-1", &[][..]),
        ("sw-2", &["-H", "Transfer-Encoding: chunked"]),
        ("sw-3", &["-H", "Expect: 100-continue"]),
        ("sw-4", &["--http1.0"]),
    ] {
        let command = servers.order_upload(device, device);
        let url = url(&servers, &command);
        succeeded(&curl(&[options, &["--fail", "-T", text(&log), &url]].concat()).await);
        let stored = servers.stored_logs(device);
        assert_same(&std::fs::read(&stored[0]).unwrap(), &bytes(UPLOAD_SIZE as usize));
        std::fs::remove_file(&stored[0]).unwrap();
        // Once.
        let again = curl(&["--fail", "-T", text(&log), &url]).await;
        assert_eq!(again.status.code(), Some(22), "{again:?}");
    }
}

/// A device that is strict about what HTTP says. Its arguments: host, port, path, folder.
const PYTHON: &str = r#"
import http.client, sys, urllib.request, urllib.error
host, port, fetch, bring, gone, image = sys.argv[1:7]
image = open(image, "rb").read()
connection = http.client.HTTPConnection(host, int(port), timeout=30)

connection.request("GET", fetch, headers={"Range": "bytes=0-9"})
first = connection.getresponse()
assert first.status == 206 and first.getheader("Content-Range") == "bytes 0-9/%d" % len(image), first.headers
content, tag = first.read(), first.getheader("ETag")
connection.request("GET", fetch, headers={"Range": "bytes=10-", "If-Range": tag})
rest = connection.getresponse()
assert rest.status == 206
content += rest.read()
assert content == image
connection.request("GET", fetch, headers={"Range": "bytes=%d-" % len(image)})
beyond = connection.getresponse()
assert beyond.status == 416, beyond.status
beyond.read()

connection.request("PUT", bring, body=b"x" * 1000)
stored = connection.getresponse()
assert stored.status == 201 and stored.read() == b"", stored.status

# Says all that it has to say before it listens: it gets its answer nevertheless.
connection.request("PUT", bring, body=b"x" * 5000000)
refused = connection.getresponse()
assert refused.status == 404, refused.status

whole = urllib.request.urlopen("http://%s:%s%s" % (host, port, fetch), timeout=30)
assert whole.read() == image
try:
    urllib.request.urlopen("http://%s:%s%s" % (host, port, gone), timeout=30)
    raise AssertionError("served after its time")
except urllib.error.HTTPError as error:
    assert error.code == 404, error
"#;

#[tokio::test(flavor = "multi_thread")]
async fn pythons_clients_fetch_resume_and_bring() {
    let servers = Servers::start();
    let image = bytes(3_000_000);
    let content = servers.content(&image).await;
    let (fetch, bring) = (servers.order_download("uid-1", &content), servers.order_upload("uid-1", "sw-1"));
    let gone = servers.order_download_until("uid-1", &content, jiff::Timestamp::UNIX_EPOCH);
    let file = servers.dir.path().join("image");
    std::fs::write(&file, &image).unwrap();
    let [fetch_path, bring_path, gone_path] = [&fetch, &bring, &gone].map(|command| format!("/{}", command.path()));
    let (host, port) = (servers.http().ip().to_string(), servers.http().port().to_string());
    let output = python(PYTHON, &[&host, &port, &fetch_path, &bring_path, &gone_path, text(&file)]).await;
    succeeded(&output);
    assert!(servers.is_complete(&fetch).await);
    assert_eq!(std::fs::read(&servers.stored_logs("sw-1")[0]).unwrap(), b"x".repeat(1000));
}

/// Two hundred at once, each a few bytes at a time: all get what the file is.
#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_devices_fetch_at_the_same_time() {
    let servers = Servers::start();
    let image = bytes(3_000_000);
    let content = servers.content(&image).await;
    let devices: Vec<String> = (0..200).map(|device| format!("uid-{device}")).collect();
    let commands: Vec<_> = devices.iter().map(|uid| servers.order_download(uid, &content)).collect();
    let mut clients = tokio::task::JoinSet::new();
    for command in &commands {
        let request = format!("GET /{} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", command.path());
        let address = servers.http();
        clients.spawn(async move {
            let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
            tokio::io::AsyncWriteExt::write_all(&mut stream, request.as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut answer).await.unwrap();
            answer
        });
    }
    while let Some(answer) = clients.join_next().await {
        let answer = answer.unwrap();
        assert!(answer.ends_with(&image), "{} bytes", answer.len());
    }
    for command in &commands {
        assert!(servers.is_complete(command).await);
    }
}
